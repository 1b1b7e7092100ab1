"""What a `DATA` string names, before any picture is decoded: the one value that every reader makes."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "val", "test")
ALL = "all"  # the one split of data that has none


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """Pictures with labels. `sources`: paths, or an array uint8 [N, H, W, 3]; `labels` int64 [N] into class_names.

    `names` are for people: the path below the data's folder, or "test[17]".
    """

    sources: Sequence[Path] | npt.NDArray[np.uint8]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """`name` is what a run is called after, `place` finds the data again. `splits` has "all" alone, or some of
    train, val and test. `notes` say what was passed over."""

    name: str
    place: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Listing]
    notes: tuple[str, ...] = ()


def class_order(names: set[str]) -> tuple[str, ...]:
    """Class names in Unicode's normal form C, sorted by code point: the same on every file system."""
    return tuple(sorted({unicodedata.normalize("NFC", name) for name in names}))
