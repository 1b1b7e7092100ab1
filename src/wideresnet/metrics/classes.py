"""How each class fared, and what follows for all of them together."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How one class fared. None is "not defined", never a zero: see `per_class`."""

    count: int  # pictures of this class in the split
    precision: float | None
    recall: float | None
    f1: float | None


def per_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> list[ClassFigures]:
    """Precision, recall and F1 of each class, in class order.

    Precision is None for a class that was never predicted, whether it occurs or not. Recall and F1 are None for a
    class without a picture in the split. A class that occurs and is never predicted has recall 0 and F1 0.
    """
    from sklearn.metrics import precision_recall_fscore_support  # late: a second that prediction need not wait for

    columns = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(num_classes), average=None, zero_division=np.nan
    )
    return [
        ClassFigures(
            count=int(count),
            precision=None if np.isnan(precision) else float(precision),
            recall=float(recall) if count else None,
            f1=float(f1) if count else None,
        )
        for precision, recall, f1, count in zip(*columns, strict=True)
    ]


def macro_f1(classes: list[ClassFigures]) -> float:
    """Mean F1 of the classes that occur in the split, each weighing the same. At least one class must occur."""
    return float(np.mean([row.f1 for row in classes if row.f1 is not None]))


@dataclass(frozen=True, slots=True)
class Average:
    """Precision, recall and F1 of all classes in one number each."""

    precision: float
    recall: float
    f1: float


def averages(labels: np.ndarray, predicted: np.ndarray) -> dict[str, Average]:
    """ "macro": every class that occurs in the split weighs the same; "weighted": each by its pictures; "micro": every
    picture weighs the same, so that all three are the accuracy. A class never predicted has precision 0 here."""
    from sklearn.metrics import precision_recall_fscore_support

    there, right = np.unique(labels), float((labels == predicted).mean())
    found = {}
    for how in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predicted, labels=there, average=how, zero_division=0
        )
        found[how] = Average(float(precision), float(recall), float(f1))
    return {"macro": found["macro"], "micro": Average(right, right, right), "weighted": found["weighted"]}


def macro_f1_interval(confusion: np.ndarray, num_draws: int = 1000) -> tuple[float, float] | None:
    """95 % interval of the macro F1, by the bootstrap's percentiles (Efron 1979): as many pictures drawn anew from
    those that were judged, with their answers, `num_draws` times, always the same ones. A class that a draw misses
    leaves its mean, as in `macro_f1`. None where all draws are alike (every answer right, for one): they tell nothing
    then of how sure it is.

    confusion [num_classes, num_classes], int64; at least one picture.
    """
    true, said = np.nonzero(confusion)
    counts, num_classes = confusion[true, said], len(confusion)
    total, generator = int(counts.sum()), np.random.default_rng(0)
    scores = list[np.ndarray]()
    for _ in range(0, num_draws, _DRAWN):
        drawn = generator.multinomial(total, counts / total, size=min(_DRAWN, num_draws))  # [draws, cells]
        of_true, of_said, right = (np.zeros((num_classes, len(drawn))) for _ in range(3))
        np.add.at(of_true, true, drawn.T)
        np.add.at(of_said, said, drawn.T)
        right[true[true == said]] = drawn.T[true == said]
        there = of_true > 0
        f1 = 2 * right / np.maximum(of_true + of_said, 1)
        scores.append((f1 * there).sum(0) / there.sum(0))
    low, high = np.quantile(np.concatenate(scores), [0.025, 0.975])
    return None if low == high else (float(low), float(high))


_DRAWN = 100  # at once: of a thousand classes with ten thousand kinds of answers, 8 MB


@dataclass(frozen=True, slots=True, eq=False)
class TwoClasses:
    """Of two classes the one that is looked for, and how well it is told from the other at every threshold."""

    positive: int  # its label
    false_positive_rate: np.ndarray  # [M], rising
    true_positive_rate: np.ndarray  # [M]
    recall: np.ndarray  # [L], falling
    precision: np.ndarray  # [L]
    roc_auc: float
    average_precision: float


def two_classes(probs: np.ndarray, labels: np.ndarray) -> TwoClasses | None:
    """Curves of the rarer class (of equals the second), as scikit-learn defines them; None where there are not two
    classes, or one of them has no picture. probs [N, 2], labels [N]."""
    if probs.shape[1] != 2 or len(counts := np.unique(labels, return_counts=True)[1]) != 2:
        return None
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    positive = 0 if counts[0] < counts[1] else 1
    truth, scores = labels == positive, probs[:, positive]
    fpr, tpr, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores)
    auc, average = float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores))
    return TwoClasses(positive, fpr, tpr, recall, precision, auc, average)
