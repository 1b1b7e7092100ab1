"""The common corruptions of Hendrycks & Dietterich 2019 (arXiv:1903.12261): upright uint8 pictures → the same pictures
in noise, out of focus, in snow, badly compressed. Pure: what is drawn for a picture is a function of (seed, picture,
corruption, severity) alone, whatever the batch.

The definition is the code that made CIFAR-10-C and ImageNet-C (github.com/hendrycks/robustness, commit 8190fe3:
ImageNet-C/create_c/make_cifar_c.py and ImageNet-C/imagenet_c/imagenet_c/corruptions.py); the code here is our own.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wideresnet.corruptions import blur, digital, noise, weather
from wideresnet.corruptions.figures import CorruptionFigures, chosen
from wideresnet.corruptions.rounding import Bytes, Generators

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "CorruptionFigures", "chosen", "constants_for", "corrupt"]

SEVERITIES = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224  # sides, in pixels, of the pictures of CIFAR-10-C and of ImageNet-C

_Rows = tuple[tuple[float, ...], ...]  # the constants of each severity
_E = 244 / 224  # ImageNet-C's elastic transform has 244 where the side, 224, is meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """A row of the table: a function, and its constants for each severity as published for either size."""

    name: str
    group: str  # as the paper has it: noise, blur, weather, digital
    function: Callable[[Bytes, tuple[float, ...], Generators], Bytes]
    small: _Rows  # make_cifar_c.py, for 32 × 32 pixels
    large: _Rows  # corruptions.py, for 224 × 224
    lengths: tuple[int, ...] = ()  # which of the constants are in pixels

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").replace("jpeg", "JPEG").replace("gaussian", "Gaussian")


def _each(*values: float) -> _Rows:
    return tuple((value,) for value in values)


CORRUPTIONS = (
    Corruption(
        name="gaussian_noise",
        group="noise",
        function=noise.gaussian,
        small=_each(0.04, 0.06, 0.08, 0.09, 0.10),
        large=_each(0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    Corruption(
        name="shot_noise",
        group="noise",
        function=noise.shot,
        small=_each(500, 250, 100, 75, 50),
        large=_each(60, 25, 12, 5, 3),
    ),
    Corruption(
        name="impulse_noise",
        group="noise",
        function=noise.impulse,
        small=_each(0.01, 0.02, 0.03, 0.05, 0.07),
        large=_each(0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    Corruption(
        name="defocus_blur",  # radius, softness
        group="blur",
        function=blur.defocus,
        small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        lengths=(0, 1),
    ),
    Corruption(
        name="glass_blur",  # sigma, farthest, times
        group="blur",
        function=blur.glass,
        small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        lengths=(0, 1),
    ),
    Corruption(
        name="motion_blur",  # radius, sigma
        group="blur",
        function=blur.motion,
        small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        lengths=(0, 1),
    ),
    Corruption(
        name="zoom_blur",  # farthest, step
        group="blur",
        function=blur.zoom,
        small=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        large=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    Corruption(
        name="snow",  # mean, deviation, factor, least, radius, sigma, kept
        group="weather",
        function=weather.snow,
        small=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        large=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        lengths=(4, 5),
    ),
    Corruption(
        name="fog",  # density, decay
        group="weather",
        function=weather.fog,
        small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    Corruption(
        name="brightness",
        group="weather",
        function=weather.brightness,
        small=_each(0.05, 0.1, 0.15, 0.2, 0.3),
        large=_each(0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    Corruption(
        name="contrast",
        group="digital",
        function=digital.contrast,
        small=_each(0.75, 0.5, 0.4, 0.3, 0.15),
        large=_each(0.4, 0.3, 0.2, 0.1, 0.05),
    ),
    Corruption(
        name="elastic_transform",  # strength, smoothness, shear; in shares of the side
        group="digital",
        function=digital.elastic,
        small=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        large=(
            (2 * _E, 0.7 * _E, 0.1 * _E),
            (2 * _E, 0.08 * _E, 0.2 * _E),
            (0.05 * _E, 0.01 * _E, 0.02 * _E),
            (0.07 * _E, 0.01 * _E, 0.02 * _E),
            (0.12 * _E, 0.01 * _E, 0.02 * _E),
        ),
    ),
    Corruption(
        name="pixelate",
        group="digital",
        function=digital.pixelate,
        small=_each(0.95, 0.9, 0.85, 0.75, 0.65),
        large=_each(0.6, 0.5, 0.4, 0.3, 0.25),
    ),
    Corruption(
        name="jpeg_compression",
        group="digital",
        function=digital.jpeg,
        small=_each(80, 65, 58, 50, 40),
        large=_each(25, 18, 15, 10, 7),
    ),
)


def constants_for(corruption: Corruption, severity: int, size: int) -> tuple[float, ...]:
    """At 32 pixels those of CIFAR-10-C, at 224 of ImageNet-C, between them linear in the logarithm of the side.

    Beyond either end its constants, lengths growing with the side: a picture of 8 pixels is blurred by a quarter of
    what one of 32 is. Raises ValueError on a severity that is none.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity!r}: expected a whole number from 1 to {len(SEVERITIES)}")
    way = min(max(math.log(size / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    scale = min(1.0, size / SMALL) * max(1.0, size / LARGE)
    pairs = zip(corruption.small[severity - 1], corruption.large[severity - 1], strict=True)
    mixed = (small if way == 0 else large if way == 1 else (1 - way) * small + way * large for small, large in pairs)
    return tuple(value * scale if i in corruption.lengths else value for i, value in enumerate(mixed))


def corrupt(images: Bytes, digests: Sequence[bytes], corruption: Corruption, severity: int, *, seed: int = 0) -> Bytes:
    """uint8 [N, size, size, 3] → the same shape. digests: N, what tells a picture from others; a picture and its copy
    are corrupted alike.

    Raises ValueError on pictures of another form, or a severity that is none of 1 … 5.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected uint8 [N, size, size, 3]")
    if 0 in images.shape[1:] or len(digests) != len(images):
        raise ValueError(
            f"{len(digests)} digests for images {list(images.shape)}; expected one each, of 1 pixel or more"
        )
    constants = constants_for(corruption, severity, images.shape[1])
    if not len(images):
        return images.copy()
    purpose = f"{seed}/{corruption.name}/{severity}/".encode()
    return corruption.function(images, constants, [_generator(purpose + digest) for digest in digests])


def _generator(purpose: bytes) -> np.random.Generator:
    seed = np.frombuffer(hashlib.sha256(purpose).digest(), np.uint32)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
