"""Pictures that are not in memory, standing where a Tensor of them may stand: rows of mapped files, or of sources
that worker processes decode anew whenever they are asked for. Both give the pixels that decoding into memory gives."""

import copy
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wideresnet import runtime
from wideresnet.data import workers
from wideresnet.data.decoding import sums_of, upright
from wideresnet.data.listing import Source
from wideresnet.errors import ImageError, TrainingStopped
from wideresnet.images import MAX_PIXELS
from wideresnet.preprocess import Preprocess


class Base(Protocol):
    """Where the pixels come from. sums: as in `Survey`, of all its pictures; shape: (C, size, size)."""

    sums: Tensor
    shape: tuple[int, int, int]

    def read(self, rows: Tensor) -> Tensor:
        """Rows int64 [B] → uint8 [B, C, size, size], now."""

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """The same for each of `rows`, in order, read ahead where that helps."""

    def readable(self, rows: Sequence[Tensor]) -> "Iterator[Readable]":
        """The same of what can still be read; as `Stream.readable`."""


Readable: TypeAlias = tuple[Tensor, Tensor | None]
"""Pixels of a batch, and which of its pictures they are, int64; None for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """N pictures of a base, by their rows there. Indexed, counted and split as a uint8 tensor [N, C, size, size] is;
    `take` reads nothing."""

    base: Base
    rows: Tensor  # int64 [N]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), *self.base.shape)

    def __getitem__(self, index: int | Tensor) -> Tensor:
        """Reads: an int gives one picture [C, size, size], int64 [B] a batch."""
        if isinstance(index, Tensor):
            return self.base.read(self.rows[index])
        return self.base.read(self.rows[index][None])[0]

    def take(self, index: Tensor) -> "Stream":
        return Stream(self.base, self.rows[index])

    def batches(self, index: Sequence[Tensor]) -> Iterator[Tensor]:
        """A batch for each of `index`, in order, whatever the number of workers: an epoch, or the rest of one."""
        return self.base.batches([self.rows[one] for one in index])

    def readable(self, index: Sequence[Tensor]) -> Iterator[Readable]:
        """As `batches`, but pictures that cannot be read any more are left out, as long as they are no more than may
        be (`Decoder`)."""
        return self.base.readable([self.rows[one] for one in index])

    @property
    def losses(self) -> list[dict[str, Any]]:
        """Facts of the pictures that were left out since the beginning, as JSON."""
        return list(self.base.lost.values()) if isinstance(self.base, Decoder) else []

    def split(self, size: int) -> Iterator[Tensor]:
        """All of it in order, `size` at a time."""
        return self.base.batches(self.rows.split(size) if len(self.rows) else [])

    def to(self, device: torch.device) -> "Tensor | Stream":
        """What lies in the cache moves to a GPU that has room for it twice; else batches move one by one."""
        num_bytes = len(self) * int(np.prod(self.base.shape))
        if device.type != "cuda" or not isinstance(self.base, Mapped):
            return self
        if 2 * num_bytes > torch.cuda.mem_get_info(device)[0]:
            return self
        return torch.cat([part.to(device) for part in self.split(4096)]) if len(self) else self[self.rows].to(device)


def chained(streams: Sequence[Stream]) -> Stream:
    """All pictures of `streams`, one stream after another; reads nothing. They are rows of files, or of one base."""
    bases = list(dict.fromkeys(stream.base for stream in streams))
    base = bases[0] if len(bases) == 1 else Mapped.joined([base for base in bases if isinstance(base, Mapped)])
    starts = dict(zip(bases, accumulate((len(base.sums) for base in bases), initial=0), strict=False))
    return Stream(base, torch.cat([stream.rows + starts[stream.base] for stream in streams]))


class Mapped:
    """Pictures in mapped files: the system reads the pages that are asked for, and drops them when memory is short.

    Each picture is compared with its sums when it is first read. Raises TrainingStopped if it is not what was written.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], sums: Tensor) -> None:
        self.files: tuple[npt.NDArray[np.uint8], ...] = (pixels,)
        self.sums = sums
        self._checked = np.zeros(len(pixels), bool)
        self.shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])

    @classmethod
    def joined(cls, bases: "Sequence[Mapped]") -> "Mapped":
        """The pictures of all, one after another."""
        new = copy.copy(bases[0])
        new.files = tuple(chain.from_iterable(base.files for base in bases))
        new.sums = torch.cat([base.sums for base in bases])
        new._checked = np.concatenate([base._checked for base in bases])
        return new

    def read(self, rows: Tensor) -> Tensor:
        """A copy: nothing that is written reaches the file."""
        index = rows.numpy()
        if len(self.files) == 1:
            images = self.files[0][index]
        else:
            images, start = np.empty((len(rows), *self.shape), np.uint8), 0
            for pixels in self.files:
                here = (index >= start) & (index < start + len(pixels))
                images[here] = pixels[index[here] - start]
                start += len(pixels)
        if not self._checked[index].all():
            self._check(index, images)
        return torch.from_numpy(images)

    def _check(self, index: npt.NDArray[np.int64], images: npt.NDArray[np.uint8]) -> None:
        new = ~self._checked[index]
        wrong = (sums_of(torch.from_numpy(images[new])) != self.sums[torch.from_numpy(index[new])]).flatten(1).any(1)
        if wrong.any():
            row = int(index[new][int(wrong.nonzero()[0])])
            file = np.searchsorted(np.cumsum([len(pixels) for pixels in self.files]), row, side="right")
            path = Path(str(getattr(self.files[file], "filename", "pictures")))
            raise TrainingStopped(
                f"{path}: damaged since it was written (picture {row} of {len(self.sums):,} has other pixels). "
                f"Remove it by: wrn data cache clear {path.stem}"
            )
        self._checked[index] = True

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        return map(self.read, rows)

    def readable(self, rows: Sequence[Tensor]) -> Iterator[Readable]:
        return ((self.read(one), None) for one in rows)


class Decoder:
    """Encoded pictures, decoded by worker processes that live as long as this does.

    Batches come in order, so their number changes nothing. Raises TrainingStopped, naming the picture, if one that
    could be read before cannot be read any more; `readable` leaves up to `may_lose` (None: any number) of them out,
    each said once.
    """

    def __init__(
        self,
        sources: Sequence[Source | npt.NDArray[np.uint8]],
        names: Sequence[str],
        preprocess: Preprocess,
        sums: Tensor,
        num_workers: int = workers.NUM_WORKERS,
        *,
        max_pixels: int = MAX_PIXELS,
        may_lose: int | None = 0,
        facts: Callable[[int], dict[str, Any]] = lambda row: {"row": row},
        say: Callable[[str], None] = runtime.QUIET.line,
    ) -> None:
        """facts: row → what is kept of it if it is lost, as JSON (`losses`)."""
        self.sums, self.names, self.lost, self._facts = sums, names, dict[str, dict[str, Any]](), facts
        self.shape = (preprocess.channels, preprocess.size, preprocess.size)
        self._may_lose, self._say = may_lose, say
        self._dataset, self._order, self._busy = _Dataset(sources, preprocess, max_pixels), _Order(), False
        self._loader = workers.loader(self._dataset, self._order, num_workers, persistent=True)
        # Not left to the loader's own end: the garbage collector ends its queues first, and then workers are not told.
        weakref.finalize(self, _end, self._loader, os.getpid())

    def read(self, rows: Tensor) -> Tensor:
        return self._whole(self._compared(rows, self._dataset[rows.tolist()]))

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        return map(self._whole, self._decoded(rows))

    def readable(self, rows: Sequence[Tensor]) -> Iterator[Readable]:
        return map(self._left, self._decoded(rows))

    def _decoded(self, rows: Sequence[Tensor]) -> "Iterator[_Decoded]":
        if self._busy or len(rows) < 2:  # the workers serve one at a time
            yield from (self._compared(one, self._dataset[one.tolist()]) for one in rows)
            return
        self._busy, self._order.batches = True, [one.tolist() for one in rows]
        try:
            yield from map(self._compared, rows, workers.begun(self._loader))
        finally:
            self._busy = False

    def _compared(self, rows: Tensor, got: "_Decoded") -> "_Decoded":
        """`got`, in which a picture that is not what it was when it was listed is bad too."""
        changed = (sums_of(torch.from_numpy(got.images)) != self.sums[rows]).flatten(1).any(1)
        for i in changed.nonzero().flatten().tolist():
            got.bad.setdefault(i, (int(rows[i]), "has other pixels than before"))
        return got

    def _whole(self, got: "_Decoded") -> Tensor:
        for row, reason in got.bad.values():
            raise TrainingStopped(f"{self.names[row]}: {reason}; it could be read a while ago. Put it back as it was")
        return torch.from_numpy(got.images)

    def _left(self, got: "_Decoded") -> Readable:
        for row, reason in got.bad.values():
            name = self.names[row]
            if name not in self.lost and self._may_lose is not None and len(self.lost) >= self._may_lose:
                return self._whole(got), None  # which raises
            if name not in self.lost:
                self._say(f"note: {name}: {reason}; it could be read a while ago, and is left out of its batches")
                self.lost[name] = {**self._facts(row), "name": name, "reason": reason}
        if not got.bad:
            return torch.from_numpy(got.images), None
        left = [i for i in range(len(got.images)) if i not in got.bad]
        if not left:
            raise TrainingStopped("a batch has no picture left that can be read; put them back as they were")
        return torch.from_numpy(got.images[left]), torch.tensor(left)


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """A batch; `bad`: place in it → row and reason of a picture that cannot be read, whose pixels mean nothing."""

    images: npt.NDArray[np.uint8]
    bad: dict[int, tuple[int, str]]


class _Order:
    """What the workers are to do in the epoch that begins: a list of rows for each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Dataset(Dataset[Any]):
    def __init__(
        self, sources: Sequence[Source | npt.NDArray[np.uint8]], preprocess: Preprocess, max_pixels: int
    ) -> None:
        self.sources, self.preprocess, self.max_pixels = sources, preprocess, max_pixels

    def __getitem__(self, rows: list[int]) -> _Decoded:
        p, bad = self.preprocess, dict[int, tuple[int, str]]()
        images = np.empty((len(rows), p.channels, p.size, p.size), np.uint8)
        for i, row in enumerate(rows):
            try:
                images[i] = p.resize(upright(self.sources[row], self.max_pixels)).numpy()
            except ImageError as error:
                bad[i] = (row, str(error))
        return _Decoded(images, bad)


def _end(loader: DataLoader[Any], pid: int) -> None:
    if loader._iterator is not None and os.getpid() == pid:  # a process that was forked has the loader too, no workers
        workers.end(loader._iterator)
