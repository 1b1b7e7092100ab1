"""A trained model file → what another training begins with: `--from MODEL`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wideresnet import data as data_room
from wideresnet import files, runs
from wideresnet.checkpoint import ModelFile, load_model
from wideresnet.data import Splits
from wideresnet.dialects import arch_name, parse_arch
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.model import WideResNetClassifier


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The model that training begins with; `digest` is the SHA-256 of the file, `place` finds it again."""

    place: str
    digest: str
    file: ModelFile

    @property
    def arch(self) -> str:
        return arch_name(dict(self.file.card.architecture))


def read_source(model: str | Path) -> Source:
    """Raises ModelFileError if `model` is no model file and no run folder."""
    file = load_model(Path(model))
    path = Path(model) / runs.MODEL if Path(model).is_dir() else Path(model)
    return Source(str(path.resolve()), files.sha256(path.read_bytes()), file)


def source_of(config: runs.Config) -> Source | None:
    """The one that a run began with, for going on with it. Raises ModelFileError if the file is another one now."""
    if config.from_model is None:
        return None
    source = read_source(config.from_model)
    if source.digest != config.from_digest:
        raise ModelFileError(f"{config.from_model}: not the file this run began with; put the old one back")
    return source


def check_options(
    source: Source, *, arch: str | None, in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    """Raises UsageError where an option contradicts what the weights were trained for; 3 channels are the default."""
    preprocess = source.file.card.preprocess
    try:
        same = arch is None or arch_name(parse_arch(arch)) == source.arch
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error
    if not same:
        raise UsageError(f"--arch {arch}: {source.place} is a {source.arch}; leave --arch out, or train without --from")
    if in_channels not in (3, preprocess.channels):
        raise UsageError(f"in_channels={in_channels}: {source.place} takes {preprocess.channels}; leave it out")
    for name, given, own in (("mean", mean, preprocess.mean), ("std", std, preprocess.std)):
        if given is not None and tuple(given) != own:
            raise UsageError(f"--{name} {tuple(given)}: {source.place} was trained with {own}; leave --{name} out")


@torch.no_grad()
def take_over(model: WideResNetClassifier, class_names: Sequence[str], source: Source) -> None:
    """Sets `model` to the source's weights. Of `fc` it takes the rows of the classes that both have, by name; the rows
    of other classes stay as they are."""
    theirs = source.file.model.state_dict()
    rows = {name: row for row, name in enumerate(source.file.card.class_names)}
    for key, value in model.state_dict().items():
        if not key.startswith("fc."):
            value.copy_(theirs[key])
            continue
        for label, name in enumerate(class_names):
            if name in rows:
                value[label] = theirs[key][rows[name]]


def notes(source: Source, class_names: Sequence[str], splits: Splits) -> list[str]:
    """What a person should know: which classes begin anew, and whether the source has seen what is judged on."""
    card = source.file.card
    new = [name for name in class_names if name not in card.class_names]
    kept = f"{len(class_names) - len(new)} of {len(class_names)} classes are known to it"
    lines = [f"begins with {source.place} ({source.arch}); {kept}"]
    held_out = next((splits.parts[name] for name in ("test", "val") if name in splits.parts), None)
    if held_out is not None and "seen" in source.file.extra:
        count = data_room.count_marked(held_out, source.file.extra["seen"])
        if count:
            lines.append(
                f"{source.place} was trained on {count} of the {len(held_out)} pictures that are judged on here, "
                "which flatters the figures"
            )
    return lines
