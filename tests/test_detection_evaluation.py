"""COCO's figures are pycocotools' own on the same boxes."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from conftest import shared
from hypothesis import example, given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wideresnet.detection import Boxes, Detections, figures, read_boxes
from wideresnet.detection.evaluation import best_threshold, match

NO_BOX = Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


def by_pycocotools(truths: Sequence[Boxes], found: Sequence[Detections], num_classes: int) -> COCOeval:
    """Its `stats` begin with AP, AP50, AP75, small, medium, large; -1 where there is none."""
    annotations, results = list[dict[str, Any]](), list[dict[str, Any]]()
    for i, (truth, answer) in enumerate(zip(truths, found, strict=True)):
        for box, label, crowd, area in zip(truth.boxes, truth.labels, truth.crowd, truth.areas, strict=True):
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            one = {"id": len(annotations) + 1, "image_id": i, "category_id": int(label) + 1, "bbox": sides}
            annotations.append({**one, "iscrowd": int(crowd), "area": float(area)})
        for box, label, score in zip(answer.boxes, answer.labels, answer.scores, strict=True):
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": i, "category_id": int(label) + 1, "bbox": sides, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = {
            "images": [{"id": i, "height": t.height, "width": t.width} for i, t in enumerate(truths)],
            "categories": [{"id": label + 1} for label in range(num_classes)],
            "annotations": annotations,
            "info": {},
        }
        there.createIndex()
        evaluation = COCOeval(there, there.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def check(truths: Sequence[Boxes], found: Sequence[Detections], num_classes: int) -> None:
    theirs = by_pycocotools(truths, found, num_classes)
    expected = [float(value) for value in theirs.stats[:6]]
    got = figures(truths, found, num_classes)
    values = [got.ap, got.ap50, got.ap75, got.ap_small, got.ap_medium, got.ap_large]
    assert [-1.0 if value is None else value for value in values] == pytest.approx(expected, abs=1e-9)
    precision = theirs.eval["precision"][..., 0, -1]  # [overlaps, recalls, classes]
    for label, one in enumerate(got.classes):
        own = precision[:, :, label]
        means = [float(part[part > -1].mean()) if (part > -1).any() else None for part in (own, own[:1])]
        assert [one.ap, one.ap50] == [mean if mean is None else pytest.approx(mean, abs=1e-9) for mean in means]


def answers(truth: Boxes, num_classes: int, random: np.random.Generator, noise: float) -> Detections:
    """What a middling detector would say: most boxes, moved; some of another class; some of nothing; some twice."""
    kept = np.flatnonzero(random.random(len(truth)) < 0.8)
    kept = np.concatenate([kept, random.permutation(kept)[: len(kept) // 4]])
    moved = truth.boxes[kept] + random.normal(0, noise, (len(kept), 4))
    corners = random.random((3, 2)) * [truth.width, truth.height]
    boxes = np.concatenate([moved, np.concatenate([corners, corners + 20], 1)])
    labels = np.where(random.random(len(kept)) < 0.9, truth.labels[kept], random.integers(0, num_classes, len(kept)))
    labels = np.concatenate([labels, random.integers(0, num_classes, 3)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return Detections(boxes, labels, np.round(random.random(len(boxes)), 2))  # with ties


def some_boxes(random: np.random.Generator, num_classes: int = 3) -> Boxes:
    count = int(random.integers(0, 8))
    corners, sides = random.random((count, 2)) * 200, random.random((count, 2)) * random.choice([30, 90, 200]) + 1
    boxes = np.concatenate([corners, corners + sides], 1)
    crowd = random.random(count) < 0.2
    areas = sides.prod(1) * random.random(count)  # of an outline, smaller than its box
    return Boxes(400, 400, boxes, random.integers(0, num_classes, count), crowd, areas)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5))
def test_figures_are_pycocotools_own(seed: int, num_classes: int, num_pictures: int) -> None:
    random = np.random.default_rng(seed)
    truths = [some_boxes(random, num_classes) for _ in range(num_pictures)]
    found = [answers(truth, num_classes, random, noise=4) for truth in truths]
    check(truths, found, num_classes)


@pytest.mark.parametrize("name", ["bccd", "coco64"])
def test_figures_of_real_boxes_are_pycocotools_own(name: str) -> None:
    data = read_boxes(shared(f"data/detection/{name}"))
    random, num = np.random.default_rng(0), len(data.class_names)
    truths = data.splits["val"].boxes
    check(truths, [answers(truth, num, random, noise=6) for truth in truths], num)


def test_the_truth_itself_is_perfect_and_nothing_found_is_nothing() -> None:
    boxes = np.array([[0.0, 0, 20, 20], [50, 50, 90, 100], [0, 0, 300, 300]])
    truth = Boxes(400, 400, boxes, np.array([0, 1, 1]), np.array([False, False, True]), np.array([400.0, 2000, 90000]))
    perfect = Detections(boxes[:2], truth.labels[:2], np.array([0.9, 0.8]))
    got = figures([truth], [perfect], 3)
    assert (got.ap, got.ap50, got.ap75, got.ap_small, got.ap_medium, got.ap_large) == (1, 1, 1, 1, 1, None)
    assert [(one.count, one.ap, one.ap50) for one in got.classes] == [(1, 1, 1), (1, 1, 1), (0, None, None)]
    curve = got.classes[0].precision
    assert curve is not None
    assert curve.tolist() == [1.0] * 101
    none = figures([truth], [NO_BOX], 3)
    assert (none.ap, none.ap50, none.ap_large) == (0, 0, None)


def test_answers_to_other_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures with boxes, and 1 with answers"):
        figures([], [NO_BOX], 1)


@given(st.integers(0, 10_000))
def test_what_is_right_at_half_overlap_is_what_coco_counts(seed: int) -> None:
    """Of each class all that COCO counts at the overlap 0.5, with crowds; and each counts once."""
    random = np.random.default_rng(seed)
    truths = [some_boxes(random) for _ in range(3)]
    found = [answers(truth, 3, random, noise=4) for truth in truths]
    recall = by_pycocotools(truths, found, 3).eval["recall"][0, :, 0, -1]  # [classes]
    matched = [match(truth, one) for truth, one in zip(truths, found, strict=True)]
    for label in range(3):
        there = sum(int(((truth.labels == label) & ~truth.crowd).sum()) for truth in truths)
        right = sum(int((one.labels[m.right] == label).sum()) for one, m in zip(found, matched, strict=True))
        missed = sum(int((truth.labels[m.missed] == label).sum()) for truth, m in zip(truths, matched, strict=True))
        assert right + missed == there
        if there:
            assert right / there == pytest.approx(recall[label], abs=1e-9)
    assert not any((m.right & m.neither).any() for m in matched)


@example(255)  # equal scores, of which no threshold shows some
@given(st.integers(0, 10_000))
def test_the_threshold_is_the_one_with_the_best_f1(seed: int) -> None:
    random = np.random.default_rng(seed)
    truths = [some_boxes(random) for _ in range(3)]
    found = [answers(truth, 3, random, noise=4) for truth in truths]

    def f1(threshold: float) -> float:
        matched = [match(truth, one, threshold) for truth, one in zip(truths, found, strict=True)]
        right = sum(int(m.right.sum()) for m in matched)
        shown = right + sum(int((~m.right & ~m.neither).sum()) for m in matched)
        return 2 * right / max(1, shown + sum(int((~truth.crowd).sum()) for truth in truths))

    best = best_threshold(truths, found)
    scores = [0.0, *(score for one in found for score in one.scores.tolist())]
    highest = max(map(f1, scores))
    assert f1(best) == pytest.approx(highest, abs=1e-12) or highest == 0


def test_nothing_right_at_any_score_leaves_the_threshold_in_the_middle() -> None:
    truth = some_boxes(np.random.default_rng(0))
    assert best_threshold([truth], [NO_BOX]) == 0.5
