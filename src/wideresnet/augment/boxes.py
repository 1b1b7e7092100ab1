"""Rectangles in a picture, a row for each image: drawn at random, and the pixels inside them set to the mean.

A box is int64 [4]: top, left, height, width. One of height 0 holds nothing.
"""

import math

import torch
from torch import Tensor

_TRIES = 10


def draw(
    num: int,
    generator: torch.Generator,
    *,
    shares: tuple[float, float],
    aspects: tuple[float, float],
    shape: tuple[int, int],
    largest: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """→ boxes [num, 4] inside a picture of `shape`; bool [num]: whether one was found.

    Area uniform in `shares` of the picture's, height / width log-uniform in `aspects`, place uniform. The first of ten
    that has from 1 pixel to `largest` in both directions is taken: torchvision's get_params of RandomResizedCrop
    (Szegedy et al. 2015, section 6) and of RandomErasing (Zhong et al. 2020).
    """
    low, high = (math.log(aspect) for aspect in aspects)
    share, aspect = torch.rand(2, num, _TRIES, generator=generator)
    down, right = torch.rand(2, num, generator=generator, dtype=torch.float64)  # below 1 also after what follows
    area = math.prod(shape) * (shares[0] + (shares[1] - shares[0]) * share)
    aspect = torch.exp(low + (high - low) * aspect)
    heights, widths = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (heights > 0) & (widths > 0) & (heights <= largest[0]) & (widths <= largest[1])
    first = fits.int().argmax(1)  # of equals the first
    heights, widths = (sides.gather(1, first[:, None]).flatten() for sides in (heights, widths))
    top, left = (down * (shape[0] - heights + 1)).long(), (right * (shape[1] - widths + 1)).long()  # rounded down
    return torch.stack([top, left, heights, widths], 1), fits.any(1)


def draw_zooms(num: int, smallest: float, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes of a share of the picture in [smallest, 1], aspect from 3/4 to 4/3; the whole picture where none fits."""
    boxes, found = draw(num, generator, shares=(smallest, 1.0), aspects=(3 / 4, 4 / 3), shape=shape, largest=shape)
    return torch.where(found[:, None], boxes, torch.tensor([0, 0, *shape]))


def draw_erasings(num: int, probability: float, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes of 2 to 33 % of the picture, aspect from 0.3 to 3.3, smaller than it; none with 1 - probability.

    Zhong et al. 2020 (arXiv:1708.04896), with the numbers of torchvision's RandomErasing.
    """
    erased = torch.rand(num, generator=generator, dtype=torch.float64) < probability
    largest = (shape[0] - 1, shape[1] - 1)
    boxes, found = draw(num, generator, shares=(0.02, 0.33), aspects=(0.3, 3.3), shape=shape, largest=largest)
    return boxes * (erased & found)[:, None]


def draw_cutouts(num: int, side: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Squares of `side` pixels centred on any pixel, what lies outside cut off (DeVries & Taylor 2017, section 3.2)."""
    ends = []
    for size in shape:
        start = torch.randint(size, (num,), generator=generator) - side // 2
        ends.append((start.clamp(min=0), (start + side).clamp(max=size)))
    (top, bottom), (left, right) = ends
    return torch.stack([top, left, bottom - top, right - left], 1)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Normalised images [B, C, H, W] with the pixels in boxes [B, 4] at 0, the mean colour of the training pictures."""
    top, left, height, width = boxes.unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])  # [B, H]
    in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])  # [B, W]
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
