"""Real trainings in processes of their own, ended, refused or cut off at chosen moments, and what is held of them.

Later capabilities reuse it: `host` begins jobs, `Order` says what becomes of one, `disk` what a power failure leaves.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load_file

from wideresnet import runs
from wideresnet.checkpoint import load_checkpoint

HERE = Path(__file__).parent
NOTHING, KILL_BEFORE, KILL_WITHIN, KILL_AFTER, FULL, INTERRUPT, TERMINATE = range(7)  # shim.c
NUM = int(os.environ.get("WRN_FAULTS", "20"))  # instants of each kind; CI takes these, docs/numbers.md has more

# A real training of a second: many checkpoints, by epochs and within them.
SMALL: dict[str, Any] = {
    "arch": "wrn_10_1",
    "epochs": 3,
    "batch_size": 128,
    "ema_decay": 0.9,
    "checkpoint_every_s": 0.01,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job in a child process. At the call `at` that writes below `root`, counted from 1, `what` happens; `log`: where
    all such calls are recorded."""

    start: str
    out: Path
    what: int = NOTHING
    at: int = 0
    log: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: its exit code, or minus the signal; what it said; how many of its calls wrote."""

    status: int
    said: str
    seen: int


class Host:
    """The process that begins jobs; see host.py."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="wrn-faults-"))
        library = self._folder / "shim.so"
        compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
        subprocess.run(
            [compiler, "-O1", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl", "-lpthread"], check=True
        )
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "host.py")],
            env={**os.environ, "LD_PRELOAD": str(library), "WRN_CACHE": str(self._folder / "cache")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def begin(self, order: Order) -> int:
        """The pid of the child."""
        said = self._folder / "said.json"
        said.unlink(missing_ok=True)
        words = {"start": order.start, "out": str(order.out), "root": str(order.out.parent), "what": order.what}
        words |= {"at": order.at, "log": None if order.log is None else str(order.log), "options": order.options}
        return int(self._ask({**words, "said": str(said)})["pid"])

    def wait(self, pid: int) -> Ended:
        status = int(self._ask({"wait": pid})["status"])
        told: dict[str, Any] = {"lines": [], "seen": 0}
        with suppress(FileNotFoundError, ValueError):  # it was killed
            told = json.loads((self._folder / "said.json").read_text(encoding="utf-8"))
        return Ended(status, "\n".join(told["lines"]), told["seen"])

    def run(self, order: Order) -> Ended:
        return self.wait(self.begin(order))

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def steps_done(run: Path, steps_per_epoch: int) -> int:
    """Steps of the run's last checkpoint that can be read; −1 if it has none. One that is there and cannot be read is
    no accident: raises ModelFileError."""
    for name in (runs.CHECKPOINT, runs.PREVIOUS):
        if (run / name).exists():
            progress = load_checkpoint(run / name)[1]
            return int(progress["epoch"] * steps_per_epoch + progress["begun"]["steps"])
    return -1


def differences(run: Path, whole: Path) -> list[str]:
    """In what a run that has ended is not, to the bit, the one that nothing has stopped; times are not compared."""
    found = [name for name in (runs.CHECKPOINT, runs.MODEL) if not _equal(run / name, whole / name)]
    own, other = (load_checkpoint(folder / runs.CHECKPOINT)[1] for folder in (run, whole))
    for row in (*own["rows"], *other["rows"]):
        del row["seconds"], row["images_per_s"]
    found += [f"progress {name}" for name in own if own[name] != other[name] and name != "begun"]
    rows = [list(csv.DictReader((folder / runs.METRICS).open(encoding="utf-8"))) for folder in (run, whole)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"], row["images_per_s"]
    found += ["metrics.csv"] if rows[0] != rows[1] else []
    return found + [f"{path.name} was left" for path in run.glob(".*.tmp")]


def _equal(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
