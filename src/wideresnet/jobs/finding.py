"""`find_boxes`: files, folders and globs → the boxes in each picture, in order, the unreadable ones with their reason;
and the pictures with their boxes drawn."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wideresnet import data as data_room
from wideresnet import files as files_room
from wideresnet import runtime
from wideresnet.checkpoint import read_card
from wideresnet.detection import BoxPredictor, Detection, Detections, drawing
from wideresnet.errors import ImageError, UsageError
from wideresnet.images import decode
from wideresnet.jobs.prediction import expand

_CHUNK = 8  # pictures decoded and computed at once: they are kept whole, to be drawn on


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
    predictor = BoxPredictor(model, device, threshold)
    paths = [*expand(sources), *map(Path, files)]
    if not paths:
        raise UsageError("no picture named; give files, folders or globs, or - for a list on standard input")
    folder = None if draw is None else _empty(Path(draw))
    return _answers(predictor, paths, data_room.most_pixels(max_pixels), folder, watch)


def _empty(folder: Path) -> Path:
    try:
        files_room.make_folder(folder)
        full = any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"--draw {folder}: cannot be made: {error.strerror}; choose another") from error
    if full:
        raise UsageError(f"--draw {folder}: exists already and is not empty; choose another")
    return folder


def _answers(
    predictor: BoxPredictor, paths: Sequence[Path], max_pixels: int, folder: Path | None, watch: runtime.Watch
) -> Iterator[BoxAnswer]:
    rest, done, names = iter(paths), 0, set[str]()

    def read(path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            return decode(path, max_pixels)
        except ImageError as error:
            return str(error)

    resize = predictor.card.preprocess.resize
    with runtime.thread_pool() as pool:
        while chunk := list(islice(rest, _CHUNK)):
            images = list(pool.map(read, chunk))
            good = [one for one in images if not isinstance(one, str)]
            sizes = [(one.shape[0], one.shape[1]) for one in good]
            answers = iter(predictor.detections(list(pool.map(resize, good)), sizes))
            for path, image in zip(chunk, images, strict=True):
                if isinstance(image, str):
                    yield BoxAnswer(path, error=image)
                    continue
                found = next(answers)
                drawn = None if folder is None else _drawn(predictor, image, found, folder, _name(path, names))
                named = tuple(predictor.named(found))
                yield BoxAnswer(path, named, (image.shape[0], image.shape[1]), drawn)
            done += len(chunk)
            watch.progress("looking", done, len(paths), "")


def _name(path: Path, names: set[str]) -> str:
    """Of the drawn picture; of two with one name in different folders the second gets a number."""
    name, number = f"{path.stem}.jpg", 1
    while name in names:
        number += 1
        name = f"{path.stem}-{number}.jpg"
    names.add(name)
    return name


def _drawn(predictor: BoxPredictor, image: npt.NDArray[np.uint8], found: Detections, folder: Path, name: str) -> Path:
    shown = found.scores >= predictor.threshold
    labels = found.labels[shown].tolist()
    texts = [f"{predictor.card.class_names[k]} {s:.2f}" for k, s in zip(labels, found.scores[shown], strict=True)]
    content = io.BytesIO()
    Image.fromarray(drawing.draw(image, found.boxes[shown], labels, texts)).save(content, "JPEG", quality=92)
    files_room.write_whole(folder / name, content.getvalue())
    return folder / name


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
