"""Processes that read pictures beside the main one: begun in a moment where there is fork, missed if they die."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from wideresnet import runtime
from wideresnet.errors import TrainingStopped

NUM_WORKERS = min(runtime.num_cores(), 16)  # each holds two batches ready; more than 16 feed no network faster
_FORKS = sys.platform == "linux"
_WORKER = re.compile(r"DataLoader worker \(pid\S* ([\d, ]+)\)(?: is killed by signal: ([^.]*))?")
_GRACE_S = 10  # a worker that is asked to end leaves the main process time to end first, between two steps


def loader(dataset: Dataset[Any], order: Iterable[Any], num_workers: int, *, persistent: bool) -> DataLoader[Any]:
    """dataset[key] for each key of `order`, in that order, computed by worker processes that read ahead.

    What they give comes through a pipe: arrays, not tensors, which would go through /dev/shm, of which a container has
    64 MB. `persistent` workers live until `end`.
    """
    return DataLoader(
        dataset,
        batch_size=None,  # a key stands for a whole batch
        sampler=order,
        num_workers=num_workers,
        persistent_workers=persistent,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_begin, os.getpid()),
        # fork, where there is one: workers begin at once and share the list of sources, and a script that trains needs
        # no `if __name__ == "__main__"`. They use neither the GPU nor torch's threads, which do not survive a fork.
        multiprocessing_context=multiprocessing.get_context("fork") if _FORKS else None,
        generator=torch.Generator(),  # its own: what it draws for workers is not taken from the network's
    )


def can_begin() -> bool:
    """Whether workers begin in a moment, and may: a daemonic process, as a worker itself is, has no children."""
    return _FORKS and not multiprocessing.current_process().daemon


def begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """iter(loader): its workers begin, or get to know a new order. Raises OSError where the system lets none begin.

    Ctrl-C and SIGTERM wait meanwhile: within a fork, Python would drop them, or workers would die of them.
    """
    with runtime.StopSignals() as signals:
        iterator = iter(loader)
    if signals.caught is not None:
        try:
            signal.raise_signal(signals.caught)
        except BaseException:
            end(iterator)
            raise
    return iterator


def end(iterator: Any) -> None:
    """Ends the workers of a loader's iterator, and waits for them."""
    iterator._shutdown_workers()


@contextmanager
def workers_watched() -> Iterator[None]:
    """While open, a worker process that dies is a TrainingStopped that names it; torch raises its own error for that,
    at whatever the main process is about."""
    try:
        yield
    except RuntimeError as error:
        # Killed while the main process waits for it, a worker is told of by two errors: the first names the signal, and
        # torch raises the second, which does not, from that.
        found = _WORKER.search(str(error.__cause__)) or _WORKER.search(str(error))
        if found is None:
            raise
        how = f"was killed ({found[2]})" if found[2] else "ended unexpectedly"
        raise TrainingStopped(
            f"a process that reads pictures (pid {found[1]}) {how}; the system does that too where memory runs out"
        ) from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(parent: int, _: int) -> None:
    """Ctrl-C and SIGTERM often reach all processes of a group: the main one decides when to stop, not its workers. But
    they outlive it by no more than seconds: torch's own watch is blind while a worker waits to hand a batch over.
    parent: its number, told by itself; asked for here, it may be gone already, and another in its place."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
