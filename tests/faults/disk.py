"""A record of what a process wrote → the disk as it may be found where the power failed after any part of it.

What was written to a file and not synced since may be there, torn, or gone; names that a folder was given or has lost
and that it was not synced since may be as they were, in order. Stricter than journalling file systems are.
"""

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = struct.Struct("<5q")
OPEN, WRITE, FSYNC, RENAME, UNLINK, TRUNCATE, CLOSE, MKDIR = range(1, 9)


@dataclass(frozen=True, slots=True)
class Record:
    """One call that succeeded: its kind, open file, a number (flags, a length), and texts (names, what is written)."""

    kind: int
    fd: int
    number: int
    first: bytes
    second: bytes


def records(log: Path) -> Iterator[Record]:
    content, at = log.read_bytes(), 0
    while at + _HEAD.size <= len(content):
        kind, fd, number, a, b = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        yield Record(kind, fd, number, content[at : at + a], content[at + a : at + a + b])
        at += a + b


@dataclass(slots=True, eq=False)
class _File:
    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)  # (place, what), or (length, None)
    size: int = 0

    def after(self, changes: list[tuple[int, bytes | None]]) -> bytes:
        content = bytearray(self.synced)
        for place, what in changes:
            if what is None:
                del content[place:]
                content.extend(bytes(place - len(content)))
            else:
                content.extend(bytes(max(0, place - len(content))))
                content[place : place + len(what)] = what
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Folder:
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)
    since: list[dict[str, "_File | _Folder | None"]] = field(default_factory=list)  # names set, or taken away

    def now(self, num: int | None = None) -> dict[str, "_File | _Folder"]:
        """With the first `num` changes since it was synced, or all."""
        names = dict(self.synced)
        for change in self.since[:num]:
            for name, what in change.items():
                if what is None:
                    names.pop(name, None)
                else:
                    names[name] = what
        return names


class Disk:
    """All below `root`, which is there and empty at first."""

    def __init__(self, root: Path) -> None:
        self._root, self._top = str(root), _Folder()
        self._open: dict[int, tuple[_File | _Folder, int, int]] = {}  # what, flags, place

    def _folder(self, path: str) -> tuple[_Folder, str]:
        """The folder that `path` lies in, and its name there."""
        *above, name = os.path.relpath(path, self._root).split("/")
        folder = self._top
        for part in above:
            inner = folder.now()[part]
            assert isinstance(inner, _Folder)
            folder = inner
        return folder, name

    def apply(self, record: Record) -> None:
        first, second = os.fsdecode(record.first), os.fsdecode(record.second)
        if record.kind == OPEN:
            self._opened(first, record)
        elif record.kind == CLOSE:
            del self._open[record.fd]
        elif record.kind in (WRITE, TRUNCATE, FSYNC):
            self._changed(record)
        elif record.kind == RENAME:
            (folder, old), (other, new) = self._folder(first), self._folder(second)
            assert folder is other, "files are renamed within their folder"
            folder.since.append({old: None, new: folder.now()[old]})
        else:
            folder, name = self._folder(first)
            folder.since.append({name: None if record.kind == UNLINK else _Folder()})

    def _opened(self, path: str, record: Record) -> None:
        what: _File | _Folder = self._top
        if os.path.normpath(path) != os.path.normpath(self._root):
            folder, name = self._folder(path)
            if name not in folder.now():
                folder.since.append({name: _File()})
            what = folder.now()[name]
        if isinstance(what, _File) and record.number & os.O_TRUNC:
            what.since.append((0, None))
            what.size = 0
        self._open[record.fd] = (what, record.number, 0)

    def _changed(self, record: Record) -> None:
        what, flags, place = self._open[record.fd]
        if isinstance(what, _Folder):
            what.synced, what.since = what.now(), []
        elif record.kind == FSYNC:
            what.synced, what.since = what.after(what.since), []
        elif record.kind == TRUNCATE:
            what.since.append((record.number, None))
            what.size = record.number
        else:
            place = what.size if flags & os.O_APPEND else place
            what.since.append((place, record.first))
            self._open[record.fd] = (what, flags, place + len(record.first))
            what.size = max(what.size, place + len(record.first))

    def synced(self, path: str) -> bytes:
        """What of a file is sure to be found."""
        folder, name = self._folder(path)
        what = folder.now()[name]
        assert isinstance(what, _File)
        return what.synced

    def found(self, where: Path, chance: random.Random) -> None:
        """Writes what is found after the power failed now to the folder `where`."""
        _write(self._top, where, chance)


def _write(folder: _Folder, where: Path, chance: random.Random) -> None:
    where.mkdir(parents=True)
    for name, what in folder.now(chance.randint(0, len(folder.since))).items():
        if isinstance(what, _Folder):
            _write(what, where / name, chance)
            continue
        changes = list[tuple[int, bytes | None]]()
        for place, text in what.since:
            fate = chance.choice(("there", "torn", "gone"))
            if fate == "there":
                changes.append((place, text))
            elif fate == "torn" and text is not None:
                changes.append((place, text[: chance.randint(0, len(text))]))
        (where / name).write_bytes(what.after(changes))
