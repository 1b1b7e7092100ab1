"""Model file and checkpoint ↔ disk. One safetensors file each, with one JSON entry and a digest over everything in it.

A model file (format 1) is all that it takes to predict: `weights/…` under the network's own keys, `extra/…` kept as
found, and the `Card`. A checkpoint is all that it takes to go on. Neither holds a picture, neither is a pickle.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from wideresnet import files, kinds, networks
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.preprocess import Preprocess

FORMAT_VERSION = 1
_ENTRY = "wideresnet"

Task = Literal["classification", "detection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What travels with the weights. `figures` are on held-out data and name their split; `trained` says how, or
    `imported` from which dialect and file, and what it takes to write that back. `temperature` is a classifier's,
    `threshold` a detector's: the score from which a box is shown."""

    architecture: Mapping[str, Any]
    class_names: tuple[str, ...]
    preprocess: Preprocess
    task: Task = "classification"
    weights: str = "raw"  # or "ema": the average
    temperature: float = 1.0
    threshold: float = 0.5
    trained: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    imported: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, Any] = field(default_factory=dict)  # of the tensors extra/unknown/…: see `prediction`

    def __post_init__(self) -> None:
        if self.architecture.get("num_classes") != len(self.class_names):
            raise ModelFileError(
                f"{len(self.class_names)} class names for a network of {self.architecture.get('num_classes')} classes"
            )
        if not 0 < self.temperature < math.inf:
            raise ModelFileError(f"temperature={self.temperature}: expected a number above 0, as it divides")
        if not 0 <= self.threshold <= 1:
            raise ModelFileError(f"threshold={self.threshold}: expected a score in [0, 1]")
        if (self.task == "detection") != ("detector" in self.architecture):
            raise ModelFileError(f"task={self.task!r}, and its network is for another")


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A model as read: the network in eval mode on the CPU, its card, and tensors that we do not know but keep."""

    model: nn.Module
    card: Card
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def save_model(path: Path, state: Mapping[str, Tensor], card: Card, extra: Mapping[str, Tensor] | None = None) -> None:
    """Writes format 1, whole or not at all. `state` is the network's state dict."""
    tensors = {f"weights/{key}": value for key, value in state.items()}
    tensors |= {f"extra/{key}": value for key, value in (extra or {}).items()}
    entry = {
        "format_version": FORMAT_VERSION,
        "dtype": str(next(iter(state.values())).dtype).removeprefix("torch."),
        **dataclasses.asdict(card),
        "preprocess": card.preprocess.to_dict(),
    }
    _write(path, tensors, entry)


def load_model(path: Path, *tasks: Task) -> ModelFile:
    """Reads a model file, or the model file of a run folder. Raises ModelFileError, saying what the file is instead, or
    what it is for where that is none of `tasks` (classification)."""
    path = _model_path(path)
    tensors, entry = _read(path)
    card = _card(entry, path)
    if card.task not in (tasks or ("classification",)):
        what, command = ("detector", "wrn detect") if card.task == "detection" else ("classifier", "wrn")
        raise ModelFileError(f"{path}: a {what}; its commands are {command} predict and {command} evaluate")
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    try:
        _check_fits(card.architecture, weights)
        model = networks.from_card(card.architecture)
        model.load_state_dict(weights)
    except _UNFIT as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: a model file whose content does not fit together: {reason}") from error
    if not all(t.isfinite().all() for t in model.state_dict().values()):
        raise ModelFileError(f"{path}: has weights that are not finite; its training diverged")
    extra = {k.removeprefix("extra/"): v for k, v in tensors.items() if k.startswith("extra/")}
    return ModelFile(model.eval(), card, extra)


# What networks and cards raise on values that they cannot be made of.
_UNFIT = (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError)


def _check_fits(architecture: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError, before there is memory for it, if a network so told of has other tensors than `weights`."""
    # No number that tells of a network is larger than its tensors are many or long: not its depth, not its width.
    most = max([len(weights), *(side for tensor in weights.values() for side in tensor.shape)])
    if told := [f"{name}={value!r}" for name, value in architecture.items() if _largest(value) > most]:
        raise ValueError(f"{', '.join(told)}, and its {len(weights)} tensors are of a smaller network")
    expected = networks.without_weights(
        architecture, architecture["num_classes"], in_channels=architecture["in_channels"]
    )
    own, theirs = ({k: list(v.shape) for k, v in one.items()} for one in (expected.state_dict(), weights))
    if unlike := [key for key in {**own, **theirs} if own.get(key) != theirs.get(key)]:
        shown = [f"{key} {theirs.get(key, 'missing')} instead of {own.get(key, 'none')}" for key in unlike[:5]]
        more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
        raise ValueError(f"not the tensors of {networks.arch_name(architecture)}: {', '.join(shown)}{more}")


def _largest(value: Any) -> float:
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int | float) else 0


def read_card(path: Path) -> Card:
    """The card of a model file alone: its weights are not read, its digest not checked. Errors as `load_model`."""
    path = _model_path(path)
    return _card(_read(path, card_alone=True)[1], path)


def _model_path(path: Path) -> Path:
    if path.is_dir():
        if not (path / "model.safetensors").exists():
            hint = " Training has not finished its first epoch." if (path / "config.json").exists() else ""
            if (path / "fold-1").is_dir():
                hint = f" It is a cross-validation: {path / 'fold-1'} and the others beside it are its runs."
            raise ModelFileError(f"{path}: a folder without model.safetensors; expected a run or a model file.{hint}")
        return path / "model.safetensors"
    return path


def _card(entry: Mapping[str, Any], path: Path) -> Card:
    version = entry.get("format_version")
    if not isinstance(version, int):
        raise ModelFileError(f"{path}: not a model file (a checkpoint?); expected a run's model.safetensors")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format {version}, newer than this wideresnet reads ({FORMAT_VERSION}); "
            "upgrade with `pip install --upgrade wideresnet`"
        )
    try:
        names = {f.name for f in dataclasses.fields(Card)}
        values = {key: value for key, value in entry.items() if key in names}
        values["preprocess"] = Preprocess.from_dict(values.get("preprocess", {}))
        card: Card = kinds.fitted(values, Card, "")
        return card
    except (*_UNFIT, UsageError, ModelFileError) as error:
        raise ModelFileError(f"{path}: a model file whose card does not fit together: {error}") from error


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any], *, keep: Path | None = None
) -> None:
    """`progress` is JSON: epochs done, rows of the metrics, best score so far, the run's config. keep: where the
    checkpoint before it goes, once this one has been read back."""
    _write(path, tensors, {"checkpoint_version": FORMAT_VERSION, **progress}, keep)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, progress = _read(path)
    if progress.get("checkpoint_version") != FORMAT_VERSION:
        raise ModelFileError(f"{path}: not a checkpoint that this wideresnet can go on from")
    return tensors, progress


def _write(path: Path, tensors: Mapping[str, Tensor], entry: Mapping[str, Any], keep: Path | None = None) -> None:
    plain, places = dict[str, Tensor](), set[int]()
    for key, value in tensors.items():
        own = value.detach().to("cpu").contiguous()
        # safetensors refuses two names for one memory, as an activation that learns has in every block.
        plain[key] = own.clone() if own.data_ptr() in places else own
        places.add(own.data_ptr())
    # In its own order: rows of the metrics keep their columns' when a run goes on.
    text = json.dumps({**entry, "digest": _digest(plain, entry)}, ensure_ascii=False, allow_nan=False)
    files.write_whole(path, save(plain, metadata={_ENTRY: text}), keep=keep)


def _read(path: Path, *, card_alone: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and our JSON entry, checked against the digest; `card_alone`: the entry unchecked, nothing else read."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; expected a run folder, or its model.safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            keys = () if card_alone else file.keys()
            tensors = {key: file.get_tensor(key) for key in keys}
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: {_what_it_is(path)}; expected a safetensors file ({error})") from error
    if _ENTRY not in metadata:
        raise ModelFileError(f"{path}: safetensors, but no model file or checkpoint of ours (no {_ENTRY!r} entry)")
    try:
        entry: dict[str, Any] = json.loads(metadata[_ENTRY])
        digest = entry.pop("digest")
        own = digest if card_alone else _digest(tensors, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: damaged: its header cannot be read ({error}). Take another copy") from error
    if digest != own:
        raise ModelFileError(f"{path}: damaged: its content differs from its digest. Take another copy")
    return tensors, entry


def _digest(tensors: Mapping[str, Tensor], entry: Mapping[str, Any]) -> str:
    """SHA-256 over the entry without its digest, and over each tensor's name, type, shape and bytes."""
    parts: list[bytes | memoryview] = [json.dumps(entry, sort_keys=True, ensure_ascii=False).encode()]
    for key in sorted(tensors):
        value = tensors[key]
        parts.append(f"{key} {value.dtype} {list(value.shape)}".encode())
        parts.append(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return files.sha256(*parts)


def _what_it_is(path: Path) -> str:
    """What a file that is not safetensors seems to be, from its first bytes."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "empty"
    for start, what in {
        b"PK\x03\x04": "a zip or a torch .pt file",
        b"\x80": "a pickle",
        b"version https://git-lfs": "a Git LFS pointer (run `git lfs pull`)",
        b"<": "a web page or XML",
    }.items():
        if head.startswith(start):
            return what
    return "damaged, or no model file"
