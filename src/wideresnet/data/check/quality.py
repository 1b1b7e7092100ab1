"""What is known of each picture → rows of those that are blank, dark, too bright, blurred, tiny or oddly shaped."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wideresnet.data.check.looks import Look

BLANK = 8  # grey values from the darkest to the brightest pixel: JPEG's own noise on one colour stays within
DARK = 40  # 99 % of the pixels are no brighter
BRIGHT = 215  # 99 % are no darker
TINY = 8  # pixels of the shorter side: the least that a network trains on
LONG = 4.0  # longer side over the shorter: cut to a square, three quarters are lost
_SHARPNESS_FROM = 64  # pixels of the shorter side: smaller pictures have no detail that could lack
_BLURRED = 0.08  # a photograph of 128 pixels blurred by a Gaussian of 2 pixels has less; one in focus 0.2 to 1.5
_OUTLIER = 3.0  # deviations of the data's own logarithms below their median
_ENOUGH = 30  # pictures from which it is known what is usual here

_Rows = list[int]


def blank(looks: Sequence[Look | None]) -> _Rows:
    """Of one colour; of one pixel too."""
    return [i for i, one in enumerate(looks) if one is not None and one.span <= BLANK]


def dark(looks: Sequence[Look | None]) -> _Rows:
    return [i for i, one in enumerate(looks) if one is not None and one.high <= DARK and one.span > BLANK]


def bright(looks: Sequence[Look | None]) -> _Rows:
    return [i for i, one in enumerate(looks) if one is not None and one.low >= BRIGHT and one.span > BLANK]


def tiny(looks: Sequence[Look | None]) -> _Rows:
    """Where others are not: a set of 8×8 digits has none."""
    return [i for i, one in enumerate(looks) if one is not None and min(one.height, one.width) < TINY]


def long(looks: Sequence[Look | None]) -> _Rows:
    sides = [(i, max(one.height, one.width), min(one.height, one.width)) for i, one in enumerate(looks) if one]
    return [i for i, most, least in sides if most >= LONG * least]


def blurred(looks: Sequence[Look | None]) -> _Rows:
    """The least sharp first. Sharpness is told against the others of this data: X-rays are never as sharp as leaves."""
    rows = [i for i, one in enumerate(looks) if one and min(one.height, one.width) >= _SHARPNESS_FROM]
    rows = [i for i in rows if (one := looks[i]) and one.span > BLANK]
    if len(rows) < _ENOUGH:
        return []
    values = np.array([one.sharpness if (one := looks[i]) else 0.0 for i in rows])
    logs = np.log(values + 1e-3)
    median = np.median(logs)
    deviation = 1.4826 * np.median(np.abs(logs - median))  # of a normal distribution
    odd = (logs < median - _OUTLIER * deviation) & (values < _BLURRED)
    return [rows[k] for k in np.argsort(values, kind="stable").tolist() if odd[k]]


def shapes(looks: Sequence[Look | None]) -> npt.NDArray[np.int64]:
    """[N, 2], height and width of those that can be read."""
    return np.array([(one.height, one.width) for one in looks if one], dtype=np.int64).reshape(-1, 2)
