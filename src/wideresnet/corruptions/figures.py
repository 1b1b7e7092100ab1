"""How right a model stayed when its pictures were corrupted → one value, from which every figure follows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wideresnet import metrics

LEFT_OUT = ("frost",)  # of the fifteen: its definition needs photographs that are not ours to give


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CorruptionFigures:
    """Answers to the same pictures, clean and corrupted in each way at severities 1 … 5.

    The mean corruption error is the plain mean of the error over corruptions and severities, as CIFAR-10-C's is
    reported; it is not divided by another network's. Raises ValueError if the shapes do not fit.
    """

    names: tuple[str, ...]  # of K corruptions
    titles: tuple[str, ...]  # the same for a person
    groups: tuple[str, ...]  # noise, blur, weather or digital
    right: npt.NDArray[np.bool_]  # [K, 5, N]
    clean_right: npt.NDArray[np.bool_]  # [N]
    rows: tuple[int, ...]  # N, of the split: which of its pictures these are
    of: int  # how many it has
    seed: int

    def __post_init__(self) -> None:
        num, expected = len(self.names), (len(self.names), 5, len(self.clean_right))
        if not (num == len(self.titles) == len(self.groups) > 0) or self.right.shape != expected or not expected[2]:
            raise ValueError(
                f"{num} names, {len(self.titles)} titles, {len(self.groups)} groups and {expected[2]} clean answers "
                f"need answers {list(expected)}, at least one; got {list(self.right.shape)}"
            )

    @property
    def left_out(self) -> tuple[str, ...]:
        """Corruptions of the fifteen that are not among these."""
        return LEFT_OUT

    @property
    def num_images(self) -> int:
        return len(self.clean_right)

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """[K, 5]."""
        return np.asarray(self.right.mean(axis=2))

    @property
    def clean_accuracy(self) -> float:
        return float(self.clean_right.mean())

    @property
    def clean_interval(self) -> tuple[float, float]:
        return metrics.accuracy_interval(int(self.clean_right.sum()), self.num_images)

    def interval(self, corruption: int, severity: int) -> tuple[float, float]:
        """95 % interval of the accuracy of one cell."""
        return metrics.accuracy_interval(int(self.right[corruption, severity - 1].sum()), self.num_images)

    @property
    def mean_error(self) -> float:
        """The mean corruption error, 0 … 1."""
        return float(1 - self.right.mean())

    @property
    def mean_error_interval(self) -> tuple[float, float]:
        """95 % interval: the pictures are what was drawn, and each is in all cells, so their own shares are averaged.

        Two pictures that are all right and two that are all wrong are counted along (Agresti & Coull 1998), so that it
        is never empty and holds for few pictures.
        """
        shares = np.concatenate([1 - self.right.mean(axis=(0, 1)), [0, 0, 1, 1]])
        half = metrics.Z_95 * float(shares.std()) / np.sqrt(len(shares))
        return max(0.0, float(shares.mean() - half)), min(1.0, float(shares.mean() + half))

    @property
    def by_group(self) -> dict[str, npt.NDArray[np.float64]]:
        """Group → mean accuracy [5], in the order of the table."""
        of_group = {group: [i for i, one in enumerate(self.groups) if one == group] for group in self.groups}
        return {group: np.asarray(self.accuracy[rows].mean(axis=0)) for group, rows in of_group.items()}

    @property
    def weakest(self) -> int:
        """The corruption with the lowest mean accuracy; of equals the first."""
        return int(self.right.mean(axis=(1, 2)).argmin())

    @property
    def sentence(self) -> str:
        """Where it is weakest, in plain words."""
        means = self.right.mean(axis=(1, 2))
        worst = self.weakest
        if means[worst] >= self.clean_accuracy:
            return (
                f"On average over the severities no corruption makes it worse: {_percent(self.clean_accuracy)} of the "
                "clean pictures are right."
            )
        return (
            f"Loses most under {self.titles[worst]}: {_percent(self.clean_accuracy)} → {_percent(means[worst])} "
            f"over all severities, {_percent(self.accuracy[worst, 4])} at the strongest."
        )

    def figures(self) -> dict[str, Any]:
        """Every figure under its name, ready for JSON."""
        return {
            "num_images": self.num_images,
            "of": self.of,
            "seed": self.seed,
            "clean_accuracy": self.clean_accuracy,
            "clean_accuracy_interval": list(self.clean_interval),
            "mean_corruption_error": self.mean_error,
            "mean_corruption_error_interval": list(self.mean_error_interval),
            "left_out": list(self.left_out),
            "corruptions": [
                {
                    "name": name,
                    "group": group,
                    "accuracy": accuracy.tolist(),
                    "accuracy_interval": [list(self.interval(i, severity)) for severity in range(1, 6)],
                }
                for i, (name, group, accuracy) in enumerate(zip(self.names, self.groups, self.accuracy, strict=True))
            ],
        }


def chosen(labels: Sequence[int], digests: Sequence[bytes], at_most: int | None, seed: int = 0) -> list[int]:
    """Rows of at most so many pictures (None: all), in order: of every class its share, by largest remainders.

    Which ones is a function of the seed and the pictures, whatever their order and however their classes are numbered.
    """
    if at_most is None or at_most >= len(labels):
        return list(range(len(labels)))
    rank = [hashlib.sha256(f"{seed}/chosen/".encode() + digest).digest() for digest in digests]
    by_class: dict[int, list[int]] = {}
    for row in sorted(range(len(labels)), key=lambda row: rank[row]):
        by_class.setdefault(labels[row], []).append(row)
    exact = {label: len(rows) * at_most / len(labels) for label, rows in by_class.items()}
    counts = {label: int(share) for label, share in exact.items()}
    for label in sorted(exact, key=lambda one: (counts[one] - exact[one], rank[by_class[one][0]]))[
        : at_most - sum(counts.values())
    ]:
        counts[label] += 1
    return sorted(row for label, rows in by_class.items() for row in rows[: counts[label]])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
