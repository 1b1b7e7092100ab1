"""The main jobs from end to end, on real pictures and small networks."""

import csv
import dataclasses
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
from conftest import shared
from PIL import Image
from safetensors.torch import load_file

import wideresnet as wrn
from wideresnet import data as data_room
from wideresnet import jobs, runs, runtime
from wideresnet.checkpoint import load_model
from wideresnet.errors import DataError, Interrupted, ModelFileError, TrainingStopped, UsageError
from wideresnet.jobs.preparation import make_recipe
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
        "model.safetensors",
        "report.html",
        "log.txt",
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
    images = parts["train"].images.double() / 255
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
    """Presses Ctrl-C in the middle of epoch `epoch`, as a person would: from outside the loop."""

    def __init__(self, epoch: int) -> None:
        self.wanted = f"epoch {epoch}/"

    def __call__(self, what: str, *_: object) -> None:
        if what.startswith(self.wanted) and self.wanted:
            self.wanted = "never"
            signal.raise_signal(signal.SIGINT)


def test_a_run_that_was_interrupted_goes_on_bitwise_and_says_how(tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 3, "dropout_p": 0.1}
    wrn.train("digits", out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted, match=r"stopped in epoch 2;.* --resume .*stopped"):
        wrn.train("digits", out=tmp_path / "stopped", **{**options, "watch": runtime.Watch(progress=StopAfter(2))})
    assert len(list(csv.DictReader((tmp_path / "stopped" / "metrics.csv").open()))) == 1
    resumed = wrn.resume(tmp_path / "stopped", watch=runtime.QUIET)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        whole, stopped = load_file(tmp_path / "whole" / name), load_file(tmp_path / "stopped" / name)
        assert whole.keys() == stopped.keys()
        assert all(torch.equal(whole[key], stopped[key]) for key in whole), name
    assert wrn.load(tmp_path / "whole").card == wrn.load(resumed.folder).card
    assert wrn.resume(resumed.folder, watch=runtime.QUIET).evaluation.accuracy == resumed.evaluation.accuracy


def test_a_run_interrupted_before_its_first_epoch_ended_goes_on_from_the_start(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "r", **{**QUICK, "watch": runtime.Watch(progress=StopAfter(1))})
    assert not (tmp_path / "r" / "checkpoint.safetensors").exists()
    wrn.resume(tmp_path / "r", watch=runtime.QUIET)
    wrn.train("digits", out=tmp_path / "whole", **QUICK)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("r", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_going_on_with_other_data_or_versions_or_no_run_is_refused(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"disc": 12, "bar": 12})
    run = wrn.train(data, out=tmp_path / "r", **{**QUICK, "epochs": 1})
    (data / "disc" / "0.png").unlink()
    with pytest.raises(DataError, match=r"not the data that .* was trained on"):
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
    ],
)
def test_an_impossible_option_is_told_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        wrn.train("digits", out=tmp_path / "r", watch=runtime.QUIET, **{"epochs": 1, **options})
    assert not (tmp_path / "r").exists()


def test_pictures_that_do_not_fit_into_memory_are_refused_with_the_figures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1,797 pictures of 100000×100000 take 53,910.0 GB.*smaller --size"):
        wrn.train("digits", out=tmp_path / "r", **{**QUICK, "size": 100_000})


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


def test_what_the_data_says_goes_into_the_recipe_and_what_the_user_says_wins() -> None:
    default = defaults(2_000, 32, "cpu")

    def make(name: str, classes: list[str], num_train: int = 2_000, **changes: Any) -> Recipe:
        return make_recipe(name, changes, default=default, size=32, class_names=classes, num_train=num_train)

    made = make("fast", ["cat", "dog"])
    assert (made.epochs, made.batch_size, made.crop_padding, made.flip) == (60, 64, 4, True)
    assert made.lr == pytest.approx(0.2)
    assert make("fast", ["3", "8"]).flip is False
    assert make("fast", ["3", "8"], flip=True, lr=0.7).lr == 0.7
    few = make("fast", ["cat", "dog"], num_train=32, batch_size=400)
    assert few.batch_size == 32
    assert few.lr == pytest.approx(0.1)
    paper = make("paper", ["cat", "dog"])
    assert (paper.epochs, paper.batch_size, paper.lr) == (200, 128, 0.1)


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
