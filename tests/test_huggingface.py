"""`hf:NAME`: local data sets as the `datasets` library writes them; no network unless it is asked for."""

import io
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from test_downloads import Server

from wideresnet import data as data_room
from wideresnet.data import decode, read
from wideresnet.errors import DataError, UsageError
from wideresnet.preprocess import Preprocess
from wideresnet.reading import Reading

RAW = Preprocess(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
NAMES = ["zebra", "ant"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


def png(colour: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (colour, 0, 40)).save(content, "PNG")
    return content.getvalue()


def made(start: int, num: int, **more: list[Any]) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {
        "image": [{"bytes": png(start + i), "path": None} for i in range(num)],
        "label": [i % 2 for i in range(num)],
    }
    part = datasets.Dataset.from_dict(rows, features=features)
    for name, values in more.items():
        part = part.add_column(name, values)
    return part


def red(listing: data_room.Listing) -> list[int]:
    decoded, bad = decode(listing, RAW)
    assert not bad
    return [int(decoded.images[i][0, 0, 0]) for i in range(len(decoded))]


def test_a_data_set_saved_with_splits_is_read_with_its_classes_and_our_own_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"train": made(0, 6), "validation": made(10, 4), "unsupervised": made(20, 2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "pets")
    data = read(f"hf:{tmp_path}/pets/")
    assert (data.name, data.place, data.class_names) == ("pets", f"hf:{tmp_path}/pets", ("zebra", "ant"))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 6, "val": 4}
    assert data.splits["val"].labels.tolist() == [0, 1, 0, 1]
    assert data.splits["val"].names[0] == "validation row 1"
    assert red(data.splits["val"]) == [10, 11, 12, 13]
    assert isinstance(data.splits["val"].sources[0], bytes)
    assert data.notes == ("passed over, neither train, val nor test: split unsupervised",)
    assert read(data.place).splits["train"].names == data.splits["train"].names
    monkeypatch.chdir(tmp_path / "pets")
    assert (read("hf:.").name, read("hf:.").place) == (data.name, data.place)


def labelled(names: list[str], labels: list[int]) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_split_that_numbers_the_classes_otherwise_is_read_by_its_own_names(tmp_path: Path) -> None:
    parts = {"train": labelled(["zebra", "ant"], [0, 1]), "test": labelled(["ant", "zebra"], [0, 1, 1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    data = read(f"hf:{tmp_path}/d")
    assert data.class_names == ("zebra", "ant")
    assert (data.splits["train"].labels.tolist(), data.splits["test"].labels.tolist()) == ([0, 1], [1, 0, 0])
    (note,) = data.notes
    assert note.endswith("split test numbers its classes in another order; they are taken by their names")
    parts["test"] = labelled(["ant", "ox"], [0, 1])
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "e")
    with pytest.raises(
        DataError, match=r"split train and hf:.*, split test name different classes .*: zebra; .*: ox\)"
    ):
        read(f"hf:{tmp_path}/e")


def test_splits_that_differ_in_columns_are_an_error_that_names_both(tmp_path: Path) -> None:
    parts = {"train": made(0, 2), "test": made(0, 2, kind=["a", "b"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"split train and hf:.*, split test have different columns .*second: kind\)"):
        read(f"hf:{tmp_path}/d")


def test_one_split_alone_is_data_without_splits_in_every_form_that_the_library_reads(tmp_path: Path) -> None:
    made(0, 6).save_to_disk(tmp_path / "arrow")
    (tmp_path / "parquet").mkdir()
    made(0, 6).to_parquet(tmp_path / "parquet" / "data.parquet")
    for i in range(6):
        folder = tmp_path / "folder" / NAMES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(i))
    for form in ("arrow", "parquet", "folder"):
        data = read(f"hf:{tmp_path / form}")
        assert list(data.splits) == ["all"], form
        assert sorted(red(data.splits["all"])) == list(range(6)), form
        assert set(data.class_names) == set(NAMES)
        named = [data.class_names[label] for label in data.splits["all"].labels]
        assert named == [NAMES[colour % 2] for colour in red(data.splits["all"])], form


def test_columns_may_be_given_and_groups_come_with_them(tmp_path: Path) -> None:
    extra: dict[str, list[Any]] = {"kind": ["a", "b", "a", "b"], "who": [1, 1, 2, 2]}
    made(0, 4, **extra).save_to_disk(tmp_path / "d")
    data = read(f"hf:{tmp_path}/d", Reading(label_column="kind", group_column="who"))
    assert (data.class_names, data.splits["all"].groups) == (("a", "b"), ("1", "1", "2", "2"))
    with pytest.raises(UsageError, match=r"--label-column kinds: hf:.* has no such column; did you mean 'kind'\?"):
        read(f"hf:{tmp_path}/d", Reading(label_column="kinds"))


def test_a_row_without_a_picture_or_with_a_label_that_is_none_is_named(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [{"bytes": png(0), "path": None}, None, {"bytes": png(2), "path": None}], "label": [0, 1, None]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path / "d")
    bad = read(f"hf:{tmp_path}/d").bad
    assert [(row.name, row.reason) for row in bad] == [("test row 2", "no picture"), ("test row 3", "no label")]


def test_a_name_is_never_looked_for_on_the_network_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path)  # stands for the hub, and has nothing
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url.rstrip("/"))
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(
        DataError, match=r"hf:someone/pets: cannot be loaded: .*unasked: --download brings it$"
    ) as caught:
        read("hf:someone/pets")
    assert (server.asked, "\n" in str(caught.value)) == ([], False)
    with pytest.raises(DataError, match=r"hf:someone/pets: cannot be loaded"):
        read("hf:someone/pets", Reading(download=True))
    server.close()
    assert any("someone/pets" in path for path in server.asked)
    assert before is datasets.config.HF_HUB_OFFLINE


def test_what_is_no_data_set_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"hf:.*empty: cannot be loaded"):
        read(f"hf:{tmp_path}/empty")
    datasets.DatasetDict({"a": made(0, 2), "b": made(0, 2)}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="splits a, b; expected at most one each of train, val and test"):
        read(f"hf:{tmp_path}/d")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"reading Hugging Face datasets needs .*pip install 'wideresnet\[hub\]'"):
        read(f"hf:{tmp_path}/d")
    assert np.array_equal(read("digits").splits["all"].labels[:2], [0, 1])
