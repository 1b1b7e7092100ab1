"""The compiled kernels, through ctypes: pointers and sizes in, numbers out; csrc/wrn.h is the interface.

The library is optional: `load` says why there is none. It is loaded once and never links torch.
"""

import ctypes
import functools
import hashlib
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

ABI = 3  # WRN_ABI of csrc/wrn.h

# enum wrn_kind
STEM, WINOGRAD, DIRECT, ACTIVATE, POOL_PAD, HEAD, PACK, NORM, POOL, SLOPE, NORM_GRAD, UNNORM = range(12)
WEIGHT_GRAD, WEIGHT_SUM, STEM_GRAD, POOL_PAD_GRAD, SUM = range(12, 17)
PLAIN, SUMMED, SLOPED = range(3)  # enum wrn_end
SCALE, SHIFT, MEAN, RSTD, P, Q, R, NORM_ROWS = range(8)  # enum wrn_norm
SUM_ROWS = 4
ACTIVATIONS = ("none", "relu", "leaky", "silu", "gelu", "elu", "softplus", "pssilu")  # enum wrn_act

_INT, _LONG, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class Op(ctypes.Structure):
    """wrn_op of csrc/wrn.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("kind", "act_in", "act_out", "tile", "share", "raw_filters", "cosine")),
        *((name, ctypes.c_float) for name in ("alpha", "beta")),
        *((name, _LONG) for name in ("n", "h", "w", "c", "ho", "wo", "k", "size", "stride", "pad_top", "pad_left")),
        *((name, _LONG) for name in ("block_tiles", "block_panels", "split")),
        *((name, _LONG) for name in ("segment", "group", "x_step", "res_step", "y_step")),
        *((name, POINTER) for name in ("x", "scale", "shift", "weight", "bias", "res", "y")),
        *((name, _INT) for name in ("of", "end", "transposed", "pooled", "running")),
        *((name, ctypes.c_float) for name in ("drop", "eps")),
        *((name, _LONG) for name in ("seed", "image", "out_top", "out_left", "z_step")),
        *((name, POINTER) for name in ("z", "norm", "y2", "sums")),
    )


class Row(ctypes.Structure):
    """wrn_row of csrc/wrn.h, field by field."""

    _fields_ = (
        *((name, POINTER) for name in ("weight", "gradient", "momentum", "average")),
        ("count", _LONG),
        *((name, ctypes.c_float) for name in ("lr", "weight_decay", "momentum_share")),
        ("nesterov", _INT),
    )


Ops: TypeAlias = "ctypes.Array[Op]"
_threads: ContextVar[int | None] = ContextVar("threads", default=None)


def num_threads() -> int:
    """How many threads the kernels compute with: torch's number, if `threads` has not said another."""
    return _threads.get() or torch.get_num_threads()


@contextmanager
def threads(num: int) -> Iterator[None]:
    """While open, the kernels compute with `num` threads, and torch with one.

    torch's threads wait for their next operation by spinning, for milliseconds: after each small operation that they
    share, the kernels would have to share the cores with them (docs/kernels.md has what that costs). The number is of
    the thread that opens it, and torch's 1 of the process: not for two threads at a time.
    """
    torchs, before = torch.get_num_threads(), _threads.set(num)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torchs)
        _threads.reset(before)


class Library:
    """The functions of the compiled library."""

    def __init__(self, path: Path) -> None:
        self._lib = lib = ctypes.CDLL(str(path))
        if (found := lib.wrn_abi()) != ABI:
            raise OSError(f"{path} has interface {found}, expected {ABI}; install this package again")
        signatures = {
            "wrn_abi": (ctypes.c_int, ()),
            "wrn_build": (ctypes.c_char_p, ()),
            "wrn_num_isas": (ctypes.c_int, ()),
            "wrn_isa_name": (ctypes.c_char_p, (ctypes.c_int,)),
            "wrn_isa_runs": (ctypes.c_int, (ctypes.c_int,)),
            "wrn_lanes": (ctypes.c_int, (ctypes.c_int,)),
            "wrn_alloc": (POINTER, (ctypes.c_size_t,)),
            "wrn_free": (None, (POINTER, ctypes.c_size_t)),
            "wrn_packed_floats": (_LONG, (ctypes.c_int, ctypes.POINTER(Op))),
            "wrn_pack": (None, (ctypes.c_int, ctypes.POINTER(Op), POINTER, POINTER, POINTER, ctypes.c_int)),
            "wrn_work_floats": (_LONG, (ctypes.c_int, ctypes.POINTER(Op), _LONG, ctypes.c_int)),
            "wrn_run": (ctypes.c_int, (ctypes.c_int, ctypes.POINTER(Op), _LONG, ctypes.c_int, POINTER)),
            "wrn_sgd": (None, (ctypes.POINTER(Row), _LONG, ctypes.c_float, ctypes.c_int)),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self.build: str = lib.wrn_build().decode()
        names = [lib.wrn_isa_name(i).decode() for i in range(lib.wrn_num_isas())]
        self.isas = {name: i for i, name in enumerate(names) if lib.wrn_isa_runs(i)}  # best first

    def lanes(self, isa: str) -> int:
        return int(self._lib.wrn_lanes(self.isas[isa]))

    def alloc(self, floats: int) -> Tensor:
        """Zeros [floats], aligned and in large pages; freed with the tensor. Raises MemoryError."""
        size = max(floats, 1) * 4
        address = self._lib.wrn_alloc(size)
        if not address:
            raise MemoryError(f"{size} bytes for the kernels")
        memory = (ctypes.c_float * max(floats, 1)).from_address(address)
        weakref.finalize(memory, self._lib.wrn_free, address, size)
        return torch.frombuffer(memory, dtype=torch.float32)

    def packed_floats(self, isa: str, op: Op) -> int:
        """Of a convolution's packed weights, or of what WEIGHT_GRAD sums for one thread."""
        return int(self._lib.wrn_packed_floats(self.isas[isa], op))

    def pack(self, isa: str, op: Op, weight: Tensor, out_scale: Tensor | None, threads: int) -> Tensor:
        number = self.isas[isa]
        packed = self.alloc(self.packed_floats(isa, op))
        scale = None if out_scale is None else out_scale.data_ptr()
        self._lib.wrn_pack(number, op, weight.data_ptr(), scale, packed.data_ptr(), threads)
        return packed

    def work_floats(self, isa: str, ops: Ops, threads: int) -> int:
        return int(self._lib.wrn_work_floats(self.isas[isa], ops, len(ops), threads))

    def run(self, isa: str, ops: Ops, threads: int, work: Tensor) -> int:
        """How many threads there were: fewer where the system starts no more."""
        return int(self._lib.wrn_run(self.isas[isa], ops, len(ops), threads, work.data_ptr()))

    def sgd(self, rows: Sequence[Row], share: float, threads: int) -> None:
        self._lib.wrn_sgd((Row * len(rows))(*rows), len(rows), share, threads)


def _digest(sources: Path) -> str:
    """As setup.py has it."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources.iterdir()))).hexdigest()[:12]


@functools.cache
def load() -> Library | str:
    """The library, or why there is none."""
    path = Path(__file__).parent / "_kernels.so"
    if not path.exists():
        return "not built: install a C++ compiler, then this package again"
    try:
        library = Library(path)
    except (OSError, AttributeError) as error:  # built for another machine; lacks a function
        return f"not loaded: {error}"
    sources = path.parent / "csrc"  # there in a checkout only, where they may be newer
    if sources.is_dir() and _digest(sources) != library.build.partition("-")[0]:
        return "not loaded: they were built from other sources; install this package again"
    if library.isas and next(iter(library.isas)) != "scalar":
        return library
    return "not used: this processor has none of the instruction sets that they are written for"


def isa() -> str:
    """The instruction set that the kernels compute with on this machine, or "none"."""
    loaded = load()
    return "none" if isinstance(loaded, str) else next(iter(loaded.isas))


def build() -> str:
    """What their bits depend on: instruction set, sources and compiler; or "none"."""
    loaded = load()
    return "none" if isinstance(loaded, str) else f"{isa()}-{loaded.build}"


def state() -> str:
    """For a person: the instruction set, or why there are no kernels."""
    loaded = load()
    return loaded if isinstance(loaded, str) else f"for {isa()}, of {', '.join(loaded.isas)} that this processor has"
