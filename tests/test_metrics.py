"""The figures follow their definitions: hand-computed examples, naive loops, scikit-learn, and laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, fisher_exact, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from wideresnet import metrics


def random_answers(seed: int, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(logits [count, num_classes] float32, labels [count]), right more often than by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, count)
    logits = generator.normal(size=(count, num_classes)).astype(np.float32) * 2
    logits[np.arange(count), labels] += generator.normal(1, 2, count)
    return logits, labels


answers = st.builds(random_answers, st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 7))


@given(answers, st.floats(-1e4, 1e4))
def test_probabilities_sum_to_one_and_do_not_change_when_all_logits_shift(
    case: tuple[np.ndarray, np.ndarray], shift: float
) -> None:
    logits = case[0].astype(np.float64)
    probs = metrics.softmax(logits)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(metrics.softmax(logits + shift), probs, atol=1e-9)  # 1e4 costs 4 of 16 digits


def test_softmax_of_huge_logits_stays_finite() -> None:
    probs = metrics.softmax(np.array([[1e30, -1e30], [0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(probs, [[1, 0], [0.5, 0.5]])


# Wilson's formula worked by hand: for 8 of 10, (0.8 + z²/20 ± z·√(0.016 + z²/400)) / (1 + z²/10), z = 1.96.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (0, 1, 0, 0.7935),
    ],
)
def test_the_interval_is_wilsons(correct: int, total: int, low: float, high: float) -> None:
    assert metrics.accuracy_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**7).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
@example((0, 7))
@example((7, 7))
def test_the_interval_lies_in_0_1_holds_the_share_and_is_never_empty(case: tuple[int, int]) -> None:
    correct, total = case
    low, high = metrics.accuracy_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    assert low < high
    theirs = binomtest(correct, total).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    mirrored = metrics.accuracy_interval(total - correct, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_an_interval_of_impossible_counts_is_refused_with_the_counts(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"correct={correct} of total={total}"):
        metrics.accuracy_interval(correct, total)


@given(answers)
def test_top_1_is_the_accuracy_of_argmax_and_top_all_is_1(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    assert metrics.top_k_accuracy(logits, labels, 1) == (logits.argmax(axis=1) == labels).mean()
    assert metrics.top_k_accuracy(logits, labels, logits.shape[1]) == 1


def test_top_2_counts_a_label_that_comes_second() -> None:
    logits = np.array([[3, 2, 1], [3, 2, 1], [0, 0, 0]], dtype=np.float32)
    assert metrics.top_k_accuracy(logits, np.array([1, 2, 1]), 2) == pytest.approx(2 / 3)


@settings(deadline=None)
@given(answers)
def test_the_loss_is_that_of_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    if logits.shape[1] < 2:  # log_loss knows no single class
        assert metrics.negative_log_likelihood(logits, labels) == 0
        return
    expected = log_loss(labels, metrics.softmax(logits), labels=np.arange(logits.shape[1]))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def naive_calibration_error(probs: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    """Guo et al. 2017, equation 3, word by word."""
    error = 0.0
    edges = np.linspace(0, 1, num_bins + 1)
    for lower, upper in pairwise(edges):
        members = [i for i in range(len(labels)) if lower < probs[i].max() <= upper]
        if members:
            accuracy = sum(probs[i].argmax() == labels[i] for i in members) / len(members)
            confidence = sum(probs[i].max() for i in members) / len(members)
            error += len(members) / len(labels) * abs(accuracy - confidence)
    return error


@given(answers, st.integers(1, 20))
def test_the_calibration_error_is_that_of_the_naive_loop(case: tuple[np.ndarray, np.ndarray], num_bins: int) -> None:
    probs, labels = metrics.softmax(case[0]), case[1]
    expected = naive_calibration_error(probs, labels, num_bins)
    assert metrics.expected_calibration_error(probs, labels, num_bins) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    probs = np.array([[0.5, 0.5], [1.0, 0.0]])
    bins = metrics.reliability_bins(probs, np.array([0, 0]), num_bins=4)
    np.testing.assert_array_equal(bins.counts, [0, 1, 0, 1])
    np.testing.assert_array_equal(bins.accuracy, [math.nan, 1, math.nan, 1])


def test_a_model_that_says_80_percent_and_is_right_in_half_of_them_is_off_by_30_percent() -> None:
    probs = np.tile([0.8, 0.2], (10, 1))
    assert metrics.expected_calibration_error(probs, np.array([0, 1] * 5)) == pytest.approx(0.3)


@given(answers)
def test_the_confusion_matrix_counts_each_picture_once_in_its_row(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    predicted, num_classes = logits.argmax(axis=1), logits.shape[1]
    counts = metrics.confusion_matrix(labels, predicted, num_classes)
    expected = np.zeros((num_classes, num_classes), dtype=np.int64)
    for label, answer in zip(labels, predicted, strict=True):
        expected[label, answer] += 1
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)


@settings(deadline=None)
@given(answers)
def test_per_class_figures_follow_from_the_confusion_matrix(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    predicted, num_classes = logits.argmax(axis=1), logits.shape[1]
    counts = metrics.confusion_matrix(labels, predicted, num_classes)
    for index, row in enumerate(metrics.per_class(labels, predicted, num_classes)):
        right, there, said = counts[index, index], counts[index].sum(), counts[:, index].sum()
        assert row.count == there
        assert row.recall == (pytest.approx(right / there) if there else None)
        assert row.precision == (pytest.approx(right / said) if said else None)
        assert row.f1 == (pytest.approx(2 * right / (there + said)) if there else None)


def test_a_class_without_a_picture_has_no_recall_and_does_not_enter_the_macro_mean() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    rows = metrics.per_class(labels, predicted, 4)
    assert rows[2] == metrics.ClassFigures(count=0, precision=0.0, recall=None, f1=None)  # said once, wrongly
    assert rows[3] == metrics.ClassFigures(count=0, precision=None, recall=None, f1=None)
    assert metrics.macro_f1(rows) == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_that_is_never_predicted_has_no_precision_but_f1_zero() -> None:
    rows = metrics.per_class(np.array([0, 1]), np.array([0, 0]), 2)
    assert rows[1] == metrics.ClassFigures(count=1, precision=None, recall=0.0, f1=0.0)


def test_where_every_class_occurs_and_is_predicted_the_figures_are_those_of_scikit_learn() -> None:
    logits, labels = random_answers(3, 400, 5)
    predicted = logits.argmax(axis=1)
    rows = metrics.per_class(labels, predicted, 5)
    assert [row.precision for row in rows] == pytest.approx(precision_score(labels, predicted, average=None))
    assert [row.recall for row in rows] == pytest.approx(recall_score(labels, predicted, average=None))
    assert metrics.macro_f1(rows) == pytest.approx(f1_score(labels, predicted, average="macro"))


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 2.5])
def test_the_fitted_temperature_is_the_one_the_labels_were_drawn_with(true_temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 6)).astype(np.float32) * 3
    cumulative = metrics.softmax(logits / true_temperature).cumsum(axis=1)
    labels = (generator.random((20_000, 1)) > cumulative).sum(axis=1).clip(0, 5)
    # 20,000 draws: the estimate's own standard error is about 1 % here.
    assert metrics.fit_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)


@settings(max_examples=30)
@given(answers)
def test_no_temperature_of_a_grid_beats_the_fitted_one(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case[0].astype(np.float64), case[1]
    fitted = metrics.fit_temperature(logits, labels)
    assert metrics.TEMPERATURES[0] <= fitted <= metrics.TEMPERATURES[1]
    best = metrics.negative_log_likelihood(logits / fitted, labels)
    for temperature in np.geomspace(*metrics.TEMPERATURES, 40):
        assert best <= metrics.negative_log_likelihood(logits / temperature, labels) + 1e-9


@given(answers, st.floats(0.5, 2))
def test_logits_scaled_by_s_need_a_temperature_s_times_as_high(
    case: tuple[np.ndarray, np.ndarray], scale: float
) -> None:
    logits, labels = case[0].astype(np.float64), case[1]
    fitted, scaled = metrics.fit_temperature(logits, labels), metrics.fit_temperature(logits * scale, labels)
    if {fitted, scaled}.isdisjoint(metrics.TEMPERATURES):
        assert scaled == pytest.approx(fitted * scale, rel=1e-6)


def test_where_every_picture_is_right_the_lower_bound_itself_comes_back() -> None:
    logits = np.array([[4.0, 0], [0, 4.0]])
    assert metrics.fit_temperature(logits, np.array([0, 1])) == metrics.TEMPERATURES[0]


def test_where_every_picture_is_wrong_the_upper_bound_itself_comes_back() -> None:
    logits = np.array([[4.0, 0], [0, 4.0]])
    assert metrics.fit_temperature(logits, np.array([1, 0])) == metrics.TEMPERATURES[1]


def test_a_temperature_needs_at_least_one_picture() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))


# Beside scikit-learn, SciPy and naive loops, on random and degenerate answers.


@given(answers)
def test_the_brier_score_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    probs, num_classes = metrics.softmax(logits), logits.shape[1]
    if num_classes < 2:
        assert metrics.brier_score(probs, labels) == 0
        return
    theirs = brier_score_loss(labels, probs, labels=np.arange(num_classes), scale_by_half=False)
    assert metrics.brier_score(probs, labels) == pytest.approx(theirs, abs=1e-9)


@given(answers, st.integers(1, 20))
def test_both_calibration_errors_are_those_of_scikit_learns_calibration_curves(
    case: tuple[np.ndarray, np.ndarray], num_bins: int
) -> None:
    logits, labels = case
    probs = metrics.softmax(logits)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    for strategy, ours in (
        ("uniform", metrics.expected_calibration_error(probs, labels, num_bins)),
        ("quantile", metrics.equal_mass_calibration_error(probs, labels, num_bins)),
    ):
        # scikit-learn gives each bin's means and drops the empty ones; its counts follow from the same edges.
        edges = np.linspace(0, 1, num_bins + 1)
        edges = edges if strategy == "uniform" else np.percentile(confidence, edges * 100)
        counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=num_bins)
        truth, said = calibration_curve(right, confidence, n_bins=num_bins, strategy=strategy, pos_label=True)
        theirs = float((np.abs(truth - said) * counts[counts > 0]).sum() / len(labels))
        assert ours == pytest.approx(theirs, abs=1e-9), strategy


@given(answers)
def test_macro_and_weighted_averages_are_scikit_learns_and_micro_is_the_accuracy(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, labels = case
    predicted = logits.argmax(axis=1)
    found = metrics.averages(labels, predicted)
    for how in ("macro", "weighted"):
        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            theirs = score(labels, predicted, labels=np.unique(labels), average=how, zero_division=0)
            assert getattr(found[how], name) == pytest.approx(theirs, abs=1e-9), (how, name)
    everything = np.arange(logits.shape[1])
    theirs = f1_score(labels, predicted, labels=everything, average="micro", zero_division=0)
    assert found["micro"].f1 == pytest.approx(theirs, abs=1e-9)
    rows = metrics.per_class(labels, predicted, logits.shape[1])
    assert found["macro"].f1 == pytest.approx(metrics.macro_f1(rows), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_the_curves_of_two_classes_are_scikit_learns_of_the_rarer_one(seed: int, count: int) -> None:
    logits, labels = random_answers(seed, count, 2)
    labels[:2] = 0, 1
    probs = metrics.softmax(np.round(logits, 1))  # with ties
    found = metrics.two_classes(probs, labels)
    assert found is not None
    assert found.positive == (0 if (labels == 0).sum() < (labels == 1).sum() else 1)
    truth, scores = labels == found.positive, probs[:, found.positive]
    assert found.roc_auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert found.average_precision == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    area = np.trapezoid(found.true_positive_rate, found.false_positive_rate)
    assert area == pytest.approx(found.roc_auc, abs=1e-9)


@pytest.mark.parametrize(("num_classes", "labels"), [(3, [0, 1, 2]), (2, [1, 1, 1]), (1, [0])])
def test_there_are_no_curves_without_two_classes_that_both_occur(num_classes: int, labels: list[int]) -> None:
    probs = np.full((len(labels), num_classes), 1 / num_classes)
    assert metrics.two_classes(probs, np.array(labels)) is None


@given(st.integers(0, 300), st.integers(0, 300))
@example(0, 0)
def test_mcnemars_p_is_the_sum_of_the_binomials_tails_as_unlikely_as_what_was_seen(a: int, b: int) -> None:
    total = a + b
    chances = [math.comb(total, k) / 2**total for k in range(total + 1)]
    naive = math.fsum(chance for chance in chances if chance <= chances[a] * (1 + 1e-9))
    assert metrics.mcnemar(a, b) == pytest.approx(min(1, naive), abs=1e-9)
    assert metrics.mcnemar(a, b) == metrics.mcnemar(b, a)


def test_the_interval_of_a_difference_worked_by_hand_and_its_laws() -> None:
    a, b = 26 / 202, 11 / 202
    half = norm.ppf(0.975) * math.sqrt((a + b - (a - b) ** 2) / 202)
    assert metrics.difference_interval(25, 10, 200) == pytest.approx((a - b - half, a - b + half), abs=1e-9)
    low, high = metrics.difference_interval(10, 25, 200)
    assert metrics.difference_interval(25, 10, 200) == pytest.approx((-high, -low), abs=1e-12)
    low, high = metrics.difference_interval(0, 0, 1)
    assert -1 <= low < 0 < high <= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_risk_and_coverage_are_those_of_a_naive_loop_over_thresholds(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    confidence, correct = np.round(random.random(count), 1), random.random(count) < 0.7
    found = metrics.risk_coverage(confidence, correct)
    np.testing.assert_array_equal(found.threshold, np.unique(confidence)[::-1])
    for threshold, coverage, risk in zip(found.threshold, found.coverage, found.risk, strict=True):
        answered = confidence >= threshold
        assert coverage == pytest.approx(answered.mean(), abs=1e-12)
        assert risk == pytest.approx((~correct[answered]).mean(), abs=1e-12)
        assert found.at(threshold) == (coverage, risk)
    assert found.risk[-1] == pytest.approx((~correct).mean(), abs=1e-12)
    each = [(~correct[confidence >= c]).mean() for c in confidence]  # each picture's risk, averaged: the area
    assert found.area == pytest.approx(np.mean(each), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_threshold_for_a_risk_keeps_it_and_no_lower_one_does(seed: int, risk: float) -> None:
    random = np.random.default_rng(seed)
    confidence, correct = np.round(random.random(40), 1), random.random(40) < 0.7
    found = metrics.risk_coverage(confidence, correct)
    threshold = found.threshold_for(risk)
    risks = {each: (~correct[confidence >= each]).mean() for each in confidence.tolist()}
    good = [each for each, value in risks.items() if value <= risk]
    assert threshold == (min(good) if good else None)
    assert found.at(1.5) == (0.0, None)


@given(answers)
def test_the_interval_of_macro_f1_lies_in_0_1_and_is_always_the_same(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    confusion = metrics.confusion_matrix(labels, logits.argmax(axis=1), logits.shape[1])
    found = metrics.macro_f1_interval(confusion)
    assert metrics.macro_f1_interval(confusion) == found
    assert found is None or 0 <= found[0] < found[1] <= 1
    if (labels == logits.argmax(axis=1)).all():
        assert found is None, "where every draw is right they say nothing"


def test_the_interval_of_macro_f1_is_that_of_drawing_the_pictures_themselves() -> None:
    logits, labels = random_answers(3, 300, 4)
    predicted = logits.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predicted, 4)
    random, scores = np.random.default_rng(1), list[float]()
    for _ in range(2000):
        rows = random.integers(0, 300, 300)
        scores.append(f1_score(labels[rows], predicted[rows], labels=np.unique(labels[rows]), average="macro"))
    assert metrics.macro_f1_interval(confusion, 2000) == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.01)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
@example(0, 0, 0, 0)
def test_the_chance_of_a_group_so_weak_is_fishers_exact_test(a: int, b: int, c: int, d: int) -> None:
    """a of the group right, b wrong; c of the others right, d wrong."""
    p = metrics.chance_of_less(a, a + b, a + c, a + b + c + d)
    assert p == pytest.approx(fisher_exact([[a, b], [c, d]], alternative="less").pvalue, abs=1e-9)


@pytest.mark.parametrize("offset", [0.0, 30.0, -30.0])
def test_where_every_answer_is_right_the_temperature_is_the_lower_end_whatever_all_logits_share(offset: float) -> None:
    for seed in range(200):
        random = np.random.default_rng(seed)
        logits = random.normal(size=(20, 4)) + offset
        labels = logits.argmax(axis=1)
        assert metrics.fit_temperature(logits, labels) == metrics.TEMPERATURES[0]
