"""COCO's JSON → `Found`: one file, or a folder with a file for each split.

Source: Lin et al. 2014, and cocodataset.org's page "Data format". A box is [left, top, width, height] in pixels, the
first pixel's left edge being 0. Categories may have any numbers; classes are in the order of these.
"""

import codecs
import json
import math
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wideresnet.data.folders import files_below
from wideresnet.data.listing import ALL, SPLIT_NAMES, SPLITS
from wideresnet.detection.annotated import Annotated, Found, Object
from wideresnet.errors import DataError

_NOT_BOXES = re.compile(
    r"(?<![a-z])(captions|keypoints|panoptic|stuff|image_info)(?![a-z])", re.IGNORECASE
)  # COCO's others
_PARTS = {"images": "file_name", "annotations": "image_id", "categories": "name"}  # each with a field of all its rows


def read_coco(source: str) -> Found | None:
    """None of what is neither a .json file nor a folder with such as begin as COCO's do. Raises DataError on what is no
    JSON of boxes; what is wrong with single boxes is told of in `faults`."""
    path = Path(source)
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".json"):
        return None
    root = path if path.is_dir() else path.parent
    if path.is_file() and root.resolve().name == "annotations":
        root = root.resolve().parent
        path = root / "annotations" / path.name
    notes = list[str]()
    files = _files(path, notes) if path.is_dir() else {ALL: path}
    if not files:
        return None
    contents = {split: _content(file) for split, file in files.items()}
    names = _class_names(files, contents)
    faults, splits = list[str](), {}
    for split, file in files.items():
        splits[split] = list(_pictures(contents[split], names, root, file, faults=faults, notes=notes))
    where = path.resolve()
    name = where.name if path.is_dir() else where.stem
    class_names = tuple(names[number] for number in sorted(names))
    return Found(name=name, place=str(where), class_names=class_names, splits=splits, faults=faults, notes=notes)


def _files(root: Path, notes: list[str]) -> dict[str, Path]:
    """Split → its file: annotations/instances_train2017.json, train.json, train/_annotations.coco.json…"""
    found = dict[str, Path]()
    for file in files_below(root, (".json",)):
        below = file.relative_to(root)
        if len(below.parts) > 2 or _NOT_BOXES.search(file.name) or not _begins_as_coco(file):
            continue
        splits = _splits_named(below)
        if len(splits) > 1:
            raise DataError(f"{file}: is it {' or '.join(splits)}? Rename it after one of them")
        split = splits[0] if splits else ALL
        if split in found:
            raise DataError(
                f"{root}: two files of boxes for {split}: {found[split].relative_to(root)} and {below}. "
                "Move one elsewhere, or name one of them as DATA"
            )
        found[split] = file
    if len(found) > 1 and (other := found.pop(ALL, None)):
        named = ", ".join(sorted(found))
        notes.append(f"passed over: {other.relative_to(root)}, whose name says no split, beside files of {named}")
    return {split: found[split] for split in (ALL, *SPLITS) if split in found}


def _splits_named(file: Path) -> list[str]:
    """By the words of a path."""
    words = re.findall(r"[a-z]+", file.as_posix().lower())
    return sorted({SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES})


def _begins_as_coco(file: Path) -> bool:
    """The whole may be hundreds of megabytes; its parts stand in any order, each with its name."""
    try:
        if not file.is_file():  # a pipe would block
            return False
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
            opened.seek(max(0, file.stat().st_size - (1 << 16)))
            ends = head + opened.read()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    # The middle one of three may lie beyond both ends; files of other programs have one by chance.
    there = sum(f'"{part}"'.encode() in ends for part in _PARTS)
    return ends.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{" and there >= 2


def _content(file: Path) -> dict[str, list[dict[str, Any]]]:
    """images, annotations and categories, each a list of objects with the field that all of its have."""
    try:
        content = json.loads(file.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file}: a {type(content).__name__}; expected COCO's object with images, annotations, categories"
        )
    if "images" not in content and isinstance(content.get("annotations"), list):
        raise DataError(f"{file}: has no images; expected COCO's annotations, not results")
    for part, field in _PARTS.items():
        rows = content.get(part)
        if not isinstance(rows, list):
            raise DataError(f"{file}: has no list {part!r}; expected COCO's images, annotations and categories")
        for number, row in enumerate(rows):
            ids = (
                [row[name] for name in ("id", "image_id", "category_id") if name in row]
                if isinstance(row, dict)
                else []
            )
            if odd := [one for one in ids if not isinstance(one, int | str) or isinstance(one, bool)]:
                raise DataError(f"{file}: {part}[{number}] has the id {str(odd[0])[:40]}; expected a number or a text")
            if not isinstance(row, dict) or field not in row or (part != "annotations" and "id" not in row):
                raise DataError(
                    f"{file}: {part}[{number}] has no {field!r}" + ("" if part == "annotations" else " or 'id'")
                )
    return content


def _class_names(files: Mapping[str, Path], contents: Mapping[str, Mapping[str, Any]]) -> dict[int, str]:
    """By their numbers; the same in all files."""
    found = dict[str, dict[int, str]]()
    for split, content in contents.items():
        numbers = dict[int, str]()
        for row in content["categories"]:
            number, name = row["id"], unicodedata.normalize("NFC", str(row["name"]))
            if not isinstance(number, int) or isinstance(number, bool):
                raise DataError(f"{files[split]}: category {name!r} has the id {number!r}; expected a whole number")
            if number in numbers:
                raise DataError(f"{files[split]}: category {number} is both {numbers[number]!r} and {name!r}")
            numbers[number] = name
        if twice := [name for name, count in Counter(numbers.values()).items() if count > 1]:
            raise DataError(f"{files[split]}: several categories are called {twice[0]!r}; rename or join them")
        if not numbers:
            raise DataError(f"{files[split]}: has no categories")
        found[split] = numbers
    (first, expected), *others = found.items()
    for split, numbers in others:
        if numbers != expected:
            differing = sorted(set(numbers.items()) ^ set(expected.items()))[0]
            raise DataError(
                f"{files[split]}: other categories than {files[first].name} ({differing[0]}: {differing[1]!r} is in "
                "one of them alone); give all files the same"
            )
    return expected


def _pictures(
    content: Mapping[str, Any], names: Mapping[int, str], root: Path, file: Path, *, faults: list[str], notes: list[str]
) -> Iterator[Annotated]:
    shown = file.relative_to(root).as_posix()
    images = dict[Any, dict[str, Any]]()
    for row in content["images"]:
        if row["id"] in images:
            faults.append(
                f"{shown}: two images have the id {row['id']}: {images[row['id']]['file_name']} and {row['file_name']}"
            )
        images[row["id"]] = row
    objects: dict[Any, list[Object]] = {number: [] for number in images}
    ids = Counter(row.get("id") for row in content["annotations"])
    if twice := [number for number, count in ids.items() if count > 1 and number is not None]:
        notes.append(
            f"{shown}: ids of annotations that are there more than once, counted as different boxes: {len(twice)} "
            f"({twice[0]}…)"
        )
    for index, row in enumerate(content["annotations"]):
        where = f"annotation {row['id']}" if "id" in row else f"annotations[{index}]"
        if row["image_id"] not in images:
            faults.append(f"{shown}, {where}: image {row['image_id']} is none of its images")
        elif (name := names.get(row.get("category_id"))) is None:
            known = ", ".join(f"{number} {name}" for number, name in list(names.items())[:10])
            faults.append(f"{shown}, {where}: category {row.get('category_id')} is none of its categories ({known})")
        elif (crowd := row.get("iscrowd", 0)) not in (0, 1):
            faults.append(f"{shown}, {where}: iscrowd is {str(crowd)[:40]!r}; expected 0 or 1")
        elif (box := _box(row.get("bbox"))) is None:
            faults.append(
                f"{shown}, {where}: bbox is {repr(row.get('bbox'))[:80]}; expected [left, top, width, height] in pixels"
            )
        else:
            left, top, width, height = box
            area = _number(row.get("area"))
            given = area if area is not None and area > 0 else None  # of none, or less, it would be of no size
            objects[row["image_id"]].append(
                Object(where, name, (left, top, left + width, top + height), bool(crowd), given)
            )
    for number, row in images.items():
        source = _find(str(row["file_name"]), root, file)
        sides = _number(row.get("height")), _number(row.get("width"))
        if not all(side is not None and side > 0 and side == int(side) for side in sides):
            faults.append(
                f"{shown}: image {number} ({row['file_name']}) has the size "
                f"{row.get('width')} × {row.get('height')}; expected pixels"
            )
            continue
        inside = source.relative_to(root) if source.is_relative_to(root) else source
        yield Annotated(source, inside.as_posix(), shown, (int(sides[0] or 0), int(sides[1] or 0)), objects[number])


def _box(box: object) -> tuple[float, float, float, float] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    left, top, width, height = map(_number, box)
    if left is None or top is None or width is None or height is None:
        return None
    return left, top, width, height


def _number(value: object) -> float | None:
    """None of what is none, or not finite."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return float(value) if math.isfinite(value) else None


def _find(file_name: str, root: Path, file: Path) -> Path:
    """Where a picture of `file` lies; where it is nowhere, the place that was looked at first."""
    splits = _splits_named(file.relative_to(root))
    others = [other for other, name in SPLIT_NAMES.items() if name in splits]
    folders = [f"{stem}{year}" for stem in others for year in ("", "2017", "2014")]
    places = [*(root / folder for folder in folders), root, file.parent, *(root / "images" / f for f in ("", *folders))]
    places += [root / "data", root / "images" / "default"]  # as FiftyOne and CVAT lay them
    names = dict.fromkeys((file_name, file_name.replace("\\", "/")))  # written on Windows
    candidates = [place / name for name in names for place in places]
    return next((path for path in candidates if os.path.lexists(path)), candidates[0])
