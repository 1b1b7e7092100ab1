"""The learning rate that a recipe means at each step, and where momentum begins anew."""

import math

from wideresnet.recipes.recipe import Recipe


def lr_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of update `step`, counted from 0.

    steps      lr × gamma^(milestones begun), epochs counted from 1 (the paper, section 3)
    cosine     linear over the warm-up, then lr/2 × (1 + cos π·share) to 0 (Loshchilov & Hutter 2017, eq. 5)
    one-cycle  cosine from lr/25 to lr over the warm-up, then to lr/250,000 (Smith & Topin 2018, as torch's OneCycleLR)

    Over `swa_epochs` it stays as it is at their start: constant, so that the averaged weights differ (Izmailov et al.
    2018, section 3.1).
    """
    total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
    step = min(step, total - recipe.swa_epochs * steps_per_epoch)
    if recipe.schedule == "steps":
        epoch = step // steps_per_epoch + 1
        return recipe.lr * recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    if recipe.schedule == "one-cycle":
        low, end, peak = recipe.lr / 25, recipe.lr / 25e4, max(warmup - 1, 0)
        if step <= peak:
            return _cosine(low, recipe.lr, step / peak if peak else 1.0)
        return _cosine(recipe.lr, end, (step - peak) / ((total - 1 - peak) or 1))
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    return _cosine(recipe.lr, 0.0, (step - warmup) / max(total - warmup, 1))


def momentum_begins_anew(recipe: Recipe, epoch: int) -> bool:
    """Whether SGD forgets its momentum before the first step of `epoch`, counted from 1: with `forget_momentum`, at a
    milestone. Its first velocity is then the gradient, as at the start of training (the original's train.lua)."""
    return recipe.forget_momentum and recipe.schedule == "steps" and epoch in recipe.milestones


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
