"""Pictures that are not in memory: the same pixels in the same order, whoever reads them; a dead worker is named."""

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wideresnet.data import Pictures, Stream, decode_all, decoding, in_batches, read, workers, workers_watched
from wideresnet.data.decoding import Survey, sums_of, survey
from wideresnet.data.streams import Decoder, Mapped
from wideresnet.errors import TrainingStopped
from wideresnet.preprocess import Preprocess, channel_statistics

SIZE_8 = Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)
MEMORY = torch.from_numpy(PICTURES)
MAPPED = Mapped(PICTURES, sums_of(MEMORY))


def decoder(num_workers: int) -> Decoder:
    sources = [np.ascontiguousarray(picture.transpose(1, 2, 0)) for picture in PICTURES]
    return Decoder(sources, [f"p{i}" for i in range(23)], SIZE_8, sums_of(MEMORY), num_workers)


@pytest.fixture(scope="module")
def both() -> list[Stream]:
    return [Stream(MAPPED, torch.arange(23)), Stream(decoder(2), torch.arange(23))]


def test_a_stream_is_indexed_counted_and_split_as_a_tensor_is(both: list[Stream]) -> None:
    some = torch.tensor([5, 0, 22, 5])
    for stream in both:
        assert (len(stream), stream.shape) == (23, MEMORY.shape)
        assert torch.equal(stream[some], MEMORY[some])
        assert torch.equal(stream[7], MEMORY[7])
        assert torch.equal(stream[-1], MEMORY[-1])
        for size in (1, 5, 23, 99):
            for got, expected in zip(stream.split(size), MEMORY.split(size), strict=True):
                assert torch.equal(got, expected)
        none = stream.take(torch.empty(0, dtype=torch.int64))
        assert (len(none), list(none.split(4))) == (0, [])


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.permutations(range(23)))
def test_batches_are_those_of_a_tensor_in_any_order_of_any_rows(
    both: list[Stream], index: list[list[int]], order: list[int]
) -> None:
    rows = [torch.tensor(one, dtype=torch.int64) for one in index]
    taken = torch.tensor(order[:10])
    expected = list(in_batches(MEMORY[taken], rows))
    for stream in both:
        got = list(in_batches(stream.take(taken), rows))
        assert len(got) == len(expected)
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(got, expected, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")  # on two cores
@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_epoch_can_begin_at_any_step_whatever_the_number_of_workers(num_workers: int) -> None:
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1)).split(4)
    stream = Stream(decoder(num_workers), torch.arange(23))
    whole = list(stream.batches(order))
    assert torch.equal(torch.cat(whole), MEMORY[torch.cat(order)])
    for step in range(len(order)):
        assert all(torch.equal(a, b) for a, b in zip(stream.batches(order[step:]), whole[step:], strict=True))


def test_a_stream_that_is_left_half_way_or_read_twice_at_once_still_gives_its_own_rows() -> None:
    stream = Stream(decoder(2), torch.arange(23))
    left = stream.split(2)
    next(left)
    del left
    assert torch.equal(torch.cat(list(stream.split(2))), MEMORY)
    for a, b in zip(stream.split(3), stream.take(torch.arange(22, -1, -1)).split(3), strict=True):
        assert not torch.equal(a, b) or len(a) == 0
    assert torch.equal(torch.cat(list(stream.split(5))), MEMORY)


@given(st.lists(st.integers(0, 22), min_size=1, max_size=40))
def test_mean_and_deviation_from_sums_are_those_of_the_pixels(rows: list[int]) -> None:
    index = torch.tensor(rows)
    whole = Pictures(Stream(MAPPED, torch.arange(23)), torch.zeros(23), ("",) * 23, (b"",) * 23)
    assert whole.take(index).statistics() == channel_statistics(MEMORY[index])


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux shows them")


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_stops_the_work_naming_it_and_nothing_hangs(number: signal.Signals) -> None:
    before = children()
    stream = Stream(decoder(2), torch.arange(23))
    batches = stream.split(1)
    next(batches)
    victim = min(children() - before)
    started = time.monotonic()

    def go_on(stream: Stream, rest: Iterator[torch.Tensor]) -> None:
        with workers_watched():
            os.kill(victim, number)
            while time.monotonic() - started < 60:
                list(rest)
                rest = stream.split(1)

    with pytest.raises(
        TrainingStopped, match=rf"a process that reads pictures \(pid [^)]*{victim}.*where memory runs out"
    ):
        go_on(stream, batches)
    assert time.monotonic() - started < 60
    del batches, stream
    assert children() == before


class _Dies:
    """A data set whose reader is killed while the main process waits for it."""

    def __getitem__(self, key: int) -> None:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


@linux
def test_a_worker_killed_while_the_main_process_waits_for_it_is_said_to_be_killed() -> None:
    loader = workers.loader(_Dies(), [0], 1, persistent=False)  # type: ignore[arg-type]
    with pytest.raises(TrainingStopped, match=r"\(pid \d+\) was killed \(Killed\)"), workers_watched():
        next(workers.begun(loader))


@linux
def test_workers_leave_it_to_the_main_process_to_obey_a_signal_and_end_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_GRACE_S", 1000)
    before = children()
    stream = Stream(decoder(2), torch.arange(23))
    list(stream.split(4))
    for pid in children() - before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert torch.equal(torch.cat(list(stream.split(4))), MEMORY)
    del stream
    assert children() == before


def test_a_picture_that_changes_while_training_is_named(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    listing = read(tmp_path).splits["all"]
    known = decode_all(read(tmp_path), SIZE_8)[0]["all"].images
    assert isinstance(known, torch.Tensor)
    stream = Stream(Decoder([*listing.sources], listing.names, SIZE_8, sums_of(known), 2), torch.arange(4))
    assert torch.equal(torch.cat(list(stream.split(1))), known)
    (tmp_path / "b/2.png").unlink()
    message = r"b/2\.png: no such file.*; it could be read a while ago"
    with pytest.raises(TrainingStopped, match=message):
        list(stream.split(1))
    with pytest.raises(TrainingStopped, match=message):
        stream[2]


# Many pictures, decoded by processes


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """70 pictures, of which one is broken, one empty."""
    for i in range(70):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (9 + i % 5, 12, 3), dtype=np.uint8)).save(path)
    (tmp_path / "set/a/04.png").write_bytes((tmp_path / "set/a/06.png").read_bytes()[:90])
    (tmp_path / "set/b/69.png").write_bytes(b"")
    return tmp_path / "set"


def surveyed(folder: Path, look: Callable[[], None] = lambda: None) -> tuple[Survey, torch.Tensor]:
    kept: list[torch.Tensor] = []

    def keep(images: torch.Tensor) -> None:
        look()
        kept.append(images)

    return survey(read(folder).splits["all"], SIZE_8, keep), torch.cat(kept)


@linux
def test_processes_find_what_threads_find(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_threads, pixels = surveyed(mixed)
    monkeypatch.setattr(decoding, "MANY", 1)
    state, threads, before = torch.get_rng_state(), torch.get_num_threads(), children()
    seen: list[set[int]] = []
    by_processes, same = surveyed(mixed, lambda: seen.append(children() - before))
    assert all(seen), "processes read"
    assert children() == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pixels, same)
    assert by_threads.digests == by_processes.digests
    assert torch.equal(by_threads.sums, by_processes.sums)
    assert dict(by_threads.bad) == dict(by_processes.bad)
    assert len(by_threads.bad) == 2


@linux
@pytest.mark.parametrize("what", ["killed", "interrupted"])
def test_a_survey_that_ends_early_leaves_no_process(mixed: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(decoding, "MANY", 1)
    monkeypatch.setattr(decoding, "CHUNK", 1)
    before = children()

    def disturb(_: torch.Tensor) -> None:
        if what == "interrupted":
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does, wherever the work is
        os.kill(min(children() - before), signal.SIGKILL)
        time.sleep(60)  # cut short by torch's word that a worker died

    expected = KeyboardInterrupt if what == "interrupted" else TrainingStopped
    with pytest.raises(expected, match="a process that reads pictures" if what == "killed" else None):
        survey(read(mixed).splits["all"], SIZE_8, disturb)
    assert children() == before


ORPHANS = """
import os, sys
from pathlib import Path
from wideresnet.data import decoding, read
from wideresnet.preprocess import Preprocess
decoding.MANY = decoding.CHUNK = 1
def die(_):
    print(*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(), flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
prepare = Preprocess(size=200, mean=(0.,) * 3, std=(1.,) * 3)  # 120 kB a picture, more than a pipe holds
decoding.survey(read(sys.argv[1]).splits["all"], prepare, die)
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_soon_after_a_process_that_was_killed(mixed: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", ORPHANS, str(mixed), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -number
    orphans = [Path("/proc") / pid for pid in done.stdout.split()]
    assert orphans
    until = time.monotonic() + 60
    while any(orphan.exists() for orphan in orphans) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(orphan.exists() for orphan in orphans)


@linux
def test_a_worker_that_begins_when_the_main_process_is_gone_already_ends_too() -> None:
    code = (
        "import time; from wideresnet.data import workers; workers._begin(2**22 + 1, 0); time.sleep(60)"  # no process
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1, done.stderr


@linux
def test_a_signal_while_workers_begin_is_neither_lost_nor_theirs(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MANY", 1)
    before = children()
    to_come = [signal.SIGINT]
    # In such a hook Python drops what a signal raises.
    os.register_at_fork(before=lambda: os.kill(os.getpid(), to_come.pop()) if to_come else None)
    with pytest.raises(KeyboardInterrupt):
        surveyed(mixed)
    gc.collect()
    assert children() <= before  # others may have ended meanwhile


@linux
@pytest.mark.parametrize("why", ["no process to be had", "a daemonic process"])
def test_where_no_worker_may_begin_threads_read(mixed: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    expected, pixels = surveyed(mixed)
    monkeypatch.setattr(decoding, "MANY", 1)
    if why == "a daemonic process":
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    else:

        def refused() -> int:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        monkeypatch.setattr(os, "fork", refused)
    found, same = surveyed(mixed)
    assert found.digests == expected.digests
    assert torch.equal(pixels, same)


@given(st.integers(1, 250), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_sums_are_exact_for_any_size(side: int, brightest: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, brightest + 1, (2, 3, side, side), dtype=np.uint8)
    images[0] = brightest
    wide = images.astype(np.int64)
    expected = np.stack([wide.sum((2, 3)), (wide**2).sum((2, 3))], -1)
    assert np.array_equal(sums_of(torch.from_numpy(images)).numpy(), expected)
