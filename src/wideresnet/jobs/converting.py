"""`convert`: one of our model files → a checkpoint under a dialect's keys, for code bases that read these."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from wideresnet import dialects, files, hub, networks
from wideresnet.checkpoint import Card, load_model
from wideresnet.dialects import Dialect
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.model import Variant


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
    own = dict.fromkeys((name, name / "model.safetensors"), "the model file")
    target = files.file_to_write(out, f"{name.stem}-{target_dialect.name}.pth", dialects.WRITTEN, read=own)
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
    differing = _differing(card, dialect)
    if differing.keys() - set(dialects.TRAINING_ONLY):
        said = ", ".join(told for name, told in differing.items() if name not in dialects.TRAINING_ONLY)
        same = [row.name for row in dialects.DIALECTS if _differing(card, row).keys() <= set(dialects.TRAINING_ONLY)]
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
    return tensors, [f"{told}: matters to further training alone" for told in differing.values()]


def _differing(card: Card, dialect: Dialect) -> dict[str, str]:
    """Options in which the network is not the dialect's, each in words; not those that a source takes as they come."""
    names = [field.name for field in fields(Variant)]
    mine = Variant(**{name: card.architecture[name] for name in names if name in card.architecture})
    theirs = Variant(**dialect.options)
    free = set(dialect.read_off)
    if (mine.widths or (16 * int(card.architecture["widen_factor"]),))[0] > 16:
        free.add("projection")  # no difference where stage 1 widens
    pairs = {name: (getattr(mine, name), getattr(theirs, name)) for name in names if name not in free}
    return {name: f"{name} is {own}, there {other}" for name, (own, other) in pairs.items() if own != other}


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
        theirs = dialects.Input(dialects.three(mean), dialects.three(std))
    channels = mine.channels
    usual = "what the data set needs" if theirs is None else str(theirs)
    same = theirs is not None and (theirs.per_image, theirs.border) == (mine.per_image, mine.border)
    if same and theirs is not None:
        numbers = zip((*theirs.mean[:channels], *theirs.std[:channels]), (*mine.mean, *mine.std), strict=True)
        same = all(abs(one - other) < 1e-6 for one, other in numbers)
    if not same:
        wanted = dialects.Input(dialects.three(mine.mean), dialects.three(mine.std), mine.per_image, mine.border)
        notes.append(f"these weights want the input {wanted}; {dialect.name}'s code has {usual}: set it there")
    return notes
