"""Augmentation equals its reference, and what is drawn for an image depends on nothing but seed, epoch and image."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms import (
    ColorJitter,
    InterpolationMode,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugmentWide,
    autoaugment,
    v2,
)
from torchvision.transforms import functional as T

from wideresnet import augment
from wideresnet.augment import boxes, colours, crops, mixing, policies
from wideresnet.recipes import RECIPES, Recipe, change

OPERATIONS = list(policies.OPERATIONS)
PLAIN = change(RECIPES["fast"], {"flip": False, "crop_padding": 0})
CHANGES: list[dict[str, Any]] = [  # every augmentation, alone
    {"flip": True},
    {"crop_padding": 2},
    {"zoom": 0.3},
    {"policy": "trivial"},
    {"policy": "rand"},
    {"jitter": (0.4, 0.4, 0.4, 0.2)},
    {"cutout": 4},
    {"erasing": 0.9},
]


def pictures(num: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth and noisy ones, from dark to bright: an operation on bytes meets all of them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(num, channels, height, width, generator=generator)
    low, span = torch.rand(2, num, channels, 1, 1, generator=generator)
    images: torch.Tensor = (low + span * noise) * 255
    return images.clamp(0, 255).to(torch.uint8)


def draws(num: int, changes: dict[str, Any], size: int = 8, epoch: int = 1, seed: int = 0) -> augment.Draws:
    return augment.draw(change(PLAIN, changes), num, (size, size), seed=seed, epoch=epoch)


@settings(max_examples=40)
@given(
    st.integers(5, 12), st.integers(5, 12), st.integers(0, 4), st.booleans(), st.sampled_from([1, 3]), st.integers(0)
)
def test_the_gather_equals_reflect_pad_crop_then_mirror(
    height: int, width: int, padding: int, flip: bool, channels: int, seed: int
) -> None:
    images = torch.randint(0, 256, (6, channels, height, width), dtype=torch.uint8)
    drawn = draws(6, {"flip": flip, "crop_padding": padding}, seed=seed)
    got = augment.apply(images, drawn, torch.arange(6))
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    for i in range(6):
        top, left = padding + int(drawn.down[i]), padding + int(drawn.right[i])
        expected = padded[i, :, top : top + height, left : left + width]
        assert torch.equal(got[i], expected.flip(2) if drawn.mirrored[i] else expected)


def test_every_shift_and_both_mirrorings_come_up_equally_often() -> None:
    drawn = draws(90_000, {"flip": True, "crop_padding": 4})
    for shifts in (drawn.down, drawn.right):
        counts = torch.bincount(shifts + 4, minlength=9)
        assert len(counts) == 9
        assert ((counts - 10_000).abs() < 500).all(), counts  # five standard deviations
    assert abs(int(drawn.mirrored.sum()) - 45_000) < 750


@given(st.integers(1, 50), st.integers(0, 100))
def test_two_epochs_show_each_image_from_both_sides(epoch: int, seed: int) -> None:
    one, next_one = (draws(64, {"flip": True}, epoch=e, seed=seed) for e in (epoch, epoch + 1))
    assert torch.equal(one.mirrored, ~next_one.mirrored)


def test_by_chance_an_image_is_mirrored_half_the_time_whatever_it_was_in_another_epoch() -> None:
    by_chance = {"flip": True, "flip_by": "chance"}
    one, two = (draws(40_000, by_chance, epoch=epoch).mirrored for epoch in (1, 2))
    counts = torch.bincount(2 * one + two, minlength=4)
    assert ((counts - 10_000).abs() < 450).all(), counts  # five standard deviations
    assert torch.equal(one, draws(40_000, by_chance, epoch=1).mirrored)
    assert not draws(100, {"flip": False, "flip_by": "chance"}).mirrored.any()


def test_with_nothing_on_an_image_stays_bit_for_bit() -> None:
    images = pictures(4, 8, 8)
    drawn, index = draws(4, {}), torch.arange(4)
    assert torch.equal(augment.apply(images, drawn, index), images)
    assert torch.equal(augment.erase(images, drawn, index), images)
    assert augment.describe(PLAIN) == "none"


def changed(images: torch.Tensor, drawn: augment.Draws, index: torch.Tensor) -> torch.Tensor:
    return augment.erase(augment.apply(images, drawn, index).float(), drawn, index)


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: next(iter(c)) + str(*c.values()))
def test_an_image_is_augmented_the_same_in_whatever_batch_it_comes_and_anew_in_each_epoch(
    changes: dict[str, Any],
) -> None:
    images, index = pictures(32, 8, 8), torch.arange(32)
    first = draws(32, changes, seed=3)
    alone = torch.cat([changed(images[i : i + 1], first, torch.tensor([i])) for i in range(32)])
    assert torch.equal(changed(images, first, index), alone)
    assert torch.equal(changed(images, draws(32, changes, seed=3), index), alone), "the same again"
    assert not torch.equal(images, alone), "it does nothing"
    assert not torch.equal(changed(images, draws(32, changes, seed=3, epoch=2), index), alone)
    assert augment.describe(change(PLAIN, changes)) != "none"


# Each operation of the policies against torchvision's own on the same numbers.


def theirs(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    done: torch.Tensor = autoaugment._apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
    return done


def ours(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    magnitudes = torch.tensor([[magnitude]], dtype=torch.float64)
    return policies.apply(image[None], torch.tensor([[OPERATIONS.index(name)]]), magnitudes)[0]


@given(st.integers(4, 70), st.integers(4, 70))
def test_a_policy_s_operations_and_magnitudes_are_torchvision_s(height: int, width: int) -> None:
    rand = RandAugment()
    tables = {
        "trivial": TrivialAugmentWide()._augmentation_space(31),
        "rand": rand._augmentation_space(rand.num_magnitude_bins, (height, width)),
    }
    for policy, table in tables.items():
        assert list(table) == OPERATIONS
        found = policies.magnitudes(policy, (height, width))
        for row, (magnitudes, _) in zip(found, table.values(), strict=True):
            assert row.tolist() == (magnitudes.double().tolist() if magnitudes.ndim else [0.0] * 31)
        signs = [signed for _, signed in table.values()]
        assert policies._SIGNED.tolist() == signs
    assert (rand.num_ops, rand.magnitude) == (policies._RAND_OPERATIONS, policies._RAND_STRENGTH)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=25)
@example(3, 6, 1, "trivial", 20, 1, 0)  # a quarter turn: places half-way both ways
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 3]),
    st.sampled_from(["trivial", "rand"]),
    st.integers(0, 30),
    st.sampled_from([1, -1]),
    st.integers(0, 9),
)
def test_an_operation_equals_torchvision_s(
    name: str, height: int, width: int, channels: int, policy: str, strength: int, sign: int, seed: int
) -> None:
    image = pictures(1, height, width, channels, seed)[0]
    magnitude = float(policies.magnitudes(policy, (height, width))[OPERATIONS.index(name), strength])
    magnitude *= sign if policies._SIGNED[OPERATIONS.index(name)] else 1
    got, expected = ours(image, name, magnitude), theirs(image, name, magnitude)
    if name not in {"ShearX", "ShearY", "Rotate"}:
        assert torch.equal(got, expected)
        return
    # A point half-way between two pixels (a slope of 0.1 has one in every fifth row; a quarter turn may have it both
    # ways, between four) goes to any of them: there torchvision follows the rounding of its own grid in float32.
    nearest, half_way = nearest_pixels(image, name, magnitude)
    assert torch.equal(got[:, ~half_way], expected[:, ~half_way])
    for answer in (got, expected):
        assert (answer == nearest).any(0).all()


def nearest_pixels(image: torch.Tensor, name: str, magnitude: float) -> tuple[torch.Tensor, torch.Tensor]:
    """By the definitions in float64, the pixel that each is taken from, black outside, [4, C, H, W]: four of them, the
    same but where its place is half-way to within 1e-4; and bool [H, W], whether it is."""
    height, width = image.shape[1:]
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    if name == "ShearX":
        columns = columns + magnitude * (rows + 0.5)
    elif name == "ShearY":
        rows = rows + magnitude * (columns + 0.5)
    else:
        y, x, turn = rows - (height - 1) / 2, columns - (width - 1) / 2, math.radians(magnitude)
        rows = math.sin(turn) * x + math.cos(turn) * y + (height - 1) / 2
        columns = math.cos(turn) * x - math.sin(turn) * y + (width - 1) / 2
    (up, down), (left, right) = (
        [torch.floor(place + 0.5 + by).long() for by in (-1e-4, 1e-4)] for place in (rows, columns)
    )
    found = []
    for row, column in ((up, left), (up, right), (down, left), (down, right)):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found.append(image[:, row.clamp(0, height - 1), column.clamp(0, width - 1)] * inside)
    return torch.stack(found), (up != down) | (left != right)


@pytest.mark.parametrize("size", [8, 16, 32, 48])
def test_every_picture_that_trivialaugment_can_make_is_torchvision_s_bit_for_bit(size: int) -> None:
    image = pictures(1, size, size)[0]
    table = policies.magnitudes("trivial", (size, size))
    for name, row in zip(OPERATIONS, table, strict=True):
        for magnitude in {sign * value for value in row.tolist() for sign in (1, -1)}:
            if policies._SIGNED[OPERATIONS.index(name)] or magnitude >= 0:
                assert torch.equal(ours(image, name, magnitude), theirs(image, name, magnitude)), (name, magnitude)


@pytest.mark.parametrize(("policy", "num"), [("trivial", 1), ("rand", 2)])
def test_a_policy_applies_to_each_image_what_was_drawn_for_it(policy: str, num: int) -> None:
    images = pictures(60, 16, 16)
    drawn = draws(60, {"policy": policy}, size=16)
    assert drawn.operations is not None
    assert drawn.magnitudes is not None
    assert drawn.operations.shape == (60, num)
    got = augment.apply(images, drawn, torch.arange(60))
    for image, operations, magnitudes, found in zip(images, drawn.operations, drawn.magnitudes, got, strict=True):
        expected = image
        for operation, magnitude in zip(operations.tolist(), magnitudes.tolist(), strict=True):
            expected = theirs(expected, OPERATIONS[operation], magnitude)
        assert torch.equal(found, expected)


def test_a_policy_draws_every_operation_strength_and_sign_equally_often() -> None:
    operations, magnitudes = policies.draw("trivial", 140_000, (32, 32), torch.Generator().manual_seed(0))
    assert ((torch.bincount(operations.flatten(), minlength=14) - 10_000).abs() < 500).all()
    rotations = magnitudes[operations == OPERATIONS.index("Rotate")]
    strengths, counts = (rotations / 4.5).round().long().unique(return_counts=True)
    assert strengths.tolist() == list(range(-30, 31))
    each = len(rotations) / 62
    assert all(abs(int(count) - each * (1 + (i == 30))) < 6 * math.sqrt(2 * each) for i, count in enumerate(counts))
    operations, magnitudes = policies.draw("rand", 1000, (32, 32), torch.Generator().manual_seed(0))
    assert magnitudes[operations == OPERATIONS.index("Rotate")].abs().unique().tolist() == [9.0]


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0))
def test_jitter_equals_torchvision_s_on_the_same_factors_and_order(
    height: int, width: int, channels: int, seed: int
) -> None:
    strengths = (0.4, 1.5, 0.7, 0.5)
    drawn = draws(8, {"jitter": strengths}, seed=seed)
    images = pictures(8, height, width, channels, seed % 1000)
    order, factors = drawn.jitter_order, drawn.jitter_factors
    assert order is not None
    assert factors is not None
    got = augment.apply(images, drawn, torch.arange(8))
    adjust = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
    for image, numbers, values, found in zip(images, order.tolist(), factors.tolist(), got, strict=True):
        assert sorted(numbers) == [0, 1, 2, 3]
        expected = image
        for number in numbers:
            expected = adjust[number](expected, values[number])
        assert torch.equal(found, expected)


def test_jitter_s_factors_lie_where_torchvision_s_do_and_one_of_strength_0_is_left_out() -> None:
    strengths = (0.4, 1.5, 0.0, 0.1)
    drawn = draws(20_000, {"jitter": strengths})
    reference = ColorJitter(*strengths)
    assert drawn.jitter_order is not None
    assert drawn.jitter_factors is not None
    assert (drawn.jitter_order == -1).sum(1).unique().tolist() == [1]
    assert not (drawn.jitter_order == 2).any()
    for number, limits in enumerate((reference.brightness, reference.contrast, None, reference.hue)):
        if limits is not None:
            values = drawn.jitter_factors[:, number]
            low, high = limits
            assert low <= float(values.min()) < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < float(values.max()) <= high
            assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.01 * (high - low))


# Crops of random size, cutout, erasing.


@settings(max_examples=30)
@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from([1, 3]), st.floats(0.05, 0.99), st.integers(0))
def test_a_zoom_equals_torchvision_s_resized_crop(
    height: int, width: int, channels: int, smallest: float, seed: int
) -> None:
    images = pictures(6, height, width, channels, seed % 1000)
    drawn = boxes.draw_zooms(6, smallest, (height, width), torch.Generator().manual_seed(seed % 2**63))
    mirrored = torch.arange(6) % 2 == 1
    got = crops.zoom(images, drawn, mirrored)
    for image, (top, left, box_height, box_width), mirror, found in zip(
        images, drawn.tolist(), mirrored, got, strict=True
    ):
        cut = image[:, top : top + box_height, left : left + box_width]
        assert cut.shape[1:] == (box_height, box_width), "a box inside the picture"
        # By interpolation without antialiasing in float64, which is torch's own definition; our float32 may round the
        # other way where that ends within 1e-4 of a half.
        exact = F.interpolate(cut[None].double(), (height, width), mode="bilinear", align_corners=False)[0]
        exact = exact.flip(2) if mirror else exact
        assert float((found - exact).abs().max()) <= 0.5 + 1e-4
        if width > 1 or height == 1:
            resized = T.resized_crop(image, top, left, box_height, box_width, [height, width])
            resized = resized.flip(2) if mirror else resized
            assert int((found.int() - resized.int()).abs().max()) <= 1  # torchvision's weights are rounded otherwise


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    """Means over many draws, to four standard errors: of areas, of the logarithm of the aspect, of places."""
    num, shape = 4000, (32, 32)
    image = torch.zeros(3, *shape)
    torch.manual_seed(0)
    zooms = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(num)]
    erasings = [RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(num)]
    generator = torch.Generator().manual_seed(0)
    for drawn, reference in (
        (boxes.draw_zooms(num, 0.2, shape, generator), zooms),
        (boxes.draw_erasings(num, 1.0, shape, generator), erasings),
    ):
        expected = torch.tensor(reference).double()
        for ours_, theirs_ in zip(_box_figures(drawn.double()), _box_figures(expected), strict=True):
            error = math.sqrt(float(ours_.var() + theirs_.var()) / num)
            assert abs(float(ours_.mean() - theirs_.mean())) < 4 * error + 1e-9


def _box_figures(drawn: torch.Tensor) -> list[torch.Tensor]:
    top, left, height, width = drawn.unbind(1)
    return [height * width, (height / width).log(), top, left, (top + height), (left + width)]


@settings(max_examples=40)
@given(st.integers(3, 40), st.integers(1, 20), st.integers(0))
def test_cutout_equals_the_paper_s_code(size: int, half: int, seed: int) -> None:
    """uoguelph-mlrg/Cutout: from centre - length // 2 to centre + length // 2, clipped; its lengths are even."""
    drawn = boxes.draw_cutouts(20, 2 * half, (size, size), torch.Generator().manual_seed(seed % 2**63))
    centres = [
        torch.randint(size, (20,), generator=g) for g in [torch.Generator().manual_seed(seed % 2**63)] for _ in range(2)
    ]
    images = torch.ones(20, 3, size, size)
    got = boxes.erase(images, drawn)
    for i, (row, column) in enumerate(zip(*(c.tolist() for c in centres), strict=True)):
        mask = torch.ones(size, size)
        (y1, y2), (x1, x2) = ((max(c - half, 0), min(c + half, size)) for c in (row, column))
        mask[y1:y2, x1:x2] = 0
        assert torch.equal(got[i], images[i] * mask)


def test_a_cutout_of_odd_side_has_that_side() -> None:
    drawn = boxes.draw_cutouts(2000, 5, (32, 32), torch.Generator().manual_seed(0))
    assert drawn[:, 2:].amax(0).tolist() == [5, 5]


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 99))
def test_erasing_equals_torchvision_s_and_leaves_the_share_of_images_it_should(
    height: int, width: int, seed: int
) -> None:
    drawn = boxes.draw_erasings(30, 0.5, (height, width), torch.Generator().manual_seed(seed))
    images = torch.randn(30, 3, height, width)
    got = boxes.erase(images, drawn)
    for image, (top, left, box_height, box_width), found in zip(images, drawn.tolist(), got, strict=True):
        expected = T.erase(image, top, left, box_height, box_width, torch.tensor(0.0))
        assert torch.equal(found, expected)
        assert box_height < height
        assert box_width < width


def test_erasing_s_probability_is_the_recipe_s() -> None:
    drawn = boxes.draw_erasings(40_000, 0.3, (32, 32), torch.Generator().manual_seed(0))
    assert float((drawn[:, 2] > 0).double().mean()) == pytest.approx(0.3, abs=0.012)  # five standard deviations


# Mixing.


@given(st.floats(0, 1), st.integers(1, 9), st.integers(0, 99))
def test_mixup_equals_torchvision_s_on_the_same_share(share: float, num: int, seed: int) -> None:
    images, labels = torch.randn(num, 3, 6, 5, generator=torch.Generator().manual_seed(seed)), torch.arange(num) % 4
    reference = v2.MixUp(num_classes=4)
    params = {"lam": share, "labels": labels, "batch_size": num}
    assert torch.equal(mixing.mix(images, mixing.Mix(share)), reference.transform(images, params))
    one_hot = reference.transform(labels, params)
    ours_ = share * F.one_hot(labels, 4) + (1 - share) * F.one_hot(mixing.partners(labels), 4)
    torch.testing.assert_close(ours_, one_hot)


@given(st.sampled_from([0.1, 1.0, 5.0]), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(0, 999))
def test_cutmix_equals_torchvision_s_on_the_same_share_and_place(
    alpha: float, height: int, width: int, num: int, seed: int
) -> None:
    images = torch.randn(num, 3, height, width)
    reference = v2.CutMix(alpha=alpha, num_classes=2)
    torch.manual_seed(seed)  # what its make_params draws, in its order, and then makes of it
    share = float(reference._dist.sample(()))
    column, row = (int(torch.randint(side, (1,))) for side in (width, height))
    torch.manual_seed(seed)
    params = reference.make_params([images])
    how = mixing.cut_box(share, row, column, (height, width))
    assert how.share == pytest.approx(params["lam_adjusted"], abs=1e-12)
    mixed = mixing.mix(images, how)
    assert torch.equal(mixed, reference.transform(images, {**params, "labels": None, "batch_size": num}))
    if num > 1:
        assert how.share == pytest.approx(float((mixed == images)[0, 0].double().mean()))


def test_shares_follow_beta_and_both_kinds_come_equally_often() -> None:
    found = [mixing.draw(0.2, 1.0, (32, 32), seed=0, epoch=1, step=step) for step in range(6000)]
    assert all(how is not None for how in found)
    plain = torch.tensor([how.share for how in found if how is not None and how.box is None])
    assert abs(len(plain) - 3000) < 5 * math.sqrt(1500)
    for alpha in (0.2, 1.0):
        drawn = [mixing.draw(alpha, 0.0, (8, 8), seed=1, epoch=1, step=step) for step in range(4000)]
        shares = torch.tensor([how.share for how in drawn if how is not None], dtype=torch.float64)
        assert len(shares) == 4000
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)  # of Beta(α, α)
    assert mixing.draw(0.0, 0.0, (8, 8), seed=0, epoch=1, step=0) is None


def test_a_batch_s_mixing_is_a_function_of_seed_epoch_and_step() -> None:
    def mixes() -> list[mixing.Mix | None]:
        places = itertools.product((0, 1), (1, 2), (0, 1))
        return [mixing.draw(1.0, 1.0, (32, 32), seed=seed, epoch=epoch, step=step) for seed, epoch, step in places]

    assert mixes() == mixes()
    assert len(set(mixes())) == 8


def test_colours_of_a_flat_picture_stay() -> None:
    images = torch.full((1, 3, 5, 5), 77, dtype=torch.uint8)
    none = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(colours.autocontrast(images, none), images)
    assert torch.equal(colours.equalize(images, none), images)


def test_the_words_name_all_that_is_on() -> None:
    recipe: Recipe = change(
        PLAIN,
        {"flip": True, "crop_padding": 4, "policy": "trivial", "jitter": (0.4, 0, 0, 0.1), "cutout": 16}
        | {"erasing": 0.25, "mixup": 0.2, "cutmix": 1.0},
    )
    assert augment.describe(recipe) == (
        "shifts of up to 4 pixels, mirror images, TrivialAugment-Wide, brightness ±0.4, hue ±0.1, cutout of 16 pixels, "
        "random erasing in 25 %, mixup α 0.2, cutmix α 1"
    )
    assert augment.describe(change(PLAIN, {"zoom": 0.35})) == "crops of 35 to 100 % of the area"
    assert augment.describe(change(PLAIN, {"flip": True, "flip_by": "chance"})) == "mirror images by chance"
