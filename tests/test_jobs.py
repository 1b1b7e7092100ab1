"""The main jobs from end to end, on real pictures and small networks."""

import base64
import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import pixels, shared
from PIL import Image
from safetensors.torch import load_file

import wideresnet as wrn
from wideresnet import data as data_room
from wideresnet import jobs, kernels, runs, runtime
from wideresnet.checkpoint import load_checkpoint, load_model
from wideresnet.errors import DataError, Interrupted, ModelFileError, TrainingStopped, UsageError
from wideresnet.jobs.planning import make_recipe
from wideresnet.recipes import Recipe, defaults

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 3, "watch": runtime.QUIET}


def shapes(root: Path, counts: dict[str, int], size: int = 20) -> Path:
    """Pictures of two kinds that a small network can tell apart: {"train/disc": 8} → 8 discs in that folder."""
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = random.integers(0, 60, (size, size, 3), dtype=np.uint8)
            y, x = random.integers(6, size - 6, 2)
            rows, columns = np.ogrid[:size, :size]
            inside = (rows - y) ** 2 + (columns - x) ** 2 < 30
            if "bar" in name:
                inside = np.broadcast_to(np.abs(rows - y) < 2, (size, size))
            image[inside] += np.uint8(150)
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def shapes_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, wrn.Run]:
    """A folder without splits, and a run on it."""
    base = tmp_path_factory.mktemp("shapes")
    data = shapes(base / "shapes", {"disc": 60, "bar": 60})
    return data, wrn.train(data, out=base / "run", **{**QUICK, "epochs": 12})


def test_training_learns_and_leaves_every_file_of_a_run(shapes_run: tuple[Path, wrn.Run]) -> None:
    _, run = shapes_run
    assert run.evaluation.split == "test"
    assert run.evaluation.accuracy >= 0.9, run.evaluation.accuracy
    assert {p.name for p in run.folder.iterdir()} == {
        "config.json",
        "metrics.csv",
        "checkpoint.safetensors",
        "checkpoint.previous.safetensors",
        "model.safetensors",
        "report.html",
        "log.txt",
        ".lock",
    }
    rows = list(csv.DictReader((run.folder / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 13)]
    assert (run.folder / "log.txt").read_text().count("val_accuracy") == 12


def test_the_model_file_says_how_it_was_made_and_how_good_it_is(shapes_run: tuple[Path, wrn.Run]) -> None:
    _, run = shapes_run
    card = load_model(run.folder).card
    assert card.class_names == ("bar", "disc")
    assert card.figures["accuracy"] == run.evaluation.accuracy
    assert card.figures["split"] == "test"
    assert card.trained["recipe"]["epochs"] == 12
    assert card.trained["fingerprint"] == runs.read_config(run.folder).fingerprint
    assert card.preprocess.size == 20
    listing = data_room.read(shapes_run[0])
    parts = data_room.divide(data_room.decode_all(listing, card.preprocess)[0], 0).parts
    images = pixels(parts["train"]).double() / 255
    assert card.preprocess.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert card.preprocess.std == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_a_picture_answers_the_same_in_every_form(shapes_run: tuple[Path, wrn.Run], tmp_path: Path) -> None:
    data, run = shapes_run
    predictor = wrn.load(run.folder)
    path = data / "disc" / "0.png"
    image = Image.open(path)
    array = np.asarray(image)
    forms: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        image,
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    expected = predictor.logits(path)
    for form in forms:
        assert torch.equal(predictor.logits(form), expected), type(form)
    answer = predictor(path)
    assert answer.label == "disc"
    assert sum(answer.probs.values()) == pytest.approx(1)
    assert answer.confidence == answer.probs["disc"]
    Image.fromarray(array).resize((50, 33)).save(tmp_path / "other.png")
    many = predictor([*forms, tmp_path / "other.png"])
    assert [one.label for one in many[:6]] == ["disc"] * 6
    torch.testing.assert_close(predictor.logits(forms)[3:4], expected)
    assert predictor([]) == []


def test_the_engine_asked_for_computes_and_is_named(shapes_run: tuple[Path, wrn.Run]) -> None:
    data, run = shapes_run
    assert wrn.load(run.folder, engine="torch").engine.name == "torch"
    ours = kernels.isa() != "none"
    assert wrn.load(run.folder, device="cpu").engine.name == ("kernels" if ours else "torch")
    plain = wrn.evaluate(run.folder, data, device="cpu", watch=runtime.QUIET)
    torchs = wrn.evaluate(run.folder, data, device="cpu", engine="torch", watch=runtime.QUIET)
    assert torchs.engine == f"torch {torch.__version__} on cpu"
    assert plain.engine.startswith("our kernels " if ours else "torch ")
    assert np.array_equal(plain.logits, torchs.logits) != ours, "other kernels round otherwise"


def test_a_val_part_that_is_all_right_leaves_confidences_raw_and_says_so(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"train/disc": 40, "train/bar": 40, "val/disc": 3, "val/bar": 3})
    lines: list[str] = []
    options = {**QUICK, "epochs": 20, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train(data, out=tmp_path / "r", **options)
    assert run.evaluation.accuracy == 1, "the pictures of this test are to be easy"
    assert load_model(run.folder).card.temperature == 1
    assert any("too easy to fit a temperature" in line for line in lines)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]: expected uint8"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]: expected"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"expected uint8, an array \[H, W, 3\] or a tensor \[3, H, W\]"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        ("nowhere.png", r"nowhere\.png: no such file"),
        (b"", "empty"),
    ],
)
def test_a_form_that_is_no_picture_is_refused_by_what_it_is(
    shapes_run: tuple[Path, wrn.Run], form: Any, message: str
) -> None:
    with pytest.raises(wrn.ImageError, match=message):
        wrn.load(shapes_run[1].folder)(form)


def test_evaluating_on_the_data_of_training_counts_only_what_training_never_saw(
    shapes_run: tuple[Path, wrn.Run], tmp_path: Path
) -> None:
    data, run = shapes_run
    again = wrn.evaluate(run.folder, data, report_file=tmp_path / "r.html", watch=runtime.QUIET)
    assert again.figures() == {**run.evaluation.figures(), "data": "shapes"}
    assert again.names == run.evaluation.names
    assert "<html" in (tmp_path / "r.html").read_text(encoding="utf-8")
    other = tmp_path / "other"  # almost the same: all of it counts, and what was trained on is said
    shutil.copytree(data, other)
    (other / "disc" / "new.png").write_bytes((data / "bar" / "0.png").read_bytes())
    lines: list[str] = []
    assert len(wrn.evaluate(run.folder, other, watch=runtime.Watch(line=lines.append)).labels) == 121
    assert any(
        re.fullmatch(r"note: 9[67] of these 121 pictures were trained on, which flatters the figures", x) for x in lines
    )


@pytest.mark.parametrize("kept", ["in memory", "cached on disk", "decoded anew"])
def test_where_pictures_are_kept_changes_no_figure(shapes_run: tuple[Path, wrn.Run], kept: str) -> None:
    data, run = shapes_run
    lines: list[str] = []
    modes: dict[str, Any] = {"in memory": "memory", "cached on disk": "disk", "decoded anew": "off"}
    again = wrn.evaluate(run.folder, data, cache=modes[kept], watch=runtime.Watch(line=lines.append))
    assert lines[0].startswith(f"120 pictures, {kept}")
    assert np.array_equal(again.logits, run.evaluation.logits)
    assert again.names == run.evaluation.names
    if kept == "cached on disk":
        wrn.evaluate(run.folder, data, cache="disk", watch=runtime.Watch(line=lines.append))
        assert any(line.startswith("120 pictures, from the cache") for line in lines)


def test_evaluation_matches_classes_by_name_and_names_one_it_does_not_know(
    shapes_run: tuple[Path, wrn.Run], tmp_path: Path
) -> None:
    data, run = shapes_run
    shutil.copytree(data / "disc", tmp_path / "part" / "disc")
    part = wrn.evaluate(run.folder, tmp_path / "part", watch=runtime.QUIET)
    assert set(part.labels.tolist()) == {1}  # "disc" is class 1 of the model, though 0 in this folder
    assert part.accuracy >= 0.9
    shutil.copytree(data / "disc", tmp_path / "part" / "disk")
    with pytest.raises(DataError, match=r"class 'disk' is none of the model's; did you mean 'disc'\?"):
        wrn.evaluate(run.folder, tmp_path / "part")
    with pytest.raises(UsageError, match="--split vall"):
        wrn.evaluate(run.folder, data, split="vall", watch=runtime.QUIET)


def test_two_runs_with_one_seed_are_bitwise_equal_and_another_seed_differs(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        wrn.train("digits", out=tmp_path / name, seed=seed, **{**QUICK, "epochs": 2, "dropout_p": 0.1})
    a, b, c = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)
    assert wrn.load(tmp_path / "a").card == wrn.load(tmp_path / "b").card


class StopAfter:
    """Presses Ctrl-C after a step of epoch `epoch`, as a person would: from outside the loop."""

    def __init__(self, epoch: int, step: int = 1) -> None:
        self.wanted, self.left = f"epoch {epoch}/", step

    def __call__(self, what: str, *_: object) -> None:
        self.left -= what.startswith(self.wanted)
        if self.left == 0:
            self.left = -1
            signal.raise_signal(signal.SIGINT)


def metrics_but_times(folder: Path) -> list[list[tuple[str, str]]]:
    """metrics.csv, its columns in their order."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [[pair for pair in row.items() if pair[0] not in ("seconds", "images_per_s")] for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout_p": 0.1},
        {"precision": "fp16", "accumulate": 2, "clip_norm": 1.0, "swa_epochs": 2, "balanced": True},
        {"sam_rho": 0.05, "early_stopping": 1, "class_weights": True, "flip": True, "flip_by": "chance"}
        | {"schedule": "steps", "milestones": (2,), "forget_momentum": True},
    ],
    ids=" ".join,
)
def test_a_run_that_was_interrupted_goes_on_bitwise_and_says_how(tmp_path: Path, changes: dict[str, Any]) -> None:
    options = {**QUICK, "epochs": 3, **changes}
    wrn.train("digits", out=tmp_path / "whole", **options)
    watch, lines = runtime.Watch(progress=StopAfter(2, 5)), list[str]()
    with pytest.raises(Interrupted, match=r"stopped after step 5 of 22 of epoch 2\. Go on .* --resume .*stopped$"):
        wrn.train("digits", out=tmp_path / "stopped", **{**options, "watch": watch})
    assert len(metrics_but_times(tmp_path / "stopped")) == 1
    resumed = wrn.resume(tmp_path / "stopped", watch=runtime.Watch(line=lines.append))
    assert f"going on with {tmp_path / 'stopped'} after step 5 of 22 of epoch 2 of 3" in lines
    assert metrics_but_times(tmp_path / "stopped") == metrics_but_times(tmp_path / "whole")
    metrics = tmp_path / "stopped" / "metrics.csv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    wrn.resume(tmp_path / "stopped", watch=runtime.QUIET)  # as after a kill between the checkpoint and its row
    assert metrics_but_times(tmp_path / "stopped") == metrics_but_times(tmp_path / "whole")
    for name in ("checkpoint.safetensors", "model.safetensors"):
        whole, stopped = load_file(tmp_path / "whole" / name), load_file(tmp_path / "stopped" / name)
        assert whole.keys() == stopped.keys()
        assert all(torch.equal(whole[key], stopped[key]) for key in whole), name
    assert wrn.load(tmp_path / "whole").card == wrn.load(resumed.folder).card
    assert wrn.resume(resumed.folder, watch=runtime.QUIET).evaluation.accuracy == resumed.evaluation.accuracy


def test_a_run_interrupted_before_its_first_epoch_ended_goes_on_from_that_step(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "r", **{**QUICK, "watch": runtime.Watch(progress=StopAfter(1))})
    assert load_checkpoint(tmp_path / "r" / "checkpoint.safetensors")[1]["begun"]["steps"] == 1
    assert not (tmp_path / "r" / "model.safetensors").exists()
    wrn.resume(tmp_path / "r", watch=runtime.QUIET)
    wrn.train("digits", out=tmp_path / "whole", **QUICK)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("r", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_going_on_with_other_data_or_versions_or_no_run_is_refused(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"disc": 12, "bar": 12})
    run = wrn.train(data, out=tmp_path / "r", **{**QUICK, "epochs": 1})
    (data / "disc" / "0.png").unlink()
    with pytest.raises(DataError, match=r"not the data that .* was trained on \(pictures of all\.disc 12 → 11\)\. Put"):
        wrn.resume(run.folder, watch=runtime.QUIET)
    shutil.copyfile(data / "disc" / "1.png", data / "disc" / "0.png")
    with pytest.raises(DataError, match=r"as many of each class, but other pictures or labels"):
        wrn.resume(run.folder, watch=runtime.QUIET)
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps({**config, "seed": 1}))
    with pytest.raises(ModelFileError, match=r"config\.json: not the config this run was made with"):
        wrn.resume(run.folder)
    config["versions"]["torch"] = "1.0"
    (run.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"torch 1\.0 → .*not be bitwise"):
        wrn.resume(run.folder)
    with pytest.raises(ModelFileError, match=r"not a run \(no config\.json\)"):
        wrn.resume(tmp_path)


def test_a_run_that_lost_its_checkpoint_is_never_trained_over(tmp_path: Path) -> None:
    run = wrn.train("digits", out=tmp_path / "r", **{**QUICK, "epochs": 1})
    (run.folder / "checkpoint.safetensors").unlink()
    before = (run.folder / "model.safetensors").read_bytes()
    with pytest.raises(ModelFileError, match=r"its checkpoint\.safetensors is gone"):
        wrn.resume(run.folder)
    assert (run.folder / "model.safetensors").read_bytes() == before


def test_a_network_whose_last_update_ruined_it_is_no_result_though_its_loss_was_finite(tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "lr": 1e38, "batch_size": 1600, "recipe": "paper"}  # one update, the last
    with pytest.raises(wrn.Diverged, match="not finite") as caught:
        wrn.train("digits", out=tmp_path / "r", **options)
    assert "--resume" not in str(caught.value), "going on would come to the same"
    assert not (tmp_path / "r" / "report.html").exists()


def test_a_learning_rate_that_explodes_stops_whole_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"(loss|val_loss|weights) (is|are) (nan|inf|not finite).*lower --lr"):
        wrn.train("digits", out=tmp_path / "r", **{**QUICK, "lr": 1e12, "warmup_epochs": 0})
    assert not list((tmp_path / "r").glob("*.safetensors"))


def test_a_run_folder_is_never_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = wrn.train("digits", **{**QUICK, "epochs": 1}).folder
    second = wrn.train("digits", **{**QUICK, "epochs": 1}).folder
    assert (str(first), str(second)) == ("runs/digits-1", "runs/digits-2")
    with pytest.raises(UsageError, match=r"exists already.*--resume runs/digits-1"):
        wrn.train("digits", out=first, **QUICK)
    rows = jobs.list_runs()
    assert [row["run"] for row in rows] == ["digits-1", "digits-2"]
    assert rows[0]["epochs"] == "1/1"
    assert rows[0]["accuracy"] == wrn.load(first).card.figures["accuracy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "wrn_17_2"}, "--arch wrn_17_2: .*16 and 22"),
        ({"arch": "resnet18"}, "expected wrn_DEPTH_WIDEN"),
        ({"recipe": "quick"}, "--recipe quick"),
        ({"lr": -1.0}, "lr=-1"),
        ({"crop_padding": 8}, "crop_padding=8: must be below the size"),
        ({"size": 0}, "size=0"),
        ({"mean": (125.0, 123.0, 114.0)}, "divide by 255"),
        ({"time_budget_s": 9.0}, "give one"),
        ({"device": "cpu:x"}, "--device cpu:x"),
        ({"batch_size": 1, "size": 4, "crop_padding": 0}, "BN needs more than one value"),
        ({"mean": (0.5,)}, "--mean: 1 values for 3 channels"),
        ({"std": (0.0, 0.1, 0.1)}, "std"),
        ({"device": "tpu"}, "--device tpu"),
        ({"in_channels": 2}, "channels"),
        ({"recipe": "paper", "early_stopping": 3}, "set --select best"),
        ({"swa_epochs": 1}, r"swa_epochs=1: expected a value in \[0, 0\]"),
        ({"batch_size": 8, "accumulate": 8, "size": 4, "crop_padding": 0}, "in 8 parts at 4 pixels: BN needs more"),
    ],
)
def test_an_impossible_option_is_told_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        wrn.train("digits", out=tmp_path / "r", watch=runtime.QUIET, **{"epochs": 1, **options})
    assert not (tmp_path / "r").exists()


def test_pictures_that_do_not_fit_into_memory_are_refused_with_the_figures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1,797 pictures of 16000×16000 take 1,380.1 GB.*smaller --size"):
        wrn.train("digits", out=tmp_path / "r", **{**QUICK, "size": 16_000})


def test_a_part_without_pictures_is_no_part(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"train/disc": 20, "train/bar": 20})
    (data / "val" / "disc").mkdir(parents=True)
    run = wrn.train(data, out=tmp_path / "r", **{**QUICK, "epochs": 1})
    assert run.evaluation.split == "val"
    assert len(run.evaluation.labels) == 4


def test_a_class_that_only_val_has_is_an_error_naming_it_and_one_that_val_lacks_is_none(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"train/disc": 10, "train/bar": 10, "val/disc": 4})
    run = wrn.train(data, out=tmp_path / "r", **{**QUICK, "epochs": 1})
    assert run.evaluation.class_names == ("bar", "disc")
    assert run.evaluation.per_class[0].recall is None
    shapes(data, {"val/square": 2})
    with pytest.raises(DataError, match=r"val has class 'square' \(2 pictures\), which train does not have"):
        wrn.train(data, out=tmp_path / "r2", **QUICK)
    assert not (tmp_path / "r2").exists()


def test_the_messy_folder_as_a_whole_has_its_own_outcome(tmp_path: Path) -> None:
    from test_data import messy_folder

    messy, _ = messy_folder(tmp_path)
    with pytest.raises(DataError, match="val has class 'triangle'"):
        wrn.train(messy, out=tmp_path / "r", **QUICK)
    shutil.rmtree(messy / "val" / "triangle")
    with pytest.raises(DataError, match=r"4 of 41 pictures cannot be read:(\n  train/\S+: .+){4}\nMend or remove"):
        wrn.train(messy, out=tmp_path / "r", **QUICK)
    lines: list[str] = []
    watch = runtime.Watch(line=lines.append)
    run = wrn.train(messy, out=tmp_path / "r", max_bad=4, **{**QUICK, "epochs": 1, "watch": watch})
    said = "\n".join(lines)
    assert run.evaluation.class_names == ("circle", "square")
    assert "left out, unreadable: 4" in said
    assert "left out, no picture to train on: class only_broken" in said
    assert "in more than one split" in said
    assert "under more than one label" in said
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "under more than one label" in report
    again = wrn.evaluate(run.folder, messy, max_bad=None, watch=runtime.QUIET)
    assert (again.split, again.accuracy) == ("val", run.evaluation.accuracy)


def test_a_class_without_a_readable_picture_does_not_make_evaluation_count_pictures_of_training(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"disc": 30, "bar": 30, "a_broken": 1})
    (data / "a_broken" / "0.png").write_bytes(b"")
    run = wrn.train(data, out=tmp_path / "r", max_bad=None, **{**QUICK, "epochs": 1})
    again = wrn.evaluate(run.folder, data, max_bad=None, watch=runtime.QUIET)
    assert (again.split, again.names) == ("test", run.evaluation.names)
    assert again.labels.tolist() == run.evaluation.labels.tolist()


def test_the_paper_s_recipe_trains_on_all_of_train_and_takes_the_last_epoch(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"train/disc": 20, "train/bar": 20, "test/disc": 5, "test/bar": 5})
    run = wrn.train(data, recipe="paper", out=tmp_path / "r", **{**QUICK, "epochs": 2})
    rows = list(csv.DictReader((run.folder / "metrics.csv").open()))
    assert "val_accuracy" not in rows[0]
    assert load_model(run.folder).card.trained["epoch"] == 2
    assert run.evaluation.split == "test"
    assert runs.read_config(run.folder).recipe.milestones == (2, 2, 3)
    assert "momentum anew at milestones" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_what_the_data_says_goes_into_the_recipe_and_what_the_user_says_wins() -> None:
    default = defaults(2_000, 32, "cpu")

    def make(name: str, classes: list[str], num_train: int = 2_000, **changes: Any) -> Recipe:
        return make_recipe(name, changes, default=default, size=32, class_names=classes, num_train=num_train)

    made = make("fast", ["cat", "dog"])
    assert (made.epochs, made.batch_size, made.crop_padding, made.flip) == (60, 64, 4, True)
    assert made.lr == pytest.approx(0.2)
    assert made.weight_decay == make("strong", ["cat", "dog"]).weight_decay == 2e-3
    assert make("fast", ["cat", "dog"], weight_decay=0.0).weight_decay == 0
    assert make("paper", ["cat", "dog"]).weight_decay == 5e-4
    assert make("fast", ["cat", "dog"], epochs=10).crop_padding == 2
    assert make("paper", ["cat", "dog"], epochs=10).crop_padding == 4
    assert make("fast", ["3", "8"]).flip is False
    assert make("fast", ["3", "8"], flip=True, lr=0.7).lr == 0.7
    few = make("fast", ["cat", "dog"], num_train=32, batch_size=400)
    assert few.batch_size == 32
    assert few.lr == pytest.approx(0.1)
    paper = make("paper", ["cat", "dog"])
    assert (paper.epochs, paper.batch_size, paper.lr) == (200, 128, 0.1)
    strong = make("strong", ["cat", "dog"])
    assert (strong.epochs, strong.batch_size, strong.warmup_epochs) == (180, 64, 36)
    assert strong.lr == pytest.approx(0.2)
    assert make("strong", ["cat", "dog"], epochs=10).crop_padding == 2
    for name in ("fast", "paper", "strong"):  # crops of random size come instead of shifts
        assert make(name, ["cat", "dog"], zoom=0.5).crop_padding == 0
    with pytest.raises(UsageError, match=r"zoom=0\.5 and crop_padding=3 both move pictures"):
        make("fast", ["cat", "dog"], zoom=0.5, crop_padding=3)
    with pytest.raises(UsageError, match="cutout=32: must be below the size of the pictures, 32"):
        make("fast", ["cat", "dog"], cutout=32)


EVERYTHING: dict[str, Any] = {
    "policy": "rand",
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "cutout": 4,
    "erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "zoom": 0.5,
    "ema_decay": 0.9,
    "flip": True,
}


def test_a_run_with_every_augmentation_repeats_and_resumes_bit_for_bit_after_a_crash_too(tmp_path: Path) -> None:
    options = {**QUICK, **EVERYTHING, "epochs": 3}
    whole = wrn.train("digits", out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "cut", **{**options, "watch": runtime.Watch(progress=StopAfter(3, 2))})

    def crash(_what: str, _done: int, _total: int, _details: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wrn.resume(tmp_path / "cut", watch=runtime.Watch(progress=crash))
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.safetensors")[1]["begun"]["steps"] == 2
    wrn.resume(tmp_path / "cut", watch=runtime.QUIET)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    page = (whole.folder / "report.html").read_text()
    for words in ("crops of 50 to 100 % of the area", "RandAugment", "cutout of 4 pixels", "mixup α 0.2", "cutmix α 1"):
        assert words in page


def test_the_report_shows_pictures_as_the_network_got_them(tmp_path: Path) -> None:
    """Half white, half black, all that is on is a cutout and mixing: the squares and the mixtures are there."""
    data = tmp_path / "data"
    for name, value in (("black", 0), ("white", 255)):
        (data / name).mkdir(parents=True)
        for i in range(40):
            image = np.full((8, 8, 3), value, np.uint8)
            image[0, 0] = i  # no two are the same picture
            Image.fromarray(image).save(data / name / f"{i}.png")
    plain = {**QUICK, "epochs": 1, "flip": False, "crop_padding": 0, "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def seen(**changes: Any) -> tuple[np.ndarray, str]:
        run = wrn.train(data, out=tmp_path / str(len(list(tmp_path.iterdir()))), **plain, **changes)
        section = (run.folder / "report.html").read_text().partition('<section id="augmented">')[2]
        section = section.partition("</section>")[0]
        found = [base64.b64decode(text) for text in re.findall(r'data:image/png;base64,([^"]+)"', section)]
        return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in found]), section

    images, _ = seen()
    assert set(np.unique(images[:, 1:])) == {0, 255}
    assert 16 <= len(images) <= 24
    images, _ = seen(cutout=4)
    assert set(np.unique(images[:, 1:])) == {0, 128, 255}, "the mean colour"
    _, section = seen(mixup=1.0)
    assert re.search(r"\d+ % (black|white), \d+ % (black|white)", section)


def test_mixing_the_pictures_of_a_single_class_is_told_to_be_no_task(tmp_path: Path) -> None:
    data = shapes(tmp_path / "one", {"disc": 12})
    for mixing in ({"mixup": 0.2}, {"cutmix": 1.0}):
        with pytest.raises(DataError, match="at least two"):
            wrn.train(data, out=tmp_path / "r", **{**QUICK, **mixing})
    assert not (tmp_path / "r").exists()


def test_test_time_augmentation_is_named_beside_every_figure(shapes_run: tuple[Path, wrn.Run], tmp_path: Path) -> None:
    data, run = shapes_run
    plain = wrn.evaluate(run.folder, data, watch=runtime.QUIET)
    both = wrn.evaluate(run.folder, data, tta="flip", report_file=tmp_path / "r.html", watch=runtime.QUIET)
    assert (plain.figures()["tta"], both.figures()["tta"]) == ("none", "flip")
    assert "averaged over each picture and its mirror image" in both.engine
    assert not np.allclose(plain.logits, both.logits)
    page = (tmp_path / "r.html").read_text()
    assert "With test-time augmentation (flip)" in page
    assert "--tta flip" in page
    with pytest.raises(UsageError, match=r"--tta flop; did you mean 'flip'\?"):
        wrn.evaluate(run.folder, data, tta="flop")  # type: ignore[arg-type]


def test_the_command_of_a_run_repeats_it_though_python_made_it(tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "seed": 3, "flip": True, "label_smoothing": 0.0, "mean": (0.5, 0.5, 0.5)}
    run = wrn.train("digits", out=tmp_path / "a", **options)
    words = shlex.split(runs.read_config(run.folder).command)
    assert words[:3] == ["wrn", "train", "digits"]
    command = [sys.executable, "-m", "wideresnet", *words[1:], "--out", str(tmp_path / "b")]
    subprocess.run(command, check=True, capture_output=True)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert runs.read_config(tmp_path / "a") == runs.read_config(tmp_path / "b")


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 1},
        {"fit": "squash"},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        {"size": 12},
        {"arch": "wrn_10_1.paper"},
        {"ema_decay": 0.9},
        {"dropout_p": 0.2},
    ],
)
def test_an_option_of_pictures_or_network_travels_with_the_model(tmp_path: Path, options: dict[str, Any]) -> None:
    run = wrn.train("digits", out=tmp_path / "r", **{**QUICK, "epochs": 1, **options})
    file = load_model(run.folder)
    preprocess = dataclasses.asdict(file.card.preprocess)
    for name, value in options.items():
        if name == "arch":
            assert file.card.architecture["shortcut"] == "activated"
        elif name == "ema_decay":
            assert file.card.weights == "ema"
        elif name == "dropout_p":
            assert file.card.architecture["dropout_p"] == value
        elif name == "in_channels":
            assert file.card.architecture["in_channels"] == file.card.preprocess.channels == value
        else:
            assert preprocess[name] == value
    assert wrn.load(run.folder)(np.zeros((8, 8, 3), np.uint8)).label in run.evaluation.class_names


def test_averaged_epochs_are_judged_and_saved_as_swa(tmp_path: Path) -> None:
    run = wrn.train("digits", out=tmp_path / "r", swa_epochs=2, select="last", **QUICK)
    file = load_model(run.folder)
    assert file.card.weights == "swa"
    checkpoint, kept = load_file(run.folder / "checkpoint.safetensors"), file.model.state_dict()
    assert torch.equal(checkpoint["average/fc.weight"], kept["fc.weight"])
    assert not torch.equal(checkpoint["model/fc.weight"], kept["fc.weight"])
    assert "last 2 epochs averaged" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_training_that_does_not_get_better_ends_early_and_is_judged_by_its_best_epoch(tmp_path: Path) -> None:
    lines: list[str] = []
    options = {**QUICK, "epochs": 9, "early_stopping": 2, "lr": 0.0, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train("digits", out=tmp_path / "r", **options)
    assert len(list(csv.DictReader((run.folder / "metrics.csv").open()))) < 9
    assert any(line.startswith("ended after epoch ") for line in lines)
    assert any("ends after 2 epochs without a better score" in line for line in lines)
    assert run.evaluation.split == "test"


def test_a_time_budget_sets_the_epochs_and_keeps_the_schedule_whole(tmp_path: Path) -> None:
    options: dict[str, Any] = {"arch": "wrn_10_1", "watch": runtime.QUIET}
    run = wrn.train("digits", out=tmp_path / "r", time_budget_s=1e-3, **options)  # less than any machine's epoch
    recipe = runs.read_config(run.folder).recipe
    assert recipe.epochs == 1
    assert recipe.warmup_epochs == pytest.approx(0.2)
    run = wrn.train("digits", out=tmp_path / "s", time_budget_s=1e-3, warmup_epochs=0.5, **options)
    assert runs.read_config(run.folder).recipe.warmup_epochs == 0.5


def test_the_time_said_for_a_network_thrown_away_leaves_the_run_s_own_untouched(tmp_path: Path) -> None:
    a = wrn.train("digits", out=tmp_path / "a", **{**QUICK, "epochs": 1})
    torch.randn(100)  # other draws in between
    b = wrn.train("digits", out=tmp_path / "b", **{**QUICK, "epochs": 1})
    assert np.array_equal(a.evaluation.logits, b.evaluation.logits)


def test_photographs_in_all_sizes_train_and_predict(tmp_path: Path) -> None:
    photos = shared("data/photos")
    run = wrn.train(photos, out=tmp_path / "r", size=32, **{**QUICK, "epochs": 2})
    assert run.evaluation.split == "val"
    assert len(run.evaluation.labels) == 48
    assert "val, which chose the epoch too" in (run.folder / "report.html").read_text(encoding="utf-8")
    answers = list(jobs.predict(run.folder, [photos / "val"]))
    assert [a.error for a in answers] == [""] * 48
    by_name = {str(a.path.relative_to(photos)): a.prediction for a in answers}
    for i, name in enumerate(run.evaluation.names):
        prediction = by_name[name]
        assert prediction is not None
        probs = run.evaluation.probs[i]
        assert prediction.confidence == pytest.approx(float(probs.max()), abs=1e-5)


# Where pictures are kept changes no result


def equal_runs(a: Path, b: Path) -> bool:
    """Checkpoint and model file, bit for bit."""
    for name in ("checkpoint.safetensors", "model.safetensors"):
        one, other = load_file(a / name), load_file(b / name)
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
            return False
    return runs.read_config(a) == runs.read_config(b)


def test_memory_disk_and_off_give_bitwise_the_same_run_and_each_goes_on_from_any_other(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"disc": 40, "bar": 40})
    options: dict[str, Any] = {**QUICK, "epochs": 2, "dropout_p": 0.1, "flip": True, "crop_padding": 2}
    options |= {"size": 12, "batch_size": 10}
    modes: tuple[data_room.Cache, ...] = ("memory", "disk", "off")
    for cache in modes:
        lines: list[str] = []
        watch = runtime.Watch(line=lines.append)
        run = wrn.train(data, out=tmp_path / cache, cache=cache, **{**options, "watch": watch})
        assert equal_runs(tmp_path / cache, tmp_path / "memory"), cache
        assert (tmp_path / cache / "report.html").exists()
        how = {"memory": "in memory", "disk": "cached on disk for", "off": "decoded anew each time"}[cache]
        assert sum(how in line for line in lines) == 1, lines
        assert wrn.evaluate(run.folder, data, watch=runtime.QUIET).accuracy == run.evaluation.accuracy
    for first, second in zip(modes, (*modes[1:], modes[0]), strict=True):
        folder = tmp_path / f"{first} {second}"
        watch = runtime.Watch(progress=StopAfter(2, 4))
        with pytest.raises(Interrupted, match="stopped after step 4 of 6 of epoch 2"):
            wrn.train(data, out=folder, cache=first, **{**options, "watch": watch})
        wrn.resume(folder, cache=second, watch=runtime.QUIET)
        assert equal_runs(folder, tmp_path / "memory"), f"{first}, then {second}"


KILL_A_READER = """
import os, signal, sys
from pathlib import Path
import wideresnet as wrn
from wideresnet import cli, runtime
from wideresnet.cli import console

def progress(what, *_):
    if what.startswith("epoch 2/"):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if children:
            os.kill(int(children[-1]), signal.SIGKILL)

console._sparse = lambda: progress
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_run_whose_reading_process_is_killed_stops_whole_and_goes_on_bitwise(tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds processes as Linux shows them")
    data = shapes(tmp_path / "set", {"disc": 40, "bar": 40})
    options = {**QUICK, "epochs": 3, "batch_size": 10}
    wrn.train(data, out=tmp_path / "whole", **options)
    words = ["train", str(data), "--arch", "wrn_10_1", "--epochs", "3", "--batch-size", "10", "--cache", "off"]
    command = [sys.executable, "-c", KILL_A_READER, *words, "--out", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"wrn: a process that reads pictures \(pid \d+\) was killed \(Killed\);.*", last), done.stderr
    assert f"wrn train --resume {tmp_path / 'r'}" in last
    assert "Traceback" not in done.stderr
    wrn.resume(tmp_path / "r", cache="off", watch=runtime.QUIET)
    assert equal_runs(tmp_path / "r", tmp_path / "whole")


def test_what_is_padded_in_training_has_the_colour_that_prediction_pads_with(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "wide" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(100, 200, (8, 16, 3), dtype=np.uint8)).save(path)
    run = wrn.train(tmp_path / "wide", out=tmp_path / "run", fit="pad", **{**QUICK, "epochs": 1, "size": 16})
    predictor = wrn.load(run.folder)
    assert all(140 < 255 * mean < 160 for mean in predictor.card.preprocess.mean), predictor.card.preprocess.mean
    names, logits = run.evaluation.names, run.evaluation.logits
    again = predictor.logits([tmp_path / "wide" / name for name in names])
    np.testing.assert_allclose(np.asarray(again), logits, rtol=1e-4, atol=1e-5)
