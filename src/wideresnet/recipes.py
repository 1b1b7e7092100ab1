"""Named hyper-parameters, frozen, each with its source; the learning rate they mean at each step; and the table of
defaults: (pictures, size, device) → network, size, epochs. Pure: nothing is measured, read or written here."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from wideresnet.errors import UsageError, nearest

Schedule = Literal["steps", "cosine", "one-cycle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Hyper-parameters of one training with SGD. Raises UsageError on a value that cannot be, naming it."""

    name: str
    epochs: int
    batch_size: int
    lr: float  # the highest of the schedule, for this batch_size
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = False  # weight decay on BN's scales and shifts and on biases too
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0  # cosine: linear from 0; one-cycle: the rising part
    milestones: tuple[int, ...] = ()  # steps: lr × gamma from the start of each of these epochs, counted from 1
    gamma: float = 0.2
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # 0: no average; else weights are averaged, BN's buffers copied
    dropout_p: float = 0.0
    flip: bool = True
    crop_padding: int = 0  # reflect-pad by so many pixels, crop back at random
    drop_last: bool = True  # the last, short batch of an epoch is left out
    select: Literal["best", "last"] = "best"  # "last" trains on our own val part too, and takes the last epoch

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {  # inclusive
            "epochs": (1, math.inf),
            "batch_size": (1, math.inf),
            "lr": (0, math.inf),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
            "warmup_epochs": (0, self.epochs),
            "gamma": (0, 1),
            "label_smoothing": (0, 1),
            "ema_decay": (0, 1),
            "dropout_p": (0, 1),
            "crop_padding": (0, math.inf),
        }
        half_open = {"momentum", "label_smoothing", "ema_decay", "dropout_p"}
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not (low <= value <= high and math.isfinite(value)) or (field in half_open and value == high):
                end = ")" if field in half_open or high == math.inf else "]"
                raise UsageError(f"{field}={value}: expected a value in [{low:g}, {high:g}{end}")
        if self.schedule not in get_args(Schedule):
            raise UsageError(f"schedule={self.schedule!r}{nearest(self.schedule, get_args(Schedule))}")
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov needs a momentum above 0; set --no-nesterov or a momentum")


class RecipeChanges(TypedDict, total=False):
    """The fields of a recipe that a user may set; absent or None leaves the recipe's (or the data's) own.

    Parameters
    ----------
    epochs
        Passes over the training pictures.
    batch_size
        Pictures for one update.
    lr
        Learning rate, the highest of the schedule.
    momentum
        Of SGD.
    nesterov
        Nesterov's form of it.
    weight_decay
        L2 penalty of SGD.
    decay_norm_and_bias
        Weight decay on BN and biases too.
    schedule
        How the learning rate moves: in steps, cosine to 0, one-cycle.
    warmup_epochs
        Epochs in which it rises.
    milestones
        With steps: epochs, counted from 1, at whose start it is multiplied by gamma.
    gamma
        See milestones.
    label_smoothing
        Share of the target spread over all classes.
    ema_decay
        Of the running average of the weights; 0 for none.
    dropout_p
        Dropout between the two convolutions of a block.
    flip
        Mirror images; by default where a mirror image is of the same class.
    crop_padding
        Random shifts of up to so many pixels; by default an eighth of the size.
    drop_last
        Leave out the last, short batch of an epoch.
    select
        Keep the epoch best on val, or the last one, trained on our own val part too.
    """

    epochs: int | None
    batch_size: int | None
    lr: float | None
    momentum: float | None
    nesterov: bool | None
    weight_decay: float | None
    decay_norm_and_bias: bool | None
    schedule: Schedule | None
    warmup_epochs: float | None
    milestones: tuple[int, ...] | None
    gamma: float | None
    label_smoothing: float | None
    ema_decay: float | None
    dropout_p: float | None
    flip: bool | None
    crop_padding: int | None
    drop_last: bool | None
    select: Literal["best", "last"] | None


RECIPES: dict[str, Recipe] = {
    # Ours, for a small budget: warm-up and cosine to 0 (Loshchilov & Hutter 2017; Goyal et al. 2017), no weight decay
    # on BN and biases (He et al. 2019, section 3.1), label smoothing 0.1 (Szegedy et al. 2016). `epochs` and
    # `batch_size` are set from the data by `defaults`, lr in proportion. docs/numbers.md has what it reaches.
    "fast": Recipe(
        name="fast",
        epochs=10,
        batch_size=128,
        lr=0.4,
        warmup_epochs=2.0,
        label_smoothing=0.1,
        crop_padding=4,
    ),
    # The paper's, from the original's scripts/train_cifar.sh and train.lua; crops by reflection, 4 pixels.
    "paper": Recipe(
        name="paper",
        epochs=200,
        batch_size=128,
        lr=0.1,
        decay_norm_and_bias=True,
        schedule="steps",
        milestones=(60, 120, 160),
        gamma=0.2,
        crop_padding=4,
        select="last",
    ),
}


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """`recipe` with some fields set; None leaves a field as it is.

    A changed number of epochs keeps the schedule whole: milestones and warm-up move in proportion unless given too.
    Raises UsageError on an unknown field, with the nearest name.
    """
    names = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    for name in changes:
        if name not in names:
            raise UsageError(f"recipe has no field {name!r}{nearest(name, names)}")
    given = {name: value for name, value in changes.items() if value is not None}
    if "milestones" in given:
        given["milestones"] = tuple(given["milestones"])
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


def lr_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of update `step`, counted from 0.

    steps      lr × gamma^(milestones begun), epochs counted from 1 (the paper, section 3)
    cosine     linear over the warm-up, then lr/2 × (1 + cos π·share) to 0 (Loshchilov & Hutter 2017, eq. 5)
    one-cycle  cosine from lr/25 to lr over the warm-up, then to lr/250,000 (Smith & Topin 2018, as torch's OneCycleLR)
    """
    total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
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


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What `wrn train` takes where nothing is given."""

    arch: str
    size: int
    epochs: int
    batch_size: int


# Pictures of at most so many pixels (the shorter side) → network on a CPU, network on a GPU, images seen in all the
# training on a CPU. The last is what about fifteen minutes on two cores carry; docs/numbers.md has the measurements.
_BY_SIZE: tuple[tuple[int, str, str, int], ...] = (
    (16, "wrn_16_2", "wrn_16_4", 1_500_000),
    (40, "wrn_16_2", "wrn_28_10", 400_000),
    (10_000, "wrn_16_1", "wrn_28_4", 210_000),
)


def defaults(num_pictures: int, shorter_side: int, device: str) -> Defaults:
    """The table of defaults: `num_pictures` to train on, median `shorter_side` in pixels, "cpu", "cuda" or "mps".

    Small pictures keep their size; larger ones are trained at 64 pixels on a CPU (a 128-pixel network costs four
    times as much) and at 128 elsewhere. Epochs: as many as the budget of images allows, from 10 to 60: more
    overfits small data longer without a gain that we could measure. Small data gets small batches, so that an
    epoch has enough updates.
    """
    largest = 64 if device == "cpu" else 128
    size = max(1, min(shorter_side, largest))
    _, on_cpu, on_gpu, budget = next(row for row in _BY_SIZE if size <= row[0])
    if device != "cpu":
        budget = 30 * max(num_pictures, 1)
    epochs = min(60, max(10, round(budget / max(num_pictures, 1))))
    batch_size = 128 if num_pictures >= 10_000 else 64 if num_pictures >= 1_000 else 16
    return Defaults(on_cpu if device == "cpu" else on_gpu, size, epochs, batch_size)


def flips_are_safe(class_names: Sequence[str]) -> bool:
    """False where a mirror image may be another class, or none: characters, numbers, sides."""
    words = [set(re.split(r"[\W_]+", name.lower())) for name in class_names]
    sided = {"left", "right", "sol", "sağ"}
    written = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "digit", "letter"}
    short = sum(len(name.strip()) <= 2 or name.strip().isdecimal() for name in class_names)
    return not any(w & sided for w in words) and sum(bool(w & written) for w in words) < 2 and short < 2
