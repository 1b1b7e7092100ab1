"""`find_boxes`: files, folders and globs → the boxes in each picture, in order, the unreadable ones with their reason;
and the pictures with their boxes drawn."""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import files as files_room
from wideresnet import runtime
from wideresnet.checkpoint import read_card
from wideresnet.detection import BoxPredictor, Detection, Detections, drawing
from wideresnet.errors import ImageError, UsageError
from wideresnet.images import decode
from wideresnet.jobs.prediction import expand

_CHUNK = 8  # pictures computed at once
_LONGEST_JPEG = 65_500  # pixels a side
_LONGEST_NAME = 100  # signs of a drawn picture's name, without its ending


@dataclass(frozen=True, slots=True)
class BoxAnswer:
    """One picture's answer: its boxes, the surest first, height and width in pixels; or the reason why there are none
    in `error`. drawn: the file that shows them, if that was asked for."""

    path: Path
    boxes: tuple[Detection, ...] = ()
    size: tuple[int, int] | None = None
    drawn: Path | None = None
    error: str = ""


def find_boxes(
    model: str | Path,
    sources: Sequence[str | Path],
    *,
    files: Sequence[str | Path] = (),
    draw: str | Path | None = None,
    threshold: float | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
    watch: runtime.Watch = runtime.QUIET,
) -> Iterator[BoxAnswer]:
    """Answers for each picture of `sources` and `files`, as `predict`'s, in order, lazily. draw: a folder for the
    pictures with their boxes, made if need be; it must be empty. threshold: as `BoxPredictor`'s.

    Raises ModelFileError and UsageError before the first answer.
    """
    predictor, limit = BoxPredictor(model, device, threshold), data_room.most_pixels(max_pixels)
    paths = [*expand(sources), *map(Path, files)]
    if not paths:
        raise UsageError("no picture named; give files, folders or globs, or - for a list on standard input")
    if threshold is None and not predictor.card.figures:
        watch.line(
            f"note: the training of {model} has not ended, so no threshold was chosen yet; boxes are given from a "
            f"score of {predictor.threshold:g} on, --threshold gives another"
        )
    folder = None if draw is None else empty_folder(Path(draw))
    return _answers(predictor, paths, limit, folder, watch)


def empty_folder(folder: Path) -> Path:
    """`folder`, made if need be, for the pictures that --draw asks for. Raises UsageError if it holds anything."""
    try:
        files_room.make_folder(folder)
        full = any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"--draw {folder}: cannot be made: {error.strerror}; choose another") from error
    if full:
        raise UsageError(f"--draw {folder}: exists already and is not empty; choose another")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--draw {folder}: nothing can be written there; choose another")
    return folder


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A picture as the network sees it, its sides, and itself where it is to be drawn on."""

    resized: Tensor
    size: tuple[int, int]
    image: npt.NDArray[np.uint8] | None


def _answers(
    predictor: BoxPredictor, paths: Sequence[Path], max_pixels: int, folder: Path | None, watch: runtime.Watch
) -> Iterator[BoxAnswer]:
    rest, done, names = iter(paths), 0, set[str]()
    at_once = _CHUNK if folder is None else runtime.num_cores()  # those that are drawn on lie whole in memory

    def read(path: Path) -> _Read | str:
        try:
            image = decode(path, max_pixels)
        except ImageError as error:
            return str(error)
        height, width = image.shape[:2]
        return _Read(predictor.card.preprocess.resize(image), (height, width), None if folder is None else image)

    with runtime.thread_pool() as pool:
        while chunk := list(islice(rest, at_once)):
            every = list(pool.map(read, chunk))
            good = [one for one in every if isinstance(one, _Read)]
            answers = iter(predictor.detections([one.resized for one in good], [one.size for one in good]))
            for path, one in zip(chunk, every, strict=True):
                if isinstance(one, str):
                    yield BoxAnswer(path, error=one)
                    continue
                found, drawn = next(answers), None
                if folder is not None and one.image is not None:
                    drawn = folder / file_name(path, ".jpg" if max(one.size) <= _LONGEST_JPEG else ".png", names)
                    _draw(predictor, one.image, found, drawn)
                yield BoxAnswer(path, tuple(predictor.named(found)), one.size, drawn)
            done += len(chunk)
            watch.progress("looking", done, len(paths), "")


def file_name(path: Path, ending: str, names: set[str]) -> str:
    """Of the drawn picture. Of two with one name in different folders the second gets a number; so do those that differ
    in upper and lower case alone, which on some disks are one file."""
    stem = path.stem[:_LONGEST_NAME]
    name, number = stem + ending, 1
    while name.casefold() in names:
        number += 1
        name = f"{stem}-{number}{ending}"
    names.add(name.casefold())
    return name


def _draw(predictor: BoxPredictor, image: npt.NDArray[np.uint8], found: Detections, file: Path) -> None:
    shown = found.scores >= predictor.threshold
    labels = found.labels[shown].tolist()
    texts = [f"{predictor.card.class_names[k]} {s:.2f}" for k, s in zip(labels, found.scores[shown], strict=True)]
    content, form = io.BytesIO(), "JPEG" if file.suffix == ".jpg" else "PNG"
    Image.fromarray(drawing.draw(image, found.boxes[shown], labels, texts)).save(content, form, quality=92)
    files_room.write_whole(file, content.getvalue())


def as_coco(model: str | Path, answers: Sequence[BoxAnswer]) -> dict[str, Any]:
    """COCO's JSON of what was found: images (those that could be read), categories numbered from 1 in the model's
    order, annotations with scores."""
    names = read_card(Path(model)).class_names
    read = [one for one in answers if one.size is not None]
    annotations = list[dict[str, Any]]()
    for number, one in enumerate(read, 1):
        for found in one.boxes:
            left, top, right, bottom = found.box
            sides = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            which = {"id": len(annotations) + 1, "image_id": number, "category_id": names.index(found.label) + 1}
            annotations.append({**which, **sides, "iscrowd": 0, "score": found.score})
    images = [
        {"id": number, "file_name": str(one.path), "height": one.size[0], "width": one.size[1]}
        for number, one in enumerate(read, 1)
        if one.size is not None
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
