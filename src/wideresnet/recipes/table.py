"""The recipes by name, each with its sources, and how one of them is changed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wideresnet.errors import UsageError, nearest
from wideresnet.recipes.recipe import Recipe

# Ours, for a small budget: warm-up and cosine to 0 (Loshchilov & Hutter 2017; Goyal et al. 2017), no weight decay on BN
# and biases (He et al. 2019, section 3.1), label smoothing 0.1 (Szegedy et al. 2016). docs/numbers.md has what it
# reaches.
_FAST = Recipe(
    name="fast",
    times_default=1.0,
    epochs=10,
    batch_size=128,
    lr=0.4,
    warmup_epochs=2.0,
    label_smoothing=0.1,
    crop_padding=4,
)
# The paper's, from the original's scripts/train_cifar.sh and train.lua: crops by reflection, 4 pixels; `hflip` draws
# for each picture anew; `onStartEpoch` makes the optimiser's state anew where the learning rate falls, momentum too.
_PAPER = Recipe(
    name="paper",
    epochs=200,
    batch_size=128,
    lr=0.1,
    decay_norm_and_bias=True,
    schedule="steps",
    milestones=(60, 120, 160),
    gamma=0.2,
    forget_momentum=True,
    flip_by="chance",
    crop_padding=4,
    select="last",
)
# `fast` for three times as long, with what keeps a longer training from knowing its pictures by heart:
# TrivialAugment-Wide (Müller & Hutter 2021), cutmix with α = 1 (Yun et al. 2019, section 4.1) and an average of the
# weights, as in torchvision's own longer recipe (Vryniotis 2021, "How to train state-of-the-art models using
# TorchVision's latest primitives"). `ema_decay` fits short runs too: training.update_average never looks back further
# than a ninth of the steps done. In 30 epochs of 4,000 pictures it costs 18 points (docs/numbers.md): it is for longer.
_STRONG = dataclasses.replace(
    _FAST,
    name="strong",
    times_default=3.0,
    epochs=30,
    warmup_epochs=6.0,
    ema_decay=0.999,
    policy="trivial",
    cutmix=1.0,
)
# For a network that was trained before (--init): `fast` with a tenth of its learning rate, which lets it learn without
# losing what it knows (Girshick et al. 2014, section 2.3), in a third of its epochs. The third is ours.
_FINETUNE = dataclasses.replace(
    _FAST,
    name="finetune",
    times_default=1 / 3,
    epochs=3,
    lr=0.04,
    warmup_epochs=0.5,
)
# `--arch wrn_16_4 --recipe cpu94`: 94 % on the whole test set of CIFAR-10 in under 90 minutes on two cores, by our own
# kernels (docs/numbers.md has each seed). `fast` for so long that pictures begin to be known by heart, against which
# stand shifts of 4 pixels as in the paper and cutout of 8 (DeVries & Taylor 2017; that small, as in the quickest
# ResNets of DAWNBench). No val part: it trains on every picture and takes the last epoch, as the paper does.
_CPU94 = dataclasses.replace(
    _FAST,
    name="cpu94",
    times_default=0.0,
    epochs=35,
    warmup_epochs=5.0,
    cutout=8,
    select="last",
)

# `wrn detect train`: as FCOS (Tian et al. 2019, section 4: momentum 0.9, weight decay 1e-4, flips) but begun from
# nothing, on small pictures, in small batches; so with a warm-up, a cosine, clipped gradients, an average of the
# weights and windows that make objects up to 1.8 times as large and as small (docs/decisions.md, docs/numbers.md).
_DETECT = Recipe(
    name="detect",
    times_default=1.0,
    epochs=80,
    batch_size=8,
    lr=0.02,
    weight_decay=5e-4,
    warmup_epochs=4.0,
    ema_decay=0.998,
    flip_by="chance",
    zoom=0.4,
    jitter=(0.2, 0.2, 0.2, 0.0),
    clip_norm=10.0,
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (_FAST, _PAPER, _STRONG, _FINETUNE, _CPU94, _DETECT)}

FIXED = ("name", "times_default")  # of a recipe's row; no user sets them


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """`recipe` with some fields set; None leaves a field as it is.

    A changed number of epochs keeps the schedule whole: milestones and warm-up move in proportion unless given too.
    Raises UsageError on an unknown field, with the nearest name.
    """
    names = [field.name for field in dataclasses.fields(Recipe) if field.name not in FIXED]
    for name in changes:
        if name not in names:
            raise UsageError(f"recipe has no field {name!r}{nearest(name, names)}")
    given = {name: value for name, value in changes.items() if value is not None}
    given |= {name: tuple(given[name]) for name in ("milestones", "jitter") if name in given}
    share = given.get("epochs", recipe.epochs) / recipe.epochs
    if share > 0 and "epochs" in given:
        moved = {
            # Counted from 1, so the epochs before a milestone are in proportion; none before the second epoch.
            "milestones": tuple(n for m in recipe.milestones if (n := 1 + round((m - 1) * share)) > 1),
            "warmup_epochs": recipe.warmup_epochs * share,
        }
        given = {**moved, **given}
    return dataclasses.replace(recipe, **given)


def find(name: str) -> Recipe:
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}{nearest(name, RECIPES)}")
    return RECIPES[name]
