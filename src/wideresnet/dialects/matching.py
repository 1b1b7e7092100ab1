"""A state dict as found → which dialects it fits, and its tensors under our keys; and back.

The network's shape is read off the tensors' shapes alone, the same way for every source; then the dialect's rule must
name exactly the tensors that are there. So what does not fit is told key by key, and nothing is guessed.
"""

import fnmatch
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from wideresnet.dialects import spectral
from wideresnet.dialects.dialect import Dialect
from wideresnet.dialects.inputs import Input
from wideresnet.dialects.table import DIALECTS
from wideresnet.errors import printable
from wideresnet.model import Variant, WideResNetClassifier

TRAINING_ONLY = ("dropout_at", "bn_momentum", "final_bn_momentum")  # no effect on the logits of a trained network
_CONV_DIMS, _FC_DIMS, _CONV_SIDE = 4, 2, 3
_NUM_STAGES = 3


class Misfit(Exception):  # noqa: N818 - it is an answer
    """Why a state dict is not of a dialect; `distance` counts the keys that differ, for the nearest to be told."""

    def __init__(self, reason: str, distance: int) -> None:
        super().__init__(reason)
        self.distance = distance


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A state dict read by one dialect: the arguments of `WideResNetClassifier`, our key → theirs, what lies beside."""

    dialect: Dialect
    architecture: Mapping[str, Any]
    keys: Mapping[str, str]
    unused: tuple[str, ...]

    @property
    def input(self) -> Input | None:
        """What the source does to its images; None where that depends on a data set that the classes do not tell."""
        return self.input_of("")

    def input_of(self, data_set: str) -> Input | None:
        """As `input`, of a data set that is named."""
        return input_for(self.dialect, self.architecture["num_classes"], self.architecture["in_channels"], data_set)

    @property
    def options(self) -> dict[str, Any]:
        """Those that the logits depend on."""
        return {name: self.architecture[name] for name in asdict(Variant()) if name not in TRAINING_ONLY}

    @property
    def computes(self) -> tuple[Any, ...]:
        """What the logits of an input follow from: equal for two fits that make the same network."""
        return (*self.options.items(), self.dialect.keys.spectral)

    @property
    def meaning(self) -> tuple[Any, ...]:
        """What the logits of an image follow from; equal for two fits, and no file needs to choose between them."""
        return (self.computes, self.input)


def input_for(dialect: Dialect, num_classes: int, in_channels: int = 3, data_set: str = "") -> Input | None:
    """The input of `data_set`; without one, that of CIFAR-100 for 100 classes, of CIFAR-10 for 10 (of MNIST in one
    channel). None where the source has none for it."""
    inputs = dialect.inputs
    guess = data_set or ("mnist" if in_channels == 1 else {10: "cifar10", 100: "cifar100"}.get(num_classes, ""))
    return inputs.get(guess, inputs.get(""))


def fits(tensors: Mapping[str, Tensor], set_aside: Sequence[str] = ()) -> tuple[list[Fit], list[Misfit]]:
    """Every dialect that a state dict fits, in the table's order; and why the others do not, the nearest first.

    Keys that match one of the patterns `set_aside` are no part of the network."""
    found, misfits = list[Fit](), list[Misfit]()
    for dialect in DIALECTS:
        try:
            found.append(fit(tensors, dialect, set_aside))
        except Misfit as misfit:
            misfits.append(misfit)
    return found, sorted(misfits, key=lambda misfit: misfit.distance)


def fit(tensors: Mapping[str, Tensor], dialect: Dialect, set_aside: Sequence[str] = ()) -> Fit:
    """Raises Misfit, naming the first keys that are missing, not known, or of another shape."""
    beside = (*dialect.keys.unused, dialect.keys.mean, dialect.keys.std, *set_aside)
    unused = tuple(key for key in tensors if any(fnmatch.fnmatchcase(key, pattern) for pattern in beside))
    if dialect.keys.spectral:
        if not spectral.parts(tensors):
            raise Misfit(f"{dialect.name}: lacks conv1.weight_orig", len(tensors))
        try:
            tensors, unused = spectral.folded(tensors, dialect.keys.spectral), (*unused, *spectral.parts(tensors))
        except ValueError as error:
            raise Misfit(f"{dialect.name}: {error}", len(tensors)) from error
    used = {key: value for key, value in tensors.items() if key not in unused}
    architecture = _architecture(used, dialect)
    try:
        full, expected = _network(tuple(architecture.items()))
    except ValueError as error:
        raise Misfit(f"{dialect.name}: {error}", len(used)) from error
    keys = dialect.keys.theirs(expected)
    theirs = {name: ours for ours, name in keys.items()}
    # A file without BN's counters is read: they only count, and start at 0.
    missing = [name for ours, name in keys.items() if name not in used and not ours.endswith("num_batches_tracked")]
    unknown = [name for name in used if name not in theirs]
    shaped = [
        f"{name} is {list(used[name].shape)}, not {list(shape)}"
        for ours, name in keys.items()
        if name in used and (shape := _their_shape(expected[ours], dialect)) != used[name].shape
    ]
    if missing or unknown or shaped:
        told = [("lacks", missing), ("has the unknown", unknown), ("has other shapes:", shaped)]
        reasons = "; ".join(f"{what} {_some(names)}" for what, names in told if names)
        raise Misfit(f"{dialect.name}: {reasons}", len(missing) + len(unknown) + len(shaped))
    return Fit(dialect, full, {ours: name for ours, name in keys.items() if name in used}, unused)


def to_ours(tensors: Mapping[str, Tensor], found: Fit) -> dict[str, Tensor]:
    """Our state dict, floats as float32; BN's counters that the source lacks are 0."""
    if found.dialect.keys.spectral:
        tensors = spectral.folded(tensors, found.dialect.keys.spectral)
    _, empty = _network(tuple(found.architecture.items()))
    state = dict[str, Tensor]()
    for ours, like in empty.items():
        if ours in found.keys:
            value = _transposed(tensors[found.keys[ours]], hwio=found.dialect.keys.hwio, back=False)
            state[ours] = value.to(like.dtype).contiguous().clone()
        else:
            state[ours] = torch.zeros(like.shape, dtype=like.dtype)
    return state


def to_theirs(state: Mapping[str, Tensor], keys: Mapping[str, str], *, hwio: bool) -> dict[str, Tensor]:
    """Our state dict under their keys, in its own order and dtypes; a key of ours that they lack is left out."""
    return {
        name: _transposed(state[ours], hwio=hwio, back=True).contiguous().clone()
        for ours, name in keys.items()
        if ours in state
    }


@functools.lru_cache(maxsize=64)
def _network(architecture: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The classifier's full architecture, and its state dict without content."""
    with torch.device("meta"):
        model = WideResNetClassifier(**dict(architecture))
    return model.architecture, model.state_dict()


def _transposed(value: Tensor, *, hwio: bool, back: bool) -> Tensor:
    if not hwio or value.dim() not in (_CONV_DIMS, _FC_DIMS):
        return value
    if value.dim() == _FC_DIMS:
        return value.T
    return value.permute(2, 3, 1, 0) if back else value.permute(3, 2, 0, 1)


def _their_shape(ours: Tensor, dialect: Dialect) -> torch.Size:
    return _transposed(ours, hwio=dialect.keys.hwio, back=True).shape


def _architecture(tensors: Mapping[str, Tensor], dialect: Dialect) -> dict[str, Any]:
    """The network's arguments, from shapes. Raises Misfit if no Wide ResNet has them under these keys."""
    keys, name = dialect.keys, dialect.name
    named = keys.theirs(["backbone.stem.0.weight", "backbone.stem.0.bias", "fc.weight", "fc.bias"])
    stem_key, _, fc_key, fc_bias = named.values()
    shapes = {key: tuple(_transposed(value, hwio=keys.hwio, back=False).shape) for key, value in tensors.items()}
    lacking = [key for key in (stem_key, fc_key) if key not in tensors]
    if lacking:
        raise Misfit(f"{name}: lacks {_some(lacking)}", len(tensors))
    stem, fc = shapes[stem_key], shapes[fc_key]
    if len(stem) != _CONV_DIMS or stem[0] != 16 or len(fc) != _FC_DIMS:
        raise Misfit(f"{name}: {stem_key} is {list(stem)}, {fc_key} is {list(fc)}; not a stem of 16 and a head", 100)
    convs = [
        shape
        for key, shape in shapes.items()
        if key != stem_key and len(shape) == _CONV_DIMS and shape[-2:] == (_CONV_SIDE, _CONV_SIDE)
    ]
    changes = {shape[1]: shape[0] for shape in convs if shape[0] != shape[1]}  # in → out, where a stage begins
    widths, width = list[int](), 16
    while width in changes and len(widths) < _NUM_STAGES:
        width = changes.pop(width)
        widths.append(width)
    if len(widths) == _NUM_STAGES - 1:
        widths.insert(0, 16)  # k = 1: stage 1 changes nothing
    counts = [sum(shape[0] == width for shape in convs) for width in widths]
    if (
        len(widths) != _NUM_STAGES
        or changes
        or any(count % 2 or not count for count in counts)
        or len(set(widths)) != len(widths)
    ):
        found = ", ".join(f"{a}→{b}" for a, b in sorted({(shape[1], shape[0]) for shape in convs})) or "none"
        raise Misfit(f"{name}: no three stages of two 3×3 convolutions a block (3×3 found: {found})", len(tensors))
    blocks = [count // 2 for count in counts]
    plain = len(set(blocks)) == 1
    wide = widths[0] % 16 == 0 and widths == [widths[0], 2 * widths[0], 4 * widths[0]]
    options: dict[str, Any] = dict(dialect.options)
    if "head" in dialect.read_off and fc_bias not in tensors:
        options["head"] = "linear-no-bias"
    return {
        "num_classes": fc[0],
        "depth": 4 + 2 * sum(blocks),
        "widen_factor": max(1, widths[0] // 16),
        "in_channels": stem[1],
        **options,
        **({} if plain else {"num_blocks": tuple(blocks)}),
        **({} if wide else {"widths": tuple(widths)}),
    }


def _some(names: Sequence[str]) -> str:
    first = ", ".join(printable(name) for name in names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
