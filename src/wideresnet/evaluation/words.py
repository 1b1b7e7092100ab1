"""An `Evaluation` in three sentences of plain words: how good the model is, how sure that is, where it is weak."""

from typing import TYPE_CHECKING

import numpy as np

from wideresnet.evaluation.parts import GroupFigures

if TYPE_CHECKING:
    from wideresnet.evaluation import Evaluation

_FEW = 5  # pictures of a class or a group, below which its share tells next to nothing
_SURE = "95\N{NARROW NO-BREAK SPACE}%"
_AS_SURE = 0.02  # how far mean confidence may be from the accuracy and still be called right


def sentences(e: "Evaluation") -> tuple[str, str, str]:
    return _good(e), _sure(e), _weak(e)


def _good(e: "Evaluation") -> str:
    counts = np.bincount(e.labels, minlength=e.num_classes)
    commonest, share = int(counts.argmax()), float(counts.max()) / e.num_images
    good = (
        f"It has {_percent(e, e.accuracy)} of the pictures right: {e.correct:,} of {e.num_images:,} in the "
        f"{e.split} split of {e.data}"
    )
    if len(set(e.predicted.tolist())) == 1 and e.num_images > 1:
        return f"{good}; but it says {e.class_names[e.predicted[0]]} of every one, whatever the picture."
    name = e.class_names[commonest]
    if share == 1:
        return f"{good}, all of which are {name}, so that this tells nothing of the other classes."
    if e.interval[0] <= share:
        return f"{good}; saying {name} of every one, without a look, would have {_percent(e, share)} right."
    return f"{good}."


def _sure(e: "Evaluation") -> str:
    low, high = e.interval
    expect = f"On other pictures of the same kind expect {_percent(e, low)} to {_percent(e, high)} ({_SURE} interval)"
    mean = float(e.confidence.mean())
    if abs(mean - e.accuracy) <= max(_AS_SURE, (high - low) / 2):
        return f"{expect}; how sure it says it is ({_whole(mean)} on average) can be taken at its word."
    way = "it is too sure of itself" if mean > e.accuracy else "it is better than it thinks"
    return f"{expect}; {way}: {_whole(mean)} sure on average."


def _weak(e: "Evaluation") -> str:
    if e.correct == e.num_images:
        return "It made no mistake here; how much that proves, the interval says."
    rows = [(label, row) for label, row in enumerate(e.per_class) if row.count]
    enough = [(label, row) for label, row in rows if row.count >= _FEW] or rows
    label, worst = min(enough, key=lambda each: each[1].recall or 0)
    found = round((worst.recall or 0) * worst.count)
    taken = [pair for pair in e.confused_pairs(e.num_classes**2, 0) if pair.label == label]
    said = f", most often taken for {e.class_names[taken[0].predicted]} ({taken[0].count:,}×)" if taken else ""
    weak = f"It is weakest on {e.class_names[label]}: {found:,} of {worst.count:,} found{said}"
    group = _weakest_group(e)
    if group is not None:
        weak += f"; and in group {group.group}: {group.correct:,} of {group.count:,} right"
    return f"{weak}."


def _weakest_group(e: "Evaluation") -> GroupFigures | None:
    """One whose accuracy lies below that of all pictures beyond chance."""
    below = [row for row in e.per_group if row.count >= _FEW and row.interval[1] < e.accuracy]
    return below[0] if below else None


def _whole(share: float) -> str:
    return f"{100 * share:.0f}\N{NARROW NO-BREAK SPACE}%"


def _percent(e: "Evaluation", share: float) -> str:
    return f"{100 * share:.{2 if e.num_images >= 2000 else 1}f}\N{NARROW NO-BREAK SPACE}%"
