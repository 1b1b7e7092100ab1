"""A prepared training → its end: the loop, what it writes, what becomes of a loss that explodes, the judgement."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from wideresnet import classification, engines, hub, processes, recipes, runs, runtime, training
from wideresnet import data as data_room
from wideresnet.detection import BoxEvaluation
from wideresnet.errors import Diverged, ModelFileError, TrainingStopped, UsageError, WideResNetError, is_out_of_memory
from wideresnet.evaluation import Evaluation
from wideresnet.jobs.judging import card
from wideresnet.jobs.preparation import Prepared
from wideresnet.jobs.writing import Saved, Writer, saved

CHECKPOINT_EVERY_S = 600.0
ROLLBACKS, ROLLBACK_FACTOR = 3, 0.25  # a learning rate up to 64 times too high is found; one beyond is no accident


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What training leaves: the folder, and the figures of its model on the test part (val where there is none).

    Of a cross-validation: its folder, the figures over all held-out pictures, and the run of each fold.
    """

    folder: Path
    evaluation: Evaluation
    folds: "tuple[Run, ...]" = ()


@dataclass(frozen=True, slots=True, eq=False)
class BoxRun:
    """The same of a detector."""

    folder: Path
    evaluation: BoxEvaluation


def go_on(
    prepared: Prepared,
    folder: Path,
    stored: runs.Config,
    every_s: float,
    *,
    found: Saved | None,
    otherwise: Mapping[str, str] = MappingProxyType({}),
) -> Run | BoxRun:
    """The run in `folder`, begun under the config `stored`, from where it stands (`found`; None: its beginning) to its
    end. otherwise: as from `changed`."""
    is_main = prepared.world.is_main
    if is_main:
        prepared = dataclasses.replace(prepared, watch=_noted(prepared.watch, folder))
    state = _restored(prepared, found)
    if found is not None:
        if state.rows and is_main:  # a kill may have come between the checkpoint and them
            runs.write_metrics(folder, state.rows)
        where = state.where(_steps_per_epoch(prepared))
        prepared.watch.line(f"going on with {folder} {where} of {prepared.config.recipe.epochs}")
    changed = {**({} if found is None else found.changed), **otherwise}
    writer = Writer(
        folder,
        stored,
        every_s,
        changed=changed,
        counts=prepared.counts,
        losses=lambda: data_room.losses(prepared.train),
    )
    writer.last_is_whole = found is not None and found.is_last
    return _finish(prepared, state, folder, writer)


def _restored(prepared: Prepared, found: Saved | None) -> training.State:
    """The state that a run goes on from. Raises ModelFileError where a checkpoint is not one of its network."""
    state = prepared.new_state()
    if found is not None:
        try:
            training.from_tensors(state, found.tensors, found.progress)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelFileError(f"{found.path}: a checkpoint whose content does not fit together: {reason}") from error
    return state


def _finish(prepared: Prepared, state: training.State, folder: Path, writer: Writer) -> Run | BoxRun:
    """Trains what is left to train, then judges the best model on held-out pictures and reports."""
    config, world = prepared.config, prepared.world
    stands = {"epochs done": state.epoch, "steps done": state.begun.steps, "epochs in all": config.recipe.epochs}
    if found := world.differing(stands):
        raise UsageError(
            f"{folder}: not the same in all processes ({'; '.join(found)}). Start all with the same options, and give "
            "machines one shared folder for runs"
        )
    whole = folder.parent if config.fold else folder  # a fold goes on as a part of its cross-validation
    extra = {"seen": _seen(prepared)}
    facts = config.to_dict() | {"recipe": config.recipe.name}
    facts |= {name: value for name, value in dataclasses.asdict(config.recipe).items() if name not in recipes.FIXED}
    changed = [f"went on with other {name} ({how}): no bitwise repetition" for name, how in writer.changed.items()]
    prepared = dataclasses.replace(prepared, notes=(*prepared.notes, *changed))
    try:
        with (
            processes.others_watched(),
            hub.tracking(config.track if world.is_main else (), folder, facts, prepared.watch.line) as track,
            writer,
        ):

            def save(state: training.State, is_best: bool) -> None:
                if world.is_main:
                    writer.put(state, (card(prepared, state, writer.changed), extra) if is_best else None, track)

            due = writer.due if world.is_main else _never
            while True:
                try:
                    validate = prepared.task.validation(prepared)
                    fit_prepared(prepared, state, validate, save, due=due, settle=writer.wait)
                    break
                except Diverged as error:
                    state = _gone_back(prepared, state, folder, writer, error)
        with processes.others_watched(), data_room.workers_watched():
            evaluation = prepared.task.judge(_with_lost(prepared), state, folder)
            return Run(folder, evaluation) if isinstance(evaluation, Evaluation) else BoxRun(folder, evaluation)
    except Diverged:
        raise  # going on would come to the same
    except WideResNetError as error:
        error.args = (f"{error}. Go on with: {config.launcher} train --resume {shlex.quote(str(whole))}",)
        raise
    except (RuntimeError, MemoryError) as error:
        raise out_of_memory(error, folder) from error


def _with_lost(prepared: Prepared) -> Prepared:
    """Its notes tell of the pictures that could not be read any more while it trained."""
    if not (lost := data_room.losses(prepared.train)):
        return prepared
    names = "\n".join(f"  {one['name']}: {one['reason']}" for one in lost)
    note = f"left out of some batches, unreadable since the training began: {len(lost)}\n{names}"
    return dataclasses.replace(prepared, notes=(*prepared.notes, note))


def _never() -> bool:
    return False


def _noted(watch: runtime.Watch, folder: Path) -> runtime.Watch:
    """What is said while it trains stays in the log too."""

    def line(text: str) -> None:
        watch.line(text)
        runs.log(folder, text)

    return dataclasses.replace(watch, line=line)


def _gone_back(
    prepared: Prepared, state: training.State, folder: Path, writer: Writer, error: Diverged
) -> training.State:
    """The last checkpoint's state, or the first of all, with a lower learning rate; where that is not wanted, or was
    done as often as it is, raises `error`, which then tells what stands."""
    watch, world = prepared.watch, prepared.world
    writer.wait()
    rows = getattr(error.batch, "rows", None)
    if rows is not None and world.is_main:
        names = [prepared.train.names[row] for row in rows.tolist()]
        runs.log(folder, f"{error} Its batch: {'; '.join(names)}")
    world.largest(0)  # all read the files once they are written
    found = saved(folder, writer.config, watch.line)
    back = _restored(prepared, found)
    where = "the beginning" if found is None else f"the checkpoint {back.where(_steps_per_epoch(prepared))}"
    if prepared.config.recipe.on_nan == "stop" or state.rollbacks == ROLLBACKS:
        at = back.where(_steps_per_epoch(prepared))
        again = f"{prepared.config.launcher} train --resume {shlex.quote(str(folder))} --on-nan rollback"
        parts = [
            str(error),
            "No checkpoint was written yet"
            if found is None
            else f"The last good checkpoint, {at}, is whole: {found.path}",
            f"It went back {ROLLBACKS} times" if state.rollbacks else f"To go back with a quarter of the rate: {again}",
            *([] if rows is None else [f"{folder / runs.LOG} names the batch's pictures"]),
        ]
        error.args = (". ".join(parts),)
        raise error
    writer.last_is_whole = found is not None and found.is_last
    back.rollbacks = state.rollbacks + 1
    back.lr_factor = state.lr_factor * ROLLBACK_FACTOR
    watch.line(f"note: {error}. Back to {where}, from there at {back.lr_factor:g} of the learning rate")
    if back.rows and world.is_main:
        runs.write_metrics(folder, back.rows)
    return back


def out_of_memory(error: RuntimeError | MemoryError, folder: Path) -> TrainingStopped:
    """What to say where there was no memory, on a CPU or a GPU; any other error is raised as it is."""
    if not is_out_of_memory(error):
        raise error
    return TrainingStopped(
        f"out of memory in {folder}. It goes on from its last checkpoint, if it has one, where there is more memory; "
        "or train anew with --accumulate 2 or more (as many pictures for an update, fewer at once), or a smaller --size"
    )


def fit_prepared(
    prepared: Prepared,
    state: training.State,
    validate: Callable[[nn.Module], Mapping[str, float]],
    save: Callable[[training.State, bool], None],
    *,
    due: Callable[[], bool] = _never,
    settle: Callable[[], None] = lambda: None,
) -> None:
    """The loop on what was prepared, from `state` to the last epoch; errors as `training.fit`, and TrainingStopped if a
    process that reads pictures dies."""
    config, recipe, world = prepared.config, prepared.config.recipe, prepared.world
    with data_room.workers_watched(), engines.threads(config.engine, config.threads), runtime.memory_kept():
        training.fit(
            state,
            prepared.task.batches(prepared),
            prepared.task.loss(prepared),
            validate,
            recipe=recipe,
            steps_per_epoch=_steps_per_epoch(prepared),
            seed=config.seed,
            save=save,
            due=due,
            settle=settle,
            watch=prepared.watch,
            world=world,
        )


def _steps_per_epoch(prepared: Prepared) -> int:
    return classification.steps_per_epoch(len(prepared.train), prepared.config.recipe, prepared.world)


def _seen(prepared: Prepared) -> torch.Tensor:
    """Marks of every picture that the weights were fitted on, here or in the model that training began with."""
    own = data_room.marks(prepared.train)
    theirs = None if prepared.source is None else prepared.source.file.extra.get("seen")
    return own if theirs is None else torch.unique(torch.cat([own, theirs]), dim=0)
