"""A config and its data → everything that a training needs; the same for a new run and for one that goes on."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from wideresnet import classification, engines, recipes, runs, runtime, training
from wideresnet import data as data_room
from wideresnet.data import Data, Pictures, Splits
from wideresnet.dialects import parse_arch
from wideresnet.errors import DataError, UsageError
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess, channel_statistics
from wideresnet.recipes import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything that a training needs, made from the config and the data alone."""

    config: runs.Config
    class_names: tuple[str, ...]
    splits: Splits
    preprocess: Preprocess
    notes: tuple[str, ...]
    watch: runtime.Watch

    @property
    def train(self) -> Pictures:
        return self.splits.parts["train"]

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)

    def new_state(self) -> training.State:
        """The network as it is before the first step: a function of the seed."""
        torch.manual_seed(runtime.derive_seed(self.config.seed, "weights"))
        options: dict[str, Any] = {
            "dropout_p": self.config.recipe.dropout_p,
            "in_channels": self.config.in_channels,
        }
        model = WideResNetClassifier(len(self.class_names), **parse_arch(self.config.arch), **options)
        return training.start(engines.to_device(model, self.device), self.config.recipe)


def check_class_sets(listing: Data) -> None:
    """Every class of val and test must be one of train's. Raises DataError naming the others."""
    if "train" not in listing.splits:
        return
    known = set(listing.splits["train"].labels.tolist())
    for split, pictures in listing.splits.items():
        for label in sorted(set(pictures.labels.tolist()) - known):
            count, name = int((pictures.labels == label).sum()), listing.class_names[label]
            raise DataError(
                f"{listing.place}: {split} has class {name!r} ({count} pictures), which train does not have. "
                f"Classes of train: {', '.join(listing.class_names[i] for i in sorted(known))}. "
                f"Rename or remove the folder, or add {name!r} to train"
            )


def make_recipe(
    name: str,
    changes: Mapping[str, Any],
    *,
    default: recipes.Defaults,
    size: int,
    class_names: Sequence[str],
    num_train: int,
) -> Recipe:
    """The named recipe, what the data says of it, then what the user says."""
    base = recipes.find(name)
    from_data: dict[str, Any] = {"flip": recipes.flips_are_safe(class_names), "crop_padding": size // 8}
    if name == "fast":  # the paper's epochs and batch size are its own
        from_data |= {"epochs": default.epochs, "batch_size": default.batch_size}
    given = {field: value for field, value in changes.items() if value is not None}
    wanted = {**from_data, **given}
    wanted["batch_size"] = min(wanted.get("batch_size", base.batch_size), num_train)
    if name == "fast":  # in proportion: Goyal et al. 2017, section 2.1
        wanted.setdefault("lr", base.lr * wanted["batch_size"] / base.batch_size)
    made = recipes.change(base, wanted)
    if made.batch_size * (-(-size // 4)) ** 2 < 2:
        raise UsageError(f"batch_size={made.batch_size} at {size} pixels: BN needs more than one value of each channel")
    if made.crop_padding >= size:
        raise UsageError(f"crop_padding={made.crop_padding}: must be below the size of the pictures, {size}")
    return made


def prepare(config: runs.Config, listing: Data, watch: runtime.Watch) -> Prepared:
    """Reads, decodes and splits the data as `config` says; the same for a new run and for one that goes on."""
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
    except ValueError as error:
        raise UsageError(str(error)) from error
    parts, notes = data_room.decode_all(listing, given, max_bad=config.max_bad, watch=watch)
    fingerprint = data_room.fingerprint(listing.class_names, parts)
    parts, class_names, dropped = _drop_unreadable_classes(parts, listing.class_names)
    notes = [*listing.notes, *notes, *dropped, *data_room.twins(parts, class_names)]
    splits = data_room.divide(parts, config.seed, keep_val=config.recipe.select == "best")
    mean, std = channel_statistics(splits.parts["train"].images)
    preprocess = dataclasses.replace(given, mean=config.mean or mean, std=config.std or std)
    config = dataclasses.replace(config, fingerprint=fingerprint)
    return Prepared(config, class_names, splits, preprocess, tuple(notes), watch)


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


def fit_to_data(prepared: Prepared) -> Prepared:
    """A batch is never larger than the train part."""
    recipe, num_train = prepared.config.recipe, len(prepared.train)
    if recipe.batch_size <= num_train:
        return prepared
    recipe = dataclasses.replace(recipe, batch_size=num_train)
    return dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, recipe=recipe))


def seconds_per_epoch(prepared: Prepared) -> float:
    """Measured on a network that is thrown away: for the time said, and for a time budget; nothing else follows it."""
    recipe = prepared.config.recipe
    state = prepared.new_state()
    step_loss = classification.loss(recipe)
    seconds = []
    batches = classification.batches(prepared.train, prepared.preprocess, recipe, 0, prepared.device)
    started = time.perf_counter()  # before a batch is made: making it is part of the work
    for batch in islice(batches(1), 3):
        step_loss(state.model, batch).mean.backward()
        state.optimizer.step()
        next(state.model.parameters()).sum().item()  # waits until the device has done it
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    steps = classification.steps_per_epoch(len(prepared.train), recipe)
    val_steps = len(prepared.splits.parts.get("val", ())) / recipe.batch_size / 3  # forward alone: about a third
    return min(seconds) * (steps + val_steps)
