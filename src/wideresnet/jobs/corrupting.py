"""Judging a model on corrupted pictures, for `evaluate`: the pictures that the network sees, in noise, snow, out of
focus…, and what it says to them."""

import dataclasses
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from wideresnet import corruptions, runtime
from wideresnet.corruptions import CORRUPTIONS, SEVERITIES, Corruption, CorruptionFigures
from wideresnet.corruptions.rounding import Bytes
from wideresnet.data import Pictures
from wideresnet.engines import Engine
from wideresnet.errors import DataError, UsageError
from wideresnet.evaluation import Evaluation
from wideresnet.preprocess import Preprocess
from wideresnet.report import Shown

# 14 corruptions at 5 severities are 70 answers to each picture: with 1,000 the mean error is known to about ±2 points.
AT_MOST = 1_000
SHOWN = 3  # the severity of the examples in a report
_PIXELS_HELD = 1 << 22  # of pictures read at once; at five severities 60 MB
_PIXELS_AT_ONCE = 1 << 16  # corrupted in one call: larger than the caches, a batch takes longer than its halves


def check(at_most: int | None) -> None:
    """Raises UsageError unless it is a number of pictures, or None for all."""
    if at_most is not None and at_most < 1:
        raise UsageError(f"--corruption-pictures {at_most}: expected a whole number from 1, or all")


def words(wanted: bool, at_most: int | None) -> list[str]:
    """The options that ask for this on the command line."""
    if not wanted:
        return []
    given = [] if at_most == AT_MOST else ["--corruption-pictures", "all" if at_most is None else str(at_most)]
    return ["--corruptions", *given]


def judged(
    evaluation: Evaluation,
    pictures: Pictures,
    engine: Engine,
    preprocess: Preprocess,
    *,
    at_most: int | None,
    watch: runtime.Watch,
    seed: int = 0,
) -> Evaluation:
    """`evaluation`, which is of `pictures`, with its `corruptions`: what `engine` says to at most so many of them.

    What is corrupted is the picture that the network sees, resized and padded; of a grey one the three equal channels,
    made grey again. Raises DataError if the logits are not finite.
    """
    rows = corruptions.chosen(evaluation.labels.tolist(), pictures.digests, at_most, seed)
    labels, chosen = torch.from_numpy(evaluation.labels[rows]), pictures.take(torch.tensor(rows))
    right = np.zeros((len(CORRUPTIONS), len(SEVERITIES), len(rows)), bool)
    step = max(1, _PIXELS_HELD // preprocess.size**2)
    done, total = 0, len(CORRUPTIONS) * len(rows)
    with runtime.thread_pool() as pool:
        for start, part in zip(range(0, len(rows), step), chosen.images.split(step), strict=True):
            here = slice(start, start + step)
            images, digests = _as_shown(part), chosen.digests[here]
            for k, corruption in enumerate(CORRUPTIONS):
                watch.progress("corruptions", done, total, corruption.title)
                # All severities in one call: of few pictures, each call would wait longer than it computes.
                logits = engine.compute(_at_all_severities(pool, images, digests, corruption, preprocess, seed=seed))
                if not torch.isfinite(logits).all():
                    raise DataError(
                        f"{evaluation.data}: with {corruption.title} the network's logits are not finite; leave "
                        "--corruptions out"
                    )
                answers = logits.argmax(1).reshape(len(SEVERITIES), -1)
                right[k, :, here] = (answers == labels[here]).numpy()
                done += len(part)
    watch.progress("corruptions", total, total, "")
    found = CorruptionFigures(
        names=tuple(one.name for one in CORRUPTIONS),
        titles=tuple(one.title for one in CORRUPTIONS),
        groups=tuple(one.group for one in CORRUPTIONS),
        right=right,
        clean_right=(evaluation.predicted == evaluation.labels)[rows],
        rows=tuple(rows),
        of=len(pictures),
        seed=seed,
    )
    return dataclasses.replace(evaluation, corruptions=found)


def examples(evaluation: Evaluation, pictures: Pictures, preprocess: Preprocess) -> Sequence[Shown]:
    """One of the pictures that were corrupted, clean and in each corruption at severity `SHOWN`, as the network sees
    it, and what it is called; nothing if none was. The first that was right when clean."""
    found = evaluation.corruptions
    if found is None:
        return ()
    which = int(found.clean_right.argmax())
    image = pictures.images[torch.tensor(found.rows[which : which + 1])]
    digests, shown = [pictures.digests[found.rows[which]]], [(_as_shown(image)[0], "clean")]
    for k, one in enumerate(CORRUPTIONS):
        seen = _as_seen(corruptions.corrupt(_as_shown(image), digests, one, SHOWN, seed=found.seed), preprocess)
        mistaken = "" if found.right[k, SHOWN - 1, which] else " ✗"
        shown.append((_as_shown(seen)[0], one.title + mistaken))
    return shown


def _as_shown(images: Tensor) -> Bytes:
    """uint8 [B, C, size, size] → uint8 [B, size, size, 3]."""
    return np.ascontiguousarray(images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy())


def _as_seen(images: Bytes, preprocess: Preprocess) -> Tensor:
    """The reverse, as the network gets them."""
    if preprocess.channels == 3:
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return torch.stack([preprocess.resize(image) for image in images])  # of that size already: only luma is taken


def _at_all_severities(
    pool: ThreadPoolExecutor,
    images: Bytes,
    digests: Sequence[bytes],
    corruption: Corruption,
    preprocess: Preprocess,
    *,
    seed: int,
) -> Tensor:
    """All images at severity 1, all at 2, …, as the network gets them; made by all cores."""
    step = max(1, _PIXELS_AT_ONCE // images.shape[1] ** 2)

    def make(severity: int, at: slice) -> Tensor:
        return _as_seen(corruptions.corrupt(images[at], digests[at], corruption, severity, seed=seed), preprocess)

    parts = [slice(start, start + step) for start in range(0, len(images), step)]
    return torch.cat(list(pool.map(make, *zip(*itertools.product(SEVERITIES, parts), strict=True))))
