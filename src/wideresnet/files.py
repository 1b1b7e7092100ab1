"""Bytes ↔ disk, whole or not at all: a file written here is the old one or the new one at any instant, never a part.
Locks that end with their process. And what a file is by its first bytes, where it is not what it should be."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from wideresnet.errors import TrainingStopped, UsageError


def cache_folder() -> Path:
    """The folder, made if need be, of all that can be made or fetched anew: WRN_CACHE, else `wideresnet` in
    XDG_CACHE_HOME or ~/.cache. Raises UsageError if it cannot be made."""
    given, above = os.environ.get("WRN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given) if given else (Path(above) if above else Path.home() / ".cache") / "wideresnet"
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise UsageError("no home folder for the cache; set WRN_CACHE") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: the cache cannot be made there: {error.strerror}; set WRN_CACHE") from error
    return folder


def write_whole(path: Path, content: bytes | str, *, keep: Path | None = None) -> None:
    """Writes to a temporary name in the same folder, syncs, renames, syncs the folder.

    keep: the file before it goes there, but only once the new one has been read back from the disk, and is the same.
    Raises TrainingStopped (the temporary file removed) if the disk refuses, naming path, size and what stands.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary, stands = None, "The file before it, if any, is untouched"
    try:
        make_folder(path.parent)
        file, temporary = new_beside(path)
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _check_written(temporary, data)
            path.replace(keep)
            stands = f"The one before it is {keep}"
        temporary.replace(path)
        stands = "It is there, but may not be after a power failure"
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise TrainingStopped(
            f"{path}: cannot write {len(data):,} bytes: {error.strerror or error} ({_free(path.parent)}). {stands}"
        ) from error


def new_beside(path: Path) -> tuple[BinaryIO, Path]:
    """A new file in the folder of `path`, open to be written, and its temporary name; with the permissions of any other
    new file. Raises OSError."""
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        with contextlib.suppress(FileExistsError):
            return cast(BinaryIO, name.open("xb")), name


def _check_written(path: Path, data: bytes) -> None:
    """Raises OSError if the file does not hold `data`, read from the disk where the system can be asked to."""
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not what memory still has of it
        start = 0
        while block := file.read(1 << 22):
            if block != data[start : start + len(block)]:
                break
            start += len(block)
    if start != len(data):
        raise OSError(errno.EIO, f"what was written reads back otherwise from byte {start:,} on; the disk is failing")


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        return "its disk does not answer"


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writes of `write_whole` left in `folder`; only for who holds its lock."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


_held, _held_lock = set[Path](), threading.Lock()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[tuple[bool, str]]:
    """Holds the lock `path`, made if need be, and writes into it who does: process, host, time. → whether it is held:
    not on a disk or system without locks; and what it said before: "" after a clean end, else who held it and was
    killed (or, without locks, holds it still).

    A record lock: the system takes it back with the process, however that ends, and no process that it has forked keeps
    it. Raises FileInUse, at once, with what the holder wrote.
    """
    key = path.resolve()
    with _held_lock:
        if key in _held:  # record locks do not keep a process from itself
            raise FileInUse(path, "this process")
        _held.add(key)
    try:
        with path.open("a+", encoding="utf-8", errors="replace") as file:
            there = _lock(file, path)
            file.seek(0)
            before = file.read()
            who = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
            _write_over(file, who)
            try:
                yield there, before
            finally:
                with contextlib.suppress(OSError):  # a full disk: it then says no more than after a crash
                    _write_over(file, "")
    finally:
        _held.discard(key)


class FileInUse(Exception):  # noqa: N818 - a state, of which the caller makes its own error
    """A lock that another process holds. `by` is what that one wrote of itself."""

    def __init__(self, path: Path, by: str) -> None:
        super().__init__(f"{path}: in use by {by}")
        self.by = by


def _lock(file: TextIO, path: Path) -> bool:
    """Whether the lock is held now; False where there are none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return False
        file.seek(0)
        raise FileInUse(path, file.read() or "another process") from error
    return True


def _write_over(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def check_replaceable(path: Path, suffix: str, option: str) -> None:
    """Raises UsageError if something lies at `path` that is not a file ending in `suffix`: no model, table or device is
    written over."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: a {'folder' if path.is_dir() else 'device'}; expected a {suffix} file")
    if path.exists() and path.suffix.lower() != suffix:
        raise UsageError(f"{option} {path}: exists and is no {suffix} file, so it is not written over; choose another")


def file_to_write(out: str | Path | None, default: str, suffixes: Sequence[str], *, read: Mapping[Path, str]) -> Path:
    """Where a command that makes a new file of others writes: `out`, else `default` in the current folder. read: the
    files that it reads, and what each is called.

    Raises UsageError on another suffix, on what `check_replaceable` refuses, on one of `read`, and on a default that is
    there already: nothing is lost that nobody named.
    """
    target = Path(default) if out is None else Path(out)
    if out is None and target.exists():
        raise UsageError(f"{target}: exists; name the file to write with --out")
    if target.suffix.lower() not in suffixes:
        raise UsageError(f"--out {target}: expected a name that ends in {', '.join(suffixes)}")
    check_replaceable(target, target.suffix.lower(), "--out")
    for own, what in read.items():
        if target.exists() and own.exists() and target.samefile(own):
            raise UsageError(f"--out {target}: is {what} itself, which would be lost; choose another name")
    return target


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """With those above it; they are still there after a power failure, and so is what is synced in them. Raises
    OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder to sync it
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header: the union of their keys, in order of first appearance; an absent value is empty."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def sha256(*parts: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def png_chunks(file: BinaryIO, at: int) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk of a PNG from there on, `file` standing at its content; to IEND or its end."""
    kind = b""
    while kind != b"IEND":
        file.seek(at)
        if len(head := file.read(8)) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        at += 12 + length


# What is looked at for an unreadable file, and what is said. The first that matches the beginning of the file counts.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "a JPEG whose header is broken or cut short"),
    (rb"\x89PNG", "a PNG whose header is broken or cut short"),
    (rb"GIF8", "a GIF whose header is broken or cut short"),
    (rb"RIFF....WEBP", "a WebP whose header is broken, or that this build of Pillow cannot read"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF of a kind that is not read, or with a broken header"),
    (rb"BM", "a BMP whose header is broken or cut short"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC picture, a format not read here; convert it to JPEG or PNG"),
    (rb"....ftypavi", "an AVIF picture, a format not read here; convert it to JPEG or PNG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture, a format not read here; convert it to JPEG or PNG"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "a JPEG 2000 picture, a format not read here; convert it to JPEG or PNG"),
    (rb"\0\0\x01\0", "an ICO icon, several pictures in one file; save the one you mean as PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document, not a picture"),
    (rb"%PDF", "a PDF document, not a picture"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive, not a picture"),
    (rb"\x00\x05\x16\x07", "a macOS companion file (AppleDouble), not the picture itself"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the picture itself; fetch it with `git lfs pull`"),
    (rb"(\xef\xbb\xbf)?\s*(?i:<!doctype html|<html)", "an HTML page, not a picture (a download that failed?)"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing, not a raster image"),
    (rb"\0+\Z", "nothing but zero bytes where the header should be"),
    (rb"[\t\r\n\x20-\x7e]+\Z", "text, not a picture"),
)


def kind_of(head: bytes) -> str:
    """What a file that is no readable picture is instead, by its first 512 bytes."""
    if not head:
        return "an empty file"
    for pattern, kind in _KINDS:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return f"not a picture of a known format (it begins with {head[:8].hex(' ')})"
