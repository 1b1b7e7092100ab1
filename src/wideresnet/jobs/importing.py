"""`import_checkpoint`: another project's checkpoint → one of our model files, proven where there is data for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wideresnet import data as data_room
from wideresnet import dialects, files, runtime
from wideresnet.checkpoint import Card, save_model
from wideresnet.dialects import Fit, Found
from wideresnet.errors import ModelFileError, UsageError, nearest, printable
from wideresnet.jobs.candidates import (
    Candidate,
    Ground,
    best,
    candidates_of,
    described,
    given_input,
    measured,
    preprocess_of,
)
from wideresnet.preprocess import Preprocess
from wideresnet.reading import Reading

_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DATA_SETS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "cifar10": (10, 3, _CIFAR10),
    "cifar100": (100, 3, ()),
    "svhn": (10, 3, _DIGITS),
    "mnist": (10, 1, _DIGITS),
}
"""Data sets that sources normalise each in its own way → classes, channels, names of the classes in order (or none)."""


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A finished import: the model file, the dialect it was read as, the network, every candidate, what was noticed."""

    path: Path
    dialect: str
    arch: str
    num_classes: int
    preprocess: Preprocess
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def import_checkpoint(
    checkpoint: str | Path,
    *,
    dialect: str | None = None,
    out: str | Path | None = None,
    check: str | Path | None = None,
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    ema: bool = False,
    set_aside: Sequence[str] = (),
    trust_pickle: bool = False,
    reading: Reading | None = None,
    max_bad: int | None = 0,
    choose: Callable[[Sequence[Candidate]], Candidate] | None = None,
    watch: runtime.Watch = runtime.PRINT,
) -> Imported:
    """Reads `checkpoint` as `dialect`, or as the only one that its keys allow; where they allow several that compute
    differently, `check` measures each on labelled data, `choose` asks, or it is refused. Never guessed.

    dataset: what it was trained on, where the source normalises each data set in its own way and the number of
    classes does not tell. class_names: in the network's order. mean, std: in [0, 1], in place of the source's. size:
    side of its images in pixels; 32 (of MNIST 28) if not given. ema: the averaged weights. set_aside: patterns of
    keys that are no part of the network. out: FILE-wrn.safetensors here if not given. Raises ModelFileError,
    UsageError, DataError.
    """
    checkpoint = Path(checkpoint)
    stem = checkpoint.name.split(".")[0] or "checkpoint"  # model_best.pth.tar → model_best
    target = files.file_to_write(out, f"{stem}-wrn.safetensors", (".safetensors",), read={checkpoint: "the checkpoint"})
    if dataset is not None and dataset not in DATA_SETS:
        raise UsageError(f"--dataset {dataset}{nearest(dataset, DATA_SETS)}")
    named = None if dialect is None else dialects.find_dialect(dialect)
    found = dialects.unwrap(dialects.read(checkpoint, trust_pickle=trust_pickle), checkpoint, ema=ema)
    _check_values(found, checkpoint)
    candidates = candidates_of(
        found, checkpoint, named=named, dataset=dataset or "", given=given_input(mean, std), aside=set_aside
    )
    num_classes = _check_shape(candidates[0].fit, dataset, checkpoint)
    names = _checked_names(class_names, num_classes, checkpoint)
    notes, figures = list(found.notes), dict[str, Any]()
    if check is None:
        chosen = _asked(candidates, checkpoint, choose)
    else:
        listing = data_room.read(check, reading or Reading(), watch)
        if len(listing.class_names) != num_classes:
            raise UsageError(f"--check {check}: {len(listing.class_names)} classes; the head has {num_classes}")
        ground = Ground(listing, size, max_bad, watch)
        candidates = measured(candidates, found, ground)
        chosen, remarks = best(candidates, checkpoint)
        notes += remarks
        figures = {"split": f"{ground.part} of {listing.name}", "accuracy": chosen.accuracy}
        figures["num_images"] = len(chosen.right)
        names = names or listing.class_names
    fit, source = chosen.fit, chosen.input
    if source is None:
        known = ", ".join(fit.dialect.inputs) or "none that mean and std can say"
        raise UsageError(
            f"{checkpoint}: how its images were normalised depends on the data set ({fit.dialect.name} has: {known}); "
            "say --dataset NAME, or --mean and --std"
        )
    names = names or (() if dataset is None else DATA_SETS[dataset][2])
    if not names:
        names = tuple(f"class {number}" for number in range(num_classes))  # no name that another model's may be
        notes.append("its classes have no names, and get their numbers (--class-names, --dataset, --check)")
    if mean is None and dataset is None and len(fit.dialect.inputs) > 1:
        others = ", ".join(name for name in fit.dialect.inputs if name)
        notes.append(f"its input ({source}) is assumed from its {num_classes} classes; --dataset says which: {others}")
    if fit.dialect.quirks:
        notes.append(f"{fit.dialect.name}: {fit.dialect.quirks}")
    preprocess = preprocess_of(source, fit, size)
    _write(target, found, fit, checkpoint, class_names=names, preprocess=preprocess, figures=figures)
    arch = f"wrn_{fit.architecture['depth']}_{fit.architecture['widen_factor']}.{fit.dialect.name}"
    return Imported(target, fit.dialect.name, arch, num_classes, preprocess, tuple(candidates), tuple(notes))


def _check_shape(fit: Fit, dataset: str | None, checkpoint: Path) -> int:
    """The number of classes. Raises UsageError if `dataset` has others, or other channels."""
    shape = (int(fit.architecture["num_classes"]), int(fit.architecture["in_channels"]))
    if dataset is not None and shape != DATA_SETS[dataset][:2]:
        classes, channels, _ = DATA_SETS[dataset]
        raise UsageError(
            f"--dataset {dataset}: has {classes} classes and images of {channels} channels; {checkpoint} is for "
            f"{shape[0]} and {shape[1]}"
        )
    return shape[0]


def _asked(
    candidates: Sequence[Candidate], checkpoint: Path, choose: Callable[[Sequence[Candidate]], Candidate] | None
) -> Candidate:
    """The only one, or the one that a person chooses. Raises UsageError where nobody is there to ask."""
    if len(candidates) == 1:
        return candidates[0]
    if choose is not None:
        return choose(candidates)
    raise UsageError(
        f"{checkpoint}: fits dialects that its keys do not tell apart, and that compute differently:\n"
        + "\n".join(f"  {line}" for line in described(candidates))
        + "\nSay which with --dialect NAME, or let --check DATA measure it."
    )


def _write(target: Path, found: Found, fit: Fit, checkpoint: Path, **of_card: Any) -> None:
    """The model file, and with it what writing the checkpoint back takes."""
    state = dialects.to_ours(found.tensors, fit)
    card = Card(
        architecture=fit.architecture,
        weights="ema" if found.averaged else "raw",
        imported=_receipt(found, fit, checkpoint),
        **of_card,
    )
    # What float32 does not hold exactly, a float64 or a counter that is no whole number, is kept as it was, too.
    back = dialects.to_theirs(state, fit.keys, hwio=fit.dialect.keys.hwio)
    whole = {name: found.tensors[name] for name in fit.keys.values() if name in found.tensors}
    rounded = [name for name, value in whole.items() if not torch.equal(back[name].to(value.dtype), value)]
    save_model(target, state, card, {f"theirs/{key}": found.tensors[key] for key in (*fit.unused, *rounded)})


def _checked_names(class_names: Sequence[str] | None, num_classes: int, checkpoint: Path) -> tuple[str, ...]:
    names = tuple(class_names or ())
    if names and len(names) != num_classes:
        raise UsageError(f"{len(names)} class names for {checkpoint}, whose head has {num_classes} classes")
    odd = next((name for name in names if not name.strip() or not name.isprintable() or names.count(name) > 1), None)
    if odd is not None:
        raise UsageError(f"--class-names: {odd!r} is empty, comes twice or is no line of text; each class has its own")
    return names


def _stem(path: Path) -> str:
    """model_best.pth.tar → model_best."""
    return path.name.split(".")[0] or "checkpoint"


def _check_values(found: Found, checkpoint: Path) -> None:
    """Raises ModelFileError on what no trained network holds, and on networks that are known and not read."""
    for key, value in found.tensors.items():
        where = f"{checkpoint}: {printable(key)}"
        if value.layout != torch.strided:
            raise ModelFileError(f"{where} is sparse; save it dense: tensor.to_dense()")
        if value.dim() > 1 and not value.is_floating_point():
            raise ModelFileError(f"{where} is of the type {str(value.dtype).removeprefix('torch.')}; expected floats")
        if value.is_floating_point() and not value.to(torch.float32).isfinite().all():
            raise ModelFileError(f"{where} has values that are not finite; its training diverged")
        if key.endswith(("running_var", "moving_variance")) and (value < 0).any():
            raise ModelFileError(f"{where} has values below 0, which no variance has; damaged?")
    if (row := dialects.refused(found.tensors)) is not None:
        raise ModelFileError(f"{checkpoint}: of {row.name}, which is not read: {row.reason}")


def _receipt(found: Found, fit: Fit, checkpoint: Path) -> dict[str, Any]:
    """For the card: where it came from, and all that writing it back takes besides the weights."""
    counters = [name for ours, name in fit.keys.items() if ours.endswith("num_batches_tracked")]
    usual = {name: torch.int64 if name in counters else torch.float32 for name in fit.keys.values()}
    others = {
        key: str(value.dtype).removeprefix("torch.")
        for key, value in found.tensors.items()
        if key in usual and value.dtype != usual[key]
    }
    return {
        "dialect": fit.dialect.name,
        "file": checkpoint.name,
        "sha256": files.sha256(checkpoint.read_bytes()),
        "where": found.where,
        "keys": list(found.tensors),
        "names": list(found.names),
        "dtypes": others,
    }
