"""Pascal VOC's XML → `Found`: one file a picture, in `Annotations` beside `JPEGImages`, or beside the picture.

Source: Everingham et al. 2012, the development kit's section 4. A box is xmin, ymin, xmax, ymax of the pixels that it
holds, the first being 1; so its left edge is xmin − 1, and its right one xmax. Splits are the folders' names, or the
lists in ImageSets/Main. Difficult objects count as regions that detections may be in or not.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from wideresnet.data.folders import files_below, files_in, pictures_below, subfolders
from wideresnet.data.listing import ALL, SPLITS, class_order
from wideresnet.data.texts import finite, read_text
from wideresnet.detection.annotated import Annotated, Found, Object, split_named
from wideresnet.errors import DataError
from wideresnet.images import SUFFIXES


def read_voc(source: str) -> Found | None:
    """None of what is no folder with `Annotations`, or with .xml files in it or in those of its splits. Raises
    DataError on lists that name what is not there; what is wrong with single files is told of in `faults`."""
    root, faults = Path(source), list[str]()
    found = _files(root, faults) if root.is_dir() else {}
    if not found:
        return None
    splits = {}
    for split, files in found.items():
        read = (_picture(file, root, faults) for file in files)
        splits[split] = [picture for picture in read if picture is not None]
    names = class_order({one.class_name for part in splits.values() for each in part for one in each.objects})
    where, notes = root.resolve(), list[str]()
    described = {each.source for part in splits.values() for each in part}
    pictures = list(pictures_below(root / "JPEGImages")) if (root / "JPEGImages").is_dir() else []
    if without := [picture.name for picture in pictures if picture not in described]:
        notes.append(f"passed over, in no list or without a file of boxes: {len(without)} pictures, as {without[0]}")
    return Found(name=where.name, place=str(where), class_names=names, splits=splits, faults=faults, notes=notes)


def _files(root: Path, faults: list[str]) -> dict[str, list[Path]]:
    """Split → its files."""
    if (root / "Annotations").is_dir():
        named = dict[str, Path]()
        for file in files_below(root / "Annotations", (".xml",)):
            if (other := named.setdefault(file.stem, file)) != file:
                faults.append(f"{file.relative_to(root)}: named as {other.relative_to(root)}; rename one of them")
        lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in (*SPLITS, "trainval")}
        if there := {split: _listed(file, named) for split, file in lists.items() if file.is_file()}:
            both = there.pop("trainval", [])  # train and val again; without a list of train, all of it that is not val
            if both and "train" not in there:
                val = set(there.get("val", ()))
                there["train"] = [file for file in both if file not in val]
            return {split: there[split] for split in SPLITS if split in there}
        return {ALL: list(named.values())} if named else {}
    found = dict[str, list[Path]]()
    for folder in subfolders(root):
        if (split := split_named(folder.name)) and (files := _of_voc(files_below(folder, (".xml",)))):
            found.setdefault(split, []).extend(files)
    if not found and (files := _of_voc(files_in(root, (".xml",)))):
        return {ALL: files}
    return {split: found[split] for split in SPLITS if split in found}


def _of_voc(files: Iterator[Path]) -> list[Path]:
    """Without XML of other programs, which may lie anywhere."""
    kept = []
    for file in files:
        try:
            if file.is_file():
                with file.open("rb") as opened:
                    if b"<annotation" in opened.read(4096).replace(b"\0", b""):
                        kept.append(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    return kept


def _listed(file: Path, files: dict[str, Path]) -> list[Path]:
    """A line is a picture's name, maybe with its ending, a path before it, or a class's mark after it."""
    found, missing = list[Path](), list[str]()
    for line in filter(None, map(str.strip, read_text(file).splitlines())):
        tried = (line, Path(line).stem, line.split()[0], Path(line.split()[0]).stem)
        if name := next((name for name in tried if name in files), None):
            found.append(files[name])
        else:
            missing.append(line)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{file}: {missing[0]}{more} is not in Annotations; remove the line")
    return found


def _picture(file: Path, root: Path, faults: list[str]) -> Annotated | None:
    shown = file.relative_to(root).as_posix()
    try:
        if not file.is_file():  # a pipe would block
            raise ValueError("no file")
        content = file.read_bytes()
        # Entities may unpack to gigabytes or name other files; VOC has none.
        if b"<!ENTITY" in content.replace(b"\0", b""):  # UTF-16 too
            raise ElementTree.ParseError("declares entities")
        tree = ElementTree.fromstring(content)
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        faults.append(f"{shown}: not XML: {error}")
        return None
    sides = [finite(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    if not all(side is not None and side >= 1 for side in sides):
        faults.append(
            f"{shown}: its size is {tree.findtext('size/width')} × {tree.findtext('size/height')}; expected pixels"
        )
        return None
    source = _find(tree.findtext("filename"), file, root)
    name = source.relative_to(root).as_posix() if source.is_relative_to(root) else str(source)
    height, width = (int(side or 0) for side in sides)
    return Annotated(source, name, shown, (height, width), list(_objects(tree, shown, faults)))


def _objects(tree: ElementTree.Element, shown: str, faults: list[str]) -> Iterator[Object]:
    for number, each in enumerate(tree.iter("object"), 1):
        where, name = f"object {number}", unicodedata.normalize("NFC", (each.findtext("name") or "").strip())
        texts = [each.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        values = [finite(text) for text in texts]
        if not name:
            faults.append(f"{shown}, {where}: has no name")
        elif any(value is None for value in values):
            faults.append(f"{shown}, {where}: its box is {texts}; expected xmin, ymin, xmax, ymax in pixels")
        else:
            left, top, right, bottom = (value or 0.0 for value in values)
            difficult = (each.findtext("difficult") or "0").strip() == "1"
            yield Object(where, name, (left - 1, top - 1, right, bottom), difficult)


def _find(filename: str | None, file: Path, root: Path) -> Path:
    """Where a picture lies; where it is nowhere, the place that was looked at first."""
    folders: Sequence[Path] = [root / "JPEGImages", file.parent, root / "images", root]
    given = [folder / filename.strip() for folder in folders] if filename and filename.strip() else []
    named = [folder / (file.stem + ending) for folder in folders for ending in sorted(SUFFIXES)]
    return next((path for path in (*given, *named) if os.path.lexists(path)), (*given, named[0])[0])
