"""`DATA` that is several files of one kind, a folder or a pattern of them → the files in order, and the split of each
by its name."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wideresnet.data.listing import ALL, SPLIT_NAMES
from wideresnet.errors import DataError


def are_files(source: str, endings: tuple[str, ...]) -> bool:
    """A pattern of files with such an ending, in lower case, or a folder that holds them and no class folders."""
    path = Path(source)
    if path.is_dir():
        return bool(_in_folder(path, endings))
    return source.lower().endswith(endings) and _is_pattern(source)


def paths(source: str, endings: tuple[str, ...]) -> list[Path]:
    """The files that `source`, a folder, a pattern or one file, names. Raises DataError if one of them is not there."""
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, endings)
    if not _is_pattern(source):
        return [path]
    found: list[Path] = []
    for one in expand_braces(source):
        part = Path(one)
        if not re.search(r"[*?\[]", one):
            if not part.is_file():
                raise DataError(f"{source}: {part} is not there; expected every shard that the pattern names")
            found.append(part)
            continue
        anchor, rest = (Path(part.anchor), part.relative_to(part.anchor)) if part.is_absolute() else (Path(), part)
        matched = sorted(anchor.glob(str(rest)))
        if not matched:
            raise DataError(f"{source}: matches no file")
        found += matched
    return list(dict.fromkeys(found))


def splits_of(source: str, files: Sequence[Path]) -> list[str]:
    """Of each file its split, or ALL of each. Raises DataError if some name a split and some none."""
    splits = [_split_of(file) for file in files]
    if ALL in splits and len(set(splits)) > 1:
        none = files[splits.index(ALL)]
        some = next(file for file, split in zip(files, splits, strict=True) if split != ALL)
        raise DataError(f"{source}: {some.name} names a split and {none.name} none; name train, val or test in each")
    return splits


def name_and_place(source: str) -> tuple[str, str]:
    """What a run on it is called after, and what finds it again from any folder."""
    path = Path(source)
    name = path.stem if path.is_file() else (path if path.is_dir() else path.parent).resolve().name
    return name or "data", str(path.absolute() if _is_pattern(source) else path.resolve())


def incomplete(files: Sequence[Path]) -> list[str]:
    """A note for each set whose names count its files, "train-00000-of-00002.parquet", if some are not there."""
    counted = (re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\..*", file.name) for file in files)
    sets = Counter((found[1], int(found[2])) for found in counted if found)
    return [f"{name}: {num} of its {total} files are there" for (name, total), num in sets.items() if num < total]


def _split_of(file: Path) -> str:
    """By a word of the file's name, "train-0000.tar"; else by its folder, if that is a split's name and no more."""
    found = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", file.name.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else SPLIT_NAMES.get(file.parent.name.lower(), ALL)


def _is_pattern(source: str) -> bool:
    return bool(re.search(r"[*?\[{]", source)) and not Path(source).exists()


def _in_folder(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Its files of such an ending, and those of folders in it that bear a split's name; none if it has others."""
    try:
        below = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        inner = [path for path in below if path.is_dir()]
        if any(path.name.lower() not in SPLIT_NAMES for path in inner):
            return []
        files = [path for path in below if path.is_file()]
        for one in inner:
            entries = sorted(one.iterdir())
            if any(path.is_dir() for path in entries):
                return []
            files += entries
    except OSError:
        return []  # the reader of folders names it
    return [path for path in files if path.name.lower().endswith(endings)]


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
