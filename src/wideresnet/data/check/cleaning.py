"""What a cleaned copy of data leaves out, and why; and the copy: pictures byte for byte in class folders, arrays as
.npz. The data itself is never touched."""

import contextlib
import os
import secrets
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from wideresnet import files, runtime
from wideresnet.data.check import quality
from wideresnet.data.check.duplicates import Duplicates
from wideresnet.data.check.gallery import Gallery, Place
from wideresnet.data.check.looks import Look
from wideresnet.data.folders import is_hidden
from wideresnet.data.listing import ALL, SPLIT_NAMES, Data, encoded
from wideresnet.errors import DataError, ImageError, TrainingStopped, UsageError
from wideresnet.images import SUFFIXES

LEFT_OUT = "left_out.csv"
TABLE = "pictures.csv"  # of data with groups, which folders cannot say
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "PPM": ".ppm"}
_KEPT_FIRST = {"test": 0, "val": 1}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that a cleaned copy does not have, and why."""

    place: Place
    reason: str


def left_out(seen: Gallery, found: Duplicates) -> dict[int, str]:
    """Row → why. What cannot be read; what is blank; of pictures that are the same all but one: that of test before
    val before others, then the largest, then the first. If their labels differ, none that is trained on stays, and none
    at all where those that are judged on differ among themselves. In the same order, what is nearly the same as a
    picture that stays, if its label is the same."""
    out = {row: f"cannot be read: {one}" for row, one in enumerate(seen.each) if isinstance(one, str)}
    out |= dict.fromkeys(quality.blank(seen.looks), "blank")
    for rows in found.exact:
        rest = seen.first_to_keep([row for row in rows if row not in out])
        if len({int(seen.labels[row]) for row in rest}) > 1:
            judged = [row for row in rest if seen.places[row].split in _KEPT_FIRST]
            certain = len({int(seen.labels[row]) for row in judged}) == 1
            for row in rest:
                if row not in judged or not certain:
                    other = next(one for one in rest if seen.labels[one] != seen.labels[row])
                    out[row] = f"the same as {_named(seen, other)}, of another class"
            rest = judged if certain else []
        for row in rest[1:]:
            out[row] = f"the same as {_named(seen, rest[0])}"
    return out | _nearly(seen, found, out)


def _nearly(seen: Gallery, found: Duplicates, out: Mapping[int, str]) -> dict[int, str]:
    """Of what is not in `out`; each is like one that stays, never like one that is left out itself."""
    like = defaultdict[int, list[int]](list)
    for _, both in found.of_near():
        one, other = ([row for row in rows if row not in out] for rows in (both.one, both.other))
        for a, b in product(one, other):  # one each: of exact copies the others are out
            if seen.labels[a] == seen.labels[b]:
                like[a].append(b)
                like[b].append(a)
    kept, gone = set[int](), dict[int, str]()
    for row in seen.first_to_keep(list(like)):
        if stays := [one for one in seen.first_to_keep(like[row]) if one in kept]:
            gone[row] = f"nearly the same as {_named(seen, stays[0])}"
        else:
            kept.add(row)
    return gone


def _named(seen: Gallery, row: int) -> str:
    place = seen.places[row]
    return place.name if place.split in (ALL, *Path(place.name).parts) else f"{place.name} ({place.split})"


def check_out(data: Data, out: Path) -> None:
    """Raises UsageError or DataError, before any work, where the copy could not be written or would touch the data."""
    if _is_of_arrays(data):
        if out.suffix.lower() != ".npz":
            raise UsageError(f"--fix {out}: {data.name} is made of arrays; expected a name that ends in .npz")
        if out.exists():
            raise UsageError(f"--fix {out}: is there already; name a file that is not")
        if _list_beside(out).exists():
            raise UsageError(f"--fix {out}: its list, {_list_beside(out)}, is there already; name a file without one")
    else:
        if out.is_symlink() or out.exists():
            raise UsageError(f"--fix {out}: is there already; name a folder that is not")
        names = [name for name in data.class_names if not _is_folder_name(name)]
        if all(name.lower() in SPLIT_NAMES for name in data.class_names) and ALL in data.splits:
            names = [*data.class_names]
        if names:
            raise DataError(
                f"{data.place}: class {names[0]!r} cannot be the name of a folder, which a cleaned copy has for each "
                "class; rename it in the data"
            )
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--fix {out}: {out.absolute().parent} is not there; make it first")
    place = Path(data.place)
    if place.is_dir() and out.resolve().is_relative_to(place.resolve()):
        raise UsageError(f"--fix {out}: lies in the data itself, where it would be read as a part of it; name another")


def write_copy(
    seen: Gallery, out: Path, without: Mapping[int, str], watch: runtime.Watch = runtime.QUIET
) -> list[LeftOut]:
    """The data without some rows, whole or not at all; → what was left out. Pictures are copied byte for byte.

    Folders OUT/SPLIT/CLASS/NAME, without SPLIT where there is none, and a list `LEFT_OUT` in OUT; data with groups
    has a table too, `TABLE`. Arrays are OUT, in the form they had, without `unrelated`, and the list beside. Raises
    TrainingStopped if the disk refuses, DataError if nothing would be left.
    """
    gone = [LeftOut(seen.places[row], without[row]) for row in sorted(without)]
    gone += [LeftOut(Place(bad.name, "", "", -1), f"cannot be read: {bad.reason}") for bad in seen.data.bad]
    kept = [row for row in range(len(seen)) if row not in without]
    if not kept:
        raise DataError(f"{seen.data.place}: no picture would be left; nothing was written")
    listed = files.csv_text(
        {"name": one.place.name, "split": one.place.split, "class": one.place.class_name, "reason": one.reason}
        for one in gone
    )
    if _is_of_arrays(seen.data):
        beside = _list_beside(out)
        try:
            with _whole(out, folder=False) as new:
                _write_arrays(seen, new, kept)
                files.write_whole(beside, listed)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    else:
        with _whole(out, folder=True) as new:
            _write_folders(seen, new, kept, watch)
            (new / LEFT_OUT).write_text(listed, encoding="utf-8", errors="surrogateescape")
    return gone


def _list_beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}.{LEFT_OUT}")


def unrelated(data: Data) -> list[str]:
    """Arrays of a .npz that have no row for each picture of a split, which a cleaned copy therefore lacks."""
    forms = _forms(data)
    return sorted(key for key in forms if key != "class_names" and _split_of(key, forms[key], data) is None)


def _forms(data: Data) -> dict[str, tuple[int, ...]]:
    """Key → shape of all arrays of the file that the data is, from their headers; none if it is no .npz."""
    if not (_is_of_arrays(data) and Path(data.place).suffix.lower() == ".npz"):
        return {}
    forms = dict[str, tuple[int, ...]]()
    with zipfile.ZipFile(data.place) as archive:
        for name in archive.namelist():
            if not name.endswith(".npy"):
                forms[name] = ()
                continue
            with archive.open(name) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                forms[name.removesuffix(".npy")] = read(file)[0]
    return forms


def _split_of(key: str, shape: tuple[int, ...], data: Data) -> str | None:
    """The split whose pictures have a row each in that array."""
    for split, listing in data.splits.items():
        if (split == ALL or key.startswith(f"{split}_")) and shape[:1] == (len(listing),):
            return split
    return None


def _is_of_arrays(data: Data) -> bool:
    return any(isinstance(listing.sources, np.ndarray) for listing in data.splits.values())


def _is_folder_name(name: str) -> bool:
    """Whether a folder of that name is read as the class of that name."""
    whole = bool(name) and name == name.strip() and not is_hidden(name) and not set(name) & set("/\\\0")
    return whole and len(name.encode(errors="surrogateescape")) <= 200


@contextlib.contextmanager
def _whole(out: Path, *, folder: bool) -> Iterator[Path]:
    """A new place beside `out` that takes its name at the end, or is gone."""
    new = out.absolute().with_name(f".{out.name}.{secrets.token_hex(6)}.tmp")
    try:
        if folder:
            new.mkdir()
        yield new
        new.replace(out)
    except BaseException as error:
        if new.is_dir():
            shutil.rmtree(new, ignore_errors=True)
        else:
            new.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise TrainingStopped(
            f"{out}: cannot be written: {error.strerror or error}; nothing of it is left, and the data is as it was"
        ) from error


def _write_arrays(seen: Gallery, new: Path, kept: Sequence[int]) -> None:
    data, arrays, rows_of = seen.data, dict[str, npt.NDArray[Any]](), {split: list[int]() for split in seen.data.splits}
    for row in kept:
        rows_of[seen.places[row].split].append(seen.places[row].row)
    done, forms, most = {"class_names"}, _forms(data), max(int(seen.labels[row]) for row in kept)
    if not forms or "class_names" in forms or most + 1 < len(data.class_names):  # else they follow from the labels
        arrays["class_names"] = np.array(data.class_names)
    for split, rows in rows_of.items():
        listing, before = data.splits[split], "" if split == ALL else f"{split}_"
        sources = listing.sources
        assert isinstance(sources, np.ndarray)
        if sources.strides[-1] == 0:  # one channel, shown three times
            sources = sources[..., :1] if len(forms.get(f"{before}images", ())) == 4 else sources[..., 0]
        arrays[f"{before}images"], arrays[f"{before}labels"] = sources[rows], listing.labels[rows]
        done.add(f"{before}images")
    if forms:
        with np.load(data.place, allow_pickle=False) as file:
            for key, shape in forms.items():
                of_split = _split_of(key, shape, data)
                if key == "class_names":
                    arrays[key] = file[key]
                elif of_split is not None and key not in done:  # labels too, in the type they had
                    arrays[key] = file[key][rows_of[of_split]]
    with new.open("xb") as written:
        cast(Any, np.savez_compressed)(written, **arrays)
        written.flush()
        os.fsync(written.fileno())


def _write_folders(seen: Gallery, new: Path, kept: Sequence[int], watch: runtime.Watch) -> None:
    taken, table = set[str](), list[dict[str, str]]()
    groups = {split: listing.groups for split, listing in seen.data.splits.items()}
    for done, row in enumerate(kept):
        place, source = seen.places[row], seen.data.splits[seen.places[row].split].sources[seen.places[row].row]
        assert not isinstance(source, np.ndarray)
        folder = Path(place.class_name) if place.split == ALL else Path(place.split, place.class_name)
        name = _free_name(folder, _file_name(place, seen.each[row]), taken)
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            content = encoded(source)
        except ImageError as error:
            raise DataError(f"{place.name}: {error}; it could be read a while ago") from error
        if isinstance(content, Path):
            shutil.copyfile(content, new / name)
        else:
            (new / name).write_bytes(content)
        group = groups[place.split][place.row] if groups[place.split] else ""
        table.append({"image": name.as_posix(), "label": place.class_name, "split": place.split, "group": group})
        watch.progress("copying pictures", done + 1, len(kept), "")
    if any(row["group"] for row in table):
        if any(row["split"] == ALL for row in table):
            table = [{key: value for key, value in row.items() if key != "split"} for row in table]
        (new / TABLE).write_text(files.csv_text(table), encoding="utf-8")


def _file_name(place: Place, one: Look | str) -> str:
    """As it was called, where that says that it is a picture."""
    name = place.name.replace("\\", "/").rpartition("/")[2].replace("\0", "")
    name = "_" + name if is_hidden(name) or not name else name
    if Path(name).suffix.lower() not in SUFFIXES:
        name += _ENDINGS.get(one.format, ".img") if isinstance(one, Look) else ""
    stem, suffix = name[: -len(Path(name).suffix)], Path(name).suffix
    return stem.encode(errors="surrogateescape")[:180].decode(errors="ignore") + suffix if len(name) > 90 else name


def _free_name(folder: Path, name: str, taken: set[str]) -> Path:
    """`name` in `folder`, numbered where another has it; capitals are no difference on some systems."""
    stem, suffix, number = Path(name).stem, Path(name).suffix, 1
    found = folder / name
    while str(found).lower() in taken:
        number += 1
        found = folder / f"{stem}-{number}{suffix}"
    taken.add(str(found).lower())
    return found
