"""A picture and a network → where it looked, what it resembles, how sure: the values that an explanation is made of.
`maps` computes, `places` lays a map back on the original picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wideresnet.explanation import maps, places
from wideresnet.explanation.places import Box, Floats, Grid, Layer, Map
from wideresnet.prediction import Prediction
from wideresnet.preprocess import Placement

__all__ = ["Box", "Check", "Explanation", "Floats", "Grid", "Layer", "Map", "Neighbour", "maps", "places"]

Check = Literal["occlusion", "integrated-gradients"]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """A picture that the model was trained on. distance: 1 − cosine of the two embeddings, 0 for equal ones, 2 at most;
    image uint8 [size, size, 3], as the network sees it, None where it is gone or changed since; same: it is the picture
    itself, pixel for pixel."""

    name: str
    label: str
    distance: float
    image: npt.NDArray[np.uint8] | None
    same: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Why the model says what it says of one picture, as far as this can be told.

    `heat`, `finer` and `check` are float32 [H, W] over the original upright picture `image`, 0…1, 1 where most speaks
    for `class_name`; 0 outside `seen`, which a crop took away. All 0: no place speaks for it more than any other.
    """

    name: str  # the file, or "picture 1"
    image: npt.NDArray[np.uint8]  # [H, W, 3]
    prediction: Prediction
    class_name: str  # that is explained
    maps: Mapping[str, Map]  # "heat" of the last map, "finer" with stage 2 (of our networks), "check"
    check_method: Check
    placement: Placement
    seen: Box  # left, top, right, bottom in pixels of `image`
    agreement: float | None  # rank correlation of heat and check; None where one of them is the same everywhere
    covered: tuple[float, float, float]  # probability of the class: as it is; its warmest fifth covered; its coldest
    neighbours: tuple[Neighbour, ...] = ()  # nearest first
    trained_on: bool | None = None  # None: the model does not tell what it was trained on

    @property
    def has_heat(self) -> bool:
        """Whether there is a place in the last map that speaks for the class, more than others do."""
        return not _is_flat(self.maps["heat"].heat)

    @property
    def heat(self) -> Floats:
        return self.drawn("heat")

    @property
    def finer(self) -> Floats | None:
        """None for a library's network."""
        return self.drawn("finer") if "finer" in self.maps else None

    @property
    def check(self) -> Floats:
        return self.drawn("check")

    def drawn(self, what: str, shape: tuple[int, int] | None = None) -> Floats:
        """One of `maps` over the picture, float32 [H, W]; `shape`: at as many pixels, laid evenly over it."""
        height, width = self.image.shape[:2]
        rows, columns = shape or (height, width)
        if _is_flat(self.maps[what].heat):
            return np.zeros((rows, columns), np.float32)
        heat = self.maps[what].on_picture(self.placement, height, width, (rows, columns))
        left, top, right, bottom = self.seen
        y, x = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
        heat[(y < top) | (y > bottom), :] = 0
        heat[:, (x < left) | (x > right)] = 0
        most = float(heat.max())
        return heat / most if most > 0 else heat


def _is_flat(heat: Floats) -> bool:
    """Whether it is the same everywhere, but for rounding."""
    return bool(heat.max() - heat.min() <= 1e-6 * heat.max())
