"""`DATA` means one thing: what is read, what is passed over, how it is split, what is refused and how."""

import dataclasses
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wideresnet import data
from wideresnet.data import Pictures, decode, decode_all, divide, fingerprint, keep_labels, read, shorter_side, twins
from wideresnet.data.listing import Listing, Span
from wideresnet.errors import DataError
from wideresnet.preprocess import Preprocess

RAW = Preprocess(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def picture(path: Path, colour: int, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour % 256, colour // 256, 40)).save(path)
    return path


def folder(root: Path, counts: dict[str, int]) -> Path:
    """{"train/cat": 3} → three different pictures in that folder."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture(root / name / f"{i}.png", 1000 * number + i)
    return root


def pictures(labels: list[int], digests: list[bytes] | None = None) -> Pictures:
    num = len(labels)
    names = tuple(f"p{i}" for i in range(num))
    images = torch.zeros(num, 3, 1, 1, dtype=torch.uint8)
    return Pictures(images, torch.tensor(labels), names, tuple(digests or [n.encode() for n in names]))


# What is read


def test_class_folders_are_classes_in_order_and_deeper_pictures_belong_to_them(tmp_path: Path) -> None:
    folder(tmp_path, {"dog": 2, "Cat": 1, "dog/puppies/small": 1})
    listing = read(tmp_path)
    assert listing.class_names == ("Cat", "dog")
    assert listing.splits["all"].names == ("Cat/0.png", "dog/0.png", "dog/1.png", "dog/puppies/small/0.png")
    assert listing.splits["all"].labels.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid"), ("training", "validation", "testing")])
def test_split_folders_are_splits_however_they_are_spelt(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder(tmp_path, {f"{name}/{label}": 2 for name in names for label in ("a", "b")})
    assert list(read(tmp_path).splits) in (["train", "val"], ["test", "train", "val"])


def test_folders_called_train_among_others_are_classes(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "bus": 2})
    assert read(tmp_path).class_names == ("bus", "train")


def test_what_lies_beside_train_and_val_is_passed_over_and_said(tmp_path: Path) -> None:
    folder(tmp_path, {f"{name}/{label}": 2 for name in ("train", "val") for label in ("a", "b")})
    folder(tmp_path, {"raw": 3, "train": 1})
    (tmp_path / "notes").mkdir()
    listing = read(tmp_path)
    assert (list(listing.splits), listing.class_names) == (["train", "val"], ("a", "b"))
    assert [len(part) for part in listing.splits.values()] == [4, 4]
    assert listing.notes == (
        "passed over, without a picture: notes",
        "passed over, beside the folders of splits: raw",
        f"passed over: 1 pictures in {tmp_path.name} that lie in no class folder",
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_beside_other_folders_may_be_a_class_and_is_asked_about(tmp_path: Path, split: str) -> None:
    folder(tmp_path, {f"{split}/a": 2, f"{split}/b": 2, "bus": 2})
    message = f"{split} beside bus.*if it is a class, rename it, or put all its pictures directly"
    with pytest.raises(DataError, match=message):
        read(tmp_path)
    folder(tmp_path, {split: 1})  # a stray one decides nothing
    with pytest.raises(DataError, match=message):
        read(tmp_path)
    folder(tmp_path / "plain", {split: 2, "bus": 2})  # the vehicle
    assert read(tmp_path / "plain").class_names == tuple(sorted(("bus", split)))


def test_pictures_in_splits_without_class_folders_have_no_class(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "test": 2})
    with pytest.raises(DataError, match=r"test, train hold pictures and no class folders.*/test/CLASS/picture\.jpg"):
        read(tmp_path)


@pytest.mark.parametrize("classes", [("a", "b"), ("train/a", "train/b", "val/a")])
def test_runs_made_inside_a_data_folder_are_no_class(tmp_path: Path, classes: tuple[str, ...]) -> None:
    folder(tmp_path, dict.fromkeys(classes, 2) | {"runs/shapes-1": 1, f"{classes[0]}/runs/shapes-1": 1})
    picture(tmp_path / "runs" / "shapes-lr.png", 9)  # as --find-lr leaves it
    for run in tmp_path.rglob("shapes-1"):
        (run / "config.json").write_text(json.dumps({"recipe": {}, "fingerprint": "", "size": 8}))
    listing = read(tmp_path)
    assert listing.class_names == ("a", "b")
    assert sum(map(len, listing.splits.values())) == 2 * len(classes)
    assert listing.notes == ("passed over, without a picture: runs",)
    folder(tmp_path, {"runs/marathon": 2})  # a class, for it has pictures that no run made
    assert ("runs" in read(tmp_path).class_names) == (len(classes) == 2)


def test_a_class_name_is_the_same_class_composed_or_decomposed(tmp_path: Path) -> None:
    folder(tmp_path, {"train/gül": 2, "train/lale": 2, "val/gül": 1})  # val's u has a separate diaeresis
    listing = read(tmp_path)
    assert listing.class_names == ("gül", "lale")
    assert listing.splits["val"].labels.tolist() == [0]


def test_hidden_files_system_folders_other_files_and_empty_classes_are_passed_over_and_said(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 1, "b": 1, ".ipynb_checkpoints": 1, "__MACOSX": 1})
    for name in ("a/.DS_Store", "a/._0.png", "a/notes.txt", "a/drawing.svg", "desktop.ini"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "folder.jpg").mkdir()
    picture(tmp_path / "loose.png", 3)
    listing = read(tmp_path)
    assert listing.class_names == ("a", "b")
    assert listing.splits["all"].names == ("a/0.png", "b/0.png")
    assert listing.notes == (
        "passed over, without a picture: empty",
        f"passed over: 1 pictures in {tmp_path.name} that lie in no class folder",
    )


def test_a_link_is_followed_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    folder(tmp_path / "real", {"x": 2})
    folder(tmp_path / "set", {"b": 1})
    (tmp_path / "set" / "a").symlink_to(tmp_path / "real" / "x")
    (tmp_path / "set" / "b" / "loop").symlink_to(".")
    assert read(tmp_path / "set").splits["all"].names == ("a/0.png", "a/1.png", "b/0.png")


def test_the_digits_are_embedded() -> None:
    listing = read("digits")
    assert (len(listing.splits["all"]), listing.class_names) == (1797, tuple("0123456789"))
    assert shorter_side(listing.splits.values()) == 8


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((2, 4, 4, 3), np.uint8)}, "train_labels is missing beside train_images"),
        ({"images": np.zeros((2, 4, 4, 3)), "labels": np.zeros(2, int)}, r"float64 \[2, 4, 4, 3\]; expected uint8"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8), "labels": np.zeros(2, int)}, r"transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((2, 4), np.uint8), "labels": np.zeros(2, int)}, r"expected \[N, H, W, 3\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "2 images, but 3 labels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, -1])}, r"labels\[1\] is -1"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0.5, 1])}, "float64.*expected integers"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, 2]), "class_names": np.array(["a", "b"])},
            "label 1 is 2, but class_names has 2 names",
        ),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, 3 * 10**8])},
            r"the largest label is 300000000 \(all label 1\)",
        ),
        (
            {
                "images": np.zeros((3, 4, 4), np.uint8),
                "labels": np.array([0, 1, 2**64 - 1], np.uint64),
                "class_names": np.array(["a", "b"]),
            },
            r"labels\[2\] is 18446744073709551615; expected labels counted from 0",
        ),
        ({"x": np.zeros(2)}, r"keys \['x'\]; expected train_images"),
        ({"images": np.array([{}], dtype=object), "labels": np.zeros(1, int)}, "not a readable .npz of plain arrays"),
    ],
)
def test_arrays_that_are_not_as_they_should_be_are_refused_saying_what(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.npz")


def test_arrays_are_read_with_splits_names_and_one_channel_shown_three_times(tmp_path: Path) -> None:
    gray = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "a.npz", train_images=gray, train_labels=[1, 0], test_images=gray[:1], test_labels=[1])
    listing = read(tmp_path / "a.npz")
    assert listing.class_names == ("0", "1")
    assert listing.splits["test"].names == ("test[0]",)
    decoded, bad = decode(listing.splits["train"], Preprocess(size=4, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert bad == []
    assert torch.equal(pixels(decoded), torch.from_numpy(gray)[:, None].expand(2, 3, 4, 4))


def test_what_is_no_data_is_told_what_it_could_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"digitz: no such file or folder.*did you mean 'digits'\?"):
        read("digitz")
    with pytest.raises(DataError, match="no pictures in class folders"):
        read(tmp_path)
    with pytest.raises(DataError, match="This is one picture"):
        read(picture(tmp_path / "one.png", 0))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(DataError, match="not a readable"):
        read(tmp_path / "broken.npz")


# What is decoded


def test_every_unreadable_picture_is_in_one_list_and_max_bad_lets_the_rest_through(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "broken.jpg").write_bytes(b"")
    (tmp_path / "b" / "page.jpg").write_text("<html>not found</html>")
    listing = read(tmp_path)
    with pytest.raises(
        DataError, match=r"2 of 8 pictures cannot be read:\n  a/broken.jpg: .*\n  b/page.jpg: .*\n.*--max-bad 2"
    ):
        decode_all(listing, RAW, max_bad=1)
    parts, notes = decode_all(listing, RAW, max_bad=2)
    assert parts["all"].names == ("a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png")
    assert parts["all"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert notes[0].startswith("left out, unreadable: 2\n  a/broken.jpg")
    assert decode_all(listing, RAW, max_bad=None)[0]["all"].names == parts["all"].names


def test_decoding_is_in_order_and_as_the_preprocess_has_it(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 70, "b": 30})
    listing = read(tmp_path).splits["all"]
    decoded, _ = decode(listing, RAW)
    for i in (0, 33, 99):
        path = listing.sources[i]
        assert isinstance(path, Path)
        assert torch.equal(decoded.images[i], RAW.resize(np.asarray(Image.open(path))))
    assert decoded.names == listing.names


def test_the_fingerprint_is_of_pixels_and_labels_wherever_they_lie(tmp_path: Path) -> None:
    folder(tmp_path / "one", {"a": 3, "b": 3})
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    def mark(root: Path) -> str:
        listing = read(root)
        return fingerprint(listing.class_names, decode_all(listing, RAW)[0])

    before = mark(tmp_path / "one")
    assert mark(tmp_path / "two") == before
    (tmp_path / "two" / "a" / "0.png").rename(tmp_path / "two" / "b" / "9.png")
    assert mark(tmp_path / "two") != before


# How it is split


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=200), st.integers(0, 50), st.data())
def test_a_made_split_is_stratified_whole_and_keeps_identical_pictures_together(
    labels: list[int], seed: int, drawn: st.DataObject
) -> None:
    labels = [*labels, 0, 0, 0]
    digests = [
        drawn.draw(st.sampled_from([f"{i}".encode(), b"twin"])) if i < 4 else f"{i}".encode()
        for i in range(len(labels))
    ]
    whole = pictures(labels, digests)
    parts = divide({"all": whole}, seed).parts
    names = [name for part in parts.values() for name in part.names]
    assert sorted(names) == sorted(whole.names)
    where = [split for split, part in parts.items() if b"twin" in part.digests]
    assert len(where) <= 1
    for label, count in Counter(labels).items():
        for split in ("val", "test"):
            got = int((parts[split].labels == label).sum())
            assert abs(got - count / 10) <= 5, f"{got} of {count} in {split}"  # rounding, and up to four twins at once
    again = divide({"all": whole}, seed).parts
    assert all(again[split].names == part.names for split, part in parts.items())


@given(st.lists(st.integers(1, 60), min_size=3, max_size=9), st.integers(0, 9))
def test_a_class_is_in_every_part_however_many_twins_it_has(groups: list[int], seed: int) -> None:
    labels = [0] * sum(groups) + [1] * 40
    digests = [f"{g}".encode() for g, count in enumerate(groups) for _ in range(count)]
    digests += [f"other{i}".encode() for i in range(40)]
    parts = divide({"all": pictures(labels, digests)}, seed).parts
    assert all((part.labels == 0).any() for part in parts.values())


def test_shares_are_a_tenth_each_and_another_seed_gives_others() -> None:
    whole = pictures([i % 4 for i in range(400)])
    parts = divide({"all": whole}, 0).parts
    assert {split: len(part) for split, part in parts.items()} == {"train": 320, "val": 40, "test": 40}
    assert all(part.counts(4) == [len(part) // 4] * 4 for part in parts.values())
    assert divide({"all": whole}, 1).parts["test"].names != parts["test"].names


def test_a_missing_val_part_comes_from_train_and_never_from_test() -> None:
    given_parts = {"train": pictures([0, 1] * 50), "test": pictures([0, 1] * 10)}
    made = divide(given_parts, 0)
    assert {split: len(part) for split, part in made.parts.items()} == {"train": 90, "val": 10, "test": 20}
    assert made.parts["test"] is given_parts["test"]
    assert "10 % of train" in made.note
    kept = divide(given_parts, 0, keep_val=False)
    assert list(kept.parts) == ["train", "test"]
    assert len(kept.parts["train"]) == 100


def test_val_made_from_large_data_takes_2500_pictures_and_test_still_a_tenth() -> None:
    made = divide({"all": pictures([0, 1] * 20_000)}, 0)
    assert {split: len(part) for split, part in made.parts.items()} == {"train": 33_500, "val": 2_500, "test": 4_000}
    assert "6.2 % val and 10 % test" in made.note


def test_a_span_is_the_picture_inside_a_larger_file_and_one_cut_short_is_named(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    encoded_picture = io.BytesIO()
    Image.fromarray(pixels).save(encoded_picture, "PNG")
    content = encoded_picture.getvalue()
    (tmp_path / "shard.tar").write_bytes(b"before" + content + b"after")
    span = Span(tmp_path / "shard.tar", len(b"before"), len(content))
    listing = Listing([span, content], ("span", "bytes"), np.array([0, 1]))
    read, bad = decode(listing, Preprocess(size=4, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert not bad
    assert all(np.array_equal(read.shown(i), pixels) for i in range(2))
    (tmp_path / "shard.tar").write_bytes(b"before" + content[:-10])
    cut, bad = decode(listing, Preprocess(size=4, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert len(cut) == 1
    assert "10 bytes before the end of this picture" in bad[0].reason


def test_parts_that_are_given_are_taken_as_they_are() -> None:
    given_parts = {"train": pictures([0, 1]), "val": pictures([0, 1])}
    assert divide(given_parts, 0).parts == given_parts
    with pytest.raises(DataError, match="nothing to train on: there is test, but no train part with pictures"):
        divide({"test": pictures([0])}, 0)


def test_too_few_pictures_to_split_say_so() -> None:
    with pytest.raises(DataError, match="3 pictures of 2 classes are too few to make a val part"):
        divide({"all": pictures([0, 0, 1])}, 0)


def test_the_flowers_identical_pictures_stay_together() -> None:
    listing = read(shared("data/flowers"))
    whole, bad = decode(listing.splits["all"], Preprocess(size=16, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert (len(whole), bad) == (4317, [])
    twice = {digest for digest, count in Counter(whole.digests).items() if count > 1}
    assert len(twice) == 6
    for seed in range(5):
        parts = divide({"all": whole}, seed).parts
        for digest in twice:
            assert sum(digest in part.digests for part in parts.values()) == 1


def test_the_same_picture_in_two_parts_or_under_two_labels_is_said() -> None:
    lines = twins(
        {"train": pictures([0, 1, 1], [b"a", b"b", b"c"]), "val": pictures([0, 0], [b"a", b"b"])}, ("cat", "dog")
    )
    assert lines == [
        "2 pictures are in more than one split, which flatters the figures, as p0 = p0",
        "1 picture is under more than one label, as p1 (dog), p1 (cat)",
    ]
    assert twins({"all": pictures([0, 1])}, ("cat", "dog")) == []


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25)), min_size=30, max_size=90),
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=5),
)
def test_a_group_and_what_twins_join_to_it_fall_into_one_part_and_train_keeps_every_class(
    rows: list[tuple[int, int]], seed: int, same: list[tuple[int, int]]
) -> None:
    rows = [*rows, *((i % 3, 0) for i in range(18))]  # however few the groups are, some pictures stand alone
    digests = [f"{i}".encode() for i in range(len(rows))]
    for one, other in same:
        digests[other] = digests[one]
    groups = tuple(f"g{group}" if group else "" for _, group in rows)
    whole = dataclasses.replace(pictures([label for label, _ in rows], digests), groups=groups)
    parts = divide({"all": whole}, seed).parts
    assert sorted(name for part in parts.values() for name in part.names) == sorted(whole.names)
    for marks in ([part.groups for part in parts.values()], [part.digests for part in parts.values()]):
        where = Counter(mark for part in marks for mark in set(part) if mark)
        assert max(where.values(), default=1) == 1
    assert set(parts["train"].labels.tolist()) == set(whole.labels.tolist())
    assert all(len(part) for part in parts.values())
    again = divide({"all": whole}, seed).parts
    assert all(again[split].names == part.names for split, part in parts.items())


def test_splits_of_groups_are_near_a_tenth_of_each_class() -> None:
    labels = [i % 4 for i in range(1000)]
    groups = tuple(f"patient {i // 10}" for i in range(1000))  # ten pictures each, of all classes
    made = divide({"all": dataclasses.replace(pictures(labels), groups=groups)}, 0)
    counts = {split: part.counts(4) for split, part in made.parts.items()}
    assert {split: sum(of) for split, of in counts.items()} == {"train": 800, "val": 100, "test": 100}
    assert all(abs(count - 25) <= 5 for split in ("val", "test") for count in counts[split]), counts
    assert "groups and identical pictures together" in made.note


def test_few_large_groups_still_give_every_part_and_too_few_say_so() -> None:
    labels, groups = [i % 2 for i in range(30)], tuple(f"scene {i // 10}" for i in range(30))
    parts = divide({"all": dataclasses.replace(pictures(labels), groups=groups)}, 0).parts
    assert {split: len(part) for split, part in parts.items()} == {"train": 10, "val": 10, "test": 10}
    with pytest.raises(
        DataError, match="too few to make a val part: a class needs a different picture of another group"
    ):
        divide({"all": dataclasses.replace(pictures(labels[:20]), groups=groups[:20])}, 0)


def test_a_group_in_two_given_parts_is_said_and_makes_the_fingerprint_another() -> None:
    train, val = pictures([0, 1, 1], [b"a", b"b", b"c"]), pictures([0, 0], [b"d", b"e"])
    parts = {
        "train": dataclasses.replace(train, groups=("p1", "p2", "")),
        "val": dataclasses.replace(val, groups=("p2", "")),
    }
    assert twins(parts, ("cat", "dog")) == [
        "1 group is in more than one split, which flatters the figures, as p2 (train, val)"
    ]
    assert fingerprint(("cat", "dog"), parts) != fingerprint(("cat", "dog"), {"train": train, "val": val})


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 12), st.integers(0, 9))
def test_so_many_labels_of_each_class_are_kept_all_different_and_fewer_are_among_more(
    labels: list[int], num: int, seed: int
) -> None:
    digests = [f"{i // 2}".encode() for i in range(len(labels))]  # each picture may be there twice
    whole = pictures(labels, digests)
    kept = keep_labels(whole, num, seed)
    different = {label: {d for d, of in zip(digests, labels, strict=True) if of == label} for label in set(labels)}
    for label, there in different.items():
        got = [d for d, of in zip(kept.digests, kept.labels.tolist(), strict=True) if of == label]
        assert len(got) == len(set(got)) == min(num, len(there))
    assert set(kept.names) <= set(keep_labels(whole, num + 1, seed).names)
    assert kept.names == keep_labels(whole, num, seed).names


# What people really have


def messy_folder(tmp_path: Path) -> tuple[Path, dict[str, dict[str, str]]]:
    """A copy of the messy folder with its links made anew (they do not survive every way of copying), and its rows."""
    source = shared("data/messy")
    manifest = json.loads((source / "MANIFEST.json").read_text(encoding="utf-8"))
    rows = {name: row for name, row in manifest.items() if name.startswith("folder/")}
    shutil.copytree(source / "folder", tmp_path / "folder", symlinks=True)
    for name, row in rows.items():
        if "symlink" in row:
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).symlink_to(row["symlink"])
    return tmp_path / "folder", rows


def test_the_messy_folder_is_read_row_by_row_as_its_manifest_says(tmp_path: Path) -> None:
    root, rows = messy_folder(tmp_path)
    listing = read(root)
    seen: dict[str, str] = {}
    for split in listing.splits.values():
        decoded, bad = decode(split, RAW)
        seen |= dict.fromkeys((f"folder/{name}" for name in decoded.names), "ok")
        seen |= {f"folder/{file.name}": "error" for file in bad}
    assert {name: seen.get(name, "skip") for name in rows} == {name: row["expect"] for name, row in rows.items()}
    assert set(seen) <= set(rows)
    assert listing.class_names == ("circle", "only_broken", "square", "triangle")
    assert any("empty_class" in note for note in listing.notes)


def test_the_public_names_of_the_room_exist() -> None:
    assert all(hasattr(data, name) for name in data.__all__)
