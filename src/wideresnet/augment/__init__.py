"""Batch of uint8 images → batch of images changed at random, on its own device, without a loop over images.

What is drawn for an image is a function of (seed, epoch, image) alone: neither the batch it falls into nor the number
of processes changes it. So the draws of an epoch are made at once, and a batch takes its rows. (Mixing needs pairs,
and is a function of the batch.) The order: shift or zoom and mirror · policy · jitter, on bytes; then, normalised,
cutout and erasing; mixing last, in `classification`, where the labels are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wideresnet import runtime
from wideresnet.augment import boxes, colours, crops, mixing, policies
from wideresnet.recipes import Recipe

__all__ = ["Draws", "apply", "boxes", "colours", "crops", "describe", "draw", "erase", "mixing", "policies"]

_JITTERS = (colours.brightness, colours.contrast, colours.saturation, colours.hue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """One epoch's random choices, a row for each of N images. None, or no box: not in the recipe."""

    down: Tensor  # int64 [N], pixels
    right: Tensor
    mirrored: Tensor  # bool [N]
    zooms: Tensor | None  # int64 [N, 4]: boxes
    operations: Tensor | None  # int64 [N, K], of the policy
    magnitudes: Tensor | None  # float64 [N, K]
    jitter_order: Tensor | None  # int64 [N, 4]: what of _JITTERS comes first, second, …; -1 nothing
    jitter_factors: Tensor | None  # float64 [N, 4], as in _JITTERS
    erased: tuple[Tensor, ...]  # int64 [N, 4] each: boxes


def draw(recipe: Recipe, num_images: int, shape: tuple[int, int], *, seed: int, epoch: int) -> Draws:
    """For images of `shape`. Shifts uniform in [-crop_padding, crop_padding]; mirrored as `flip_by` says.

    In turns, every other epoch: which half of the images begins mirrored is drawn once, so that two epochs show each
    image from both sides; by chance, drawn anew in each epoch, half of them would show one side twice (Jordan 2024,
    arXiv:2404.00498, section 3.6).
    """

    def generator(purpose: str) -> torch.Generator:
        return runtime.generator(seed, purpose, epoch)

    padding = recipe.crop_padding
    shifts = torch.randint(-padding, padding + 1, (2, num_images), generator=generator("augment"))
    if recipe.flip_by == "turns":
        mirrored = (torch.rand(num_images, generator=runtime.generator(seed, "flip")) < 0.5) ^ (epoch % 2 == 0)
    else:
        mirrored = torch.rand(num_images, generator=generator("flip")) < 0.5
    zooms = operations = magnitudes = order = factors = None
    if recipe.zoom < 1:
        zooms = boxes.draw_zooms(num_images, recipe.zoom, shape, generator("zoom"))
    if recipe.policy != "none":
        operations, magnitudes = policies.draw(recipe.policy, num_images, shape, generator("policy"))
    if any(recipe.jitter):
        order, factors = _draw_jitter(recipe.jitter, num_images, generator("jitter"))
    erased = []
    if recipe.cutout:
        erased.append(boxes.draw_cutouts(num_images, recipe.cutout, shape, generator("cutout")))
    if recipe.erasing:
        erased.append(boxes.draw_erasings(num_images, recipe.erasing, shape, generator("erasing")))
    return Draws(
        down=shifts[0],
        right=shifts[1],
        mirrored=mirrored & recipe.flip,
        zooms=zooms,
        operations=operations,
        magnitudes=magnitudes,
        jitter_order=order,
        jitter_factors=factors,
        erased=tuple(erased),
    )


def _draw_jitter(strengths: tuple[float, ...], num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors uniform in [max(0, 1 - strength), 1 + strength], hue in [-strength, strength], in any order.

    The definition of torchvision's ColorJitter.
    """
    order = torch.rand(num, 4, generator=generator).argsort(1)
    strength = torch.tensor(strengths, dtype=torch.float64)
    order = torch.where(strength[order] > 0, order, -1)  # a hue turned by 0 would still be rounded
    middle = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    low, high = middle - strength, middle + strength
    low[:3].clamp_(min=0)
    return order, low + (high - low) * torch.rand(num, 4, generator=generator, dtype=torch.float64)


def apply(images: Tensor, draws: Draws, index: Tensor) -> Tensor:
    """What changes bytes: uint8 [B, C, H, W] → the same shape; `index` [B] are their rows in `draws`, on the CPU."""
    device = images.device
    mirrored = draws.mirrored[index].to(device)
    if draws.zooms is not None:
        images = crops.zoom(images, draws.zooms[index].to(device), mirrored)
    else:
        images = crops.shift(images, draws.down[index].to(device), draws.right[index].to(device), mirrored)
    if draws.operations is not None and draws.magnitudes is not None:
        images = policies.apply(images, draws.operations[index], draws.magnitudes[index])
    if draws.jitter_order is not None and draws.jitter_factors is not None:
        images = jitter(images, draws.jitter_order[index], draws.jitter_factors[index])
    return images


def jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """uint8 [B, C, H, W]; order and factors [B, 4] as in `Draws`."""
    return policies.in_turn(images, _JITTERS, order, factors.gather(1, order.clamp(min=0)))


def erase(images: Tensor, draws: Draws, index: Tensor) -> Tensor:
    """What sets normalised pixels to 0: float32 [B, C, H, W] → the same shape."""
    for drawn in draws.erased:
        images = boxes.erase(images, drawn[index].to(images.device))
    return images


def describe(recipe: Recipe, *, boxes: bool = False) -> str:
    """All that is on, in words, for a report; boxes: where pictures have some, and `zoom` looks through windows."""
    words = []
    if recipe.zoom < 1:
        what, most = ("windows", 1 / recipe.zoom) if boxes else ("crops", 1.0)
        words.append(f"{what} of {100 * recipe.zoom:g} to {100 * most:g} % of the area")
    if recipe.crop_padding:
        words.append(f"shifts of up to {recipe.crop_padding} pixels")
    if recipe.flip:
        words.append("mirror images" + (" by chance" if recipe.flip_by == "chance" else ""))
    if recipe.policy != "none":
        words.append({"trivial": "TrivialAugment-Wide", "rand": "RandAugment"}[recipe.policy])
    if any(recipe.jitter):
        names = ("brightness", "contrast", "saturation", "hue")
        words += [f"{name} ±{value:g}" for name, value in zip(names, recipe.jitter, strict=True) if value]
    if recipe.cutout:
        words.append(f"cutout of {recipe.cutout} pixels")
    if recipe.erasing:
        words.append(f"random erasing in {100 * recipe.erasing:g} %")
    words += [f"{name} α {alpha:g}" for name, alpha in (("mixup", recipe.mixup), ("cutmix", recipe.cutmix)) if alpha]
    return ", ".join(words) or "none"
