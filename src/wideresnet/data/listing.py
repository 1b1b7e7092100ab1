"""What a `DATA` string names, before any picture is decoded: the one value that every reader makes."""

import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wideresnet.data.boxes import Boxes
from wideresnet.errors import ImageError
from wideresnet.images import MAX_PIXELS

SPLITS = ("train", "val", "test")
ALL = "all"  # the one split of data that has none
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What a folder or a row may call its split, in lower case."""


@dataclass(frozen=True, slots=True)
class Span:
    """An encoded picture that lies inside a larger file: `length` bytes of it from `start`; `crc`, where it is known,
    is their CRC-32."""

    file: Path
    start: int
    length: int
    crc: int | None = None


Source: TypeAlias = Path | bytes | Span
"""One encoded picture: a file, its bytes, or where in a file they lie."""


def encoded(source: Source) -> Path | bytes:
    """What `images.decode` takes. Raises ImageError if a span cannot be read."""
    if not isinstance(source, Span):
        return source
    try:
        with source.file.open("rb") as file:
            file.seek(source.start)
            content = file.read(source.length)
    except OSError as error:
        raise ImageError(f"{source.file} cannot be read: {error.strerror}") from error
    if len(content) < source.length:
        raise ImageError(f"{source.file} ends {source.length - len(content)} bytes before the end of this picture")
    if source.crc is not None and zlib.crc32(content) != source.crc:
        raise ImageError(
            f"its copy in {source.file} is damaged; remove that by: wrn data cache clear {source.file.stem}"
        )
    return content


@dataclass(frozen=True, slots=True)
class BadFile:
    """A picture that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """Pictures with labels. `sources`: encoded pictures, or an array uint8 [N, H, W, 3]; `labels` int64 [N] into
    class_names.

    `names` are for people: the path below the data's folder, or "test[17]". `groups`, of N or of none: pictures of
    one group (a patient, a scene) stay together when splits are made; "" is a group of its own. Encoded pictures of
    more than `max_pixels` are not decoded. `boxes`, of N or of none: what is to be found in each; `labels` are then
    of no meaning.
    """

    sources: Sequence[Source] | npt.NDArray[np.uint8]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    groups: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    boxes: tuple[Boxes, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """`name` is what a run is called after, `place` finds the data again. `splits` has "all" alone, or some of
    train, val and test. `notes` say what was passed over; `bad` are pictures known not to be readable, in no split."""

    name: str
    place: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Listing]
    notes: tuple[str, ...] = ()
    bad: tuple[BadFile, ...] = ()


def class_order(names: set[str]) -> tuple[str, ...]:
    """Class names in Unicode's normal form C, sorted by code point: the same on every file system."""
    return tuple(sorted({unicodedata.normalize("NFC", name) for name in names}))
