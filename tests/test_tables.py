"""A table means what its rows say, in every form of file; a row that cannot be is named before anything is decoded."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wideresnet.data import Data, decode, decode_all, read
from wideresnet.errors import DataError, UsageError
from wideresnet.preprocess import Preprocess
from wideresnet.reading import Reading

RAW = Preprocess(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def png(colour: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (colour % 256, colour // 256, 40)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the pictures pics/0.png to pics/11.png, all different."""
    (tmp_path / "pics").mkdir()
    for i in range(12):
        (tmp_path / "pics" / f"{i}.png").write_bytes(png(i))
    return tmp_path


ROWS: list[dict[str, Any]] = [
    {"file": f"pics/{i}.png", "label": ("gül", "lale", "çiğdem")[i % 3], "split": ("train", "test")[i % 4 == 3]}
    for i in range(12)
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The same rows in the form that the ending of `path` names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=5)
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def labels_of(data: Data) -> dict[str, str]:
    """Picture → class name, over all splits."""
    return {
        name: data.class_names[label]
        for part in data.splits.values()
        for name, label in zip(part.names, part.labels.tolist(), strict=True)
    }


# What is read


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".CSV"])
def test_the_same_rows_are_the_same_data_in_every_form_of_table(place: Path, suffix: str) -> None:
    path = write(place / f"flowers{suffix.lower()}", ROWS)
    path = path.rename(place / f"flowers{suffix}")
    data = read(path)
    assert (data.name, data.place, data.class_names) == ("flowers", str(path), ("gül", "lale", "çiğdem"))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 9, "test": 3}
    assert labels_of(data) == {row["file"]: row["label"] for row in ROWS}
    decoded, bad = decode(data.splits["test"], RAW)
    assert not bad
    assert [int(decoded.images[i][0, 0, 0]) for i in range(len(decoded))] == [3, 7, 11]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_is_read_whatever_separates_its_fields_with_quotes_line_breaks_and_a_byte_order_mark(
    place: Path, delimiter: str
) -> None:
    rows = [
        ["Image Path", "note", "Class"],
        ["pics/0.png", 'two\nlines, ; | "quoted"', " cat "],
        [],
        ["pics/1.png", "", "dog"],
    ]
    with (place / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert labels_of(read(place / "t.csv")) == {"pics/0.png": "cat", "pics/1.png": "dog"}


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=2, max_size=6))
def test_any_class_name_comes_out_of_a_csv_as_it_comes_out_of_jsonl_up_to_its_form(names: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "0.png").write_bytes(png(0))
        rows = [{"image": "0.png", "label": f"x{name}"} for name in names]  # x: never a number, never empty
        one, two = read(write(folder / "a.csv", rows)), read(write(folder / "a.jsonl", rows))
    assert one.class_names == two.class_names
    assert one.splits["all"].labels.tolist() == two.splits["all"].labels.tolist()


def test_paths_are_relative_to_the_table_or_absolute_or_were_written_on_windows(place: Path) -> None:
    text = f"path,label\npics/0.png,a\n{place}/pics/1.png,b\npics\\2.png,b\n"
    sources = read(table(place / "t.csv", text)).splits["all"].sources
    assert sources == [place / "pics/0.png", place / "pics/1.png", place / "pics/2.png"]


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_parquet_may_hold_the_pictures_themselves_and_they_stay_encoded(place: Path, form: str) -> None:
    def cell(i: int) -> Any:
        return png(i) if form == "bytes" else {"bytes": png(i), "path": f"{i}.png"}

    data = read(write(place / "t.parquet", [{"image": cell(i), "label": "ab"[i % 2]} for i in range(7)]))
    listing = data.splits["all"]
    assert listing.sources == [png(i) for i in range(7)]
    assert listing.names[:2] == (("row 1", "row 2") if form == "bytes" else ("0.png", "1.png"))
    decoded, bad = decode(listing, RAW)
    assert ([int(decoded.images[i][0, 0, 0]) for i in range(len(decoded))], bad) == (list(range(7)), [])


def test_hugging_face_s_own_parquet_says_which_columns_it_means_and_names_its_classes(place: Path) -> None:
    import datasets

    features = datasets.Features(
        {"foto": datasets.Image(), "tür": datasets.ClassLabel(names=["zebra", "ant", "unseen"])}
    )
    rows = {"foto": [{"bytes": png(i), "path": None} for i in range(4)], "tür": [0, 1, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(place / "t.parquet")
    data = read(place / "t.parquet")
    assert data.class_names == ("zebra", "ant", "unseen")
    assert data.splits["all"].labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_numbers_are_classes_in_the_order_of_numbers_and_that_is_said(place: Path, suffix: str) -> None:
    labels = [10, 2, 2, -1]
    data = read(write(place / f"t{suffix}", [{"file": f"pics/{i}.png", "label": n} for i, n in enumerate(labels)]))
    assert data.class_names == ("-1", "2", "10")
    assert data.notes == ("labels are numbers, so the 3 classes are called -1, 2, 10",)
    assert labels_of(data) == {f"pics/{i}.png": str(n) for i, n in enumerate(labels)}


def test_numbers_with_leading_zeros_are_names_and_so_is_a_number_in_quotes_in_json(place: Path) -> None:
    text = "file,label\npics/0.png,007\npics/1.png,10\n"
    assert read(table(place / "t.csv", text)).class_names == ("007", "10")
    rows = [{"file": "pics/0.png", "label": "9"}, {"file": "pics/1.png", "label": "A"}]
    assert read(write(place / "t.jsonl", rows)).class_names == ("9", "A")


def test_a_class_is_one_class_composed_or_decomposed(place: Path) -> None:
    rows = [{"file": "pics/0.png", "label": "gu\u0308l"}, {"file": "pics/1.png", "label": "g\u00fcl"}]
    assert read(write(place / "t.jsonl", rows)).class_names == ("g\u00fcl",)


def test_a_column_that_is_given_is_taken_though_others_bear_the_usual_names(place: Path) -> None:
    rows = [
        {
            "file": "pics/9.png",
            "x": f"pics/{i}.png",
            "label": "no",
            "y": "ab"[i % 2],
            "split": "val",
            "z": "train",
            "w": i // 2,
        }
        for i in range(4)
    ]
    path = write(place / "t.csv", rows)
    chosen = Reading(image_column="x", label_column="y", split_column="z", group_column="w")
    data = read(path, chosen)
    assert data.class_names == ("a", "b")
    assert list(data.splits) == ["train"]
    assert data.splits["train"].names == tuple(f"pics/{i}.png" for i in range(4))
    assert data.splits["train"].groups == ("0", "0", "1", "1")
    assert data.notes == ()
    assert read(path).splits["val"].groups == ()
    assert read(path).notes == ("column 'split' is taken as the split",)
    patients = read(table(place / "p.csv", "file,label,Patient ID\npics/0.png,a,\npics/1.png,b, 7 \n"))
    assert patients.splits["all"].groups == ("", "7")
    assert patients.notes == ("column 'Patient ID' is taken as the group",)


# What is refused


@pytest.mark.parametrize(
    ("text", "reading", "message"),
    [
        (
            "file,label\n",
            {"label_column": "lable"},
            r"--label-column lable: .*t\.csv has no such column; did you mean 'label'\?",
        ),
        ("file,label\n", {"group_column": "q"}, "--group-column q: .*; expected one of file, label"),
        ("file,label,class\n", {}, r"label and class could each be the label column; say which: --label-column NAME"),
        ("file,path,label\n", {}, "file and path could each be the image column"),
        ("file,species\n", {}, "no column is the label by its name; its columns: file, species"),
        ("pics/0.png,cat\n", {}, "no column is the image by its name; .*a first line that is no header needs one"),
        ("file,label\n", {"label_column": "file"}, "--image-column and --label-column are both 'file'"),
    ],
)
def test_a_column_that_is_not_there_or_not_to_be_told_is_an_error_with_the_candidates(
    place: Path, text: str, reading: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read(table(place / "t.csv", text + "pics/0.png,cat,x\n"), Reading(**reading))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", r"t\.csv: no rows"),
        ("t.csv", "file,label\n", r"t\.csv: no rows"),
        ("t.jsonl", "\n\n", r"t\.jsonl: no rows"),
        ("t.csv", "file,label,file\npics/0.png,a,b\n", "two columns are called 'file'"),
        ("t.csv", 'file,label\npics/0.png,"open\n', r"t\.csv, the row that begins in line 2: unexpected end of data"),
        (
            "t.csv",
            "file,label\npics/0.png,a\nhttps://x.org/1.png,b\n",
            r"row 2 \(line 3\): https://x.org/1.png is a URL",
        ),
        (
            "t.csv",
            "file,label\npics/0.png,cat\npics/1.png,3\n",
            r"numbers in some rows and names in others: row 2 \(line 3\) has 3, row 1 \(line 2\) has 'cat'",
        ),
        (
            "t.jsonl",
            '{"file": "pics/0.png", "label": 3}\n{"file": "pics/1.png", "label": "a"}\n',
            "line 1 has 3, line 2 has 'a'",
        ),
        (
            "t.csv",
            "file,label\nnowhere/0.png,a\nnowhere/1.png,b\n",
            r"none of its 2 rows can be read:\n  row 1 .*no such file",
        ),
        ("t.csv", "file,label,split\npics/0.png,a,fold0\n", "split 'fold0' is none of train, val and test"),
        ("t.parquet", "PAR1 no", r"t\.parquet: not a readable Parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_says_why_and_where(place: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(table(place / name, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file,label\npics/0.png,a\npics/1.png,g\u00fcl\n".encode("latin-1"),
            r"t\.csv, line 3: byte 0xFC is not UTF-8",
        ),
        (b"\xef\xbb\xbffile,label\npics/0.png,\xff\n", r"line 2: byte 0xFF"),
        ("file,label\n".encode("utf-16"), "is UTF-16, or no text; save it as UTF-8"),
        ("file,label\n".encode("utf-16-le"), "is UTF-16, or no text; save it as UTF-8"),
    ],
)
def test_an_encoding_that_is_not_utf_8_is_named_with_its_line(place: Path, content: bytes, message: str) -> None:
    (place / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(place / "t.csv")


@pytest.mark.parametrize("header", ["file,label", "label;file"])
def test_a_table_from_windows_is_the_same_data(place: Path, header: str) -> None:
    sign = "," if "," in header else ";"
    rows = [header, *(sign.join((f"pics\\{i}.png", "gül")[:: 1 if sign == "," else -1]) for i in range(3))]
    (place / "t.csv").write_bytes("\r\n".join([*rows, ""]).encode("utf-8-sig"))
    listing = read(place / "t.csv")
    assert (listing.class_names, listing.bad) == (("gül",), ())
    assert listing.splits["all"].names == ("pics/0.png", "pics/1.png", "pics/2.png")


def test_every_row_that_cannot_be_is_in_one_list_by_its_number_and_max_bad_goes_on_without_them(place: Path) -> None:
    good = "".join(f"pics/{i}.png,{'ab'[i % 2]},train\n" for i in range(6))
    text = f'file,label,split\n{good}pics/7.png,"",train\nnowhere.png,a,train\npics,nan,tain\n\npics/8.png,b\n'
    data = read(table(place / "t.csv", text))
    lines = {row.name: row.reason for row in data.bad}
    assert lines == {
        "row 7 (line 8)": "no label",
        "row 8 (line 9)": f"{place / 'nowhere.png'}: no such file",
        "row 9 (line 10)": f"{place / 'pics'}: a folder, not a file; no label; split 'tain' is none of train, val and "
        "test",
        "row 10 (line 12)": "2 fields, but the header has 3",
    }
    with pytest.raises(
        DataError, match=r"4 of 10 pictures cannot be read:(\n  row \d+ \(line \d+\): .+){4}\n.*--max-bad 4"
    ):
        decode_all(data, RAW, max_bad=3)
    parts, notes = decode_all(data, RAW, max_bad=4)
    assert len(parts["train"]) == 6
    assert notes[0].startswith("left out, unreadable: 4\n")


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "no label"),
        (float("nan"), "no label"),
        ("  ", "no label"),
        (1.5, "label 1.5: expected one name or one whole number"),
        (["a", "b"], r"label ['a', 'b']: expected one name or one whole number"),
        ({}, "label {}: expected one name or one whole number"),
        ("\ud800", r"label '\ud800' is not UTF-8"),
    ],
)
def test_an_impossible_label_is_named(place: Path, label: Any, reason: str) -> None:
    rows = [{"file": "pics/0.png", "label": label}, {"file": "pics/1.png", "label": "a"}]
    (row,) = read(write(place / "t.jsonl", rows)).bad
    assert (row.name, row.reason) == ("line 1", reason)


def test_a_column_of_integers_with_one_missing_is_still_one_of_integers(place: Path) -> None:
    rows = [{"file": f"pics/{i}.png", "label": label} for i, label in enumerate([2.0, None, 0.0])]
    data = read(write(place / "t.parquet", rows))
    assert (data.class_names, [row.name for row in data.bad]) == (("0", "2"), ["row 2"])


@pytest.mark.parametrize("image", [None, b"", 7, [1, 2], {"bytes": None, "path": None}])
def test_what_is_no_picture_in_parquet_is_named_by_its_row(place: Path, image: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[type, Callable[[], Any]] = {int: pa.int64, list: lambda: pa.list_(pa.int64())}
    kind = kinds.get(type(image), pa.binary)()
    if isinstance(image, dict):
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {"image": pa.array([image], kind), "label": ["a"]}
    pq.write_table(pa.table(columns), place / "t.parquet")
    with pytest.raises(DataError, match=r"none of its 1 rows can be read:\n  row 1: .*(no picture|no bytes)"):
        read(place / "t.parquet")


def test_a_parquet_file_that_is_cut_or_damaged_anywhere_is_an_error_of_the_data_or_read(place: Path) -> None:
    path = write(place / "t.parquet", ROWS)
    whole = path.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
            read(path)
    refused = 0
    for at in range(4, len(whole), 41):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read(path)
        except (DataError, UsageError):
            refused += 1
    assert refused > 5


def test_a_line_that_is_no_json_is_named_by_its_line_among_the_others(place: Path) -> None:
    text = '{"file": "pics/0.png", "label": "a"}\n\n{"file": \n[1]\n{"file": "pics/1.png", "label": "b"}\n'
    data = read(table(place / "t.jsonl", text))
    assert [row.name for row in data.bad] == ["line 3", "line 4"]
    assert len(data.splits["all"]) == 2


def test_columns_of_what_has_none_are_refused_and_a_missing_extra_says_what_brings_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"digits: an embedded name .* has no columns; leave out --label-column=x$"):
        read("digits", Reading(label_column="x", download=True))
    path = write(place / "t.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"t\.parquet: reading Parquet needs .*pip install 'wideresnet\[tables\]'"):
        read(path)
    assert np.array_equal(read("digits").splits["all"].labels[:3], [0, 1, 2])


# Several Parquet files


def labelled(path: Path, label: list[Any], names: list[str] | None = None) -> Path:
    """A Parquet file as Hugging Face writes it, three pictures in it; of one ClassLabel if names are given."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [{"bytes": png(i), "path": None} for i in range(3)], "label": label}
    part = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    if names:
        part = part.cast_column("label", datasets.ClassLabel(names=names))
    part.to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("source", "splits"),
    [
        (".", {"train": 9, "val": 2, "test": 1}),
        ("*.parquet", {"train": 9, "val": 2, "test": 1}),
        ("train-*.parquet", {"train": 9}),
        ("{train,test}-00000-of-0000{1..2}.parquet", None),
        ("train-0000{0,1}-of-00002.parquet", {"train": 9}),
    ],
)
def test_a_folder_or_a_pattern_of_parquet_files_is_one_set_with_the_splits_of_their_names(
    place: Path, monkeypatch: pytest.MonkeyPatch, source: str, splits: dict[str, int] | None
) -> None:
    rows = [{"image": png(i), "label": "abc"[i % 3]} for i in range(12)]
    (place / "birds").mkdir()
    names = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"]
    for name, start, stop in zip(names, (0, 5, 9, 11), (5, 9, 11, 12), strict=True):
        write(place / "birds" / f"{name}.parquet", rows[start:stop])
    (place / "birds" / "README.md").write_text("# Birds")
    monkeypatch.chdir(place / "birds")
    if splits is None:
        with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is not there; expected every shard"):
            read(source)
        return
    data = read(source)
    assert ({split: len(one) for split, one in data.splits.items()}, data.name) == (splits, "birds")
    assert data.notes == ()
    assert data.splits["train"].names[4:6] == (f"{names[0]}.parquet row 5", f"{names[1]}.parquet row 1")
    assert data.splits["train"].labels.tolist() == [i % 3 for i in range(9)]
    assert data.splits["train"].sources == [png(i) for i in range(9)]
    monkeypatch.chdir(place)
    assert labels_of(read(data.place)) == labels_of(data)


def test_of_files_that_are_counted_by_their_names_those_that_are_missing_are_said(place: Path) -> None:
    for i in (0, 2):
        labelled(place / "s" / f"train-{i:05d}-of-00003.parquet", ["a", "b", "a"])
    assert read(place / "s").notes == ("train: 2 of its 3 files are there",)
    labelled(place / "h" / "train-00000-of-00002-ab12cd34ef567890.parquet", ["a", "b", "a"])
    assert read(place / "h").notes == ("train: 1 of its 2 files are there",)


def test_what_else_lies_in_a_folder_of_parquet_files_hides_them_only_if_it_may_be_data(place: Path) -> None:
    folder = place / "s"
    labelled(folder / "train" / "0.parquet", ["a", "b", "a"])
    labelled(folder / "test" / "0.parquet", ["a", "b", "a"])
    expected = {"train": 3, "test": 3}
    run = folder / "runs" / "s-1"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"recipe": {}, "fingerprint": ""}))
    (run / "curve.png").write_bytes(png(0))
    for hidden in (".ipynb_checkpoints", "train/.ipynb_checkpoints", "__MACOSX", "notes"):
        (folder / hidden).mkdir()
    (folder / "test" / "._0.parquet").write_bytes(b"of macOS")
    assert {split: len(one) for split, one in read(folder).splits.items()} == expected
    labelled(folder / "more" / "0.parquet", ["a", "b", "a"])
    with pytest.raises(DataError, match=r"more/0\.parquet is read if it lies in .*s itself or in its train, val or"):
        read(folder)
    (folder / "test" / "deep").mkdir()
    shutil.move(folder / "more", folder / "test" / "deep" / "more")
    with pytest.raises(DataError, match=r"deep/more/0\.parquet is read if it lies in"):
        read(folder)
    shutil.rmtree(folder / "test" / "deep")
    (folder / "test" / "1.parquet").symlink_to("nowhere.parquet")
    with pytest.raises(DataError, match=r"1\.parquet: not a readable Parquet file"):
        read(folder)
    (folder / "test" / "1.parquet").unlink()
    (folder / "old.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds tar and Parquet files; say which, as '.*s/\*\*/\*\.parquet'"):
        read(folder)
    assert {split: len(one) for split, one in read(folder / "**" / "*.parquet").splits.items()} == expected


def test_a_folder_that_is_called_like_a_split_is_the_same_data_from_within(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = labelled(place / "train" / "0.parquet", ["a", "b", "a"]).parent
    monkeypatch.chdir(folder)
    for source in (".", "*.parquet", folder, folder / "*.parquet"):
        assert list(read(source).splits) == ["all"], source
    monkeypatch.chdir(place)
    assert list(read("*/0.parquet").splits) == ["train"]
    both = f"{{{place}/train,{place}/tr*}}/*.parquet"
    assert len(read(both).splits["train"]) == 3


def test_a_pattern_finds_its_files_again_whatever_signs_are_in_the_names_of_folders(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = labelled(place / "a [b] {c,d} *" / "x" / "0.parquet", ["a", "b", "a"]).parents[1]
    monkeypatch.chdir(folder)
    data = read("x/*.parquet")
    monkeypatch.chdir(place)
    assert labels_of(read(data.place)) == labels_of(data)


@pytest.mark.parametrize("pattern", ["**.parquet", "{" + ",".join(f"part-{i:05d}" for i in range(40)) + "}.parquet"])
def test_a_pattern_that_is_none_or_longer_than_a_name_may_be_is_told_in_a_line(place: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=r"not a pattern|matches no file|part-00000\.parquet is not there"):
        read(place / pattern)


@pytest.mark.parametrize(
    "features", [["x"], {"label": {"_type": ["x"]}}, {"label": {"_type": "ClassLabel", "names": 3}}]
)
def test_odd_metadata_of_a_parquet_file_is_told_in_a_line(place: Path, features: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    info = json.dumps({"info": {"features": features}})
    table = pyarrow.table({"image": [png(0)], "label": ["a"]}).replace_schema_metadata({"huggingface": info})
    pyarrow.parquet.write_table(table, place / "odd.parquet")
    with pytest.raises(DataError, match=r"odd\.parquet: not a readable Parquet file"):
        read(place / "odd.parquet")


def test_the_train_part_numbers_the_classes_whatever_the_files_are_called(place: Path) -> None:
    labelled(place / "s" / "a-test.parquet", [0, 1, 2], ["zebra", "ant", "owl"])
    labelled(place / "s" / "b-train.parquet", [0, 1, 2], ["ant", "zebra", "owl"])
    assert read(place / "s").class_names == ("ant", "zebra", "owl")


def test_a_parquet_file_beside_class_folders_and_one_alone_are_what_they_were(place: Path) -> None:
    labelled(place / "meta.parquet", ["a", "b", "a"])
    assert read(place).class_names == ("pics",)
    assert list(read(labelled(place / "one" / "train-0.parquet", ["a", "b", "a"])).splits) == ["all"]


def test_files_that_differ_in_columns_are_an_error_that_names_both(place: Path) -> None:
    (place / "s").mkdir()
    write(place / "s" / "a.parquet", [{"image": png(0), "label": "a"}])
    write(place / "s" / "b.parquet", [{"image": png(1), "class": "a", "note": 1}])
    message = (
        r"a\.parquet and .*b\.parquet have different columns \(only in the first: label; only in the second: class, "
    )
    with pytest.raises(DataError, match=message):
        read(place / "s")


def test_files_that_number_their_classes_otherwise_are_joined_by_name_and_that_is_said(place: Path) -> None:
    labelled(place / "s" / "train-0.parquet", [0, 1, 2], ["zebra", "ant", "owl"])
    labelled(place / "s" / "val-0.parquet", [0, 1, 2], ["ant", "zebra", "owl"])
    data = read(place / "s")
    assert data.class_names == ("zebra", "ant", "owl")
    assert [data.class_names[i] for i in data.splits["val"].labels] == ["ant", "zebra", "owl"]
    assert len(data.notes) == 1
    assert "val-0.parquet numbers its classes in another order; they are taken by their names" in data.notes[0]


@pytest.mark.parametrize(
    ("second", "label", "message"),
    [
        (["zebra", "ox"], [0, 1, 0], "only in the first: ant; only in the second: ox"),
        (["zebra"], [0, 0, 0], "only in the first: ant"),
        (None, [0, 1, 0], "only in the first: ant, zebra"),
    ],
)
def test_files_that_name_other_classes_are_an_error_that_names_both(
    place: Path, second: list[str] | None, label: list[int], message: str
) -> None:
    labelled(place / "s" / "train-0.parquet", [0, 1, 0], ["zebra", "ant"])
    labelled(place / "s" / "val-0.parquet", label, second)
    both = r"train-0\.parquet and .*val-0\.parquet name different classes in column 'label'"
    with pytest.raises(DataError, match=rf"{both} \({message}\)"):
        read(place / "s")


def test_a_shard_that_is_cut_or_damaged_is_named_and_no_row_of_it_is_lost_in_silence(place: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = labelled(place / "s" / "train-0.parquet", ["a", "b", "a"])
    bad = good.with_name("train-1.parquet")
    columns = pa.table({"image": [png(i) for i in range(20)], "label": ["a"] * 20})
    pq.write_table(columns, bad, row_group_size=5, compression="none", write_page_checksum=True)
    whole = bad.read_bytes()
    for cut in range(0, len(whole), 97):
        bad.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"train-1\.parquet: not a readable Parquet file"):
            read(place / "s")
    bad.write_bytes(whole)
    assert len(read(place / "s").splits["train"]) == 23
    at = whole.index(png(7)) + 40
    bad.write_bytes(whole[:at] + b"\0" + whole[at + 1 :])
    with pytest.raises(
        DataError, match=r"train-1\.parquet: column 'image' cannot be read: .*Copy or make the file again"
    ):
        read(place / "s")


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -(2**63) - 1, 1e300])
def test_a_number_too_large_for_a_class_is_named_by_its_row(place: Path, number: float) -> None:
    rows = [{"file": "pics/0.png", "label": 0}, {"file": "pics/1.png", "label": number}]
    (row,) = read(write(place / "t.jsonl", rows)).bad
    assert row.name == "line 2"
    assert "no number of a class is so large" in row.reason


def test_unsigned_labels_of_parquet_are_never_wrapped_into_others(place: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = pa.array([0, 1, 2**64 - 1], pa.uint64())
    pq.write_table(pa.table({"file": [f"pics/{i}.png" for i in range(3)], "label": labels}), place / "t.parquet")
    data = read(place / "t.parquet")
    assert (data.class_names, [row.name for row in data.bad]) == (("0", "1"), ["row 3"])
