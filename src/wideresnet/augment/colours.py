"""Colours of a batch changed by a factor for each image: torchvision's `adjust_*` and their kin, to the bit.

images uint8 [B, C, H, W] of 3 channels or 1; factors float64 [B] on the CPU, as torchvision takes Python numbers. The
arithmetic is float32 in torchvision's order, so that the results are equal, not close; a grey picture has no colour
to change, as there.
"""

import torch
from torch import Tensor


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Towards black at 0."""
    return _blend(images, torch.zeros_like(images), factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the mean grey at 0. Equal to torchvision's up to 256×256 pixels, where its float32 sum is exact."""
    grey = _grey(images)
    return _blend(images, grey.sum((1, 2, 3), keepdim=True).float() / grey[0].numel(), factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the grey picture at 0."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the smoothed picture at 0: a 3×3 mean with weight 5 in the middle, the border as it is."""
    if min(images.shape[2:]) <= 2:
        return images
    x = images.int()
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[:, :, 1:-1, 1:-1]  # 13 times the mean
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * sums + 13) // 26  # rounded; k/13 is never half-way
    return _blend(images, smooth, factors)


def hue(images: Tensor, shifts: Tensor) -> Tensor:
    """The hue turned by shifts in [-0.5, 0.5] of a whole turn."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images.float() / 255).unbind(1)  # [B, H, W]
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    no_hue = spread == 0
    saturation = spread / torch.where(no_hue, 1.0, value)
    divisor = torch.where(no_hue, 1.0, spread)
    to_red, to_green, to_blue = ((value - channel) / divisor for channel in (red, green, blue))
    sixths = torch.where(
        value == red,
        to_blue - to_green,
        torch.where(value == green, 2.0 + to_red - to_blue, 4.0 + to_green - to_red),
    )
    turned = (torch.fmod(sixths / 6.0 + 1.0, 1.0) + _each(shifts, images)[:, 0]) % 1.0
    sector = torch.floor(turned * 6.0)
    share = turned * 6.0 - sector
    low = (value * (1.0 - saturation)).clamp(0, 1)
    falling = (value * (1.0 - saturation * share)).clamp(0, 1)
    rising = (value * (1.0 - saturation * (1.0 - share))).clamp(0, 1)
    # A channel goes through these six in turn: red from the first on, green two behind it, blue four.
    cycle = torch.stack([value, falling, low, low, rising, value], 1)  # [B, 6, H, W]
    steps = torch.stack([sector, sector + 4, sector + 2], 1).long() % 6  # [B, 3, H, W]
    return (cycle.gather(1, steps) * 255.999).to(torch.uint8)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Only the upper `bits` (rounded down) of each byte kept."""
    mask = 256 - 2 ** (8 - bits.long())
    return images & mask.to(images.device, torch.uint8)[:, None, None, None]


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Bytes from the threshold on inverted."""
    return torch.where(images >= _each(thresholds, images), 255 - images, images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to 0…255; one of a single value stays."""
    low = images.amin((2, 3), keepdim=True).float()
    scale = 255 / (images.amax((2, 3), keepdim=True).float() - low)
    flat = scale.isinf()
    low, scale = torch.where(flat, 0.0, low), torch.where(flat, 1.0, scale)
    return ((images - low) * scale).clamp(0, 255).to(torch.uint8)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's bytes spread so that their histogram is flat."""
    planes = images.flatten(0, 1).flatten(1).long()  # [B·C, H·W]
    num, pixels = planes.shape
    offset = 256 * torch.arange(num, device=images.device)[:, None]
    counts = torch.bincount((planes + offset).flatten(), minlength=256 * num).view(num, 256)
    highest = counts.gather(1, planes.amax(1, keepdim=True))
    step = (pixels - highest) // 255  # [B·C, 1]
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table[:, 0] = 0
    equal = table.gather(1, planes)
    return torch.where(step == 0, planes, equal).to(torch.uint8).view_as(images)


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """factor × image + (1 - factor) × other, cut to bytes."""
    blended: Tensor = _each(factors, images) * images + _each(1.0 - factors, images) * others
    return blended.clamp(0, 255).to(torch.uint8)


def _each(values: Tensor, images: Tensor) -> Tensor:
    """A number for each image, float32 [B, 1, 1, 1] on the images' device. Rounded only here, as torchvision's are."""
    return values.to(torch.float32).to(images.device)[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W], luma rounded down."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    luma: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return luma.to(torch.uint8)
