"""An `Evaluation` refuses what does not fit, and its figures agree with each other, also at the edges."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideresnet import metrics
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
    nothing = {"precision": None, "recall": None, "f1": None, "recall_interval": None}
    assert figures["classes"][2] == {"class_name": "c", "count": 0, **nothing}
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


def test_two_models_are_compared_picture_by_picture() -> None:
    labels = [0, 0, 1, 1, 2, 2]
    one = evaluation(labels, [0, 0, 1, 0, 2, 1], model="one")
    other = evaluation(labels, [0, 1, 0, 1, 2, 0], model="other")
    found = dataclasses.replace(one, against=other).comparison
    assert found is not None
    assert (set(found.only_this), set(found.only_other)) == ({1, 2}, {3})
    assert (found.both_right, found.both_wrong, found.num_images) == (2, 1, 6)
    assert found.only_this[0] == 2  # the other model is surest there
    assert found.difference == pytest.approx(one.accuracy - other.accuracy)
    assert found.p == 1  # of three that differ nothing can be told
    assert found.sentence.startswith("Neither is shown to be better")
    assert found.interval[0] < 0 < found.interval[1]


def test_a_difference_beyond_chance_is_named_with_the_better_one() -> None:
    labels = [0] * 60
    good, bad = evaluation(labels, [0] * 60, model="good"), evaluation(labels, [0] * 40 + [1] * 20, model="bad")
    for one, other in ((good, bad), (bad, good)):
        found = dataclasses.replace(one, against=other).comparison
        assert found is not None
        assert found.sentence.startswith("good is better than bad: so large a difference is unlikely to be chance")
        assert found.p == pytest.approx(2 * 0.5**20)


def test_a_comparison_with_other_pictures_or_classes_is_refused() -> None:
    one = evaluation([0, 1], [0, 1])
    for other in (
        evaluation([0, 1], [0, 1], names=("x", "y")),
        evaluation([0, 1], [0, 1], class_names=("b", "a", "c")),
    ):
        with pytest.raises(ValueError, match="not to the same pictures, or of other classes"):
            dataclasses.replace(one, against=other)


def test_groups_come_least_accurate_first_and_pictures_of_no_group_are_left_out() -> None:
    found = evaluation([0, 0, 1, 1, 2], [0, 0, 1, 0, 0], groups=("x", "x", "y", "y", ""))
    assert [(row.group, row.count, row.correct) for row in found.per_group] == [("y", 2, 1), ("x", 2, 2)]
    assert [row["group"] for row in found.figures()["groups"]] == ["y", "x"]
    with pytest.raises(ValueError, match="1 groups of 2 pictures"):
        evaluation([0, 1], [0, 1], groups=("x",))


def test_a_model_that_abstains_answers_where_it_is_sure_enough() -> None:
    plain = evaluation([0, 1, 2, 0], [0, 1, 2, 1])
    threshold = float(plain.confidence[2])
    part = dataclasses.replace(plain, abstain=(0.1, threshold)).abstaining
    assert part is not None
    assert (part.answered, part.wrong, part.coverage) == (2, 1, 0.5)
    assert part.interval == metrics.accuracy_interval(1, 2)
    nothing = dataclasses.replace(plain, abstain=(0.1, 1.5)).abstaining
    assert nothing is not None
    assert (nothing.answered, nothing.interval) == (0, None)


def test_the_answers_without_the_temperature_are_told_beside_those_with_it() -> None:
    cooled = evaluation([0, 1, 2], [0, 1, 0], temperature=0.5)
    plain = evaluation([0, 1, 2], [0, 1, 0])
    assert cooled.figures()["uncalibrated"]["ece"] == plain.figures()["ece"] != cooled.figures()["ece"]
    assert plain.figures()["uncalibrated"] is None


@pytest.mark.parametrize(
    ("labels", "predicted", "words"),
    [
        ([0, 1, 2] * 20, [0, 1, 2] * 20, ["100.0", "60 of 60", "no mistake here"]),
        (
            [0, 1, 2] * 20,
            [0, 0, 0] * 20,
            ["says a of every one", "weakest on b: 0 of 20 found, most often taken for a"],
        ),
        ([0] * 20, [0] * 19 + [1], ["all of which are a", "weakest on a: 19 of 20"]),
        ([0] * 20, [0] * 20, ["all of which are a", "no mistake here"]),
        ([0] * 10 + [1] * 10 + [2] * 3, [0] * 10 + [1] * 10 + [0] * 3, ["weakest on c: 0 of 3 found"]),
        ([0] * 15 + [1] * 5, [0] * 10 + [1] * 5 + [0] * 5, ["saying a of every one, without a look, would have 75.0"]),
        ([0], [1], ["0 of 1", "weakest on a: 0 of 1 found, most often taken for b (1×)"]),
    ],
)
def test_three_sentences_say_how_good_how_sure_and_where_weak(
    labels: list[int], predicted: list[int], words: list[str]
) -> None:
    summary = evaluation(labels, predicted).summary
    assert len(summary) == 3
    for word in words:
        assert word in " ".join(summary), summary


def test_confidence_far_from_the_truth_is_said_in_words() -> None:
    labels, predicted = [0, 1, 2] * 100, [0, 1, 0] * 100
    for scale, word in ((100.0, "which is too much"), (0.001, "which is less than it could be")):
        found = evaluation(labels, predicted)
        found = dataclasses.replace(found, logits=found.logits * np.float32(scale))
        assert word in found.summary[1]


def test_a_group_weak_beyond_chance_is_named_and_one_that_may_be_luck_is_not() -> None:
    labels = [0] * 200
    weak = evaluation(labels, [0] * 180 + [1] * 20, groups=("day",) * 180 + ("night",) * 20)
    assert "in group night: 0 of 20 right" in weak.summary[2]
    assert [row.weak for row in weak.per_group] == [True, False]
    luck = evaluation(labels, [0] * 180 + [1] * 20, groups=("day", "night") * 100)
    assert "group" not in luck.summary[2]


def test_of_many_equal_groups_hardly_ever_one_is_called_weak() -> None:
    random, named = np.random.default_rng(0), 0
    for _ in range(60):
        right = random.random(2000) < 0.9
        found = evaluation([0] * 2000, np.where(right, 0, 1).tolist(), groups=tuple(f"g{i % 100}" for i in range(2000)))
        named += any(row.weak for row in found.per_group)
    assert named <= 7, f"{named} of 60"  # 5 % are 3; more than 7 is less likely than 2 %


def test_few_pictures_do_not_tell_whether_confidence_is_right() -> None:
    for count in (1, 4, 30):
        assert "too few pictures to tell" in evaluation([0] * count, [0] * count).summary[1] or (
            "less than it could be" in evaluation([0] * count, [0] * count).summary[1]
        )
    sharp = evaluation([0, 1] * 1000, [0, 1] * 1000, 2, logits=np.eye(2, dtype=np.float32)[[0, 1] * 1000] * 9)
    assert "which is right to within 2 points" in sharp.summary[1]
