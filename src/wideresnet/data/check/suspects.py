"""Embeddings and labels → pictures whose label is doubtful: what a classifier, fitted on the other pictures, says of
each is set against its label. Confident learning (Northcutt et al. 2021), in a few lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wideresnet import runtime

FOLDS = 5
FEWEST = 5  # pictures of a class, so that each part has others of it to learn from

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
    of its mark (copies have one); and of which rows there are some: classes of fewer than `FEWEST` have none.

    Columns are the classes 0 to max(labels). A function of the set, not of its order: parts follow from the marks.
    """
    from sklearn.linear_model import LogisticRegression

    counts = np.bincount(labels)
    judged = counts[labels] >= FEWEST
    probs = np.zeros((len(labels), len(counts)))
    if len(np.unique(labels[judged])) < 2:
        return probs, np.zeros(len(labels), dtype=bool)
    spread = embeddings - embeddings[judged].mean(0)
    spread /= spread[judged].std(0) + 1e-6
    folds = _folds(labels, marks)
    for fold in range(FOLDS):
        fitted, held = judged & (folds != fold), judged & (folds == fold)
        watch.progress("judging labels", fold, FOLDS, "")
        if not held.any():
            continue
        if len(np.unique(labels[fitted])) < 2:
            judged &= folds != fold
            continue
        # C: as strong a prior as keeps a wrong label from being learnt by heart (docs/numbers.md, "Data check").
        model = LogisticRegression(C=0.01, max_iter=200)
        model.fit(spread[fitted], labels[fitted])
        probs[np.ix_(held, model.classes_)] = model.predict_proba(spread[held])
    return probs, judged


def _folds(labels: _Ints, marks: Sequence[bytes | int]) -> _Ints:
    """Of each row its part, 0 to FOLDS - 1: every class spread over all, equal marks in one."""
    folds, given = np.zeros(len(labels), np.int64), dict[bytes | int, int]()
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: str(marks[row]))
        for place, row in enumerate(rows):
            folds[row] = given.setdefault(marks[row], (place + int(label)) % FOLDS)
    return folds


def suspects(probs: _Floats, labels: _Ints, judged: npt.NDArray[np.bool_]) -> list[Suspect]:
    """The most doubtful first: pictures that another class claims with at least the probability that it gives its own
    pictures on average (the off-diagonal of the confident joint), by how much likelier it is than the label."""
    found = []
    for row in _claimed(probs, labels, judged):
        others = probs[row].copy()
        others[labels[row]] = -1.0
        likely = int(others.argmax())
        found.append(Suspect(row, likely, float(others[likely]), float(probs[row, labels[row]])))
    return sorted(found, key=lambda one: (one.of_label - one.confidence, one.row))


def ranked(probs: _Floats, labels: _Ints, judged: npt.NDArray[np.bool_]) -> list[int]:
    """All judged rows, the most doubtful label first, whether or not another class claims it."""
    rows = np.flatnonzero(judged)
    own = probs[rows, labels[rows]]
    others = probs[rows].copy()
    others[np.arange(len(rows)), labels[rows]] = -1.0
    return [int(row) for row in rows[np.argsort(own - others.max(1), kind="stable")]]


def _claimed(probs: _Floats, labels: _Ints, judged: npt.NDArray[np.bool_]) -> list[int]:
    own = np.full(probs.shape[1], np.inf)  # of each class: mean probability that its own pictures have of it
    for label in np.unique(labels[judged]):
        own[label] = probs[judged & (labels == label), label].mean()
    claims = np.where(probs >= own, probs, -1.0)
    best = claims.argmax(1)
    return [int(row) for row in np.flatnonzero(judged & (claims.max(1) > 0) & (best != labels))]
