"""Boxes found and boxes that are there → COCO's figures, and what was right at a threshold. Reads no files and runs no
network.

The average precision is COCO's own (Lin et al. 2014; cocodataset.org, "Detection evaluation"), computed by
faster-coco-eval: precision at 101 recalls, averaged over classes and the overlaps 0.50, 0.55, …, 0.95, of the 100
surest boxes of each picture. Crowds are neither right nor wrong.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wideresnet.data import Boxes
from wideresnet.errors import missing_extra

OVERLAP = 0.5  # intersection over union from which a box is the object's, at a threshold

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's areas: below 32², below 96², above, in pixels


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Of one upright picture: boxes float64 [M, 4] (left, top, right, bottom) in its pixels; labels int64 [M]; scores
    float64 [M] in [0, 1]."""

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class ClassFigures:
    """count: boxes of this class that are there, without crowds; precision float64 [101] at the recalls 0, 0.01, …, 1
    and an overlap of 0.5. None where the class has no box."""

    count: int
    ap: float | None
    ap50: float | None
    precision: npt.NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figures:
    """Averages over the classes that have boxes, in [0, 1]; None where no box of such an area is there."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    classes: tuple[ClassFigures, ...]


def check_installed() -> None:
    """Raises UsageError where what `figures` needs is not, so that no training finds out at its end."""
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise missing_extra("the average precision of boxes", "detect")


def figures(truths: Sequence[Boxes], found: Sequence[Detections], num_classes: int) -> Figures:
    """`found` for the same pictures as `truths`, in order. Raises UsageError if faster-coco-eval is not installed."""
    check_installed()
    from faster_coco_eval import COCO, COCOeval_faster

    if len(truths) != len(found):
        raise ValueError(f"{len(truths)} pictures with boxes, and {len(found)} with answers; expected as many")
    # Classes count from 1: where they do not, COCO's code takes the first for none.
    content = {
        "images": [{"id": i, "height": t.height, "width": t.width} for i, t in enumerate(truths)],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(num_classes)],
        "annotations": _annotations(truths),
    }
    there = COCO(content)
    evaluation = COCOeval_faster(there, there.loadRes(_results(found)), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision: npt.NDArray[np.float64] = evaluation.eval["precision"][..., -1]  # [overlaps, recalls, classes, areas]
    counts = np.zeros(num_classes, dtype=np.int64)
    for truth in truths:
        counts += np.bincount(truth.labels[~truth.crowd], minlength=num_classes)
    classes = []
    for label in range(num_classes):
        own = precision[:, :, label, _ALL]
        has_some = bool((own > -1).any())
        curve = own[0].copy() if has_some else None
        classes.append(ClassFigures(int(counts[label]), _mean(own), _mean(own[:1]), curve))
    return Figures(
        ap=_mean(precision[..., _ALL]),
        ap50=_mean(precision[:1, ..., _ALL]),
        ap75=_mean(precision[5:6, ..., _ALL]),
        ap_small=_mean(precision[..., _SMALL]),
        ap_medium=_mean(precision[..., _MEDIUM]),
        ap_large=_mean(precision[..., _LARGE]),
        classes=tuple(classes),
    )


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    """Over the classes that have boxes: COCO writes -1 for the others."""
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else None


def _annotations(truths: Sequence[Boxes]) -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    for i, truth in enumerate(truths):
        for box, label, crowd, area in zip(truth.boxes, truth.labels, truth.crowd, truth.areas, strict=True):
            one = {"image_id": i, "category_id": int(label) + 1, "bbox": _sides(box), "area": float(area)}
            rows.append({"id": len(rows) + 1, "iscrowd": int(crowd), **one})  # an id of 0 counts as no match
    return rows


def _results(found: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": i, "category_id": int(label) + 1, "bbox": _sides(box), "score": float(score)}
        for i, one in enumerate(found)
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]


def _sides(box: npt.NDArray[np.float64]) -> list[float]:
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Of one picture: right bool [M], of the boxes found; neither bool [M], which are no mistake either, as they lie in
    a crowd; missed bool [T], of the boxes that are there. Each counts once."""

    right: npt.NDArray[np.bool_]
    neither: npt.NDArray[np.bool_]
    missed: npt.NDArray[np.bool_]


def match(truth: Boxes, found: Detections, threshold: float = 0.0) -> Matched:
    """As COCO does at one overlap: the surest first, each takes the box of its class that it overlaps most and nobody
    has; those below the threshold take none and are no mistakes."""
    from torchvision.ops import box_iou  # a second and a half to import

    overlap = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(truth.boxes)).numpy()  # [M, T]
    own = (found.labels[:, None] == truth.labels[None]) & (overlap >= OVERLAP)
    free = ~truth.crowd
    right = np.zeros(len(found), dtype=np.bool_)
    neither = found.scores < threshold
    for row in np.argsort(-found.scores, kind="stable"):
        if neither[row]:
            continue
        if (can := own[row] & free).any():
            free[np.where(can, overlap[row], -1).argmax()] = False
            right[row] = True
        else:
            neither[row] = _in_crowd(found.boxes[row], truth, int(found.labels[row]))
    return Matched(right, neither, free & ~truth.crowd)


def _in_crowd(box: npt.NDArray[np.float64], truth: Boxes, label: int) -> bool:
    """Whether half of it lies in one."""
    crowds = truth.boxes[truth.crowd & (truth.labels == label)]
    sides = np.minimum(crowds[:, 2:], box[2:]) - np.maximum(crowds[:, :2], box[:2])
    return bool((sides.clip(0).prod(1) >= OVERLAP * (box[2:] - box[:2]).prod()).any())


def best_threshold(truths: Sequence[Boxes], found: Sequence[Detections]) -> float:
    """The score from which on boxes are shown: where F1, of all classes together, is the highest; in the middle to the
    next lower score. 0.5 where nothing is right at any."""
    scores, right = [np.empty(0)], [np.empty(0, dtype=np.bool_)]
    for truth, one in zip(truths, found, strict=True):
        matched = match(truth, one)
        scores.append(one.scores[~matched.neither])
        right.append(matched.right[~matched.neither])
    all_scores, all_right = np.concatenate(scores), np.concatenate(right)
    if not all_right.any():
        return 0.5
    order = np.argsort(-all_scores, kind="stable")
    hits, there = np.cumsum(all_right[order]), sum(int((~truth.crowd).sum()) for truth in truths)
    f1, sorted_scores = 2 * hits / (np.arange(1, len(order) + 1) + there), all_scores[order]
    of_equals_the_last = np.append(sorted_scores[1:] < sorted_scores[:-1], True)  # no threshold parts equal scores
    lowest = sorted_scores[np.where(of_equals_the_last, f1, -1.0).argmax()]
    below = sorted_scores[sorted_scores < lowest]
    return float((lowest + (below[0] if len(below) else 0.0)) / 2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxEvaluation:
    """What a detector found on one split of one data set; the average precision is over all scores, all else at the
    threshold."""

    data: str  # DATA as the user wrote it
    split: str
    engine: str
    class_names: tuple[str, ...]
    names: tuple[str, ...]  # each picture's name for a person
    truths: tuple[Boxes, ...]
    found: tuple[Detections, ...]
    threshold: float
    coco: Figures
    matched: tuple[Matched, ...]  # of each picture, at the threshold

    def at_threshold(self) -> list[tuple[int, int, int]]:
        """Of each class: right, false alarms, missed."""
        counts = np.zeros((len(self.class_names), 3), dtype=np.int64)
        for truth, one, matched in zip(self.truths, self.found, self.matched, strict=True):
            wrong = ~matched.right & ~matched.neither
            for column, labels in enumerate(
                (one.labels[matched.right], one.labels[wrong], truth.labels[matched.missed])
            ):
                counts[:, column] += np.bincount(labels, minlength=len(self.class_names))
        return [(int(a), int(b), int(c)) for a, b, c in counts]

    def figures(self) -> dict[str, Any]:
        """Every figure under its name, ready for JSON; what is not defined is None, never NaN."""
        coco = {field: getattr(self.coco, field) for field in AVERAGES}
        rows = zip(self.class_names, self.coco.classes, self.at_threshold(), strict=True)
        return {
            "data": self.data,
            "split": self.split,
            "engine": self.engine,
            "num_images": len(self.names),
            "num_boxes": sum(one.count for one in self.coco.classes),
            **coco,
            "threshold": self.threshold,
            "classes": [
                {
                    "class_name": name,
                    "count": one.count,
                    "ap": one.ap,
                    "ap50": one.ap50,
                    "precision": _share(right, right + wrong),
                    "recall": _share(right, right + missed),
                }
                for name, one, (right, wrong, missed) in rows
            ],
        }


AVERAGES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
