"""Decoded pictures on disk: read by the next run, never old, never half, no reason to stop when the disk refuses."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import overwrite, pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import wideresnet as wrn
from wideresnet import data, runtime
from wideresnet.data import Data, Loaded, cache, choose, decode_all, read
from wideresnet.data.decoding import Survey
from wideresnet.data.listing import Listing
from wideresnet.data.streams import Mapped, Stream
from wideresnet.errors import UsageError
from wideresnet.preprocess import Preprocess

SIZE_8 = Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures in two classes and two splits, of one size in bytes (BMP), all different."""
    random = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "photos" / ("train" if i < 8 else "val") / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def load(where: Path | str, prepare: Preprocess = SIZE_8, **options: Any) -> tuple[Loaded, list[str]]:
    """What `data.load` gives with the cache on disk, and what it said."""
    lines: list[str] = []
    listing = read(where)
    loaded = data.load(listing, prepare, **{"cache": "disk", **options}, watch=runtime.Watch(line=lines.append))
    expected, _ = decode_all(listing, prepare, max_bad=None)
    for split, pictures in expected.items():
        assert torch.equal(pixels(loaded.parts[split]), pixels(pictures)), f"old or wrong pixels in {split}"
        assert loaded.parts[split].digests == pictures.digests
        assert loaded.parts[split].names == pictures.names
        if len(pictures):
            assert loaded.parts[split].statistics() == pictures.statistics()
    return loaded, lines


def kept(where: Path) -> dict[str, int]:
    """Files of the cache and their inode: another one if it was made anew."""
    return {path.name: path.stat().st_ino for path in where.iterdir()} if where.exists() else {}


def test_a_second_start_reads_what_the_first_has_decoded(photos: Path, folder: Path) -> None:
    assert load(photos)[0].kept == "cached on disk for the next run (0.0 MB)"
    before = kept(folder)
    assert len(before) == 2, "a file for each split"
    loaded, lines = load(photos)
    assert loaded.kept == "from the cache (0.0 MB)"
    assert (lines, kept(folder)) == ([], before)
    images = loaded.parts["train"].images
    assert isinstance(images, Stream)
    assert isinstance(images.base, Mapped)
    assert [file.flags.writeable for file in images.base.files] == [False]


@pytest.mark.parametrize("cache_mode", ["disk", "off"])
def test_a_second_start_decodes_nothing(photos: Path, cache_mode: str) -> None:
    lines: list[str] = []
    options: Any = {"cache": cache_mode, "watch": runtime.Watch(progress=lambda what, *_: lines.append(what))}
    data.load(read(photos), SIZE_8, **options)
    assert set(lines) == {"reading train pictures", "reading val pictures"}
    lines.clear()
    data.load(read(photos), SIZE_8, **options)
    assert lines == []


def same_date(path: Path, change: Callable[[], object]) -> None:
    """Does `change`, then sets the file's dates back, as copying programs do."""
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def invert(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:54] + bytes(255 - value for value in content[54:]))


def swap(a: Path, b: Path) -> None:
    between = a.with_suffix(".moved")
    a.rename(between)
    b.rename(a)
    between.rename(b)


def replace(path: Path, other: Path) -> None:
    content = other.read_bytes()
    same_date(path, lambda: path.write_bytes(content))


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda root: invert(root / "train/a/0.bmp"),
    "changed under the old date": lambda root: same_date(
        root / "train/a/0.bmp", lambda: invert(root / "train/a/0.bmp")
    ),
    "replaced by another of the same size and date": lambda root: replace(root / "train/a/0.bmp", root / "val/a/8.bmp"),
    "added": lambda root: shutil.copy(root / "val/a/8.bmp", root / "train/b/new.bmp"),
    "removed": lambda root: (root / "train/a/0.bmp").unlink(),
    "renamed": lambda root: (root / "train/a/0.bmp").rename(root / "train/a/z.bmp"),
    "exchanged": lambda root: swap(root / "train/a/0.bmp", root / "train/a/2.bmp"),
    "moved to another class": lambda root: (root / "train/a/0.bmp").rename(root / "train/b/0.bmp"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_picture_that_is_otherwise_never_gives_old_pixels(photos: Path, what: str) -> None:
    load(photos)
    CHANGES[what](photos)
    load(photos)


@pytest.mark.parametrize(
    "prepare",
    [
        Preprocess(size=7, mean=(0.0,) * 3, std=(1.0,) * 3),
        Preprocess(size=8, mean=(0.0,), std=(1.0,)),
        Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3, fit="squash"),
        Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3, fit="pad"),
        Preprocess(size=8, mean=(0.5,) * 3, std=(1.0,) * 3, fit="pad"),
    ],
)
def test_other_preprocessing_is_another_file_and_a_mean_that_no_pixel_follows_from_is_not(
    photos: Path, folder: Path, prepare: Preprocess
) -> None:
    load(photos)
    load(photos, Preprocess(size=8, mean=(0.4,) * 3, std=(0.2,) * 3))
    before = kept(folder)
    assert len(before) == 2
    load(photos, prepare)
    assert len(kept(folder)) == 4
    assert kept(folder).items() >= before.items()


@given(st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=9)), min_size=1, max_size=6), st.data())
def test_the_key_of_bytes_follows_from_names_and_contents_in_order(
    rows: list[tuple[str, bytes]], drawn: st.DataObject
) -> None:
    def key(rows: list[tuple[str, bytes]]) -> str:
        names, sources = tuple(name for name, _ in rows), [content for _, content in rows]
        return cache.key_of(Listing(sources, names, np.zeros(len(rows), np.int64)), SIZE_8)

    other = drawn.draw(st.permutations(rows))
    assert (key(rows) == key(list(other))) == (rows == other)
    assert key(rows) != key([*rows, ("", b"")])


def files(where: Path) -> list[Path]:
    return sorted(where.glob("*.pixels"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 3), "damaged or cut short"),
    "cut to nothing": (lambda path: os.truncate(path, 0), "it is cut short"),
    "zeros in its pixels": (lambda path: overwrite(path, 0, bytes(500)), "its pixels are not those that were written"),
    "another digest": (lambda path: overwrite(path, 8 * 8 * 3 * 8, b"\xff\xfe"), "it is damaged"),
    "a header that is none": (lambda path: overwrite(path, -60, b"}"), "it is damaged"),
    "bytes in the middle gone": (
        lambda path: path.write_bytes(path.read_bytes()[:99] + path.read_bytes()[199:]),
        "it is damaged",
    ),
    "another version of the format": (lambda path: overwrite(path, -1, b"7"), "by another version of wideresnet"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_made_anew_and_said_in_one_line(photos: Path, folder: Path, what: str) -> None:
    load(photos)
    damage, reason = DAMAGE[what]
    train = next(path for path in files(folder) if path.stat().st_size > 1700)
    before = kept(folder)
    damage(train)
    lines = load(photos)[1]
    assert len(lines) == 1
    assert "is made anew" in lines[0]
    assert reason in lines[0], lines
    assert kept(folder)[train.name] != before[train.name]
    assert load(photos)[1] == []


@pytest.mark.parametrize("row", [1, 7])
def test_damage_that_opening_does_not_look_at_is_found_when_the_picture_is_read_and_told_what_to_do(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    load(photos)
    monkeypatch.setattr(cache, "_CHECKED_BYTES", 300)  # as of a large file: one picture in five is looked at
    train = next(path for path in files(folder) if path.stat().st_size > 1700)
    with train.open("r+b") as file:
        file.seek(row * 192 + 100)
        byte = file.read(1)
        overwrite(train, row * 192 + 100, bytes([byte[0] ^ 1]))
    loaded = data.load(read(photos), SIZE_8, cache="disk")
    assert loaded.kept.startswith("from the cache")
    images = loaded.parts["train"].images
    both = data.streams.chained([stream for part in loaded.parts.values() if isinstance(stream := part.images, Stream)])
    for stream in (images, both):
        stream[torch.tensor([0, 2, 3])]  # what is whole is read
        for _ in range(2):
            with pytest.raises(wrn.TrainingStopped, match=f"picture {row} of .*: wrn data cache clear {train.stem}$"):
                stream[torch.tensor([3, row])]
    cache.clear([train.stem])
    load(photos)


def test_a_file_made_under_other_versions_is_made_anew_naming_them(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_under = {**cache.versions(), "Pillow": "1.7"}
    with monkeypatch.context() as patch:
        patch.setattr(cache, "versions", lambda: made_under)
        load(photos)
    lines = load(photos)[1]
    assert len(lines) == 2
    assert all("another version (Pillow 1.7 → " in line for line in lines)
    assert load(photos)[1] == []


def test_unreadable_pictures_are_remembered_with_their_reason_until_they_can_be_read(photos: Path) -> None:
    good = (photos / "val/a/8.bmp").read_bytes()
    bad = photos / "train/a/0.bmp"
    bad.write_bytes(b"<html></html>")
    notes = load(photos, max_bad=None)[0].notes
    again, lines = load(photos, max_bad=None)
    assert again.notes == notes
    assert "train/a/0.bmp: an HTML page" in notes[0]
    assert (lines, len(again.parts["train"])) == ([], 7)
    with pytest.raises(wrn.DataError, match="1 of 12 pictures cannot be read"):
        load(photos)
    bad.write_bytes(good)
    assert len(load(photos)[0].parts["train"]) == 8


def test_a_disk_that_failed_once_is_asked_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wideresnet.data import decoding

    def failing(source: Any, max_pixels: int) -> Any:
        if "0.bmp" in str(source):
            raise wrn.ImageError("Input/output error")
        return upright(source, max_pixels)

    upright = decoding.upright
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "upright", failing)
        patch.setattr(cache, "upright", failing)
        data.load(read(photos), SIZE_8, cache="disk", max_bad=None)
    loaded, lines = load(photos)
    assert len(loaded.parts["train"]) == 8
    assert "could not be read then, and can be now" in lines[0]


# When the disk refuses


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process")
@pytest.mark.parametrize("room", [0, 1000, 1700])
@pytest.mark.parametrize("cache_mode", ["disk", "off"])
def test_a_full_disk_is_said_in_one_line_and_the_work_goes_on_without_a_file(
    photos: Path, folder: Path, room: int, cache_mode: str
) -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))  # the kernel refuses what goes beyond, as a full disk
    try:
        loaded, lines = load(photos, cache=cache_mode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(lines) == (1 if cache_mode == "disk" else 2 - len(kept(folder)))
    assert all("cannot be kept on disk (File too large)" in line for line in lines)
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"], "nothing half is left"
    assert loaded.kept.startswith("in memory" if cache_mode == "disk" else "decoded anew")


def test_a_cache_folder_that_cannot_be_made_is_no_reason_to_stop(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "file" / "below"))
    loaded, lines = load(photos)
    assert loaded.kept.startswith("in memory")
    assert len(lines) == 1
    assert "cannot be kept on disk (" in lines[0]
    assert "Not a directory; set WRN_CACHE); going on in memory" in lines[0]


def test_two_runs_that_build_at_once_leave_one_whole_file(photos: Path, folder: Path) -> None:
    """The second begins while the first is half-way, and ends before it."""
    listing = read(photos).splits["train"]
    key = cache.key_of(listing, SIZE_8)
    whole = torch.arange(8 * 3 * 64).reshape(8, 3, 8, 8).to(torch.uint8)
    empty = Survey((b"x" * 16,) * 8, data.decoding.sums_of(whole), {})
    path = cache.path_of(key, cache.PIXELS)

    def second(keep: Callable[[torch.Tensor], None]) -> Survey:
        keep(whole)
        return empty

    def first(keep: Callable[[torch.Tensor], None]) -> Survey:
        keep(whole[:4])
        cache.write(path, key, "photos", SIZE_8, second)
        assert np.array_equal(cache.read(path, key, listing, SIZE_8)[1], whole.numpy())
        keep(whole[4:])
        return empty

    cache.write(path, key, "photos", SIZE_8, first)
    assert np.array_equal(cache.read(path, key, listing, SIZE_8)[1], whole.numpy())
    assert list(kept(folder)) == [path.name]


def test_a_killed_build_leaves_what_the_next_one_removes_and_no_one_reads(photos: Path, folder: Path) -> None:
    probe = f"""
import os, signal
from wideresnet import data, runtime
from wideresnet.data import decoding
from wideresnet.preprocess import Preprocess
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
decoding.CHUNK = 2
data.load(data.read({str(photos)!r}), Preprocess(size=200, mean=(0.,) * 3, std=(1.,) * 3), cache="disk",
          watch=runtime.Watch(progress=lambda what, done, *_: kill() if done >= 6 else None))
"""
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == -9
    left = list(kept(folder))
    assert [name[-4:] for name in left] == [".tmp"]
    load(photos)
    assert len(kept(folder)) == 2
    assert left[0] not in kept(folder)


# What is chosen if nobody says


GB = 10**9


@pytest.mark.parametrize(
    ("num", "num_bytes", "encoded", "memory", "disk", "expected"),
    [
        (10**6, 12 * GB, False, 1 * GB, 999 * GB, "memory"),  # arrays are there already
        (1000, 1 * GB, True, 10 * GB, 999 * GB, "memory"),  # few
        (1000, 5 * GB, True, 10 * GB, 999 * GB, "disk"),  # few, but too large
        (1001, 1 * GB, True, 10 * GB, 2 * GB, "disk"),
        (1001, 1 * GB, True, 10 * GB, 2 * GB - 1, "memory"),
        (10**6, 12 * GB, True, 10 * GB, 24 * GB, "disk"),  # more than memory: mapped
        (10**6, 12 * GB, True, 30 * GB, 0, "memory"),
        (10**6, 12 * GB, True, 30 * GB - 1, 23 * GB, "off"),
        (1, 12 * GB, True, 0, 0, "off"),
    ],
)
def test_where_pictures_are_kept_follows_from_their_size_and_what_is_free(
    num: int, num_bytes: int, encoded: bool, memory: int, disk: int, expected: str
) -> None:
    assert choose(num, num_bytes, encoded=encoded, memory=memory, disk=disk) == expected


@given(st.integers(1, 10**7), st.integers(1, 10**13), st.booleans(), st.integers(0, 10**12), st.integers(0, 10**13))
def test_what_is_chosen_fits_where_it_goes(num: int, num_bytes: int, encoded: bool, memory: int, disk: int) -> None:
    chosen = choose(num, num_bytes, encoded=encoded, memory=memory, disk=disk)
    assert chosen != "memory" or not encoded or num_bytes <= memory / 2
    assert chosen != "disk" or num_bytes <= disk / 2


def test_auto_keeps_few_pictures_and_arrays_in_memory_and_many_on_disk(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(photos, cache="auto")[0].kept.startswith("in memory")
    assert load("digits", cache="auto")[0].kept == "in memory (0.3 MB)"
    assert kept(folder) == {}
    monkeypatch.setattr(data.loading, "FEW", 11)
    assert load(photos, cache="auto")[0].kept.startswith("cached on disk")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    assert load(photos, cache="auto")[0].kept.startswith("from the cache"), "what is there needs no room"
    cache.clear()
    assert load(photos, cache="auto")[0].kept.startswith("in memory")
    monkeypatch.setattr(runtime, "free_memory_bytes", lambda: 0)
    listing: Data = read(photos)
    assert data.load(listing, SIZE_8).kept.startswith("decoded anew each time by ")


@pytest.mark.parametrize("cache_mode", ["disk", "off"])
def test_arrays_can_be_kept_or_streamed_too_when_asked(cache_mode: str) -> None:
    first, _ = load("digits", cache=cache_mode)
    again, _ = load("digits", cache=cache_mode)
    assert again.parts["all"].digests == first.parts["all"].digests


def test_a_word_that_is_none_of_the_four_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--cache disc; did you mean 'disk'\?"):
        load("digits", cache="disc")


LIMITED = """
import resource, sys, torch
from wideresnet import data, runtime
from wideresnet.errors import DataError
from wideresnet.preprocess import Preprocess
size, folder = int(sys.argv[2]), sys.argv[1]
prepare = Preprocess(size=size, mean=(0.,) * 3, std=(1.,) * 3)
listing = data.read(folder)
whole = sum(map(len, listing.splits.values())) * 3 * size**2
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + int(whole * 0.8),) * 2)
try:
    data.load(listing, prepare, cache="memory")
except DataError as error:
    print(error)
for cache in ("disk", "off", "auto"):
    loaded = data.load(listing, prepare, cache=cache)
    images = loaded.parts["all"].images
    print(loaded.kept, "|", sum(int(part.numpy().sum()) for part in images.split(16)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit that Linux sets")
def test_a_set_larger_than_the_memory_allowed_is_refused_in_memory_and_read_from_disk_and_as_a_stream(
    tmp_path: Path,
) -> None:
    """RLIMIT_DATA: what a process allocates; the address space that torch maps, and mapped files, are not memory."""
    total = 0
    for i in range(1600):  # 491.5 MB, so that what torch takes beside (about 160 MB) fits well below the limit
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i % 250, i // 250, 0)).save(path)
        total += (i % 250 + i // 250) * 320**2
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "set"), "320"]
    few_threads = {**os.environ, "OMP_NUM_THREADS": "2"}  # the stack of each counts as memory: 8 MB for each core
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=few_threads)
    assert done.returncode == 0, done.stderr
    refused, disk, off, auto = done.stdout.splitlines()
    assert "1,600 pictures of 320×320 take 0.5 GB" in refused
    assert "--cache disk or off" in refused
    assert disk == f"cached on disk for the next run (491.5 MB) | {total}"
    assert off == f"decoded anew each time by {data.workers.NUM_WORKERS} processes (491.5 MB) | {total}"
    assert auto == f"from the cache (491.5 MB) | {total}"


# The list


def test_what_is_kept_is_listed_and_cleared_by_its_key_or_as_a_whole(photos: Path, folder: Path) -> None:
    assert cache.entries() == []
    load(photos)
    time.sleep(0.01)
    load(photos, cache="off", prepare=Preprocess(size=9, mean=(0.0,) * 3, std=(1.0,) * 3))
    found = cache.entries()
    assert {entry.data for entry in found} == {str(photos)}
    assert sorted((e.size, e.pictures, e.kind) for e in found) == [
        (8, 4, "pixels"),
        (8, 8, "pixels"),
        (9, 4, "survey"),
        (9, 8, "survey"),
    ]
    assert all(e.num_bytes == (folder / f"{e.key}.{e.kind}").stat().st_size for e in found)
    overwrite(files(folder)[0], -1, b"7")
    assert sum("another version of wideresnet" in e.note for e in cache.entries()) == 1
    with pytest.raises(UsageError, match="beef: no key of the cache"):
        cache.clear([found[0].key, "beef"])
    assert len(cache.entries()) == 4, "nothing is removed before all keys are known"
    assert cache.clear([found[0].key[:9]]) == (1, found[0].num_bytes)
    (folder / ".x.tmp").write_bytes(b"left by a killed build")
    num_files, num_bytes = cache.clear()
    assert (num_files, num_bytes) == (3, sum(e.num_bytes for e in found[1:]) + 22)
    assert kept(folder) == {}


def test_clearing_does_not_disturb_a_run_that_reads(photos: Path) -> None:
    loaded, _ = load(photos)
    before = pixels(loaded.parts["train"])
    cache.clear()
    assert torch.equal(pixels(loaded.parts["train"]), before)


@pytest.mark.parametrize("cache_mode", ["disk", "off"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_split_without_pictures_is_kept_and_streamed_as_any_other(cache_mode: str, channels: int) -> None:
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    full, empty = ((array[:n], tuple(map(str, range(n))), np.zeros(n, np.int64)) for n in (3, 0))
    listing = Data("x", "x", ("a",), {"train": Listing(*full), "val": Listing(*empty)})
    prepare = Preprocess(size=8, mean=(0.0,) * channels, std=(1.0,) * channels)
    options: Any = {"cache": cache_mode}
    for _ in range(2):
        parts = data.load(listing, prepare, **options).parts
        assert {split: len(part) for split, part in parts.items()} == {"train": 3, "val": 0}
        assert torch.equal(pixels(parts["train"]), pixels(decode_all(listing, prepare)[0]["train"]))
