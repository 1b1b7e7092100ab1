"""A pickle of somebody else's → plain values and tensors. None of its code is run, and it reaches no object of ours.

torch.save's files go through torch's own weights-only loader, pickle.dump's through an unpickler that knows a handful
of names. Both know stand-ins of ours in place of NumPy's classes, which would build arrays over memory of the file's
choosing; and the second hands out what was made for that one file, for a file can change what it is given.
"""

import argparse
import collections
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_KINDS = "fiub"  # NumPy's floats, integers and booleans


class _Dtype:
    """In place of numpy.dtype: a code as "f4", and the order of its bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def read(self, data: bytes, count: int) -> Any:
        """`count` numbers; anything but numbers is refused."""
        import numpy as np

        kind = np.dtype(self.code) if isinstance(self.code, str) and len(self.code) <= 3 else np.dtype("O")
        if kind.kind not in _KINDS:
            raise pickle.UnpicklingError(f"an array of the type {self.code!r}; expected numbers")
        little = np.frombuffer(data, kind.newbyteorder("<"), count)
        return (little.byteswap() if self.order == ">" else little).astype(kind)


class _Array:
    """In place of numpy.ndarray: `tensor`, once its content is set."""

    def __init__(self, *_: Any) -> None:
        self.tensor: Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array whose content is no bytes")
        count = 1
        for side in shape:
            count *= int(side)
        values = torch.from_numpy(dtype.read(data, count))
        shape = tuple(int(side) for side in shape)
        self.tensor = values.reshape(shape[::-1]).permute(*range(len(shape) - 1, -1, -1)) if is_fortran else values
        self.tensor = self.tensor if is_fortran else self.tensor.reshape(shape)


def _reconstruct(array: Any, *_: Any) -> _Array:
    if not (isinstance(array, type) and issubclass(array, _Array)):
        raise pickle.UnpicklingError("forbidden: an array of a class of its own")
    return array()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a NumPy scalar that is no number")
    return dtype.read(data, 1)[0].item()


_NUMPY = {
    f"{module}.{name}": stand_in
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, stand_in in (("_reconstruct", _reconstruct), ("scalar", _scalar))
} | {"numpy.ndarray": _Array, "numpy.dtype": _Dtype}


def read_torch(path: Path) -> Any:
    """What torch.save wrote. Raises pickle.UnpicklingError naming what it wants besides."""
    known: list[Any] = [argparse.Namespace, collections.defaultdict, collections.OrderedDict, dict, list]
    # Classes, not functions alone: the loader sets the state of an instance only if its class is one of these.
    known += [(stand_in, name) for name, stand_in in _NUMPY.items()]
    with torch.serialization.safe_globals(known):
        return _plain(torch.load(path, map_location="cpu", weights_only=True))


def read_raw(path: Path) -> Any:
    """What pickle.dump wrote: plain values, arrays and tensors. Raises pickle.UnpicklingError."""
    with path.open("rb") as file:
        return _plain(_Unpickler(file).load())


class _Unpickler(pickle.Unpickler):
    """Knows its names one by one. What it hands out is made for it, so that a file can change nothing but that."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        fresh: dict[str, Any] = {name: _copy_of(stand_in) for name, stand_in in _NUMPY.items()}
        fresh["numpy.ndarray"] = type("ndarray", (_Array,), {})
        fresh["collections.OrderedDict"] = type("OrderedDict", (dict,), {})
        fresh["collections.defaultdict"] = _copy_of(lambda *_: {})
        fresh["argparse.Namespace"] = type("Namespace", (), {})
        fresh["torch.storage._load_from_bytes"] = _copy_of(_tensors_of_bytes)
        fresh["torch._utils._rebuild_tensor_v2"] = _copy_of(_rebuilt)
        fresh["torch._utils._rebuild_parameter"] = _copy_of(lambda tensor, *_: tensor)
        fresh["_codecs.encode"] = _copy_of(_encoded)
        self._known = fresh

    def find_class(self, module: str, name: str) -> Any:
        if (found := self._known.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"forbidden: {module}.{name}")
        return found


def _copy_of(stand_in: Callable[..., Any]) -> Callable[..., Any]:
    def own(*arguments: Any) -> Any:
        return stand_in(*arguments)

    return own


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes in protocols before 3."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("forbidden: _codecs.encode of this")
    return text.encode("latin1")


def _tensors_of_bytes(data: Any) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _rebuilt(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    tensor: Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, collections.OrderedDict())
    return tensor


def _plain(tree: Any) -> Any:
    """Arrays as tensors, at any depth of mappings."""
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    return tree.tensor if isinstance(tree, _Array) else tree
