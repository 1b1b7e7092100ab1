"""A model file, or a library's published weights → what another training begins with: `--init`, `--pretrained`."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet import data as data_room
from wideresnet import files, hub, networks, runs
from wideresnet.checkpoint import Card, ModelFile, Task, load_model
from wideresnet.data import Splits
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.preprocess import Preprocess

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2: how `Preprocess` makes a colour picture grey
_SHOWN = 5  # class names in a line


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The model that training begins with; `digest` is the SHA-256 of the file, `place` finds it again."""

    place: str
    digest: str
    file: ModelFile

    @property
    def arch(self) -> str:
        return networks.arch_name(self.file.card.architecture)

    @property
    def backbone(self) -> dict[str, Any]:
        """What its backbone is, of a classifier or a detector of ours, as `networks.detectors.create` takes it."""
        return {key: value for key, value in self.file.card.architecture.items() if key != "detector"}

    def preprocess(self, in_channels: int | None) -> Preprocess:
        """Its own, for so many channels (None: its own number): a network made grey has the mean over the channels of
        mean and of std, one made to take colours the same mean and std for each."""
        own = self.file.card.preprocess
        if in_channels is None or in_channels == own.channels:
            return own
        mean, std = statistics.mean(own.mean), statistics.mean(own.std)  # exact: of equal values the value
        return dataclasses.replace(own, mean=(mean,) * in_channels, std=(std,) * in_channels)


def named_once(init: str | Path | None, from_model: str | Path | None) -> str | Path | None:
    """`from_model` is what `init` was first called, and is still taken."""
    if init is not None and from_model is not None:
        raise UsageError("init and from_model are two names of one option; give init")
    return from_model if init is None else init


def find_source(init: str | Path | None, arch: str | None, *, pretrained: bool, download: bool) -> Source | None:
    """What training begins with, if with anything. Raises UsageError on options that contradict one another, and as
    `read_source` and `published`."""
    if not pretrained:
        return None if init is None else read_source(hub.model_file(init, download=download))
    if init is not None:
        raise UsageError("--init and --pretrained both give the weights to begin with; give one")
    return published(arch or "", download=download)


def read_source(model: str | Path, *tasks: Task) -> Source:
    """Raises ModelFileError if `model` is no model file of these tasks (classification), and no such run folder."""
    file = load_model(Path(model), *tasks)
    path = Path(model) / runs.MODEL if Path(model).is_dir() else Path(model)
    return Source(str(path.absolute()), files.sha256(path.read_bytes()), file)


def published(arch: str, *, download: bool) -> Source:
    """The weights of torchvision or timm. Raises UsageError if `arch` is none of theirs, or they are not there."""
    try:
        named = networks.libraries.named(arch)
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error
    if named is None:
        raise UsageError(
            "--pretrained takes the weights that a library publishes: give --arch torchvision:NAME or timm:NAME; "
            "of a model of your own, --init MODEL"
        )
    found = networks.libraries.weights(arch, download=download)
    library, name = named
    architecture = {"library": library, "name": name, "num_classes": len(found.class_names), "in_channels": 3}
    prepared = Preprocess(size=found.size, mean=found.mean, std=found.std)
    card = Card(architecture=architecture, class_names=found.class_names, preprocess=prepared, weights="published")
    return Source(f"{arch}'s published weights", files.sha256(found.file.read_bytes()), ModelFile(found.model, card))


def source_of(config: runs.Config) -> Source | None:
    """The one that a run began with, for going on with it. Raises ModelFileError if it is another one now."""
    if config.detector is None:
        source = find_source(config.init, config.arch, pretrained=config.pretrained, download=config.reading.download)
    else:
        source = None if config.init is None else read_source(config.init, "classification", "detection")
    if source is not None and source.digest != config.init_digest:
        what = f"{config.init}: not the file" if config.init else f"{source.place}: not those"
        raise ModelFileError(f"{what} this run began with; put the old one back")
    return source


def check_options(
    source: Source,
    *,
    arch: str | None,
    in_channels: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    """Raises UsageError where an option contradicts what the weights were trained for."""
    if in_channels not in (None, 1, 3):
        raise UsageError(f"in_channels={in_channels}: expected 3 (colour) or 1 (grey)")
    preprocess = source.preprocess(in_channels)
    check_arch(source, source.arch, arch)
    for name, given, own in (("mean", mean, preprocess.mean), ("std", std, preprocess.std)):
        if given is not None and tuple(given) != own:
            raise UsageError(f"--{name} {tuple(given)}: {source.place} was trained with {own}; leave --{name} out")


def check_arch(source: Source, own: str, arch: str | None) -> None:
    """Raises UsageError if `arch` is given and is not `own`, the source's network."""
    try:
        same = arch is None or arch == own or networks.canonical(arch) == own
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error
    if not same:
        raise UsageError(f"--arch {arch}: {source.place} is a {own}; leave --arch out, or train without --init")


def check_frozen(source: Source, in_channels: int | None) -> None:
    """Raises UsageError where a frozen network is to take other channels than its own, and its means differ: a constant
    is then left for each filter (`with_channels`), which no frozen BN takes away."""
    own = source.file.card.preprocess
    if in_channels not in (None, own.channels) and len(set(own.mean)) > 1:
        raise UsageError(
            f"--freeze with --in-channels {in_channels}: {source.place} was trained on channels of different means, "
            "and its frozen layers could not take up the difference; leave one of both out"
        )


@torch.no_grad()
def take_over(model: nn.Module, class_names: Sequence[str], source: Source) -> None:
    """Sets `model` to the source's weights. Of the layer of classes it takes the rows of the classes that both have, by
    name; the rows of other classes stay as they are. A first layer for other channels is made by `with_channels`.

    Raises UsageError if another layer's shape depends on classes or channels, as where a network has two heads.
    """
    theirs, preprocess = source.file.model.state_dict(), source.file.card.preprocess
    rows = {name: row for row, name in enumerate(source.file.card.class_names)}
    classes, first = f"{networks.class_layer(model)}.", f"{networks.first_conv(model)}.weight"
    for key, value in model.state_dict().items():
        if key.startswith(classes):
            for label, name in enumerate(class_names):
                if name in rows:
                    value[label] = theirs[key][rows[name]]
        elif key == first:
            value.copy_(with_channels(theirs[key], preprocess.std, value.shape[1]))
        elif value.shape != theirs[key].shape:
            raise UsageError(
                f"{source.arch}: {key} depends on the number of classes or of channels, as only the last layer and the "
                "first convolution may; train it without --init and --pretrained"
            )
        else:
            value.copy_(theirs[key])


def with_channels(weight: Tensor, std: Sequence[float], channels: int) -> Tensor:
    """A first layer's weights [out_ch, C, h, w] for pictures of `channels` instead, 3 ↔ 1, both normalised as `Source.
    preprocess` says. `std`: of each of the C channels, by which the weights were trained to see pictures divided.

    3 → 1: the sum over the channels, each first multiplied by (the new std / its own). On a grey picture (r = g = b)
    the layer then gives what it gave, exactly where the three means are equal; else, away from the border, what it
    gave plus a constant for each filter, which the next BN takes away.
    1 → 3: the weights times 0.299, 0.587 and 0.114, the shares with which a picture is made grey. On every picture the
    layer then gives what it gave on that picture made grey, but for the rounding of grey to whole bytes.
    """
    if channels == weight.shape[1]:
        return weight
    if channels == 3:
        return weight * weight.new_tensor(LUMA)[:, None, None]
    new = statistics.mean(std)
    return (weight * weight.new_tensor([new / own for own in std])[:, None, None]).sum(1, keepdim=True)


def notes(source: Source, config: runs.Config, class_names: Sequence[str], splits: Splits) -> list[str]:
    """What a person should know: what is kept, what begins anew, and whether the source has seen what is judged on."""
    card = source.file.card
    *backbone, head = networks.parts(source.file.model)
    known = [name for name in class_names if name in card.class_names]
    new = [name for name in class_names if name not in card.class_names]
    rows = f"the rows of {_some(known)}" if known else "nothing"
    anew = f"; {_some(new)} begin{'s' * (len(new) == 1)} anew" if new else ""
    line = f"begins with {source.place} ({source.arch}): kept are {', '.join(backbone)}, and of {head} {rows}{anew}"
    if config.in_channels != card.preprocess.channels:
        how = "summed up for 1 channel" if config.in_channels == 1 else "spread over 3 channels"
        line += f"; its first layer is {how}"
    return [line, *seen_before(source, splits)]


def seen_before(source: Source, splits: Splits) -> list[str]:
    """A note if the source was trained on pictures that are judged on here."""
    held_out = next((splits.parts[name] for name in ("test", "val") if name in splits.parts), None)
    if held_out is not None and "seen" in source.file.extra:
        count = data_room.count_marked(held_out, source.file.extra["seen"])
        if count:
            return [
                f"{source.place} was trained on {count} of the {len(held_out)} pictures that are judged on here, "
                "which flatters the figures"
            ]
    return []


def _some(names: Sequence[str]) -> str:
    """ "a, b", or of many "classes a, b, c, d, e and 95 more"."""
    rest = len(names) - _SHOWN
    listed = f"{', '.join(names[:_SHOWN])} and {rest} more" if rest > 0 else ", ".join(names)
    return f"class {listed}" if len(names) == 1 else f"classes {listed}"
