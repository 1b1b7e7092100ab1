"""Cross-validation: every picture is judged once, by a network that never saw it; and it stops and goes on whole."""

import csv
import dataclasses
import json
import shlex
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import wideresnet as wrn
from wideresnet import cli, jobs, runs, runtime
from wideresnet import data as data_room
from wideresnet.data import Pictures
from wideresnet.errors import DataError, Interrupted, ModelFileError, UsageError
from wideresnet.jobs.planning import plan
from wideresnet.processes import World
from wideresnet.reading import Reading

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 2, "watch": runtime.QUIET}


def digits(path: Path, num: int = 150, **parts: int) -> Path:
    """An .npz of the first digits 0, 1 and 2: `num` without parts, or so many in each of `parts`."""
    loaded = load_digits()
    some = loaded.target < 3
    images, labels = (loaded.images[some] * 15.9).astype(np.uint8), loaded.target[some]
    arrays: dict[str, Any] = {"class_names": ["zero", "one", "two"]}
    start = 0
    for name, count in parts.items() or {"": num}.items():
        prefix = f"{name}_" if name else ""
        arrays |= {f"{prefix}images": images[start : start + count], f"{prefix}labels": labels[start : start + count]}
        start += count
    np.savez(path, **arrays)
    return path


def pictures(digests: list[int], labels: list[int]) -> Pictures:
    num = len(labels)
    images = torch.zeros(num, 1, 1, 1, dtype=torch.uint8)
    names = tuple(map(str, range(num)))
    return Pictures(images, torch.tensor(labels), names, tuple(bytes([digest]) for digest in digests))


@given(
    copies=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=4, max_size=60),
    folds=st.integers(2, 6),
    seed=st.integers(0, 3),
)
@example(copies=[(0, 1)] * 7 + [(1, 1)] * 8, folds=3, seed=0)
def test_folds_hold_every_picture_once_keep_twins_together_and_are_stratified_within_rounding(
    copies: list[tuple[int, int]], folds: int, seed: int
) -> None:
    """copies: (label, how many copies) of each different picture."""
    digests = [i for i, (_, num) in enumerate(copies) for _ in range(num)]
    labels = [label for label, num in copies for _ in range(num)]
    data, names = pictures(digests, labels), [f"class {i}" for i in range(4)]
    different = Counter(label for label, _ in copies)
    if min(different.values()) < folds:
        smallest = min(sorted(different), key=lambda label: different[label])
        with pytest.raises(DataError, match=rf"--folds {folds}: class 'class {smallest}' has {different[smallest]} "):
            data_room.fold_rows(data, names, folds, seed)
        return
    rows = data_room.fold_rows(data, names, folds, seed)
    assert sorted(torch.cat(rows).tolist()) == list(range(len(labels)))
    of_digest = [{digests[i] for i in fold.tolist()} for fold in rows]
    assert sum(map(len, of_digest)) == len(copies), "a picture's copies lie in two folds"
    for label in different:
        counts = [sum(labels[i] == label for i in fold.tolist()) for fold in rows]
        assert max(counts) - min(counts) <= max(num for one, num in copies if one == label), counts
    if all(num == 1 for _, num in copies):
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
    again = data_room.fold_rows(data, names, folds, seed)
    assert all(torch.equal(a, b) for a, b in zip(rows, again, strict=True))


def test_the_folds_follow_from_the_seed() -> None:
    data, names = pictures(list(range(60)), [0, 1] * 30), ["a", "b"]
    one, other = (data_room.fold_rows(data, names, 3, seed) for seed in (0, 1))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_more_folds_than_a_class_has_different_pictures_is_an_error_that_says_how_many_can_be(tmp_path: Path) -> None:
    def random(name: str, *counts: int, copies: int = 0) -> Path:
        """So many different pictures of each class, and so many copies of the first."""
        images = np.random.default_rng(0).integers(0, 256, (sum(counts), 8, 8), dtype=np.uint8)
        images = np.concatenate([images, np.repeat(images[:1], copies, axis=0)])
        labels = np.repeat([*range(len(counts)), 0], [*counts, copies])
        np.savez(tmp_path / name, images=images, labels=labels, class_names=["zero", "one"])
        return tmp_path / name

    data = random("few.npz", 4, 7, copies=3)
    for name, message in {
        data: r"--folds 5: class 'zero' has 4 different pictures.*choose --folds 4",
        random("one.npz", 6, 1): r"class 'one' has 1 different picture,.*no number of folds is small enough",
    }.items():
        with pytest.raises(DataError, match=message):
            wrn.train(name, folds=5, out=tmp_path / "r", **QUICK)
    with pytest.raises(DataError, match="too few to make a val part"):
        wrn.train(random("two.npz", 2, 2), folds=2, out=tmp_path / "r", **QUICK)
    for folds in (1, 0, -3):
        with pytest.raises(UsageError, match=rf"--folds {folds}: expected at least 2"):
            wrn.train(data, folds=folds, out=tmp_path / "r", **QUICK)
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, wrn.Run]:
    """Three folds of 150 pictures, never interrupted."""
    base = tmp_path_factory.mktemp("folds")
    data = digits(base / "digits.npz")
    return data, wrn.train(data, folds=3, out=base / "cv", **QUICK)


def test_every_picture_is_judged_once_by_the_network_that_never_saw_it(whole: tuple[Path, wrn.Run]) -> None:
    data, run = whole
    e = run.evaluation
    assert e.split == "held-out"
    assert len(e.names) == len(set(e.names)) == 150
    assert e.correct == sum(fold.evaluation.correct for fold in run.folds)
    assert e.loss == pytest.approx(np.mean([fold.evaluation.loss for fold in run.folds]), rel=1e-4)  # 50 each
    row_of = {name: i for i, name in enumerate(e.names)}
    listing = data_room.read(data).splits["all"]
    assert e.labels.tolist() == listing.labels.tolist()
    for k, fold in enumerate(run.folds, 1):
        predictor = wrn.load(fold.folder)
        assert fold.folder == run.folder / f"fold-{k}"
        assert len(fold.evaluation.names) == 50
        seen = {bytes(row) for row in predictor.extra["seen"].numpy()}
        preprocess = predictor.card.preprocess
        parts = data_room.decode_all(data_room.read(data), preprocess)[0]["all"]
        for i, name in enumerate(fold.evaluation.names):
            assert parts.digests[parts.names.index(name)][:8] not in seen
            assert e.predicted[row_of[name]] == fold.evaluation.predicted[i]
            assert e.probs[row_of[name]] == pytest.approx(fold.evaluation.probs[i], abs=1e-5)


def test_a_cross_validation_leaves_a_run_for_each_fold_and_one_report_of_all(whole: tuple[Path, wrn.Run]) -> None:
    _, run = whole
    assert {p.name for p in run.folder.iterdir()} == {
        *("config.json", "log.txt", "folds.csv", "report.html", "fold-1", "fold-2", "fold-3", ".lock")
    } - ({"log.txt"} if not (run.folder / "log.txt").exists() else set())
    rows = list(csv.DictReader((run.folder / "folds.csv").open()))
    assert [float(row["accuracy"]) for row in rows] == [fold.evaluation.accuracy for fold in run.folds]
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Fold by fold" in page
    assert "mean and standard deviation of 3 folds" in page
    (listed,) = jobs.list_runs(run.folder.parent)
    assert (listed["epochs"], listed["split"], listed["accuracy"]) == ("3/3 folds", "held-out", run.evaluation.accuracy)
    assert [row["epochs"] for row in jobs.list_runs(run.folder)] == ["2/2"] * 3
    with pytest.raises(ModelFileError, match=r"is a cross-validation: \S+fold-1 and the others"):
        wrn.load(run.folder)


def test_evaluating_a_fold_s_model_on_the_data_of_training_counts_its_own_fold(whole: tuple[Path, wrn.Run]) -> None:
    data, run = whole
    fold = run.folds[1]
    lines: list[str] = []
    again = wrn.evaluate(fold.folder, data, watch=runtime.Watch(line=lines.append))
    assert again.names == fold.evaluation.names
    assert again.accuracy == fold.evaluation.accuracy
    assert not any("trained on" in line for line in lines), lines


def test_an_interrupted_cross_validation_goes_on_bitwise_and_trains_no_finished_fold_again(
    whole: tuple[Path, wrn.Run], tmp_path: Path
) -> None:
    data, run = whole
    stopped: list[str] = []

    def stop(what: str, *_: object) -> None:
        if not stopped and (tmp_path / "cv" / "fold-2" / "checkpoint.safetensors").exists():  # in its second epoch
            stopped.append(what)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=rf"wrn train --resume {tmp_path / 'cv'}$"):
        wrn.train(data, folds=3, out=tmp_path / "cv", **{**QUICK, "watch": runtime.Watch(progress=stop)})
    assert stopped == ["epoch 2/2"]
    assert jobs.list_runs(tmp_path)[0]["epochs"] == "1/3 folds"
    first = (tmp_path / "cv" / "fold-1" / "checkpoint.safetensors").stat()
    resumed = wrn.resume(tmp_path / "cv", watch=runtime.QUIET)
    assert (tmp_path / "cv" / "fold-1" / "checkpoint.safetensors").stat().st_ino == first.st_ino, "trained again"
    for k in (1, 2, 3):
        a, b = (load_file(place / f"fold-{k}" / "checkpoint.safetensors") for place in (run.folder, tmp_path / "cv"))
        assert all(torch.equal(a[key], b[key]) for key in a), f"fold {k}"
    assert np.array_equal(resumed.evaluation.logits, run.evaluation.logits)


def test_a_fold_alone_goes_on_as_any_run(whole: tuple[Path, wrn.Run]) -> None:
    _, run = whole
    again = wrn.resume(run.folds[2].folder, watch=runtime.QUIET)
    assert np.array_equal(again.evaluation.logits, run.folds[2].evaluation.logits)


def test_train_and_val_are_pooled_and_a_given_test_part_is_not_touched(tmp_path: Path) -> None:
    data = digits(tmp_path / "parts.npz", train=60, val=30, test=30)
    run = wrn.train(data, folds=2, out=tmp_path / "cv", **{**QUICK, "epochs": 1})
    assert Counter(name.split("[")[0] for name in run.evaluation.names) == {"train": 60, "val": 30}
    assert "the test part that was given (30 pictures) was not looked at" in (run.folder / "report.html").read_text()
    judged = wrn.evaluate(run.folds[0].folder, data, watch=runtime.QUIET)
    assert (judged.split, len(judged.labels)) == ("test", 30)
    assert {name.split("[")[0] for name in judged.names} == {"test"}


def test_a_recipe_that_keeps_no_val_part_trains_on_all_other_folds(tmp_path: Path) -> None:
    data = digits(tmp_path / "d.npz", 60)
    run = wrn.train(data, folds=2, recipe="paper", batch_size=100, out=tmp_path / "cv", **{**QUICK, "epochs": 1})
    assert [len(wrn.load(fold.folder).extra["seen"]) for fold in run.folds] == [30, 30]
    assert {runs.read_config(fold.folder).recipe.batch_size for fold in run.folds} == {30}, "no fold has more"


def test_changed_data_is_refused(tmp_path: Path) -> None:
    data = digits(tmp_path / "d.npz", 30)
    wrn.train(data, folds=2, out=tmp_path / "cv", **{**QUICK, "epochs": 1})
    digits(tmp_path / "d.npz", 33)
    with pytest.raises(DataError, match=r"not the data that .* was trained on"):
        wrn.resume(tmp_path / "cv", watch=runtime.QUIET)


def test_a_config_from_before_there_were_folds_is_read_and_keeps_its_digest(whole: tuple[Path, wrn.Run]) -> None:
    config = runs.read_config(whole[1].folder)
    assert (config.folds, config.fold) == (3, 0)
    values = {name: value for name, value in config.to_dict().items() if name not in {"folds", "fold"}}
    old = runs.config_from(json.loads(json.dumps(values)))
    assert (old.folds, old.fold) == (0, 0)
    assert old.digest == dataclasses.replace(config, folds=0).digest
    assert old.digest != config.digest


def test_the_command_says_what_to_do_with_a_cross_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    digits(tmp_path / "d.npz", 30)
    assert cli.run(["train", "d.npz", "--folds", "2", "--arch", "wrn_10_1", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("held-out accuracy ")
    assert "the same without --folds" in out
    assert cli.run(["train", "d.npz", "--folds", "40"]) == 2
    assert "class 'one' has 9 different pictures" in capsys.readouterr().err
    assert cli.run(["train", "--resume", "runs/d-1", "--folds", "2"]) == 2
    assert "--resume RUN stands alone" in capsys.readouterr().err


@given(
    sets=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=40),
    folds=st.integers(2, 4),
    seed=st.integers(0, 3),
)
def test_groups_of_any_classes_lie_in_one_fold_and_no_fold_takes_a_class_from_train(
    sets: list[list[int]], folds: int, seed: int
) -> None:
    """sets: the labels of each group's pictures."""
    labels = [label for group in sets for label in group]
    groups = tuple(f"g{i}" for i, group in enumerate(sets) for _ in group)
    data = pictures([i % 256 for i in range(len(labels))], labels)
    data = dataclasses.replace(data, groups=groups)
    try:
        rows = data_room.fold_rows(data, ["a", "b", "c"], folds, seed)
    except DataError:  # too few groups, or too large ones
        return
    assert sorted(torch.cat(rows).tolist()) == list(range(len(labels)))
    assert sum(len({groups[i] for i in fold.tolist()}) for fold in rows) == len(sets)
    for fold in rows:
        held_out = set(fold.tolist())
        assert {label for i, label in enumerate(labels) if i not in held_out} == set(labels)


def photos(place: Path) -> Path:
    """Random pictures of two classes in train (24) and val (8), as files."""
    random = np.random.default_rng(0)
    for i in range(32):
        path = place / ("train" if i < 24 else "val") / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)
    return place


def test_folds_and_trials_come_to_the_same_bits_wherever_pictures_are_kept(tmp_path: Path) -> None:
    data, options = photos(tmp_path / "photos"), {**QUICK, "epochs": 1, "size": 8}
    modes: tuple[data_room.Cache, ...] = ("memory", "disk", "off")
    logits = [wrn.train(data, folds=2, cache=mode, out=tmp_path / mode, **options).evaluation.logits for mode in modes]
    assert len(logits[0]) == 32
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
    studies = [
        wrn.tune(data, trials=2, search=("lr",), cache=mode, out=tmp_path / f"t-{mode}", **options).study
        for mode in modes
    ]
    assert len({tuple(trial.score for trial in study.trials) for study in studies}) == 1


def test_a_cross_validation_of_few_labels_from_a_trained_model_is_repeated_by_its_command(
    whole: tuple[Path, wrn.Run], tmp_path: Path
) -> None:
    data, run = whole
    options: dict[str, Any] = {"labels": 10, "init": run.folds[0].folder, "watch": runtime.QUIET, "epochs": 1}
    few = wrn.train(data, folds=2, out=tmp_path / "few", **options)
    assert len(few.evaluation.labels) == 150, "all are judged"
    page = (few.folder / "report.html").read_text(encoding="utf-8")
    assert "fold 1: 30 of " in page
    assert "which flatters the figures" in page, "the model has seen pictures that are held out"
    words = shlex.split(runs.read_config(few.folder).command)
    assert cli.run([*words[1:], "--out", str(tmp_path / "again")]) == 0
    a, b = (load_file(tmp_path / name / "fold-2" / "checkpoint.safetensors") for name in ("few", "again"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = dict.fromkeys(["arch", "recipe", "size", "mean", "std", "init", "labels"])
    options |= {"in_channels": 3, "fit": "crop", "seed": 0, "device": "cpu", "max_bad": 0, "folds": 3}
    options |= {"pretrained": False, "freeze": (), "engine": "auto"}
    with pytest.raises(UsageError, match="--folds 3: trained by one process alone, and these are 2"):
        plan("digits", {}, reading=Reading(), watch=runtime.QUIET, world=World(0, 2), **options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="wrn tune: the work of one process, and these are 2"):
        wrn.tune("digits")
    with pytest.raises(UsageError, match="wrn tune: the work of one process, and these are 2"):
        wrn.resume_tune("tunes/x")
