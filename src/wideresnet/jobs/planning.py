"""The options of a training and what the data says → a config, before any picture is decoded."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from wideresnet import data as data_room
from wideresnet import engines, kernels, networks, recipes, runs, runtime
from wideresnet.data import Data
from wideresnet.detection import read_boxes
from wideresnet.errors import DataError, UsageError, nearest
from wideresnet.jobs import transfer
from wideresnet.jobs.transfer import Source
from wideresnet.processes import World, synchronise_bn
from wideresnet.reading import Reading
from wideresnet.recipes import Recipe, RecipeChanges


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the options mean on this data. No picture is decoded yet, so `config` has no fingerprint."""

    config: runs.Config
    listing: Data
    source: Source | None  # the model that training begins with
    side: int  # the pictures' median shorter side, in pixels; a detector's, the longer one
    computed_by: str  # the engine, in words


def plan(
    data: str | Path,
    changes: RecipeChanges,
    *,
    arch: str | None,
    recipe: str | None,
    size: int | None,
    in_channels: int | None,
    fit: Literal["crop", "squash", "pad"],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    init: str | Path | None,
    pretrained: bool,
    freeze: Sequence[str],
    seed: int,
    device: str,
    engine: engines.Name,
    max_bad: int | None,
    labels: int | None,
    folds: int | None,
    reading: Reading,
    watch: runtime.Watch,
    world: World,
) -> Plan:
    """The options are those of `wrn train`. Writes nothing. Raises DataError, UsageError, ModelFileError."""
    torch_device = runtime.choose_device(device)
    if size is not None and size < 1:
        raise UsageError(f"size={size}: expected a number of pixels from 1")
    if labels is not None and labels < 1:
        raise UsageError(f"labels={labels}: expected a number of pictures of each class, from 1")
    if folds is not None and folds < 2:
        raise UsageError(f"--folds {folds}: expected at least 2; without it, one network is trained")
    if folds is not None and world.size > 1:
        raise UsageError(f"--folds {folds}: trained by one process alone, and these are {world.size}; start it by wrn")
    begun = init is not None or pretrained
    recipe = recipe or ("finetune" if begun else "fast")
    if recipe == "finetune" and not begun:
        raise UsageError("--recipe finetune goes on from a trained network; name it: --init MODEL")
    if recipe == "detect":
        raise UsageError("--recipe detect is for boxes: wrn detect train DATA")
    keeps_val = recipes.find(recipe).select == "best"
    source = transfer.find_source(init, arch, pretrained=pretrained, download=reading.download)
    if source is not None:
        transfer.check_options(source, arch=arch, in_channels=in_channels, mean=mean, std=std)
        known = source.preprocess(in_channels)
        arch, size, in_channels = source.arch, size or known.size, known.channels
        mean, std, fit = known.mean, known.std, known.fit if fit == "crop" else fit
    listing = data_room.read(data, reading, watch)
    check_class_sets(listing)
    num_train = _num_train(listing, keeps_val=keeps_val, folds=folds)
    num_train = num_train if labels is None else min(num_train, labels * len(listing.class_names))
    side = data_room.shorter_side(listing.splits.values())
    default = recipes.defaults(num_train, side, torch_device.type)
    arch, in_channels = arch or default.arch, 3 if in_channels is None else in_channels
    network = _without_weights(arch if source is None else source.file.card.architecture, arch, in_channels)
    size = size or (default.size if networks.libraries.named(arch) is None else networks.libraries.default_size(arch))
    macs, freeze = _macs(network, arch, in_channels, size), networks.parts_named(network, freeze)
    if source is not None and freeze:
        transfer.check_frozen(source, in_channels)
    made = make_recipe(
        recipe,
        changes,
        default=default,
        size=size,
        class_names=listing.class_names,
        num_train=num_train,
        stride=networks.stride(arch),
    )
    if made.dropout_p and networks.libraries.named(arch) is not None:
        raise UsageError(f"dropout_p={made.dropout_p}: is for our own blocks, {arch} has others; leave it out")
    if made.compile:
        runtime.check_compiler(torch_device)
    if made.sync_bn and world.size > 1:
        synchronise_bn(network)
    found, computed_by = engines.for_training(network.to_empty(device="cpu"), made, torch_device, engine)
    config = runs.Config(
        data=listing.place,
        arch=arch,
        recipe=made,
        size=size,
        fit=fit,
        in_channels=in_channels,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        seed=seed,
        device=str(torch_device),
        threads=engines.threads_for(found, macs * made.batch_size),
        max_bad=max_bad,
        engine=found,
        fingerprint="",
        versions=versions(arch, str(torch_device)),
        reading=reading,
        labels=labels,
        processes=world.size,
        machines=world.machines,
        init=None if source is None or pretrained else source.place,
        init_digest=None if source is None else source.digest,
        folds=folds or 0,
        pretrained=pretrained,
        freeze=freeze,
        processor=runtime.processor() if torch_device.type == "cpu" else "",
    )
    return Plan(config, listing, source, side, computed_by)


def listing_of(config: runs.Config, watch: runtime.Watch) -> Data:
    """The data that a run was begun with, as it is now."""
    if config.detector is None:
        return data_room.read(config.data, config.reading, watch)
    return read_boxes(config.data, max_pixels=data_room.most_pixels(config.reading.max_pixels))


def versions(arch: str, device: str, *, boxes: bool = False) -> dict[str, str]:
    """Of all that a run's numbers depend on; of our kernels, where they train or judge its epochs, the build. boxes:
    a detector's are trained and judged by torch."""
    if boxes:
        return runtime.versions()
    known = device == "cpu" and networks.libraries.named(arch) is None
    ours = {"kernels": build} if known and (build := kernels.build()) != "none" else {}
    return runtime.versions() | networks.libraries.versions(arch) | ours


ALLOWED = ("versions", "processor", "threads", "engine", "device", "processes")
"""What may differ where a run goes on, if its user allows it: the result means the same, but not to the bit."""


def changed(config: runs.Config, world: World) -> tuple[runs.Config, dict[str, str]]:
    """What of `ALLOWED` is otherwise here than where the run was begun, by name, in words ("8 → 2"); and the config
    that it can go on under here."""
    found, now = dict[str, str](), config
    if not _is_there(config.device):
        now = dataclasses.replace(now, device=str(runtime.choose_device()))
        found["device"] = f"{config.device}, which is not available here → {now.device}"
    if config.engine == "kernels" and (now.device != "cpu" or kernels.build() == "none"):
        now = dataclasses.replace(now, engine="torch")
        found["engine"] = f"our kernels, which are {kernels.state()} here → torch"
    if now.device == "cpu" and (most := max(runtime.num_cores(), torch.get_num_threads())) < config.threads:
        now = dataclasses.replace(now, threads=most)
        found["threads"] = f"{config.threads} → {most}"
    if world.size != config.processes:
        now = dataclasses.replace(now, processes=world.size, machines=world.machines)
        found["processes"] = f"{config.processes} → {world.size}"
    if config.processor and now.device == "cpu" and config.processor != runtime.processor():
        now = dataclasses.replace(now, processor=runtime.processor())
        found["processor"] = f"{config.processor} → {now.processor}"
    own = versions(config.arch, config.device, boxes=config.detector is not None)
    names = [name for name in {**config.versions, **own} if config.versions.get(name) != own.get(name)]
    if names := [f"{name} {config.versions.get(name, 'none')} → {own.get(name, 'none')}" for name in names]:
        now = dataclasses.replace(now, versions=own)
        found["versions"] = ", ".join(names)
    return now, found


def check_unchanged(folder: Path, found: Mapping[str, str], allowed: Sequence[str], command: str) -> None:
    """Raises UsageError if what was begun in `folder` was begun otherwise than is allowed. found: as from `changed`;
    command: what goes on with it in as many processes."""
    for name in allowed:
        if name not in ALLOWED:
            raise UsageError(f"--allow-changed {name}{nearest(name, ALLOWED)}")
    if not (left := {name: how for name, how in found.items() if name not in allowed}):
        return
    how = "; ".join(f"{name} {text}" for name, text in left.items())
    start = f" Start as many processes: {command}." if "processes" in left else ""
    raise UsageError(
        f"{folder}: begun otherwise ({how}), so going on would not be bitwise the same.{start} Make it as it was, or "
        f"go on all the same: --allow-changed {' '.join(found)}"
    )


def _is_there(device: str) -> bool:
    try:
        runtime.choose_device(device)
    except UsageError:
        return False
    return True


def _num_train(listing: Data, *, keeps_val: bool, folds: int | None) -> int:
    """About how many pictures there will be to train on, before it is known which can be read."""
    counts = {split: len(pictures) for split, pictures in listing.splits.items()}
    if folds is not None:
        pooled = sum(count for split, count in counts.items() if split != "test")
        return round(pooled * (1 - 1 / folds) * (0.9 if keeps_val else 1.0)) or 1
    share = 0.8 if keeps_val else 0.9  # of data that comes without parts
    return counts.get("train", 0) or round(share * sum(counts.values())) or 1


def _without_weights(what: networks.Arch, arch: str, in_channels: int) -> nn.Module:
    """An impossible network is told here, before any picture is read."""
    if in_channels not in (1, 3):
        raise UsageError(f"in_channels={in_channels}: expected 3 (colour) or 1 (grey)")
    try:
        return networks.without_weights(what, 2, in_channels=in_channels)
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error


def _macs(network: nn.Module, arch: str, in_channels: int, size: int) -> int:
    """Multiply-accumulates for one picture."""
    try:
        return networks.count_macs(network, in_channels, size)
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error


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
                f"Rename or remove it, or add {name!r} to train"
            )


def make_recipe(
    name: str,
    changes: Mapping[str, Any],
    *,
    default: recipes.Defaults,
    size: int,
    class_names: Sequence[str],
    num_train: int,
    stride: int = 4,
) -> Recipe:
    """The named recipe, what the data says of it, then what the user says."""
    base = recipes.find(name)
    from_data: dict[str, Any] = {"flip": recipes.flips_are_safe(class_names), "crop_padding": size // 8}
    given = {field: value for field, value in changes.items() if value is not None}
    if base.times_default:  # a recipe without has its own
        epochs = max(1, round(base.times_default * default.epochs))
        from_data |= {"epochs": epochs, "batch_size": default.batch_size, "weight_decay": default.weight_decay}
        from_data |= {"crop_padding": recipes.crop_padding(size, given.get("epochs", epochs))}
    if given.get("zoom", base.zoom) < 1:  # instead of shifts
        from_data |= {"crop_padding": 0}
    wanted = {**from_data, **given}
    wanted["batch_size"] = min(wanted.get("batch_size", base.batch_size), num_train)
    if base.times_default:  # in proportion: Goyal et al. 2017, section 2.1
        wanted.setdefault("lr", base.lr * wanted["batch_size"] / base.batch_size)
    made = recipes.change(base, wanted)
    parts = f" in {made.accumulate} parts" if made.accumulate > 1 else ""
    check_values_of_bn(made.batch_size // made.accumulate, size, f"batch_size={made.batch_size}{parts}", stride)
    for field in ("crop_padding", "cutout"):
        if getattr(made, field) >= size:
            raise UsageError(f"{field}={getattr(made, field)}: must be below the size of the pictures, {size}")
    return made


def check_values_of_bn(num: int, size: int, what: str, stride: int) -> None:
    """Raises UsageError where `num` pictures, the fewest that BN sees at once, have one value of each channel in the
    last stage, which has no deviation. `what`: what the number comes from; `stride`: `networks.stride`."""
    if num * (-(-size // stride)) ** 2 < 2:
        raise UsageError(f"{what} at {size} pixels: BN needs more than one value of each channel")
