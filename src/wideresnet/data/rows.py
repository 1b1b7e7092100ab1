"""Rows with a picture, a label, perhaps a split and a group → `Data`: what a table means, whatever its file.

Columns are found here and every row is checked here, before any picture is decoded.
"""

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from wideresnet import runtime
from wideresnet.data import packs
from wideresnet.data.listing import ALL, SPLIT_NAMES, SPLITS, BadFile, Data, Listing, Source, Span, class_order
from wideresnet.errors import DataError, UsageError, nearest
from wideresnet.reading import Reading

# Names by which a column is found, in lower case, "-" and " " as "_".
_FOUND_BY: dict[str, set[str]] = {
    "image": {
        *("image", "image_path", "image_file", "image_name", "img", "img_path", "picture", "photo"),
        *("file", "file_name", "file_path", "filename", "filepath", "path"),
    },
    "label": {"label", "label_name", "class", "class_name", "category", "target"},
    "split": {"split", "set", "subset", "partition"},
    "group": {"group", "group_id", "patient", "patient_id", "subject_id", "scene", "scene_id"},
}
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows of one file, or of one split of a data set; a column's values are read when they are asked for."""

    where: str  # what an error begins with
    columns: Mapping[str, Callable[[], Iterable[object]]]
    row: Callable[[int], str]  # how a person finds row i, counted from 0: "row 17 (line 18)"
    folder: Path  # of relative paths
    typed: bool  # a text "3" is a name, not a number
    split: str = ALL  # of all rows, where no column says otherwise
    kinds: Mapping[str, str] = field(default_factory=dict)  # column → "image" or "label", where the file says so
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column → what its numbers stand for
    bad: Sequence[BadFile] = ()  # rows that are none
    files: Sequence[Path] = ()  # of which the cells may hold pictures, not their paths alone
    num_rows: int = 0  # where there are such files


class _BadCellError(Exception):
    """Why a cell cannot be what its column says."""


def listed(name: str, place: str, tables: Sequence[Rows], reading: Reading, watch: runtime.Watch) -> Data:
    """The pictures and labels of `tables`. What a row lacks is in `Data.bad`.

    Raises UsageError for a column that is not there, DataError where columns cannot be told, where two tables have
    other columns or classes, where labels are numbers in one row and names in another, and where no row can be read.
    """
    tables = sorted(tables, key=lambda table: table.split not in (ALL, "train"))  # the first one names the classes
    bad = [row for table in tables for row in table.bad]
    if not any(table.columns for table in tables):
        raise _nothing(place, bad)
    _check_columns(tables)
    columns = {role: _column(role, tables[0], getattr(reading, f"{role}_column")) for role in _FOUND_BY}
    if columns["image"] == columns["label"]:
        raise UsageError(f"--image-column and --label-column are both {columns['image']!r}; they are two columns")
    notes = _check_class_names(tables, str(columns["label"]))
    good: list[_Row] = []
    for table, pictures in zip(tables, _pictures(place, tables, str(columns["image"]), watch), strict=True):
        for row in _rows(table, columns, pictures):
            if isinstance(row, BadFile):
                bad.append(row)
            else:
                good.append(row)
    if not good:
        raise _nothing(place, bad)
    names_of = tables[0].class_names.get(str(columns["label"]), ())
    labels, class_names, more = _classes(place, good, names_of, typed=tables[0].typed)
    notes += more
    for role in ("split", "group"):  # found by its name alone, and what is judged follows from it
        if columns[role] and not getattr(reading, f"{role}_column"):
            notes.append(f"column {columns[role]!r} is taken as the {role}")
    splits = {}
    for split in (ALL, *SPLITS):
        index = [i for i, row in enumerate(good) if row.split == split]
        if index:
            splits[split] = Listing(
                sources=[good[i].source for i in index],
                names=tuple(good[i].name for i in index),
                labels=np.array([labels[i] for i in index], dtype=np.int64),
                groups=tuple(good[i].group for i in index) if columns["group"] else (),
            )
    return Data(name, place, class_names, splits, tuple(notes), tuple(bad))


def _check_columns(tables: Sequence[Rows]) -> None:
    first = tables[0]
    for other in tables[1:]:
        if set(other.columns) != set(first.columns):
            raise DataError(
                f"{first.where} and {other.where} have different columns ({_apart(first.columns, other.columns)}). "
                "Name them alike, or read them one by one"
            )


def _check_class_names(tables: Sequence[Rows], label: str) -> list[str]:
    """A note if a table numbers the classes otherwise: its rows are read by its own names. Raises DataError if it names
    others."""
    first, notes = tables[0], list[str]()
    ours = first.class_names.get(label, ())
    for other in tables[1:]:
        theirs = other.class_names.get(label, ())
        if set(theirs) != set(ours):
            raise DataError(
                f"{first.where} and {other.where} name different classes in column {label!r} ({_apart(ours, theirs)}). "
                "Write all classes into both, or read them one by one"
            )
        if theirs != ours:
            notes.append(f"{other.where} numbers its classes in another order; they are taken by their names")
    return notes


def _apart(ours: Iterable[str], theirs: Iterable[str]) -> str:
    """What only one of the two has: "only in the first: a, b; only in the second: c"."""
    only = {"first": sorted({*ours} - {*theirs}), "second": sorted({*theirs} - {*ours})}
    return "; ".join(
        f"only in the {which}: {', '.join(names[:5])}{', …' * (len(names) > 5)}"
        for which, names in only.items()
        if names
    )


def _pictures(place: str, tables: Sequence[Rows], name: str, watch: runtime.Watch) -> list[Iterable[object]]:
    """The image column of each table, to be read one after another."""
    if not all(table.files for table in tables):
        return [table.columns[name]() for table in tables]
    column = packs.Column(
        place=place,
        name=name,
        files=[file for table in tables for file in table.files],
        num_rows=sum(table.num_rows for table in tables),
        read=lambda: chain.from_iterable(table.columns[name]() for table in tables),
    )
    cells = iter(packs.cells(column, watch))
    return [islice(cells, table.num_rows) for table in tables]


def _nothing(place: str, bad: Sequence[BadFile]) -> DataError:
    few = "\n".join(f"  {row.name}: {row.reason}" for row in bad[:10])
    rest = f"\n  … and {len(bad) - 10:,} more" if len(bad) > 10 else ""
    return DataError(f"{place}: " + (f"none of its {len(bad):,} rows can be read:\n{few}{rest}" if bad else "no rows"))


def _column(role: str, table: Rows, given: str | None) -> str | None:
    """The column of a role: the one given, else the one that the file or its name says. Split and group may be none."""
    option, there = f"--{role}-column", list(table.columns)
    if given is not None:
        if given not in there:
            raise UsageError(f"{option} {given}: {table.where} has no such column{nearest(given, there)}")
        return given
    found = [name for name in there if table.kinds.get(name) == role]
    found = found or [name for name in there if re.sub(r"[ -]", "_", name.lower()) in _FOUND_BY[role]]
    if len(found) > 1:
        raise UsageError(
            f"{table.where}: {' and '.join(found)} could each be the {role} column; say which: {option} NAME"
        )
    if not found and role in ("image", "label"):
        raise UsageError(
            f"{table.where}: no column is the {role} by its name; its columns: {', '.join(there)}. "
            f"Say which: {option} NAME (a first line that is no header needs one)"
        )
    return found[0] if found else None


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    where: str
    source: Source
    name: str
    label: int | str
    split: str
    group: str


def _rows(table: Rows, columns: Mapping[str, str | None], pictures: Iterable[object]) -> Iterator[_Row | BadFile]:
    """Each row checked; one that cannot be, with all its reasons."""
    names_of = table.class_names.get(str(columns["label"]), ())

    def values(role: str) -> Iterable[object]:
        name = columns[role]
        return repeat(None) if name is None else table.columns[name]()

    cells = zip(pictures, values("label"), values("split"), values("group"), strict=False)
    for i, (image, label, split, group) in enumerate(cells):
        where, reasons = table.row(i), list[str]()
        source: Source = b""
        class_name: int | str = ""
        name, part = where, table.split
        try:
            source, name = _source(image, table, where)
        except _BadCellError as error:
            reasons.append(str(error))
        try:
            class_name = _label(label, names_of, typed=table.typed)
        except _BadCellError as error:
            reasons.append(str(error))
        if columns["split"] is not None:
            part = SPLIT_NAMES.get(str(split).strip().lower(), "")
            if not part:
                reasons.append(f"{columns['split']} {split!r} is none of train, val and test")
        group_name = "" if _is_nothing(group) else str(group).strip()
        yield BadFile(where, "; ".join(reasons)) if reasons else _Row(where, source, name, class_name, part, group_name)


def _is_nothing(value: object) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _source(value: object, table: Rows, where: str) -> tuple[Source, str]:
    """A path, bytes or where they lie, or Hugging Face's {"bytes": …, "path": …} → the picture and its name for
    people."""
    name = where
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        value, name = (path, name) if content is None else (content, path or name)
    if _is_nothing(value):
        raise _BadCellError("no picture")
    if isinstance(value, bytes | Span):
        if value == b"":
            raise _BadCellError("no bytes where the picture should be")
        return value, str(name)
    if not isinstance(value, str):
        raise _BadCellError(f"{type(value).__name__} is no picture; expected a path, or the bytes of a file")
    if _URL.match(value):
        raise DataError(
            f"{table.where}, {where}: {value} is a URL, and no picture is downloaded. Fetch them, name the files"
        )
    folder = str(table.folder)  # strings, not Path, for a table of a million rows
    for text in (value, value.replace("\\", "/")):  # written on Windows
        if os.path.isfile(path := os.path.join(folder, text)):  # noqa: PTH113, PTH118 - False for what no name can be
            return Path(path), text
    path = os.path.join(folder, value)  # noqa: PTH118
    raise _BadCellError(f"{path}: {'a folder, not a file' if os.path.isdir(path) else 'no such file'}")  # noqa: PTH112


def _label(value: object, names_of: Sequence[str], *, typed: bool) -> int | str:
    """A whole number, or a class's name in normal form C."""
    if _is_nothing(value) or (not typed and str(value).strip().lower() == "nan"):
        raise _BadCellError("no label")
    if isinstance(value, float) and value.is_integer():  # what a column of integers becomes where one is missing
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise _BadCellError(f"label {str(value)[:40]}: no number of a class is so large; expected 64 bits at most")
        if names_of and not 0 <= value < len(names_of):
            raise _BadCellError(f"label {value}: the file names its classes 0 to {len(names_of) - 1}")
        return names_of[value] if names_of else value
    if not isinstance(value, str | bool):
        shown = repr(value)
        raise _BadCellError(f"label {shown[:40]}{'…' * (len(shown) > 40)}: expected one name or one whole number")
    name = unicodedata.normalize("NFC", str(value).strip())
    if name.encode(errors="ignore").decode() != name:
        raise _BadCellError(f"label {name!r} is not UTF-8")
    if names_of and name not in names_of:
        raise _BadCellError(f"label {name!r} is none of the classes that the file names{nearest(name, names_of)}")
    return name


def _classes(
    place: str, rows: Sequence[_Row], names_of: Sequence[str], *, typed: bool
) -> tuple[list[int], tuple[str, ...], list[str]]:
    """Labels counted in class order, the classes' names, notes. Numbers are classes in their own order; "007" is a
    name, and so are all with it."""
    values: list[int | str] = [row.label for row in rows]
    if not typed and all(isinstance(v, str) and _NUMBER.fullmatch(v) and str(int(v)) == v for v in set(values)):
        values = [int(value) for value in values]
    is_number = {
        value: isinstance(value, int) or (not typed and bool(_NUMBER.fullmatch(value))) for value in set(values)
    }
    if len(set(is_number.values())) > 1:
        number, name = (next(row for row in rows if is_number.get(row.label) is kind) for kind in (True, False))
        raise DataError(
            f"{place}: labels are numbers in some rows and names in others: {number.where} has {number.label}, "
            f"{name.where} has {name.label!r}. Write names in all rows, or numbers"
        )
    numbers = {value for value in values if isinstance(value, int)}
    notes = []
    if numbers:
        order: list[int | str] = sorted(numbers)
        shown = f"{order[0]}, {order[1]}, …, {order[-1]}" if len(order) > 6 else ", ".join(map(str, order))
        notes.append(f"labels are numbers, so the {len(order)} classes are called {shown}")
    else:
        order = list(names_of or class_order({str(value) for value in values}))
    index = {value: label for label, value in enumerate(order)}
    return [index[value] for value in values], tuple(map(str, order)), notes
