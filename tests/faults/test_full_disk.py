"""A disk that is full from any moment on: the run stops whole and says so, and goes on once there is room.

`WRN_FAULTS=100 pytest tests/faults/test_full_disk.py` is what docs/numbers.md has.
"""

import random
from pathlib import Path

from faults.conftest import Whole
from faults.harness import FULL, NUM, SMALL, Host, Order, steps_done
from faults.test_kills import STEPS, after
from wideresnet import runs


def test_a_run_on_a_full_disk_stops_whole_says_what_is_missing_and_goes_on_later(
    host: Host, whole: Whole, tmp_path: Path
) -> None:
    chance, wrong = random.Random(0), list[str]()
    for i in range(NUM // 2):
        run, at = tmp_path / str(i) / "run", chance.randint(1, whole.seen)
        run.parent.mkdir()
        ended = host.run(Order(start="train", out=run, options=SMALL, what=FULL, at=at))
        is_run = (run / runs.CONFIG).exists()
        found = []
        if ended.status != (3 if is_run else ended.status) or ended.status not in (2, 3):
            found.append(f"exit code {ended.status}: {ended.said}")
        if "No space left on device" not in ended.said.splitlines()[-1]:
            found.append(f"not said: {ended.said.splitlines()[-1]}")
        if left := [path.name for path in run.parent.rglob(".*.tmp")]:
            found.append(f"left: {left}")
        kept = steps_done(run, STEPS) if is_run else -1
        found += after(host, run, whole, known=kept)
        wrong += [f"full from call {at} on: {text}" for text in found]
    print(f"{NUM // 2} disks full: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
