"""Arrays → numbers: what was answered and what was true → how good that is, and how sure we are. Pure; draws, prints
and reads nothing. What scikit-learn defines is scikit-learn's; what it has not is a few lines beside its source."""

from dataclasses import dataclass

import numpy as np

TEMPERATURES = (0.05, 20.0)  # the range that `fit_temperature` searches
_Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log of softmax over the last axis, float64; never overflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """logits [N, num_classes] → probs [N, num_classes], float64, each row summing to 1."""
    return np.asarray(np.exp(log_softmax(logits)))


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of the share `correct` of `total`, within [0, 1]. Raises ValueError unless 0 ≤ correct ≤ total ≥ 1.

    Wilson 1927: unlike share ± 1.96 σ it is never empty, also at 0 % and 100 %, and holds for few pictures.
    """
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"correct={correct} of total={total}: expected 0 ≤ correct ≤ total and total ≥ 1")
    share, z2 = correct / total, _Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # The ends are exact in theory; in floating point 0 of 7 would begin at 1e-17 and 7 of 7 end below 1.
    return (0.0 if correct == 0 else float(centre - half)), (1.0 if correct == total else float(centre + half))


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of pictures whose label is among the k largest logits; of equal logits the lower class comes first,
    so that k=1 is the accuracy of `argmax`."""
    first_k = np.argsort(-logits, axis=1, kind="stable")[:, :k]  # [N, k]
    return float((first_k == labels[:, None]).any(axis=1).mean())


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of −log softmax(logits)[label], in nats: the cross-entropy."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityBins:
    """Pictures sorted by confidence into bins (lower, upper] of equal width; an empty bin has NaN means."""

    edges: np.ndarray  # [num_bins + 1], 0 … 1
    counts: np.ndarray  # [num_bins], int64
    confidence: np.ndarray  # [num_bins], mean confidence
    accuracy: np.ndarray  # [num_bins], share of correct answers


def reliability_bins(probs: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> ReliabilityBins:
    """probs [N, num_classes], labels [N] → what the reliability diagram shows. Guo et al. 2017, section 2."""
    confidence = probs.max(axis=1)
    correct = probs.argmax(axis=1) == labels
    edges = np.linspace(0, 1, num_bins + 1)
    bins = (np.searchsorted(edges, confidence, side="left") - 1).clip(0, num_bins - 1)  # lower < confidence ≤ upper
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0: an empty bin
        mean_confidence = np.bincount(bins, confidence, minlength=num_bins) / counts
        accuracy = np.bincount(bins, correct, minlength=num_bins) / counts
    return ReliabilityBins(edges, counts.astype(np.int64), mean_confidence, accuracy)


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """Mean distance of confidence from accuracy, bins weighed by their pictures, 0…1. Guo et al. 2017, equation 3."""
    bins = reliability_bins(probs, labels, num_bins)
    gaps = np.abs(bins.accuracy - bins.confidence)
    return float(np.nansum(bins.counts * gaps) / len(labels))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """[num_classes, num_classes] int64: row the true class, column the predicted one."""
    # Not scikit-learn's: that one warns of a model with one class, whatever it is told.
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


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


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature T > 0 that minimises the NLL of softmax(logits / T) on held-out images.

    logits [N, num_classes], unscaled; labels [N], int64. Searched in TEMPERATURES; where the NLL has no minimum
    inside (every picture right, for one), the result is exactly that end, for the caller to say so.
    Raises ValueError if N == 0. Source: Guo et al. 2017, section 4.2.
    """
    if len(labels) == 0:
        raise ValueError("no images to fit a temperature on; expected at least one")
    logits = logits.astype(np.float64)
    of_label = logits[np.arange(len(labels)), labels]  # [N]

    def slope(temperature: float) -> float:
        """Derivative of the NLL by 1/T, which only rises with 1/T: the NLL is convex there."""
        return float(((softmax(logits / temperature) * logits).sum(axis=1) - of_label).mean())

    low, high = TEMPERATURES
    if slope(high) >= 0:  # flatter still would be better, or it makes no difference
        return high
    if slope(low) <= 0:
        return low
    for _ in range(60):  # bisection on log T: 20 / 0.05 halved until neighbouring floats
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))
