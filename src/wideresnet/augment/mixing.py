"""Mixup and cutmix: a batch mixed with itself. A pair needs a batch, so what is drawn is a function of (seed, epoch,
number of the batch in it); each image's partner is the one before it, which the epoch's order has drawn."""

import math
import random
from dataclasses import dataclass

from torch import Tensor

from wideresnet import runtime


@dataclass(frozen=True, slots=True)
class Mix:
    """How one batch is mixed: everywhere, or a box (top, left, bottom, right) of each image is its partner's.

    `share` of each image, and so of its label, is its own; the rest is its partner's.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw(mixup: float, cutmix: float, shape: tuple[int, int], *, seed: int, epoch: int, step: int) -> Mix | None:
    """Shares from Beta(α, α) with α = `mixup` or `cutmix`; both above 0: one of them for each batch, equally often.

    Mixup: Zhang et al. 2018 (arXiv:1710.09412). Cutmix: Yun et al. 2019 (arXiv:1905.04899), a box of the picture's
    shape centred on any pixel, cut off at the border, the share corrected to the area that is left. One draw for a
    whole batch, as in both papers' code; the choice between them as in timm and torchvision's RandomChoice.
    """
    if not mixup and not cutmix:
        return None
    draws = random.Random(runtime.derive_seed(seed, "mix", epoch, step))
    cut = draws.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cut else mixup
    share = draws.betavariate(alpha, alpha)
    return cut_box(share, draws.randrange(shape[0]), draws.randrange(shape[1]), shape) if cut else Mix(share)


def cut_box(share: float, row: int, column: int, shape: tuple[int, int]) -> Mix:
    """The box of 1 - share of the area around (row, column), and the share that is really left."""
    (top, bottom), (left, right) = (
        (max(centre - half, 0), min(centre + half, size))
        for centre, size in ((row, shape[0]), (column, shape[1]))
        for half in [int(0.5 * math.sqrt(1.0 - share) * size)]
    )
    return Mix(1.0 - (bottom - top) * (right - left) / math.prod(shape), (top, left, bottom, right))


def partners(values: Tensor) -> Tensor:
    """What belongs to each one's partner, images or labels [B, …]: the one before it; for the first, the last."""
    return values.roll(1, 0)


def mix(images: Tensor, how: Mix) -> Tensor:
    """Normalised images [B, C, H, W] mixed with their partners; the labels weigh `how.share` and 1 - `how.share`."""
    if how.box is None:
        return partners(images).mul_(1.0 - how.share).add_(images * how.share)
    top, left, bottom, right = how.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners(images)[:, :, top:bottom, left:right]
    return mixed
