"""Tar shards, as webdataset writes them: read at random without unpacking, and named where they are not whole."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import wideresnet as wrn
from wideresnet import runtime
from wideresnet.data import decode_all, read
from wideresnet.data.listing import Span
from wideresnet.data.patterns import expand_braces
from wideresnet.errors import DataError
from wideresnet.preprocess import Preprocess

SIZE_8 = Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def png(i: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS[i]).save(content, "PNG")
    return content.getvalue()


def write(shard: Path, samples: list[dict[str, Any]]) -> Path:
    """As webdataset does: {"__key__": "0001", "png": bytes, "cls": 3}."""
    import webdataset

    shard.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(shard)) as writer:
        for sample in samples:
            writer.write(sample)
    return shard


def numbered(first: int, num: int) -> list[dict[str, Any]]:
    return [{"__key__": f"{i:04d}", "png": png(i), "cls": i % 3} for i in range(first, first + num)]


def test_shards_are_read_at_random_as_the_pictures_that_went_in(tmp_path: Path) -> None:
    write(tmp_path / "s" / "train-0000.tar", numbered(0, 5))
    write(tmp_path / "s" / "train-0001.tar", numbered(5, 5))
    write(tmp_path / "s" / "val-0000.tar", numbered(10, 3))
    listing = read(tmp_path / "s")
    assert (listing.name, listing.class_names) == ("s", ("0", "1", "2"))
    assert listing.splits["train"].names[4:6] == ("train-0000.tar/0004.png", "train-0001.tar/0005.png")
    assert listing.splits["train"].labels.tolist() == [i % 3 for i in range(10)]
    parts, notes = decode_all(listing, SIZE_8)
    assert notes == []
    assert torch.equal(pixels(parts["train"]), torch.from_numpy(PIXELS[:10]).permute(0, 3, 1, 2))
    assert torch.equal(pixels(parts["val"]), torch.from_numpy(PIXELS[10:13]).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("source", "splits"),
    [
        ("train-{0000..0001}.tar", {"train": 4}),
        ("{train,val}-0000.tar", {"train": 2, "val": 2}),
        ("*.tar", {"train": 4, "val": 2}),
        ("train-000[01].tar", {"train": 4}),
        ("val-0000.tar", {"val": 2}),
        (".", {"train": 4, "val": 2}),
    ],
)
def test_a_pattern_a_folder_and_a_single_shard_name_them_and_the_place_finds_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, splits: dict[str, int]
) -> None:
    for name in ("train-0000.tar", "train-0001.tar", "val-0000.tar"):
        write(tmp_path / "s" / name, numbered(0, 2))
    monkeypatch.chdir(tmp_path / "s")
    listing = read(source)
    assert {split: len(one) for split, one in listing.splits.items()} == splits
    monkeypatch.chdir(tmp_path)
    again = read(listing.place)
    assert [one.names for one in again.splits.values()] == [one.names for one in listing.splits.values()]
    assert listing.name == ("val-0000" if source == "val-0000.tar" else "s")


def test_folders_that_bear_a_split_s_name_hold_shards_and_class_folders_beside_an_archive_stay_a_folder(
    tmp_path: Path,
) -> None:
    write(tmp_path / "s" / "train" / "00.tar", numbered(0, 4))
    write(tmp_path / "s" / "validation" / "00.tar", numbered(4, 2))
    assert {k: len(v) for k, v in read(tmp_path / "s").splits.items()} == {"train": 4, "val": 2}
    (tmp_path / "f" / "cat").mkdir(parents=True)
    (tmp_path / "f" / "cat" / "0.png").write_bytes(png(0))
    write(tmp_path / "f" / "all.tar", numbered(0, 4))
    assert read(tmp_path / "f").class_names == ("cat",)


def test_labels_are_numbers_in_their_order_or_names_from_any_of_three_members(tmp_path: Path) -> None:
    numbers = [{"__key__": f"k{n}", "png": png(n % 60), "cls": n} for n in (10, 9, 100)]
    assert read(write(tmp_path / "n.tar", numbers)).class_names == ("9", "10", "100")
    members = {
        "dir/a.txt": b"owl\n",
        "dir/a.png": png(0),
        "b.png": png(1),
        "b.json": json.dumps({"label": "gül", "caption": "x"}).encode(),
        "b.txt": b"a caption",
        "c.mask.png": png(3),
        "c.PNG": png(2),
        "c.cls": b"cat",
    }
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    listing = read(tmp_path / "t.tar")
    assert listing.class_names == ("cat", "gül", "owl")
    assert listing.splits["all"].labels.tolist() == [2, 1, 0]
    assert listing.splits["all"].names[0] == "t.tar/dir/a.png"


@given(st.lists(st.sampled_from(["train", "val-", "{0..2}", "{08..11}", "{a,b,}", "{3..1}", "x"]), max_size=4))
def test_braces_are_expanded_as_the_shell_does(parts: list[str]) -> None:
    import subprocess

    pattern = "p" + "".join(parts)
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == done.stdout.splitlines()


def test_a_shard_cut_anywhere_is_named_before_anything_is_written(tmp_path: Path) -> None:
    """Every length but the whole one: no sample is ever lost in silence."""
    whole = write(tmp_path / "s" / "train-0000.tar", numbered(0, 2)).read_bytes()
    listing = read(tmp_path / "s")
    shard, blocks = tmp_path / "s" / "train-0000.tar", len(whole.rstrip(b"\0")) // 512 + 2
    for length in range(0, blocks * 512 - 512, 128):
        shard.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train-0000\.tar: (cut short|not a tar)"):
            read(tmp_path / "s")
    picture = listing.splits["train"].sources[1]
    assert isinstance(picture, Span)
    shard.write_bytes(whole[: picture.start + picture.length - 7])
    with pytest.raises(wrn.DataError, match=rf"cut short in 0001\.png: 7 of its {picture.length} bytes are missing"):
        wrn.train(tmp_path / "s", out=tmp_path / "r", watch=runtime.QUIET)
    assert not (tmp_path / "r").exists()
    shard.write_bytes(whole)
    assert read(tmp_path / "s").splits["train"].names == listing.splits["train"].names


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"__key__": "a", "png": png(0)}], r"a\.png: no label beside it; expected KEY\.cls"),
        ([{"__key__": "a", "png": png(0), "cls": ""}], r"a\.png: its \.cls is empty"),
        ([{"__key__": "a", "png": png(0), "json": {"x": 1}}], r'a\.png: its \.json has no "label"'),
        ([{"__key__": "a", "png": png(0), "jpg": png(1), "cls": 0}], "two pictures under one key"),
        ([{"__key__": "a", "cls": 0}], "no pictures; expected KEY.jpg beside KEY.cls"),
        (
            [{"__key__": "a", "png": png(0), "cls": 7}, {"__key__": "b", "png": png(1), "txt": "owl"}],
            r"label of .*a\.png is the number 7, that of .*b\.png the name 'owl'",
        ),
    ],
)
def test_a_sample_that_is_not_as_expected_is_named(tmp_path: Path, samples: list[dict[str, Any]], message: str) -> None:
    raw = [
        {key: value.encode() if isinstance(value, str) and key == "cls" else value for key, value in s.items()}
        for s in samples
    ]
    shard = write(tmp_path / "x.tar", raw)
    with pytest.raises(DataError, match=message):
        read(shard)


def test_what_is_no_set_of_shards_is_told_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=r"x\.tar\.gz: compressed.*gunzip"):
        read(tmp_path / "x.tar.gz")
    (tmp_path / "no.tar").write_bytes(b"text" * 999)
    with pytest.raises(DataError, match=r"no\.tar: not a tar"):
        read(tmp_path / "no.tar")
    write(tmp_path / "s-0.tar", numbered(0, 2))
    with pytest.raises(DataError, match=r"s-1\.tar is not there; expected every shard that the pattern names"):
        read(str(tmp_path / "s-{0..2}.tar"))
    with pytest.raises(DataError, match="matches no file"):
        read(str(tmp_path / "q*.tar"))
    write(tmp_path / "m" / "train-0.tar", numbered(0, 2))
    write(tmp_path / "m" / "other-0.tar", numbered(0, 2))
    with pytest.raises(DataError, match=r"train-0\.tar names a split and other-0\.tar none"):
        read(tmp_path / "m")


def test_a_run_on_shards_is_bitwise_the_run_on_the_same_pictures_in_memory(tmp_path: Path) -> None:
    from test_jobs import QUICK, equal_runs

    write(tmp_path / "s" / "train-0.tar", numbered(0, 30))
    write(tmp_path / "s" / "train-1.tar", numbered(30, 12))
    write(tmp_path / "s" / "val-0.tar", numbered(42, 9))
    options: dict[str, Any] = {**QUICK, "epochs": 1, "batch_size": 8, "flip": True, "crop_padding": 2}
    wrn.train(tmp_path / "s", out=tmp_path / "memory", cache="memory", **options)
    wrn.train(tmp_path / "s", out=tmp_path / "off", cache="off", **options)
    assert equal_runs(tmp_path / "memory", tmp_path / "off")
