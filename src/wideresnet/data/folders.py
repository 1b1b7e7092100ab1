"""A folder of class folders, with or without train/val/test above them → `Data`. Looks at names only."""

import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wideresnet.data.listing import ALL, SPLIT_NAMES, Data, Listing, class_order
from wideresnet.errors import DataError
from wideresnet.images import SUFFIXES

_PICTURES = tuple(SUFFIXES)


def read_folder(root: Path) -> Data:
    """Class names are folder names (NFC, sorted); pictures may lie deeper below. Hidden names, `__MACOSX`, runs, and
    files that are no pictures by their ending are passed over; a class folder without a picture is no class. Raises
    DataError.
    """
    tops, beside = _tops(root)
    found = {split: {folder: list(pictures_below(folder)) for folder in subfolders(top)} for split, top in tops}
    empty = [str(f.relative_to(root)) for classes in found.values() for f, paths in classes.items() if not paths]
    empty += [name for name, holds_some in beside.items() if not holds_some]
    class_names = class_order({f.name for classes in found.values() for f, paths in classes.items() if paths})
    for name in class_names:
        if name.encode(errors="ignore").decode() != name:
            raise DataError(f"{root}: class name {name!r} is not UTF-8; rename the folder")
    if not class_names:
        name = root.resolve().name
        raise DataError(
            f"{root}: no pictures in class folders. Expected {name}/CLASS/picture.jpg, or "
            f"{name}/train/CLASS/picture.jpg; endings read: {' '.join(sorted(SUFFIXES))}{_shards_below(root)}"
        )
    index = {name: label for label, name in enumerate(class_names)}
    listings = {}
    for split, classes in found.items():
        pairs = [(path, index[unicodedata.normalize("NFC", f.name)]) for f, paths in classes.items() for path in paths]
        listings[split] = Listing(
            sources=[path for path, _ in pairs],
            names=tuple(path.relative_to(root).as_posix() for path, _ in pairs),
            labels=np.array([label for _, label in pairs], dtype=np.int64),
        )
    notes = [f"passed over, without a picture: {', '.join(empty)}"] if empty else []
    if others := [name for name, holds_some in beside.items() if holds_some]:
        notes.append(f"passed over, beside the folders of splits: {', '.join(others)}")
    loose = sum(1 for folder in {root, *(top for _, top in tops)} for _ in files_in(folder, _PICTURES))
    if loose:
        notes.append(f"passed over: {loose} pictures in {root.name} that lie in no class folder")
    return Data(root.resolve().name or "data", str(root.resolve()), class_names, listings, tuple(notes))


def _shards_below(root: Path) -> str:
    """What to say of a folder without pictures that holds them in another form, out of place."""
    for path in files_below(root, (".parquet", ".tar")):
        folders = path.relative_to(root).parts[:-1]
        if len(folders) > 1 or (folders and folders[0].lower() not in SPLIT_NAMES):
            return f". {path} is read if it lies in {root} itself or in its train, val or test folder"
    return ""


def _tops(root: Path) -> tuple[list[tuple[str, Path]], dict[str, bool]]:
    """Each folder that holds class folders, with its split; and what lies beside them, with whether it has pictures.

    Splits are folders with a split's name, one of which at least has folders of pictures, if no pictures lie beside
    them or both train and another split have such folders. A folder of pictures is a class, whatever its name. Raises
    DataError where it may be either.
    """
    folders = subfolders(root)
    splits = {folder: split for folder in folders if (split := SPLIT_NAMES.get(folder.name.lower()))}
    beside = {folder.name: has_pictures(folder) for folder in folders if folder not in splits}
    nested = [folder for folder in splits if any(map(has_pictures, subfolders(folder)))]
    others = ", ".join(name for name, holds_some in beside.items() if holds_some)
    kinds = {splits[folder] for folder in nested}
    if not others and not nested and any(map(has_pictures, splits)):
        names = ", ".join(folder.name for folder in splits)
        raise DataError(
            f"{root}: {names} hold pictures and no class folders, so their classes are not known; "
            f"expected {root.resolve().name}/{next(iter(splits)).name}/CLASS/picture.jpg"
        )
    if others and not ("train" in kinds and len(kinds) > 1):
        if nested:
            names = ", ".join(folder.name for folder in nested)
            raise DataError(
                f"{root}: folders of splits beside others: {names} beside {others}. If {names} is a split, move the "
                "others out of this folder; if it is a class, rename it, or put all its pictures directly into it"
            )
        return [(ALL, root)], {}
    if not nested:
        return [(ALL, root)], {}
    if len(set(splits.values())) < len(splits):
        raise DataError(
            f"{root}: two folders for one split ({', '.join(folder.name for folder in splits)}); keep one of each"
        )
    return [(split, folder) for folder, split in splits.items()], beside


def has_pictures(folder: Path) -> bool:
    """Whether a picture lies in or below it. Raises DataError, as all here do, if a folder cannot be listed."""
    return any(True for _ in pictures_below(folder))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Of a folder in order of their names, without hidden ones."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: no folder; decoding it will give the reason
        return False


def _is_run(folder: Path) -> bool:
    """Whether `wrn train` made it: it may hold a picture, and is no class."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"recipe", "fingerprint"} <= config.keys()


def subfolders(folder: Path) -> list[Path]:
    """Without hidden ones and runs."""
    return [path for entry in entries(folder) if _is_folder(entry) and not _is_run(path := Path(entry.path))]


def files_in(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Files directly in `folder`, by their endings, in lower case; links too, broken ones as well: reading names
    those."""
    for entry in entries(folder):
        if folder.name == "runs" and entry.name.endswith("-lr.png"):  # the curve that --find-lr draws
            continue
        if entry.name.lower().endswith(endings) and not _is_folder(entry):
            yield Path(entry.path)


def files_below(
    folder: Path, endings: tuple[str, ...], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Path]:
    """Files in and below `folder`. A link back to a folder on the way down (`above`) is not followed again."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    yield from files_in(folder, endings)
    for below in subfolders(folder):
        yield from files_below(below, endings, above | {here})


def pictures_below(folder: Path) -> Iterator[Path]:
    """Pictures in and below `folder`, by their endings."""
    yield from files_below(folder, _PICTURES)
