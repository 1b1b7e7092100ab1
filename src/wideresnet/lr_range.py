"""Model + batches + loss → how the loss answers to a growing learning rate, and the rate to train with.

The learning-rate range test of Smith 2017 (arXiv:1506.01186, section 3.3), growing exponentially and judged on the
smoothed loss as Gugger has it (2018, "How do you find a good learning rate"). The network is spoilt by it: a copy.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from wideresnet import runtime, training
from wideresnet.errors import Diverged
from wideresnet.recipes import Recipe
from wideresnet.training import Loss, State

LOWEST, HIGHEST, NUM_STEPS = 1e-5, 10.0, 200
SMOOTHING = 0.9  # of the running mean; with 200 steps over six decades it lags by a third of one
DIVERGED = 4.0  # times the lowest loss; both as in Gugger's implementation


@dataclass(frozen=True, slots=True)
class LrRange:
    """lrs and losses, one a step as far as it went; `smoothed` losses; `suggested` lr, two digits."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float


def smooth(losses: Sequence[float], decay: float = SMOOTHING) -> tuple[float, ...]:
    """Running mean with bias correction: m ← d·m + (1-d)·loss, divided by 1 - d^n (Kingma & Ba 2015, section 3)."""
    mean, smoothed = 0.0, list[float]()
    for n, loss in enumerate(losses, 1):
        mean = decay * mean + (1 - decay) * loss
        smoothed.append(mean / (1 - decay**n))
    return tuple(smoothed)


def suggest(lrs: Sequence[float], smoothed: Sequence[float]) -> float:
    """A tenth of the lr at which the smoothed loss is lowest, to two digits: there it still falls, and fast (Gugger
    2018). Where it falls fastest was not taken: that point hangs on the noise of single batches."""
    lowest = lrs[min(range(len(smoothed)), key=smoothed.__getitem__)]
    return float(f"{lowest / 10:.2g}")


def run(
    state: State,
    batches: Callable[[int, int], Iterable[Any]],
    loss: Loss,
    *,
    recipe: Recipe,
    seed: int,
    watch: runtime.Watch = runtime.QUIET,
) -> LrRange:
    """Trains `state` by `NUM_STEPS` updates of the recipe, each at a higher lr, until the loss diverges.

    Raises Diverged if it is not finite from the first step on.
    """
    trained = training.through(state, recipe)
    training.to_train_mode(state.model, training.frozen_modules(state.model))
    lrs = [LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1)) for step in range(NUM_STEPS)]
    losses, smoothed = list[float](), tuple[float, ...]()
    for step, (lr, batch) in enumerate(zip(lrs, _endless(batches), strict=False)):
        step_seed = runtime.derive_seed(seed, "step", step)
        value = training.update(state, trained, batch, loss, recipe, lr=lr, seed=step_seed).mean.item()
        if not math.isfinite(value):
            break
        losses.append(value)
        smoothed = smooth(losses)
        watch.progress("trying learning rates", step + 1, NUM_STEPS, f"lr {lr:.2g} · loss {smoothed[-1]:.3f}")
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    if not losses:
        raise Diverged(f"the loss is not finite from the first step on, at lr {LOWEST:g}; check the data")
    return LrRange(tuple(lrs[: len(losses)]), tuple(losses), smoothed, suggest(lrs, smoothed))


def _endless(batches: Callable[[int, int], Iterable[Any]]) -> Iterator[Any]:
    return chain.from_iterable(batches(epoch, 0) for epoch in count(1))
