"""What follows from the data: the table of defaults, (pictures, size, device) → network, size, epochs; and more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Defaults:
    """What `wrn train` takes where nothing is given."""

    arch: str
    size: int
    epochs: int
    batch_size: int
    weight_decay: float


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
    epoch has enough updates; and, but for pictures of up to 16 pixels, four times the weight decay of large data, so
    that it is not learnt by heart (docs/decisions.md).
    """
    largest = 64 if device == "cpu" else 128
    size = max(1, min(shorter_side, largest))
    _, on_cpu, on_gpu, budget = next(row for row in _BY_SIZE if size <= row[0])
    if device != "cpu":
        budget = 30 * max(num_pictures, 1)
    epochs = min(60, max(10, round(budget / max(num_pictures, 1))))
    batch_size = 128 if num_pictures >= 10_000 else 64 if num_pictures >= 1_000 else 16
    weight_decay = 2e-3 if num_pictures < 10_000 and size > 16 else 5e-4
    return Defaults(on_cpu if device == "cpu" else on_gpu, size, epochs, batch_size, weight_decay)


def crop_padding(size: int, epochs: int) -> int:
    """Shifts in pixels: an eighth of the size, as the paper has it; half as much in a training of up to 15 epochs.

    So short a training does not come to know its pictures by heart, and stronger changes only slow it (Jordan 2024,
    arXiv:2404.00498: 2 pixels of 32 in his ten epochs, 4 in his forty).
    """
    return size // 16 if epochs <= 15 else size // 8


def flips_are_safe(class_names: Sequence[str]) -> bool:
    """False where a mirror image may be another class, or none: characters, numbers, sides."""
    words = [set(re.split(r"[\W_]+", name.lower())) for name in class_names]
    sided = {"left", "right", "sol", "sağ"}
    written = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "digit", "letter"}
    short = sum(len(name.strip()) <= 2 or name.strip().isdecimal() for name in class_names)
    return not any(w & sided for w in words) and sum(bool(w & written) for w in words) < 2 and short < 2
