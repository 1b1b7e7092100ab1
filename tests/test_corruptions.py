"""Corruptions are as published and a function of the picture alone; what a model says to them is counted right."""

import colorsys
import dataclasses
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from test_jobs import QUICK, shapes
from torch import Tensor

import wideresnet as wrn
from wideresnet import engines, kernels, runtime
from wideresnet.cli import run as cli
from wideresnet.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    CorruptionFigures,
    blur,
    chosen,
    constants_for,
    corrupt,
    digital,
    weather,
)
from wideresnet.corruptions.rounding import to_bytes
from wideresnet.data import Stream
from wideresnet.engines import Engine
from wideresnet.errors import UsageError
from wideresnet.metrics import accuracy_interval

Bytes = npt.NDArray[np.uint8]
BY_NAME = {one.name: one for one in CORRUPTIONS}
NOISE = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
each = pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
every_severity = pytest.mark.parametrize("severity", SEVERITIES)


def digests(num: int) -> list[bytes]:
    return [i.to_bytes(4, "little") for i in range(num)]


@pytest.fixture(scope="module")
def real() -> Bytes:
    """128 test pictures of CIFAR-10, [128, 32, 32, 3]."""
    sheet = np.asarray(Image.open(shared("data/cifar10/test_00.webp")).convert("RGB"))
    return np.ascontiguousarray(sheet.reshape(-1, 32, 25, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:128])


# ——— a function of (seed, picture, corruption, severity) alone ———


@settings(max_examples=60)
@given(corruption=st.sampled_from(CORRUPTIONS), severity=st.sampled_from(SEVERITIES), data=st.data())
def test_neither_batch_nor_order_changes_what_a_picture_becomes(
    corruption: Corruption, severity: int, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([5, 8, 20, 32]))
    images = np.random.default_rng(size).integers(0, 256, (9, size, size, 3), dtype=np.uint8)
    whole = corrupt(images, digests(9), corruption, severity)
    rows = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=9))
    part = corrupt(images[rows], [digests(9)[row] for row in rows], corruption, severity)
    assert np.array_equal(part, whole[rows])


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur"])
def test_another_picture_severity_or_seed_draws_anew(name: str) -> None:
    same = NOISE[[0, 0]]
    first, second = corrupt(same, digests(2), BY_NAME[name], 3)
    assert not np.array_equal(first, second)
    [seeded] = corrupt(same[:1], digests(1), BY_NAME[name], 3, seed=1)
    assert not np.array_equal(first, seeded)


@each
def test_pictures_of_any_size_are_corrupted_without_a_warning(corruption: Corruption) -> None:
    for size in (1, 2, 3, 4, 7, 8, 31, 33, 50, 64):
        for severity in SEVERITIES:
            for value in (0, 128, 255):
                flat = np.full((2, size, size, 3), value, np.uint8)
                with np.errstate(divide="raise", over="raise", invalid="raise"):
                    changed = corrupt(flat, digests(2), corruption, severity)
                assert changed.shape == flat.shape
                assert changed.dtype == np.uint8


@each
def test_no_pictures_are_none_and_the_given_ones_are_not_changed(corruption: Corruption) -> None:
    assert corrupt(NOISE[:0], [], corruption, 1).shape == (0, 32, 32, 3)
    before = NOISE.copy()
    corrupt(NOISE, digests(3), corruption, 5)
    assert np.array_equal(NOISE, before)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"]
)
@pytest.mark.parametrize("size", [8, 32, 45])
def test_what_moves_or_mixes_pixels_leaves_a_picture_of_one_colour_as_it_is(name: str, size: int) -> None:
    flat = np.empty((256, size, size, 3), np.uint8)
    flat[:] = np.arange(256, dtype=np.uint8)[:, None, None, None]
    for severity in SEVERITIES:
        assert np.array_equal(corrupt(flat, digests(256), BY_NAME[name], severity), flat), severity


def test_what_cannot_be_corrupted_is_refused_by_name() -> None:
    one = BY_NAME["fog"]
    for severity in (0, 6, -1, 2.5):
        with pytest.raises(ValueError, match=rf"severity={severity}: expected a whole number from 1 to 5"):
            corrupt(NOISE, digests(3), one, severity)  # type: ignore[arg-type]
    for wrong in (NOISE.astype(np.float32), NOISE[0], NOISE[..., :1], NOISE[:, :5], NOISE[:, :0, :0]):
        with pytest.raises(ValueError, match=r"expected (uint8 \[N, size, size, 3\]|one each, of 1 pixel or more)"):
            corrupt(wrong, digests(3), one, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 digests for images"):
        corrupt(NOISE, digests(2), one, 1)


# ——— constants ———


@each
def test_the_constants_are_the_published_ones_at_either_size_and_between_them_in_between(
    corruption: Corruption,
) -> None:
    for i, severity in enumerate(SEVERITIES):
        assert constants_for(corruption, severity, 32) == corruption.small[i]
        assert constants_for(corruption, severity, 224) == corruption.large[i]
        for size in (33, 64, 128, 223):
            ends = zip(corruption.small[i], corruption.large[i], strict=True)
            for value, (small, large) in zip(constants_for(corruption, severity, size), ends, strict=True):
                assert min(small, large) - 1e-12 <= value <= max(small, large) + 1e-12


def test_lengths_alone_grow_and_shrink_with_the_picture_beyond_the_published_sizes() -> None:
    assert constants_for(BY_NAME["motion_blur"], 1, 8) == (6 / 4, 1 / 4)
    assert constants_for(BY_NAME["motion_blur"], 1, 448) == (20, 6)
    snow = BY_NAME["snow"]
    assert constants_for(snow, 5, 16) == (*snow.small[4][:4], 7, 6, 0.8)
    assert constants_for(BY_NAME["gaussian_noise"], 5, 1) == (0.10,)


# ——— what was published, plainly ———


def expected_of(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From shares of the range to levels before they are truncated."""
    return np.asarray(np.clip(x, 0, 1) * 255)


def agrees(ours: Bytes, levels: npt.NDArray[Any]) -> None:
    """`levels` truncated, but for those at a whole number, which rounding errors put on either side of it."""
    assert np.all(ours <= levels + 2e-3)
    assert np.all(ours > levels - 1 - 2e-3)


@every_severity
def test_brightness_raises_the_value_of_hsv(severity: int) -> None:
    raised = BY_NAME["brightness"].small[severity - 1][0]
    images = NOISE.copy()
    images[0, 0, 0] = 0
    images[0, 0, 1] = (0, 0, 200)
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in images.reshape(-1, 3) / 255])
    rgb = [colorsys.hsv_to_rgb(h, s, min(v + raised, 1)) for h, s, v in hsv]
    levels = expected_of(np.array(rgb)).reshape(images.shape)
    agrees(corrupt(images, digests(3), BY_NAME["brightness"], severity), levels)


@every_severity
def test_contrast_shrinks_distances_from_the_mean_of_each_channel(severity: int) -> None:
    share = BY_NAME["contrast"].small[severity - 1][0]
    for image, ours in zip(NOISE, corrupt(NOISE, digests(3), BY_NAME["contrast"], severity), strict=True):
        for channel in range(3):
            x = image[:, :, channel] / 255
            agrees(ours[:, :, channel], expected_of(x.mean() + share * (x - x.mean())))


@every_severity
def test_pixelate_and_jpeg_are_pillows_own(severity: int) -> None:
    side, quality = int(32 * BY_NAME["pixelate"].small[severity - 1][0]), (80, 65, 58, 50, 40)[severity - 1]
    pixelated = corrupt(NOISE, digests(3), BY_NAME["pixelate"], severity)
    saved = corrupt(NOISE, digests(3), BY_NAME["jpeg_compression"], severity)
    for i, image in enumerate(NOISE):
        small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
        assert np.array_equal(pixelated[i], np.asarray(small.resize((32, 32), Image.Resampling.BOX)))
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="JPEG", quality=quality)
        assert np.array_equal(saved[i], np.asarray(Image.open(content)))


def test_pixels_that_fit_the_picture_are_means_of_boxes() -> None:
    ours = digital.pixelate(NOISE, (0.5,), [])
    boxes = NOISE.reshape(3, 16, 2, 16, 2, 3).astype(float).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    assert np.abs(ours - boxes).max() <= 1, "Pillow rounds twice"


@pytest.mark.parametrize(("radius", "softness"), [(0.3, 0.4), (1, 0.2), (1.5, 0.1), (6, 0.5)])
def test_defocus_is_a_softened_disc(radius: float, softness: float) -> None:
    at = np.arange(-8, 9)
    disc = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    bell = np.exp(-np.array([1, 0, 1]) / (2 * softness**2))
    kernel = ndimage.correlate(disc / disc.sum(), np.outer(bell, bell) / bell.sum() ** 2, mode="mirror")
    ours = blur.defocus(NOISE, (radius, softness), [])
    for channel in range(3):
        agrees(ours[0, :, :, channel], ndimage.correlate(NOISE[0, :, :, channel].astype(float), kernel, mode="mirror"))
    assert blur.disc(radius, softness).sum() == pytest.approx(1)


@settings(max_examples=25)
@given(size=st.integers(1, 20), farthest=st.integers(1, 4), seed=st.integers(0, 99))
def test_glass_takes_pixels_as_the_published_loop_does(size: int, farthest: int, seed: int) -> None:
    steps = np.random.default_rng(seed).integers(-farthest, farthest, (1, 2, size, size))
    x = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    rows = blur.shuffled(steps, farthest)[0]
    ours = x.reshape(-1, 3)[rows]
    for h in range(size - farthest, farthest, -1):
        for w in range(size - farthest, farthest, -1):
            dy, dx = steps[0, :, h, w]
            there, here = x[h + dy, w + dx], x[h, w]  # views, as in make_cifar_c.py: no swap, but a copy
            x[h, w], x[h + dy, w + dx] = there, here
    assert np.array_equal(ours, x)


@pytest.mark.parametrize("angle", [-45, -12.5, 0, 30, 45, -90, -135])
def test_motion_is_half_a_gaussian_along_a_line_of_whole_pixels(angle: float) -> None:
    radius, sigma, x = 6, 1.5, NOISE[0, :20, :20].astype(np.float32)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(13)]
    expected = np.zeros((20, 20, 3))
    for y in range(20):
        for column in range(20):
            for i, weight in enumerate(weights):
                down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
                right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
                there = x[min(max(y + down, 0), 19), min(max(column + right, 0), 19)]
                expected[y, column] += weight / sum(weights) * there
    [ours] = blur.moved(x[None], radius, sigma, [angle])
    assert np.abs(ours - expected).max() < 1e-3


@pytest.mark.parametrize("size", [5, 32, 33])
def test_zoom_is_the_mean_of_scipys_zooms(size: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    total, factors = 2 * image.astype(float), np.arange(1, 1.26, 0.01)
    for factor in factors[1:]:
        kept = math.ceil(size / factor)
        top = (size - kept) // 2
        near = ndimage.zoom(image[top : top + kept, top : top + kept].astype(float), (factor, factor, 1), order=1)
        trim = (len(near) - size) // 2
        total += near[trim : trim + size, trim : trim + size]
    agrees(blur.zoom(image[None], (1.26, 0.01), [])[0], total / (len(factors) + 1))


def test_fog_is_a_cloud_by_diamonds_and_squares() -> None:
    generator = np.random.default_rng(3)
    drawn = np.random.default_rng(3).random(16 * 16 - 1, dtype=np.float32) * 2.0 - 1
    cloud: npt.NDArray[Any] = np.zeros((16, 16))
    step, wildness, draws = 16, 1e4, iter(drawn)
    while step > 1:
        half, starts = step // 2, range(0, 16, step)
        for y in starts:
            for x in starts:
                corners = [cloud[(y + b) % 16, (x + a) % 16] for a in (0, step) for b in (0, step)]
                cloud[y + half, x + half] = np.mean(corners) + wildness * next(draws)
        for down, right in ((0, half), (half, 0)):
            for y in (one + down for one in starts):
                for x in (one + right for one in starts):
                    around = [
                        cloud[(y + b) % 16, (x + a) % 16] for a, b in ((half, 0), (-half, 0), (0, half), (0, -half))
                    ]
                    cloud[y, x] = np.mean(around) + wildness * next(draws)
        step, wildness = half, wildness / 4
    cloud = np.asarray((cloud - cloud.min()) / (cloud.max() - cloud.min()))
    assert np.abs(weather.plasma(16, 2, [generator])[0] - cloud).max() < 1e-5
    image = NOISE[:1, :16, :16]
    levels = expected_of((image / 255 + 0.5 * cloud[..., None]) * image.max() / 255 / (image.max() / 255 + 0.5))
    agrees(weather.fog(image, (0.5, 2), [np.random.default_rng(3)]), levels)


def test_snow_is_blown_flakes_over_a_whitened_picture() -> None:
    mean, deviation, factor, least, radius, sigma, kept = constants = BY_NAME["snow"].small[3]
    drawn: npt.NDArray[Any] = np.random.default_rng(5).standard_normal((32, 32), dtype=np.float32).astype(float)
    layer = mean + deviation * drawn
    again = np.random.default_rng(5)
    again.standard_normal((32, 32), dtype=np.float32)
    angle = again.uniform(-135, -45)
    side = math.ceil(32 / factor)
    top = (32 - side) // 2
    near = np.asarray(ndimage.zoom(layer[top : top + side, top : top + side], factor, order=1))
    trim = (len(near) - 32) // 2
    flakes = near[trim : trim + 32, trim : trim + 32]
    flakes = (255 * np.clip(np.where(flakes < least, 0, flakes), 0, 1)).astype(np.uint8).astype(np.float32)
    blown = np.floor(blur.moved(flakes[None, :, :, None], radius, sigma, [angle])[0] + 1e-3) / 255
    x = NOISE[0] / 255
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    levels = expected_of(kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5) + blown + np.rot90(blown, 2))
    agrees(weather.snow(NOISE[:1], constants, [np.random.default_rng(5)])[0], levels)


@every_severity
def test_elastic_is_an_affine_map_and_a_smooth_field(severity: int) -> None:
    constants = BY_NAME["elastic_transform"].small[severity - 1]
    strength, smoothness, shear = (32 * constant for constant in constants)
    generator = np.random.default_rng(7)
    moves = generator.random((3, 2), dtype=np.float32) * (2 * shear) - shear
    field = generator.random((2, 32, 32), dtype=np.float32) * 2 - 1
    before = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])  # (x, y): 16 ± ⌊32 / 3⌋
    after = np.hstack([before + moves, np.ones((3, 1))])
    back = np.linalg.solve(after, before)
    matrix, offset = back[:2].T[::-1, ::-1], back[2][::-1]  # (y, x) → (y, x)
    rows, columns = np.mgrid[:32, :32].astype(float)
    if strength:
        down, right = (ndimage.gaussian_filter(one, smoothness, mode="reflect", truncate=3) for one in field)
        rows, columns = rows + strength * down, columns + strength * right
    [ours] = digital.elastic(NOISE[:1], constants, [np.random.default_rng(7)])
    for channel in range(3):
        x = NOISE[0, :, :, channel].astype(float)
        sheared = ndimage.affine_transform(x, matrix, offset, order=1, mode="mirror")
        agrees(ours[:, :, channel], ndimage.map_coordinates(sheared, [rows, columns], order=1, mode="reflect"))


@every_severity
def test_noise_has_the_published_spread(severity: int) -> None:
    images = np.full((64, 32, 32, 3), 100, np.uint8)
    deviation, photons, share = (
        BY_NAME[name].small[severity - 1][0] for name in ("gaussian_noise", "shot_noise", "impulse_noise")
    )
    found = {name: corrupt(images, digests(64), BY_NAME[name], severity).astype(float) for name in BY_NAME}
    assert found["gaussian_noise"].std() == pytest.approx(255 * deviation, rel=0.01)
    assert found["gaussian_noise"].mean() == pytest.approx(99.5, abs=0.3)  # truncated
    assert found["shot_noise"].var() == pytest.approx(100 * 255 / photons, rel=0.05)  # truncated, from a lattice
    for value in (0, 255):
        assert (found["impulse_noise"] == value).mean() == pytest.approx(share / 2, rel=0.1)


# Published so, and so kept. Elastic moves whole pictures, and farther at its lower severities, which bend them less;
# glass blur smooths more at its third severity what it shuffles as at its second, and at its fifth as at its fourth;
# motion blur's third and fourth have one sigma.
NEARER = {
    "elastic_transform": {(1, 2), (2, 3), (3, 4), (4, 5)},
    "glass_blur": {(1, 2), (2, 3), (4, 5)},
    "motion_blur": {(3, 4)},
}


@each
def test_each_severity_is_farther_from_the_picture_but_where_it_was_published_otherwise(
    corruption: Corruption, real: Bytes
) -> None:
    distance = [
        float(((corrupt(real, digests(len(real)), corruption, severity).astype(float) - real) ** 2).mean())
        for severity in SEVERITIES
    ]
    assert min(distance) > 1
    nearer = {(i, i + 1) for i in range(1, 5) if distance[i] <= distance[i - 1]}
    assert nearer == NEARER.get(corruption.name, set()), distance


def test_bytes_are_truncated_but_not_below_a_whole_number() -> None:
    x = np.array([-3.0, 0.4, 0.9989, 1.9991, 254.9, 254.99999, 255, 300])
    assert to_bytes(x).tolist() == [0, 0, 0, 2, 254, 255, 255, 255]


# ——— which pictures, and the figures ———


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    at_most=st.one_of(st.none(), st.integers(1, 100)),
    seed=st.integers(0, 3),
)
def test_every_class_gives_its_share_of_the_pictures(labels: list[int], at_most: int | None, seed: int) -> None:
    rows = chosen(labels, digests(len(labels)), at_most, seed)
    num = len(labels) if at_most is None else min(at_most, len(labels))
    assert len(rows) == len(set(rows)) == num
    assert rows == sorted(rows)
    counts = Counter(labels[row] for row in rows)
    for label, count in Counter(labels).items():
        assert abs(counts[label] - count * num / len(labels)) < 1
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    moved = chosen([labels[i] for i in order], [digests(len(labels))[i] for i in order], at_most, seed)
    assert sorted(order[row] for row in moved) == rows


def figures(right: npt.NDArray[np.bool_], clean: npt.NDArray[np.bool_]) -> CorruptionFigures:
    num = len(right)
    return CorruptionFigures(
        names=tuple(one.name for one in CORRUPTIONS[:num]),
        titles=tuple(one.title for one in CORRUPTIONS[:num]),
        groups=tuple(one.group for one in CORRUPTIONS[:num]),
        right=right,
        clean_right=clean,
        rows=tuple(range(len(clean))),
        of=len(clean),
        seed=0,
    )


@given(num=st.integers(1, 4), images=st.integers(1, 9), seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_figures_agree_with_each_other_also_at_the_edges(num: int, images: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    found = figures(random.random((num, 5, images)) < share, random.random(images) < 0.7)
    assert found.mean_error == pytest.approx(1 - found.accuracy.mean())
    low, high = found.mean_error_interval
    assert 0 <= low <= found.mean_error <= high <= 1
    assert low < high
    told = json.loads(json.dumps(found.figures(), allow_nan=False))
    assert told["corruptions"][0]["accuracy"] == found.accuracy[0].tolist()
    right = int(found.right[num - 1, 4].sum())
    assert told["corruptions"][-1]["accuracy_interval"][-1] == list(accuracy_interval(right, images))
    assert found.accuracy[found.weakest].mean() == pytest.approx(found.accuracy.mean(1).min())
    weighed = sum(found.groups.count(group) * line for group, line in found.by_group.items()) / num
    assert weighed == pytest.approx(found.accuracy.mean(0))


def test_the_sentence_names_the_weakest_or_says_that_there_is_none() -> None:
    right = np.ones((4, 5, 10), bool)
    right[2, :, 5:] = False
    right[2, 4, 2:] = False
    expected = "Loses most under impulse noise: 90.0 % → 44.0 % over all severities, 20.0 % at the strongest."
    assert figures(right, np.arange(10) < 9).sentence == expected
    assert figures(np.ones((2, 5, 4), bool), np.ones(4, bool)).sentence.startswith(
        "On average over the severities no corruption makes it worse"
    )


def test_the_interval_of_the_mean_covers_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(400):  # pictures that are easy or hard in all cells alike, as real ones are
        easy = random.beta(2, 1, size=40)
        low, high = figures(random.random((2, 5, 40)) < easy, np.ones(40, bool)).mean_error_interval
        covered += low <= 1 / 3 <= high
    assert 0.92 <= covered / 400 <= 0.985, covered / 400


def test_figures_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need answers \[2, 5, 3\]"):
        figures(np.ones((2, 4, 3), bool), np.ones(3, bool))
    with pytest.raises(ValueError, match="at least one"):
        figures(np.ones((2, 5, 0), bool), np.ones(0, bool))


# ——— evaluate ———


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and a run on it, in three channels or one."""
    base = tmp_path_factory.mktemp("corrupted")
    data = shapes(base / "shapes", {"train/disc": 40, "train/bar": 40, "test/disc": 21, "test/bar": 9})
    return data, wrn.train(data, out=base / "run", **{**QUICK, "epochs": 8}, in_channels=request.param).folder


def judged(trained: tuple[Path, Path], **options: Any) -> wrn.Evaluation:
    data, folder = trained
    with runtime.threads(1), kernels.threads(1):  # on a busy machine two wait for each other longer than they compute
        return wrn.evaluate(folder, data, **{"corruptions": True, "watch": runtime.QUIET, **options})


def test_evaluation_counts_what_the_network_says_to_corrupted_pictures(trained: tuple[Path, Path]) -> None:
    found = judged(trained).corruptions
    assert found is not None
    assert found.names == tuple(BY_NAME)
    assert found.num_images == found.of == 30
    plain = wrn.evaluate(trained[1], trained[0], watch=runtime.QUIET)
    assert plain.corruptions is None
    assert plain.figures().get("corruptions") is None
    assert found.clean_accuracy == plain.accuracy
    # By hand: one cell, picture by picture, through the public door.
    predictor = wrn.load(trained[1])
    wrong = 0
    for name, label, right in zip(plain.names, plain.labels, found.right[list(BY_NAME).index("snow"), 4], strict=True):
        image = np.asarray(Image.open(trained[0] / name).convert("RGB"))
        seen = predictor.card.preprocess.resize(image).expand(3, -1, -1).permute(1, 2, 0).numpy()[None]
        digest = digest_of(trained, name)
        [snowed] = corrupt(np.ascontiguousarray(seen), [digest], BY_NAME["snow"], 5)
        wrong += (predictor(snowed).label == plain.class_names[label]) != right
    assert wrong == 0


def digest_of(trained: tuple[Path, Path], name: str) -> bytes:
    from wideresnet import data as data_room
    from wideresnet.checkpoint import load_model

    parts, _ = data_room.decode_all(data_room.read(trained[0]), load_model(trained[1]).card.preprocess)
    pictures = parts["test"]
    return pictures.digests[pictures.names.index(name)]


def test_neither_cache_nor_engine_nor_number_of_threads_changes_what_is_shown_to_the_network(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = judged(trained).corruptions
    assert one is not None
    streamed = judged(trained, cache="off").corruptions
    assert streamed is not None
    assert np.array_equal(one.right, streamed.right)
    monkeypatch.setattr(runtime, "num_cores", lambda: 1)
    monkeypatch.setattr("wideresnet.jobs.corrupting._PIXELS_HELD", 7 * 400)
    monkeypatch.setattr("wideresnet.jobs.corrupting._PIXELS_AT_ONCE", 3 * 400)
    other = judged(trained).corruptions
    assert other is not None
    assert np.mean(one.right != other.right) < 0.01, "batches of other sizes may round otherwise, no more"
    torchs = judged(trained, engine="torch", device="cpu").corruptions
    assert torchs is not None
    assert np.mean(one.right != torchs.right) < 0.01


def test_fewer_pictures_are_taken_of_each_class_its_share_and_more_than_there_are_are_all(
    trained: tuple[Path, Path],
) -> None:
    evaluation = judged(trained, corruption_pictures=10)
    found = evaluation.corruptions
    assert found is not None
    assert (found.num_images, found.of) == (10, 30)
    assert sorted(evaluation.labels[list(found.rows)].tolist()) == [0] * 3 + [1] * 7
    assert np.array_equal(found.clean_right, (evaluation.predicted == evaluation.labels)[list(found.rows)])
    whole = judged(trained, corruption_pictures=None).corruptions
    assert whole is not None
    assert np.array_equal(whole.right[:, :, list(found.rows)], found.right), (
        "a picture's answers do not depend on others"
    )


def test_a_number_of_pictures_that_cannot_be_is_refused_before_any_work() -> None:
    for wrong in (0, -5):
        with pytest.raises(UsageError, match=f"--corruption-pictures {wrong}: expected a whole number from 1, or all"):
            wrn.evaluate("nowhere", "nothing", corruptions=True, corruption_pictures=wrong)


def test_test_time_augmentation_holds_for_corrupted_pictures_too(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(engine: Engine, tta: engines.TTA, _: float) -> Engine:
        def compute(images: Tensor | Stream) -> Tensor:
            asked.append(len(images))
            return engine.compute(images)

        assert tta == "flip"
        return dataclasses.replace(engine, compute=compute)

    monkeypatch.setattr(engines, "with_tta", counted)
    judged(trained, tta="flip")
    assert sum(asked) == 30 * (1 + 14 * 5), "one engine answers to the clean and to the corrupted ones"


def test_the_command_prints_a_table_and_json_and_a_section_of_the_report(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained[1]), str(trained[0]), "--report", str(tmp_path / "r.html")]
    assert cli([*words, "--corruptions", "--corruption-pictures", "12"]) == 0
    out = capsys.readouterr().out
    assert "Accuracy on 12 of 30 pictures, corrupted" in out
    assert "Not among them: frost." in out
    for one in CORRUPTIONS:
        assert f" {one.title} " in out
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<section id="corruptions">' in page
    assert "Frost is not among them" in page
    assert page.count(", severity") == 0
    for one in CORRUPTIONS:
        assert page.count(f'alt="{one.title}') == 1
    assert cli([*words, "--corruptions", "--corruption-pictures", "all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["corruptions"]
    assert told["num_images"] == 30
    assert told["left_out"] == ["frost"]
    assert 0 <= told["mean_corruption_error"] <= 1
    assert cli(words) == 0
    assert "corrupted" not in capsys.readouterr().out
    assert '<section id="corruptions">' not in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--corruption-pictures", "5"], "--corruption-pictures 5: says how many pictures --corruptions takes"),
        (["--corruptions", "--corruption-pictures", "0"], "expected a whole number from 1, or all"),
        (["--corruptions", "--corruption-pictures", "some"], "expected a whole number from 1, or all"),
    ],
)
def test_a_mistaken_option_is_an_error_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["evaluate", "nowhere", "digits", *words]) == 2
    assert said in capsys.readouterr().err


def test_one_picture_of_one_class_is_judged_too(trained: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "one" / "disc").mkdir(parents=True)
    Image.new("L", (1, 1), 77).save(tmp_path / "one" / "disc" / "dot.png")
    found = judged((tmp_path / "one", trained[1]), report_file=tmp_path / "r.html").corruptions
    assert found is not None
    assert found.num_images == 1
    low, high = found.mean_error_interval
    assert low < high
    assert dataclasses.replace(found, seed=1).figures()["seed"] == 1


def test_which_pictures_are_corrupted_does_not_depend_on_how_classes_are_numbered() -> None:
    labels, digests = [i % 7 for i in range(3003)], [bytes([i // 256, i % 256]) for i in range(3003)]
    for at_most in (1000, 200, 5):
        taken = chosen(labels, digests, at_most)
        assert chosen([6 - label for label in labels], digests, at_most) == taken
    many = chosen(list(range(2000)), [str(i).encode() for i in range(2000)], 1000)
    assert 400 < sum(row >= 1000 for row in many) < 600, "not the classes of the lowest numbers alone"
