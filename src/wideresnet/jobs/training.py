"""`train` and `resume`: data → run folder, model file, report."""

import dataclasses
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack

import torch

from wideresnet import (
    augment,
    engines,
    hub,
    kinds,
    processes,
    recipes,
    runs,
    runtime,
)
from wideresnet import data as data_room
from wideresnet.errors import (
    DataError,
    UsageError,
)
from wideresnet.jobs import crossvalidation, transfer
from wideresnet.jobs.judging import duration, network
from wideresnet.jobs.planning import Plan, changed, check_unchanged, listing_of, plan
from wideresnet.jobs.preparation import (
    Decoded,
    Prepared,
    check_processes,
    decoded,
    divided,
    fit_to_data,
    seconds_per_epoch,
    with_epochs,
)
from wideresnet.jobs.running import CHECKPOINT_EVERY_S, Run, go_on
from wideresnet.jobs.writing import saved
from wideresnet.reading import Reading
from wideresnet.recipes import OnNan, RecipeChanges


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
    max_pixels: int | None = None,
    track: Sequence[str] = (),
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
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
    where decoded pictures are kept (`data.choose`), which changes no result. The columns, download and max_pixels: see
    `Reading`, and `download` fetches published weights too. track: "tensorboard", "mlflow". checkpoint_every_s: seconds
    between two checkpoints within an epoch, besides those at its end; changes no result. `changes`: fields of the
    recipe. Raises DataError, UsageError (nothing is written), TrainingStopped or Interrupted (can be resumed).

    Started in several processes by torchrun, they train together: each on its part of every batch, the first one
    writing the files, all of them returning the same. Where torchrun starts them anew (`--max-restarts`), they go on
    with the run that they had begun.
    """
    reading = Reading(
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        download=download,
        max_pixels=max_pixels,
    )

    def planned(watch: runtime.Watch, world: processes.World) -> Plan:
        return plan(
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

    run: Run = start(
        planned,
        changes,
        out=out,
        time_budget_s=time_budget_s,
        cache=cache,
        track=track,
        every_s=checkpoint_every_s,
        watch=watch,
    )
    return run


def start(
    planning: Callable[[runtime.Watch, processes.World], Plan],
    changes: RecipeChanges,
    *,
    out: str | Path | None,
    time_budget_s: float | None,
    cache: data_room.Cache,
    track: Sequence[str],
    every_s: float,
    watch: runtime.Watch,
) -> Any:
    """What `planning` plans, of whatever task: its pictures, its folder, the training. The options are `train`'s."""
    world = processes.current()
    watch = watch if world.is_main else runtime.QUIET
    _check_interval(every_s)
    out = None if out is None else Path(out)
    if world.is_main and not processes.restarted():
        runs.check_out(out)
    hub.check_trackers(track)
    if time_budget_s is not None and changes.get("epochs") is not None:
        raise UsageError("--epochs and --time-budget say the same thing twice; give one")
    if time_budget_s is not None and not 0 < time_budget_s < 1e9:
        raise UsageError(f"time_budget_s={time_budget_s}: expected seconds above 0")
    with world.one_first():
        planned = planning(watch, world)
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
    begun = folder = None
    if world.is_main:
        begun = runs.begun(name, config, out, measured=time_budget_s is not None) if processes.restarted() else None
        if begun is None:
            _check_room(prepared, out)
        folder = runs.create(name, out) if begun is None else begun[0]
    begun, folder = world.from_main((begun, folder))
    assert folder is not None
    with _in_use(folder, watch, world):
        found = None
        if begun is not None:  # in a start before this one
            config = begun[1]
            prepared = dataclasses.replace(prepared, config=dataclasses.replace(config, fold=prepared.config.fold))
            found = None if config.folds else saved(folder, config, watch.line)
        elif world.is_main:
            runs.write_config(folder, config)
            _say_plan(prepared, folder, epoch_s, planned)
        if config.folds:
            del prepared  # as below
            return _every_fold(config, pictures, folder, watch, every_s=every_s)
        del pictures  # parts that were made are copies: the same pictures would lie in memory twice
        return go_on(prepared, folder, config, every_s, found=found)


@processes.joined()
@kinds.checked
def resume(
    folder: str | Path,
    *,
    allow_changed: Sequence[str] = (),
    on_nan: OnNan | None = None,
    cache: data_room.Cache = "auto",
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    watch: runtime.Watch = runtime.PRINT,
) -> Any:
    """Goes on with a run, or with the fold that a cross-validation was at, bitwise as if it had not been stopped: from
    the step where a signal stopped it; after a crash, from the last checkpoint, or where that is damaged the one before
    it.

    allow_changed: of `planning.ALLOWED`, what may be otherwise than when the run was begun; the result is then not
    bitwise the same, and says so. on_nan: from here on, if not as it was begun. Raises ModelFileError if `folder` is no
    run, DataError if the data has changed since, UsageError if anything else has that is not allowed, or if another
    process trains in the folder.
    """
    world, folder = processes.current(), Path(folder)
    watch = watch if world.is_main else runtime.QUIET
    _check_interval(checkpoint_every_s)
    stored = runs.read_config(folder)
    with _in_use(folder.parent if stored.fold else folder, watch, world):
        command = f"{stored.launcher} train --resume {shlex.quote(str(folder))}"
        config, otherwise = changed(stored, world)
        if config.folds and world.size > 1:
            raise UsageError(f"{folder}: a cross-validation, trained by one process alone; go on with it by wrn")
        if on_nan is not None:
            config = dataclasses.replace(config, recipe=recipes.change(config.recipe, {"on_nan": on_nan}))
        check_unchanged(folder, otherwise, allow_changed, command)
        for name, how in otherwise.items():
            watch.line(f"note: going on with other {name} ({how}): not bitwise as if it had not been stopped")
        found = None
        if not config.every_fold:
            found = saved(folder, stored, watch.line)  # what is wrong is said before any picture is read
            if found is None:
                watch.line(f"{folder} has no checkpoint yet: it begins anew")
        if config.recipe.compile:
            runtime.check_compiler(torch.device(config.device))
        hub.check_trackers(config.track)
        with world.one_first():
            listing, source = listing_of(config, watch), transfer.source_of(config)
            lost = [] if found is None else found.progress.get("lost", [])
            pictures = decoded(config, listing, watch, source=source, cache=cache, lost=lost)
        check_same(world, config, pictures)
        if pictures.fingerprint != config.fingerprint:
            known = None if found is None else found.progress.get("pictures")
            raise DataError(
                f"{config.data}: not the data that {folder} was trained on ({_what_differs(known, pictures, config)}). "
                "Put it back as it was, or train anew"
            )
        if config.every_fold:
            return _every_fold(config, pictures, folder, watch, every_s=checkpoint_every_s, otherwise=otherwise)
        prepared = divided(config, pictures, watch, world=world)
        del pictures  # as in `train`
        if "processes" in otherwise:
            check_processes(prepared, stored.processes)
        return go_on(prepared, folder, stored, checkpoint_every_s, found=found, otherwise=otherwise)


def _what_differs(then: Mapping[str, Mapping[str, int]] | None, now: Decoded, config: runs.Config) -> str:
    """In words; then: part → class → pictures, as `Prepared.counts`, of what the run was begun with."""
    what, labels = ("pictures", "labels") if config.detector is None else ("boxes", "boxes")
    if then is None:
        return f"pictures or {labels} differ"
    found = runs.differences(then, now.counts)
    return f"{what} of {'; '.join(found)}" if found else f"as many of each class, but other pictures or {labels}"


def _in_use(folder: Path, watch: runtime.Watch, world: processes.World) -> AbstractContextManager[None]:
    return runs.in_use(folder, watch.line) if world.is_main else nullcontext()


def _check_interval(seconds: float) -> None:
    if not 0 < seconds < 1e9:
        raise UsageError(f"checkpoint_every_s={seconds}: expected seconds above 0")


def _check_room(prepared: Prepared, out: Path | None) -> None:
    """Raises UsageError if the disk has no room for what the run will write."""
    config, model = prepared.config, prepared.new_state().model
    weights = sum(value.nbytes for value in model.state_dict().values())
    average = bool(config.recipe.ema_decay or config.recipe.swa_epochs)
    # Of checkpoints, of weights and momentum and the average, the last, the one before and the next; of models two.
    needed = (3 * (2 + average) + 2) * weights * max(1, config.folds) + (4 << 20)
    place = (out or Path("runs")).absolute()
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UsageError(
            f"{out or 'runs'}: {free:,} bytes are free on its disk, and this run takes about {needed:,}; "
            "make room, or choose another --out"
        )


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


def _every_fold(
    config: runs.Config,
    pictures: Decoded,
    folder: Path,
    watch: runtime.Watch,
    *,
    every_s: float,
    otherwise: Mapping[str, str] = MappingProxyType({}),
) -> Run:
    """Trains what is left of each fold in turn; then one evaluation and one report of all."""
    folds, notes = list[Run](), list[str]()
    for one in crossvalidation.configs(config):
        place = folder / f"fold-{one.fold}"
        watch.line(f"fold {one.fold} of {one.folds} → {place}")
        if not (place / runs.CONFIG).exists():
            runs.write_config(place, one)
        prepared = divided(one, pictures, watch)
        notes += [f"fold {one.fold}: {note}" for note in prepared.notes[len(pictures.notes) :]]
        stored = runs.read_config(place)
        found = saved(place, stored, watch.line)
        run = go_on(prepared, place, stored, every_s, found=found, otherwise=otherwise)
        assert isinstance(run, Run)
        folds.append(run)
        del prepared  # before the next is made
    evaluation = crossvalidation.conclude(
        config, pictures, folder, [run.evaluation for run in folds], notes=notes, watch=watch
    )
    return Run(folder, evaluation, tuple(folds))


def _say_plan(prepared: Prepared, folder: Path, epoch_s: float, planned: Plan) -> None:
    config, say = prepared.config, prepared.watch.line
    counts = ", ".join(f"{len(pictures):,} {split}" for split, pictures in prepared.splits.parts.items())
    for note in prepared.notes:
        say(f"note: {note}")
        runs.log(folder, f"note: {note}")
    recipe = config.recipe
    what = [f"frozen: {', '.join(config.freeze)}"] if config.freeze else []
    what += [f"augmentation: {augment.describe(recipe, boxes=config.detector is not None)}", *recipes.extras(recipe)]
    say(
        f"{network(prepared)} at {config.size} pixels for {counts} pictures of {len(prepared.class_names)} classes "
        f"(about {planned.side} pixels), {prepared.kept}; {planned.computed_by}; {prepared.splits.note}"
    )
    say(
        f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, lr {recipe.lr:g}, "
        f"weight decay {recipe.weight_decay:g}, {', '.join(what)}; "
        f"about {duration(epoch_s * recipe.epochs)} → {folder}"
    )
