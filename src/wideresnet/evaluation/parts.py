"""What an `Evaluation` says of a part of its pictures, or of them beside another model: small frozen values."""

from dataclasses import dataclass

from wideresnet import metrics


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Pictures of the class `label` that were taken for the class `predicted`."""

    label: int
    predicted: int
    count: int
    examples: tuple[int, ...]  # indices of such pictures, most confident first


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """How the pictures of one group fared: of one hospital, one camera, one day."""

    group: str
    count: int
    correct: int
    weak: bool  # less accurate than the other pictures beyond chance, of so many groups (Fisher's exact test, Holm)

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return metrics.accuracy_interval(self.correct, self.count)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same pictures: where they differ, and whether that may be chance. McNemar 1947."""

    model: str  # this one
    other: str
    only_this: tuple[int, ...]  # indices of the pictures that this model alone has right, most confidently wrong first
    only_other: tuple[int, ...]
    both_right: int
    both_wrong: int
    seen: int = 0  # pictures that this model was trained on
    seen_by_other: int = 0

    @property
    def num_images(self) -> int:
        return self.both_right + self.both_wrong + len(self.only_this) + len(self.only_other)

    @property
    def p(self) -> float:
        return metrics.mcnemar(len(self.only_this), len(self.only_other))

    @property
    def difference(self) -> float:
        """Accuracy of this model, less the other's."""
        return (len(self.only_this) - len(self.only_other)) / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference."""
        return metrics.difference_interval(len(self.only_this), len(self.only_other), self.num_images)

    @property
    def sentence(self) -> str:
        points, (low, high) = 100 * self.difference, (100 * end for end in self.interval)
        sure = f"{points:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, p = {self.p:.2g}"
        knew = [f"{model} was trained on {seen:,} of these pictures" for model, seen in self._trained_on]
        but = f"; but {', and '.join(knew)}, so that it is no fair comparison" if knew else ""
        if self.p >= 0.05:
            return f"Neither is shown to be better than the other ({sure}){but}."
        better, worse = (self.model, self.other) if points > 0 else (self.other, self.model)
        return f"{better} is better than {worse}: so large a difference is unlikely to be chance ({sure}){but}."

    @property
    def _trained_on(self) -> list[tuple[str, int]]:
        both = ((self.model, self.seen), (self.other, self.seen_by_other))
        return [(model, seen) for model, seen in both if seen]


@dataclass(frozen=True, slots=True)
class Abstaining:
    """What a model does that answers only from the confidence `threshold` on, which val gave for the share `risk` of
    wrong answers."""

    risk: float
    threshold: float
    answered: int
    wrong: int  # of those answered
    num_images: int

    @property
    def coverage(self) -> float:
        return self.answered / self.num_images

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the share of wrong answers; None where nothing is answered."""
        return metrics.accuracy_interval(self.wrong, self.answered) if self.answered else None
