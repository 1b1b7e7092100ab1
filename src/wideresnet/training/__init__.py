"""Model + batches + loss + validation → a trained model, one epoch after another. The loop, which knows no task.

Read `fit` from top to bottom, then `update`, one step of it; there is nothing to subclass and nothing to hook. What
varies is passed as a function: `batches(epoch, step)` gives an epoch's batches from a step on, which the loop never
looks into (it may cut one: `len` and a slice), `loss(model, batch)` a `StepLoss`, `validate(model)` a row with a
"score", the higher the better. What is frozen the network says itself: parameters without `requires_grad`.
"""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet import engines, kernels, runtime
from wideresnet.errors import INTERRUPTED, TERMINATED, Diverged, Interrupted, is_out_of_memory
from wideresnet.processes import ALONE, World
from wideresnet.recipes import Recipe, lr_at, momentum_begins_anew
from wideresnet.training.averages import average_epochs, copy_buffers, recompute_bn, share_of, update_average
from wideresnet.training.modes import frozen_modules, to_train_mode
from wideresnet.training.state import (
    Begun,
    State,
    StepLoss,
    device_of,
    from_tensors,
    make_optimizer,
    start,
    to_progress,
    to_tensors,
)

__all__ = [
    "Begun",
    "Loss",
    "State",
    "StepLoss",
    "compiled",
    "fit",
    "from_tensors",
    "frozen_modules",
    "gradient",
    "gradients",
    "in_parts",
    "is_finite",
    "make_optimizer",
    "recompute_bn",
    "start",
    "through",
    "to_progress",
    "to_tensors",
    "to_train_mode",
    "update",
    "update_average",
]


Loss = Callable[[nn.Module, Any], StepLoss]

_EXPLODED = 1e4  # times the first step's loss, or 1


def fit(
    state: State,
    batches: Callable[[int, int], Iterable[Any]],
    loss: Loss,
    validate: Callable[[nn.Module], Mapping[str, float]],
    *,
    recipe: Recipe,
    steps_per_epoch: int,
    seed: int,
    save: Callable[[State, bool], None],
    due: Callable[[], bool] = lambda: False,
    settle: Callable[[], None] = lambda: None,
    watch: runtime.Watch = runtime.QUIET,
    world: World = ALONE,
) -> State:
    """Trains from `state` to the recipe's last epoch; after each epoch calls `save(state, is_best)`, and so, never as
    the best, within one (`state.begun.steps` > 0) where a signal stops it, and after each step at which `due()`. What
    `save` may write beside the training is on the disk once `settle()` returns.

    Of many processes (`world`) each runs this on its part of every batch; gradients and sums are those of the whole.

    Raises Diverged on a loss that is not finite or explodes and on weights that are not finite, Interrupted on Ctrl-C
    or SIGTERM: in both cases what `save` wrote last stands, and is finite. Nothing random is left between steps: what
    torch draws itself (dropout) is seeded at each. Where memory runs out, batches are computed in more parts
    (`gradient`).
    """
    trained = through(state, recipe)
    with runtime.StopSignals() as signals, _signal_before_rollback(signals, recipe):
        for epoch in range(state.epoch + 1, recipe.epochs + 1):
            if recipe.early_stopping and state.epoch - state.improved >= recipe.early_stopping:
                watch.line(f"ended after epoch {state.epoch}: no better score since epoch {state.improved}")
                break
            begun, step = state.begun, state.epoch * steps_per_epoch + state.begun.steps
            if momentum_begins_anew(recipe, epoch) and not begun.steps:
                state.optimizer.state.clear()
            started = time.perf_counter() - begun.seconds
            to_train_mode(state.model, frozen_modules(state.model))
            for batch in batches(epoch, begun.steps):
                lr = lr_at(recipe, step, steps_per_epoch) * state.lr_factor
                step_seed = runtime.derive_seed(seed, "step", step, *([world.rank] if world.rank else []))
                step, parts = step + 1, state.parts
                result = update(state, trained, batch, loss, recipe, lr=lr, seed=step_seed, step=step, world=world)
                if state.parts > parts:
                    watch.line(_in_more_parts(state.parts, step, recipe))
                value = result.mean.item()
                if _exploded(state, value):
                    where = f"at step {step} (epoch {epoch}), lr {lr:.4g}"
                    raise Diverged(f"loss is {value:.4g} {where}. Try a lower --lr, or a longer --warmup-epochs", batch)
                begun.count(value, result)
                begun.seconds = time.perf_counter() - started
                best = None if recipe.select == "last" else state.best_score
                watch.progress(
                    f"epoch {epoch}/{recipe.epochs}", step, recipe.epochs * steps_per_epoch, _so_far(begun, best)
                )
                if caught := world.largest(signals.caught or 0):  # in any process: so all stop, after the same step
                    _save_finite(state, state.where(steps_per_epoch), lr, save)
                    raise _stopped(caught, state.where(steps_per_epoch), settle, world)
                if due() and is_finite(state):  # if not, the next loss tells it to all processes alike
                    save(state, False)

            if (num_averaged := epoch - (recipe.epochs - recipe.swa_epochs)) > 0:
                torch.manual_seed(runtime.derive_seed(seed, "bn", epoch))
                _average_epochs(state, num_averaged, batches(epoch, 0), loss)
            world.buffers_from_main(state.model, state.average)
            row: dict[str, Any] = {"epoch": epoch, "lr": lr_at(recipe, step - 1, steps_per_epoch) * state.lr_factor}
            row |= {f"train_{name}": total / begun.num_examples for name, total in begun.sums.items()}
            try:
                with signals.at_once(world.size == 1 and num_averaged <= 0):  # nothing but the row would be half done
                    row |= validate(state.judged)
            except runtime.StoppedAtOnce:
                _save_finite(state, state.where(steps_per_epoch), row["lr"], save)
                raise _stopped(signals.caught or 0, state.where(steps_per_epoch), settle, world) from None
            row |= {"seconds": round(begun.seconds, 3), "images_per_s": round(begun.num_examples / begun.seconds, 1)}
            _check_finite(state, row)
            is_best = _is_best(state, epoch, row.pop("score", None), recipe)
            state.epoch, state.begun = epoch, Begun()
            state.rows.append(row)
            save(state, is_best)
            if caught := world.largest(signals.caught or 0):  # while validating or writing
                raise _stopped(caught, state.where(steps_per_epoch), settle, world)
    return state


def update(
    state: State,
    trained: nn.Module,
    batch: Any,
    loss: Loss,
    recipe: Recipe,
    *,
    lr: float,
    seed: int,
    step: int = 0,
    world: World = ALONE,
) -> StepLoss:
    """One step: gradients, then SGD and the running average. Where the loss is not finite all stays as it is.

    `trained` is `state.model`, or computes as it does on the same parameters. `seed`: of what torch draws itself.
    `step`: its number, from 1, which the average's decay goes by; 0 leaves the average alone.
    """
    result = gradient(state, trained, batch, loss, recipe, seed=seed, world=world)
    if not result.mean.isfinite():
        return result
    state.scaler.unscale_(state.optimizer)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    average = state.average if recipe.ema_decay and step else None
    if state.engine == "kernels":  # as below, in one pass over memory
        averages = dict[Tensor, Tensor]()
        if average is not None:
            averages |= zip(state.model.parameters(), average.parameters(), strict=True)
            copy_buffers(average, state.model)
        kernels.update(state.optimizer, averages, share_of(recipe.ema_decay, step))
        return result
    state.scaler.step(state.optimizer)  # fp16: left out where the scaled gradient is not finite, and scaled less then
    state.scaler.update()
    if average is not None:
        update_average(average, state.model, recipe.ema_decay, step)
    return result


def gradient(
    state: State, trained: nn.Module, batch: Any, loss: Loss, recipe: Recipe, *, seed: int, world: World = ALONE
) -> StepLoss:
    """Leaves in the parameters the gradient of a step, as `gradients` does; with SAM the one that counts there.

    Where memory runs out it is computed anew in twice as many parts, of two examples each at least, and so are those
    of the steps that follow: as by a training that was begun with so many. Not among several processes, which would
    wait for one another.
    """
    buffers = list(state.model.buffers())
    state.spare = state.spare or [torch.empty_like(buffer) for buffer in buffers]
    _copy_all(state.spare, buffers)
    while True:
        whole = state.parts == recipe.accumulate
        divided = recipe if whole else dataclasses.replace(recipe, accumulate=state.parts)
        try:
            torch.manual_seed(seed)
            result = gradients(trained, batch, loss, divided, state.scaler, world=world)
            if recipe.sam_rho and result.mean.isfinite():  # what counts is the gradient at the worst weights near by
                with moved_uphill(state.model, recipe.sam_rho):
                    torch.manual_seed(seed)  # the same loss: dropout drops the same
                    gradients(trained, batch, loss, divided, state.scaler, world=world)
            return result
        except (RuntimeError, MemoryError) as error:
            if world.size > 1 or not is_out_of_memory(error) or 4 * state.parts > _length(batch):
                raise
        # Here, where the error and what it holds on to are gone.
        state.parts *= 2
        state.model.zero_grad(set_to_none=True)
        _copy_all(buffers, state.spare)
        runtime.give_memory_back(device_of(state.model))


def _copy_all(to: list[Tensor], what: list[Tensor]) -> None:
    if to:  # torch refuses none
        torch._foreach_copy_(to, what)


def _length(batch: Any) -> int:
    """0 of a batch that has none, and so cannot be cut."""
    return len(batch) if hasattr(batch, "__len__") else 0


def gradients(
    model: nn.Module, batch: Any, loss: Loss, recipe: Recipe, scaler: torch.amp.GradScaler, *, world: World = ALONE
) -> StepLoss:
    """Leaves in the parameters the gradient of the mean loss of `batch`, as `scaler` scales it; → that loss, detached.

    `batch` is this process's part of one that all of `world` share, and the gradient and the loss are of the whole.
    Computed in `recipe.accumulate` parts, and equal to the whole batch's but for BN, which sees each part alone.
    """
    model.zero_grad(set_to_none=True)
    device = device_of(model)
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16
    mean, num_examples, sums = torch.zeros((), device=device), 0, dict[str, Tensor]()
    ours = 1.0 if world.size == 1 else len(batch) / world.total(len(batch))  # alone, a batch need not have a length
    for share_of_ours, part in in_parts(batch, recipe.accumulate):
        share = share_of_ours * ours
        with torch.autocast(device.type, dtype, enabled=recipe.precision != "fp32"):
            result = loss(model, part)
        scaler.scale(result.mean * share).backward()
        mean = mean + result.mean.detach() * share
        num_examples += result.num_examples
        for name, total in result.sums.items():
            sums[name] = sums[name] + total if name in sums else total
    world.add_gradients(model.parameters())
    # Here, and only here, the gradient of a step is complete.
    if world.size > 1:
        mean, count, *totals = world.add(torch.stack([mean, mean.new_tensor(num_examples), *sums.values()]).double())
        num_examples, sums = int(count), dict(zip(sums, totals, strict=True))
    return StepLoss(mean, num_examples, sums)


def in_parts(batch: Any, num: int) -> Iterator[tuple[float, Any]]:
    """`batch` cut into `num` parts, whose lengths differ by one at most, each with its share of the whole; at most as
    many parts as it has examples."""
    if num == 1:
        yield 1.0, batch
        return
    length = len(batch)
    for i in range(num):
        begin, end = length * i // num, length * (i + 1) // num
        if begin < end:
            yield (end - begin) / length, batch[begin:end]


@contextmanager
def moved_uphill(model: nn.Module, rho: float) -> Iterator[None]:
    """While open, the weights are at w + ρ·g/|g|, g being the gradient that they hold; then at w again, and the buffers
    (BN's statistics) as they were. Foret et al. 2021, equation 2 with p = 2 and algorithm 1; |g| over all parameters.
    """
    moved = [value.detach() for value in (*model.parameters(), *model.buffers())]
    before = [value.clone() for value in moved]
    slopes = [(p.detach(), p.grad) for p in model.parameters() if p.grad is not None]
    length = torch.stack([slope.norm() for _, slope in slopes]).norm()
    try:
        for weights, slope in slopes:
            weights.add_(slope * (rho / (length + 1e-12)))
        yield
    finally:
        torch._foreach_copy_(moved, before)


def through(state: State, recipe: Recipe) -> nn.Module:
    """What the steps compute with: `state.model` through its engine, or through torch.compile."""
    return compiled(engines.through(state.model, state.engine), recipe)


def compiled(model: nn.Module, recipe: Recipe) -> nn.Module:
    """`model` itself, or through torch.compile where the recipe says so: same parameters, `model` stays as it is."""
    # Each shape is compiled for itself: there are few of them, the whole batches and the last one.
    return torch.compile(model, dynamic=False) if recipe.compile else model  # type: ignore[return-value]


def _average_epochs(state: State, num: int, batches: Iterable[Any], loss: Loss) -> None:
    """SWA: the mean of the weights after the last `num` epochs, and BN's statistics of it over `batches`."""
    state.average = average_epochs(state.average, state.model, num)
    computed = engines.through(state.average, state.engine)
    recompute_bn(state.average, computed, batches, loss, frozen_modules(state.model))


def _is_best(state: State, epoch: int, score: float | None, recipe: Recipe) -> bool:
    """Whether the epoch is the best so far, or the one that is to be taken; kept in `state`."""
    if state.best_score is None or score is None or score > state.best_score:
        state.improved = epoch
    # Of equals the later: the learning rate has fallen further. Small val parts tie often.
    is_best = recipe.select == "last" or score is None or state.best_score is None or score >= state.best_score
    if is_best:
        state.best_score = score
    return is_best


def _exploded(state: State, value: float) -> bool:
    """Whether a step's loss is no number, or so large that no training that learns comes back from there."""
    if not math.isfinite(value):
        return True
    state.first_loss = value if state.first_loss is None else state.first_loss
    return abs(value) > _EXPLODED * max(1.0, abs(state.first_loss))


def _in_more_parts(parts: int, step: int, recipe: Recipe) -> str:
    return (
        f"note: out of memory at step {step}; from it on each batch of {recipe.batch_size} is computed in {parts} "
        f"parts, of which BN sees each alone. --accumulate {parts} begins so"
    )


def _so_far(begun: Begun, best: float | None) -> str:
    means = [f"{name} {total / begun.num_examples:.3f}" for name, total in begun.sums.items()]
    scored = [] if best is None else [f"best score {best:.3f}"]
    return " · ".join([*means, *scored, f"{begun.num_examples / begun.seconds:,.0f} images/s"])


def _check_finite(state: State, row: Mapping[str, float]) -> None:
    where = f"after epoch {row['epoch']}"
    if bad := [name for name, value in row.items() if value - value != 0]:
        raise Diverged(f"{bad[0]} is {row[bad[0]]} {where}, lr {row['lr']:.4g}. Try a lower --lr")
    _check_weights(state, where, row["lr"])


def _check_weights(state: State, where: str, lr: float) -> None:
    if not is_finite(state):
        raise Diverged(f"weights are not finite {where}, lr {lr:.4g}. Try a lower --lr")


def _save_finite(state: State, where: str, lr: float, save: Callable[[State, bool], None]) -> None:
    """Within an epoch: weights that are not finite are never written. Raises Diverged."""
    _check_weights(state, where, lr)
    save(state, False)


def is_finite(state: State) -> bool:
    """Whether all that a checkpoint of it holds is."""
    return all(value.isfinite().all() for value in to_tensors(state).values())


def _stopped(number: int, where: str, settle: Callable[[], None], world: World) -> Interrupted:
    """What ends the training, once all that it has come to is on the disk: torchrun ends the other processes, and they
    each other, as soon as one has ended."""
    settle()
    world.largest(0)
    return _interrupted(number, where)


@contextmanager
def _signal_before_rollback(signals: runtime.StopSignals, recipe: Recipe) -> Iterator[None]:
    """Who has asked it to stop does not see it begin again somewhere else."""
    try:
        yield
    except Diverged as error:
        if signals.caught and recipe.on_nan == "rollback":
            raise _interrupted(signals.caught, f"as it diverged ({error})") from error
        raise


def _interrupted(number: int, where: str) -> Interrupted:
    code = INTERRUPTED if number == signal.SIGINT else TERMINATED
    return Interrupted(f"stopped {where}", code)
