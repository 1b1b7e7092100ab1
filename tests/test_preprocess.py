import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from wideresnet import preprocess
from wideresnet.preprocess import Fit, Preprocess, channel_statistics

Pixels = npt.NDArray[np.uint8]
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")
fits = st.sampled_from(FITS)
sides = st.integers(1, 300)


def plain(size: int, fit: Fit = "crop", channels: int = 3) -> Preprocess:
    return Preprocess(size=size, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels], fit=fit)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> Pixels:
    """A picture in which neighbours differ little, whatever its shape."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 31 + c) + np.cos(y / 17 - c) for c in range(3)]
    return np.stack([127.5 + 60 * wave for wave in waves], axis=-1).astype(np.uint8)


def weights(before: int, after: int) -> npt.NDArray[np.float64]:
    """[after, before]: bilinear with antialiasing by its definition, a triangle as wide as the step, centred."""
    step = before / after
    centres = (np.arange(after)[:, None] + 0.5) * step
    triangle = np.maximum(0, 1 - np.abs(np.arange(before) + 0.5 - centres) / max(1, step))
    return np.asarray(triangle / triangle.sum(1, keepdims=True), np.float64)


def scaled(image: Pixels, height: int, width: int) -> npt.NDArray[np.float64]:
    """[3, height, width], in float64 and not rounded."""
    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.asarray(np.einsum("ih,hwc,jw->cij", rows, image, columns, optimize=True), np.float64)


def agrees(out: Tensor, exact: npt.NDArray[np.float64]) -> bool:
    """Whether `out` is `exact` rounded, either way where float32 cannot tell the side of a half.

    It knows a position near 300 to 3e-5, where neighbours may differ by 255: 0.01, and another for the sums.
    """
    return bool(np.abs(out.numpy() - exact).max(initial=0) <= 0.52)


@given(sides, sides, st.integers(1, 64), fits, st.sampled_from([1, 3]))
@settings(max_examples=50, deadline=None)
def test_every_shape_comes_out_square(height: int, width: int, size: int, fit: Fit, channels: int) -> None:
    out = plain(size, fit, channels).resize(noise(height, width))
    assert (out.dtype, tuple(out.shape), out.is_contiguous()) == (torch.uint8, (channels, size, size), True)


@given(st.integers(1, 40), fits)
def test_a_picture_of_the_right_size_passes_through_bit_for_bit(size: int, fit: Fit) -> None:
    image = noise(size, size)
    assert np.array_equal(plain(size, fit).resize(image), image.transpose(2, 0, 1))


@given(st.integers(1, 40), st.integers(0, 60), st.booleans())
def test_where_one_side_is_right_the_crop_only_crops(size: int, more: int, upright: bool) -> None:
    assume(size + more <= 16 * size)
    image = noise(size + more, size) if upright else noise(size, size + more)
    start = round(more / 2)
    middle = image[start : start + size] if upright else image[:, start : start + size]
    assert np.array_equal(plain(size).resize(image), middle.transpose(2, 0, 1))


@given(sides, sides, st.integers(1, 64))
@example(137, 100, 64)
@example(6, 2, 1)  # one column: there torch itself is wrong
@settings(max_examples=50, deadline=None)
def test_crop_scales_the_shorter_side_and_takes_the_centre(height: int, width: int, size: int) -> None:
    shorter, longer = sorted((height, width))
    assume(longer <= 16 * shorter)
    image = noise(height, width)
    exact = scaled(image, size * height // shorter, size * width // shorter)
    top, left = (round((side - size) / 2) for side in exact.shape[1:])
    assert agrees(plain(size).resize(image), exact[:, top : top + size, left : left + size])


@given(sides, sides, st.integers(2, 64))
@settings(max_examples=40, deadline=None)
def test_crop_equals_torchvisions_resize_and_centre_crop_bit_for_bit(height: int, width: int, size: int) -> None:
    assume(max(height, width) <= 16 * min(height, width))
    image = noise(height, width)
    x = torch.from_numpy(image).permute(2, 0, 1).to(torch.float32).contiguous()
    x = v2.functional.resize(x, [size], InterpolationMode.BILINEAR, antialias=True)
    expected = v2.functional.center_crop(x, [size, size]).round().clamp(0, 255)
    assert torch.equal(plain(size).resize(image).to(torch.float32), expected)


@given(sides, sides, st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_squash_scales_each_side_by_itself(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    assert agrees(plain(size, "squash").resize(image), scaled(image, size, size))


@given(sides, sides, st.integers(1, 64))
@example(300, 3, 64)  # one column: there torch itself is wrong
@settings(max_examples=40, deadline=None)
def test_pad_shows_the_whole_picture_and_the_mean_colour_around_it(height: int, width: int, size: int) -> None:
    preprocess, image = plain(size, "pad"), noise(height, width)
    out = preprocess.resize(image)
    rows, columns = (max(1, size * side // max(height, width)) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    assert agrees(out[:, top : top + rows, left : left + columns], scaled(image, rows, columns))
    around = torch.ones(size, size, dtype=torch.bool)
    around[top : top + rows, left : left + columns] = False
    for plane, mean in zip(out, preprocess.mean, strict=True):
        assert (plane[around] == round(mean * 255)).all()


@given(st.integers(1, 3), st.integers(49, 400), st.integers(1, 48), st.booleans())
@example(3, 102, 1, False)  # the middle falls between two pixels of the output, and is rounded to either
@settings(max_examples=40, deadline=None)
def test_a_strip_that_is_cut_first_looks_as_if_it_were_not(short: int, long: int, size: int, upright: bool) -> None:
    image = smooth(long, short) if upright else smooth(short, long)
    exact = scaled(image, *(size * side // short for side in image.shape[:2]))
    top, left = (round((side - size) / 2) for side in exact.shape[1:])
    # The cut shifts the picture by a pixel of the output at most, by rounding, and of itself by another of the input;
    # in `smooth` a pixel is at most 60/17 away from the next, and then rounded down.
    assert (
        np.abs(plain(size).resize(image).numpy() - exact[:, top : top + size, left : left + size]).max()
        <= 60 / 17 * (short / size + 1) + 1
    )


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (1, 300_000)])
def test_a_strip_has_no_zero_side_and_does_not_explode(shape: tuple[int, int], fit: Fit) -> None:
    # Uncut, the last one would take 224 × 67,200,000 values: 180 GB in float32.
    image = np.full((*shape, 3), (10, 128, 250), np.uint8)
    out = plain(224, fit).resize(image)
    middle = out[:, 111, 111]
    assert middle.tolist() == [10, 128, 250]


@given(hnp.arrays(np.uint8, (5, 7, 3)))
def test_one_channel_is_the_luma_that_pillow_calls_l(image: Pixels) -> None:
    square = np.ascontiguousarray(image[:, :5])
    expected = np.asarray(Image.fromarray(square).convert("L"))
    assert np.array_equal(plain(5, channels=1).resize(square)[0], expected)


def test_gray_pictures_keep_every_value_in_one_channel() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(plain(16, channels=1).resize(image)[0], image[..., 0])


def test_resizing_leaves_the_image_alone_and_takes_any_strides() -> None:
    image = noise(30, 40)
    views: dict[str, Pixels] = {
        "mirrored": image[:, ::-1],
        "read-only": np.broadcast_to(image[..., :1], image.shape),
        "every other": noise(60, 80)[::2, ::2],
    }
    for name, view in views.items():
        before = view.copy()
        out = plain(16).resize(view)
        assert torch.equal(out, plain(16).resize(before)), name
        assert np.array_equal(view, before)
    same = noise(16, 16)
    out = plain(16).resize(same)
    out.zero_()
    assert same.any()


def test_threads_change_nothing() -> None:
    images = [noise(100 + i, 333 - 5 * i, seed=i) for i in range(24)]
    preprocess, threads = plain(48), torch.get_num_threads()
    expected = [preprocess.resize(image) for image in images]
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            with ThreadPoolExecutor(4) as pool:
                assert all(map(torch.equal, pool.map(preprocess.resize, images), expected)), number
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_rgb_image_is_refused_with_its_type_and_shape(image: Any) -> None:
    with pytest.raises(ValueError, match=rf"image is {image.dtype} \[.*expected uint8 \[H, W, 3\]"):
        plain(4).resize(image)


@given(hnp.arrays(np.uint8, (3, 3, 4, 5)))
def test_normalising_is_division_by_255_then_mean_then_std(images: Pixels) -> None:
    preprocess = plain(4)
    mean, std = (np.array(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    expected = (images / 255 - mean) / std
    out = preprocess.normalise(torch.from_numpy(images))
    assert out.dtype == torch.float32
    # float32: a few roundings of 6e-8 on values of at most 3
    assert np.abs(out.numpy() - expected).max() < 1e-6
    assert torch.equal(torch.cat([preprocess.normalise(part[None]) for part in torch.from_numpy(images)]), out)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 4, 4).double(), torch.zeros(1, 1, 4, 4).byte(), torch.zeros(3, 4, 4).byte()]
)
def test_only_uint8_batches_of_its_channels_are_normalised(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected torch.uint8 \[N, 3, H, W\]"):
        plain(4).normalise(images)


finite = st.floats(-2, 2)
positive = st.floats(1e-3, 5)


@given(st.integers(1, 999), fits, st.sampled_from([1, 3]), st.data())
def test_a_preprocess_survives_json(size: int, fit: Fit, channels: int, data: st.DataObject) -> None:
    mean, std = (tuple(data.draw(st.lists(kind, min_size=channels, max_size=channels))) for kind in (finite, positive))
    preprocess = Preprocess(size=size, mean=mean, std=std, fit=fit)
    assert preprocess.channels == channels
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size=0: expected a whole number of pixels, from 1 to 16,384"),
        ({"size": 32.5}, "size=32.5"),
        ({"size": True}, "size=True"),
        ({"mean": (0.5, 0.5)}, "mean=.*expected a tuple of 1 or 3 numbers"),
        ({"mean": 0.5}, "mean=0.5"),
        ({"mean": (0.5, 0.5, math.nan)}, "mean=.*expected finite numbers"),
        ({"mean": (0.5,)}, "mean has 1 channels and std 3"),
        ({"std": (0.2, 0.0, 0.2)}, "std=.*expected numbers above 0"),
        ({"std": ("a", "b", "c")}, "std=.*expected finite numbers"),
        ({"fit": "stretch"}, "fit='stretch': expected one of crop, squash, pad"),
        ({"sizes": 3}, "has the unknown sizes"),
    ],
)
def test_a_preprocess_that_cannot_be_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess.from_dict({**plain(32).to_dict(), **changes})


def test_every_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="preprocess lacks fit, mean"):
        Preprocess.from_dict({"size": 3, "std": [1.0]})


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)))
)
def test_statistics_are_numpys_over_all_pixels(images: Pixels) -> None:
    mean, std = channel_statistics(torch.from_numpy(images))
    units = images.astype(np.float64) / 255
    assert np.allclose(mean, units.mean((0, 2, 3)), rtol=1e-12, atol=0)
    assert np.allclose(std, np.maximum(units.std((0, 2, 3)), 1 / 255), rtol=1e-9, atol=0)


def test_a_constant_channel_has_the_smallest_deviation_and_not_zero() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[:, 1] = 255
    assert channel_statistics(images) == ((0.0, 1.0, 0.0), (1 / 255,) * 3)


def test_statistics_are_the_same_in_any_order_and_any_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(noise(50, 60)).reshape(50, 3, 10, 6)
    expected = channel_statistics(images)
    assert channel_statistics(images[torch.randperm(50, generator=torch.Generator().manual_seed(0))]) == expected
    monkeypatch.setattr("wideresnet.preprocess._CHUNK_BYTES", 200)
    assert channel_statistics(images) == expected


@pytest.mark.parametrize(
    "images", [torch.zeros(0, 3, 4, 4).byte(), torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4).byte()]
)
def test_statistics_of_nothing_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one"):
        channel_statistics(images)


def test_standardised_data_has_mean_0_and_deviation_1() -> None:
    images = torch.from_numpy(noise(40, 40)).reshape(-1, 3, 8, 8)
    mean, std = channel_statistics(images)
    out = Preprocess(size=8, mean=mean, std=std).normalise(images).to(torch.float64)
    assert out.mean((0, 2, 3)).abs().max() < 1e-6
    assert (out.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_channels_are_resized_alike_whether_together_or_one_by_one(height: int, width: int, size: int) -> None:
    image = np.random.default_rng(height * 64 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prepare = Preprocess(size=size, mean=(0.0,) * 3, std=(1.0,) * 3, fit="squash")
    together = prepare.resize(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "_AT_ONCE", 0)
        assert torch.equal(prepare.resize(image), together)


@given(sides, sides, st.integers(1, 200), fits, st.integers(0, 3))
@example(5, 200, 30, "crop", 0)  # a strip, whose ends are cut
def test_a_point_of_the_picture_lies_where_the_placement_says(
    height: int, width: int, size: int, fit: Fit, border: int
) -> None:
    """On a ramp each pixel tells where it was: all but those at the edges, where there is no ramp to average over."""
    prepare = dataclasses.replace(plain(size, fit), border=border)
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = np.stack([columns * 255 // max(1, width - 1), rows * 255 // max(1, height - 1), 0 * rows], -1)
    seen = prepare.shown(prepare.normalise(prepare.resize(ramp.astype(np.uint8))[None]))[0].numpy().astype(float)
    placed = prepare.placement(height, width)
    x, y = (width, placed.scale_x, placed.left), (height, placed.scale_y, placed.top)
    for channel, (side, scale, offset), (other_side, other_scale, other_offset) in ((0, x, y), (1, y, x)):
        at = (np.arange(size + 2 * border) + 0.5 - offset) / scale - 0.5  # of each pixel's middle, in the picture's
        margin = max(1.0, 1 / scale)
        inside = np.flatnonzero((at >= margin) & (at <= side - 1 - margin))
        inside = inside[(inside >= border) & (inside < size + border)]
        middle = min(int(other_offset + other_scale * other_side / 2), size + 2 * border - 1)  # a crop may end on it
        values = seen[0, middle] if channel == 0 else seen[1, :, middle]
        expected = at[inside] * 255 / max(1, side - 1)
        assert np.abs(values[inside] - expected).max(initial=0) <= 255 / max(1, side - 1) + 1.5


@given(sides, sides, st.integers(1, 200), fits)
def test_boxes_go_into_what_the_network_sees_and_back(height: int, width: int, size: int, fit: Fit) -> None:
    placed = plain(size, fit).placement(height, width)
    boxes = torch.tensor([[0.0, 0, width, height], [width / 3, height / 4, width / 2, height]], dtype=torch.float64)
    there = placed.of_boxes(boxes)
    assert torch.allclose(placed.boxes_of(there), boxes, atol=1e-9)
    if fit != "crop":  # the whole picture is seen
        assert there.min() >= -1e-9
        assert there.max() <= size + 1e-9
    whole = torch.tensor([[0, 0, width, height]])
    assert torch.allclose(placed.of_boxes(whole), placed.of_boxes(whole.float()))
