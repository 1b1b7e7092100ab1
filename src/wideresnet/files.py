"""Bytes ↔ disk, whole or not at all: a file written here is the old one or the new one at any instant, never a part.
And what a file is by its first bytes, where it is not what it should be."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wideresnet.errors import TrainingStopped, UsageError


def cache_folder() -> Path:
    """The folder, made if need be, of all that can be made or fetched anew: WRN_CACHE, else `wideresnet` in
    XDG_CACHE_HOME or ~/.cache. Raises UsageError if it cannot be made."""
    given, above = os.environ.get("WRN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else (Path(above) if above else Path.home() / ".cache") / "wideresnet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: the cache cannot be made there: {error.strerror}; set WRN_CACHE") from error
    return folder


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes to a temporary name in the same folder, syncs, renames, syncs the folder.

    Raises TrainingStopped (nothing changed, the temporary file removed) if the disk refuses, naming path and size.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        share(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise TrainingStopped(
            f"{path}: cannot write {len(data):,} bytes: {error.strerror or error}. "
            "The file before it, if any, is untouched"
        ) from error


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


def share(temporary: Path) -> None:
    """Gives a file that mkstemp made, 0600, the permissions of any other new file."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)


def _sync_folder(folder: Path) -> None:
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
