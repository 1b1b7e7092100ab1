"""A training that is killed at any instant goes on to the bit as if it had not been, and nothing it wrote is lost.

`WRN_FAULTS=200 pytest tests/faults/test_kills.py` is what docs/numbers.md has.
"""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from shapes import write_shapes

from faults.conftest import Whole
from faults.disk import FSYNC, RENAME, Disk, Record, records
from faults.harness import (
    INTERRUPT,
    KILL_AFTER,
    KILL_BEFORE,
    KILL_WITHIN,
    NUM,
    SMALL,
    TERMINATE,
    Host,
    Order,
    differences,
    steps_done,
)
from wideresnet import runs

STEPS = 1439 // SMALL["batch_size"]


def after(host: Host, run: Path, whole: Whole, *, known: int = -1) -> list[str]:
    """What is wrong with a run that was killed, once it has gone on; `known`: steps that it has kept before."""
    wrong = list[str]()
    kept = steps_done(run, STEPS) if run.exists() else -1  # raises on a checkpoint that cannot be read
    if kept < known:
        wrong.append(f"{known} steps were kept, {kept} are")
    if (run / runs.CONFIG).exists():
        ended = host.run(Order(start="resume", out=run, options={"checkpoint_every_s": SMALL["checkpoint_every_s"]}))
    else:  # killed before it was a run: what it left is in nobody's way
        wrong += ["a checkpoint without a config"] if kept >= 0 else []
        ended = host.run(Order(start="train", out=run, options=SMALL))
    if ended.status:
        return [*wrong, f"exit code {ended.status}: {ended.said}"]
    return wrong + differences(run, whole.folder)


def kept_at(calls: list[Record], root: Path, scratch: Path) -> list[tuple[int, int]]:
    """(calls, steps): from so many calls on, a checkpoint of so many steps is told as written: its folder is synced."""
    disk, found, written = Disk(root), list[tuple[int, int]](), None
    scratch.mkdir()
    for i, call in enumerate(calls, 1):
        disk.apply(call)
        if call.kind == RENAME and call.second.endswith(f"/{runs.CHECKPOINT}".encode()):
            (scratch / runs.CHECKPOINT).write_bytes(disk.synced(call.second.decode()))
            written = steps_done(scratch, STEPS)
        elif call.kind == FSYNC and written is not None:
            found.append((i, written))
            written = None
    return found


def told_kept(log: Path, root: Path, scratch: Path) -> int:
    """Steps of the last checkpoint that the recorded process had told as written; −1 if none."""
    return max((steps for _, steps in kept_at(list(records(log)), root, scratch)), default=-1)


@pytest.mark.parametrize("aim", ["any instant", "a call that writes"])
def test_a_killed_training_goes_on_bit_for_bit_and_loses_no_checkpoint(
    host: Host, whole: Whole, tmp_path: Path, aim: str
) -> None:
    chance, wrong, cut = random.Random(aim), list[str](), 0
    for i in range(NUM // 2):
        run, log = tmp_path / str(i) / "run", tmp_path / f"{i}.log"
        run.parent.mkdir()
        if aim == "any instant":
            moment = chance.uniform(0, 0.7 * whole.seconds)
            where, pid = f"after {moment:.3f} s", host.begin(Order(start="train", out=run, options=SMALL, log=log))
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
            ended = host.wait(pid)
        else:
            at, what = chance.randint(1, whole.seen), chance.choice((KILL_BEFORE, KILL_WITHIN, KILL_AFTER))
            where = f"at call {at} ({what})"
            ended = host.run(Order(start="train", out=run, options=SMALL, what=what, at=at, log=log))
        kept = told_kept(log, run.parent, tmp_path / f"{i}.scratch")
        cut += ended.status == -9
        wrong += [f"killed {where}: {text}" for text in after(host, run, whole, known=kept)]
    print(f"{NUM // 2} trainings, {cut} of them killed at {aim}: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert cut >= NUM // 8, "many were killed before they had ended; how fast they are goes by the machine"


@pytest.mark.parametrize(("what", "code"), [(INTERRUPT, 130), (TERMINATE, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_at_any_instant_stops_within_a_step_and_what_it_kept_goes_on_bit_for_bit(
    host: Host, whole: Whole, tmp_path: Path, what: int, code: int
) -> None:
    chance, wrong, caught = random.Random(code), list[str](), 0
    for i in range(NUM // 4):
        run, at, log = tmp_path / str(i) / "run", chance.randint(1, whole.seen), tmp_path / f"{i}.log"
        run.parent.mkdir()
        ended = host.run(Order(start="train", out=run, options=SMALL, what=what, at=at, log=log))
        # It had ended; while it trained; before or after that.
        if ended.status not in (0, code, 128 - code):
            wrong.append(f"at call {at}: exit code {ended.status}: {ended.said}")
        caught += "stopped after" in ended.said
        if where := re.search(rf"stopped after step (\d+) of {STEPS} of epoch (\d+)", ended.said):
            steps, there = int(where[1]) + STEPS * (int(where[2]) - 1), steps_done(run, STEPS)
            wrong += [f"at call {at}: {there} steps kept of {steps}"] if there != steps else []
        kept = told_kept(log, run.parent, tmp_path / f"{i}.scratch")
        wrong += [f"at call {at}: {text}" for text in after(host, run, whole, known=kept)]
    assert not wrong, "\n".join(wrong)
    assert caught, "some came while it trained"


def test_one_training_killed_again_and_again_ends_as_if_it_had_never_been(
    host: Host, whole: Whole, tmp_path: Path
) -> None:
    run, chance, start, killed = tmp_path / "run", random.Random(0), "train", 0
    for _ in range(10):
        options = SMALL if start == "train" else {"checkpoint_every_s": SMALL["checkpoint_every_s"]}
        at = chance.randint(4, max(5, whole.seen // 4))
        ended = host.run(Order(start=start, out=run, options=options, what=KILL_WITHIN, at=at))
        killed += ended.status == -9
        start = "resume" if (run / runs.CONFIG).exists() else "train"
    assert after(host, run, whole) == []
    assert killed >= 5


def test_a_detector_s_training_that_is_killed_goes_on_bit_for_bit(host: Host, tmp_path: Path) -> None:
    """At random calls that write, and at random instants."""
    data = write_shapes(tmp_path / "shapes", train=24, val=4)
    options: dict[str, Any] = {"data": str(data), "arch": "wrn_10_1", "size": 64, "epochs": 2, "out_channels": 64}
    options["checkpoint_every_s"] = 0.01
    (tmp_path / "whole").mkdir()
    started = time.perf_counter()
    ended = host.run(Order(start="train_detector", out=tmp_path / "whole" / "run", options=options))
    assert ended.status == 0, ended.said
    whole = Whole(tmp_path / "whole" / "run", Path(), ended.seen, time.perf_counter() - started)
    chance, wrong, cut, num = random.Random("boxes"), list[str](), 0, max(4, NUM // 4)
    for i in range(num):
        run = tmp_path / str(i) / "run"
        run.parent.mkdir()
        if i % 2:
            pid = host.begin(Order(start="train_detector", out=run, options=options))
            time.sleep(chance.uniform(0.1, 0.8) * whole.seconds)
            os.kill(pid, signal.SIGKILL)
            killed = host.wait(pid)
        else:
            at, what = chance.randint(1, whole.seen), chance.choice((KILL_BEFORE, KILL_WITHIN, KILL_AFTER))
            killed = host.run(Order(start="train_detector", out=run, options=options, what=what, at=at))
        cut += killed.status == -9
        if (run / runs.CONFIG).exists():
            ended = host.run(Order(start="resume", out=run, options={"checkpoint_every_s": 0.01}))
        else:
            ended = host.run(Order(start="train_detector", out=run, options=options))
        wrong += [f"{i}: exit code {ended.status}: {ended.said}"] if ended.status else differences(run, whole.folder)
    print(f"{num} trainings of a detector, {cut} of them killed: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert cut >= num // 2
