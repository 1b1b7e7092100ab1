"""A training that goes on → the files of its run, written beside it; and those files → a training that goes on."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from wideresnet import checkpoint, runs, training
from wideresnet.checkpoint import Card
from wideresnet.errors import ModelFileError


class Writer:
    """Writes what a run keeps, in a thread of its own: one thing at a time, in order, and the training waits only where
    the one before is not on the disk yet. What could not be written is raised by the call that comes next."""

    def __init__(
        self,
        folder: Path,
        config: runs.Config,
        every_s: float,
        *,
        changed: Mapping[str, str],
        counts: Mapping[str, Mapping[str, int]],
        losses: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        """config: as the run was begun. changed: under what it went on otherwise; counts: the pictures of each part and
        class; losses: `data.losses` as they are by then: for its checkpoints to tell."""
        self.config, self.changed = config, changed
        self.last_is_whole = False  # the last checkpoint; one that is not does not take the place of the one before
        self._folder, self._every_s, self._losses = folder, every_s, losses
        self._facts = {"config": config.digest, "settings": config.to_dict(), "changed": dict(changed)}
        self._facts["pictures"] = counts
        self._pool = ThreadPoolExecutor(1, "writing")
        self._pending: Future[None] | None = None
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether a checkpoint within the epoch is."""
        if self._pending is not None and self._pending.done():
            self.wait()
        return time.monotonic() - self._last >= self._every_s

    def put(
        self,
        state: training.State,
        best: tuple[Card, Mapping[str, Tensor]] | None,
        track: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Writes `state` as it is now. best: its model is the best so far; the card and what else goes with it."""
        self.wait()
        # Copies: the next step changes what is being written.
        tensors = {key: value.detach().to("cpu", copy=True) for key, value in training.to_tensors(state).items()}
        progress = {**training.to_progress(state), **self._facts, "lost": self._losses()}
        judged = "model/" if state.average is None else "average/"
        row = None if state.begun.steps else state.rows[-1]  # within an epoch there is none yet

        def write() -> None:
            # The model first: a kill between the two leaves a best model as new or newer, never lost.
            if best is not None:
                weights = {k.removeprefix(judged): v for k, v in tensors.items() if k.startswith(judged)}
                checkpoint.save_model(self._folder / runs.MODEL, weights, *best)
            path = self._folder / runs.CHECKPOINT
            keep = self._folder / runs.PREVIOUS if self.last_is_whole else None
            checkpoint.save_checkpoint(path, tensors, progress, keep=keep)
            self.last_is_whole = True
            if row is None:
                return
            runs.write_metrics(self._folder, progress["rows"])
            runs.log(self._folder, "  ".join(f"{key} {value}" for key, value in row.items()))
            track(row)

        self._pending, self._last = self._pool.submit(write), time.monotonic()

    def wait(self) -> None:
        """Until all that was put is on the disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A checkpoint: its file, tensors, the rest as JSON, and whether it is the last of its run or the one before."""

    path: Path
    tensors: dict[str, Tensor]
    progress: dict[str, Any]
    is_last: bool

    @property
    def changed(self) -> dict[str, str]:
        """Under what the run had gone on otherwise than it was begun; what earlier versions did not allow."""
        return dict(self.progress.get("changed", {}))


def saved(folder: Path, config: runs.Config, say: Callable[[str], None]) -> Saved | None:
    """What the run in `folder`, begun under `config`, goes on from: its last checkpoint, or where that is damaged the
    one before it, said; None where there is none yet. Raises ModelFileError, UsageError if it is of another config."""
    found, damaged = None, list[ModelFileError]()
    for name in (runs.CHECKPOINT, runs.PREVIOUS):
        path = folder / name
        if found is None and path.exists():
            try:
                found = Saved(path, *checkpoint.load_checkpoint(path), is_last=name == runs.CHECKPOINT)
            except ModelFileError as error:
                damaged.append(error)
            else:
                if not found.is_last:
                    why = str(damaged[0]) if damaged else f"{folder / runs.CHECKPOINT}: not there"
                    say(f"note: {why}. Going on from the checkpoint before it, {path}")
    if found is None:
        if damaged:
            raise damaged[0]
        if (folder / runs.METRICS).exists():  # written after the first checkpoint
            raise ModelFileError(f"{folder}: its {runs.CHECKPOINT} is gone, so it cannot go on; train anew")
        return None
    progress = found.progress
    if progress.get("config") != config.digest:
        how = runs.differences(progress["settings"], config.to_dict()) if "settings" in progress else []
        what = f" ({'; '.join(how)})" if how else ""
        raise ModelFileError(
            f"{folder / runs.CONFIG}: not the config this run was made with{what}; put the old one back"
        )
    return found
