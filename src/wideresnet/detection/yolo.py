"""YOLO's text files → `Found`: beside a folder `images` one `labels`, with a file of the same name for each picture.

A line is a class's number, then the box as fractions of the upright picture: middle x, middle y, width, height; or
three corners of a polygon and more, whose box is taken. Class names stand in data.yaml, classes.txt or obj.names. A
picture without a file, or with an empty one, has no boxes.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wideresnet.data.folders import files_below, files_in, pictures_below, subfolders
from wideresnet.data.listing import ALL, SPLITS
from wideresnet.data.texts import finite, read_text
from wideresnet.detection.annotated import Annotated, Found, Object, split_named
from wideresnet.errors import DataError, missing_extra
from wideresnet.images import SUFFIXES

_LISTS = ("classes.txt", "obj.names")


def read_yolo(source: str) -> Found | None:
    """None of what is neither a .yaml file nor a folder with folders `images` and `labels` in it or in those of its
    splits. Raises DataError where these have no class names; what is wrong with single lines is told of in `faults`."""
    path = Path(source)
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() in (".yaml", ".yml")):
        return None
    path = path.resolve()
    root, notes = path if path.is_dir() else path.parent, list[str]()
    pairs = _pairs_of_yaml(path, notes) or _pairs(root)
    if not pairs and path.is_dir():
        return None
    if not pairs:
        said = f" {notes[0]};" if notes else ""
        raise DataError(
            f"{path}:{said} no folders images and labels beside it either; expected images/train, labels/train…"
        )
    names, faults = _class_names(path, root), list[str]()
    splits = {}
    for split, (images, labels) in pairs.items():
        pictures = list(pictures_below(images))
        splits[split] = [_picture(each, images, labels, root=root, names=names, faults=faults) for each in pictures]
        own = {(labels / each.relative_to(images)).with_suffix(".txt") for each in pictures}
        files = [file for file in files_below(labels, (".txt",)) if file.name not in _LISTS]
        if lone := [file.name for file in files if file not in own]:
            notes.append(f"{split}: passed over, without a picture in {images}: {len(lone)} files, as {lone[0]}")
    if ALL not in pairs and (
        loose := list(files_in(root / "images", tuple(SUFFIXES))) if (root / "images").is_dir() else []
    ):
        notes.append(f"passed over, beside the folders of splits: {len(loose)} pictures, as {loose[0].name}")
    return Found(name=root.name, place=str(path), class_names=names, splits=splits, faults=faults, notes=notes)


def _pairs_of_yaml(path: Path, notes: list[str]) -> dict[str, tuple[Path, Path]]:
    """Where data.yaml says that the splits lie, if they all do: as Ultralytics reads it, `path` before each, and labels
    where `images` is in a picture's path. Files that were moved, or made for another machine, often say what is not so;
    then the folders' names tell, which is noted."""
    if path.is_dir() or not isinstance(content := _yaml(path), dict):
        return {}
    said = {
        split: content[key] for key, split in (("train", "train"), ("val", "val"), ("test", "test")) if content.get(key)
    }
    found = dict[str, tuple[Path, Path]]()
    for split, value in said.items():
        if (pair := _pair_of(path.parent, content.get("path"), value)) is None:
            shown = f"{split}: {str(value)[:60]}"
            notes.append(
                f"{path.name} says {shown}, where no folders of pictures and labels are; its places are not used"
            )
            return {}
        found[split] = pair
    return found if "train" in found else {}


def _pair_of(folder: Path, base: object, value: object) -> tuple[Path, Path] | None:
    """The folders of pictures and labels that `value` means, in `folder` or in `base` there."""
    if not isinstance(value, str):
        return None
    bases = [folder / base] if isinstance(base, str) else []
    images = next((place for one in (*bases, folder) if (place := one / value).is_dir()), None)
    if images is None:
        return None
    parts = list((images / "images" if (images / "images").is_dir() else images).resolve().parts)
    if "images" not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:last], "labels", *parts[last + 1 :])
    return (Path(*parts), labels) if labels.is_dir() else None


def _pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split → its folders of pictures and of labels."""
    found = dict[str, tuple[Path, Path]]()
    if (root / "images").is_dir() and (root / "labels").is_dir():
        for images in subfolders(root / "images"):
            if split := split_named(images.name):
                _add(found, split, images, root / "labels" / images.name)
        found = found or {ALL: (root / "images", root / "labels")}
    else:
        for folder in subfolders(root):
            if (split := split_named(folder.name)) and (folder / "images").is_dir():
                _add(found, split, folder / "images", folder / "labels")
    return {split: found[split] for split in (ALL, *SPLITS) if split in found}


def _add(found: dict[str, tuple[Path, Path]], split: str, images: Path, labels: Path) -> None:
    if split in found:
        raise DataError(
            f"{images}: a second folder of {split} beside {found[split][0]}; join them, or move one elsewhere"
        )
    if not labels.is_dir():
        raise DataError(f"{images}: pictures without a folder of labels; expected {labels}")
    found[split] = (images, labels)


def _class_names(path: Path, root: Path) -> tuple[str, ...]:
    for name in _LISTS if path.is_dir() else ():
        if (root / name).is_file():
            lines = [line.strip() for line in read_text(root / name).rstrip().splitlines()]
            if "" in lines:
                raise DataError(
                    f"{root / name}: line {lines.index('') + 1} is empty, and a class by its number; remove it"
                )
            return _distinct(lines, root / name)
    files = list(files_in(root, (".yaml", ".yml"))) if path.is_dir() else [path]
    if len(files) != 1:
        which = (
            f"several files could: {', '.join(file.name for file in files)}; name one as DATA" if files else "none says"
        )
        raise DataError(f"{root}: what its classes are called, {which}. Expected data.yaml with names, or classes.txt")
    content = _yaml(files[0])
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and names.keys() == set(map(str, range(len(names)))):
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{files[0]}: its names are no list of texts, nor 0: NAME, 1: NAME, …, which are expected")
    if isinstance(content, dict) and "kpt_shape" in content:
        raise DataError(
            f"{files[0]}: tells of keypoints (kpt_shape), which are not read; expected lines with boxes alone"
        )
    return _distinct(names, files[0])


def _distinct(names: Sequence[str], file: Path) -> tuple[str, ...]:
    if not names:
        raise DataError(f"{file}: holds no class name")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{file}: several classes are called {twice[0]!r}; rename or join them")
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def _yaml(file: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise missing_extra(f"reading {file.name}", "detect") from None
    try:
        return yaml.load(read_text(file), yaml.BaseLoader)  # texts as they stand: "no" is a class, and no False
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise DataError(f"{file}: not YAML: {' '.join(str(error).split())}") from error


def _picture(
    picture: Path, images: Path, labels: Path, *, root: Path, names: Sequence[str], faults: list[str]
) -> Annotated:
    file = (labels / picture.relative_to(images)).with_suffix(".txt")
    shown, name = (
        one.relative_to(root).as_posix() if one.is_relative_to(root) else str(one) for one in (file, picture)
    )
    objects = list(_objects(file, shown, names, faults)) if file.exists() else []
    return Annotated(picture, name, shown, None, objects)


def _objects(file: Path, shown: str, names: Sequence[str], faults: list[str]) -> Iterator[Object]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words, where = line.split(), f"line {number}"
        if not words:
            continue
        values = [value for word in words if (value := finite(word)) is not None]
        is_box_or_polygon = len(values) == 5 or (len(values) >= 7 and len(values) % 2 == 1)
        if len(values) < len(words) or not is_box_or_polygon:
            faults.append(f"{shown}, {where}: {line.strip()[:60]!r}; expected a class's number and four fractions")
        elif values[0] not in range(len(names)):
            faults.append(f"{shown}, {where}: class {words[0]}; there are {len(names)}, numbered from 0")
        elif any(not -1 <= value <= 2 for value in values[1:]):  # a box may reach beyond the picture, not so far
            faults.append(
                f"{shown}, {where}: {' '.join(words[1:5])}: pixels? Expected fractions of the picture's sides"
            )
        else:
            yield Object(where, names[int(values[0])], _box(values[1:]))


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)
