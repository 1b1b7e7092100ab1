"""Where the power fails at any instant, the run is there as it was at its last checkpoint, or at one that was just
being written: what is not synced is taken away, torn or left.

`WRN_FAULTS=200 pytest tests/faults/test_power.py` is what docs/numbers.md has.
"""

import random
from pathlib import Path

from faults.conftest import Whole
from faults.disk import Disk, Record, records
from faults.harness import NUM, Host
from faults.test_kills import after, kept_at


def test_what_was_synced_survives_and_the_run_goes_on_bit_for_bit(host: Host, whole: Whole, tmp_path: Path) -> None:
    calls, chance, wrong, root = list(records(whole.log)), random.Random(0), list[str](), whole.folder.parent
    kept = kept_at(calls, root, tmp_path / "scratch")
    assert len(kept) > 6, "there are many checkpoints"
    for i in range(NUM // 2):
        moment, disk = chance.randint(1, len(calls)), Disk(root)
        for call in calls[:moment]:
            disk.apply(call)
        disk.found(tmp_path / str(i), chance)
        known = max((steps for at, steps in kept if at <= moment), default=-1)
        found = after(host, tmp_path / str(i) / whole.folder.name, whole, known=known)
        wrong += [f"power failed after call {moment} of {len(calls)}: {text}" for text in found]
    print(f"{NUM // 2} power failures: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)


def test_a_write_that_is_not_synced_would_be_found(tmp_path: Path) -> None:
    """The harness itself: of a file that is renamed without being synced, some power failures leave nothing."""
    name = str(tmp_path / "a").encode()
    calls = [Record(1, 5, 0o101, name + b".tmp", b""), Record(2, 5, 0, b"whole", b""), Record(7, 5, 0, b"", b"")]
    calls += [Record(4, -1, 0, name + b".tmp", name), Record(1, 5, 0, str(tmp_path).encode(), b"")]
    calls += [Record(3, 5, 0, b"", b"")]
    seen = set[bytes]()
    for seed in range(40):
        disk = Disk(tmp_path)
        for call in calls:
            disk.apply(call)
        disk.found(tmp_path / str(seed), random.Random(seed))
        seen.add((tmp_path / str(seed) / "a").read_bytes())
    assert {b"", b"whole"} < seen
