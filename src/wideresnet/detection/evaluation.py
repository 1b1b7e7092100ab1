"""Boxes found and boxes that are there → COCO's figures. Reads no files and runs no network.

The average precision is COCO's own (Lin et al. 2014; cocodataset.org, "Detection evaluation"), computed by
faster-coco-eval: precision at 101 recalls, averaged over classes and the overlaps 0.50, 0.55, …, 0.95, of the 100
surest boxes of each picture. Crowds are neither right nor wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wideresnet.detection.reading import Boxes
from wideresnet.errors import missing_extra

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


def figures(truths: Sequence[Boxes], found: Sequence[Detections], num_classes: int) -> Figures:
    """`found` for the same pictures as `truths`, in order. Raises UsageError if faster-coco-eval is not installed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise missing_extra("the average precision of boxes", "detect") from None
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
