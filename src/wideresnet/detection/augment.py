"""Batch of square uint8 pictures with boxes → the same seen through windows, drawn at random, on its own device.

A window is where in the square the network looks: smaller than it, so that objects grow, or larger, so that they shrink
on the mean colour. As in `augment`, what is drawn for a picture is a function of (seed, epoch, picture) alone. The
crop of Liu et al. 2016 (SSD, section 2.2) without its search: a smaller window holds the middle of one of the picture's
boxes, drawn at random, and boxes whose middle lies outside are left out.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wideresnet import runtime

RATIO = 4 / 3  # of a window's sides, at most
LEAST_SIDE = 1.0  # of a box, in the network's pixels; smaller ones are left out


@dataclass(frozen=True, slots=True)
class Windows:
    """One epoch's choices, a row for each of N pictures. sides: float64 [N, 2], height and width in shares of the
    square; at: float64 [N, 3], uniform in [0, 1): which box a window holds, and where in its room it lies."""

    sides: Tensor
    at: Tensor


def draw(num: int, zoom: float, *, seed: int, epoch: int) -> Windows:
    """Windows of `zoom` to 1 / `zoom` times the square's area, evenly in factors, and up to 4 : 3; 1: none."""
    u = torch.rand(num, 5, generator=runtime.generator(seed, "windows", epoch), dtype=torch.float64)
    area = torch.exp((2 * u[:, 0] - 1) * -math.log(zoom))
    ratio = torch.exp((2 * u[:, 1] - 1) * math.log(RATIO)) if zoom < 1 else torch.ones(num, dtype=torch.float64)
    return Windows(torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1), u[:, 2:])


def place(windows: Windows, index: Tensor, boxes: list[Tensor], size: int) -> Tensor:
    """int64 [B, 4]: left, top, right, bottom of the windows of rows `index` [B], in whole pixels of the square of
    `size`, 2 at least; `boxes` float [M, 4] of each."""
    placed = torch.empty(len(index), 4, dtype=torch.int64)
    for row, (i, own) in enumerate(zip(index.tolist(), boxes, strict=True)):
        sides, (which, *at) = windows.sides[i].tolist(), windows.at[i].tolist()
        held = own[int(which * len(own))].tolist() if len(own) else None
        for axis, (side, where) in enumerate(zip((sides[1], sides[0]), at, strict=True)):  # x, then y
            length = max(2, round(side * size))
            low, high = sorted((0, size - length))  # where it may begin
            if held is not None and length < size:
                middle = (held[axis] + held[axis + 2]) / 2
                low, high = max(low, math.ceil(middle - length)), min(high, math.floor(middle))
            start = low + int(where * (high - low + 1))
            placed[row, axis], placed[row, axis + 2] = start, start + length
    return placed


def look(images: Tensor, windows: Tensor, mirrored: Tensor, fill: Tensor) -> Tensor:
    """What lies in `windows` int64 [B, 4] of uint8 [B, C, S, S], resized to [S, S] and mirrored; outside it is `fill`,
    uint8 [C]. Bilinear with antialiasing, as `Preprocess.resize` but in whole numbers, which is four times as fast."""
    size = images.shape[2]
    seen = torch.empty_like(images)
    colour = fill.to(images.device)[:, None, None]
    for out, image, (left, top, right, bottom), mirror in zip(
        seen, images, windows.tolist(), mirrored.tolist(), strict=True
    ):
        inside = image[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if inside.shape[1:] == (bottom - top, right - left):
            window = inside
        else:
            window = colour.repeat(1, bottom - top, right - left)
            y, x = max(0, -top), max(0, -left)
            window[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
        if window.shape[1:] != (size, size):
            of_bytes = window.device.type == "cpu"  # torch has no such resizing of bytes elsewhere
            floats = F.interpolate(
                window[None] if of_bytes else window[None].float(), (size, size), mode="bilinear", antialias=True
            )[0]
            window = floats if of_bytes else floats.round_().clamp_(0, 255).to(torch.uint8)
        out.copy_(window.flip(2) if mirror else window)
    return seen


def through(boxes: Tensor, window: Tensor, mirrored: bool, size: int) -> tuple[Tensor, Tensor]:
    """Boxes float64 [M, 4] of the square, as they lie in `window` int64 [4], cut at its edges; and bool [M]: those
    kept, whose middle lies within and which are large enough."""
    scale = size / (window[2:] - window[:2])  # x, y
    moved = (boxes.reshape(-1, 2, 2) - window[:2]) * scale
    if mirrored:
        moved[..., 0] = size - moved[..., 0].flip(1)
    middle = moved.mean(1)
    cut = moved.clamp(0, size)
    kept = ((middle >= 0) & (middle <= size)).all(1) & ((cut[:, 1] - cut[:, 0]) >= LEAST_SIDE).all(1)
    return cut.reshape(-1, 4), kept
