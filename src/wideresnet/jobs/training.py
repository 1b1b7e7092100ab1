"""`train` and `resume`: data → run folder, model file, report."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import nn

from wideresnet import (
    augment,
    checkpoint,
    classification,
    engines,
    hub,
    kinds,
    processes,
    recipes,
    runs,
    runtime,
    training,
)
from wideresnet import data as data_room
from wideresnet.errors import (
    DataError,
    Diverged,
    ModelFileError,
    TrainingStopped,
    UsageError,
    WideResNetError,
    is_out_of_memory,
)
from wideresnet.evaluation import Evaluation
from wideresnet.jobs import crossvalidation, transfer
from wideresnet.jobs.judging import card, duration, judge
from wideresnet.jobs.planning import Plan, check_versions, plan
from wideresnet.jobs.preparation import (
    Decoded,
    Prepared,
    decoded,
    divided,
    fit_to_data,
    seconds_per_epoch,
    with_epochs,
)
from wideresnet.reading import Reading
from wideresnet.recipes import RecipeChanges


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What training leaves: the folder, and the figures of its model on the test part (val where there is none).

    Of a cross-validation: its folder, the figures over all held-out pictures, and the run of each fold.
    """

    folder: Path
    evaluation: Evaluation
    folds: "tuple[Run, ...]" = ()


@processes.joined()
@kinds.checked
def train(
    data: str | Path,
    *,
    arch: str | None = None,
    recipe: str | None = None,
    size: int | None = None,
    in_channels: int | None = None,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init: str | Path | None = None,
    from_model: str | Path | None = None,
    pretrained: bool = False,
    freeze: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    engine: engines.Name = "auto",
    out: str | Path | None = None,
    time_budget_s: float | None = None,
    folds: int | None = None,
    max_bad: int | None = 0,
    labels: int | None = None,
    cache: data_room.Cache = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    download: bool = False,
    track: Sequence[str] = (),
    watch: runtime.Watch = runtime.PRINT,
    **changes: Unpack[RecipeChanges],
) -> Run:
    """Trains a network on `data` and leaves a run folder. What is not given comes from the data (`recipes.defaults`).

    size: pixels of the square that pictures are resized to. mean, std: per channel, in [0, 1] units. max_bad: how many
    unreadable pictures may be left out, None for any number. time_budget_s: as many epochs as fit. folds: train so many
    networks, each judged on the part of train and val that it alone never saw. recipe: "fast", or "finetune" where
    `init` (a run folder or model file; first called `from_model`) or `pretrained` (the weights that torchvision or timm
    publishes for `arch`) gives the weights to begin with; its network, mean and std are kept, and its size if none is
    given. in_channels: 3, or `init`'s; of another number, see `transfer.with_channels`. freeze: parts of the network
    that stay as they are ("stem", "stage1"…, "backbone"), BN statistics too. labels: train on so many pictures of each
    class, drawn by the seed. engine: what computes, "auto" the kernels where they can (`engines.for_training`). cache:
    where decoded pictures are kept (`data.choose`), which changes no result. The columns and download: see `Reading`,
    and `download` fetches published weights too.
    track: "tensorboard", "mlflow". `changes`: fields of the recipe. Raises DataError, UsageError (nothing is written),
    TrainingStopped or Interrupted (can be resumed).

    Started in several processes by torchrun, they train together: each on its part of every batch, the first one
    writing the files, all of them returning the same.
    """
    world = processes.current()
    watch = watch if world.is_main else runtime.QUIET
    if world.is_main:
        runs.check_out(None if out is None else Path(out))
    hub.check_trackers(track)
    if time_budget_s is not None and changes.get("epochs") is not None:
        raise UsageError("--epochs and --time-budget say the same thing twice; give one")
    if time_budget_s is not None and not 0 < time_budget_s < 1e9:
        raise UsageError(f"time_budget_s={time_budget_s}: expected seconds above 0")
    reading = Reading(
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        download=download,
    )
    with world.one_first():
        planned = plan(
            data,
            changes,
            arch=arch,
            recipe=recipe,
            size=size,
            in_channels=in_channels,
            fit=fit,
            mean=mean,
            std=std,
            init=transfer.named_once(init, from_model),
            pretrained=pretrained,
            freeze=freeze,
            seed=seed,
            device=device,
            engine=engine,
            max_bad=max_bad,
            labels=labels,
            folds=folds,
            reading=reading,
            watch=watch,
            world=world,
        )
        config = dataclasses.replace(planned.config, track=tuple(dict.fromkeys(track)))
        pictures = decoded(config, planned.listing, watch, source=planned.source, cache=cache)
    check_same(world, config, pictures)
    config = crossvalidation.fit_to_folds(config, pictures) if config.folds else config
    first = dataclasses.replace(config, fold=min(config.folds, 1))
    prepared = fit_to_data(divided(first, pictures, watch, world=world))
    with engines.threads(config.engine, config.threads), runtime.memory_kept(), data_room.workers_watched():
        epoch_s = seconds_per_epoch(prepared) * max(config.folds, 1)
    if time_budget_s is not None:
        prepared = with_epochs(prepared, max(1, int(time_budget_s * 0.95 / epoch_s)), changes)
    config, name = dataclasses.replace(prepared.config, fold=0), prepared.name
    folder = world.from_main(runs.create(name, None if out is None else Path(out)) if world.is_main else Path())
    if world.is_main:
        runs.write_config(folder, config)
        _say_plan(prepared, folder, epoch_s, planned)
    if config.folds:
        del prepared  # as below
        return _every_fold(config, pictures, folder, watch)
    del pictures  # parts that were made are copies: the same pictures would lie in memory twice
    return _finish(prepared, prepared.new_state(), folder)


@processes.joined()
@kinds.checked
def resume(folder: str | Path, *, cache: data_room.Cache = "auto", watch: runtime.Watch = runtime.PRINT) -> Run:
    """Goes on with a run, or with the fold that a cross-validation was at, bitwise as if it had not been stopped: from
    the step where a signal stopped it; after a crash, from the last whole epoch, or the step that it last went on from.

    Raises ModelFileError if `folder` is no run, DataError if the data has changed since, UsageError if device or
    versions have.
    """
    world, folder = processes.current(), Path(folder)
    watch = watch if world.is_main else runtime.QUIET
    config = runs.read_config(folder)
    runtime.choose_device(config.device)
    if config.processes != world.size:
        raise UsageError(
            f"{folder}: trained by {config.processes} processes, and these are {world.size}, so going on would not be "
            f"bitwise the same. Go on with: {config.launcher} train --resume {shlex.quote(str(folder))}"
        )
    check_versions(folder, config)
    if not config.every_fold:
        _saved(config, folder)  # what is wrong with it is said before any picture is read
    if config.recipe.compile:
        runtime.check_compiler(torch.device(config.device))
    hub.check_trackers(config.track)
    with world.one_first():
        listing, source = data_room.read(config.data, config.reading, watch), transfer.source_of(config)
        pictures = decoded(config, listing, watch, source=source, cache=cache)
    check_same(world, config, pictures)
    if pictures.fingerprint != config.fingerprint:
        raise DataError(f"{config.data}: not the data that {folder} was trained on (pictures or labels differ)")
    if config.every_fold:
        return _every_fold(config, pictures, folder, watch)
    prepared = divided(config, pictures, watch, world=world)
    del pictures  # as in `train`
    return _go_on(prepared, folder)


def check_same(world: processes.World, config: runs.Config, pictures: Decoded) -> None:
    """Raises DataError or UsageError, in all processes, where they have read different pictures or have been given
    different options. Where their data lies, and how many cores they have, may differ."""
    read: dict[str, object] = {"classes": len(pictures.class_names)}
    read |= {f"pictures ({part})": f"{len(found):,}" for part, found in pictures.parts.items()}
    read |= {"class names": ", ".join(pictures.class_names), "fingerprint": pictures.fingerprint[:12]}
    if found := world.differing(read):
        raise DataError(
            f"{config.data}: not the same data in all {world.size} processes ({'; '.join(found)}). Give each "
            "machine the same pictures in the same folders"
        )
    options = config.to_dict()
    options |= {**options.pop("recipe"), **options.pop("reading")}
    for of_the_machine in ("data", "threads", "init", "fingerprint", "versions"):
        del options[of_the_machine]
    if found := world.differing(options):
        raise UsageError(f"the {world.size} processes have different options ({'; '.join(found)}); give all the same")


def _every_fold(config: runs.Config, pictures: Decoded, folder: Path, watch: runtime.Watch) -> Run:
    """Trains what is left of each fold in turn; then one evaluation and one report of all."""
    folds, notes = list[Run](), list[str]()
    for one in crossvalidation.configs(config):
        place = folder / f"fold-{one.fold}"
        watch.line(f"fold {one.fold} of {one.folds} → {place}")
        if not (place / runs.CONFIG).exists():
            runs.write_config(place, one)
        prepared = divided(one, pictures, watch)
        notes += [f"fold {one.fold}: {note}" for note in prepared.notes[len(pictures.notes) :]]
        folds.append(_go_on(prepared, place))
        del prepared  # before the next is made
    evaluation = crossvalidation.conclude(
        config, pictures, folder, [run.evaluation for run in folds], notes=notes, watch=watch
    )
    return Run(folder, evaluation, tuple(folds))


def _saved(config: runs.Config, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The checkpoint in `folder`; None where its run has none yet. Raises ModelFileError if it is not of `config`."""
    state_file = folder / runs.CHECKPOINT
    tensors, progress = checkpoint.load_checkpoint(state_file) if state_file.exists() else ({}, None)
    if progress is None and (folder / runs.METRICS).exists():  # written after the first checkpoint
        raise ModelFileError(f"{folder}: its {runs.CHECKPOINT} is gone, so it cannot go on; train anew")
    if progress is not None and progress["config"] != config.digest:
        raise ModelFileError(f"{folder / runs.CONFIG}: not the config this run was made with; put the old one back")
    return None if progress is None else (tensors, progress)


def _go_on(prepared: Prepared, folder: Path) -> Run:
    """The run in `folder` from where it stands to its end."""
    config, state = prepared.config, prepared.new_state()
    if (saved := _saved(config, folder)) is not None:
        training.from_tensors(state, *saved)
        if state.rows and prepared.world.is_main:  # a kill may have come between the checkpoint and them
            runs.write_metrics(folder, state.rows)
    if saved is not None or not config.fold:
        where = state.where(_steps_per_epoch(prepared))
        prepared.watch.line(f"going on with {folder} {where} of {config.recipe.epochs}")
    return _finish(prepared, state, folder)


def _say_plan(prepared: Prepared, folder: Path, epoch_s: float, planned: Plan) -> None:
    config, say = prepared.config, prepared.watch.line
    counts = ", ".join(f"{len(pictures):,} {split}" for split, pictures in prepared.splits.parts.items())
    for note in prepared.notes:
        say(f"note: {note}")
        runs.log(folder, f"note: {note}")
    recipe = config.recipe
    what = [f"frozen: {', '.join(config.freeze)}"] if config.freeze else []
    what += [f"augmentation: {augment.describe(recipe)}", *recipes.extras(recipe)]
    say(
        f"{config.arch} at {config.size} pixels for {counts} pictures of {len(prepared.class_names)} classes "
        f"(about {planned.side} pixels), {prepared.kept}; {planned.computed_by}; {prepared.splits.note}"
    )
    say(
        f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, lr {recipe.lr:g}, "
        f"weight decay {recipe.weight_decay:g}, {', '.join(what)}; "
        f"about {duration(epoch_s * recipe.epochs)} → {folder}"
    )


def _finish(prepared: Prepared, state: training.State, folder: Path) -> Run:
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
    try:
        with (
            processes.others_watched(),
            hub.tracking(config.track if world.is_main else (), folder, facts, prepared.watch.line) as track,
        ):

            def save(state: training.State, is_best: bool) -> None:
                if not world.is_main:
                    return
                # The model first: a kill between the two writes leaves a best model as new or newer, never lost.
                if is_best:
                    checkpoint.save_model(folder / runs.MODEL, state.judged.state_dict(), card(prepared, state), extra)
                progress = {**training.to_progress(state), "config": config.digest}
                checkpoint.save_checkpoint(folder / runs.CHECKPOINT, training.to_tensors(state), progress)
                if state.begun.steps:  # stopped within an epoch, which has no row yet
                    return
                runs.write_metrics(folder, state.rows)
                runs.log(folder, "  ".join(f"{key} {value}" for key, value in state.rows[-1].items()))
                track(state.rows[-1])

            fit_prepared(prepared, state, validation(prepared), save)
        with processes.others_watched(), data_room.workers_watched():
            return Run(folder, judge(prepared, state, folder))
    except Diverged:
        raise  # going on would come to the same
    except WideResNetError as error:
        error.args = (f"{error}. Go on with: {config.launcher} train --resume {shlex.quote(str(whole))}",)
        raise
    except (RuntimeError, MemoryError) as error:
        raise out_of_memory(error, folder) from error


def out_of_memory(error: RuntimeError | MemoryError, folder: Path) -> TrainingStopped:
    """What to say where there was no memory, on a CPU or a GPU; any other error is raised as it is."""
    if not is_out_of_memory(error):
        raise error
    return TrainingStopped(f"out of memory in {folder}: train anew with a smaller --batch-size or --size")


def validation(prepared: Prepared) -> Callable[[nn.Module], dict[str, float]]:
    """What `fit_prepared` judges an epoch by: the val part."""
    val = prepared.splits.parts.get("val")
    return classification.validation(val, prepared.preprocess, prepared.device, prepared.world)


def fit_prepared(
    prepared: Prepared,
    state: training.State,
    validate: Callable[[nn.Module], Mapping[str, float]],
    save: Callable[[training.State, bool], None],
) -> None:
    """The loop on what was prepared, from `state` to the last epoch; errors as `training.fit`, and TrainingStopped if a
    process that reads pictures dies."""
    config, recipe, world = prepared.config, prepared.config.recipe, prepared.world
    with data_room.workers_watched(), engines.threads(config.engine, config.threads), runtime.memory_kept():
        training.fit(
            state,
            prepared.batches(),
            prepared.loss(),
            validate,
            recipe=recipe,
            steps_per_epoch=_steps_per_epoch(prepared),
            seed=config.seed,
            save=save,
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
