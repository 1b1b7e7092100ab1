"""`DATA` that is several files of one kind, a folder or a pattern of them → the files in order, and the split of each
by its name."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wideresnet.data.folders import files_below, files_in, has_pictures, is_hidden, subfolders
from wideresnet.data.listing import ALL, SPLIT_NAMES
from wideresnet.errors import DataError


def are_files(source: str, endings: tuple[str, ...]) -> bool:
    """A pattern of files with such an ending, in lower case, or a folder that holds them and no class folders."""
    if _is_folder(source):
        return bool(_in_folder(Path(source), endings))
    return source.lower().endswith(endings) and _is_pattern(source)


def paths(source: str, endings: tuple[str, ...]) -> list[Path]:
    """The files that `source`, a folder, a pattern or one file, names. Raises DataError if one of them is not there."""
    if _is_folder(source):
        return _in_folder(Path(source), endings)
    if not _is_pattern(source):
        return [Path(source)]
    base, pattern = _base_and_pattern(source)
    found: list[Path] = []
    for one in expand_braces(pattern):
        if not re.search(r"[*?\[]", one):
            if not (base / one).is_file():
                raise DataError(f"{source}: {base / one} is not there; expected every shard that the pattern names")
            found.append(base / one)
            continue
        whole = base / one  # `one` may be absolute
        anchor = Path(whole.anchor) if Path(one).is_absolute() else base
        try:
            found_here = anchor.glob(str(whole.relative_to(anchor)))
            matched = sorted(file for file in found_here if not is_hidden(file.name))
        except ValueError as error:
            raise DataError(f"{source}: not a pattern: {error}") from error
        if not matched:
            raise DataError(f"{source}: matches no file")
        found += matched
    return list(dict.fromkeys(found))


def _base_and_pattern(source: str) -> tuple[Path, str]:
    """The folders that a pattern begins with, whatever signs are in their names, and the rest of it."""
    base, rest = Path(Path(source).anchor), Path(source).parts[len(Path(Path(source).anchor).parts) :]
    while len(rest) > 1 and _is_folder(base / rest[0]):
        base, rest = base / rest[0], rest[1:]
    return base, str(Path(*rest))


def splits_of(source: str, files: Sequence[Path]) -> list[str]:
    """Of each file its split, or ALL of each: by a word of its name, "train-0000.tar"; else by the folder it is in, if
    that is a split's name and `source` does not say it: what is in test/ alone is no test part of anything.

    Raises DataError if some name a split and some none.
    """
    base = Path(source) if _is_folder(source) else _base_and_pattern(source)[0]
    splits = [_split_of(file, base) for file in files]
    if ALL in splits and len(set(splits)) > 1:
        none = files[splits.index(ALL)]
        some = next(file for file, split in zip(files, splits, strict=True) if split != ALL)
        raise DataError(f"{source}: {some.name} names a split and {none.name} none; name train, val or test in each")
    return splits


def name_and_place(source: str) -> tuple[str, str]:
    """What a run on it is called after, and what finds it again from any folder."""
    path = Path(source)
    if _is_pattern(source):
        return _base_and_pattern(source)[0].resolve().name or "data", str(path.absolute())
    return (path.stem if path.is_file() else path.resolve().name) or "data", str(path.resolve())


def incomplete(files: Sequence[Path]) -> list[str]:
    """A note for each set whose names count its files, "train-00000-of-00002.parquet", if some are not there."""
    counted = (re.fullmatch(r"(.*)-\d{5}-of-(\d{5})(?:-[0-9a-f]+)?\..*", file.name) for file in files)
    sets = Counter((found[1], int(found[2])) for found in counted if found)
    return [f"{name}: {num} of its {total} files are there" for (name, total), num in sets.items() if num < total]


def _split_of(file: Path, base: Path) -> str:
    found = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", file.name.lower()) if word in SPLIT_NAMES}
    if len(found) == 1:
        return found.pop()
    return ALL if file.parent == base else SPLIT_NAMES.get(file.parent.name.lower(), ALL)


def _is_folder(source: str | Path) -> bool:
    return os.path.isdir(source)  # noqa: PTH112 - not an error where a list in braces is longer than a name may be


def _is_pattern(source: str) -> bool:
    return bool(re.search(r"[*?\[{]", source)) and not os.path.exists(source)  # noqa: PTH110 - likewise


def _in_folder(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Its files of such an ending, and those of folders in it that bear a split's name; none where other folders hold
    such files, or any hold pictures in folders of their own: those are classes."""
    try:
        inner = subfolders(folder)
        splits = [one for one in inner if one.name.lower() in SPLIT_NAMES]
        others = [one for one in inner if one not in splits] + [below for one in splits for below in subfolders(one)]
        if any(has_pictures(one) or any(files_below(one, endings)) for one in others):
            return []
        return [file for one in (folder, *splits) for file in files_in(one, endings)]
    except DataError:
        return []  # the reader of folders names it


def expand_braces(pattern: str) -> list[str]:
    """ "a-{00..02}.tar" → a-00.tar, a-01.tar, a-02.tar; "{train,val}.tar" → both; as a shell does it."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    first, last, words = found.groups()
    if words is not None:
        choices = words.split(",")
    else:
        step = 1 if int(first) <= int(last) else -1
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + step, step)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + choice + rest for choice in choices for rest in expand_braces(after)]
