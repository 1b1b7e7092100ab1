"""The pictures of all splits one after another, each with what one look at it told: what every finding is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wideresnet.data.check.looks import Look, Looks
from wideresnet.data.check.quality import BLANK
from wideresnet.data.listing import Data

_JUDGED_FIRST = {"test": 0, "val": 1}  # what is judged on keeps a picture that is in train too


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture is: for a person its name, its split, the name of its class; its row in the split."""

    name: str
    split: str
    class_name: str
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """N pictures; `places`, labels int64 [N], looks, and thumbnails as in `Looks`."""

    data: Data
    places: tuple[Place, ...]
    labels: npt.NDArray[np.int64]
    each: Sequence[Look | str]
    thumbnails: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def looks(self) -> list[Look | None]:
        """None of a picture that cannot be read."""
        return [one if isinstance(one, Look) else None for one in self.each]

    @property
    def digests(self) -> list[bytes]:
        return [one.digest if isinstance(one, Look) else b"" for one in self.each]

    def comparable(self, smallest: int) -> npt.NDArray[np.bool_]:
        """[N]: those that have at least so many pixels a side and something on them."""
        sides = [(min(one.height, one.width), one.span) if isinstance(one, Look) else (0, 0) for one in self.each]
        return np.array([side >= smallest and span > BLANK for side, span in sides], dtype=bool)

    def first_to_keep(self, rows: Sequence[int]) -> list[int]:
        """`rows` in the order in which one of them would be kept: test, val, then others; the largest; the first."""

        def order(row: int) -> tuple[int, int, int]:
            one = self.each[row]
            area = one.height * one.width if isinstance(one, Look) else 0
            return _JUDGED_FIRST.get(self.places[row].split, 2), -area, row

        return sorted(rows, key=order)


def gallery(data: Data, looks: Mapping[str, Looks]) -> Gallery:
    """`looks`: of every split of `data`."""
    places = tuple(
        Place(name, split, data.class_names[label], row)
        for split, listing in data.splits.items()
        for row, (name, label) in enumerate(zip(listing.names, listing.labels.tolist(), strict=True))
    )
    labels = np.concatenate([np.empty(0, np.int64), *(listing.labels for listing in data.splits.values())])
    each = [one for split in data.splits for one in looks[split].each]
    return Gallery(data, places, labels, each, np.concatenate([looks[split].thumbnails for split in data.splits]))
