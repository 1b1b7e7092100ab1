"""Options act: each is given as a person gives it, and its effect is held against the definition."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels
from PIL import Image
from test_jobs import shapes
from torch.nn import functional as F

from wideresnet import data as data_room
from wideresnet import runs
from wideresnet.checkpoint import load_model
from wideresnet.cli import run
from wideresnet.recipes import RECIPES

QUICK = ("--arch", "wrn_10_1", "--labels", "12")


def train(folder: Path, *words: str) -> tuple[runs.Config, list[dict[str, str]]]:
    assert run(["train", "digits", *QUICK, "--out", str(folder), *words]) == 0
    return runs.read_config(folder), list(csv.DictReader((folder / runs.METRICS).open(encoding="utf-8")))


def test_a_time_budget_is_filled_and_not_exceeded_by_the_time_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, rows = train(tmp_path / "r", "--time-budget", "3s")
    said = capsys.readouterr().err.partition("; about ")[2].split()
    assert said[1] == "s"
    assert len(rows) == config.recipe.epochs
    assert float(said[0]) in (2, 3), said  # 0.95 of it, less a part of an epoch, rounded
    assert config.recipe.epochs > 1
    share = config.recipe.epochs / RECIPES["fast"].epochs
    assert config.recipe.warmup_epochs == pytest.approx(RECIPES["fast"].warmup_epochs * share)


def test_gamma_multiplies_the_learning_rate_at_each_milestone(tmp_path: Path) -> None:
    words = ("--recipe", "paper", "--epochs", "3", "--lr", "0.1", "--milestones", "2", "3", "--gamma", "0.5")
    _, rows = train(tmp_path / "r", *words)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.1, 0.05, 0.025])


def test_class_weights_weigh_each_picture_in_the_loss_by_one_over_the_number_of_its_class(tmp_path: Path) -> None:
    shapes(tmp_path / "set", {"train/disc": 30, "train/bar": 6, "val/disc": 4, "val/bar": 4})
    # One update with a rate of 0: its loss is that of the network as it was begun, which is what is kept.
    words = ["--epochs", "1", "--batch-size", "36", "--lr", "0", "--label-smoothing", "0", "--no-flip"]
    words = ["train", str(tmp_path / "set"), "--arch", "wrn_10_1", "--crop-padding", "0", *words]
    losses = []
    for i, extra in enumerate(([], ["--class-weights"])):
        assert run([*words, *extra, "--out", str(tmp_path / str(i))]) == 0
        [row] = csv.DictReader((tmp_path / str(i) / runs.METRICS).open(encoding="utf-8"))
        losses.append(float(row["train_loss"]))
    file = load_model(tmp_path / "0")
    listing = data_room.read(tmp_path / "set")
    pictures = data_room.decode_all(listing, file.card.preprocess)[0]["train"]
    with torch.no_grad():
        answers = file.model.train()(file.card.preprocess.normalise(pixels(pictures)))
    each = F.cross_entropy(answers, pictures.labels, reduction="none")
    weights = torch.tensor([36 / 2 / 6, 36 / 2 / 30])[pictures.labels]  # bar, disc
    assert losses == pytest.approx([float(each.mean()), float((weights * each).mean())], rel=1e-4)
    assert abs(losses[1] / losses[0] - 1) > 0.01, "the two differ"


def test_models_are_counted_with_the_classes_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for num in ("10", "100"):
        assert run(["models", "--form", "paper", "--num-classes", num, "--json"]) == 0
        counts.append({row["arch"]: row for row in json.loads(capsys.readouterr().out)})
    assert counts[1]["wrn_28_10.paper"]["parameters"] == 36_536_884  # published for CIFAR-100
    for name, row in counts[1].items():
        features = 64 * row["widen_factor"]
        assert row["parameters"] - counts[0][name]["parameters"] == 90 * (features + 1)
        assert row["macs"] - counts[0][name]["macs"] == 90 * features


def test_a_report_goes_where_it_is_asked_for_and_destroys_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shapes(tmp_path / "set", {"disc": 12, "bar": 12})
    (tmp_path / "set.csv").write_text("image,label\n" + "".join(f"set/disc/{i}.png,disc\n" for i in range(12)))
    assert run(["train", "set", "--arch", "wrn_10_1", "--epochs", "1", "--out", "r"]) == 0
    model = (tmp_path / "r" / "model.safetensors").read_bytes()
    evaluate = ("evaluate", "r/model.safetensors", "set")
    assert run([*evaluate]) == 0
    assert not list(tmp_path.rglob("evaluation.html")), "of a model file alone there is none"
    for _ in range(2):  # a report may be written anew
        assert run([*evaluate, "--report", "mine.html"]) == 0
        assert "report: mine.html" in capsys.readouterr().err
        assert (tmp_path / "mine.html").read_text(encoding="utf-8").startswith("<!")
    assert run(["evaluate", "r", "set", "--report", "other.html"]) == 0
    assert not (tmp_path / "r" / "evaluation.html").exists()
    os.mkfifo(tmp_path / "pipe")
    capsys.readouterr()
    for place, reason in {
        "r/model.safetensors": "is no .html file, so it is not written over",
        "set.csv": "is no .html file",
        "set/disc/0.png": "is no .html file",
        "set": "a folder",
        "pipe": "a device",
        "/dev/null": "a device",
        "nowhere/r.html": "in a folder that exists",
    }.items():
        assert run([*evaluate, "--report", place]) == 2, place
        assert reason in capsys.readouterr().err
    assert (tmp_path / "r" / "model.safetensors").read_bytes() == model
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "set.csv").read_text().startswith("image,label")


def test_find_lr_and_runs_write_over_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shapes(tmp_path / "set", {"disc": 12, "bar": 12})
    before = (tmp_path / "set" / "disc" / "0.png").read_bytes()
    for place in ("set/disc/0.png", "set", "/dev/null"):
        assert run(["train", "set", "--find-lr", "--out", place]) == 2
    for place in ("set/disc/0.png", "set", "/dev/null"):
        assert run(["train", "set", "--out", place]) == 2
        assert run(["demo", "--out", place]) == 2
    assert (tmp_path / "set" / "disc" / "0.png").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_the_demo_trains_well_and_predicts_a_picture_that_it_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--out", "d"]) == 0
    first, report, _, kept = capsys.readouterr().out.splitlines()
    assert float(first.removeprefix("test accuracy ").split()[0]) > 97, first
    assert report == "report:  d/report.html"
    path, _, answer = kept.partition(" (kept aside): ")
    assert run(["predict", "d", path, "--format", "jsonl"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert answer.startswith(f"{said['label']}, {100 * said['confidence']:.2f} % sure; ")
    config, image = runs.read_config(tmp_path / "d"), np.asarray(Image.open(path).convert("RGB"))
    listing = data_room.read("digits").splits["all"]
    [row] = [i for i in range(len(listing)) if np.array_equal(np.asarray(listing.sources[i]), image)]
    truth = str(listing.labels[row])
    assert answer.endswith("; right" if truth == said["label"] else f"; wrong: it is {truth}")
    parts = data_room.divide(
        data_room.decode_all(data_room.read("digits"), load_model(tmp_path / "d").card.preprocess)[0], config.seed
    ).parts
    assert listing.names[row] in parts["test"].names, "no picture that training saw"
