"""`Boxes`: what is where in one upright picture, in its own pixels, however its files say so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Of one upright picture of height × width pixels: boxes float64 [M, 4] (left, top, right, bottom, the first
    pixel's left edge being 0), all of them within it and with an area; labels int64 [M] into class_names; crowd bool
    [M]: regions that detections may be in or not, neither trained on nor counted; areas float64 [M], of the objects."""

    height: int
    width: int
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[int]:
        """What is there to be found, each class once."""
        return [int(label) for label in np.unique(self.labels[~self.crowd])]

    @property
    def content(self) -> bytes:
        """Equal for equal boxes, for digests."""
        sides = np.array([self.height, self.width, len(self)], dtype=np.int64)
        return b"".join(part.tobytes() for part in (sides, self.boxes, self.labels, self.crowd, self.areas))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` gives back equal boxes."""
        arrays = {name: getattr(self, name).tolist() for name in ("boxes", "labels", "crowd", "areas")}
        return {"height": self.height, "width": self.width, **arrays}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Boxes":
        return cls(
            int(values["height"]),
            int(values["width"]),
            np.array(values["boxes"], dtype=np.float64).reshape(-1, 4),
            np.array(values["labels"], dtype=np.int64),
            np.array(values["crowd"], dtype=np.bool_),
            np.array(values["areas"], dtype=np.float64),
        )
