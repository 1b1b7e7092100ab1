"""Model + batches + loss + validation → a trained model, one epoch after another. The loop, which knows no task.

Read `fit` from top to bottom; there is nothing to subclass and nothing to hook. What varies is passed as a function:
`batches(epoch)` gives batches that the loop never looks into, `loss(model, batch)` a `StepLoss`, `validate(model)` a
row with a "score", the higher the better.
"""

import copy
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet import runtime
from wideresnet.errors import INTERRUPTED, TERMINATED, Diverged, Interrupted
from wideresnet.recipes import Recipe, lr_at


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The mean loss of a batch, a scalar with its gradient; how many examples; sums over them, to be averaged."""

    mean: Tensor
    num_examples: int
    sums: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """All that bitwise resume needs, at the end of an epoch. `average` is None without an EMA."""

    model: nn.Module
    optimizer: torch.optim.SGD
    average: nn.Module | None
    epoch: int = 0  # epochs done
    best_score: float | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)  # one an epoch, as in metrics.csv

    @property
    def judged(self) -> nn.Module:
        """What is validated and saved: the average of the weights where there is one."""
        return self.model if self.average is None else self.average


def start(model: nn.Module, recipe: Recipe) -> State:
    average = copy.deepcopy(model).eval().requires_grad_(False) if recipe.ema_decay else None
    return State(model, make_optimizer(model, recipe), average)


def fit(
    state: State,
    batches: Callable[[int], Iterable[Any]],
    loss: Callable[[nn.Module, Any], StepLoss],
    validate: Callable[[nn.Module], Mapping[str, float]],
    *,
    recipe: Recipe,
    steps_per_epoch: int,
    seed: int,
    save: Callable[[State, bool], None],
    watch: runtime.Watch = runtime.QUIET,
) -> State:
    """Trains from `state` to the recipe's last epoch; after each epoch calls `save(state, is_best)`.

    Raises Diverged on a loss or weights that are not finite, Interrupted on Ctrl-C or SIGTERM: in both cases what
    `save` wrote last stands. Nothing random is left between steps: what torch draws itself (dropout) is seeded at each.
    """
    model, optimizer, average = state.model, state.optimizer, state.average
    step = state.epoch * steps_per_epoch
    with runtime.StopSignals() as signals:
        for epoch in range(state.epoch + 1, recipe.epochs + 1):
            started, num_examples, sums = time.perf_counter(), 0, dict[str, float]()
            model.train()
            for batch in batches(epoch):
                lr = lr_at(recipe, step, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(runtime.derive_seed(seed, "step", step))

                result = loss(model, batch)
                value = result.mean.item()
                if value - value != 0:  # NaN or infinite
                    raise Diverged(
                        f"loss is {value} at step {step + 1} (epoch {epoch}), lr {lr:.4g}; whole epochs are kept. "
                        "Try a lower --lr, or a longer --warmup-epochs"
                    )
                optimizer.zero_grad(set_to_none=True)
                result.mean.backward()
                optimizer.step()
                step += 1
                if average is not None:
                    update_average(average, model, recipe.ema_decay, step)

                # Sums, not means: batches may differ in length, and a mean of means would weigh some images more.
                num_examples += result.num_examples
                for name, total in {"loss": value * result.num_examples, **result.sums}.items():
                    sums[name] = sums.get(name, 0.0) + float(total)
                seconds = time.perf_counter() - started
                means = " · ".join(f"{name} {total / num_examples:.3f}" for name, total in sums.items())
                best = (
                    ""
                    if state.best_score is None or recipe.select == "last"
                    else f" · best score {state.best_score:.3f}"
                )
                detail = f"{means}{best} · {num_examples / seconds:,.0f} images/s"
                watch.progress(f"epoch {epoch}/{recipe.epochs}", step, recipe.epochs * steps_per_epoch, detail)
                if signals.caught is not None:
                    raise _interrupted(signals.caught, f"in epoch {epoch}")

            seconds = time.perf_counter() - started
            row: dict[str, Any] = {"epoch": epoch, "lr": lr}
            row |= {f"train_{name}": total / num_examples for name, total in sums.items()}
            row |= validate(state.judged)
            row |= {"seconds": round(seconds, 3), "images_per_s": round(num_examples / seconds, 1)}
            if bad := [name for name, value in row.items() if value - value != 0]:
                raise Diverged(f"{bad[0]} is {row[bad[0]]} after epoch {epoch}, lr {lr:.4g}; try a lower --lr")
            if not all(value.isfinite().all() for value in to_tensors(state).values()):
                raise Diverged(f"weights are not finite after epoch {epoch}, lr {lr:.4g}; try a lower --lr")
            score = row.pop("score", None)
            # Of equals the later: the learning rate has fallen further. Small val parts tie often.
            is_best = recipe.select == "last" or score is None or state.best_score is None or score >= state.best_score
            if is_best:
                state.best_score = score
            state.epoch = epoch
            state.rows.append(row)
            save(state, is_best)
            if signals.caught is not None:  # while validating or writing
                raise _interrupted(signals.caught, f"after epoch {epoch}")
    return state


def _interrupted(number: int, where: str) -> Interrupted:
    code = INTERRUPTED if number == signal.SIGINT else TERMINATED
    return Interrupted(f"stopped {where}; whole epochs are kept", code)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with the recipe's momentum; BN's scales and shifts and biases decay only if the recipe says so."""
    decayed, kept = list[nn.Parameter](), list[nn.Parameter]()
    for parameter in model.parameters():
        (decayed if parameter.dim() > 1 or recipe.decay_norm_and_bias else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
    )


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← d·average + (1-d)·weights after update `step` (from 1); BN's buffers are copied, not averaged.

    d = min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten (TensorFlow's
    ExponentialMovingAverage, `num_updates`).
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - d)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def to_tensors(state: State) -> dict[str, Tensor]:
    """The state as tensors under stable names, for the checkpoint."""
    tensors = {f"model/{key}": value for key, value in state.model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average/{key}": value for key, value in state.average.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        if "momentum_buffer" in state.optimizer.state[parameter]:
            tensors[f"momentum/{name}"] = state.optimizer.state[parameter]["momentum_buffer"]
    return tensors


def from_tensors(state: State, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Sets a fresh `state` to what a checkpoint holds, exactly."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    state.model.load_state_dict(part("model/"))
    if state.average is not None:
        state.average.load_state_dict(part("average/"))
    momentum = part("momentum/")
    for name, parameter in state.model.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])  # in the parameter's own memory format
            state.optimizer.state[parameter]["momentum_buffer"] = buffer
    state.epoch, state.best_score = progress["epoch"], progress["best_score"]
    state.rows = list(progress["rows"])
