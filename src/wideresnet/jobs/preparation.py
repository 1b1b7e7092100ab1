"""A config and its data → everything that a training needs; the same for a new run and for one that goes on."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from wideresnet import classification, engines, networks, recipes, runs, runtime, training
from wideresnet import data as data_room
from wideresnet.data import Data, Pictures, Splits
from wideresnet.detection import BoxEvaluation
from wideresnet.errors import DataError, UsageError
from wideresnet.evaluation import Evaluation
from wideresnet.jobs import classifying, detecting, transfer
from wideresnet.jobs.planning import check_values_of_bn
from wideresnet.jobs.transfer import Source
from wideresnet.preprocess import Preprocess
from wideresnet.processes import ALONE, World


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The pictures of a config, read once, before it is decided what is trained on; `given` has no statistics yet."""

    name: str  # of the data, which a run is called after
    class_names: tuple[str, ...]
    parts: Mapping[str, Pictures]
    given: Preprocess
    fingerprint: str
    notes: tuple[str, ...]
    kept: str  # how the pictures are kept, in words
    source: Source | None  # the model that training begins with

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Part → class → pictures."""
        return {
            part: dict(zip(self.class_names, pictures.counts(len(self.class_names)), strict=True))
            for part, pictures in self.parts.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything that a training needs, made from the config and the data alone."""

    config: runs.Config
    name: str  # of the data, which a run is called after
    class_names: tuple[str, ...]
    splits: Splits
    preprocess: Preprocess
    notes: tuple[str, ...]
    kept: str  # how the pictures are kept, in words
    watch: runtime.Watch
    world: World = ALONE
    source: Source | None = None  # the model that training begins with
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of the data before it was divided

    @property
    def train(self) -> Pictures:
        return self.splits.parts["train"]

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)

    @property
    def task(self) -> "Task":
        return classifying if self.config.detector is None else detecting

    def new_state(self) -> training.State:
        """The network as it is before the first step: a function of the seed."""
        torch.manual_seed(runtime.derive_seed(self.config.seed, "weights"))
        config, model = self.config, self.task.network(self)
        scales = networks.lr_scales(model, config.recipe.layer_decay)
        model = engines.to_device(model, self.device, config.engine)
        return training.start(model, config.recipe, scales, config.engine)


class Task(Protocol):
    """In what trainings differ by what their networks answer; modules are such, `classifying` and `detecting`."""

    def network(self, prepared: Prepared, /) -> nn.Module: ...
    def batches(self, prepared: Prepared, /) -> Callable[[int, int], Iterable[Any]]: ...
    def loss(self, prepared: Prepared, /) -> training.Loss: ...
    def validation(self, prepared: Prepared, /) -> Callable[[nn.Module], dict[str, float]]: ...
    def judge(self, prepared: Prepared, state: training.State, folder: Path, /) -> Evaluation | BoxEvaluation: ...


def with_epochs(prepared: Prepared, epochs: int, changes: Mapping[str, Any]) -> Prepared:
    """The same for so many epochs: the schedule stays whole, and what follows from their number follows, but for what
    the user has given (`changes`)."""
    config, given = prepared.config, {field: value for field, value in changes.items() if value is not None}
    wanted: dict[str, Any] = {field: given[field] for field in ("warmup_epochs", "milestones") if field in given}
    if config.recipe.times_default and config.detector is None and not {"crop_padding", "zoom"} & given.keys():
        wanted |= {"crop_padding": recipes.crop_padding(config.size, epochs)}
    fitted = recipes.change(config.recipe, {**wanted, "epochs": epochs})
    return dataclasses.replace(prepared, config=dataclasses.replace(config, recipe=fitted))


def prepare(
    config: runs.Config,
    listing: Data,
    watch: runtime.Watch,
    *,
    source: Source | None = None,
    cache: data_room.Cache = "auto",
    world: World = ALONE,
) -> Prepared:
    """Reads, decodes and splits the data as `config` says; the same for a new run and for one that goes on, however
    `cache` says that pixels are kept."""
    return divided(config, decoded(config, listing, watch, source=source, cache=cache), watch, world=world)


def decoded(
    config: runs.Config,
    listing: Data,
    watch: runtime.Watch,
    *,
    source: Source | None = None,
    cache: data_room.Cache = "auto",
    lost: Sequence[Mapping[str, Any]] = (),
) -> Decoded:
    """The dear half of `prepare`: several runs on the same pictures, as folds are, do it once. lost: as in `load`."""
    channels = config.in_channels
    if channels not in (1, 3):
        raise UsageError(f"in_channels={channels}: expected 3 (colour) or 1 (grey)")
    for name, values in {"mean": config.mean, "std": config.std}.items():
        if values is not None and max(values, default=0) > 1:
            raise UsageError(f"--{name} {values}: expected values in [0, 1]; divide by 255")
        if values is not None and len(values) != channels:
            raise UsageError(f"--{name}: {len(values)} values for {channels} channels")
    try:
        mean, std = config.mean or (0.0,) * channels, config.std or (1.0,) * channels
        given = Preprocess(size=config.size, mean=mean, std=std, fit=config.fit)
        if source is not None:  # what its weights expect besides; no option says so
            own = source.file.card.preprocess
            given = dataclasses.replace(given, per_image=own.per_image, border=own.border)
    except ValueError as error:
        raise UsageError(str(error)) from error

    def load(prepare: Preprocess) -> Decoded:
        loaded = data_room.load(listing, prepare, cache=cache, max_bad=config.max_bad, lost=lost, watch=watch)
        parts = loaded.parts
        fingerprint = data_room.fingerprint(listing.class_names, parts)
        class_names, dropped = listing.class_names, list[str]()
        if config.detector is None:
            parts, class_names, dropped = _drop_unreadable_classes(parts, class_names)
        notes = [*listing.notes, *loaded.notes, *dropped, *data_room.twins(parts, class_names)]
        notes += data_room.check.brief(parts, class_names, config.data, tuple(listing.splits.values()))
        return Decoded(listing.name, class_names, parts, prepare, fingerprint, tuple(notes), loaded.kept, source)

    if config.fit == "pad" and config.mean is None:
        # What is padded is the mean colour, in training as in prediction; so the mean comes first, from whole pictures.
        whole, _ = split(config, load(dataclasses.replace(given, fit="squash")))
        given = dataclasses.replace(given, mean=whole.parts["train"].statistics()[0])
    return load(given)


def divided(config: runs.Config, data: Decoded, watch: runtime.Watch, *, world: World = ALONE) -> Prepared:
    """The cheap half of `prepare`: what is trained on, chosen by and judged on; with its statistics."""
    splits, notes = split(config, data)
    if data.source is not None:
        if config.detector is None:
            notes += transfer.notes(data.source, config, data.class_names, splits)
        else:
            notes += detecting.notes(data.source, data.class_names, splits)
    elif config.freeze:
        notes.append(f"{', '.join(config.freeze)}: frozen as drawn, for nothing was learnt yet; --init MODEL has it")
    mean, std = splits.parts["train"].statistics()
    mean = config.mean or (data.given.mean if config.fit == "pad" else mean)
    return Prepared(
        config=dataclasses.replace(config, fingerprint=data.fingerprint),
        name=data.name,
        class_names=data.class_names,
        splits=splits,
        preprocess=dataclasses.replace(data.given, mean=mean, std=config.std or std),
        notes=(*data.notes, *notes),
        kept=data.kept,
        watch=watch,
        world=world,
        source=data.source,
        counts=data.counts,
    )


def split(config: runs.Config, data: Decoded) -> tuple[Splits, list[str]]:
    """The parts of a run, and what a person should know of them."""
    parts, note = data.parts, ""
    if config.fold:
        parts = data_room.hold_out(parts, data.class_names, fold=config.fold, folds=config.folds, seed=config.seed)
        kept = "groups and identical pictures" if parts["train"].groups else "identical pictures"
        note = f"fold {config.fold} of {config.folds} held out as test, stratified, {kept} together; "
    splits = data_room.divide(parts, config.seed, keep_val=config.recipe.select == "best")
    splits = dataclasses.replace(splits, note=note + splits.note)
    notes = _never_judged(splits, data.class_names)
    if config.labels is not None:
        splits, found = _few_labels(splits, config.labels, config.seed, data.class_names)
        notes += found
    return splits, notes


def _drop_unreadable_classes(
    parts: dict[str, Pictures], class_names: tuple[str, ...]
) -> tuple[dict[str, Pictures], tuple[str, ...], list[str]]:
    """A class all of whose pictures to train on were unreadable is no class: a network cannot learn it."""
    source = parts.get("train", next(iter(parts.values())))
    present = sorted(set(source.labels.tolist()))
    if len(present) < 2:
        names = ", ".join(class_names[label] for label in present) or "none"
        raise DataError(f"classes with pictures to train on: {names}; at least two are needed")
    missing = [name for label, name in enumerate(class_names) if label not in present]
    if not missing:
        return parts, class_names, []
    new_label = torch.full((len(class_names),), -1)
    new_label[present] = torch.arange(len(present))
    kept = {}
    for split, pictures in parts.items():
        known = pictures.take((new_label[pictures.labels] >= 0).nonzero().flatten())
        kept[split] = dataclasses.replace(known, labels=new_label[known.labels])
    note = f"left out, no picture to train on: class {', '.join(missing)}"
    return kept, tuple(class_names[label] for label in present), [note]


def _few_labels(splits: Splits, num: int, seed: int, class_names: Sequence[str]) -> tuple[Splits, list[str]]:
    """Train with `num` different pictures of each class; the other parts as they are."""
    whole = splits.parts["train"]
    train = data_room.keep_labels(whole, num, seed)
    notes = [f"{len(train):,} of {len(whole):,} pictures are trained on: {num} of each class, seed {seed}"]
    counts = train.counts(len(class_names))
    if fewer := [f"{class_names[label]} ({count})" for label, count in enumerate(counts) if count < num]:
        notes.append(f"fewer than {num} different pictures to train on, all taken: class {', '.join(fewer)}")
    return dataclasses.replace(splits, parts={**splits.parts, "train": train}), notes


def _never_judged(splits: Splits, class_names: Sequence[str]) -> list[str]:
    """A note on classes that train has and the part that is judged on has not."""
    held_out = splits.parts.get("test", splits.parts.get("val"))
    if held_out is None:
        return []
    counts = zip(
        class_names, splits.parts["train"].counts(len(class_names)), held_out.counts(len(class_names)), strict=True
    )
    lacking = [f"{name} ({train})" for name, train, held in counts if train and not held]
    return [f"trained on, but without a picture to be judged on: class {', '.join(lacking)}"] if lacking else []


def fit_to_data(prepared: Prepared) -> Prepared:
    """A batch is never larger than the train part. Raises UsageError if it has not a picture for each process."""
    config, world, num_train = prepared.config, prepared.world, len(prepared.train)
    batch_size = min(config.recipe.batch_size, num_train)
    recipe = dataclasses.replace(
        config.recipe, batch_size=batch_size, accumulate=min(config.recipe.accumulate, batch_size)
    )
    if batch_size < world.size:
        raise UsageError(
            f"{world.size} processes for batches of {batch_size} pictures ({num_train} to train on): each needs "
            f"one at least; start at most {batch_size} processes"
        )
    rest = 0 if recipe.drop_last else num_train % batch_size
    smallest = (rest if rest >= world.size else batch_size) // world.size  # of the batches, one process's part
    if world.size > 1 and smallest < recipe.accumulate:  # each part is one message of BN: all must send as many
        raise UsageError(
            f"accumulate={recipe.accumulate}: the smallest batch leaves {smallest} pictures to each of {world.size} "
            "processes; give fewer parts, or --drop-last"
        )
    fewest = max(1, smallest // recipe.accumulate)
    what = f"batch_size={batch_size}, a part of a batch being {fewest},"
    stride = networks.stride(config.arch) * (config.detector.stem_stride if config.detector else 1)
    check_values_of_bn(fewest, config.size, what, stride)
    return dataclasses.replace(prepared, config=dataclasses.replace(config, recipe=recipe))


def check_processes(prepared: Prepared, before: int) -> None:
    """Raises UsageError if a run that `before` processes began cannot go on in as many as there are now."""
    fit_to_data(prepared)
    recipe, num = prepared.config.recipe, len(prepared.train)
    now, then = (classification.steps_per_epoch(num, recipe, world) for world in (prepared.world, World(size=before)))
    if now != then:
        raise UsageError(
            f"{before} processes have {then} steps an epoch, and {prepared.world.size} have {now}: the last batch has "
            f"not a picture for each; start at most {before}"
        )


def seconds_per_epoch(prepared: Prepared) -> float:
    """Measured on a network that is thrown away: for the time said, and for a time budget; nothing else follows it."""
    recipe = prepared.config.recipe
    state, task = prepared.new_state(), prepared.task
    step_loss = task.loss(prepared)
    trained = training.through(state, recipe)
    seconds = []
    started = time.perf_counter()  # before a batch is made: making it is part of the work
    for batch in islice(task.batches(prepared)(1, 0), 3):
        training.update(state, trained, batch, step_loss, recipe, lr=0.0, seed=0, world=prepared.world)
        next(state.model.parameters()).sum().item()  # waits until the device has done it
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    steps = classification.steps_per_epoch(len(prepared.train), recipe, prepared.world)
    # Forward alone is about a third; choosing among the boxes takes as long again as half of that.
    share = 1 / 3 if prepared.config.detector is None else 1 / 2
    val_steps = len(prepared.splits.parts.get("val", ())) / recipe.batch_size * share
    typical = statistics.mean(seconds[1:] or seconds)  # the first waits for memory
    return prepared.world.from_main(typical * (steps + val_steps))
