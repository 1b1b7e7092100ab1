"""`wrn tune` from end to end: trials train as `wrn train` does, judged on val alone; it stops and goes on."""

import csv
import json
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_crossvalidation import digits

import wideresnet as wrn
from wideresnet import cli, runs, runtime
from wideresnet.errors import DataError, Interrupted, ModelFileError, UsageError
from wideresnet.tuning import Study

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 2, "watch": runtime.QUIET}


def told(study: Study) -> list[tuple[object, ...]]:
    """All of a study but its times."""
    return [(t.number, t.state, t.values, t.score, t.epochs) for t in study.trials]


def scores(run: Path) -> list[float]:
    return [float(row["val_accuracy"]) for row in csv.DictReader((run / "metrics.csv").open())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, wrn.Tune]:
    """Three trials on 150 digits, never interrupted."""
    base = tmp_path_factory.mktemp("tune")
    data = digits(base / "digits.npz", 150)
    return data, wrn.tune(data, trials=3, out=base / "tune", **QUICK)


def test_the_first_trial_is_what_train_does_and_the_best_one_s_command_trains_it_again_bit_for_bit(
    whole: tuple[Path, wrn.Tune], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, done = whole
    wrn.train(data, out=tmp_path / "own", **QUICK)
    assert done.study.trials[0].score == max(scores(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(done.command)
    assert words[:2] == ["wrn", "train"]
    assert cli.run([*words[1:], "--out", "best"]) == 0
    assert max(scores(tmp_path / "best")) == done.study.best.score
    recipe = runs.read_config(tmp_path / "best").recipe
    assert {name: getattr(recipe, name) for name in done.study.best.values} == dict(done.study.best.values)


def test_a_search_leaves_its_trials_as_a_table_and_a_report_but_no_model(whole: tuple[Path, wrn.Tune]) -> None:
    _, done = whole
    assert {p.name for p in done.folder.iterdir()} == {
        *("tune.json", "study.db", "trials.csv", "report.html", "log.txt", ".lock")
    }
    rows = list(csv.DictReader((done.folder / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["1", "2", "3"]
    for row, trial in zip(rows, done.study.trials, strict=True):
        assert float(row["lr"]) == trial.values["lr"]
        assert float(row["score"]) == trial.score
    assert float(rows[-1]["best"]) == done.study.best.score
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert [
        section for section in ("search", "slices", "trials", "repeat") if f'<section id="{section}"' not in page
    ] == []
    assert done.command.split(" --")[1] in page
    assert "<svg" in page
    assert 'id="importance"' not in page, "three trials tell nothing of importance"


def test_a_search_stopped_in_a_trial_goes_on_to_the_bits_of_one_that_was_not(
    whole: tuple[Path, wrn.Tune], tmp_path: Path
) -> None:
    data, done = whole
    stopped: list[str] = []

    def stop(what: str, *_: object) -> None:
        if what == "trial 2/3, epoch 2/2" and not stopped:
            stopped.append(what)
            signal.raise_signal(signal.SIGINT)

    said = rf"stopped after step 1 of \d+ of epoch 2\. Go on with: wrn tune --resume {tmp_path / 't'}$"
    with pytest.raises(Interrupted, match=said):
        wrn.tune(data, trials=3, out=tmp_path / "t", **{**QUICK, "watch": runtime.Watch(progress=stop)})
    assert len(list(csv.DictReader((tmp_path / "t" / "trials.csv").open()))) == 1
    again = wrn.resume_tune(tmp_path / "t", watch=runtime.QUIET)
    assert told(again.study) == told(done.study)
    assert again.command == done.command
    longer = wrn.resume_tune(tmp_path / "t", trials=4, watch=runtime.QUIET)
    assert told(longer.study)[:3] == told(done.study)
    assert len(longer.study.trials) == 4


def test_no_trial_looks_at_the_test_part(tmp_path: Path) -> None:
    data = digits(tmp_path / "a.npz", train=90, val=30, test=30)
    arrays = dict(np.load(data))
    np.savez(tmp_path / "b.npz", **{**arrays, "test_images": 255 - arrays["test_images"]})
    options = {**QUICK, "epochs": 1, "trials": 2, "search": ("lr",)}
    a, b = (wrn.tune(tmp_path / f"{name}.npz", out=tmp_path / name, **options) for name in "ab")
    assert told(a.study) == told(b.study)
    assert [set(trial.values) for trial in a.study.trials] == [{"lr"}] * 2, "only what was asked for is searched"


def test_a_recipe_that_trains_on_val_too_is_searched_with_val_held_out(tmp_path: Path) -> None:
    data = digits(tmp_path / "d.npz", 60)
    options = {**QUICK, "epochs": 1, "trials": 1, "recipe": "paper"}
    assert "--select best" in wrn.tune(data, out=tmp_path / "t", **options).command
    with pytest.raises(DataError, match="no val part to judge a trial by; leave out --select last"):
        wrn.tune(data, out=tmp_path / "u", select="last", **options)
    assert not (tmp_path / "u").exists()


def test_going_on_with_other_data_or_versions_or_no_search_is_refused(tmp_path: Path) -> None:
    data = digits(tmp_path / "d.npz", 30)
    folder = wrn.tune(data, trials=1, out=tmp_path / "t", **{**QUICK, "epochs": 1}).folder
    digits(tmp_path / "d.npz", 33)
    with pytest.raises(DataError, match=r"not the data that .* was searched on"):
        wrn.resume_tune(folder, watch=runtime.QUIET)
    setup = json.loads((folder / "tune.json").read_text())
    setup["config"]["versions"]["torch"] = "1.0"
    (folder / "tune.json").write_text(json.dumps(setup))
    with pytest.raises(UsageError, match=r"torch 1\.0 → .*not be bitwise"):
        wrn.resume_tune(folder)
    (folder / "study.db").unlink()
    with pytest.raises(ModelFileError, match=r"its study\.db is gone"):
        wrn.resume_tune(folder)
    (folder / "tune.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"not a search's setup"):
        wrn.resume_tune(folder)
    with pytest.raises(ModelFileError, match=r"not a search \(no tune\.json\)"):
        wrn.resume_tune(tmp_path)
    with pytest.raises(ModelFileError, match=r"not a run"):
        wrn.resume(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": ("lr", "weight_deca")}, "--search weight_deca; did you mean 'weight_decay'"),
        ({"search": ("warmup_epochs",), "recipe": "paper"}, "'steps' has no warm-up"),
        ({"search": ("crop_padding",), "size": 3}, "--search crop_padding: has one value alone at 3 pixels"),
        ({"trials": 0}, "--trials 0: expected at least 1"),
        ({"arch": "wrn_17_2"}, "--arch wrn_17_2: .*16 and 22"),
    ],
)
def test_an_impossible_option_is_told_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        wrn.tune("digits", out=tmp_path / "t", **{**QUICK, **options})
    assert not (tmp_path / "t").exists()


def test_the_command_ends_with_the_best_recipe_as_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    digits(tmp_path / "d.npz", 60)
    words = ["d.npz", "--trials", "2", "--search", "lr", "dropout_p", "--arch", "wrn_10_1", "--epochs", "1"]
    assert cli.run(["tune", *words]) == 0
    out = capsys.readouterr().out
    assert "dropout_p" in out
    assert "report:  tunes/d-1/report.html" in out
    assert "best:    wrn train " in out
    assert cli.run(["tune", "--resume", "tunes/d-1", "--trials", "3"]) == 0
    assert Path("tunes/d-1/trials.csv").read_text().count("done") == 3
    assert cli.run(["tune", "d.npz", "--resume", "tunes/d-1"]) == 2
    assert "--resume FOLDER goes with --trials alone" in capsys.readouterr().err
