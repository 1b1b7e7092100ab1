"""Encoded pictures in the cells of tables → a plain file of the cache, where each is a `Span` that is read at random.

Neither Parquet nor the `datasets` library finds one picture without reading a thousand, so that a set which memory does
not hold is copied once. A file is: the pictures, one after another · their lengths, int64 [N], -1 for a cell without ·
their CRC-32, uint32 [N] · the paths beside them, as JSON · what ends every file of the cache.
"""

import contextlib
import errno
import hashlib
import json
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from wideresnet import runtime
from wideresnet.data import cache
from wideresnet.data.listing import Span
from wideresnet.data.loading import DISK_SHARE, MEMORY_SHARE
from wideresnet.errors import DataError

IN_MEMORY = 64 << 20  # bytes of encoded pictures in all that stay where they are: a file for them would be clutter
BATCH_BYTES = 8 << 20  # of cells that are read at once
_CHECKED_BYTES = 1 << 24  # of pictures, spread over the file, that are compared with their sums when it is opened
_read_by_us: dict[Path, IO[bytes]] = {}  # open, and locked against being cleared, until this process ends


class _MadeMeanwhileError(Exception):
    """Another run has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The cells of one column of all files of a set, in order; `read` may be called more than once."""

    place: str  # of the set, for a person
    name: str
    files: Sequence[Path]  # what the cells follow from
    num_rows: int
    read: Callable[[], Iterable[object]]


def rows_at_once(num_bytes: int, num_rows: int) -> int:
    """How many rows of a column of `num_bytes` are read at once."""
    return max(1, min(256, BATCH_BYTES * num_rows // max(1, num_bytes)))


def cells(column: Column, watch: runtime.Watch) -> Iterable[object]:
    """The cells of `column`; if they hold more than `IN_MEMORY` bytes of pictures, these are exchanged for `Span`s.

    A file that is there already is read, one that is damaged is made anew, and said. Where the disk refuses, they stay
    in memory, which is said too. Raises DataError if they do not fit there.
    """
    source, held, num_bytes = iter(column.read()), list[object](), 0
    for cell in source:
        held.append(cell)
        num_bytes += len(_picture(cell)[0] or b"")
        if num_bytes > IN_MEMORY:
            break
    else:
        return held
    try:
        key = _key(column)
        path = cache.path_of(key, cache.ENCODED)
        kept = cache.kept(path, lambda: _Kept.read(path, key), watch)
        if kept is None:
            with contextlib.suppress(_MadeMeanwhileError):
                _write(path, key, column, chain(held, source), watch)
            kept = _Kept.read(path, key)
        return kept.cells()
    except OSError as error:
        why = error.strerror or str(error)
    watch.line(f"note: encoded pictures of {column.place} cannot be kept on disk ({why}); going on in memory")
    del held
    return _in_memory(column, why)


def _picture(cell: object) -> tuple[bytes | None, str | None]:
    """The bytes of a cell, and the path beside them. A column of bytes has cells of these two forms, and empty ones."""
    if isinstance(cell, Mapping):
        content, path = cell.get("bytes"), cell.get("path")
        return content if isinstance(content, bytes) else None, path if isinstance(path, str) else None
    return cell if isinstance(cell, bytes) else None, None


def _key(column: Column) -> str:
    stamps = [(file.name, cache.stamp(file)) for file in column.files]
    return hashlib.sha256(repr((column.name, column.num_rows, stamps)).encode(errors="backslashreplace")).hexdigest()


def _write(path: Path, key: str, column: Column, cells: Iterable[object], watch: runtime.Watch) -> None:
    """Raises OSError if the disk refuses, or if more than half of what is free there would be taken, and
    _MadeMeanwhileError if another run has made the file by then: that one is read already, and stays."""
    room = int(DISK_SHARE * shutil.disk_usage(path.parent).free)
    lengths, sums, paths, num_bytes = array("q"), array("I"), list[str | None](), 0
    watch.line(f"copying the encoded pictures of {column.place} into {path}, which later runs read")
    with cache.whole(path) as file:
        for cell in cells:
            content, name = _picture(cell)
            lengths.append(-1 if content is None else len(content))
            sums.append(zlib.crc32(content or b""))
            paths.append(name)
            num_bytes += file.write(content or b"")
            if num_bytes > room:
                raise OSError(errno.ENOSPC, f"they take more than half of the {2 * room / 1e9:,.1f} GB that are free")
            if len(lengths) % 100 == 0:
                watch.progress("copying pictures", len(lengths), column.num_rows, f"{num_bytes / 1e6:,.0f} MB")
        head = {"key": key, "place": column.place, "pictures": len(lengths), "size": 0}
        cache.close(file, head, lengths.tobytes(), sums.tobytes(), json.dumps(paths).encode())
        with contextlib.suppress(FileNotFoundError, cache.Unfit):
            _Kept.read(path, key)
            raise _MadeMeanwhileError
    watch.progress("copying pictures", column.num_rows, column.num_rows, "")


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """What a file has: where pictures lie, and the paths beside them."""

    path: Path
    lengths: npt.NDArray[np.int64]
    sums: npt.NDArray[np.uint32]
    paths: list[Any]

    @classmethod
    def read(cls, path: Path, key: str) -> "_Kept":
        """Raises FileNotFoundError, and Unfit if the file is damaged."""
        file = path.open("rb")
        if path in _read_by_us:
            _read_by_us[path].close()
        _read_by_us[path] = file
        with contextlib.suppress(OSError):  # a disk without locks
            cache.lock(file, shared=True)
        head = cache.read_header(path, key)
        num, begin = head["pictures"], head["begin"]
        file.seek(begin)
        lengths = np.frombuffer(file.read(8 * num), np.int64)
        sums = np.frombuffer(file.read(4 * num), np.uint32)
        paths = json.loads(file.read(path.stat().st_size - file.tell() - head["length"] - cache.FOOTER_BYTES))
        sizes = np.maximum(lengths, 0)
        if int(sizes.sum()) != begin:
            raise cache.Unfit("its length is not what it should be")
        starts = np.cumsum(sizes) - sizes
        for i in range(0, num, max(1, begin // _CHECKED_BYTES)):
            file.seek(int(starts[i]))
            if zlib.crc32(file.read(int(sizes[i]))) != sums[i]:
                raise cache.Unfit("its pictures are not those that were written")
        return cls(path, lengths, sums, paths)

    def cells(self) -> Iterator[object]:
        """As the column has them, with a `Span` where the bytes of a picture were."""
        lengths, sums = self.lengths.tolist(), self.sums.tolist()
        starts = accumulate((max(length, 0) for length in lengths), initial=0)
        for length, start, crc, path in zip(lengths, starts, sums, self.paths, strict=False):
            picture = None if length < 0 else Span(self.path, start, length, crc) if length else b""
            yield picture if path is None else {"bytes": picture, "path": path}


def _in_memory(column: Column, why: str) -> Iterator[object]:
    room, num_bytes = MEMORY_SHARE * runtime.free_memory_bytes(), 0
    for cell in column.read():
        num_bytes += len(_picture(cell)[0] or b"")
        if num_bytes > room:
            raise DataError(
                f"{column.place}: its encoded pictures take more than the {room / 1e9:,.1f} GB of memory that there "
                f"are for them, and cannot be kept on disk ({why}); make room there, or set WRN_CACHE to another folder"
            )
        yield cell
