"""The table of readers: what a `DATA` string may be, tried in order. A new kind of data is a new row."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wideresnet import runtime
from wideresnet.data.arrays import read_digits, read_npz
from wideresnet.data.downloads import DOWNLOADS, read_download
from wideresnet.data.folders import read_folder
from wideresnet.data.huggingface import PREFIX, read_huggingface
from wideresnet.data.listing import Data
from wideresnet.data.shards import are_shards, read_shards
from wideresnet.data.tables import TABLES, are_parquets, read_parquets, read_table
from wideresnet.errors import DataError, UsageError, nearest
from wideresnet.images import MAX_PIXELS, MOST_PIXELS, SUFFIXES
from wideresnet.reading import Reading

EMBEDDED: dict[str, Callable[[], Data]] = {"digits": read_digits}
"""Name → the data that the installation itself carries."""


@dataclass(frozen=True, slots=True)
class Reader:
    what: str  # as an error and the documentation say it
    recognises: Callable[[str], bool]
    read: Callable[[str, Reading, runtime.Watch], Data]
    has_columns: bool = False


READERS: tuple[Reader, ...] = (
    Reader(f"an embedded name ({', '.join(EMBEDDED)})", EMBEDDED.__contains__, lambda source, *_: EMBEDDED[source]()),
    Reader(f"a name to download ({', '.join(DOWNLOADS)})", DOWNLOADS.__contains__, read_download),
    Reader(
        "WebDataset shards (one .tar, a folder or a pattern of them)",
        are_shards,
        lambda source, *_: _read_shards(source),
    ),
    Reader("Parquet files (a folder or a pattern of them)", are_parquets, read_parquets, has_columns=True),
    Reader(
        "a folder of class folders",
        lambda source: Path(source).is_dir(),
        lambda source, *_: read_folder(Path(source)),
    ),
    Reader(
        "an .npz file of arrays",
        lambda source: source.lower().endswith(".npz") and Path(source).exists(),
        lambda source, *_: read_npz(Path(source)),
    ),
    Reader(
        f"a table ({', '.join(TABLES)})",
        lambda source: Path(source).suffix.lower() in TABLES and Path(source).is_file(),
        lambda source, reading, watch: read_table(Path(source), reading, watch),
        has_columns=True,
    ),
    Reader(
        f"a Hugging Face dataset ({PREFIX}NAME)",
        lambda source: source.startswith(PREFIX) and len(source) > len(PREFIX),
        read_huggingface,
        has_columns=True,
    ),
)


def _read_shards(source: str) -> Data:
    if are_parquets(source):  # a folder that holds both
        which = f"'{Path(source, '**', '*.parquet')}'"
        raise DataError(f"{source}: holds tar and Parquet files; say which, as {which}, or move one kind elsewhere")
    return read_shards(source)


def most_pixels(given: int | None) -> int:
    """The limit that `Reading.max_pixels` stands for. Raises UsageError on one that cannot be."""
    if given is not None and not 1 <= given <= MOST_PIXELS:
        raise UsageError(f"--max-pixels {given}: expected a number of pixels from 1 to {MOST_PIXELS:,}")
    return MAX_PIXELS if given is None else given


def _limited(data: Data, max_pixels: int) -> Data:
    splits = {split: dataclasses.replace(one, max_pixels=max_pixels) for split, one in data.splits.items()}
    return dataclasses.replace(data, splits=splits)


def read(source: str | Path, reading: Reading = Reading(), watch: runtime.Watch = runtime.QUIET) -> Data:  # noqa: B008 - frozen
    """Lists what `source` names; decodes nothing. Raises DataError, saying what it could have been, and UsageError
    for columns of what has none."""
    source, limit = str(source), most_pixels(reading.max_pixels)
    if not source:
        raise DataError("the name of the data is empty; expected a folder, a file or a name")
    if source.encode(errors="ignore").decode() != source:
        raise DataError(f"{source!r}: a name that is not UTF-8 cannot be written into a run; rename it")
    for reader in READERS:
        if reader.recognises(source):
            if reading.columns and not reader.has_columns:
                words = dataclasses.replace(reading, download=False, max_pixels=None).words
                raise UsageError(f"{source}: {reader.what} has no columns; leave out {' '.join(words)}")
            return _limited(reader.read(source, reading, watch), limit)
    path = Path(source)
    if not path.exists() and not path.is_symlink():
        looks_like_name = path.name == source and not path.suffix
        hint = nearest(source, [*EMBEDDED, *DOWNLOADS]) if looks_like_name else "; check the spelling"
        raise DataError(f"{source}: no such file or folder, and no data of that name{hint}")
    kinds = ", ".join(reader.what for reader in READERS)
    single = " This is one picture: `wrn predict MODEL FILE` takes it." if path.suffix.lower() in SUFFIXES else ""
    raise DataError(f"{source}: not data that can be read; expected {kinds}.{single}")
