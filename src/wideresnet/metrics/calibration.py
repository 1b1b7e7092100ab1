"""Whether confidence can be trusted: reliability, calibration errors, the temperature that mends them, and what it
costs to answer only where the model is sure."""

from dataclasses import dataclass

import numpy as np

from wideresnet.metrics.answers import softmax

TEMPERATURES = (0.05, 20.0)  # the range that `fit_temperature` searches


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


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature T > 0 that minimises the NLL of softmax(logits / T) on held-out images.

    logits [N, num_classes], unscaled; labels [N], int64. Searched in TEMPERATURES; where the NLL has no minimum
    inside (every picture right, for one), the result is exactly that end, for the caller to say so.
    Raises ValueError if N == 0. Source: Guo et al. 2017, section 4.2.
    """
    if len(labels) == 0:
        raise ValueError("no images to fit a temperature on; expected at least one")
    # Less the label's own: where every answer is right no term is above 0, and so no rounding makes it one.
    logits = logits.astype(np.float64)
    logits = logits - logits[np.arange(len(labels)), labels][:, None]

    def slope(temperature: float) -> float:
        """Derivative of the NLL by 1/T, which only rises with 1/T: the NLL is convex there."""
        return float((softmax(logits / temperature) * logits).sum(axis=1).mean())

    low, high = TEMPERATURES
    if slope(high) >= 0:  # flatter still would be better, or it makes no difference
        return high
    if slope(low) <= 0:
        return low
    for _ in range(60):  # bisection on log T: 20 / 0.05 halved until neighbouring floats
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))


def equal_mass_calibration_error(probs: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """As `expected_calibration_error`, in bins of equally many pictures: their edges are the quantiles of confidence,
    so that a bin is never nearly empty. Equal confidences share a bin. Nguyen & O'Connor 2015, section 3."""
    confidence = probs.max(axis=1)
    edges = np.quantile(confidence, np.linspace(0, 1, num_bins + 1))
    bins = np.searchsorted(edges[1:-1], confidence)  # lower < confidence ≤ upper
    gaps = np.bincount(bins, (probs.argmax(axis=1) == labels) - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def brier_score(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the truth (1 for the label, else 0), summed over the classes:
    0 is perfect, 2 the worst. Brier 1950, equation 2."""
    wrong_way = probs.copy()
    wrong_way[np.arange(len(labels)), labels] -= 1
    return float(np.square(wrong_way).sum(axis=1).mean())


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """What it takes to answer only where the model is sure enough. Row i: of all pictures with a confidence of
    `threshold[i]` or more, their share `coverage[i]` of all, and the share `risk[i]` of them that is wrong."""

    threshold: np.ndarray  # [M], falling: each confidence that occurs
    coverage: np.ndarray  # [M], rising to 1
    risk: np.ndarray  # [M]

    @property
    def area(self) -> float:
        """Mean risk over all coverages, AURC: Geifman et al. 2019, equation 2. 0 is perfect."""
        steps = np.diff(self.coverage, prepend=0)
        return float((steps * self.risk).sum())

    def threshold_for(self, risk: float) -> float | None:
        """The lowest confidence from which on no larger share than `risk` is wrong: the most answers for that risk.
        None where there is none."""
        good = np.flatnonzero(self.risk <= risk)
        return float(self.threshold[good[-1]]) if len(good) else None

    def at(self, threshold: float) -> tuple[float, float | None]:
        """Coverage and risk of answering from that confidence on; no risk where nothing is answered."""
        rows = np.flatnonzero(self.threshold >= threshold)
        return (float(self.coverage[rows[-1]]), float(self.risk[rows[-1]])) if len(rows) else (0.0, None)


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """confidence [N] and whether each answer is right [N], N ≥ 1. El-Yaniv & Wiener 2010, section 2."""
    if len(confidence) == 0:
        raise ValueError("no pictures to tell risk and coverage of; expected at least one")
    order = np.argsort(-confidence, kind="stable")
    wrong, answered = np.cumsum(~correct[order].astype(bool)), np.arange(1, len(order) + 1)
    falling = confidence[order]
    last = np.append(falling[1:] != falling[:-1], True)  # pictures of one confidence are answered together
    return RiskCoverage(falling[last], answered[last] / len(order), wrong[last] / answered[last])
