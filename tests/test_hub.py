"""Trackers get what metrics.csv has; one that fails never stops or slows a training, and nothing is sent unasked."""

import csv
import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_jobs import QUICK, StopAfter

import wideresnet as wrn
from wideresnet import files, hub, runtime
from wideresnet.errors import Interrupted, UsageError
from wideresnet.hub import trackers

ROWS = [{"epoch": n, "lr": 0.1 / n, "train_loss": 2.0 - n / 10} for n in (1, 2, 3)]
Scalars = dict[str, list[tuple[int, float]]]  # column → (epoch, value) in order


def of_metrics(folder: Path) -> Scalars:
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    names = [name for name in rows[0] if name != "epoch"]
    return {name: [(int(row["epoch"]), float(row[name])) for row in rows] for name in names}


def of_tensorboard(folder: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def of_mlflow(folder: Path) -> tuple[Scalars, Any]:
    from mlflow import MlflowClient

    known = files.read_json(folder / "mlflow.json")
    client = MlflowClient(tracking_uri=known["uri"])
    run = client.get_run(known["run_id"])
    assert len(client.search_runs([run.info.experiment_id])) == 1
    names = [name for name in run.data.metrics if name != "epoch"]
    histories = {name: client.get_metric_history(known["run_id"], name) for name in names}
    return {name: [(metric.step, metric.value) for metric in history] for name, history in histories.items()}, run


def same(found: Scalars, expected: Scalars) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert [epoch for epoch, _ in found[name]] == [epoch for epoch, _ in values], name
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in values], rel=1e-6), name  # float32


def test_both_trackers_have_the_rows_of_metrics_csv_also_of_a_run_that_was_stopped_and_went_on(tmp_path: Path) -> None:
    options = {**QUICK, "track": ("tensorboard", "mlflow"), "watch": runtime.Watch(progress=StopAfter(3))}
    folder = tmp_path / "r"
    with pytest.raises(Interrupted):
        wrn.train("digits", out=folder, **options)
    same(of_tensorboard(folder), of_metrics(folder))
    assert of_mlflow(folder)[1].info.status == "KILLED"
    wrn.resume(folder, watch=runtime.QUIET)
    expected = of_metrics(folder)
    assert [epoch for epoch, _ in expected["lr"]] == [1, 2, 3]
    same(of_tensorboard(folder), expected)
    found, run = of_mlflow(folder)
    same(found, expected)
    assert run.info.status == "FINISHED"
    assert run.data.params["arch"] == "wrn_10_1"
    assert (run.data.params["recipe"], run.data.params["epochs"]) == ("fast", "3")


def test_mlflow_takes_the_place_that_its_own_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "r").mkdir()
    with hub.tracking(["mlflow"], tmp_path / "r", {}) as track:
        track(ROWS[0])
    assert of_mlflow(tmp_path / "r")[0]["lr"] == [(1, 0.1)]
    assert (tmp_path / "elsewhere").is_dir()
    assert not (tmp_path / "r" / "mlruns").exists()


def test_a_tracker_that_cannot_write_is_said_once_and_gets_every_row_when_it_can_again(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    said = list[str]()
    with hub.tracking(["tensorboard"], tmp_path, {}, said.append) as track:
        track(ROWS[0])
        track(ROWS[1])
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        (tmp_path / "tensorboard").unlink()
        track(ROWS[2])
    assert len(said) == 1
    assert said[0].startswith("note: tensorboard does not take this run's rows (")
    columns = ("lr", "train_loss")
    same(of_tensorboard(tmp_path), {name: [(int(row["epoch"]), row[name]) for row in ROWS] for name in columns})


def test_a_tracker_that_hangs_neither_holds_a_row_up_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, entered = threading.Event(), threading.Event()

    def hangs(*_: object) -> hub.Log:
        entered.set()
        release.wait()
        raise OSError("too late")

    monkeypatch.setitem(hub.TRACKERS, "mlflow", dataclasses.replace(hub.TRACKERS["mlflow"], open=hangs))
    monkeypatch.setattr(trackers, "WAIT_S", 0.05)
    said = list[str]()
    with hub.tracking(["mlflow"], tmp_path, {}, said.append) as track:
        track(ROWS[0])
        entered.wait()
        track(ROWS[1])  # returns though the first row is still under way
    assert said == ["note: mlflow has not taken every row in 0.05 s and is left; metrics.csv has them all"]
    release.set()


def test_a_server_that_is_away_leaves_the_run_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the port of "discard": nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lines = list[str]()
    options = {**QUICK, "epochs": 2, "track": ["mlflow"], "watch": runtime.Watch(line=lines.append)}
    run = wrn.train("digits", out=tmp_path / "r", **options)
    assert run.evaluation.split == "test"
    notes = [line for line in lines if line.startswith("note:")]
    assert len(notes) == 1
    assert "mlflow does not take this run's rows" in notes[0]


def test_mlflow_s_telemetry_is_off(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from wideresnet import hub\n"
        "with hub.tracking(['mlflow'], pathlib.Path(sys.argv[1]), {}) as track: track({'epoch': 1, 'lr': 0.5})\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "print(is_telemetry_disabled(), get_telemetry_client())"
    )
    # Without what makes MLflow keep quiet by itself: it does so under tests and in CI.
    quiet = {"CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "None"]


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"--track tensorbord; did you mean 'tensorboard'\?"):
        wrn.train("digits", out=tmp_path / "r", track=["tensorbord"], **QUICK)
    monkeypatch.setitem(hub.TRACKERS, "mlflow", dataclasses.replace(hub.TRACKERS["mlflow"], package="not_installed"))
    with pytest.raises(UsageError, match=r"--track mlflow needs .*pip install 'wideresnet\[tracking\]'"):
        wrn.train("digits", out=tmp_path / "r", track=["mlflow"], **QUICK)
    assert not (tmp_path / "r").exists()
