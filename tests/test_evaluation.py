"""An `Evaluation` refuses what does not fit, and its figures agree with each other, also at the edges."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideresnet.evaluation import Evaluation


def evaluation(labels: list[int], predicted: list[int], num_classes: int = 3, /, **changed: Any) -> Evaluation:
    """Pictures with these labels that were answered so, the later the surer; then with these fields changed."""
    logits = np.zeros((len(labels), num_classes), dtype=np.float32)
    logits[np.arange(len(labels)), predicted] = 1 + np.arange(len(labels)) / 10
    fields: dict[str, Any] = {
        "data": "digits",
        "split": "test",
        "engine": "torch",
        "class_names": tuple("abcdefghijklmnopqrstuvwxyz"[:num_classes]),
        "names": tuple(f"test[{i}]" for i in range(len(labels))),
        "labels": np.array(labels, dtype=np.int64),
        "logits": logits,
    }
    return Evaluation(**fields | changed)


def test_a_small_example_worked_by_hand() -> None:
    found = evaluation([0, 0, 1, 1, 2], [0, 1, 1, 1, 0])
    assert (found.num_images, found.num_classes, found.correct, found.accuracy) == (5, 3, 3, 0.6)
    np.testing.assert_array_equal(found.confusion, [[1, 1, 0], [0, 2, 0], [1, 0, 0]])
    assert found.interval == pytest.approx((0.2307, 0.8824), abs=5e-5)
    assert found.macro_f1 == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)


def test_the_worst_mistakes_come_most_confident_first_and_hold_no_right_answer() -> None:
    found = evaluation([0, 0, 1, 1, 2], [1, 0, 2, 1, 0])
    assert found.worst_mistakes(10) == [4, 2, 0]
    assert found.worst_mistakes(1) == [4]


def test_the_confused_pairs_come_most_frequent_first_with_their_pictures() -> None:
    pairs = evaluation([0, 0, 0, 1, 2, 2], [1, 1, 2, 0, 1, 2]).confused_pairs(2, num_examples=1)
    assert [(p.label, p.predicted, p.count, p.examples) for p in pairs] == [(0, 1, 2, (1,)), (0, 2, 1, (2,))]


def test_the_confused_classes_are_those_of_the_most_frequent_confusions() -> None:
    found = evaluation([0, 0, 3, 3, 4, 1], [2, 2, 1, 1, 0, 1], 6)
    assert found.confused_classes(2) == [0, 2]
    assert found.confused_classes(4) == [0, 1, 2, 3]
    assert evaluation([0, 1], [0, 1]).confused_classes(4) == []


def test_a_class_missing_in_the_split_is_none_in_the_figures_and_leaves_the_mean() -> None:
    figures = evaluation([0, 1], [0, 1]).figures()
    assert figures["classes"][2] == {"class_name": "c", "count": 0, "precision": None, "recall": None, "f1": None}
    assert figures["macro_f1"] == 1


def test_one_picture_of_one_class_has_every_figure() -> None:
    found = evaluation([0], [0], 1)
    figures = found.figures()
    assert (figures["accuracy"], figures["macro_f1"], figures["loss"], figures["ece"]) == (1, 1, 0, 0)
    assert figures["confusion"] == [[1]]
    assert found.worst_mistakes(5) == []


def test_top_5_is_given_from_ten_classes_on() -> None:
    assert evaluation([0], [0], 9).top5 is None
    assert evaluation([0, 9], [0, 1], 10).top5 == 0.5  # of equal logits the lower classes come first


def test_the_temperature_changes_confidence_and_loss_but_no_answer() -> None:
    plain, cooled = evaluation([0, 1, 2], [0, 1, 0]), evaluation([0, 1, 2], [0, 1, 0], temperature=0.5)
    np.testing.assert_array_equal(plain.predicted, cooled.predicted)
    assert (cooled.confidence > plain.confidence).all()
    sharper = evaluation([0, 1, 2], [0, 1, 0], logits=plain.logits * 2)
    assert cooled.loss == pytest.approx(sharper.loss)
    assert cooled.ece == pytest.approx(sharper.ece)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": (), "labels": np.zeros(0, np.int64), "logits": np.zeros((0, 3), np.float32)}, "'test' has no pict"),
        ({"names": ("one",)}, r"labels \[1\]"),
        ({"class_names": ("a", "b")}, r"logits \[2, 2\]; got \[2\] and \[2, 3\]"),
        ({"labels": np.array([0, 3])}, r"test\[1\]: label 3 is none of the 3 classes"),
        ({"labels": np.array([-1, 0])}, r"test\[0\]: label -1"),
        ({"logits": np.array([[0, 1, 2], [0, np.nan, 0]], np.float32)}, r"test\[1\]: .* not finite .*1 of 2"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation([0, 1], [0, 1], **changed)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12))
def test_figures_are_json_without_nan_and_agree_with_the_confusion_matrix(seed: int, count: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    found = evaluation(
        generator.integers(0, classes, count).tolist(),
        [0] * count,
        classes,
        logits=generator.normal(size=(count, classes)).astype(np.float32) * 10,
    )
    figures = json.loads(json.dumps(found.figures(), allow_nan=False))
    confusion = np.array(figures["confusion"])
    assert confusion.sum() == count
    assert np.trace(confusion) == figures["correct"]
    low, high = figures["accuracy_interval"]
    assert low <= figures["accuracy"] <= high
    assert [row["count"] for row in figures["classes"]] == confusion.sum(axis=1).tolist()
    pairs = found.confused_pairs(classes**2)
    assert sum(pair.count for pair in pairs) == count - figures["correct"]
    assert all(confusion[pair.label, pair.predicted] == pair.count for pair in pairs)
