"""What the files of boxes say, whatever their form: the one value that every reader of them makes. Nothing is checked
yet against the pictures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wideresnet.data.listing import SPLIT_NAMES


def split_named(name: str) -> str | None:
    """What a folder of such a name holds; a year may follow, as in train2017."""
    return SPLIT_NAMES.get(re.sub(r"[-_]?\d+$", "", name.lower()))


@dataclass(frozen=True, slots=True)
class Object:
    """One box as a file has it. box: left, top, right, bottom, in the units of its picture's `size`.

    `where` finds it again: "annotation 17", "line 3". crowd: a region that detections may be in or not, neither
    trained on nor counted (COCO's iscrowd, VOC's difficult). area: of the object, as COCO gives it; None: the box's.
    """

    where: str
    class_name: str
    box: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture and its boxes. size: (height, width) of the picture that the boxes are pixels of; None: they are
    fractions of the upright picture's sides."""

    source: Path
    name: str  # for people: the path below the data's folder
    file: str  # that holds the boxes, for people
    size: tuple[int, int] | None
    objects: Sequence[Object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """As `data.Data`: `name` is what a run is called after, `place` finds the data again; `splits` has "all" alone, or
    some of train, val and test. faults: what makes the files no description of boxes, each a line; notes: what was
    passed over."""

    name: str
    place: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Annotated]]
    faults: Sequence[str] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)
