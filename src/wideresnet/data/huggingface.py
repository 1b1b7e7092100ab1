"""`hf:NAME` → `Data`, through the `datasets` library; pictures stay encoded, so that our own decoding reads them."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from wideresnet import runtime
from wideresnet.data import packs
from wideresnet.data.listing import ALL, SPLIT_NAMES, Data
from wideresnet.data.rows import Rows, listed
from wideresnet.data.tables import class_names, kinds
from wideresnet.errors import DataError, missing_extra
from wideresnet.reading import Reading

PREFIX = "hf:"


def read_huggingface(source: str, reading: Reading, watch: runtime.Watch) -> Data:
    """`hf:NAME`, `hf:NAME:CONFIG`, or `hf:FOLDER` that `datasets` wrote or can read. What is not on this machine is
    fetched only if `reading.download`, into that library's own cache.

    Its splits are ours by their names; one alone is data without splits, whatever it is called. Raises DataError,
    UsageError (a missing extra, a column that is not there).
    """
    name, config = _parse(source.removeprefix(PREFIX))
    is_folder = Path(name).is_dir()
    if is_folder:
        name = str(Path(name).resolve())
        source = f"{PREFIX}{name}:{config}" if config else f"{PREFIX}{name}"
    try:
        import datasets
    except ImportError as error:
        raise missing_extra(f"{source}: reading Hugging Face datasets", "hub") from error
    try:
        with _network(reading.download):
            loaded = _load(name, config)
    except Exception as error:  # it names no set of its errors: its own, httpx's, fsspec's, pyarrow's, the system's
        why = " ".join(str(error).split()) or type(error).__name__
        hint = (
            ""
            if reading.download or is_folder or Path(name).is_absolute()
            else " Nothing is fetched unasked: --download brings it"
        )
        raise DataError(f"{source}: cannot be loaded: {why[:400].rstrip('.')}.{hint}") from error
    parts: dict[str, datasets.Dataset] = dict(loaded) if isinstance(loaded, Mapping) else {ALL: loaded}
    ours = {split: ALL if len(parts) == 1 else SPLIT_NAMES.get(split.lower(), "") for split in parts}
    used = [split for split in parts if ours[split]]
    if not used or len({ours[split] for split in used}) < len(used):
        raise DataError(f"{source}: splits {', '.join(parts)}; expected at most one each of train, val and test")
    folder = Path(name) if is_folder else Path.cwd()
    tables = [_rows(source, split, parts[split], ours[split], folder) for split in used]
    data = listed(Path(name).name or "data", source, tables, reading, watch)
    passed = ", ".join(split for split in parts if split not in used)
    note = (f"passed over, neither train, val nor test: split {passed}",) if passed else ()
    return dataclasses.replace(data, notes=(*data.notes, *note))


def _parse(name: str) -> tuple[str, str | None]:
    """ "user/name:config" → ("user/name", "config"); a folder's name may hold colons."""
    if Path(name).is_dir() or ":" not in name:
        return name, None
    name, _, config = name.rpartition(":")
    return name, config


def _load(name: str, config: str | None) -> Any:
    """A Dataset, or its splits by name."""
    import datasets

    if any((Path(name) / mark).is_file() for mark in ("dataset_dict.json", "state.json")):  # save_to_disk wrote it
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, config)


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """While open, the libraries fetch nothing unless `allowed`; they tell nobody what was loaded, and draw no bars.

    Their own switches are read once, from the environment, when they are imported; these are where they keep them.
    """
    import datasets
    import huggingface_hub.constants

    bars = datasets.are_progress_bars_disabled()
    switches = [(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)]
    if not allowed:
        switches += [(datasets.config, "HF_HUB_OFFLINE", True), (huggingface_hub.constants, "HF_HUB_OFFLINE", True)]
    before = [(place, name, getattr(place, name)) for place, name, _ in switches]
    datasets.disable_progress_bars()
    try:
        for place, name, value in switches:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
        if not bars:
            datasets.enable_progress_bars()


def _rows(source: str, split: str, part: Any, ours: str, folder: Path) -> Rows:
    import datasets

    features = part.features.to_dict()
    roles = kinds(features)
    encoded = part.with_format(None)
    for column, role in roles.items():
        if role == "image":
            encoded = encoded.cast_column(column, datasets.Image(decode=False))

    where = source if split == ALL else f"{source}, split {split}"
    return Rows(
        where=where,
        columns={name: partial(_column, where, encoded, name) for name in part.column_names},
        row=lambda i: f"{split} row {i + 1}",
        folder=folder,
        typed=True,
        split=ours,
        kinds=roles,
        class_names=class_names(where, features),
        files=tuple(Path(file["filename"]) for file in part.cache_files),
        num_rows=part.num_rows,
    )


def _column(where: str, part: Any, name: str) -> Iterator[object]:
    """Its cells, so many rows at once as their bytes allow. Raises DataError."""
    import pyarrow

    column = part.select_columns([name])
    try:
        for batch in column.iter(packs.rows_at_once(column.data.nbytes, part.num_rows)):
            yield from batch[name]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where}: column {name!r} cannot be read: {error}. Make the data set again") from error
