"""Pictures in the cells of tables: copied once into a file of the cache if they are many, and equal to those in
memory."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import overwrite, pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import wideresnet as wrn
from wideresnet import runtime
from wideresnet.cli import run
from wideresnet.data import Data, cache, decode_all, load, packs, read
from wideresnet.data.listing import Span
from wideresnet.errors import DataError
from wideresnet.preprocess import Preprocess

SIZE_8 = Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (51, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of more than 500 bytes is too large to stay in memory."""
    monkeypatch.setattr(packs, "IN_MEMORY", 500)


def bmp(i: int) -> bytes:
    """246 bytes of picture i: they cannot be compressed, and all pictures are of one length."""
    content = io.BytesIO()
    Image.fromarray(PIXELS[i]).save(content, "BMP")
    return content.getvalue()


def shard(path: Path, numbers: range, *, struct: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": bmp(i), "path": f"{i}.bmp"} if struct else bmp(i) for i in numbers]
    pq.write_table(pa.table({"image": images, "label": ["abc"[i % 3] for i in numbers]}), path, row_group_size=4)
    return path


def one_file(place: Path) -> str:
    return str(shard(place / "set.parquet", range(10)))


def one_file_with_paths(place: Path) -> str:
    return str(shard(place / "set.parquet", range(10), struct=True))


def shards(place: Path) -> str:
    shard(place / "set" / "train-00000-of-00002.parquet", range(6))
    shard(place / "set" / "train-00001-of-00002.parquet", range(6, 9))
    shard(place / "set" / "test-00000-of-00001.parquet", range(9, 13))
    return str(place / "set")


def hugging_face(place: Path) -> str:
    def part(numbers: range) -> Any:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
        rows = {"image": [{"bytes": bmp(i), "path": None} for i in numbers], "label": [i % 2 for i in numbers]}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": part(range(8)), "test": part(range(8, 12))}).save_to_disk(place / "set")
    return f"hf:{place / 'set'}"


FORMS: list[Callable[[Path], str]] = [one_file, one_file_with_paths, shards, hugging_face]


def spans(data: Data) -> list[Span]:
    """The pictures of all splits, which must not be in memory."""
    sources = [source for part in data.splits.values() for source in part.sources]
    assert all(isinstance(source, Span) for source in sources)
    return sources  # type: ignore[return-value]


@pytest.mark.parametrize("form", FORMS)
def test_pictures_in_cells_are_copied_once_and_are_the_same_data_as_in_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, form: Callable[[Path], str]
) -> None:
    source = form(tmp_path)
    small = read(source)
    assert all(isinstance(one, bytes) for part in small.splits.values() for one in part.sources)
    assert not folder.exists(), "no file for few bytes"
    monkeypatch.setattr(packs, "IN_MEMORY", 500)
    lines: list[str] = []
    watch = runtime.Watch(line=lines.append)
    data = read(source, watch=watch)
    (file,) = folder.iterdir()
    assert {span.file for span in spans(data)} == {file}
    assert lines == [f"copying the encoded pictures of {data.place} into {file}, which later runs read"]
    inode = file.stat().st_ino
    again = read(source, watch=watch)
    assert (len(lines), file.stat().st_ino) == (1, inode), "the second start copies nothing"
    for one in (data, again):
        assert (one.name, one.place, one.class_names) == (small.name, small.place, small.class_names)
        parts, expected = decode_all(one, SIZE_8)[0], decode_all(small, SIZE_8)[0]
        assert list(parts) == list(expected)
        for split, part in parts.items():
            assert torch.equal(pixels(part), pixels(expected[split]))
            assert torch.equal(part.labels, expected[split].labels)
            assert part.names == expected[split].names


def test_a_run_on_copied_pictures_is_bitwise_the_run_on_those_in_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_jobs import QUICK, equal_runs

    shard(tmp_path / "s" / "train-0.parquet", range(30))
    shard(tmp_path / "s" / "train-1.parquet", range(30, 42))
    shard(tmp_path / "s" / "val-0.parquet", range(42, 51))
    options: dict[str, Any] = {**QUICK, "epochs": 1, "batch_size": 8}
    wrn.train(tmp_path / "s", out=tmp_path / "memory", cache="memory", **options)
    monkeypatch.setattr(packs, "IN_MEMORY", 500)
    wrn.train(tmp_path / "s", out=tmp_path / "off", cache="off", **options)
    assert {path.suffix for path in folder.iterdir()} == {".encoded", ".survey"}
    assert equal_runs(tmp_path / "memory", tmp_path / "off")


def test_cells_without_a_picture_are_named_alike_copied_or_in_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    (tmp_path / "beside.bmp").write_bytes(bmp(0))
    cells = [
        {"bytes": bmp(1), "path": "1.bmp"},
        None,
        {"bytes": b"", "path": "x"},
        {"bytes": None, "path": "no.bmp"},
        {"bytes": None, "path": "beside.bmp"},
        {"bytes": None, "path": None},
        *({"bytes": bmp(i), "path": None} for i in range(2, 9)),
    ]
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": ["a"] * len(cells)}), tmp_path / "t.parquet")
    small = read(tmp_path / "t.parquet")
    monkeypatch.setattr(packs, "IN_MEMORY", 500)
    for _ in range(2):
        data = read(tmp_path / "t.parquet")
        assert len(list(folder.iterdir())) == 1
        assert data.bad == small.bad
        assert [row.name for row in data.bad] == ["row 2", "row 3", "row 4", "row 6"]
        assert data.splits["all"].names == small.splits["all"].names
        assert data.splits["all"].sources[1] == tmp_path / "beside.bmp"


@pytest.mark.usefixtures("large")
def test_a_table_that_is_another_never_gives_old_pictures(tmp_path: Path, folder: Path) -> None:
    """Even of the same size and date, as copying programs leave it."""
    path = shard(tmp_path / "t.parquet", range(10))
    before = path.stat()
    read(path)
    shard(path, range(20, 30))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert torch.equal(
        pixels(decode_all(read(path), SIZE_8)[0]["all"]), torch.from_numpy(PIXELS[20:30]).permute(0, 3, 1, 2)
    )
    assert len(list(folder.iterdir())) == 2


@pytest.mark.usefixtures("large")
def test_decoded_pictures_are_found_again_though_the_copy_is_made_anew(tmp_path: Path, folder: Path) -> None:
    path = shard(tmp_path / "t.parquet", range(10))
    assert load(read(path), SIZE_8, cache="disk").kept.startswith("cached on disk for the next run")
    copied = next(folder.glob("*.encoded"))
    overwrite(copied, -1, b"7")
    inode = copied.stat().st_ino
    assert load(read(path), SIZE_8, cache="disk").kept.startswith("from the cache")
    assert copied.stat().st_ino != inode


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 3), "damaged or cut short"),
    "cut to nothing": (lambda path: os.truncate(path, 0), "it is cut short"),
    "another byte in a picture": (lambda path: overwrite(path, 1300, b"\xff\x00"), "not those that were written"),
    "another length": (lambda path: overwrite(path, 10 * len(bmp(0)), b"\x07"), "it is damaged"),
    "a picture gone": (lambda path: path.write_bytes(path.read_bytes()[len(bmp(0)) :]), "it is damaged"),
    "another version of the format": (lambda path: overwrite(path, -1, b"7"), "by another version of wideresnet"),
}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_copy_is_made_anew_and_said(tmp_path: Path, folder: Path, what: str) -> None:
    path = shard(tmp_path / "t.parquet", range(10))
    read(path)
    (file,) = folder.iterdir()
    damage, reason = DAMAGE[what]
    damage(file)
    lines: list[str] = []
    data = read(path, watch=runtime.Watch(line=lines.append))
    assert f"note: {file} is made anew: " in lines[0]
    assert reason in lines[0]
    assert torch.equal(pixels(decode_all(data, SIZE_8)[0]["all"]), torch.from_numpy(PIXELS[:10]).permute(0, 3, 1, 2))
    lines.clear()
    read(path, watch=runtime.Watch(line=lines.append))
    assert lines == []


@pytest.mark.usefixtures("large")
def test_damage_that_opening_does_not_see_is_found_in_the_picture_and_nothing_is_kept_of_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_CHECKED_BYTES", 1)  # opening looks at the first picture alone
    path = shard(tmp_path / "t.parquet", range(10))
    read(path)
    (file,) = folder.iterdir()
    overwrite(file, 1300, b"\xff\x00")
    message = rf"row 6: its copy in .* is damaged; remove that by: wrn data cache clear {file.stem}"
    for kept in ("memory", "disk"):
        with pytest.raises(DataError, match=message):
            load(read(path), SIZE_8, cache=kept)
    file.unlink()  # as `clear` does once this process, which reads from it, has ended
    found = load(read(path), SIZE_8, cache="disk").parts["all"]
    assert torch.equal(pixels(found), torch.from_numpy(PIXELS[:10]).permute(0, 3, 1, 2))


@pytest.mark.usefixtures("large")
def test_a_copy_that_another_run_has_made_meanwhile_stays_for_it_reads_that(tmp_path: Path, folder: Path) -> None:
    path, inodes = shard(tmp_path / "t.parquet", range(10)), list[int]()

    def other(line: str) -> None:
        if line.startswith("copying") and not inodes:
            inodes.append(0)
            read(path)
            inodes.append(next(folder.glob("*.encoded")).stat().st_ino)

    spans(read(path, watch=runtime.Watch(line=other)))
    (file,) = folder.iterdir()
    assert file.stat().st_ino == inodes[1]


def test_a_picture_whose_name_ends_like_a_copy_s_is_still_a_picture_that_may_change(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\n0.encoded,a\n1.encoded,b\n")
    for i in range(2):
        (tmp_path / f"{i}.encoded").write_bytes(bmp(i))
    load(read(tmp_path / "t.csv"), SIZE_8, cache="disk")
    (tmp_path / "1.encoded").write_bytes(bmp(7))
    found = load(read(tmp_path / "t.csv"), SIZE_8, cache="disk").parts["all"]
    assert torch.equal(pixels(found)[1], torch.from_numpy(PIXELS[7]).permute(2, 0, 1))


@pytest.mark.usefixtures("large")
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process")
def test_where_the_disk_refuses_pictures_stay_in_memory_or_if_it_is_too_small_the_set_is_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    path, lines = shard(tmp_path / "t.parquet", range(10)), list[str]()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))  # the kernel refuses what goes beyond, as a full disk
    try:
        data = read(path, watch=runtime.Watch(line=lines.append))
        monkeypatch.setattr(runtime, "free_memory_bytes", lambda: 2000)
        with pytest.raises(DataError, match=r"t\.parquet: .* set WRN_CACHE to another folder"):
            read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert data.splits["all"].sources == [bmp(i) for i in range(10)]
    assert lines[1:] == [
        f"note: encoded pictures of {path} cannot be kept on disk (File too large); going on in memory"
    ]
    assert list(folder.iterdir()) == [], "nothing half is left"


@pytest.mark.usefixtures("large")
def test_no_more_than_half_of_the_free_disk_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines = shard(tmp_path / "t.parquet", range(10)), list[str]()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 5000, 4000))
    assert isinstance(read(path, watch=runtime.Watch(line=lines.append)).splits["all"].sources[0], bytes)
    assert "more than half" in lines[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 0, 9000))
    spans(read(path))


READS = """
import sys
from wideresnet.data import packs, read
packs.IN_MEMORY = 500
data = read(sys.argv[1])
print("read", flush=True)
sys.stdin.readline()
print(len(data.splits["all"].sources[7].file.read_bytes()))
"""


def test_what_a_run_reads_is_listed_and_not_cleared_before_it_ends(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard(tmp_path / "t.parquet", range(10))
    command = [sys.executable, "-c", READS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        assert reading.stdout.readline() == "read\n"
        assert run(["data", "cache", "list", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["data"], row["kind"], row["pictures"]) == (str(path), "encoded", 10)
        assert row["num_bytes"] == (folder / f"{row['key']}.encoded").stat().st_size > 10 * len(bmp(0))
        assert run(["data", "cache", "list"]) == 0
        assert "10 (encoded, of a table)" in capsys.readouterr().out
        assert run(["data", "cache", "clear", row["key"][:5]]) == 0
        said = capsys.readouterr()
        assert said.out == "removed: 0 files, 0 bytes\n"
        assert f"left, for a run reads them: {row['key']}" in said.err
        assert reading.communicate("\n")[0] == f"{row['num_bytes']}\n"
    assert run(["data", "cache", "clear"]) == 0
    assert (list(folder.iterdir()), cache.entries()) == ([], [])


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 30))
def test_rows_read_at_once_are_bounded_by_their_bytes(num_bytes: int, num_rows: int) -> None:
    at_once = packs.rows_at_once(num_bytes, num_rows)
    assert 1 <= at_once <= 256
    assert at_once == 1 or at_once * num_bytes <= packs.BATCH_BYTES * num_rows
    assert packs.rows_at_once(0, 0) == 1, "a group of no rows"


LIMITED = """
import resource, sys, datasets, pyarrow.parquet, torch
from wideresnet import data
from wideresnet.data import packs
from wideresnet.preprocess import Preprocess
source, mode, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
if mode == "memory":
    packs.IN_MEMORY = 1 << 40
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + room,) * 2)
listing = data.read(source)
loaded = data.load(listing, Preprocess(size=8, mean=(0.,) * 3, std=(1.,) * 3), cache="off")
print(loaded.kept, "|", [int(part.sum()) for one in loaded.parts.values() for part in one.images.split(32)])
"""
NUM, SIDE = 208, 640  # 256 MB, half as much again as the room, in which all else takes up to 120 MB


def many() -> list[bytes]:
    """Pictures of one colour each, that nothing compresses: BMP, stored plainly."""
    found = []
    for i in range(NUM):
        content = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (i % 250, i // 250, 7)).save(content, "BMP")
        found.append(content.getvalue())
    return found


def as_parquet(place: Path) -> str:
    schema = pa.schema({"image": pa.binary(), "label": pa.string()})
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    for start in (0, NUM // 2):
        with pq.ParquetWriter(place / f"train-{start}.parquet", schema, **options) as writer:
            contents = many()[start : start + NUM // 2]
            writer.write_table(pa.table({"image": contents, "label": ["ab"[i % 2] for i in range(NUM // 2)]}, schema))
    return f"{place}/*.parquet"


def as_arrow(place: Path) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": one, "path": None} for one in many()], "label": [i % 2 for i in range(NUM)]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(place / "set")
    return f"hf:{place / 'set'}"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit that Linux sets")
@pytest.mark.parametrize("form", [as_parquet, as_arrow])
def test_a_set_whose_encoded_pictures_are_larger_than_the_memory_allowed_is_read(
    tmp_path: Path, form: Callable[[Path], str]
) -> None:
    """RLIMIT_DATA: what a process allocates. Row groups of 128 MB, as its writers make them."""
    source = form(tmp_path)
    few_threads = {**os.environ, "OMP_NUM_THREADS": "1"}  # the stack of each counts as memory

    def limited(mode: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, source, mode, str(NUM * SIDE**2 * 2)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=few_threads)

    done = limited("streamed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("decoded anew each time by ")
    sums = [sum(64 * (i % 250 + i // 250 + 7) for i in range(s, min(s + 32, NUM))) for s in range(0, NUM, 32)]
    assert done.stdout.partition(" | ")[2].strip() == str(sums)
    assert limited("memory").returncode != 0, "the limit is none"
