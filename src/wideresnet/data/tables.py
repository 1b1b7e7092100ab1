"""Tables on disk (.csv, .tsv, .jsonl, .parquet) → `Rows`. Their form is dealt with here; `rows` has what they mean."""

import csv
import dataclasses
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from wideresnet import runtime
from wideresnet.data import packs, patterns
from wideresnet.data.listing import BadFile, Data
from wideresnet.data.rows import Rows, listed
from wideresnet.data.texts import read_text
from wideresnet.errors import DataError, missing_extra
from wideresnet.reading import Reading

_PARQUET = (".parquet",)
_DELIMITERS = (",", ";", "\t", "|")
_BUFFER_BYTES = 1 << 20  # of a Parquet column
_LONGEST_FIELD = 1 << 24  # characters of one CSV field: beyond, a quote is open


def read_table(path: Path, reading: Reading, watch: runtime.Watch) -> Data:
    """Raises DataError, naming the row, and UsageError for a column that is not there."""
    return listed(path.stem, str(path.resolve()), [TABLES[path.suffix.lower()](path)], reading, watch)


def are_parquets(source: str) -> bool:
    """A folder of Parquet files and no class folders, or a pattern of them."""
    return patterns.are_files(source, _PARQUET)


def read_parquets(source: str, reading: Reading, watch: runtime.Watch) -> Data:
    """The rows of all files that `source` names, as of one table, in the splits that their names say:
    train-00000-of-00002.parquet. Raises as `read_table` does, and DataError for files that differ in columns."""
    files = patterns.paths(source, _PARQUET)
    splits = patterns.splits_of(source, files)
    tables = [
        dataclasses.replace(read_parquet(file, f"{file.name} "), split=split)
        for file, split in zip(files, splits, strict=True)
    ]
    data = listed(*patterns.name_and_place(source), tables, reading, watch)
    return dataclasses.replace(data, notes=(*data.notes, *patterns.incomplete(files)))


def read_csv(path: Path) -> Rows:
    """A header, then a row a picture; separated by commas, semicolons, tabs or bars, whichever the header has most of.

    Rows count from 1 after the header, lines from 1 with it; a quoted field may hold line breaks.
    """
    text = read_text(path)
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    line = 1  # where a record begins
    try:
        header = [name.strip() for name in next(reader, [])]
        line = reader.line_num + 1
        for record in reader:
            if record:  # an empty line is none
                records.append(record)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        where = f"{path}, the row that begins in line {line}"
        raise DataError(f"{where}: {error}. Is a quote left open, or one in the middle?") from error
    if twice := sorted({name for name in header if header.count(name) > 1 and name}):
        raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one")
    good = [i for i, record in enumerate(records) if len(record) == len(header)]

    def row(i: int) -> str:
        return f"row {i + 1} (line {lines[i]})"

    def values(column: int) -> Callable[[], Iterator[object]]:
        return lambda: (records[i][column] for i in good)

    return Rows(
        where=str(path),
        columns={name: values(column) for column, name in enumerate(header) if name},
        row=lambda i: row(good[i]),
        folder=path.resolve().parent,
        typed=False,
        bad=[
            BadFile(row(i), f"{len(record)} fields, but the header has {len(header)}")
            for i, record in enumerate(records)
            if len(record) != len(header)
        ],
    )


def read_jsonl(path: Path) -> Rows:
    """One JSON object a line; a key that a line lacks is empty there. Rows are named by their lines, counted from 1."""
    objects: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[BadFile] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append(BadFile(f"line {number}", f"not JSON: {error}"))
            continue
        if isinstance(value, dict):
            objects.append(value)
            lines.append(number)
        else:
            bad.append(BadFile(f"line {number}", f"a JSON {type(value).__name__}; expected an object, {{…}}"))

    def values(name: str) -> Callable[[], Iterator[object]]:
        return lambda: (value.get(name) for value in objects)

    return Rows(
        where=str(path),
        columns={name: values(name) for name in dict.fromkeys(key for value in objects for key in value)},
        row=lambda i: f"line {lines[i]}",
        folder=path.resolve().parent,
        typed=True,
        bad=bad,
    )


def read_parquet(path: Path, called: str = "") -> Rows:
    """A column is read when it is asked for, few rows at a time; encoded pictures stay encoded. Rows count from 1, and
    are named with `called` before."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra(f"{path}: reading Parquet", "tables") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info.get("info", {}).get("features") or {}
        roles, names = kinds(features), class_names(str(path), features)
    except (pyarrow.ArrowException, OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}. Copy or make it again") from error
    return Rows(
        where=str(path),
        columns={name: partial(_parquet_column, path, name) for name in schema.names},
        row=lambda i: f"{called}row {i + 1}",
        folder=path.resolve().parent,
        typed=True,
        kinds=roles,
        class_names=names,
        files=(path,),
        num_rows=num_rows,
    )


def _parquet_column(path: Path, name: str) -> Iterator[object]:
    """Its cells, read through a small buffer, so many rows at once as their bytes allow. Raises DataError."""
    import pyarrow
    import pyarrow.parquet

    num = 0
    try:
        # Not mapped: a file that is cut while it is read would end the process.
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group)
                parts = (rows.column(i) for i in range(rows.num_columns))
                num_bytes = sum(
                    p.total_uncompressed_size for p in parts if f"{p.path_in_schema}.".startswith(f"{name}.")
                )
                at_once = packs.rows_at_once(num_bytes, rows.num_rows)
                for batch in file.iter_batches(at_once, row_groups=[group], columns=[name], use_threads=False):
                    num += len(batch)
                    yield from batch.column(0).to_pylist()
            expected = file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: a text that is not UTF-8
        raise DataError(f"{path}: column {name!r} cannot be read: {error}. Copy or make the file again") from error
    if num != expected:
        raise DataError(f"{path}: column {name!r} has {num:,} of {expected:,} rows. Copy or make the file again")


TABLES: dict[str, Callable[[Path], Rows]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
"""Ending, in lower case → reader."""


def kinds(features: Mapping[str, Any]) -> dict[str, str]:
    """Hugging Face's description of columns → what they are for."""
    roles = {"Image": "image", "ClassLabel": "label"}
    types = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, Mapping)}
    return {name: roles[kind] for name, kind in types.items() if kind in roles}


def class_names(where: str, features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Column → the names that Hugging Face's ClassLabel gives its numbers."""
    found = {}
    for column, feature in features.items():
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and feature.get("names"):
            names = tuple(unicodedata.normalize("NFC", str(name)) for name in feature["names"])
            if len(set(names)) < len(names):
                raise DataError(f"{where}: column {column!r} names one class twice")
            found[column] = names
    return found
