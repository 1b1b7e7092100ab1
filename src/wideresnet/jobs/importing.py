"""`import_checkpoint`: another project's checkpoint → one of our model files, proven where there is data for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wideresnet import data as data_room
from wideresnet import dialects, files, runtime
from wideresnet.checkpoint import Card, save_model
from wideresnet.dialects import Fit, Found
from wideresnet.errors import ModelFileError, UsageError, nearest
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
DATA_SETS: dict[str, tuple[str, ...]] = {"cifar10": _CIFAR10, "cifar100": (), "svhn": _DIGITS, "mnist": _DIGITS}
"""Data sets that sources normalise each in its own way → their classes in order; () where only the data names them."""


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
    size: int = 32,
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
    side of its images in pixels. ema: the averaged weights. set_aside: patterns of keys that are no part of the
    network. out: FILE-wrn.safetensors here if not given. Raises ModelFileError, UsageError, DataError.
    """
    checkpoint = Path(checkpoint)
    target = Path(f"{_stem(checkpoint)}-wrn.safetensors") if out is None else Path(out)
    if out is None and target.exists():
        raise UsageError(f"{target}: exists; name the file to write with --out")
    files.check_replaceable(target, ".safetensors", "--out")
    if dataset is not None and dataset not in DATA_SETS:
        raise UsageError(f"--dataset {dataset}{nearest(dataset, DATA_SETS)}")
    named = None if dialect is None else dialects.find_dialect(dialect)
    found = dialects.unwrap(dialects.read(checkpoint, trust_pickle=trust_pickle), checkpoint, ema=ema)
    _check_values(found, checkpoint)
    candidates = candidates_of(
        found, checkpoint, named=named, dataset=dataset or "", given=given_input(mean, std), aside=set_aside
    )
    labels: tuple[str, ...] = ()
    notes = list(found.notes)
    if check is not None:
        listing = data_room.read(check, reading or Reading(), watch)
        num_classes = int(candidates[0].fit.architecture["num_classes"])
        if len(listing.class_names) != num_classes:
            raise UsageError(f"--check {check}: {len(listing.class_names)} classes; the head has {num_classes}")
        candidates = measured(candidates, found, Ground(listing, size, max_bad, watch))
        chosen, remarks = best(candidates, checkpoint)
        labels, notes = listing.class_names, notes + remarks
    elif len(candidates) == 1:
        chosen = candidates[0]
    elif choose is not None:
        chosen = choose(candidates)
    else:
        raise UsageError(
            f"{checkpoint}: fits dialects that its keys do not tell apart, and that compute differently:\n"
            + "\n".join(f"  {line}" for line in described(candidates))
            + "\nSay which with --dialect NAME, or let --check DATA measure it."
        )
    fit = chosen.fit
    if chosen.input is None:
        known = ", ".join(fit.dialect.inputs) or "none that mean and std can say"
        raise UsageError(
            f"{checkpoint}: how its images were normalised depends on the data set ({fit.dialect.name} has: {known}); "
            "say --dataset NAME, or --mean and --std"
        )
    names = tuple(class_names or labels or DATA_SETS.get(dataset or "", ()) or ())
    num_classes = int(fit.architecture["num_classes"])
    if names and len(names) != num_classes:
        raise UsageError(f"{len(names)} class names for {checkpoint}, whose head has {num_classes} classes")
    if not names:
        names = tuple(map(str, range(num_classes)))
        notes.append("its classes have no names; they are called by their numbers (--class-names, --dataset, --check)")
    preprocess = preprocess_of(chosen.input, fit, size)
    if fit.dialect.quirks:
        notes.append(f"{fit.dialect.name}: {fit.dialect.quirks}")
    card = Card(
        architecture=fit.architecture,
        class_names=names,
        preprocess=preprocess,
        weights="ema" if found.averaged else "raw",
        imported=_receipt(found, fit, checkpoint),
        figures=_figures(chosen, check),
    )
    aside = {f"theirs/{key}": found.tensors[key] for key in fit.unused}
    save_model(target, dialects.to_ours(found.tensors, fit), card, aside)
    arch = dialects.arch_name(fit.architecture)
    return Imported(target, fit.dialect.name, arch, num_classes, preprocess, tuple(candidates), tuple(notes))


def _figures(chosen: Candidate, check: str | Path | None) -> dict[str, Any]:
    if chosen.labels is None:
        return {}
    return {"split": f"--check {check}", "accuracy": chosen.accuracy, "num_images": len(chosen.labels)}


def _stem(path: Path) -> str:
    """model_best.pth.tar → model_best."""
    return path.name.split(".")[0] or "checkpoint"


def _check_values(found: Found, checkpoint: Path) -> None:
    for key, value in found.tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ModelFileError(f"{checkpoint}: {key} has values that are not finite; its training diverged")
    if (row := dialects.refused(found.tensors)) is not None:
        raise ModelFileError(f"{checkpoint}: of {row.name}, which is not read: {row.reason}")


def _receipt(found: Found, fit: Fit, checkpoint: Path) -> dict[str, Any]:
    """For the card: where it came from, and all that writing it back takes besides the weights."""
    state = dialects.to_ours(found.tensors, fit)
    written = {name: found.tensors[name] for name in fit.keys.values() if name in found.tensors}
    ours = {name: state[key].dtype for key, name in fit.keys.items()}
    others = {
        key: str(value.dtype).removeprefix("torch.") for key, value in written.items() if value.dtype != ours[key]
    }
    return {
        "dialect": fit.dialect.name,
        "file": checkpoint.name,
        "sha256": files.sha256(checkpoint.read_bytes()),
        "where": found.where,
        "prefix": found.prefix,
        "keys": list(found.tensors),
        "dtypes": others,
    }
