"""Embeddings and labels → pictures whose label is doubtful: what a classifier, fitted on the other pictures, says of
each is set against its label, as confident learning does (Northcutt et al. 2021), in a few lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wideresnet import runtime

FOLDS = 5
TIMES = 5  # as likely is a class as the label, so that the label is doubtful
FEWEST = 5  # different pictures of a class, so that each part has others of it to learn from

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """Row of a picture, the class it rather is, and the probabilities of this class and of its label."""

    row: int
    likely: int
    confidence: float
    of_label: float


def out_of_sample(
    embeddings: _Floats, labels: _Ints, marks: Sequence[bytes | int], watch: runtime.Watch = runtime.QUIET
) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    """Probabilities [N, C] of each picture by a logistic regression on embeddings [N, D] that has not seen it, nor any
    of its mark (copies have one); and of which rows there are some: classes of fewer than `FEWEST` marks have none.

    Columns are the classes 0 to max(labels). A function of the set, not of its order: parts follow from the marks.
    """
    from sklearn.linear_model import LogisticRegression

    num_classes = int(labels.max(initial=-1)) + 1
    different = {(int(label), mark) for label, mark in zip(labels, marks, strict=True)}
    counts = np.bincount(np.array([label for label, _ in different], np.int64), minlength=num_classes)
    judged = counts[labels] >= FEWEST
    probs = np.zeros((len(labels), num_classes))
    if len(np.unique(labels[judged])) < 2:
        return probs, np.zeros(len(labels), dtype=bool)
    spread = embeddings - embeddings[judged].mean(0)
    spread /= spread[judged].std(0) + 1e-6
    folds, unknown = _folds(labels, marks), np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        fitted, held = judged & (folds != fold), judged & (folds == fold)
        watch.progress("judging labels", fold, FOLDS, "")
        if not held.any():
            continue
        if len(np.unique(labels[fitted])) < 2:
            judged &= folds != fold
            continue
        # The prior weighs as much for many pictures as for few; three times as weak or strong, it finds the same.
        model = LogisticRegression(C=100 / int(fitted.sum()), max_iter=200)
        model.fit(spread[fitted], labels[fitted])
        probs[np.ix_(held, model.classes_)] = model.predict_proba(spread[held])
        # All copies of a class may lie in one part: the others then know nothing of it.
        unknown |= held & ~np.isin(labels, model.classes_)
    return probs, judged & ~unknown


def _folds(labels: _Ints, marks: Sequence[bytes | int]) -> _Ints:
    """Of each row its part, 0 to FOLDS - 1: every class spread over all, equal marks in one."""
    folds, given = np.zeros(len(labels), np.int64), dict[bytes | int, int]()
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: str(marks[row]))
        for place, row in enumerate(rows):
            folds[row] = given.setdefault(marks[row], (place + int(label)) % FOLDS)
    return folds


def suspects(probs: _Floats, labels: _Ints, judged: npt.NDArray[np.bool_]) -> list[Suspect]:
    """Pictures of which another class is at least `TIMES` as likely as their label, the least likely label first."""
    rows = np.flatnonzero(judged)
    own = probs[rows, labels[rows]]
    others = probs[rows].copy()
    others[np.arange(len(rows)), labels[rows]] = -1.0
    likely = others.argmax(1) if others.shape[1] else np.zeros(len(rows), np.int64)
    found = [
        Suspect(int(rows[k]), int(likely[k]), float(others[k, likely[k]]), float(own[k]))
        for k in np.flatnonzero(others.max(1, initial=-1.0) >= TIMES * own)
    ]
    return sorted(found, key=lambda one: (one.of_label, one.row))
