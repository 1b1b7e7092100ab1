"""`DATA` string → pictures with boxes: which form it has, and what is wrong with it, in one list. Decodes nothing; of
each picture it reads the header.

However the files say it, boxes come out as left, top, right, bottom in pixels of the upright picture, the first
pixel's left edge being 0.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wideresnet import runtime
from wideresnet.data import BadFile, Boxes, Data, Listing
from wideresnet.detection.annotated import Annotated, Found
from wideresnet.detection.coco import read_coco
from wideresnet.detection.voc import read_voc
from wideresnet.detection.yolo import read_yolo
from wideresnet.errors import DataError, ImageError
from wideresnet.images import MAX_PIXELS, TURNS, shape_of

SHOWN = 20  # lines of a list, for people
_WIDEST = 400  # signs of one
EDGE = 1.0  # pixels that a box may reach beyond its picture without a word: forms round, and some count from 1


@dataclass(frozen=True, slots=True)
class Reader:
    what: str  # as an error and the documentation say it
    read: Callable[[str], Found | None]  # None of what has another form


READERS: tuple[Reader, ...] = (
    Reader("COCO's JSON (a file, or a folder with annotations/instances_train.json…)", read_coco),
    Reader("YOLO's text files (a folder with images and labels, or its data.yaml)", read_yolo),
    Reader("Pascal VOC's XML (a folder with Annotations and JPEGImages)", read_voc),
)


def read_boxes(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> Data:
    """What `source` names, each listing with its boxes. Boxes beyond a picture's edge are cut, and those without an
    area, outside or twice there are left out; `notes` lists them. Raises DataError with all that cannot be mended so:
    unknown classes, boxes that are no numbers, pictures of another size than their file says."""
    source = str(source)
    if source.encode(errors="ignore").decode() != source:
        raise DataError(f"{source!r}: a name that is not UTF-8 cannot be written into a run; rename it")
    if not os.path.exists(source):  # noqa: PTH110 - Path's raises where the name is too long
        raise DataError(f"{source}: no such file or folder; check the spelling")
    what, found = next(((one.what, found) for one in READERS if (found := one.read(source)) is not None), ("", None))
    if found is None:
        raise DataError(f"{source}: no boxes that can be read; expected {'; '.join(each.what for each in READERS)}")
    check = _Check({name: label for label, name in enumerate(found.class_names)}, max_pixels, list(found.faults))
    splits = {split: check.listing(pictures) for split, pictures in found.splits.items()}
    if faults := check.faults:
        raise DataError(f"{source}: {len(faults)} {_things('fault', faults)} in its boxes:\n{_list(faults)}")
    if check.bad and not any(splits.values()):
        lines = [f"{file.name}: {file.reason}" for file in check.bad]
        raise DataError(f"{source}: none of its {len(lines)} pictures can be read:\n{_list(lines)}")
    if not any(len(boxes) for listing in splits.values() for boxes in listing.boxes):
        raise DataError(f"{source}: read as {what}, and there is not one box in it")
    notes = (*found.notes, *check.notes(), *_of_pictures(splits, found.class_names))
    return Data(found.name, found.place, found.class_names, splits, notes, tuple(check.bad))


def _things(one: str, lines: Sequence[str]) -> str:
    return one if len(lines) == 1 else f"{one}{'es' if one.endswith('x') else 's'}"


def _list(lines: Sequence[str]) -> str:
    more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*(f"  {_on_a_line(line)}" for line in lines[:SHOWN]), *more])


def _on_a_line(text: str) -> str:
    """Names are strangers': they may be long, or hold signs that move the cursor."""
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return shown if len(shown) <= _WIDEST else f"{shown[:_WIDEST]}…"


@dataclass(slots=True)
class _Check:
    """What the files say, against the pictures. `faults` cannot be mended; all else is, each box in its list."""

    index: Mapping[str, int]  # class name → label
    max_pixels: int
    faults: list[str]
    bad: list[BadFile] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        said = {
            f"cut at the picture's edge: {len(self.cut)} {_things('box', self.cut)}": self.cut,
            f"left out, without an area: {len(self.empty)} {_things('box', self.empty)}": self.empty,
            f"left out, outside the picture: {len(self.outside)} {_things('box', self.outside)}": self.outside,
            f"left out, the same box of the same class twice: {len(self.twice)}": self.twice,
            f"turned with the picture, as EXIF says: the boxes of {len(self.turned)}": self.turned,
            "taken as of the upright picture, though EXIF turns it and its size does not tell: the boxes of "
            f"{len(self.unclear)}": self.unclear,
        }
        return [f"{what}\n{_list(lines)}" for what, lines in said.items() if lines]

    def listing(self, pictures: Sequence[Annotated]) -> Listing:
        kept = list[tuple[Path, str, Boxes]]()
        files = Counter(one.source for one in pictures)
        self.faults += [
            f"{source}: described {count} times in one split; join its boxes"
            for source, count in files.items()
            if count > 1
        ]
        with runtime.thread_pool() as pool:
            shapes = pool.map(lambda one: _shape(one.source, self.max_pixels), pictures)
            for one, shape in zip(pictures, shapes, strict=True):
                if isinstance(shape, ImageError):
                    self.bad.append(BadFile(one.name, str(shape)))
                elif (boxes := self._boxes(one, *shape)) is not None:
                    kept.append((one.source, one.name, boxes))
        sources, names, each = zip(*kept, strict=True) if kept else ((), (), ())
        return Listing(sources, names, np.zeros(len(names), dtype=np.int64), max_pixels=self.max_pixels, boxes=each)

    def _boxes(self, one: Annotated, height: int, width: int, orientation: int) -> Boxes | None:
        """None, and a fault, where the picture is not the one that was annotated."""
        boxes = np.array([each.box for each in one.objects], dtype=np.float64).reshape(-1, 4)
        stored = (width, height) if TURNS[orientation][0] else (height, width)
        if one.size is None:
            boxes = boxes * np.array([width, height, width, height])
        elif one.size == stored != (height, width):
            boxes = _turned(boxes, height, width, orientation)
            self.turned += [one.name] if one.objects else []
        elif one.size != (height, width):
            said = f"{one.size[1]} × {one.size[0]}"
            self.faults.append(f"{one.name}: is {width} × {height} pixels, and {one.file} says {said}")
            return None
        elif orientation != 1 and one.objects:
            self.unclear.append(one.name)
        within = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float64))
        rows = self._whole(one, boxes, within)
        kept = within[rows]
        own = (kept[:, 2:] - kept[:, :2]).prod(1)
        objects = [one.objects[row] for row in rows]
        return Boxes(
            height,
            width,
            kept,
            np.array([self.index[each.class_name] for each in objects], dtype=np.int64),
            np.array([each.crowd for each in objects], dtype=np.bool_),
            np.array([a if each.area is None else each.area for each, a in zip(objects, own, strict=True)], np.float64),
        )

    def _whole(self, one: Annotated, boxes: npt.NDArray[np.float64], within: npt.NDArray[np.float64]) -> list[int]:
        """Rows of the boxes that are kept. within: the part of each that lies in the picture."""
        rows, seen = list[int](), set[tuple[object, ...]]()
        for row, each in enumerate(one.objects):
            where = f"{one.name}: {each.class_name}, {one.file}, {each.where}"
            key = (each.class_name, each.crowd, *within[row].tolist())
            if not (boxes[row, 2:] > boxes[row, :2]).all():
                self.empty.append(where)
            elif not (within[row, 2:] > within[row, :2]).all():
                self.outside.append(where)
            elif key in seen:
                self.twice.append(where)
            else:
                rows.append(row)
                self.cut += [where] if np.abs(within[row] - boxes[row]).max() > EDGE else []
            seen.add(key)
        return rows


def _turned(boxes: npt.NDArray[np.float64], height: int, width: int, orientation: int) -> npt.NDArray[np.float64]:
    """Boxes of the stored pixels → those of the upright picture of height × width."""
    swapped, upside_down, mirrored = TURNS[orientation]
    left, top, right, bottom = boxes.T[[1, 0, 3, 2]] if swapped else boxes.T
    if upside_down:
        top, bottom = height - bottom, height - top
    if mirrored:
        left, right = width - right, width - left
    return np.stack([left, top, right, bottom], 1)


def _shape(source: Path, max_pixels: int) -> tuple[int, int, int] | ImageError:
    try:
        return shape_of(source, max_pixels)
    except ImageError as error:
        return error


def _of_pictures(splits: Mapping[str, Listing], class_names: Sequence[str]) -> list[str]:
    """What a person should know of whole pictures and classes."""
    notes = list[str]()
    for split, listing in splits.items():
        if without := sum(not len(boxes) for boxes in listing.boxes):
            notes.append(f"{split}: {without} of {len(listing)} pictures have no box; kept, as pictures of nothing")
    source = splits.get("train", next(iter(splits.values())))
    there = Counter(label for boxes in source.boxes for label in boxes.labels[~boxes.crowd].tolist())
    if missing := [name for label, name in enumerate(class_names) if not there[label]]:
        notes.append(f"without a box to train on: {_some(missing)}")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
