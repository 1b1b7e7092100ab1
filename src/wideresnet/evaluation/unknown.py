"""What a model says of pictures that are of none of its classes, beside those that are: a small frozen value."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wideresnet import metrics

SCORES = {
    "vim": "ViM: the distance from where embeddings of training lie, and the energy of the logits",
    "energy": "the energy of the logits alone, as the model file keeps nothing of its training to tell unknown ones by",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OodFigures:
    """How well a model tells the pictures of other data from its own: known are those of the evaluation. Larger scores
    are more unknown. Checked when made (ValueError)."""

    data: str  # as the user wrote it
    names: tuple[str, ...]  # of the M unknown pictures
    known: np.ndarray  # [N], their scores
    unknown: np.ndarray  # [M]
    score: str  # of SCORES
    threshold: float | None  # the model's own, above which it calls a picture unknown; None where it has none
    taken_for: tuple[str, ...]  # of M: the class that the model sees in each
    confidence: np.ndarray  # [M]

    def __post_init__(self) -> None:
        sizes = {len(each) for each in (self.names, self.unknown, self.taken_for, self.confidence)}
        if len(sizes) != 1:
            raise ValueError(f"names, scores, classes and confidences of {sorted(sizes)} pictures; expected as many")
        metrics.auroc(self.known, self.unknown)  # of which it raises, if it can

    @property
    def num_images(self) -> int:
        return len(self.names)

    @property
    def auroc(self) -> float:
        """Of all pairs of a known and an unknown picture, the share in which the unknown one has the larger score."""
        return metrics.auroc(self.known, self.unknown)

    @property
    def fpr95(self) -> float:
        """The share of unknown pictures that pass where 95 % of the known ones do."""
        return metrics.fpr95(self.known, self.unknown)

    @property
    def called_unknown(self) -> tuple[float, float] | None:
        """By the model's own threshold, the share of the known pictures, and of the unknown ones."""
        if self.threshold is None:
            return None
        return float((self.known > self.threshold).mean()), float((self.unknown > self.threshold).mean())

    def most_known(self, limit: int) -> list[int]:
        """Indices of the pictures that look most like known ones, at most `limit`: of those not called unknown."""
        order = np.argsort(self.unknown, kind="stable")
        passed = order if self.threshold is None else order[self.unknown[order] <= self.threshold]
        return [int(index) for index in passed[:limit]]

    @property
    def sentence(self) -> str:
        if self.called_unknown is None:
            passing = f"where 95 % of its own pictures pass, so do {_percent(self.fpr95)} of these"
            told = f"The model has no threshold for unknown pictures; {passing}"
        else:
            own, other = self.called_unknown
            told = f"It notices {_percent(other)} of these pictures as unknown, and takes {_percent(own)} of its own"
            told += " for unknown ones"
        if self.auroc < 0.4:
            return f"{told}: it takes them for known rather than its own, as if the two were exchanged."
        return f"{told}: it can hardly tell them apart." if self.auroc <= 0.6 else f"{told}."

    def figures(self) -> dict[str, Any]:
        own, other = self.called_unknown or (None, None)
        return {
            "data": self.data,
            "num_images": self.num_images,
            "score": self.score,
            "auroc": self.auroc,
            "fpr95": self.fpr95,
            "threshold": self.threshold,
            "called_unknown": other,
            "known_called_unknown": own,
            "sentence": self.sentence,
        }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
