"""What a model answered on one split → one `Evaluation` value, from which every figure follows. It reads no files and
runs no network: logits come in, figures and the pictures worth looking at go out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wideresnet import metrics
from wideresnet.corruptions import CorruptionFigures


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Pictures of the class `label` that were taken for the class `predicted`."""

    label: int
    predicted: int
    count: int
    examples: tuple[int, ...]  # indices of such pictures, most confident first


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What a model answered on one split of one data set, and the figures that follow.

    Checked when made (ValueError); the rest are properties, computed when asked. Probabilities, and so loss,
    confidence and calibration, are those of softmax(logits / temperature), as the model answers a user.
    """

    data: str  # DATA as the user wrote it
    split: str
    engine: str
    class_names: tuple[str, ...]
    names: tuple[str, ...]  # each picture's name for a person: path below DATA, or "test[17]"
    labels: np.ndarray  # [N], int64
    logits: np.ndarray  # [N, num_classes], float32, as the network gives them
    temperature: float = 1.0
    tta: str = "none"  # test-time augmentation: "flip", answers averaged over each picture and its mirror image
    corruptions: CorruptionFigures | None = None  # how it fared on the same pictures corrupted, where that was asked

    def __post_init__(self) -> None:
        count, num_classes = len(self.names), len(self.class_names)
        if count == 0:
            raise ValueError(f"{self.data}: the split {self.split!r} has no pictures to evaluate")
        if self.labels.shape != (count,) or self.logits.shape != (count, num_classes):
            raise ValueError(
                f"{count} names and {num_classes} class names need labels [{count}] and logits "
                f"[{count}, {num_classes}]; got {list(self.labels.shape)} and {list(self.logits.shape)}"
            )
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
        if len(outside):
            first = outside[0]
            raise ValueError(f"{self.names[first]}: label {self.labels[first]} is none of the {num_classes} classes")
        broken = np.flatnonzero(~np.isfinite(self.logits).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{self.names[broken[0]]}: the network's logits are not finite "
                f"(so for {len(broken)} of {count} pictures)"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}; expected a number above 0")

    @property
    def num_images(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def predicted(self) -> np.ndarray:
        """[N], int64; of equal logits the lower class."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def probs(self) -> np.ndarray:
        """[N, num_classes], float64."""
        return metrics.softmax(self.logits.astype(np.float64) / self.temperature)

    @property
    def confidence(self) -> np.ndarray:
        """[N], the largest probability of each picture."""
        return np.asarray(self.probs.max(axis=1))

    @property
    def correct(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        return self.correct / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return metrics.accuracy_interval(self.correct, self.num_images)

    @property
    def top5(self) -> float | None:
        """Share of pictures whose class is among the five likeliest; None below ten classes, where it says little."""
        return metrics.top_k_accuracy(self.logits, self.labels, 5) if self.num_classes >= 10 else None

    @property
    def per_class(self) -> list[metrics.ClassFigures]:
        return metrics.per_class(self.labels, self.predicted, self.num_classes)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur in the split."""
        return metrics.macro_f1(self.per_class)

    @property
    def loss(self) -> float:
        """Cross-entropy in nats, at the model's temperature."""
        return metrics.negative_log_likelihood(self.logits.astype(np.float64) / self.temperature, self.labels)

    @property
    def ece(self) -> float:
        """Expected calibration error, 15 bins."""
        return metrics.expected_calibration_error(self.probs, self.labels)

    @property
    def reliability(self) -> metrics.ReliabilityBins:
        return metrics.reliability_bins(self.probs, self.labels)

    @property
    def confusion(self) -> np.ndarray:
        """[num_classes, num_classes] int64: row the true class, column the predicted one."""
        return metrics.confusion_matrix(self.labels, self.predicted, self.num_classes)

    def worst_mistakes(self, limit: int) -> list[int]:
        """Indices of wrong answers, the most confident first, at most `limit`."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        order = np.argsort(-self.confidence[wrong], kind="stable")
        return [int(index) for index in wrong[order][:limit]]

    def confused_pairs(self, limit: int, num_examples: int = 4) -> list[ConfusedPair]:
        """The (true, predicted) pairs that happened most often, at most `limit`; of equals the lower classes first."""
        by_pair: dict[tuple[int, int], list[int]] = {}
        for index in self.worst_mistakes(self.num_images):  # so that each pair's are the most confident first
            by_pair.setdefault((int(self.labels[index]), int(self.predicted[index])), []).append(index)
        ordered = sorted(by_pair.items(), key=lambda item: (-len(item[1]), item[0]))
        return [ConfusedPair(*pair, len(found), tuple(found[:num_examples])) for pair, found in ordered[:limit]]

    def confused_classes(self, limit: int) -> list[int]:
        """At most `limit` classes, in class order: those that the most frequent confusions run between."""
        chosen: set[int] = set()
        for pair in self.confused_pairs(self.num_classes**2, num_examples=0):
            if len(chosen | {pair.label, pair.predicted}) <= limit:
                chosen |= {pair.label, pair.predicted}
        return sorted(chosen)

    def figures(self) -> dict[str, Any]:
        """Every figure under its name, ready for JSON; what is not defined is None, never NaN."""
        rows = zip(self.class_names, self.per_class, strict=True)
        return {
            "data": self.data,
            "split": self.split,
            "engine": self.engine,
            "tta": self.tta,
            "num_images": self.num_images,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "top5_accuracy": self.top5,
            "macro_f1": self.macro_f1,
            "loss": self.loss,
            "ece": self.ece,
            "temperature": self.temperature,
            "classes": [
                {"class_name": name, "count": row.count, "precision": row.precision, "recall": row.recall, "f1": row.f1}
                for name, row in rows
            ],
            "confusion": self.confusion.tolist(),
            **({} if self.corruptions is None else {"corruptions": self.corruptions.figures()}),
        }
