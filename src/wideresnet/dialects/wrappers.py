"""What a training script saved → the one state dict meant, and what was around it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wideresnet.dialects.containers import has_tensors
from wideresnet.errors import ModelFileError, printable

_AVERAGED = ("ema_state_dict", "ema_model", "ema", "model_ema", "state_dict_ema", "swa_state_dict")
_PLAIN = ("state_dict", "model_state_dict", "params", "net", "model", "network", "encoder")
# What DDP, torch.compile and modules that hold the network put before each key.
_NORMALISATION = ("mu", "sigma", "mean", "std")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "network.", "feature_extractor.")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A state dict with its prefix taken off; `where` it lay, and what a person should know."""

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]  # of the tensors, one by one, with the prefix
    where: str  # "state_dict"; "": the file itself
    averaged: bool
    notes: tuple[str, ...] = field(default=())


def unwrap(tree: Any, path: object, *, ema: bool = False) -> Found:
    """The state dict in `tree`: the averaged one if `ema` asks for it, never unasked. Raises ModelFileError."""
    if not isinstance(tree, Mapping):
        raise ModelFileError(f"{path}: holds a {type(tree).__name__}; expected a state dict, or a mapping that has one")
    averages = [key for key in _AVERAGED if has_tensors(tree.get(key))]
    if ema and not averages:
        raise ModelFileError(f"{path}: no averaged weights in it ({_listed(tree)}); leave --ema out")
    notes = list[str]()
    keys = averages if ema else [key for key in _PLAIN if has_tensors(_inner(tree.get(key)))]
    if any(not _equal(_inner(tree[keys[0]]), _inner(tree[key])) for key in keys[1:]):
        raise ModelFileError(f"{path}: {', '.join(keys)} in it are different weights; save those you mean alone")
    if has_tensors(tree) and not ema:
        where, state = "", tree
    elif keys:
        where, state = keys[0], _inner(tree[keys[0]])
    else:
        others = [key for key, value in tree.items() if has_tensors(_inner(value)) and key not in _AVERAGED]
        if len(others) != 1:
            raise ModelFileError(f"{path}: {_why_not(tree, others)}")
        where, state = others[0], _inner(tree[others[0]])
    if averages and not ema:
        notes.append(f"averaged weights lie beside ({averages[0]}); --ema takes these")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    _check_kinds(state, path)
    names = {key: key for key in tensors}  # short → whole
    while (prefix := _common_prefix(names)) is not None:
        names = {key.removeprefix(prefix): name for key, name in names.items()}
    if names and all(key.startswith(("student.", "teacher.")) for key in names):
        notes.append("a student and its teacher; the student is taken")
        names = {k.removeprefix("student."): name for k, name in names.items() if k.startswith("student.")}
    lost = [printable(key) for key in tree if key != where] if where else []
    if lost:
        notes.append(f"left behind: {', '.join(lost)}")
    short = {key: tensors[name].detach() for key, name in names.items()}
    return Found(short, tuple(names.values()), where, ema, tuple(notes))


def _check_kinds(state: Mapping[str, Any], path: object) -> None:
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    if any(value.is_quantized for value in tensors) or any("_packed_params" in key for key in state):
        raise ModelFileError(
            f"{path}: quantised weights, which are rounded for good; import the ones before quantising"
        )
    if any(value.is_meta for value in tensors):
        raise ModelFileError(f"{path}: tensors without content; save the state dict after loading the weights")


def _inner(value: Any) -> Any:
    """A wrapper in a wrapper: {"model": {"state_dict": …}}."""
    if isinstance(value, Mapping) and not has_tensors(value):
        return next((value[key] for key in _PLAIN if has_tensors(value.get(key))), value)
    return value


def _equal(state: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    tensors = [key for key, value in state.items() if isinstance(value, Tensor)]
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in tensors)


def _common_prefix(keys: Iterable[str]) -> str | None:
    """A prefix that every key has, but for the mean and std of a layer in front. One that only some have is part of a
    name."""
    own = [key for key in keys if key not in _NORMALISATION]
    return next((prefix for prefix in _PREFIXES if own and all(key.startswith(prefix) for key in own)), None)


def _why_not(tree: Mapping[Any, Any], candidates: list[Any]) -> str:
    if candidates:
        return f"several state dicts in it: {', '.join(map(str, candidates))}; save the one you mean alone"
    if averages := [key for key in _AVERAGED if has_tensors(tree.get(key))]:
        return f"averaged weights alone ({averages[0]}); take them by --ema"
    if "param_groups" in tree or ("optimizer" in tree and not any(isinstance(v, torch.Tensor) for v in tree.values())):
        return f"the state of an optimizer, without the network's weights ({_listed(tree)})"
    return f"no state dict of a network in it ({_listed(tree)})"


def _listed(tree: Mapping[Any, Any]) -> str:
    names = [printable(key) for key in tree]
    return "it holds " + (", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing")
