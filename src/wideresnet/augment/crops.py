"""Where in the picture a batch looks: shifts with reflected borders or crops of random size, and mirroring."""

import torch
from torch import Tensor


def shift(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Reflect-pad, crop and mirror in one gather. images [B, C, H, W]; int64 [B] pixels; bool [B].

    Equal to padding by reflection (the border pixel not repeated), cropping [H, W] at the shift, then mirroring: the
    original's augmentation, train.lua's `RandomCrop(reflection)` and `HorizontalFlip`. Shifts must be < H and < W.
    """
    height, width = images.shape[2:]
    rows = _reflect(torch.arange(height, device=images.device) + down[:, None], height)  # [B, H]
    columns = _reflect(torch.arange(width, device=images.device) + right[:, None], width)  # [B, W]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return gather(images, rows[:, :, None], columns[:, None, :])


def zoom(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """The boxes of uint8 [B, C, H, W], enlarged to [H, W] and mirrored. boxes int64 [B, 4]: top, left, height, width.

    Bilinear in float32, rounded, with nothing from outside the box: torchvision's `resized_crop`, which here, where
    nothing is made smaller, is the same with and without antialiasing.
    """
    top, left, box_height, box_width = boxes.unbind(1)
    rows = _resampling(top, box_height, images.shape[2])  # [B, H, H]
    columns = _resampling(left, box_width, images.shape[3])  # [B, W, W]
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    # Products of matrices: three times as fast as four gathers.
    x = rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)  # [B, C, H, W]
    return x.round_().clamp_(0, 255).to(torch.uint8)


def gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """images [B, C, H, W] at `rows` and `columns`, int64, which broadcast to [B, H', W'], the same in each channel."""
    num, channels = images.shape[:2]
    batch = torch.arange(num, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[batch, channel, rows[:, None], columns[:, None]]


def _reflect(position: Tensor, size: int) -> Tensor:
    """-2 -1 0 1 … → 2 1 0 1 …, and likewise at the other end."""
    position = position.abs()
    return (size - 1) - (size - 1 - position).abs()


def _resampling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """[B, size, size]: each of `size` new pixels as shares of the two old ones that it lies between."""
    centre = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    position = (centre * (length[:, None] / size) - 0.5).clamp_(min=0)  # [B, size]
    low = position.long()
    high = torch.minimum(low + 1, length[:, None] - 1)
    share = (position - low)[:, :, None]
    shares = torch.zeros(len(start), size, size, device=start.device)
    shares.scatter_(2, (start[:, None] + low)[:, :, None], 1 - share)
    return shares.scatter_add_(2, (start[:, None] + high)[:, :, None], share)
