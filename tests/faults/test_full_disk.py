"""A disk that is full from any moment on: the run stops whole and says so, and goes on once there is room.

`WRN_FAULTS=240 pytest tests/faults/test_full_disk.py` is what docs/numbers.md has.
"""

import random
from pathlib import Path

from faults.conftest import Whole
from faults.harness import FULL, NUM, SMALL, Host, Order
from faults.test_kills import after, told_kept
from wideresnet import runs


def test_a_run_on_a_full_disk_stops_whole_says_what_is_missing_and_goes_on_later(
    host: Host, whole: Whole, tmp_path: Path
) -> None:
    chance, wrong, num = random.Random(0), list[str](), 0
    for i in range(NUM // 4):
        run, at, log = tmp_path / str(i) / "run", chance.randint(1, whole.seen), tmp_path / f"{i}.log"
        run.parent.mkdir()
        ended = host.run(Order(start="train", out=run, options=SMALL, what=FULL, at=at, log=log))
        if ended.status == 0 and ended.seen < at:  # it had written all before: how often it does goes by the clock
            continue
        num, is_run, found = num + 1, (run / runs.CONFIG).exists(), []
        # With its report, the last that it keeps, a run is whole: only its lock could not be told that it had ended.
        if ended.status != 0 or not (run / runs.REPORT).exists():
            if ended.status != (3 if is_run else ended.status) or ended.status not in (2, 3):
                found.append(f"exit code {ended.status}: {ended.said}")
            if "No space left on device" not in ended.said.splitlines()[-1]:
                found.append(f"not said: {ended.said.splitlines()[-1]}")
        if left := [path.name for path in run.parent.rglob(".*.tmp")]:
            found.append(f"left: {left}")
        kept = told_kept(log, run.parent, tmp_path / f"{i}.scratch")
        found += after(host, run, whole, known=kept)
        wrong += [f"full from call {at} on: {text}" for text in found]
    print(f"{num} disks full: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert num >= NUM // 8, "most were full before the run had ended"
