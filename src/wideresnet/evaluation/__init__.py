"""What a model answered on one split → one `Evaluation` value, from which every figure follows. It reads no files and
runs no network: logits come in, figures and the pictures worth looking at go out."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from wideresnet import metrics
from wideresnet.corruptions import CorruptionFigures
from wideresnet.evaluation.parts import Abstaining, Comparison, ConfusedPair, GroupFigures
from wideresnet.evaluation.unknown import OodFigures
from wideresnet.evaluation.words import sentences

__all__ = ["Abstaining", "Comparison", "ConfusedPair", "Evaluation", "GroupFigures", "OodFigures"]


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
    model: str = ""  # as the user wrote it
    groups: tuple[str, ...] = ()  # of N or of none; "" is no group
    seen: int = 0  # of the pictures, as far as is known: those that the model was trained on
    chosen: bool = False  # whether its training chose by these pictures: epoch, temperature, thresholds
    against: "Evaluation | None" = None  # another model's answers to the same pictures, its classes in this order
    abstain: tuple[float, float] | None = None  # the risk asked for, and the confidence that val gave for it
    ood: OodFigures | None = None  # how it tells pictures of other data from these, where that was asked
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
        if self.groups and len(self.groups) != count:
            raise ValueError(f"{len(self.groups)} groups of {count} pictures; expected as many, or none")
        if self.against is not None and (
            self.against.names != self.names or self.against.class_names != self.class_names
        ):
            raise ValueError("the other model's answers are not to the same pictures, or of other classes")
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
    def macro_f1_interval(self) -> tuple[float, float] | None:
        """95 % interval of it, by the bootstrap; None where that tells nothing."""
        return metrics.macro_f1_interval(self.confusion)

    @property
    def averages(self) -> dict[str, metrics.Average]:
        return metrics.averages(self.labels, self.predicted)

    @property
    def recall_intervals(self) -> list[tuple[float, float] | None]:
        """95 % interval of each class's recall; None for a class without a picture."""
        found, counts = self.confusion.diagonal(), np.bincount(self.labels, minlength=self.num_classes)
        both = zip(found.tolist(), counts.tolist(), strict=True)
        return [metrics.accuracy_interval(right, count) if count else None for right, count in both]

    @property
    def two_classes(self) -> metrics.TwoClasses | None:
        """ROC and precision against recall, where there are two classes."""
        return metrics.two_classes(self.probs, self.labels)

    @property
    def per_group(self) -> list[GroupFigures]:
        """The least accurate first; pictures of no group are left out."""
        right = self.predicted == self.labels
        rows: dict[str, list[bool]] = {}
        for group, each in zip(self.groups, right.tolist(), strict=True) if self.groups else ():
            if group:
                rows.setdefault(group, []).append(each)
        chances = {
            group: metrics.chance_of_less(sum(each), len(each), self.correct, self.num_images)
            for group, each in rows.items()
        }
        weak = set[str]()
        for rank, (group, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):  # Holm 1979
            if chance * (len(chances) - rank) >= _CHANCE:
                break
            weak.add(group)
        found = [GroupFigures(group, len(each), sum(each), group in weak) for group, each in rows.items()]
        return sorted(found, key=lambda row: (row.accuracy, -row.count, row.group))

    @property
    def raw(self) -> "Evaluation | None":
        """The same answers without the temperature; None where there is none, and of averages over several views, which
        were taken of probabilities that it made."""
        if self.temperature == 1 or self.tta != "none":
            return None
        return dataclasses.replace(self, temperature=1.0)

    @property
    def comparison(self) -> Comparison | None:
        """Beside the model `against`."""
        if self.against is None:
            return None
        mine, theirs = (each.predicted == self.labels for each in (self, self.against))
        surest = [np.argsort(-each.confidence, kind="stable") for each in (self.against, self)]
        kinds = (mine & ~theirs, theirs & ~mine)
        only = [tuple(order[kind[order]].tolist()) for order, kind in zip(surest, kinds, strict=True)]
        both_right, both_wrong = int((mine & theirs).sum()), int((~mine & ~theirs).sum())
        seen = self.seen, self.against.seen
        return Comparison(self.model, self.against.model, only[0], only[1], both_right, both_wrong, *seen)

    @property
    def risk_coverage(self) -> metrics.RiskCoverage:
        return metrics.risk_coverage(self.confidence, self.predicted == self.labels)

    @property
    def abstaining(self) -> Abstaining | None:
        if self.abstain is None:
            return None
        risk, threshold = self.abstain
        answered = self.confidence >= threshold
        wrong = int((answered & (self.predicted != self.labels)).sum())
        return Abstaining(risk, threshold, int(answered.sum()), wrong, self.num_images)

    @property
    def loss(self) -> float:
        """Cross-entropy in nats, at the model's temperature."""
        return metrics.negative_log_likelihood(self.logits.astype(np.float64) / self.temperature, self.labels)

    @property
    def ece(self) -> float:
        """Expected calibration error, 15 bins."""
        return metrics.expected_calibration_error(self.probs, self.labels)

    @property
    def ece_equal_mass(self) -> float:
        """The same, in bins of equally many pictures."""
        return metrics.equal_mass_calibration_error(self.probs, self.labels)

    @property
    def brier(self) -> float:
        """Brier score, 0 to 2."""
        return metrics.brier_score(self.probs, self.labels)

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
        predicted = self.predicted
        for index in self.worst_mistakes(self.num_images):  # so that each pair's are the most confident first
            by_pair.setdefault((int(self.labels[index]), int(predicted[index])), []).append(index)
        ordered = sorted(by_pair.items(), key=lambda item: (-len(item[1]), item[0]))
        return [ConfusedPair(*pair, len(found), tuple(found[:num_examples])) for pair, found in ordered[:limit]]

    def confused_classes(self, limit: int) -> list[int]:
        """At most `limit` classes, in class order: those that the most frequent confusions run between."""
        chosen: set[int] = set()
        for pair in self.confused_pairs(self.num_classes**2, num_examples=0):
            if len(chosen | {pair.label, pair.predicted}) <= limit:
                chosen |= {pair.label, pair.predicted}
        return sorted(chosen)

    @property
    def summary(self) -> tuple[str, str, str]:
        """How good the model is, how sure that is, where it is weak: a sentence each."""
        return sentences(self)

    def figures(self) -> dict[str, Any]:
        """Every figure under its name, ready for JSON; what is not defined is None, never NaN."""
        rows = zip(self.class_names, self.per_class, self.recall_intervals, strict=True)
        return {
            "data": self.data,
            "split": self.split,
            "engine": self.engine,
            "tta": self.tta,
            "num_images": self.num_images,
            "seen_in_training": self.seen,
            "chosen_by": self.chosen,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "top5_accuracy": self.top5,
            "macro_f1": self.macro_f1,
            "macro_f1_interval": _listed(self.macro_f1_interval),
            "averages": {how: dataclasses.asdict(average) for how, average in self.averages.items()},
            **self._calibration(),
            "temperature": self.temperature,
            "uncalibrated": None if (raw := self.raw) is None else raw._calibration(),
            "aurc": self.risk_coverage.area,
            "classes": [
                {"class_name": name, **dataclasses.asdict(row), "recall_interval": _listed(interval)}
                for name, row, interval in rows
            ],
            "confusion": self.confusion.tolist(),
            "summary": list(self.summary),
            **self._asked_for(),
            "ood": None if self.ood is None else self.ood.figures(),
            "corruptions": None if self.corruptions is None else self.corruptions.figures(),
        }

    def _calibration(self) -> dict[str, float]:
        return {"loss": self.loss, "ece": self.ece, "ece_equal_mass": self.ece_equal_mass, "brier": self.brier}

    def _asked_for(self) -> dict[str, Any]:
        """Figures that some evaluations have alone; of others None."""
        two, part, both, groups = self.two_classes, self.abstaining, self.comparison, self.per_group
        return {
            "two_classes": two
            and {
                "positive": self.class_names[two.positive],
                "roc_auc": two.roc_auc,
                "average_precision": two.average_precision,
            },
            "groups": [
                {**dataclasses.asdict(row), "accuracy": row.accuracy, "accuracy_interval": list(row.interval)}
                for row in groups
            ]
            or None,
            "abstain": part
            and {**dataclasses.asdict(part), "coverage": part.coverage, "risk_interval": _listed(part.interval)},
            "against": both
            and self.against
            and {
                "model": both.other,
                "accuracy": self.against.accuracy,
                "temperature": self.against.temperature,
                "difference": both.difference,
                "difference_interval": list(both.interval),
                "p": both.p,
                "both_right": both.both_right,
                "both_wrong": both.both_wrong,
                "seen_in_training": both.seen_by_other,
                "only_this": [self.names[index] for index in both.only_this],
                "only_other": [self.names[index] for index in both.only_other],
                "sentence": both.sentence,
            },
        }


_CHANCE = 0.05


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
