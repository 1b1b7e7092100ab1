"""The rows of a training → trackers: TensorBoard, MLflow, besides metrics.csv.

A tracker never stops or slows a training: a thread of its own hands the rows over, and what fails is said once.
"""

import contextlib
import importlib.util
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wideresnet import files, runtime
from wideresnet.errors import UsageError, missing_extra, nearest

Row = Mapping[str, float]
WAIT_S = 20.0  # at the end of a training, for a tracker that has not taken all rows yet


@dataclass(frozen=True, slots=True)
class Log:
    """An open log of one run: takes a row, then is told how the run ended."""

    write: Callable[[Row], None]
    close: Callable[[str], None]


def _tensorboard(folder: Path, facts: Mapping[str, Any], epoch: int) -> Log:
    """RUN/tensorboard; every column is a scalar under its own name, its step the epoch. Of what an earlier part of this
    run wrote from `epoch` on, TensorBoard shows nothing (`purge_step`)."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch if epoch > 1 else None)
    if epoch == 1:
        writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in facts.items()))

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return Log(write, lambda _: writer.close())


def _mlflow(folder: Path, facts: Mapping[str, Any], epoch: int) -> Log:  # noqa: ARG001 - as every tracker is opened
    """The experiment "wideresnet" of the server or folder in MLFLOW_TRACKING_URI, or else of RUN/mlruns. The run's id
    is kept in RUN/mlflow.json, so that a run that goes on is the same run there. MLflow's telemetry is off."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # read when it is imported
    # A server that is away is asked again after the next epoch; MLflow by itself would try for many minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = (
            "true"  # a folder; MLflow asks for a database, which takes more packages
        )
        uri = (folder / "mlruns").resolve().as_uri()
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    kept = folder / "mlflow.json"
    known = files.read_json(kept) if kept.exists() else {}
    if known.get("uri") == uri:
        run_id = known["run_id"]
        client.update_run(run_id, status="RUNNING")
    else:
        found = client.get_experiment_by_name("wideresnet")
        experiment = client.create_experiment("wideresnet") if found is None else found.experiment_id
        run_id = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in facts.items()])
        files.write_json(kept, {"uri": uri, "run_id": run_id})

    def write(row: Row) -> None:
        now, step = int(time.time() * 1000), int(row["epoch"])
        client.log_batch(run_id, [Metric(name, float(value), now, step) for name, value in row.items()])

    return Log(write, lambda status: client.set_terminated(run_id, status))


@dataclass(frozen=True, slots=True)
class Tracker:
    """What it is called, the package that it needs, and (run folder, facts, first epoch to come) → an open log."""

    package: str
    open: Callable[[Path, Mapping[str, Any], int], Log]


TRACKERS = {"tensorboard": Tracker("tensorboard", _tensorboard), "mlflow": Tracker("mlflow", _mlflow)}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError on a name that is no tracker, or one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--track {name}{nearest(name, TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name].package) is None:
            raise missing_extra(f"--track {name}", "tracking")


@contextmanager
def tracking(
    names: Sequence[str], folder: Path, facts: Mapping[str, Any], say: Callable[[str], None] = runtime.QUIET.line
) -> Iterator[Callable[[Row], None]]:
    """While open, gives `track(row)`: each of the trackers `names` gets the row, `facts` once before the first.

    `track` returns at once and raises nothing. A tracker that fails keeps the training's rows and is tried again with
    each; the first failure is said through `say`. On leaving, waits at most `WAIT_S` for rows that are under way.
    """
    rows = {name: queue.SimpleQueue[Row | str]() for name in names}
    threads = [
        threading.Thread(target=_hand_over, args=(name, folder, facts, waiting, say), name=name, daemon=True)
        for name, waiting in rows.items()
    ]
    for thread in threads:
        thread.start()

    def track(row: Row) -> None:
        for waiting in rows.values():
            waiting.put(dict(row))

    status = "KILLED"
    try:
        yield track
        status = "FINISHED"
    finally:
        for waiting in rows.values():
            waiting.put(status)
        until = time.monotonic() + WAIT_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                say(
                    f"note: {thread.name} has not taken every row in {WAIT_S:g} s and is left; metrics.csv has them all"
                )


def _hand_over(
    name: str, folder: Path, facts: Mapping[str, Any], rows: "queue.SimpleQueue[Row | str]", say: Callable[[str], None]
) -> None:
    """Until it is told the status of the run: each row to the log, which is opened for the first one."""
    log: Log | None = None
    kept, said = list[Row](), False
    while not isinstance(row := rows.get(), str):
        kept.append(row)
        try:
            if log is None:
                log = TRACKERS[name].open(folder, facts, int(kept[0]["epoch"]))
            while kept:
                log.write(kept[0])
                kept.pop(0)
        except Exception as error:  # of any kind: theirs are many, and none may reach the training
            log = None
            if not said:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                say(
                    f"note: {name} does not take this run's rows ({reason}); training goes on, metrics.csv has them all"
                )
            said = True
    if log is not None:
        with contextlib.suppress(Exception):  # likewise
            log.close(row)
