import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.metrics import hamming_loss as sklearn_hamming_loss

from catchment import metrics


def scored(seed, size, levels):
    """Scores with many ties, and truths of both kinds."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(size) % 3 == 0)
    return rng.integers(levels, size=size) / levels + 0.2 * truth * rng.integers(2, size=size), truth


def predicted(seed, size=300, num_classes=4):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.7), size=size)
    target = np.array([rng.choice(num_classes, p=row) for row in probabilities])
    return probabilities, target


truths = st.integers(2, 40).flatmap(
    lambda size: st.tuples(
        arrays(np.float64, size, elements=st.integers(-20, 20).map(lambda k: k / 4)),
        arrays(np.bool_, size).filter(lambda truth: truth.any() and not truth.all()),
    )
)


def test_accuracy_of_classes_and_of_scores():
    assert metrics.accuracy([2, 0, 1, 1], [2, 0, 1, 0]) == 0.75
    scores = np.array([[-1.0, 3.0, 2.0], [5.0, -np.inf, 4.0], [0.0, 0.0, 0.0]])
    assert metrics.accuracy(scores, [1, 2, 0]) == pytest.approx(2 / 3)


def test_auroc_by_hand():
    assert metrics.auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert metrics.auroc([4, 3, 2, 1], [0, 0, 1, 1]) == 0.0
    assert metrics.auroc([7, 7, 7], [0, 1, 0]) == 0.5
    # Pairs (positive, negative): 2>1, 2=2, 3>1, 3>2.
    assert metrics.auroc([1, 2, 2, 3], [0, 0, 1, 1]) == 3.5 / 4
    assert metrics.auroc([-np.inf, 0.0, np.inf, np.inf], [0, 0, 1, 0]) == 2.5 / 3


def test_average_precision_by_hand():
    assert metrics.average_precision([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision([5, 5, 5, 5], [1, 0, 0, 0]) == 0.25
    assert metrics.average_precision([1, 2], [1, 1]) == 1.0


def test_fpr_at_tpr_by_hand():
    score, truth = [9, 8, 7, 6, 5, 4], [1, 0, 1, 0, 0, 1]
    assert metrics.fpr_at_tpr(score, truth, tpr=1 / 3) == 0.0
    assert metrics.fpr_at_tpr(score, truth, tpr=0.5) == 1 / 3
    assert metrics.fpr_at_tpr(score, truth) == 1.0
    assert metrics.fpr_at_tpr(score, truth, tpr=0) == 0.0
    assert metrics.fpr_at_tpr([1, 1], [0, 1]) == 1.0


def test_fpr_at_tpr_counts_a_rate_that_is_met_exactly():
    # 0.07 * 100 is above 7 in floating point, though 7 of 100 is a rate of 0.07.
    score = np.concatenate([np.full(7, 3), np.full(93, 1), np.full(10, 2)])
    truth = np.concatenate([np.ones(100), np.zeros(10)])
    assert metrics.fpr_at_tpr(score, truth, tpr=0.07) == 0.0


@pytest.mark.parametrize("levels", [2, 10, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_rankings_agree_with_scikit_learn(seed, levels):
    score, truth = scored(seed, 500, levels)
    assert metrics.auroc(score, truth) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert metrics.average_precision(score, truth) == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    false_rate, true_rate, _ = roc_curve(truth, score, drop_intermediate=False)
    for tpr in (0.3, 0.8, 0.95, 1.0):
        assert metrics.fpr_at_tpr(score, truth, tpr) == pytest.approx(false_rate[true_rate >= tpr].min(), abs=1e-12)


@settings(deadline=None)
@given(truths)
def test_auroc_counts_pairs(case):
    score, truth = case
    positive, negative = score[truth][:, None], score[~truth][None]
    pairs = (positive > negative) + 0.5 * (positive == negative)
    assert metrics.auroc(score, truth) == pytest.approx(pairs.mean(), abs=1e-12)


@settings(deadline=None)
@given(truths)
def test_rankings_ignore_monotone_maps_and_auroc_mirrors(case):
    score, truth = case
    for mapped in (3 * score + 7, np.exp(score), score**3):
        assert metrics.auroc(mapped, truth) == metrics.auroc(score, truth)
        assert metrics.average_precision(mapped, truth) == metrics.average_precision(score, truth)
        assert metrics.fpr_at_tpr(mapped, truth) == metrics.fpr_at_tpr(score, truth)
        assert metrics.aurc(mapped, truth) == metrics.aurc(score, truth)
    assert metrics.auroc(-score, truth) == pytest.approx(1 - metrics.auroc(score, truth), abs=1e-12)
    assert metrics.auroc(score, ~truth) == pytest.approx(1 - metrics.auroc(score, truth), abs=1e-12)


@settings(deadline=None)
@given(truths, st.randoms(use_true_random=False))
def test_rankings_ignore_the_order_of_rows(case, random):
    score, truth = case
    order = random.sample(range(len(score)), len(score))
    for metric in (metrics.auroc, metrics.average_precision, metrics.fpr_at_tpr, metrics.aurc):
        assert metric(score[order], truth[order]) == metric(score, truth)


def test_risk_coverage_by_hand():
    coverage, risk = metrics.risk_coverage([0.3, 0.1, 0.2], [1, 0, 1])
    np.testing.assert_allclose(coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 2 / 3])
    assert metrics.aurc([0.3, 0.1, 0.2], [1, 0, 1]) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_aurc_of_a_constant_score_is_the_error_rate():
    assert metrics.aurc(np.zeros(8), np.arange(8) < 3) == pytest.approx(3 / 8)
    assert metrics.aurc([1, 2, 3], [0, 0, 0]) == 0.0
    assert metrics.aurc([1, 2, 3], [1, 1, 1]) == 1.0


def test_ties_in_risk_coverage_are_the_mean_over_random_orders():
    score, wrong = np.array([0, 1, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    rng = np.random.default_rng(0)
    broken = [metrics.risk_coverage(score + 0.5 * rng.random(6), wrong)[1] for _ in range(4000)]
    np.testing.assert_allclose(metrics.risk_coverage(score, wrong)[1], np.mean(broken, axis=0), atol=0.02)


@settings(deadline=None)
@given(truths)
def test_risk_at_full_coverage_is_the_error_rate(case):
    score, wrong = case
    coverage, risk = metrics.risk_coverage(score, wrong)
    assert len(coverage) == len(risk) == len(score)
    assert coverage[-1] == 1.0
    assert risk[-1] == pytest.approx(wrong.mean(), abs=1e-12)
    assert ((risk >= 0) & (risk <= 1)).all()


def test_ece_by_hand():
    # Bins [0.5, 0.75) with confidences 0.6, 0.6 (one right) and [0.75, 1] with 0.8, 1.0 (both right).
    probabilities = [[0.6, 0.4], [0.4, 0.6], [0.8, 0.2], [0.0, 1.0]]
    target = [0, 0, 0, 1]
    assert metrics.ece(probabilities, target, bins=4) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert metrics.ece(probabilities, target, bins=4, norm="l2") == pytest.approx(0.1)
    # One bin: mean confidence 0.75 = accuracy 3/4.
    assert metrics.ece(probabilities, target, bins=1) == pytest.approx(0)
    confidence, accuracy, count = metrics.reliability(probabilities, target, bins=4)
    np.testing.assert_allclose(confidence, [np.nan, np.nan, 0.6, 0.9])
    np.testing.assert_allclose(accuracy, [np.nan, np.nan, 0.5, 1.0])
    assert count.tolist() == [0, 0, 2, 2]


def test_marginal_ece_by_hand():
    # Class 0: p 0.2, 0.7, of which the second is 0; class 1: p 0.3, 0.3, never right; class 2: p 0.5, 0.0, first right.
    probabilities = [[0.2, 0.3, 0.5], [0.7, 0.3, 0.0]]
    target = [2, 0]
    gaps = [(0.2 + 0.3) / 2, 0.3, (0.5 + 0.0) / 2]
    squares = [(0.2**2 + 0.3**2) / 2, 0.3**2, (0.5**2 + 0.0) / 2]
    assert metrics.ece(probabilities, target, kind="marginal") == pytest.approx(np.mean(gaps))
    assert metrics.ece(probabilities, target, kind="marginal", norm="l2") == pytest.approx(np.mean(squares) ** 0.5)


@pytest.mark.parametrize("kind", ["top-label", "marginal"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
@settings(deadline=None)
@given(ten_times_confidence=st.lists(st.integers(5, 10), min_size=1, max_size=6))
def test_ece_of_calibrated_predictions_is_zero(kind, norm, ten_times_confidence):
    probabilities = [[k / 10, 1 - k / 10] for k in ten_times_confidence for _ in range(10)]
    target = [int(i >= k) for k in ten_times_confidence for i in range(10)]
    # The square root turns a rounding error of 1e-17 into 1e-8.
    assert metrics.ece(probabilities, target, bins=10, kind=kind, norm=norm) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", ["top-label", "marginal"])
@pytest.mark.parametrize("bins", [1, 2, 15, 100])
def test_confidence_of_exactly_one_counts(kind, bins):
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.ece(probabilities, [1, 1], bins=bins, kind=kind) == 1.0
    assert metrics.ece(probabilities, [0, 1], bins=bins, kind=kind) == 0.5
    assert metrics.reliability(probabilities, [0, 1], bins=bins)[2][-1] == 2


@pytest.mark.parametrize(("confidence", "bins", "expected"), [(0.5, 2, 1), (0.6, 15, 9), (0.7, 10, 7), (0.58, 50, 29)])
def test_bins_are_closed_on_the_left(confidence, bins, expected):
    below = np.nextafter(confidence, 0)
    _, _, count = metrics.reliability([[confidence, 1 - confidence]], [0], bins=bins)
    assert np.flatnonzero(count).tolist() == [expected]
    _, _, count = metrics.reliability([[below, 0.0]], [0], bins=bins)
    assert np.flatnonzero(count).tolist() == [expected - 1]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_ece_agrees_with_a_loop_over_bins(norm):
    probabilities, target = predicted(0)

    def one(confidence, correct, bins=15):
        total = 0.0
        for b in range(bins):
            last = b == bins - 1
            inside = (confidence >= b / bins) & ((confidence <= 1) if last else (confidence < (b + 1) / bins))
            if inside.any():
                gap = abs(correct[inside].mean() - confidence[inside].mean())
                total += inside.mean() * (gap if norm == "l1" else gap**2)
        return total

    root = math.sqrt if norm == "l2" else float
    top = root(one(probabilities.max(1), probabilities.argmax(1) == target))
    marginal = root(np.mean([one(probabilities[:, c], target == c) for c in range(4)]))
    assert metrics.ece(probabilities, target, norm=norm) == pytest.approx(top, abs=1e-12)
    assert metrics.ece(probabilities, target, kind="marginal", norm=norm) == pytest.approx(marginal, abs=1e-12)


def test_brier_by_hand():
    assert metrics.brier([[1.0, 0.0]], [0]) == 0.0
    assert metrics.brier([[1.0, 0.0]], [1]) == 2.0
    assert metrics.brier([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]], [2, 1]) == pytest.approx(
        ((0.04 + 0.09 + 0.25) + (0.36 + 0.36 + 0)) / 2
    )


def test_nll_agrees_with_scikit_learn_and_is_not_clipped():
    probabilities, target = predicted(1)
    assert metrics.nll(probabilities, target) == pytest.approx(log_loss(target, probabilities), abs=1e-12)
    assert metrics.nll([[0.5, 0.5], [0.0, 1.0]], [0, 0]) == math.inf
    assert math.copysign(1, metrics.nll([[1.0, 0.0]], [0])) == 1.0


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_brier_and_nll_are_in_range(seed):
    probabilities, target = predicted(seed, size=20)
    assert 0 <= metrics.brier(probabilities, target) <= 2
    assert metrics.nll(probabilities, target) >= 0


def test_rounding_above_one_is_taken_as_one():
    assert metrics.nll([[1 + 5e-7, -5e-7]], [0]) == 0.0
    assert metrics.ece([[1 + 5e-7, 0.0]], [0]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_tensors_equal_their_values_in_float64(dtype):
    probabilities, target = predicted(2)
    tensor = torch.tensor(probabilities).to(dtype).requires_grad_()
    exact = tensor.detach().double().numpy()
    labels = torch.tensor(target)
    for metric in (metrics.accuracy, metrics.ece, metrics.brier, metrics.nll):
        assert metric(tensor, labels) == metric(exact, target)
        assert type(metric(tensor, labels)) is float
    assert metrics.ece(tensor, labels, kind="marginal") == metrics.ece(exact, target, kind="marginal")
    truth = target == 0
    for metric in (metrics.auroc, metrics.average_precision, metrics.fpr_at_tpr, metrics.aurc):
        assert metric(tensor[:, 0], torch.tensor(truth)) == metric(exact[:, 0], truth)
        assert type(metric(tensor[:, 0], torch.tensor(truth))) is float


def test_curves_are_float64():
    probabilities, target = predicted(3)
    for array in metrics.risk_coverage(np.float32([1, 2]), [0, 1]) + metrics.reliability(probabilities, target)[:2]:
        assert array.dtype == np.float64


def test_inputs_are_not_changed():
    probabilities, target = predicted(4)
    tensor = torch.tensor(probabilities)
    kept = probabilities.copy()
    metrics.ece(probabilities, target)
    metrics.nll(tensor, target)
    metrics.auroc(probabilities[:, 0], target == 0)
    np.testing.assert_array_equal(probabilities, kept)
    np.testing.assert_array_equal(tensor.numpy(), kept)


def test_importing_metrics_imports_neither_scipy_nor_scikit_learn():
    code = "import sys, catchment.metrics; print(*(m in sys.modules for m in ('scipy', 'sklearn')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


HALF = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("metric", [metrics.ece, metrics.brier, metrics.nll, metrics.reliability])
@pytest.mark.parametrize(
    ("probabilities", "target", "message"),
    [
        ([[2.0, -1.0]], [0], "probabilities run from -1 to 2, not within 0 to 1: pass probabilities, not logits"),
        ([[0.5, np.inf]], [0], "pass probabilities, not logits"),
        ([[np.nan, 0.5]], [0], "1 NaN in probabilities: find out where they come from"),
        ([0.5, 0.5], [0, 1], r"probabilities of shape \(2,\): give shape \(N, C\)"),
        (np.zeros((2, 0)), [0, 1], r"probabilities of shape \(2, 0\): give shape \(N, C\)"),
        (np.zeros((0, 3)), [], "no samples in probabilities: give at least one"),
        ([["a", "b"]], [0], "probabilities of type <U1: give real numbers"),
        (HALF, [], "no samples in target: give at least one"),
        (HALF, [0, 2], "class 2 in target, but there are 2 columns: give indices from 0 to 1"),
        (HALF, [0, -100], "class -100 in target: leave out the samples without a known class"),
        (HALF, [0.0, 1.0], r"target of type float and shape \(N,\): give class indices as integers"),
        (HALF, [[1, 0], [0, 1]], r"target of shape \(2, 2\): give one class index per sample"),
        (HALF, [0], "2 samples in probabilities, but 1 in target: give one of each per sample"),
    ],
)
def test_errors_of_probabilities(metric, probabilities, target, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, target)


@pytest.mark.parametrize(
    ("predictions", "target", "message"),
    [
        ([0.9, 0.1], [0, 1], r"predictions of type float and shape \(N,\): give class indices as integers"),
        ([-1, 0], [0, 1], "class -1 in predictions: leave out"),
        (np.zeros((2, 3, 4)), [0, 1], r"predictions of shape \(2, 3, 4\): give class indices \(N,\) or scores"),
        (1, 1, r"predictions of shape \(\): give class indices"),
        (np.zeros((2, 0)), [0, 1], r"predictions of shape \(N, 0\): give scores of shape \(N, C\)"),
        ([], [], "no samples in predictions: give at least one"),
        ([[np.nan, 1.0]], [0], "1 NaN in predictions"),
        ([[0.0, 1.0]], [2], "class 2 in target, but there are 2 columns"),
        ([0, 1], [-1, 1], "class -1 in target: leave out the samples without a known class"),
        ([0, 1], [0, 1, 1], "2 samples in predictions, but 3 in target"),
        (torch.zeros(2, dtype=torch.complex64), [0, 1], "predictions of type complex64: give real numbers"),
    ],
)
def test_errors_of_accuracy(predictions, target, message):
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(predictions, target)


@pytest.mark.parametrize(
    ("metric", "truth_name"),
    [
        (metrics.auroc, "is_positive"),
        (metrics.average_precision, "is_positive"),
        (metrics.fpr_at_tpr, "is_positive"),
        (metrics.risk_coverage, "is_wrong"),
        (metrics.aurc, "is_wrong"),
    ],
)
@pytest.mark.parametrize(
    ("score", "truth", "message"),
    [
        ([np.nan, 1.0], [0, 1], "1 NaN in score: find out where they come from"),
        ([], [], "no samples in score: give at least one"),
        ([1.0, 2.0], [], "no samples in {truth}: give at least one"),
        ([[1.0, 2.0]], [0, 1], r"score of shape \(1, 2\): give one number per sample"),
        ([1.0, 2.0], [[0, 1]], r"{truth} of shape \(1, 2\): give one number per sample"),
        ([1.0, 2.0], [0, 2], "other values than 0 and 1 in {truth}: give booleans, such as {truth} > 0"),
        ([1.0, 2.0], [0, np.nan], "other values than 0 and 1 in {truth}"),
        ([1.0, 2.0, 3.0], [0, 1], "3 samples in score, but 2 in {truth}"),
        (["a", "b"], [0, 1], "score of type <U1: give real numbers"),
    ],
)
def test_errors_of_scores(metric, truth_name, score, truth, message):
    with pytest.raises(ValueError, match=message.replace("{truth}", truth_name)):
        metric(score, truth)


def test_errors_where_a_kind_is_missing():
    with pytest.raises(ValueError, match="is_positive holds no positive, so the AUROC is undefined: give at least one"):
        metrics.auroc([1, 2], [0, 0])
    with pytest.raises(ValueError, match="is_positive holds no negative, so the AUROC is undefined"):
        metrics.auroc([1, 2], [1, 1])
    with pytest.raises(ValueError, match="is_positive holds no positive, so the average precision is undefined"):
        metrics.average_precision([1, 2], [0, 0])
    with pytest.raises(ValueError, match="is_positive holds no negative, so the false-positive rate is undefined"):
        metrics.fpr_at_tpr([1, 2], [1, 1])


@pytest.mark.parametrize("tpr", [-0.1, 1.5, math.nan, True, "0.95"])
def test_errors_of_tpr(tpr):
    with pytest.raises(ValueError, match=f"tpr is {tpr}: give a number from 0 to 1"):
        metrics.fpr_at_tpr([1, 2], [0, 1], tpr=tpr)


@pytest.mark.parametrize("bins", [0, -1, 1.5, True])
@pytest.mark.parametrize("kind", ["top-label", "marginal", "top-k"])
def test_errors_of_bins(bins, kind):
    with pytest.raises(ValueError, match=f"bins is {bins}: give a whole number, 1 or more"):
        metrics.ece(HALF, [0, 1], bins=bins, kind=kind, k=1)


def test_errors_of_kind_and_norm():
    with pytest.raises(ValueError, match="kind is 'classwise': give one of top-label, marginal, top-k"):
        metrics.ece(HALF, [0, 1], kind="classwise")
    with pytest.raises(ValueError, match="kind is 'marginal': give one of top-label, top-k"):
        metrics.reliability(HALF, [0, 1], kind="marginal")
    with pytest.raises(ValueError, match="norm is 'max': give one of l1, l2"):
        metrics.ece(HALF, [0, 1], norm="max")


# Label sets


def label_sets(seed, size=200, num_classes=6):
    """Scores, and label sets they rank better than chance; the first sample has none, the last class never occurs."""
    rng = np.random.default_rng(seed)
    target = rng.random((size, num_classes)) < 0.3
    target[0] = False
    target[:, -1] = False
    return rng.normal(size=target.shape) + 1.5 * target, target


def test_f1_at_k_by_hand_in_both_definitions():
    scores = [[9, 8, 1, 0], [9, 1, 8, 0], [1, 9, 8, 0]]  # top 2: 01, 02, 12
    target = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]]
    # class 0: P 1, R 1; class 1: one of two, one of two; class 2: one of two, one of one; class 3: nothing
    assert metrics.top_k_labels(scores, 2).astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]]
    assert metrics.f1_macro_at_k(scores, target, k=2) == pytest.approx((1 + 1 / 2 + 2 / 3 + 0) / 4)
    precision, recall = (1 + 1 / 2 + 1 / 2) / 4, (1 + 1 / 2 + 1) / 4
    expected = 2 * precision * recall / (precision + recall)
    assert metrics.f1_macro_at_k(scores, target, k=2, definition="f1-of-means") == pytest.approx(expected)
    assert metrics.cf1(metrics.top_k_labels(scores, 2), target) == pytest.approx(expected)
    assert metrics.of1(metrics.top_k_labels(scores, 2), target) == pytest.approx(2 * 4 / (6 + 5))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 4, 6])
def test_label_set_metrics_agree_with_scikit_learn(seed, k):
    scores, target = label_sets(seed)
    predicted = metrics.top_k_labels(scores, k)
    assert (predicted.sum(1) == k).all()
    assert metrics.f1_macro_at_k(scores, target, k) == pytest.approx(
        f1_score(target, predicted, average="macro", zero_division=0), abs=1e-12
    )
    assert metrics.f1_macro_at_k(scores, target, k) <= metrics.f1_macro_at_k(scores, target, k, "f1-of-means")
    precision = precision_score(target, predicted, average="macro", zero_division=0)
    recall = recall_score(target, predicted, average="macro", zero_division=0)
    assert metrics.cf1(predicted, target) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)
    predicted = scores > 1  # rows with any number of labels
    assert metrics.of1(predicted, target) == pytest.approx(f1_score(target, predicted, average="micro"), abs=1e-12)
    assert metrics.subset_accuracy(predicted, target) == pytest.approx(accuracy_score(target, predicted), abs=1e-12)
    assert metrics.hamming_loss(predicted, target) == pytest.approx(sklearn_hamming_loss(target, predicted), abs=1e-12)
    assert metrics.mean_average_precision(scores, target) == pytest.approx(
        average_precision_score(target[:, :-1], scores[:, :-1], average="macro"), abs=1e-12
    )


def test_subset_accuracy_and_hamming_loss_by_hand():
    predicted, target = [[1, 0, 1], [0, 0, 0], [1, 1, 1]], [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert metrics.subset_accuracy(predicted, target) == pytest.approx(1 / 3)
    assert metrics.hamming_loss(predicted, target) == pytest.approx(4 / 9)
    assert metrics.of1([[0, 0]], [[0, 0]]) == metrics.cf1([[0, 0]], [[0, 0]]) == 0.0


def test_top_k_takes_the_first_among_ties_and_infinities():
    assert metrics.top_k_labels([[1, 1, 1], [-np.inf, 0, np.inf]], 2).tolist() == [
        [True, True, False], [False, True, True],
    ]  # fmt: skip


def test_top_k_reliability_by_hand():
    probabilities = np.array([[0.95, 0.55, 0.15], [0.05, 0.5, 0.45], [0.1, 0.2, 0.3]])
    target = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    # pairs: 0.95 right, 0.55 wrong; 0.5 right, 0.45 right; 0.3 wrong, 0.2 wrong
    confidence, accuracy, count = metrics.reliability(probabilities, target, bins=10, kind="top-k", k=2)
    assert count.tolist() == [0, 0, 1, 1, 1, 2, 0, 0, 0, 1]
    np.testing.assert_allclose(confidence[[2, 3, 4, 5, 9]], [0.2, 0.3, 0.45, 0.525, 0.95])
    np.testing.assert_allclose(accuracy[[2, 3, 4, 5, 9]], [0, 0, 1, 0.5, 1])
    gaps = [0.2, 0.3, 0.55, 2 * 0.025, 0.05]
    assert metrics.ece(probabilities, target, bins=10, kind="top-k", k=2) == pytest.approx(sum(gaps) / 6)


def test_top_1_error_of_single_labels_is_the_top_label_error():
    probabilities, target = predicted(5)
    for norm in ("l1", "l2"):
        assert metrics.ece(probabilities, target, kind="top-k", k=1, norm=norm) == metrics.ece(
            probabilities, target, norm=norm
        )


def test_all_pairs_of_calibrated_label_sets_have_no_error():
    rng = np.random.default_rng(0)
    probabilities = rng.random((40_000, 5))
    target = rng.random((40_000, 5)) < probabilities
    assert metrics.ece(probabilities, target, bins=10, kind="top-k", k=5) < 0.01
    assert metrics.ece(probabilities, target, bins=10, kind="marginal") < 0.02
    assert metrics.ece(probabilities**2, target, bins=10, kind="top-k", k=5) > 0.1


def test_label_sets_may_be_class_indices():
    scores, _ = label_sets(6, size=30)
    index = np.arange(30) % 7 - 1
    mask = index[:, None] == np.arange(6)
    probabilities = 1 / (1 + np.exp(-scores))
    for metric in (
        metrics.mean_average_precision,
        lambda s, t: metrics.f1_macro_at_k(s, t, 2),
        lambda s, t: metrics.subset_accuracy(s > 0, t),
        lambda s, t: metrics.ece(probabilities, t, kind="top-k", k=3),
        lambda s, t: metrics.ece(probabilities, t, kind="marginal"),
    ):
        assert metric(scores, index) == metric(scores, mask) == metric(torch.tensor(scores), torch.tensor(mask))
        assert metric(scores, mask.astype(float)) == metric(scores, mask)
    assert metrics.hamming_loss([[1, 0], [0, 0]], [-1, -1]) == 0.25


def test_mean_max_confidence_by_hand():
    assert metrics.mean_max_confidence(torch.tensor([[0.25, 0.5], [1.0, 0.75]])) == 0.75
    rng = np.random.default_rng(0)
    assert metrics.mean_max_confidence(rng.dirichlet(np.ones(4), 50)) >= 1 / 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.cf1([[0.5, 1]], [[0, 1]]), "values than 0 and 1 in predictions: give labels, such as prob"),
        (lambda: metrics.of1([1, 0], [1, 0]), r"predictions of shape \(2,\): give shape \(N, C\)"),
        (lambda: metrics.hamming_loss([[0, 1]], [[0, 2]]), "other values than 0 and 1 in target: give 1 where"),
        (lambda: metrics.subset_accuracy([[0, 1]], [[0, 1, 1]]), r"target of shape \(1, 3\): give class indices"),
        (lambda: metrics.subset_accuracy([[0, 1]], [2]), "class 2 in target, but there are 2 columns"),
        (lambda: metrics.subset_accuracy([[0, 1]], [-2]), "class -2 in target"),
        (lambda: metrics.subset_accuracy([[0, 1]], [0, 1]), "1 samples in the predictions, but 2 in target"),
        (lambda: metrics.mean_average_precision([[0.1, 0.2]], [[0, 0]]), "no sample in target has a label"),
        (lambda: metrics.mean_average_precision([[np.nan, 0.2]], [[0, 1]]), "1 NaN in scores"),
        (lambda: metrics.top_k_labels([1.0], 1), r"scores of shape \(1,\): give shape \(N, C\)"),
        (lambda: metrics.top_k_labels([[1.0, 2.0]], 3), "k is 3, but there are 2 classes: give at most as many"),
        (lambda: metrics.top_k_labels([[1.0, 2.0]], 0), "k is 0: give a whole number, 1 or more"),
        (lambda: metrics.f1_macro_at_k([[1.0, 2.0]], [[0, 1]], 1, "macro"), "definition is 'macro': give one of mean"),
        (lambda: metrics.ece(HALF, [[0, 1], [1, 0]], kind="top-k"), "k is 4, but there are 2 classes"),
        (lambda: metrics.mean_max_confidence([[2.0, -1.0]]), "pass probabilities, not logits"),
    ],
)
def test_errors_of_label_sets(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Retrieval and groups


def test_map_at_k_by_hand():
    points, classes = [[0.0], [1.0], [3.0], [7.0], [15.0]], [0, 1, 0, 1, 0]
    # nearest others of each: 1 2 3 4, 0 2 3 4, 1 0 3 4, 2 1 0 4, 3 2 1 0
    at_1 = [0, 0, 0, 0, 0]
    at_2 = [(1 / 2) / 2, 0, (1 / 2) / 2, (1 / 2) / 1, (1 / 2) / 2]
    at_4 = [(1 / 2 + 2 / 4) / 2, 1 / 3, (1 / 2 + 2 / 4) / 2, 1 / 2, (1 / 2 + 2 / 4) / 2]
    for k, expected in ((1, at_1), (2, at_2), (4, at_4), (100, at_4)):
        assert metrics.map_at_k(points, classes, k) == pytest.approx(np.mean(expected)), k


def test_map_at_k_agrees_with_a_loop(monkeypatch):
    rng = np.random.default_rng(0)
    classes = rng.integers(5, size=80)
    points = rng.normal(size=(80, 3)) + 100 + 0.8 * np.eye(5, 3)[classes]
    for distance in ("euclidean", "cosine"):
        average = []
        for q in range(80):
            if distance == "euclidean":
                far = ((points - points[q]) ** 2).sum(1)
            else:
                far = -(points @ points[q]) / np.linalg.norm(points, axis=1)
            others = [i for i in np.argsort(far) if i != q][:10]
            hits = [classes[i] == classes[q] for i in others]
            precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(10) if hits[i]]
            average.append(sum(precisions) / min(10, (classes == classes[q]).sum() - 1))
        expected = pytest.approx(np.mean(average), abs=1e-12)
        assert metrics.map_at_k(points, classes, 10, distance) == expected
        assert metrics.map_at_k(torch.tensor(points), torch.tensor(classes), 10, distance) == expected
        with monkeypatch.context() as patched:
            patched.setattr(metrics, "_DISTANCE_BLOCK", 500)  # six or seven rows at a time
            assert metrics.map_at_k(points, classes, 10, distance) == expected


def test_map_at_k_leaves_out_samples_alone_in_their_class():
    assert metrics.map_at_k([[0.0], [1.0], [2.5]], [0, 1, 1], k=1) == pytest.approx((0 + 1) / 2)
    assert metrics.map_at_k([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0]], [0, 0, 1], 1, "cosine") == 1.0


def test_group_accuracy_by_hand():
    counts = [101, 100, 20, 19, 500]
    target = [0, 0, 1, 2, 2, 2, 2, 3, 3]
    predictions = [0, 1, 1, 2, 0, 0, 0, 3, 3]
    # class 0: 1/2 (many), 1: 1, 2: 1/4 (medium), 3: 1 (few); class 4 is not in the test set
    assert metrics.group_accuracy(predictions, target, counts) == {
        "many": 0.5, "medium": pytest.approx((1 + 1 / 4) / 2), "few": 1.0,
    }  # fmt: skip
    scores = np.eye(5)[predictions]
    assert metrics.group_accuracy(torch.tensor(scores), target, torch.tensor(counts), many=19, few=19) == {
        "many": pytest.approx((1 / 2 + 1 + 1 / 4) / 3), "medium": 1.0, "few": pytest.approx(math.nan, nan_ok=True),
    }  # fmt: skip


def test_classes_are_many_medium_or_few_by_count_and_of_up_to_20_classes_by_rank():
    counts = torch.tensor([101, 100, 20, 19, 0, *[500] * 16])
    assert metrics.frequency_groups(counts) == ["many", "medium", "medium", "few", "few", *["many"] * 16]
    assert metrics.frequency_groups([5, 900, 800, 700, 6]) == ["few", "many", "medium", "medium", "few"]
    # of equals the first are the smaller; three classes: 1 many, 1 medium, 1 few
    assert metrics.frequency_groups([7, 7, 7]) == ["few", "medium", "many"]
    with pytest.raises(ValueError, match="class_counts must hold one number of at least 0 per class"):
        metrics.frequency_groups([3, -1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.map_at_k([[0.0], [1.0]], [0, 1], 1), "no class in labels has two samples"),
        (lambda: metrics.map_at_k([[0.0], [1.0]], [0, 0], 0), "k is 0: give a whole number, 1 or more"),
        (lambda: metrics.map_at_k([[0.0], [np.inf]], [0, 0], 1), "NaN or infinities in embeddings"),
        (lambda: metrics.map_at_k([0.0, 1.0], [0, 0], 1), r"embeddings of shape \(2,\): give shape \(N, D\)"),
        (lambda: metrics.map_at_k([[0.0], [1.0]], [0, 0], 1, "cosine"), "an embedding is zero"),
        (lambda: metrics.map_at_k([[0.0], [1.0]], [0, 0], 1, "dot"), "distance is 'dot': give one of euclidean, cos"),
        (lambda: metrics.map_at_k([[0.0], [1.0]], [0, -1], 1), "class -1 in labels"),
        (lambda: metrics.map_at_k([[0.0], [1.0]], [0, 0, 0], 1), "2 samples in embeddings, but 3 in labels"),
        (lambda: metrics.group_accuracy([0], [1], [5]), "class 1 in target, but there are 1 class_counts: give one"),
        (lambda: metrics.group_accuracy([0], [0], [[5]]), "class_counts must hold one number of at least 0 per class"),
        (lambda: metrics.group_accuracy([0], [0], [-5]), "class_counts must hold one number of at least 0"),
        (lambda: metrics.group_accuracy([0], [0], [5], many=3, few=9), "few is 9 and many is 3: give few no larger"),
    ],
)
def test_errors_of_retrieval_and_groups(call, message):
    with pytest.raises(ValueError, match=message):
        call()
