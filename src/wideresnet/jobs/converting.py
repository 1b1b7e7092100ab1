"""`convert`: one of our model files → a checkpoint under a dialect's keys, for code bases that read these."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wideresnet import dialects, files, hub, networks
from wideresnet.checkpoint import Card, load_model
from wideresnet.dialects import Dialect
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.model import Options, Variant


@dataclass(frozen=True, slots=True)
class Converted:
    path: Path
    num_tensors: int
    notes: tuple[str, ...]


def convert(model: str | Path, dialect: str, out: str | Path | None = None, *, download: bool = False) -> Converted:
    """Writes the weights of `model` under the keys of `dialect`: .pth and .pt by torch.save, .safetensors or .npz.

    A model that was imported from this dialect comes back as it was found, key by key, with what lay beside. Any other
    must compute what the dialect's network computes. out: MODEL-DIALECT.pth here if not given. Raises UsageError where
    it does not, naming the options that differ and the dialects that would do; ModelFileError. `model` and download:
    as `load`'s.
    """
    target_dialect = dialects.find_dialect(dialect)
    file = load_model(hub.model_file(model, download=download))
    name = Path(model).resolve()
    target = Path(f"{name.stem}-{target_dialect.name}.pth") if out is None else Path(out)
    if target.suffix.lower() not in dialects.WRITTEN:
        raise UsageError(f"--out {target}: expected a name that ends in {', '.join(dialects.WRITTEN)}")
    if out is None and target.exists():
        raise UsageError(f"{target}: exists; name the file to write with --out")
    files.check_replaceable(target, target.suffix.lower(), "--out")
    if target.exists() and name.exists() and any(target.samefile(own) for own in (name, name / "model.safetensors")):
        raise UsageError(f"--out {target}: is the model file itself, which would be lost; choose another name")
    state, card = file.model.state_dict(), file.card
    if "library" in card.architecture:
        arch = networks.arch_name(card.architecture)
        raise UsageError(f"{model}: {arch}, no Wide ResNet; its weights lie under that library's own keys already")
    if card.imported.get("dialect") == target_dialect.name:
        tensors, notes = _as_found(state, card, target_dialect, file.extra), list[str]()
    else:
        tensors, notes = _translated(state, card, target_dialect)
    notes += _notes(card, target_dialect, tensors)
    files.write_whole(target, dialects.content(tensors, target.suffix.lower()))
    return Converted(target, len(tensors), tuple(notes))


def _as_found(
    state: Mapping[str, Tensor], card: Card, dialect: Dialect, extra: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What was imported, key by key in its own order: the weights, what lay beside, the types, the prefix."""
    receipt = card.imported
    theirs = dialects.to_theirs(state, dialect.keys.theirs(state), hwio=dialect.keys.hwio)
    theirs |= {key.removeprefix("theirs/"): value for key, value in extra.items() if key.startswith("theirs/")}
    lacking = [key for key in receipt["keys"] if key not in theirs]
    if lacking:
        raise ModelFileError(f"the file lacks {lacking[0]}, which was imported with it; import the checkpoint anew")
    dtypes = receipt["dtypes"]
    return {
        name: theirs[key].to(getattr(torch, dtypes[key])) if key in dtypes else theirs[key]
        for key, name in zip(receipt["keys"], receipt["names"], strict=True)
    }


def _translated(state: Mapping[str, Tensor], card: Card, dialect: Dialect) -> tuple[dict[str, Tensor], list[str]]:
    mine = _options(card.architecture)
    theirs = {**asdict(Variant(**dialect.options)), **_free(card, dialect)}
    differing = [name for name, value in theirs.items() if mine[name] != value and name not in dialects.TRAINING_ONLY]
    if differing:
        said = ", ".join(f"{name} is {mine[name]}, there {theirs[name]}" for name in differing)
        same = [
            other.name
            for other in dialects.DIALECTS
            if _same(mine, {**asdict(Variant(**other.options)), **_free(card, other)})
        ]
        instead = f"Dialects that compute as it does: {', '.join(same)}" if same else "No dialect computes as it does"
        raise UsageError(
            f"{dialect.name} computes another network ({said}): under its keys these weights would answer otherwise, "
            f"without an error. {instead}"
        )
    if dialect.keys.spectral:
        raise UsageError(
            f"{dialect.name}: its spectral normalisation cannot be made from plain weights; take ddu-plain"
        )
    tensors = dialects.to_theirs(state, dialect.keys.theirs(state), hwio=dialect.keys.hwio)
    if dialect.keys.mean:
        if card.preprocess.per_image or card.preprocess.border:
            raise UsageError(
                f"{dialect.name} normalises by a mean and a std; these weights want images standardised one by one, or "
                "with a border"
            )
        for key, values in ((dialect.keys.mean, card.preprocess.mean), (dialect.keys.std, card.preprocess.std)):
            tensors[key] = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
    notes = [
        f"{name} is {mine[name]}, there {theirs[name]}: matters to further training alone"
        for name in dialects.TRAINING_ONLY
        if mine[name] != theirs[name]
    ]
    return tensors, notes


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return all(mine[name] == value for name, value in theirs.items() if name not in dialects.TRAINING_ONLY)


def _free(card: Card, dialect: Dialect) -> Options:
    """What a source takes as it comes: what its row says that the keys show."""
    mine = _options(card.architecture)
    free: Any = {name: mine[name] for name in dialect.read_off}
    if (mine["widths"] or (16 * int(card.architecture["widen_factor"]),))[0] > 16:
        free["projection"] = mine["projection"]  # no difference where stage 1 widens
    typed: Options = free
    return typed


def _options(architecture: Mapping[str, Any]) -> dict[str, Any]:
    defaults = asdict(Variant())
    return asdict(Variant(**{name: architecture[name] for name in defaults if name in architecture}))


def _notes(card: Card, dialect: Dialect, tensors: Mapping[str, Tensor]) -> list[str]:
    """What is not in the weights and has to be right where they are used."""
    shape, mine = card.architecture, card.preprocess
    notes = []
    if card.temperature != 1:
        notes.append(f"logits are to be divided by the temperature {card.temperature:.4g} for probabilities")
    if (mine.size + 2 * mine.border, mine.fit) != (32, "crop"):
        notes.append(f"these weights want images of {mine.size} pixels, {mine.fit}")
    theirs = dialects.input_for(dialect, int(shape["num_classes"]), int(shape["in_channels"]))
    own = [value for key, value in tensors.items() if key.endswith((dialect.keys.mean, dialect.keys.std))]
    if dialect.keys.mean and len(own) == 2:  # written with the weights, and used from there
        mean, std = (tuple(value.flatten().tolist()) for value in own)
        theirs = dialects.Input(_three(mean), _three(std))
    channels = mine.channels
    usual = "what the data set needs" if theirs is None else str(theirs)
    same = theirs is not None and (theirs.per_image, theirs.border) == (mine.per_image, mine.border)
    if same and theirs is not None:
        numbers = zip((*theirs.mean[:channels], *theirs.std[:channels]), (*mine.mean, *mine.std), strict=True)
        same = all(abs(one - other) < 1e-6 for one, other in numbers)
    if not same:
        wanted = dialects.Input(_three(mine.mean), _three(mine.std), mine.per_image, mine.border)
        notes.append(f"these weights want the input {wanted}; {dialect.name}'s code has {usual}: set it there")
    return notes


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = values * (3 if len(values) == 1 else 1)
    return first, second, third
