"""Batch of uint8 images → batch of uint8 images, changed at random, on its own device, without a loop over images.

What is drawn for an image is a function of (seed, epoch, image) alone: neither the batch it falls into nor the number
of processes changes it. So the draws of an epoch are made at once, and a batch takes its rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wideresnet import runtime


@dataclass(frozen=True, slots=True)
class Draws:
    """One epoch's random choices, a row for each image: int64 [N] pixels down and right, bool [N] mirrored."""

    down: Tensor
    right: Tensor
    mirrored: Tensor


def draw(num_images: int, *, flip: bool, crop_padding: int, seed: int, epoch: int) -> Draws:
    """Shifts uniform in [-crop_padding, crop_padding], mirrored with probability 1/2 if `flip`."""
    generator = runtime.generator(seed, "augment", epoch)
    shifts = torch.randint(-crop_padding, crop_padding + 1, (2, num_images), generator=generator)
    mirrored = torch.rand(num_images, generator=generator) < 0.5
    return Draws(shifts[0], shifts[1], mirrored & flip)


def apply(images: Tensor, draws: Draws, index: Tensor) -> Tensor:
    """Reflect-pad, crop and mirror in one gather. images [B, C, H, W]; `index` [B] are their rows in `draws`.

    Equal to padding by reflection (the border pixel not repeated), cropping [H, W] at the shift, then mirroring: the
    original's augmentation, train.lua's `RandomCrop(reflection)` and `HorizontalFlip`. Shifts must be < H and < W.
    """
    num, channels, height, width = images.shape
    device = images.device
    down, right, mirrored = (t[index].to(device) for t in (draws.down, draws.right, draws.mirrored))
    rows = _reflect(torch.arange(height, device=device) + down[:, None], height)  # [B, H]
    columns = _reflect(torch.arange(width, device=device) + right[:, None], width)  # [B, W]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return images[
        torch.arange(num, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _reflect(position: Tensor, size: int) -> Tensor:
    """-2 -1 0 1 … → 2 1 0 1 …, and likewise at the other end."""
    position = position.abs()
    return (size - 1) - (size - 1 - position).abs()
