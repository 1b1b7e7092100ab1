"""Pictures that are there more than once, exactly or nearly: in sets, each with what is wrong about it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wideresnet import runtime
from wideresnet.data.check.near import Pair, all_alike, near_pairs

SMALLEST = (
    16  # pixels of the shorter side: below it, different pictures of one thing (a handwritten 1) are nearly equal
)


@dataclass(frozen=True, slots=True)
class _Both:
    """Rows of one picture and rows of another: of many copies there are too many pairs to be listed."""

    one: tuple[int, ...]
    other: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((a, b) for a in self.one for b in self.other)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """exact: sets of rows with equal pixels. near: pairs of rows that show the same, at most one row of each exact set
    among them. compared: how many pictures were looked through for `near`; alike: none, for they are all so much alike
    that near copies cannot be told from them."""

    exact: tuple[tuple[int, ...], ...]
    near: tuple[Pair, ...]
    compared: int
    alike: bool = False

    def of_near(self) -> list[tuple[Pair, "_Both"]]:
        """Each pair, and all that show the same: a copy of one with a copy of the other, the pair itself first."""
        copies = {rows[0]: rows for rows in self.exact}
        return [(pair, _Both(*(copies.get(row, (row,)) for row in (pair.first, pair.second)))) for pair in self.near]


def duplicates(
    digests: Sequence[bytes],
    thumbnails: npt.NDArray[np.uint8],
    comparable: npt.NDArray[np.bool_],
    *,
    cropped: bool = True,
    watch: runtime.Watch = runtime.QUIET,
) -> Duplicates:
    """digests of N pictures, b"" of one that cannot be read; thumbnails uint8 [N, SIDE, SIDE, 3]; comparable [N]:
    whether there is enough to be seen in one to tell it from another."""
    sets: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            sets[digest].append(row)
    first = np.array([rows[0] for rows in sets.values() if comparable[rows[0]]], dtype=np.int64)
    exact = tuple(tuple(rows) for rows in sets.values() if len(rows) > 1)
    if all_alike(thumbnails, first):
        return Duplicates(exact, (), 0, alike=True)
    return Duplicates(exact, tuple(near_pairs(thumbnails, first, cropped=cropped, watch=watch)), len(first))


def together(num: int, found: Duplicates) -> list[list[int]]:
    """Rows that are one picture, exactly or nearly, or linked by others that are; sets of two at least, in order."""
    above = list(range(num))  # a row → an earlier one of its own set, or itself

    def first_of(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    links = [(rows[0], row) for rows in found.exact for row in rows[1:]]
    for a, b in [*links, *((pair.first, pair.second) for pair in found.near)]:
        one, other = first_of(a), first_of(b)
        above[max(one, other)] = min(one, other)
    sets: dict[int, list[int]] = defaultdict(list)
    for row in {row for link in links for row in link} | {row for p in found.near for row in (p.first, p.second)}:
        sets[first_of(row)].append(row)
    return [sorted(rows) for _, rows in sorted(sets.items())]
