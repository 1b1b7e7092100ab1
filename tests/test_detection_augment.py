"""Boxes move with what they hold, and what is drawn for a picture is its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import write_shapes
from torch import Tensor

from wideresnet import data as data_room
from wideresnet.detection import augment, learning, read_boxes
from wideresnet.preprocess import Preprocess
from wideresnet.recipes import RECIPES

SIZE = 48
CPU = torch.device("cpu")


def painted(box: tuple[int, int, int, int]) -> Tensor:
    """uint8 [1, 3, SIZE, SIZE]: green, but for the box, which is red."""
    image = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    image[:, 1] = 200
    left, top, right, bottom = box
    image[:, 0, top:bottom, left:right] = 200
    return image


@given(
    st.integers(0, SIZE - 9),
    st.integers(0, SIZE - 9),
    st.integers(8, SIZE),
    st.integers(8, SIZE),
    st.integers(-20, 20),
    st.integers(-20, 20),
    st.integers(24, 80),
    st.integers(24, 80),
    st.booleans(),
)
def test_a_box_lies_where_its_pixels_do(
    left: int,
    top: int,
    box_width: int,
    box_height: int,
    x: int,
    y: int,
    width: int,
    height: int,
    mirrored: bool,
) -> None:
    box = (left, top, min(SIZE, left + box_width), min(SIZE, top + box_height))
    window = torch.tensor([[x, y, x + width, y + height]])
    fill = torch.tensor([0, 200, 0], dtype=torch.uint8)
    seen = augment.look(painted(box), window, torch.tensor([mirrored]), fill)
    ((moved,), (kept,)) = augment.through(torch.tensor([box], dtype=torch.float64), window[0], mirrored, SIZE)
    rows, columns = (seen[0, 0] >= 100).nonzero().unbind(1)
    if not len(rows):  # none of it, or less than half a pixel
        assert not kept or min((moved[2:] - moved[:2]).tolist()) <= 1.5
        return
    edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).double()
    assert (edges - moved).abs().max() <= 1.0
    assert (seen[0, 1] >= 199).all(), "outside is the fill"


@given(st.floats(0.1, 1), st.integers(0, 100), st.integers(0, 5))
def test_windows_are_of_the_areas_that_zoom_says(zoom: float, seed: int, epoch: int) -> None:
    drawn = augment.draw(50, zoom, seed=seed, epoch=epoch)
    area, ratio = drawn.sides.prod(1), drawn.sides[:, 0] / drawn.sides[:, 1]
    assert (area >= zoom * (1 - 1e-9)).all()
    assert (area <= (1 + 1e-9) / zoom).all()
    assert (ratio.log().abs() <= np.log(augment.RATIO) + 1e-9).all()
    assert zoom < 1 or (drawn.sides == 1).all()


@given(st.integers(0, 1000))
def test_a_window_smaller_than_the_picture_holds_the_middle_of_a_box(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(20, 3, 2, 2, generator=random, dtype=torch.float64).sort(2).values * SIZE
    boxes = [one.reshape(3, 4) for one in corners]
    drawn = augment.draw(20, 0.2, seed=seed, epoch=1)
    small = (drawn.sides < 1).all(1).nonzero().flatten()
    placed = augment.place(drawn, small, [boxes[row] for row in small.tolist()], SIZE)
    for row, window in zip(small.tolist(), placed, strict=True):
        middle = (boxes[row][:, :2] + boxes[row][:, 2:]) / 2
        assert ((middle >= window[:2] - 1e-6) & (middle <= window[2:] + 1e-6)).all(1).any()
        assert (window >= -1e-6).all()
        assert (window <= SIZE + 1e-6).all()


def test_the_window_of_the_whole_square_changes_no_pixel() -> None:
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    whole = torch.tensor([[0, 0, SIZE, SIZE]] * 3)
    fill = torch.tensor([7, 8, 9], dtype=torch.uint8)
    assert torch.equal(augment.look(images, whole, torch.tensor([False] * 3), fill), images)
    mirrored = augment.look(images, whole, torch.tensor([True] * 3), fill)
    assert torch.equal(mirrored, images.flip(3))


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> data_room.Pictures:
    root = write_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=1)
    return data_room.load(read_boxes(root), PREPROCESS).parts["train"]


PREPROCESS = Preprocess(size=64, mean=(0.45, 0.45, 0.45), std=(0.2, 0.2, 0.2), fit="pad")
RECIPE = replace(RECIPES["detect"], batch_size=4, erasing=0.5)


def by_row(batches: list[learning.Batch]) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    return {
        row: (batch.images[i], batch.targets[i]["boxes"], batch.targets[i]["labels"])
        for batch in batches
        for i, row in enumerate(batch.rows.tolist())
    }


def test_what_is_drawn_for_a_picture_is_its_own_whatever_batch_it_falls_into(train: data_room.Pictures) -> None:
    one, other = (
        by_row(list(learning.batches(train, PREPROCESS, replace(RECIPE, batch_size=size), 3, CPU)(2, 0)))
        for size in (4, 6)
    )
    assert one.keys() == other.keys()
    for row, parts in one.items():
        assert all(torch.equal(a, b) for a, b in zip(parts, other[row], strict=True))


def test_epochs_and_seeds_see_a_picture_differently_and_a_rest_of_an_epoch_is_its_own(
    train: data_room.Pictures,
) -> None:
    epoch = learning.batches(train, PREPROCESS, RECIPE, 3, CPU)
    first, second = by_row(list(epoch(1, 0))), by_row(list(epoch(2, 0)))
    assert not any(torch.equal(first[row][0], second[row][0]) for row in first)
    other = by_row(list(learning.batches(train, PREPROCESS, RECIPE, 4, CPU)(1, 0)))
    assert not any(torch.equal(first[row][0], other[row][0]) for row in first)
    whole, rest = list(epoch(1, 0)), list(epoch(1, 2))
    assert len(rest) == len(whole) - 2
    assert torch.equal(whole[2].images, rest[0].images)


def test_without_changes_a_batch_is_what_is_predicted_from(train: data_room.Pictures) -> None:
    plain = replace(RECIPE, zoom=1.0, jitter=(), flip=False, erasing=0.0)
    seen = by_row(list(learning.batches(train, PREPROCESS, plain, 0, CPU)(1, 0)))
    expected = PREPROCESS.normalise(train.images[torch.arange(len(train))])
    for row, (image, boxes, labels) in seen.items():
        assert torch.equal(image, expected[row])
        own = train.boxes[row]
        placed = PREPROCESS.placement(own.height, own.width).of_boxes(torch.from_numpy(own.boxes))
        assert torch.allclose(boxes.double(), placed, atol=1e-4)
        assert labels.tolist() == own.labels.tolist()


def test_crowds_are_not_trained_on(train: data_room.Pictures) -> None:
    own = train.boxes[0]
    crowd = replace(own, crowd=np.ones(len(own), dtype=np.bool_))
    boxes, labels = learning.seen(crowd, PREPROCESS)
    assert (len(boxes), len(labels)) == (0, 0)


def test_a_batch_is_cut_as_the_loop_cuts_it(train: data_room.Pictures) -> None:
    batch = next(learning.batches(train, PREPROCESS, RECIPE, 0, CPU)(1, 0))
    part = batch[1:3]
    assert len(part) == 2
    assert torch.equal(part.images, batch.images[1:3])
    assert part.rows.tolist() == batch.rows[1:3].tolist()
    assert torch.equal(part.targets[0]["boxes"], batch.targets[1]["boxes"])
