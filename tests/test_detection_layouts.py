"""Folders of boxes as other tools lay them; what is passed over in them is said, what is unclear is refused."""

from pathlib import Path
from typing import Any

import pytest
from test_detection_reading import coco, picture, voc, yolo

from wideresnet.detection import read_boxes
from wideresnet.errors import DataError

BOX = ("bee", 5, 5, 20, 25)
ONE = {"a.png": (30, 50, [BOX])}


def test_a_file_of_coco_whose_name_says_no_split_is_passed_over_and_said(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    coco(tmp_path, ONE, ["bee"])
    text = (tmp_path / "annotations" / "instances_train.json").read_text(encoding="utf-8")
    (tmp_path / "annotations" / "extra.json").write_text(text, encoding="utf-8")
    notes = read_boxes(tmp_path).notes
    assert notes == ("passed over: annotations/extra.json, whose name says no split, beside files of train",)


def test_json_of_other_programs_is_none_of_ours(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    coco(tmp_path, ONE, ["bee"])
    (tmp_path / "stats.json").write_text('{"images": 1}', encoding="utf-8")
    assert read_boxes(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_default.json", "images/default"),
        ("labels.json", "data"),
        ("train/_x.coco.json", "train"),
    ],
    ids=["CVAT", "FiftyOne", "Roboflow"],
)
def test_the_folders_of_other_tools_are_found(tmp_path: Path, file: str, folder: str) -> None:
    picture(tmp_path / folder / "a.png", 30, 50)
    coco(tmp_path, ONE, ["bee"])
    target = tmp_path / file
    target.parent.mkdir(exist_ok=True)
    (tmp_path / "annotations" / "instances_train.json").rename(target)
    (listing,) = read_boxes(tmp_path).splits.values()
    assert (len(listing), len(listing.boxes[0])) == (1, 1)


def test_sides_may_be_written_as_fractions_and_paths_as_on_windows(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "sub" / "a.png", 30, 50)
    images: list[dict[str, Any]] = [{"id": 1, "file_name": "sub\\a.png", "height": 30.0, "width": 50.0}]
    coco(tmp_path, {"a.png": (30, 50, [BOX])}, ["bee"], images=images)
    assert len(read_boxes(tmp_path).splits["train"].boxes[0]) == 1
    coco(tmp_path, {"a.png": (30, 50, [BOX])}, ["bee"], images=[{**images[0], "width": 50.5}])
    with pytest.raises(DataError, match=r"has the size 50\.5 × 30\.0; expected pixels"):
        read_boxes(tmp_path)


def test_one_picture_described_twice_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    images = [{"id": i, "file_name": "a.png", "height": 30, "width": 50} for i in (1, 2)]
    coco(tmp_path, ONE, ["bee"], images=images)
    with pytest.raises(DataError, match=r"train/a\.png: described 2 times in one split; join its boxes"):
        read_boxes(tmp_path)


def test_two_folders_of_yolo_for_one_split_are_refused(tmp_path: Path) -> None:
    for folder in ("train", "training"):
        picture(tmp_path / "images" / folder / "a.png", 30, 50)
        (tmp_path / "labels" / folder).mkdir(parents=True)
    yolo(tmp_path, ONE, ["bee"])
    with pytest.raises(DataError, match="a second folder of train beside"):
        read_boxes(tmp_path)


def test_pictures_of_yolo_without_a_folder_of_labels_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    picture(tmp_path / "images" / "val" / "b.png", 30, 50)
    yolo(tmp_path, ONE, ["bee"])
    with pytest.raises(DataError, match=r"images/val: pictures without a folder of labels; expected .*labels/val"):
        read_boxes(tmp_path)


def test_labels_without_a_picture_and_loose_pictures_are_said(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train2017" / "a.png", 30, 50)
    picture(tmp_path / "images" / "loose.png", 30, 50)
    yolo(tmp_path, ONE, ["bee"])
    (tmp_path / "labels" / "train").rename(tmp_path / "labels" / "train2017")
    (tmp_path / "labels" / "train2017" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1", encoding="utf-8")
    data = read_boxes(tmp_path)
    assert list(data.splits) == ["train"]
    assert data.notes == (
        f"train: passed over, without a picture in {tmp_path / 'images' / 'train2017'}: 1 files, as gone.txt",
        "passed over, beside the folders of splits: 1 pictures, as loose.png",
    )


def test_data_yaml_says_where_its_splits_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    for folder in ("first", "second"):
        picture(root / "images" / folder / "a.png", 30, 50)
        (root / "labels" / folder).mkdir(parents=True)
    (root / "labels" / "second" / "a.txt").write_text("0 0.5 0.5 0.2 0.2", encoding="utf-8")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("path: set\ntrain: images/second\nval: images/first\nnames: [bee]\n", encoding="utf-8")
    for path in (yaml, Path("data.yaml"), Path("..") / tmp_path.name / "data.yaml"):
        monkeypatch.chdir(tmp_path)
        data = read_boxes(path)
        assert {split: len(part.boxes[0]) for split, part in data.splits.items()} == {"train": 1, "val": 0}
        assert data.notes[0].startswith("val: 1 of 1 pictures have no box")
    (tmp_path / "elsewhere").mkdir()
    outside = tmp_path / "elsewhere" / "data.yaml"
    outside.write_text(f"path: {root}\ntrain: images/second\nnames: [bee]\n", encoding="utf-8")
    assert read_boxes(outside).splits["train"].names == (str(root / "images" / "second" / "a.png"),)


def test_a_data_yaml_that_was_moved_leaves_it_to_the_folders(tmp_path: Path) -> None:
    """Roboflow's says ../train/images, and it lies beside that folder."""
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    yolo(tmp_path, ONE, ["bee"])
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnames: [bee]\n", encoding="utf-8")
    data = read_boxes(tmp_path / "data.yaml")
    assert len(data.splits["train"].boxes[0]) == 1
    assert data.notes == (
        "data.yaml says train: ../train/images, where no folders of pictures and labels are; its places are not used",
    )
    (tmp_path / "labels").rename(tmp_path / "other")
    with pytest.raises(
        DataError, match=r"data\.yaml says train: \.\./train/images, .*no folders images and labels beside"
    ):
        read_boxes(tmp_path / "data.yaml")


def test_files_of_voc_with_one_name_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png", 30, 50)
    voc(tmp_path, ONE)
    (tmp_path / "Annotations" / "more").mkdir()
    text = (tmp_path / "Annotations" / "a.xml").read_text(encoding="utf-8")
    (tmp_path / "Annotations" / "more" / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"Annotations/more/a\.xml: named as Annotations/a\.xml; rename one of them"):
        read_boxes(tmp_path)


@pytest.mark.parametrize("line", ["a b", "a b.png", "JPEGImages/a b.png", "a b  1"])
def test_lists_of_voc_name_pictures_as_other_tools_do(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "JPEGImages" / "a b.png", 30, 50)
    voc(tmp_path, {"a b.png": (30, 50, [BOX])})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(line, encoding="utf-8")
    if line.endswith("1"):  # a mark after a name with a blank could be a part of it
        with pytest.raises(DataError, match="a b  1 is not in Annotations; remove the line"):
            read_boxes(tmp_path)
        return
    assert len(read_boxes(tmp_path).splits["train"]) == 1


def test_trainval_alone_is_what_is_trained_on_and_pictures_without_a_file_are_said(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "JPEGImages" / name, 30, 50)
    voc(tmp_path, ONE)
    (tmp_path / "ImageSets" / "Main" / "train.txt").rename(tmp_path / "ImageSets" / "Main" / "trainval.txt")
    data = read_boxes(tmp_path)
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 1}
    assert data.notes == ("passed over, in no list or without a file of boxes: 1 pictures, as b.png",)


def test_xml_of_other_programs_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "build.xml").write_text("<project/>", encoding="utf-8")
    with pytest.raises(DataError, match="no boxes that can be read"):
        read_boxes(tmp_path)


def test_entities_in_utf_16_are_not_unpacked_either(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png", 30, 50)
    voc(tmp_path, ONE)
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>'
    (tmp_path / "Annotations" / "a.xml").write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match="declares entities"):
        read_boxes(tmp_path)


def test_names_that_move_the_cursor_are_shown_as_what_they_are_and_long_ones_cut(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    name = "be\x1b[2Je" + 500 * "x"
    coco(tmp_path, {"a.png": (30, 50, [(name, 45, 5, 60, 25)])}, [name])
    note = next(note for note in read_boxes(tmp_path).notes if note.startswith("cut at"))
    assert "be\\x1b[2Je" in note
    assert len(note) < 500


def test_trainval_beside_val_is_trained_on_without_it(tmp_path: Path) -> None:
    pictures = {name: (30, 50, [BOX]) for name in ("a.png", "b.png")}
    for name in pictures:
        picture(tmp_path / "JPEGImages" / name, 30, 50)
    voc(tmp_path, pictures)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").write_text("b", encoding="utf-8")
    data = read_boxes(tmp_path)
    assert {split: [Path(name).name for name in part.names] for split, part in data.splits.items()} == {
        "train": ["a.png"],
        "val": ["b.png"],
    }


def test_a_file_of_coco_is_not_taken_for_another_of_coco_s_by_a_part_of_its_name(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    coco(tmp_path, ONE, ["bee"])
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "annotations" / "foodstuff_train.json")
    assert len(read_boxes(tmp_path).splits["train"]) == 1
