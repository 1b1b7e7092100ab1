"""An `Evaluation` in three sentences of plain words: how good the model is, how sure that is, where it is weak."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wideresnet.evaluation import Evaluation

_FEW = 5  # pictures of a class or a group, below which its share tells next to nothing
_SURE = "95\N{NARROW NO-BREAK SPACE}%"
_AS_SURE = 0.02  # how far mean confidence may be from the accuracy and still be called right
_TELLING = 0.05  # where the accuracy is not known to within so much, nor is whether confidence is right


def sentences(e: "Evaluation") -> tuple[str, str, str]:
    return _good(e), _sure(e), _weak(e)


def _good(e: "Evaluation") -> str:
    counts = np.bincount(e.labels, minlength=e.num_classes)
    commonest, share = int(counts.argmax()), float(counts.max()) / e.num_images
    good = (
        f"It has {_percent(e, e.accuracy)} of the pictures right: {e.correct:,} of {e.num_images:,} in the "
        f"{e.split} split of {e.data}"
    )
    name = e.class_names[commonest]
    if share == 1:
        return f"{good}, all of which are {name}, so that this tells nothing of the other classes."
    if len(set(e.predicted.tolist())) == 1:
        return f"{good}; but it says {e.class_names[e.predicted[0]]} of every one, whatever the picture."
    if e.interval[0] <= share:
        return f"{good}; saying {name} of every one, without a look, would have {_percent(e, share)} right."
    return f"{good}."


def _sure(e: "Evaluation") -> str:
    low, high = e.interval
    expect = f"On other pictures of the same kind expect {_percent(e, low)} to {_percent(e, high)} ({_SURE} interval)"
    if e.seen:
        all_of = "these pictures" if e.seen == e.num_images else f"{e.seen:,} of these pictures"
        expect = f"It was trained on {all_of}: on others expect less, nobody knows how much"
    elif e.chosen:
        expect = f"Training chose by these very pictures: on others expect somewhat less than {_percent(e, low)} to "
        expect += _percent(e, high)
    return f"{expect}; {_confidence(e, (high - low) / 2)}."


def _confidence(e: "Evaluation", half: float) -> str:
    mean = float(e.confidence.mean())
    says = f"it says it is {_whole(mean)} sure on average"
    if abs(mean - e.accuracy) > max(_AS_SURE, half):
        return f"{says}, which is {'too much' if mean > e.accuracy else 'less than it could be'}"
    if half > _TELLING:
        return f"{says}, and these are too few pictures to tell whether that is right"
    if e.ece > _TELLING:
        return f"{says}, which is right on average, but not picture by picture (calibration error {_whole(e.ece)})"
    return f"{says}, which is right to within {_whole(max(_AS_SURE, half))[:-2]} points"


def _weak(e: "Evaluation") -> str:
    if e.correct == e.num_images:
        return "It made no mistake here; how much that proves, the interval says."
    wrong = [(label, row) for label, row in enumerate(e.per_class) if row.count and row.recall != 1]
    enough = [each for each in wrong if each[1].count >= _FEW]
    label, worst = min(enough or wrong, key=lambda each: each[1].recall or 0)
    found = round((worst.recall or 0) * worst.count)
    taken = [pair for pair in e.confused_pairs(e.num_classes**2, 0) if pair.label == label]
    said = f", most often taken for {e.class_names[taken[0].predicted]} ({taken[0].count:,}×)" if taken else ""
    weak = f"It is weakest on {e.class_names[label]}: {found:,} of {worst.count:,} found{said}"
    groups = [row for row in e.per_group if row.weak]
    if groups:
        weak += f"; and in group {groups[0].group}: {groups[0].correct:,} of {groups[0].count:,} right"
    return f"{weak}."


def _whole(share: float) -> str:
    return f"{100 * share:.0f}\N{NARROW NO-BREAK SPACE}%"


def _percent(e: "Evaluation", share: float) -> str:
    return f"{100 * share:.{2 if e.num_images >= 2000 else 1}f}\N{NARROW NO-BREAK SPACE}%"
