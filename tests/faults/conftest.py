"""What the fault tests share: the host of their trainings, and one training that nothing stops."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.harness import SMALL, Host, Order


@dataclass(frozen=True, slots=True)
class Whole:
    """A run that nothing stopped, what it wrote, call by call, how many calls, and how long it took."""

    folder: Path
    log: Path
    seen: int
    seconds: float


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture(scope="session")
def whole(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    base = tmp_path_factory.mktemp("whole")
    (base / "disk").mkdir()
    started = time.perf_counter()
    ended = host.run(Order(start="train", out=base / "disk" / "run", log=base / "log", options=SMALL))
    assert ended.status == 0, ended.said
    return Whole(base / "disk" / "run", base / "log", ended.seen, time.perf_counter() - started)
