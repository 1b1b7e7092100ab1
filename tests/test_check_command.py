"""`wrn data check` as a command, its page, the copy that it cleans, and its short form in training."""

import csv
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_check import QUIET, checked, copied, flowers

import wideresnet as wrn
from wideresnet import cli, data
from wideresnet.data import check
from wideresnet.data.listing import ALL
from wideresnet.errors import DataError, UsageError

# The command


def table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = cli.run(["data", "check", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_says_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c, d = flowers(4)
    root = copied(
        tmp_path / "set",
        {"train/x/a.jpg": a, "train/y/b.jpg": b, "test/x/a.jpg": a, "test/y/c.jpg": c, "val/x/d.jpg": d},
    )
    code, out, _ = run(capsys, root)
    assert code == 1
    assert "error: 1 picture is in more than one split, which flatters the figures.\n  → keep each in one split" in out
    assert "test/x/a.jpg = train/x/a.jpg" in out
    code, out, _ = run(capsys, "digits")
    assert (code, out.splitlines()[-1]) == (0, "nothing was found that should be mended")


def test_json_has_every_picture_of_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = flowers(2)
    root = copied(tmp_path / "set", {"x/a.jpg": a, "y/b.jpg": b} | {f"x/copy-{i}.jpg": a for i in range(9)})
    code, out, _ = run(capsys, root, "--json")
    value = json.loads(out)
    assert code == 0
    [finding] = [one for one in value["findings"] if one["kind"] == "duplicate"]
    assert len(finding["items"][0]["pictures"]) == 10
    assert finding["items"][0]["pictures"][0] == {"name": "x/a.jpg", "split": "all", "class": "x"}
    assert value["counts"] == {"all": {"x": 10, "y": 1}}


def test_the_page_shows_the_pictures_and_obeys_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = flowers(2)
    evil = "<script>alert(1)</script>&\"'"
    evil_class = "<b>x"
    root = copied(
        tmp_path / "set", {f"{evil_class}/{evil.replace('/', '')}.jpg": a, f"{evil_class}/copy.jpg": a, "y/b.jpg": b}
    )
    (root / "y" / "broken<i>.jpg").write_bytes(b"no picture")
    code, _, err = run(capsys, root, "--report", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (code, f"report: {tmp_path / 'page.html'}" in err) == (1, True)
    assert page.count("<img ") == 2  # the two copies
    assert "<script" not in page
    assert "<b>x" not in page
    assert "broken<i>" not in page
    assert "broken&lt;i&gt;.jpg" in page
    assert "http" not in page.replace("http-equiv", "")


def test_columns_and_the_limit_of_pixels_are_those_of_other_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = flowers(4)
    rows = [[str(p.resolve()), "ab"[i % 2], ["train", "test"][i // 2]] for i, p in enumerate(paths)]
    table(tmp_path / "table.csv", ["pic", "kind", "part"], rows)
    words = ("--image-column", "pic", "--label-column", "kind", "--split-column", "part")
    code, out, _ = run(capsys, tmp_path / "table.csv", *words, "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}})
    code, out, _ = run(capsys, tmp_path / "table.csv", *words, "--max-pixels", "100")
    assert (code, "4 of 4 pictures cannot be read" in out) == (1, True)
    code, _, err = run(capsys, tmp_path / "nowhere")
    assert (code, "no such file or folder" in err) == (2, True)


# A cleaned copy


def test_a_cleaned_copy_has_what_is_sound_byte_for_byte_and_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = flowers(60)
    split = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    root = copied(tmp_path / "set", {f"{s}/{p.parent.name}/{p.name}": p for s, p in zip(split, paths, strict=True)})
    leaked = root / "train" / "rose" / "leak.jpg"
    shutil.copyfile(next((root / "test" / "rose").iterdir()), leaked)
    (root / "train" / "rose" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    Image.new("RGB", (50, 50)).save(root / "val" / "rose" / "blank.png")
    shutil.copyfile(paths[0], root / "train" / "rose" / "clash.jpg")  # a daisy
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    code, _, err = run(capsys, root, "--fix", tmp_path / "clean")
    assert (code, "cleaned copy" in err) == (0, True)
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before
    gone = {"train/rose/leak.jpg", "train/rose/broken.jpg", "val/rose/blank.png", "train/rose/clash.jpg"}
    gone |= {f"train/daisy/{paths[0].name}"}
    names = {path: path.relative_to(root).as_posix() for path in before}
    sound = {names[path]: content for path, content in before.items() if names[path] not in gone}
    clean = [path for path in (tmp_path / "clean").rglob("*.*") if path.suffix != ".csv"]
    assert {path.relative_to(tmp_path / "clean").as_posix(): path.read_bytes() for path in clean} == sound
    with (tmp_path / "clean" / "left_out.csv").open(encoding="utf-8") as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == gone
    assert reasons["val/rose/blank.png"] == "blank"
    assert reasons["train/rose/leak.jpg"].startswith("the same as test/rose/")
    assert reasons["train/rose/clash.jpg"].endswith("of another class")
    assert [one.severity for one in checked(tmp_path / "clean").findings if one.severity != "info"] == []
    run_of = wrn.train(tmp_path / "clean", arch="wrn_10_1", size=8, epochs=1, out=tmp_path / "run", watch=QUIET)
    assert run_of.evaluation.num_images == 10


def test_what_is_judged_on_keeps_a_picture_and_the_largest_of_several_stays(tmp_path: Path) -> None:
    a, b, c = flowers(3)
    root = copied(tmp_path / "set", {"train/x/big.jpg": a, "train/y/b.jpg": b, "val/y/c.jpg": c, "val/y/c2.jpg": c})
    for name, side in (("train/x/small.png", 60), ("test/x/held.png", 50), ("val/x/held.png", 70)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(a) as image:
            image.resize((side, side), Image.Resampling.BICUBIC).save(root / name)
    found = checked(root, fix=tmp_path / "clean")
    gone = {one.place.name for one in found.left_out}
    assert gone == {"train/x/big.jpg", "train/x/small.png", "val/x/held.png", "val/y/c2.jpg"}
    assert (tmp_path / "clean/test/x/held.png").exists()


def test_arrays_are_cleaned_into_arrays_of_the_same_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (30, 12, 12), dtype=np.uint8)
    images[3], images[20] = images[25], 7  # a leak, for 25 is test, and a blank one
    labels = np.arange(30) % 2
    labels[3] = labels[25]
    np.savez(
        tmp_path / "set.npz",
        train_images=images[:24], train_labels=labels[:24], test_images=images[24:], test_labels=labels[24:],
        class_names=["left", "right"],
    )  # fmt: skip
    code, _, err = run(capsys, tmp_path / "set.npz", "--fix", tmp_path / "clean")
    assert (code, "a name that ends in .npz" in err) == (2, True)
    code, _, _ = run(capsys, tmp_path / "set.npz", "--fix", tmp_path / "clean.npz")
    assert code == 0
    with np.load(tmp_path / "clean.npz") as clean:
        kept = [i for i in range(24) if i not in (3, 20)]
        assert np.array_equal(clean["train_images"], images[kept])
        assert np.array_equal(clean["train_labels"], labels[kept])
        assert np.array_equal(clean["test_images"], images[24:])
        assert clean["class_names"].tolist() == ["left", "right"]
    listed = (tmp_path / "clean.left_out.csv").read_text(encoding="utf-8").splitlines()
    assert listed[1:] == ["train[3],train,right,the same as test[1] (test)", "train[20],train,left,blank"]


def test_groups_go_with_a_cleaned_copy_as_a_table(tmp_path: Path) -> None:
    rows = [[str(p.resolve()), "ab"[i % 2], f"g{i // 3}"] for i, p in enumerate(flowers(12))]
    table(tmp_path / "table.csv", ["image", "label", "group"], rows)
    found = checked(tmp_path / "table.csv", fix=tmp_path / "clean")
    assert found.left_out == ()
    before, after = data.read(tmp_path / "table.csv"), data.read(tmp_path / "clean" / "pictures.csv")
    assert sorted(after.splits[ALL].groups) == sorted(before.splits[ALL].groups)
    assert data.read(tmp_path / "clean").class_names == ("a", "b")


def test_the_line_that_trains_on_a_copy_with_groups_is_said_and_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [[str(p.resolve()), "ab"[i % 2], f"g{i // 3}"] for i, p in enumerate(flowers(24))]
    table(tmp_path / "table.csv", ["image", "label", "patient"], rows)
    code, _, err = run(capsys, tmp_path / "table.csv", "--group-column", "patient", "--fix", tmp_path / "a copy")
    [line] = [line for line in err.splitlines() if "wrn train" in line]
    words = shlex.split(line.partition(": wrn ")[2])
    assert (code, words) == (0, ["train", f"{tmp_path}/a copy/pictures.csv", "--group-column", "group"])
    assert cli.run([*words, "--arch", "wrn_10_1", "--size", "8", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("out", [".", "..", "empty", "./"])
def test_a_folder_that_is_there_is_refused_at_the_door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    root = copied(tmp_path / "set", {f"{'xy'[i % 2]}/{p.name}": p for i, p in enumerate(flowers(4))})
    (tmp_path / "here" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" if out == "empty" else tmp_path / "here" / "empty")
    monkeypatch.setattr(check, "look", lambda *_: pytest.fail("was looked at"))
    code, _, err = run(capsys, root, "--fix", out)
    assert (code, "name a folder that is not" in err) == (2, True)


def noisy(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 12, 12, 1), dtype=np.uint8)


def test_a_cleaned_npz_keeps_its_form_and_what_else_it_has_of_each_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = noisy(30), (np.arange(30) % 3).astype(np.uint8)
    images[3] = images[4] = 7
    patient, split = np.array([f"p{i}" for i in range(30)]), {"train": slice(0, 24), "test": slice(24, 30)}
    arrays = {f"{name}_images": images[part] for name, part in split.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in split.items()}
    arrays |= {f"{name}_patient": patient[part] for name, part in split.items()} | {"made_by": np.array("me")}
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    code, out, _ = run(capsys, tmp_path / "set.npz", "--fix", tmp_path / "clean.npz")
    assert (code, "no row for each picture of a split: made_by" in out) == (0, True)
    kept = [i for i in range(24) if i not in (3, 4)]
    with np.load(tmp_path / "clean.npz") as clean:
        assert set(clean.files) == set(arrays) - {"made_by"}
        for key in clean.files:
            expected = arrays[key][kept] if key.startswith("train") else arrays[key]
            assert (clean[key].dtype, clean[key].tolist()) == (expected.dtype, expected.tolist()), key
    before, after = (data.read(tmp_path / f"{name}.npz").class_names for name in ("set", "clean"))
    assert before == after


def test_class_names_are_added_where_labels_no_longer_say_how_many_there_are(tmp_path: Path) -> None:
    images, labels = noisy(10), np.array([0, 1] * 4 + [0, 2])
    images[9] = 7
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    checked(tmp_path / "set.npz", fix=tmp_path / "clean.npz")
    assert data.read(tmp_path / "clean.npz").class_names == ("0", "1", "2")


def test_a_list_that_is_there_is_kept_and_an_array_that_fails_takes_its_list_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "set.npz", images=noisy(10), labels=np.arange(10) % 2)
    listed = tmp_path / "clean.left_out.csv"
    listed.write_text("mine")
    with pytest.raises(UsageError, match=r"left_out\.csv, is there already"):
        checked(tmp_path / "set.npz", fix=tmp_path / "clean.npz")
    assert listed.read_text() == "mine"
    listed.unlink()
    of_path = Path.replace

    def failing(source: Path, target: Path) -> Path:
        if target.suffix == ".npz":
            assert listed.exists()
            raise OSError(28, os.strerror(28))
        return of_path(source, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(wrn.TrainingStopped, match="No space left"):
        checked(tmp_path / "set.npz", fix=tmp_path / "clean.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.npz"]


@pytest.mark.parametrize("taken", ["a file", "a folder with something in it", "a place in the data", "no folder above"])
def test_a_copy_never_takes_the_place_of_anything(tmp_path: Path, taken: str) -> None:
    root = copied(tmp_path / "set", {f"{'xy'[i % 2]}/{p.name}": p for i, p in enumerate(flowers(4))})
    out = tmp_path / "out"
    if taken == "a file":
        out.write_text("mine")
    elif taken == "a folder with something in it":
        copied(out, {"mine.jpg": flowers(1)[0]})
    else:
        out = root / "clean" if taken == "a place in the data" else tmp_path / "no" / "out"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="--fix"):
        checked(root, fix=out)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_class_that_no_folder_can_be_called_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = [[str(p.resolve()), ["a/b", "c"][i % 2]] for i, p in enumerate(flowers(4))]
    table(tmp_path / "table.csv", ["image", "label"], rows)
    assert checked(tmp_path / "table.csv").num_images == 4
    with pytest.raises(DataError, match="class 'a/b' cannot be the name of a folder"):
        checked(tmp_path / "table.csv", fix=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copied(tmp_path / "set", {f"{'xy'[i % 2]}/{p.name}": p for i, p in enumerate(flowers(6))})
    done = list[str]()

    def failing(source: Path, _: Path) -> None:
        if len(done) == 3:
            raise OSError(28, os.strerror(28))
        done.append(str(source))

    monkeypatch.setattr(shutil, "copyfile", failing)
    with pytest.raises(wrn.TrainingStopped, match="No space left"):
        checked(root, fix=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
