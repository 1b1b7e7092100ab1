"""Boxes of any form are the same boxes; what is wrong with them is told in one list."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wideresnet.data import Boxes, Data
from wideresnet.data.listing import ALL
from wideresnet.detection import read_boxes
from wideresnet.errors import DataError
from wideresnet.images import decode

Box = tuple[str, int, int, int, int]  # class, left, top, right, bottom


def picture(path: Path, height: int, width: int, orientation: int = 1) -> None:
    """Upright height × width; stored as EXIF's orientation has it."""
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    stored = upright if (turn := turns[orientation]) is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, exif=exif)


def coco(
    root: Path, pictures: Mapping[str, tuple[int, int, Sequence[Box]]], classes: Sequence[str], **more: Any
) -> None:
    """annotations/instances_train.json, whose numbers have gaps; `more` replaces its parts."""
    numbers = {name: 10 * i + 3 for i, name in enumerate(classes)}
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for i, (name, (height, width, boxes)) in enumerate(pictures.items()):
        images.append({"id": 7 * i + 1, "file_name": name, "height": height, "width": width})
        for kind, left, top, right, bottom in boxes:
            box = [left, top, right - left, bottom - top]
            one = {"image_id": 7 * i + 1, "category_id": numbers[kind], "bbox": box}
            annotations.append({"id": 5 * len(annotations) + 2, **one})
    content: dict[str, Any] = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content | more), encoding="utf-8")


def yolo(root: Path, pictures: Mapping[str, tuple[int, int, Sequence[Box]]], classes: Sequence[str]) -> None:
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    for name, (height, width, boxes) in pictures.items():
        lines = []
        for kind, left, top, right, bottom in boxes:
            middle = (left + right) / 2 / width, (top + bottom) / 2 / height
            sides = (right - left) / width, (bottom - top) / height
            lines.append(" ".join(map(repr, (classes.index(kind), *middle, *sides))))
        (root / "labels" / "train" / Path(name).with_suffix(".txt")).write_text("\n".join(lines), encoding="utf-8")
    (root / "data.yaml").write_text(f"train: images/train\nnames: {list(classes)}\n", encoding="utf-8")


def voc(root: Path, pictures: Mapping[str, tuple[int, int, Sequence[Box]]]) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, (height, width, boxes) in pictures.items():
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for kind, left, top, right, bottom in boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
        (root / "Annotations" / Path(name).with_suffix(".xml")).write_text(text, encoding="utf-8")
    stems = "\n".join(Path(name).stem for name in pictures)
    (root / "ImageSets" / "Main" / "train.txt").write_text(stems, encoding="utf-8")


def only(data: Data, split: str = "train") -> Boxes:
    (boxes,) = data.splits[split].boxes
    return boxes


@st.composite
def pictures(draw: st.DrawFn) -> dict[str, tuple[int, int, list[Box]]]:
    """Each class at least once, for VOC has no list of classes."""
    found = dict[str, tuple[int, int, list[Box]]]()
    for number in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(2, 40)), draw(st.integers(2, 40))
        boxes = []
        for kind in (
            ("ape", "bee", "cow") if number == 0 else draw(st.lists(st.sampled_from(["ape", "bee"]), max_size=3))
        ):
            left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
            boxes.append((kind, left, top, right, bottom))
        found[f"{number}.png"] = (height, width, list(dict.fromkeys(boxes)))
    return found


@given(pictures())
def test_coco_yolo_and_voc_say_the_same_boxes(
    tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, tuple[int, int, list[Box]]]
) -> None:
    classes = ("ape", "bee", "cow")
    roots = [tmp_path_factory.mktemp(form) for form in ("coco", "yolo", "voc")]
    for root, folder in zip(roots, ("train", "images/train", "JPEGImages"), strict=True):
        for name, (height, width, _) in pictures.items():
            picture(root / folder / name, height, width)
    coco(roots[0], pictures, classes)
    yolo(roots[1], pictures, classes)
    voc(roots[2], pictures)
    first, *others = [read_boxes(root) for root in roots]
    expected = [[list(box[1:]) for box in boxes] for _, _, boxes in pictures.values()]
    assert [boxes.boxes.tolist() for boxes in first.splits["train"].boxes] == expected
    for other in others:
        assert other.class_names == first.class_names == classes
        for one, same in zip(first.splits["train"].boxes, other.splits["train"].boxes, strict=True):
            assert np.array_equal(one.labels, same.labels)
            # Fractions are rounded when they are divided: not to the last bit in float64, and so to it in float32.
            assert np.array_equal(one.boxes.astype(np.float32), same.boxes.astype(np.float32))


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("said", ["upright", "stored"])
def test_a_picture_turned_by_exif_has_the_boxes_of_the_upright_one(tmp_path: Path, orientation: int, said: str) -> None:
    """By pixels: the box of a white patch is that of the white pixels of the decoded picture."""
    black = np.zeros((30, 50, 3), np.uint8)
    black[4:11, 20:29] = 255
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "train").mkdir()
    stored = Image.fromarray(black).transpose(turn)
    stored.save(tmp_path / "train" / "a.png", exif=exif)
    seen = np.argwhere(np.asarray(stored)[..., 0] if said == "stored" else black[..., 0])
    (top, left), (bottom, right) = seen.min(0), seen.max(0) + 1
    height, width = (50, 30) if said == "stored" else (30, 50)
    coco(tmp_path, {"a.png": (height, width, [("bee", int(left), int(top), int(right), int(bottom))])}, ["bee"])
    data = read_boxes(tmp_path)
    white = np.argwhere(decode(tmp_path / "train" / "a.png")[..., 0])
    (top, left), (bottom, right) = white.min(0), white.max(0) + 1
    assert only(data).boxes.tolist() == [[left, top, right, bottom]] == [[20, 4, 29, 11]]
    assert any("turned with the picture" in note for note in data.notes) == (said == "stored")


def test_yolo_s_fractions_are_of_the_upright_picture(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50, orientation=6)
    yolo(tmp_path, {"a.png": (30, 50, [("bee", 20, 4, 29, 11)])}, ["bee"])
    assert np.allclose(only(read_boxes(tmp_path)).boxes, [[20, 4, 29, 11]], atol=1e-9)


def test_a_turn_that_the_size_does_not_tell_of_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50, orientation=3)
    coco(tmp_path, {"a.png": (30, 50, [("bee", 20, 4, 29, 11)])}, ["bee"])
    data = read_boxes(tmp_path)
    assert only(data).boxes.tolist() == [[20, 4, 29, 11]]
    assert "taken as of the upright picture" in " ".join(data.notes)


def test_boxes_that_cannot_be_are_mended_or_left_out_and_listed(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    picture(tmp_path / "train" / "empty.png", 30, 50)
    boxes = [
        ("bee", 40, 4, 60, 11),  # beyond the edge
        ("bee", 60, 4, 70, 11),  # outside
        ("bee", 5, 5, 5, 9),  # no area
        ("bee", 5, 5, 4, 9),  # less than none
        ("ape", 1, 2, 3, 4),
        ("ape", 1, 2, 3, 4),  # twice
        ("bee", 1, 2, 3, 4),  # of another class
    ]
    coco(tmp_path, {"a.png": (30, 50, boxes), "empty.png": (30, 50, [])}, ["ape", "bee", "cow"])
    data = read_boxes(tmp_path)
    first, second = data.splits["train"].boxes
    assert first.boxes.tolist() == [[40, 4, 50, 11], [1, 2, 3, 4], [1, 2, 3, 4]]
    assert first.labels.tolist() == [1, 0, 1]
    assert first.areas.tolist() == [70, 4, 4]
    assert len(second) == 0
    file = "annotations/instances_train.json"
    assert data.notes == (
        f"cut at the picture's edge: 1 box\n  train/a.png: bee, {file}, annotation 2",
        f"left out, without an area: 2 boxes\n  train/a.png: bee, {file}, annotation 12\n"
        f"  train/a.png: bee, {file}, annotation 17",
        f"left out, outside the picture: 1 box\n  train/a.png: bee, {file}, annotation 7",
        f"left out, the same box of the same class twice: 1\n  train/a.png: ape, {file}, annotation 27",
        "train: 1 of 2 pictures have no box; kept, as pictures of nothing",
        "without a box to train on: cow",
    )


def test_all_that_cannot_be_mended_is_told_in_one_list(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    picture(tmp_path / "train" / "b.png", 30, 50)
    rows: list[dict[str, Any]] = [
        {"id": 1, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4]},
        {"id": 3, "image_id": 1, "category_id": 3, "bbox": [1, 2, float("nan"), 4]},
        {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3]},
    ]
    coco(tmp_path, {"a.png": (30, 50, []), "b.png": (300, 500, [])}, ["bee"], annotations=rows)
    with pytest.raises(DataError) as caught:
        read_boxes(tmp_path)
    file = "annotations/instances_train.json"
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: 5 faults in its boxes:",
        f"  {file}, annotation 1: category 9 is none of its categories (3 bee)",
        f"  {file}, annotation 2: image 5 is none of its images",
        f"  {file}, annotation 3: bbox is [1, 2, nan, 4]; expected [left, top, width, height] in pixels",
        f"  {file}, annotations[3]: bbox is [1, 2, 3]; expected [left, top, width, height] in pixels",
        f"  train/b.png: is 50 × 30 pixels, and {file} says 500 × 300",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.2", "expected a class's number and four fractions"),
        ("bee 0.5 0.5 0.2 0.2", "expected a class's number and four fractions"),
        ("1 0.5 0.5 0.2 0.2", "class 1; there are 1, numbered from 0"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5; there are 1, numbered from 0"),
        ("0 25 15 10 6", "25 15 10 6: pixels? Expected fractions of the picture's sides"),
        ("0 nan 0.5 0.2 0.2", "expected a class's number and four fractions"),
    ],
)
def test_a_line_of_yolo_that_is_none_is_named(tmp_path: Path, line: str, expected: str) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    yolo(tmp_path, {"a.png": (30, 50, [])}, ["bee"])
    (tmp_path / "labels" / "train" / "a.txt").write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_boxes(tmp_path)
    assert f"labels/train/a.txt, line 2: {line!r}; {expected}" in str(caught.value) or (
        f"labels/train/a.txt, line 2: {expected}" in str(caught.value)
    )


def test_a_polygon_of_yolo_is_the_box_around_it(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    yolo(tmp_path, {"a.png": (30, 50, [])}, ["bee"])
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.2 0.5 0.4 0.1 0.3 0.9\n", encoding="utf-8")
    assert np.allclose(only(read_boxes(tmp_path)).boxes, [[10, 3, 20, 27]])


def test_a_picture_that_cannot_be_read_is_named_and_in_no_split(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    (tmp_path / "train" / "b.png").write_bytes(b"no picture")
    boxes: list[Box] = [("bee", 1, 2, 3, 4)]
    coco(tmp_path, dict.fromkeys(("a.png", "b.png", "gone.png"), (30, 50, boxes)), ["bee"])
    data = read_boxes(tmp_path)
    assert data.splits["train"].names == ("train/a.png",)
    assert [file.name for file in data.bad] == ["train/b.png", "train/gone.png"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "not JSON"),
        ("[1]", "a list; expected COCO's object"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "images[0] has no 'file_name' or 'id'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "category 1 is both 'a' and 'b'",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "several categories are called 'a'",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_coco_is_one_line(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "boxes.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_boxes(tmp_path / "boxes.json")
    assert expected in str(caught.value)
    assert str(tmp_path / "boxes.json") in str(caught.value)


def test_xml_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png", 30, 50)
    voc(tmp_path, {"a.png": (30, 50, [])})
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
    (tmp_path / "Annotations" / "a.xml").write_text(bomb, encoding="utf-8")
    with pytest.raises(DataError, match=r"Annotations/a\.xml: not XML: declares entities"):
        read_boxes(tmp_path)


def test_a_folder_without_boxes_says_what_is_expected(tmp_path: Path) -> None:
    picture(tmp_path / "bees" / "a.png", 30, 50)
    with pytest.raises(DataError, match=r"no boxes that can be read; expected COCO's JSON .*YOLO.*VOC"):
        read_boxes(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read_boxes(tmp_path / "nowhere")


def test_real_sets_are_read_whole() -> None:
    """Counts from the sets' own JSON; coco64 has gaps in its numbers, crowds, and pictures without boxes."""
    cells = read_boxes(shared("data/detection/bccd"))
    assert {name: len(split) for name, split in cells.splits.items()} == {"train": 292, "val": 72}
    assert sum(len(boxes) for split in cells.splits.values() for boxes in split.boxes) == 4886
    assert cells.class_names == ("RBC", "WBC", "Platelets")
    common = read_boxes(shared("data/detection/coco64"))
    assert len(common.class_names) == 80
    assert {name: len(split) for name, split in common.splits.items()} == {"train": 48, "val": 16}
    assert sum(int(boxes.crowd.sum()) for split in common.splits.values() for boxes in split.boxes) == 4
    one = read_boxes(shared("data/detection/bccd/annotations/instances_val.json"))
    assert (len(one.splits[ALL]), one.bad) == (72, ())


def test_where_no_picture_is_found_it_says_where_it_looked(tmp_path: Path) -> None:
    coco(tmp_path, {"a.png": (30, 50, [("bee", 1, 2, 3, 4)])}, ["bee"])
    with pytest.raises(DataError, match=r"none of its 1 pictures can be read:\n  train/a\.png: .*no such file"):
        read_boxes(tmp_path)


def test_names_written_decomposed_are_the_same_in_every_form(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    pictures: dict[str, tuple[int, int, list[Box]]] = {"a.png": (30, 50, [(decomposed, 1, 2, 3, 4)])}
    roots = {form: tmp_path / form for form in ("train", "images/train", "JPEGImages")}
    for folder, root in roots.items():
        picture(root / folder / "a.png", 30, 50)
    coco(roots["train"], pictures, [decomposed])
    yolo(roots["images/train"], pictures, [decomposed])
    voc(roots["JPEGImages"], pictures)
    assert {read_boxes(root).class_names for root in roots.values()} == {(composed,)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_id": {}}, "annotations[0] has the id {}; expected a number or a text"),
        ({"category_id": [1]}, "annotations[0] has the id [1]"),
        ({"category_id": True}, "annotations[0] has the id True"),
        ({"bbox": [1, 2, 10**400, 4]}, "annotation 2: bbox is [1, 2, 1000"),
        ({"iscrowd": "0"}, "annotation 2: iscrowd is '0'; expected 0 or 1"),
    ],
)
def test_values_of_coco_that_cannot_be_are_named(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    row = {"id": 2, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}
    coco(tmp_path, {"a.png": (30, 50, [])}, ["bee"], annotations=[row | change])
    with pytest.raises(DataError) as caught:
        read_boxes(tmp_path)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_area_that_cannot_be_is_the_box_s_and_a_crowd_is_no_double(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    row = {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}
    rows = [{**row, "id": 1, "area": -5}, {**row, "id": 2, "iscrowd": 1, "area": 10**400}]
    coco(tmp_path, {"a.png": (30, 50, [])}, ["bee"], annotations=rows)
    boxes = only(read_boxes(tmp_path))
    assert boxes.areas.tolist() == [12, 12]
    assert boxes.crowd.tolist() == [False, True]


@pytest.mark.parametrize("names", ["names: {0: a, b: c}", "names: [2001-13-45, [1]]", "names:", "a: &a [*a]"])
def test_a_data_yaml_without_names_is_one_line(tmp_path: Path, names: str) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    yolo(tmp_path, {"a.png": (30, 50, [])}, ["bee"])
    (tmp_path / "data.yaml").write_text(names, encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.yaml: "):
        read_boxes(tmp_path)


def test_classes_of_yolo_are_texts_and_have_their_line_s_number(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    yolo(tmp_path, {"a.png": (30, 50, [("no", 1, 2, 3, 4)])}, ["yes", "no"])
    (tmp_path / "data.yaml").write_text("names: [yes, no]", encoding="utf-8")
    assert read_boxes(tmp_path).class_names == ("yes", "no")
    (tmp_path / "classes.txt").write_text("ape\n\ncow\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"classes\.txt: line 2 is empty"):
        read_boxes(tmp_path)
    (tmp_path / "classes.txt").write_text("ape\ncow\n\n", encoding="utf-8")
    assert only(read_boxes(tmp_path)).labels.tolist() == [1]


@pytest.mark.parametrize("line", ["0 .5 .5 .2 .2 .9 .9 2", "0 .5 .5 .2 .2 .9"])
def test_keypoints_are_no_polygon(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "images" / "train" / "a.png", 30, 50)
    yolo(tmp_path, {"a.png": (30, 50, [])}, ["bee"])
    (tmp_path / "labels" / "train" / "a.txt").write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match="expected a class's number and four fractions"):
        read_boxes(tmp_path)


def test_difficult_objects_of_voc_are_crowds(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png", 30, 50)
    voc(tmp_path, {"a.png": (30, 50, [("bee", 1, 2, 3, 4), ("bee", 5, 6, 9, 9)])})
    file = tmp_path / "Annotations" / "a.xml"
    text = file.read_text(encoding="utf-8").replace("</name>", "</name><difficult>1</difficult>", 1)
    file.write_text(text, encoding="utf-8")
    assert only(read_boxes(tmp_path)).crowd.tolist() == [True, False]


def test_names_that_are_too_long_and_pipes_are_told_and_do_not_block(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_boxes("a" * 300)
    coco(tmp_path, {"a" * 300 + ".png": (30, 50, [("bee", 1, 2, 3, 4)])}, ["bee"])
    with pytest.raises(DataError, match="none of its 1 pictures can be read"):
        read_boxes(tmp_path)
    other = tmp_path / "other"
    picture(other / "images" / "train" / "a.png", 30, 50)
    yolo(other, {"a.png": (30, 50, [])}, ["bee"])
    (other / "labels" / "train" / "a.txt").unlink()
    os.mkfifo(other / "labels" / "train" / "a.txt")
    with pytest.raises(DataError, match=r"a\.txt: no file of text"):
        read_boxes(other)


def test_a_json_that_begins_with_a_byte_order_mark_is_read_like_any_other(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png", 30, 50)
    coco(tmp_path, {"a.png": (30, 50, [("bee", 1, 2, 3, 4)])}, ["bee"])
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(only(read_boxes(tmp_path))) == 1
