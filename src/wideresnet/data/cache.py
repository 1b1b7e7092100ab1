"""Decoded pictures ↔ disk: one file for one listing at one preprocessing, mapped into memory by the next run. Encoded
ones that `packs` copies out of tables lie beside them, in files that are written, listed and cleared alike.

A file is: pixels uint8 [N, C, size, size] (of `off`, which keeps none: nothing) · digests uint8 [N, 16] · sums int64
[N, C, 2] · a header as JSON · the header's length, a SHA-256 over all but the pixels, and a mark with the version of
the format. The mark is written last and the file renamed only then, so a file with its name and its mark is whole.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
import torch
from torch import Tensor

from wideresnet import files, images, preprocess, runtime
from wideresnet.data.decoding import DIGEST_BYTES, Survey, sums_of, upright
from wideresnet.data.listing import Listing, Span
from wideresnet.errors import ImageError, UsageError, nearest
from wideresnet.preprocess import Preprocess

T = TypeVar("T")

_MARK = b"wrnpics1"  # ends every whole file; its last digit is the version of the format
_FOOTER = struct.Struct("<Q32s8s")
FOOTER_BYTES = _FOOTER.size
_CHECKED_BYTES = 1 << 24  # of pixels, spread over the file, that are compared with their sums when it is opened
PIXELS, SURVEY, ENCODED = ".pixels", ".survey", ".encoded"


class Unfit(OSError):  # noqa: N818 - the reason why a file is made anew
    """A file of the cache that cannot be used, and why."""


def folder() -> Path:
    """Where the files lie. Raises OSError."""
    try:
        made = files.cache_folder() / "pictures"
    except UsageError as error:
        raise OSError(str(error)) from error
    made.mkdir(exist_ok=True)
    return made


def key_of(listing: Listing, prepare: Preprocess) -> str:
    """Hexadecimal key of what the pixels follow from: the pictures in order, and how they are resized.

    Of a file count its name, size, inode and times of change: reading millions of files at each start would cost what
    the cache saves. The time of the last change of the inode (ctime) is there because no program can set it back, so
    a file that is written over, touched or exchanged is another one, even of the same size and date. Of bytes and
    arrays counts the content. Labels do not count.
    """
    colour = prepare.mean if prepare.fit == "pad" else None
    what_counts = (prepare.size, prepare.fit, prepare.channels, colour, len(listing))
    own_limit = () if listing.max_pixels == images.MAX_PIXELS else (listing.max_pixels,)
    digest = hashlib.sha256(repr(what_counts + own_limit).encode())
    if isinstance(listing.sources, np.ndarray):
        digest.update(repr(listing.sources.shape).encode())
        for start in range(0, len(listing), 1024):
            digest.update(listing.sources[start : start + 1024].tobytes())
        return digest.hexdigest()
    shards: dict[Path, object] = {}
    for name, source in zip(listing.names, listing.sources, strict=True):
        what: object
        if isinstance(source, bytes):
            what = hashlib.sha256(source).digest()
        elif isinstance(source, Span):
            if source.file not in shards:
                shards[source.file] = stamp(source.file)
            what = (source.file.name, source.start, source.length, shards[source.file])
        else:
            what = stamp(source)
        digest.update(repr((name, what)).encode(errors="backslashreplace"))
    return digest.hexdigest()


def stamp(path: Path) -> object:
    """What changes whenever the file does."""
    if path.suffix == ENCODED and path.parent == folder():
        return path.stem  # named by the stamps of what it was copied from: made anew, it is the same
    try:
        status = path.stat()
    except OSError as error:
        return error.errno  # a link to nowhere: decoding gives the reason
    return (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def versions() -> dict[str, str]:
    """What decides pixels beside the data: a file made under others is made anew."""
    sources = (Path(str(room.__file__)).read_bytes() for room in (images, preprocess))
    return {
        "Pillow": PIL.__version__,
        "torch": str(torch.__version__),
        "processor": torch.backends.cpu.get_cpu_capability(),  # rounding of float32 differs
        "wideresnet": files.sha256(*sources)[:12],  # of the two rooms that make pixels
    }


def path_of(key: str, suffix: str) -> Path:
    """Raises OSError if the folder cannot be made."""
    return folder() / (key[:16] + suffix)


def read(path: Path, key: str, listing: Listing, prepare: Preprocess) -> tuple[Survey, npt.NDArray[np.uint8]]:
    """What `write` wrote, the pixels mapped and never written to: [N, C, size, size], of a survey [0, …].

    Raises FileNotFoundError, and Unfit if the file is damaged, of another version, or of other pictures.
    """
    size, head = path.stat().st_size, read_header(path, key)
    if changed := [
        f"{k} {head['versions'].get(k)} → {v}" for k, v in versions().items() if head["versions"].get(k) != v
    ]:
        raise Unfit(f"it was made under another version ({', '.join(changed)})")
    num, shape = len(listing), (prepare.channels, prepare.size, prepare.size)
    kept = num if path.suffix == PIXELS else 0
    counts = (kept * int(np.prod(shape)), num * DIGEST_BYTES, num * prepare.channels * 2 * 8)
    if head["begin"] != counts[0] or size != sum(counts) + head["length"] + _FOOTER.size:
        raise Unfit("its length is not what it should be")
    with path.open("rb") as file:
        file.seek(counts[0])
        marks, sums = file.read(counts[1]), bytearray(file.read(counts[2]))
    bad = {int(row): reason for row, reason in head["bad"].items()}
    digests = tuple(b"" if i in bad else marks[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)] for i in range(num))
    per_channel = torch.frombuffer(sums, dtype=torch.int64) if num else torch.empty(0, dtype=torch.int64)
    found = Survey(digests, per_channel.reshape(num, prepare.channels, 2), bad)
    for row in bad:  # a disk may have failed then and work now
        with contextlib.suppress(ImageError):
            upright(listing.sources[row], listing.max_pixels)
            raise Unfit(f"{listing.names[row]} could not be read then, and can be now")
    pixels: npt.NDArray[np.uint8] = np.empty((0, *shape), np.uint8)
    if kept:
        pixels = np.memmap(path, np.uint8, "r", shape=(kept, *shape))
        step = max(1, counts[0] // _CHECKED_BYTES)
        if not torch.equal(sums_of(torch.from_numpy(pixels[::step].copy())), found.sums[::step]):
            raise Unfit("its pixels are not those that were written")
    return found, pixels


def read_header(path: Path, key: str | None = None) -> dict[str, Any]:
    """The header, with "begin", where the part that is checked begins, and "length", its own in bytes. Raises Unfit,
    also if the file has another key than the one given."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _FOOTER.size:
            raise Unfit("it is cut short")
        file.seek(size - _FOOTER.size)
        length, digest, mark = _FOOTER.unpack(file.read(_FOOTER.size))
        if mark != _MARK:
            foreign = mark[:-1] == _MARK[:-1]
            raise Unfit("it was made by another version of wideresnet" if foreign else "it is damaged or cut short")
        try:
            file.seek(size - _FOOTER.size - length)
            head: dict[str, Any] = json.loads(file.read(length))
            file.seek(head["begin"])
            whole = hashlib.sha256(file.read(size - _FOOTER.size - head["begin"])).digest() == digest
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unfit("it is damaged") from error
    if not whole:
        raise Unfit("it is damaged")
    if key is not None and head.get("key") != key:
        raise Unfit("it is of other pictures")
    return {**head, "length": length}


def kept(path: Path, read: Callable[[], T], watch: runtime.Watch) -> T | None:
    """What `read` gives of the file at `path`, or None, said with the reason, if it is to be made anew."""
    try:
        return read()
    except FileNotFoundError:
        return None
    except Unfit as reason:
        watch.line(f"note: {path} is made anew: {reason}")
        return None


def write(
    path: Path, key: str, place: str, prepare: Preprocess, make: Callable[[Callable[[Tensor], None]], Survey]
) -> None:
    """Writes the file. `make` is given where pixels go, and returns the survey of all of them. Raises OSError if the
    disk refuses; nothing is left then."""
    with whole(path) as file:

        def keep(chunk: Tensor) -> None:
            if path.suffix == PIXELS:
                file.write(chunk.numpy().data)

        found = make(keep)
        marks = b"".join(digest.ljust(DIGEST_BYTES, b"\0") for digest in found.digests)
        head = {
            "key": key,
            "place": place,
            "pictures": len(found.digests),
            "size": prepare.size,
            "versions": versions(),
            "bad": found.bad,
        }
        close(file, head, marks, found.sums.numpy().tobytes())


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which is at `path` when the block ends without an error, and else nowhere.

    Two runs that build the same file do not see each other: the one that ends last replaces an equal file. Raises
    OSError if the disk refuses.
    """
    remove_leftovers(path.parent)
    file, temporary = files.new_beside(path)
    try:
        with file:
            with contextlib.suppress(OSError):  # a disk without locks: what a kill leaves stays, then
                lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def close(file: IO[bytes], head: Mapping[str, Any], *parts: bytes) -> None:
    """Ends a file of the cache after its pictures: with `parts`, the header, and the mark of a whole one."""
    text = json.dumps({**head, "begin": file.tell()}).encode()
    for part in (*parts, text):
        file.write(part)
    digest = hashlib.sha256(b"".join((*parts, text))).digest()
    file.write(_FOOTER.pack(len(text), digest, _MARK))


def lock(file: IO[bytes], *, shared: bool = False) -> bool:
    """Held by the one who builds or clears, or `shared` by all who read, and by no one once that process is gone.
    Raises OSError if somebody else holds it; False where there are no such locks (Windows)."""
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    return True


def remove_leftovers(where: Path) -> int:
    """Removes what killed builds left; how many bytes. A file that is being built is locked, and stays."""
    freed = 0
    for path in where.glob(".*.tmp"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = path.stat().st_size
            if size and lock(file):  # an empty one may be about to be locked
                path.unlink()
                freed += size
    return freed


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of the cache: `kind` is its ending, `size` in pixels (0: as they came); `note` where it cannot be used."""

    key: str
    kind: str
    data: str
    size: int
    pictures: int
    num_bytes: int
    made: datetime
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "made": self.made.isoformat(timespec="seconds")}


def entries() -> list[Entry]:
    """All that is kept, newest first. Raises OSError."""
    found = [_entry(path) for path in folder().iterdir() if path.suffix in (PIXELS, SURVEY, ENCODED)]
    return sorted(found, key=lambda entry: entry.made, reverse=True)


def _entry(path: Path) -> Entry:
    status = path.stat()
    head: dict[str, Any] = {"place": "–", "size": 0, "pictures": 0}
    note = ""
    try:
        head = read_header(path)
    except Unfit as error:
        note = f"{error}; the next run makes it anew"
    return Entry(
        key=path.stem,
        kind=path.suffix[1:],
        data=head["place"],
        size=head["size"],
        pictures=head["pictures"],
        num_bytes=status.st_size,
        made=datetime.fromtimestamp(status.st_mtime).astimezone(),
        note=note,
    )


def clear(keys: Sequence[str] = ()) -> tuple[int, int]:
    """Removes the files whose key begins with one of `keys`, or all, and what killed builds left: (files, bytes).

    A run that has pixels mapped keeps them until it ends; encoded pictures that a run reads are left. Raises UsageError
    on a key that is none, OSError.
    """
    there = entries()
    for key in keys:
        if not key or not any(entry.key.startswith(key) for entry in there):
            known = nearest(key, [entry.key for entry in there]) if there else "; the cache is empty"
            raise UsageError(f"{key or 'an empty key'}: no key of the cache{known}")
    wanted = [entry for entry in there if not keys or entry.key.startswith(tuple(keys))]
    gone = [entry for entry in wanted if _removed(folder() / f"{entry.key}.{entry.kind}")]
    return len(gone), sum(entry.num_bytes for entry in gone) + remove_leftovers(folder())


def _removed(path: Path) -> bool:
    """Whether it is gone: not if a run reads encoded pictures from it, one by one by its name."""
    with contextlib.suppress(FileNotFoundError):
        if path.suffix == ENCODED:
            with path.open("rb") as file:
                try:
                    lock(file)
                except BlockingIOError:
                    return False
                except OSError:  # a disk without locks
                    pass
                path.unlink()
        else:
            path.unlink()
    return True
