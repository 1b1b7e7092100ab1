"""TrivialAugment-Wide and RandAugment as torchvision has them: for each image an operation and how strong it is.

Müller & Hutter 2021 (arXiv:2103.10158): one of 14 operations, at one of 31 strengths. Cubuk et al. 2020
(arXiv:1909.13719): two operations in turn, at the same strength. What is drawn is on the CPU; what changes pixels is
where they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from wideresnet.augment import colours
from wideresnet.augment.crops import gather

Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # images uint8, a number for each float64 [B] → images

STRENGTHS = 31
_RAND_OPERATIONS, _RAND_STRENGTH = 2, 9  # the paper's for ImageNet, torchvision's defaults


def magnitudes(policy: str, shape: tuple[int, int]) -> Tensor:
    """float64 [14, 31]: what each strength means to each operation on pictures of `shape`. `policy`: trivial, rand.

    Shears as a slope, translations in pixels (rounded towards 0 when applied), rotation in degrees, colours as the
    distance of the factor from 1, posterize in bits, solarize as a threshold.
    """
    shear, turn, colour, bits_lost = {"trivial": (0.99, 135.0, 0.99, 6), "rand": (0.3, 30.0, 0.9, 4)}[policy]
    across, down = (32.0, 32.0) if policy == "trivial" else (150.0 / 331.0 * shape[1], 150.0 / 331.0 * shape[0])
    table = torch.zeros(len(OPERATIONS), STRENGTHS, dtype=torch.float64)
    highest = [shear, shear, across, down, turn, colour, colour, colour, colour]
    for row, end in enumerate(highest, start=1):
        table[row] = torch.linspace(0.0, end, STRENGTHS)  # float32, as torchvision's
    table[10] = 8 - (torch.arange(STRENGTHS) / ((STRENGTHS - 1) / bits_lost)).round()
    table[11] = torch.linspace(255.0, 0.0, STRENGTHS)
    return table


def draw(policy: str, num: int, shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """→ operations int64 [num, K] as indices in OPERATIONS, and their signed magnitudes float64 [num, K]."""
    each = (num, 1 if policy == "trivial" else _RAND_OPERATIONS)
    operations = torch.randint(len(OPERATIONS), each, generator=generator)
    strengths = torch.randint(STRENGTHS, each, generator=generator)
    if policy == "rand":
        strengths.fill_(_RAND_STRENGTH)
    negative = (torch.rand(each, generator=generator) < 0.5) & _SIGNED[operations]
    found = magnitudes(policy, shape)[operations, strengths]
    return operations, torch.where(negative, -found, found)


def apply(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """uint8 [B, C, H, W] → the same, with each image's K operations in turn; both [B, K], on the CPU."""
    return in_turn(images, tuple(OPERATIONS.values()), operations, magnitudes)


def in_turn(images: Tensor, changes: Sequence[Change | None], which: Tensor, values: Tensor) -> Tensor:
    """uint8 [B, C, H, W] → the same, each image through K of `changes` in its own order: `which` int64 [B, K], -1 for
    nothing, and the number that each is given, `values` float64 [B, K]; both on the CPU."""
    images = images.clone()
    for column, value in zip(which.unbind(1), values.unbind(1), strict=True):
        for number, change in enumerate(changes):
            rows = (column == number).nonzero().flatten()
            if change is not None and len(rows):
                there = rows.to(images.device)
                images[there] = change(images[there], value[rows])
    return images


def _shear_x(images: Tensor, slopes: Tensor) -> Tensor:
    """Along the top edge nothing moves."""
    return _affine(images, 1, slopes, slopes * images.shape[2] / 2, 0, 1, 0)


def _shear_y(images: Tensor, slopes: Tensor) -> Tensor:
    """Along the left edge nothing moves."""
    return _affine(images, 1, 0, 0, slopes, 1, slopes * images.shape[3] / 2)


def _translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    return _affine(images, 1, 0, -pixels.trunc(), 0, 1, 0)


def _translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    return _affine(images, 1, 0, 0, 0, 1, -pixels.trunc())


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Counter-clockwise about the middle."""
    cos, sin = (degrees * (math.pi / 180)).cos(), (degrees * (math.pi / 180)).sin()
    return _affine(images, cos, -sin, 0, sin, cos, 0)


def _affine(images: Tensor, *matrix: Tensor | float) -> Tensor:
    """Each pixel is taken from where `matrix` says, the nearest; black where that is outside.

    matrix a b c d e f, a number or float64 [B] each: from (a·x + b·y + c, d·x + e·y + f), about the middle.
    """
    num, _, height, width = images.shape
    a, b, c, d, e, f = (
        torch.as_tensor(value, dtype=torch.float32).expand(num).to(images.device)[:, None, None] for value in matrix
    )
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=images.device)[None, :] - (width - 1) / 2
    rows = (d * x + e * y + f + (height - 1) / 2).round().long()  # [B, H, W]
    columns = (a * x + b * y + c + (width - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = gather(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return found * inside[:, None]


def _by_factor(change: Change) -> Change:
    return lambda images, magnitude: change(images, 1.0 + magnitude)


# In the order of torchvision's tables: name → (images uint8, magnitudes float64 [B]) → images.
OPERATIONS: dict[str, Change | None] = {
    "Identity": None,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _by_factor(colours.brightness),
    "Color": _by_factor(colours.saturation),
    "Contrast": _by_factor(colours.contrast),
    "Sharpness": _by_factor(colours.sharpness),
    "Posterize": colours.posterize,
    "Solarize": colours.solarize,
    "AutoContrast": colours.autocontrast,
    "Equalize": colours.equalize,
}
_SIGNED = torch.tensor([1 <= number <= 9 for number in range(len(OPERATIONS))])  # from ShearX to Sharpness
