"""How `DATA` is read is one value: commands, Python, a run's config and its repetition agree on it. And few labels."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import wideresnet as wrn
from wideresnet import runs, runtime
from wideresnet.cli import app
from wideresnet.cli import run as wrn_run
from wideresnet.data import count_marked, decode_all, divide, keep_labels, read
from wideresnet.errors import DataError, UsageError
from wideresnet.reading import Reading

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 2, "watch": runtime.QUIET}
CHOSEN = Reading(image_column="an image", label_column="-k", split_column="s", group_column="g", download=True)


def pets(folder: Path, num: int = 60, name: str = "pets.csv") -> Path:
    """A table of 8×8 pictures, dark cats and bright dogs, five pictures of each owner."""
    random = np.random.default_rng(0)
    (folder / "pics").mkdir(parents=True, exist_ok=True)
    lines = ["pic,kind,owner"]
    for i in range(num):
        pixels = random.integers(0, 100, (8, 8, 3), dtype=np.uint8) + np.uint8(100 * (i % 2))
        Image.fromarray(pixels).save(folder / "pics" / f"{i}.png")
        lines.append(f"pics/{i}.png,{('cat', 'dog')[i % 2]},owner {i // 5}")
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


COLUMNS: dict[str, Any] = {"image_column": "pic", "label_column": "kind", "group_column": "owner"}


def test_every_command_that_takes_data_has_all_options_of_reading_under_the_words_of_python() -> None:
    words = CHOSEN.words
    options = ["--image-column=an image", "--label-column=-k", "--split-column=s", "--group-column=g", "--download"]
    assert words == options
    for command in (["train", "d"], ["evaluate", "m", "d"]):
        _, bound, _ = app.parse_args([*command, *words], exit_on_error=False, print_error=False)
        assert bound.arguments["reading"] == CHOSEN
    for job in (wrn.train, wrn.evaluate):
        assert {field.name for field in dataclasses.fields(Reading)} <= set(job.__annotations__)


def test_a_run_on_a_table_keeps_how_it_was_read_goes_on_and_is_repeated_by_its_command(tmp_path: Path) -> None:
    table = pets(tmp_path)
    run = wrn.train(table, out=tmp_path / "a", labels=10, **COLUMNS, **QUICK)
    config = runs.read_config(tmp_path / "a")
    assert (config.data, config.reading, config.labels) == (str(table), Reading(**COLUMNS), 10)
    again = wrn.resume(tmp_path / "a", watch=runtime.QUIET)
    assert np.array_equal(again.evaluation.logits, run.evaluation.logits)
    words = shlex.split(config.command)[1:]
    assert wrn_run([*words, "--out", str(tmp_path / "b")]) == 0
    assert runs.read_config(tmp_path / "b") == config
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_evaluating_on_the_table_of_training_counts_only_owners_that_training_never_saw(tmp_path: Path) -> None:
    table = pets(tmp_path)
    run = wrn.train(table, out=tmp_path / "r", **COLUMNS, **QUICK)
    again = wrn.evaluate(tmp_path / "r", table, **COLUMNS, watch=runtime.QUIET)
    assert again.names == run.evaluation.names
    owners = {int(name[5:-4]) // 5 for name in again.names}
    assert len(again.names) == 5 * len(owners), "whole owners only"
    lines: list[str] = []  # without the groups it is other data: all of it counts, and what was trained on is said
    whole = wrn.evaluate(
        tmp_path / "r", table, image_column="pic", label_column="kind", watch=runtime.Watch(line=lines.append)
    )
    assert len(whole.names) == 60
    assert any("were trained on, which flatters" in line for line in lines)


def test_a_table_and_a_folder_of_the_same_pictures_train_the_same_network(tmp_path: Path) -> None:
    table = pets(tmp_path / "t")
    for i in range(60):
        target = tmp_path / "pets" / ("cat", "dog")[i % 2]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "t" / "pics" / f"{i}.png", target / f"{i:02}.png")
    rows = table.read_text().splitlines()
    table.write_text("\n".join([rows[0], *rows[1::2], *rows[2::2]]))  # cats, then dogs, as folders have them
    wrn.train(tmp_path / "pets", out=tmp_path / "a", **QUICK)
    wrn.train(table, out=tmp_path / "b", image_column="pic", label_column="kind", **QUICK)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_config_of_a_version_before_these_fields_is_read_and_its_run_goes_on(tmp_path: Path) -> None:
    run = wrn.train("digits", out=tmp_path / "r", **{**QUICK, "epochs": 1})
    file = tmp_path / "r" / "config.json"
    values = json.loads(file.read_text())
    assert (values.pop("reading"), values.pop("labels")) == (dataclasses.asdict(Reading()), None)
    file.write_text(json.dumps(values))
    assert wrn.resume(tmp_path / "r", watch=runtime.QUIET).evaluation.accuracy == run.evaluation.accuracy
    config = runs.read_config(tmp_path / "r")
    assert dataclasses.replace(config, labels=3).digest != config.digest
    assert dataclasses.replace(config, reading=Reading(download=True)).digest != config.digest


def test_few_labels_are_taken_from_train_alone_and_the_statistics_are_of_them(tmp_path: Path) -> None:
    whole = wrn.train("digits", out=tmp_path / "whole", seed=2, **{**QUICK, "epochs": 1})
    lines: list[str] = []
    few = wrn.train(
        "digits", out=tmp_path / "few", seed=2, labels=5, **{**QUICK, "watch": runtime.Watch(line=lines.append)}
    )
    assert few.evaluation.names == whole.evaluation.names
    assert "note: 50 of 1,439 pictures are trained on: 5 of each class, seed 2" in lines
    predictor = wrn.load(tmp_path / "few")
    preprocess, seen = predictor.card.preprocess, predictor.extra["seen"]
    parts = divide(decode_all(read("digits"), preprocess)[0], 2).parts
    kept = keep_labels(parts["train"], 5, 2)
    assert (len(kept), count_marked(kept, seen), len(seen)) == (50, 50, 50)
    mean, std = kept.statistics()
    assert (preprocess.mean, preprocess.std) == (mean, std)
    assert count_marked(parts["test"], seen) == 0


def test_more_labels_than_a_class_has_takes_all_and_says_so_and_less_than_one_is_refused(tmp_path: Path) -> None:
    table, lines = pets(tmp_path), list[str]()
    options = {**QUICK, "epochs": 1, "watch": runtime.Watch(line=lines.append)}
    wrn.train(table, image_column="pic", label_column="kind", labels=500, out=tmp_path / "r", **options)
    assert any("fewer than 500 different pictures to train on, all taken: class cat (24), dog (24)" in x for x in lines)
    with pytest.raises(UsageError, match="labels=0: expected a number of pictures of each class, from 1"):
        wrn.train("digits", labels=0, out=tmp_path / "s", **QUICK)


def test_a_class_of_one_picture_is_trained_on_and_said_never_to_be_judged(tmp_path: Path) -> None:
    table = pets(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "pics" / "fox.png")
    table.write_text(table.read_text() + "pics/fox.png,fox,x\n")
    lines: list[str] = []
    options = {**QUICK, "epochs": 1, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train(table, image_column="pic", label_column="kind", out=tmp_path / "r", **options)
    assert run.evaluation.class_names == ("cat", "dog", "fox")
    assert "note: trained on, but without a picture to be judged on: class fox (1)" in lines


def test_a_class_that_the_file_names_but_no_row_has_is_left_out_and_said(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "unseen", "dog"])}
    )
    pets(tmp_path)
    rows = {
        "image": [str(tmp_path / "pics" / f"{i}.png") for i in range(40)],
        "label": [2 * (i % 2) for i in range(40)],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    lines: list[str] = []
    options = {**QUICK, "epochs": 1, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train(tmp_path / "t.parquet", out=tmp_path / "r", **options)
    assert run.evaluation.class_names == ("cat", "dog")
    assert "note: left out, no picture to train on: class unseen" in lines


def test_numbers_here_and_names_in_the_model_are_told_apart(tmp_path: Path) -> None:
    table = pets(tmp_path)
    wrn.train(table, out=tmp_path / "r", **COLUMNS, **{**QUICK, "epochs": 1})
    numbers = tmp_path / "numbers.csv"
    numbers.write_text(table.read_text().replace(",cat,", ",0,").replace(",dog,", ",1,"))
    with pytest.raises(
        DataError, match=r"Labels are numbers in one and names in the other: here 0, 1, in the model cat, dog"
    ):
        wrn.evaluate(tmp_path / "r", numbers, **COLUMNS, watch=runtime.QUIET)


BROKEN = {"pics/3.png": "nowhere.png", "pics/4.png,cat": "pics/4.png,"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--image-column pic --label-column knid", r"--label-column knid: .*; did you mean 'kind'\?\n"),
        ("", r"no column is the image by its name; its columns: pic, kind, owner\. .*\n"),
        ("--image-column pic --label-column kind --labels 0", r"labels=0: .*\n"),
        ("--image-column pic --label-column kind", r".*2 of 60 pictures cannot be read:\n  row 4 .*\n  row 5 .*\n.*\n"),
        ("--image-column pic --label-column kind --cache disk", r".*2 of 60 pictures cannot be read:(\n.*)*"),
        ("--image-column pic --label-column kind --cache off", r".*2 of 60 pictures cannot be read:(\n.*)*"),
    ],
)
def test_a_mistake_with_a_table_is_told_before_step_1_and_writes_nothing(
    tmp_path: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pets(tmp_path)
    for good, bad in BROKEN.items():
        table.write_text(table.read_text().replace(good, bad))
    monkeypatch.chdir(tmp_path)
    assert wrn_run(["train", "pets.csv", *words.split()]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"wrn: (pets.csv: )?{message}", captured.err), captured.err
    assert captured.out == ""
    assert not (tmp_path / "runs").exists()


def test_the_real_command_trains_on_a_table_without_its_bad_rows_and_judges_by_it(tmp_path: Path) -> None:
    table = pets(tmp_path)
    for good, bad in BROKEN.items():
        table.write_text(table.read_text().replace(good, bad))
    columns = ["--image-column", "pic", "--label-column", "kind", "--group-column", "owner", "--max-bad", "2"]
    command = [sys.executable, "-m", "wideresnet", "train", "pets.csv", *columns, "--arch", "wrn_10_1", "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "note: left out, unreadable: 2\n  row 4 (line 5): " in done.stderr
    assert "\n  row 5 (line 6): no label\n" in done.stderr
    assert "groups and identical pictures together" in done.stderr
    assert (tmp_path / "runs" / "pets-1" / "report.html").exists()
