"""Metrics in float64: torch tensors or numpy arrays in, Python floats out.

Scores always run **higher = more suspect**: a positive (a wrong label, an unknown class, an error of the net) should
score above a negative. Nothing is guessed: probabilities are probabilities, never logits, and whatever does not fit
what a function documents is a ``ValueError`` that names the remedy. Rows of probabilities need not sum to 1, because
not every objective is exclusive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

Values: TypeAlias = "ArrayLike | Tensor"
Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]

__all__ = [
    "accuracy",
    "aurc",
    "auroc",
    "average_precision",
    "brier",
    "ece",
    "fpr_at_tpr",
    "nll",
    "reliability",
    "risk_coverage",
]

# A softmax in float32 may end a few units in the last place above 1.
_PROBABILITY_TOLERANCE = 1e-6
_ECE_KINDS = ("top-label", "marginal")
_ECE_NORMS = ("l1", "l2")


def accuracy(predictions: Values, target: Values) -> float:
    r"""Share of samples whose predicted class is the target.

    .. math:: \frac{1}{N} \sum_n [\hat y_n = y_n]

    Args:
        predictions: class indices ``(N,)`` as integers, or scores ``(N, C)``, whose arg-max is the prediction (the
            first one among ties).
        target: class indices ``(N,)``, integers from 0 to C - 1.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, class indices that are no integers or out of range.

    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    >>> accuracy([[0.1, 2.0], [0.3, 0.2]], [1, 1])
    0.5
    """
    predictions_array = _to_numpy(predictions, "predictions")
    if predictions_array.ndim == 1:
        predicted = _class_indices(predictions_array, "predictions", None)
        expected = _class_indices(_to_numpy(target, "target"), "target", None)
    elif predictions_array.ndim == 2:
        scores = _real_numbers(predictions_array, "predictions")
        if scores.shape[1] == 0:
            raise ValueError("predictions of shape (N, 0): give scores of shape (N, C), one column per class")
        predicted = scores.argmax(axis=-1)
        expected = _class_indices(_to_numpy(target, "target"), "target", scores.shape[1])
    else:
        raise ValueError(
            f"predictions of shape {predictions_array.shape}: give class indices (N,) or scores (N, C), "
            "flattening any further dimension into N"
        )
    _check_same_length(predicted, "predictions", expected, "target")
    return float(np.mean(predicted == expected))


def auroc(score: Values, is_positive: Values) -> float:
    r"""Probability that a random positive scores above a random negative, the area under the ROC curve.

    .. math:: P(s_+ > s_-) + \tfrac{1}{2} P(s_+ = s_-)

    Args:
        score: ``(N,)``, any real numbers, infinities included; higher = more suspect.
        is_positive: ``(N,)``, booleans or 0 and 1.

    Returns:
        A number from 0 to 1; 0.5 for a score that says nothing.

    Raises:
        ValueError: for empty input, other shapes, NaN, or if only one of the two kinds is present.

    >>> auroc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875
    """
    true_positives, false_positives = _counts_above_thresholds(score, is_positive)
    _check_both_kinds(true_positives, false_positives, "the AUROC")
    # Trapezoids in whole numbers: a group of ties is one slanted piece of the curve, which counts its pairs half.
    doubled_area = np.sum(np.diff(false_positives) * (true_positives[1:] + true_positives[:-1]))
    return float(doubled_area / (2 * true_positives[-1] * false_positives[-1]))


def average_precision(score: Values, is_positive: Values) -> float:
    r"""Mean precision over the positives, the area under the precision-recall curve without interpolation.

    .. math:: \sum_k (R_k - R_{k-1}) P_k

    with precision :math:`P_k` and recall :math:`R_k` at the k-th highest distinct score; samples of equal score are
    admitted together.

    Args:
        score: ``(N,)``, any real numbers, infinities included; higher = more suspect.
        is_positive: ``(N,)``, booleans or 0 and 1.

    Returns:
        A number above 0 and up to 1; the share of positives for a constant score.

    Raises:
        ValueError: for empty input, other shapes, NaN, or if there is no positive.

    >>> average_precision([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0])
    0.8333333333333333
    """
    true_positives, false_positives = _counts_above_thresholds(score, is_positive)
    if true_positives[-1] == 0:
        raise ValueError("is_positive holds no positive, so the average precision is undefined: give at least one")
    precision = true_positives[1:] / (true_positives[1:] + false_positives[1:])
    return float(np.sum(np.diff(true_positives) * precision) / true_positives[-1])


def fpr_at_tpr(score: Values, is_positive: Values, tpr: float = 0.95) -> float:
    r"""Smallest false-positive rate among the thresholds that find at least a share ``tpr`` of the positives.

    .. math:: \min_t \{ P(s_- \ge t) : P(s_+ \ge t) \ge \mathrm{tpr} \}

    Thresholds are the scores themselves; nothing is interpolated between them.

    Args:
        score: ``(N,)``, any real numbers, infinities included; higher = more suspect.
        is_positive: ``(N,)``, booleans or 0 and 1.
        tpr: the true-positive rate to reach, from 0 to 1.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, ``tpr`` out of range, or if only one of the two kinds is
            present.

    >>> fpr_at_tpr([0.9, 0.8, 0.7, 0.2, 0.1], [1, 0, 1, 0, 0])
    0.3333333333333333
    """
    _check_tpr(tpr)
    true_positives, false_positives = _counts_above_thresholds(score, is_positive)
    _check_both_kinds(true_positives, false_positives, "the false-positive rate")
    # Both rates grow as the threshold falls, so the first threshold that reaches tpr has the smallest.
    first = np.argmax(true_positives / true_positives[-1] >= tpr)
    return float(false_positives[first] / false_positives[-1])


def reliability(probabilities: Values, target: Values, bins: int = 15) -> tuple[Floats, Floats, Integers]:
    r"""Mean confidence, accuracy and count of the samples in each bin of confidence.

    Confidence is :math:`\max_c p_c`. Bin b holds :math:`b/B \le \max_c p_c < (b+1)/B`, the last one 1.0 too.

    Args:
        probabilities: ``(N, C)``, each from 0 to 1.
        target: class indices ``(N,)``, integers from 0 to C - 1.
        bins: how many bins of equal width divide 0..1.

    Returns:
        Three arrays of length ``bins``: mean confidence and accuracy as float64, NaN where a bin is empty, and the
        number of samples as int64.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities or labels out of range, ``bins`` below 1.

    >>> confidence, accuracy, count = reliability([[0.75, 0.25], [1.0, 0.0]], [0, 1], bins=2)
    >>> confidence.tolist(), accuracy.tolist(), count.tolist()
    ([nan, 0.875], [nan, 0.5], [0, 2])
    """
    probability, expected = _probabilities_and_target(probabilities, target)
    _check_bins(bins)
    return _bin_means(probability.max(axis=1), probability.argmax(axis=1) == expected, bins)


def ece(
    probabilities: Values,
    target: Values,
    bins: int = 15,
    kind: Literal["top-label", "marginal"] = "top-label",
    norm: Literal["l1", "l2"] = "l1",
) -> float:
    r"""Expected calibration error: how far confidence is from accuracy, over bins of equal width.

    .. math::
        \ell_1 = \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|, \qquad
        \ell_2 = \sqrt{\sum_b \frac{n_b}{N} (\mathrm{acc}_b - \mathrm{conf}_b)^2}

    ``kind="top-label"`` bins the largest probability of each sample (see :func:`reliability`). ``kind="marginal"``
    takes every class as a binary problem, :math:`p_c` against :math:`[y = c]`, and returns the mean of the classes'
    :math:`\ell_1`, or the root of the mean of their squared :math:`\ell_2`.

    Args:
        probabilities: ``(N, C)``, each from 0 to 1.
        target: class indices ``(N,)``, integers from 0 to C - 1.
        bins: how many bins divide 0..1; closed on the left, the last one on the right too.
        kind: ``"top-label"`` or ``"marginal"``.
        norm: ``"l1"`` or ``"l2"``.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities or labels out of range, ``bins`` below 1, an
            unknown ``kind`` or ``norm``.

    >>> ece([[0.75, 0.25], [1.0, 0.0]], [0, 1], bins=2)
    0.375
    """
    if kind not in _ECE_KINDS:
        raise ValueError(f"kind is {kind!r}: give one of {', '.join(_ECE_KINDS)}")
    if norm not in _ECE_NORMS:
        raise ValueError(f"norm is {norm!r}: give one of {', '.join(_ECE_NORMS)}")
    if kind == "top-label":
        error = _calibration_error(*reliability(probabilities, target, bins), norm)
    else:
        probability, expected = _probabilities_and_target(probabilities, target)
        _check_bins(bins)
        error = float(
            np.mean(
                [
                    _calibration_error(*_bin_means(confidence, expected == c, bins), norm)
                    for c, confidence in enumerate(probability.T)
                ]
            )
        )
    return error if norm == "l1" else error**0.5


def brier(probabilities: Values, target: Values) -> float:
    r"""Brier score: the mean squared distance between the probabilities and the one-hot target.

    .. math:: \frac{1}{N} \sum_n \sum_c (p_{nc} - [y_n = c])^2

    Args:
        probabilities: ``(N, C)``, each from 0 to 1.
        target: class indices ``(N,)``, integers from 0 to C - 1.

    Returns:
        A number from 0 (sure and right) to 2 (sure and wrong); up to C where rows do not sum to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities or labels out of range.

    >>> brier([[0.5, 0.5], [0.0, 1.0]], [0, 0])
    1.25
    """
    probability, expected = _probabilities_and_target(probabilities, target)
    one_hot = expected[:, None] == np.arange(probability.shape[1])
    return float(np.mean(np.sum((probability - one_hot) ** 2, axis=1)))


def nll(probabilities: Values, target: Values) -> float:
    r"""Negative log-likelihood of the target.

    .. math:: -\frac{1}{N} \sum_n \log p_{n y_n}

    Args:
        probabilities: ``(N, C)``, each from 0 to 1.
        target: class indices ``(N,)``, integers from 0 to C - 1.

    Returns:
        Nats per sample, 0 or more; infinite if any target has probability 0, since nothing is clipped.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities or labels out of range.

    >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 0]), 4)
    1.0397
    >>> nll([[0.0, 1.0]], [0])
    inf
    """
    probability, expected = _probabilities_and_target(probabilities, target)
    with np.errstate(divide="ignore"):
        log_likelihood = np.log(probability[np.arange(len(expected)), expected])
    return float(0.0 - log_likelihood.mean())


def risk_coverage(score: Values, is_wrong: Values) -> tuple[Floats, Floats]:
    r"""Error rate among the accepted samples as more are accepted, the least suspect first.

    .. math:: \mathrm{risk}(k/N) = \frac{1}{k} \sum_{j \le k} [\text{the sample of j-th lowest score is wrong}]

    Errors are spread evenly within ties, the expectation over their random order, so the order of rows is irrelevant.

    Args:
        score: ``(N,)``, any real numbers, infinities included; higher = more suspect.
        is_wrong: ``(N,)``, booleans or 0 and 1: whether the prediction is an error.

    Returns:
        Two float64 arrays of length N: coverage 1/N, 2/N, ..., 1 and the risk there, from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes or NaN.

    >>> coverage, risk = risk_coverage([0.1, 0.2, 0.2, 0.9], [0, 1, 0, 1])
    >>> coverage.tolist(), risk.tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.3333333333333333, 0.5])
    """
    suspicion, wrong = _score_and_truth(score, is_wrong, "is_wrong")
    _, group, group_size = np.unique(suspicion, return_inverse=True, return_counts=True)
    group_errors = np.bincount(group, weights=wrong)
    samples_before = np.cumsum(group_size) - group_size
    errors_before = np.cumsum(group_errors) - group_errors
    accepted = np.arange(1, len(suspicion) + 1)
    group_of_accepted = np.repeat(np.arange(len(group_size)), group_size)
    position_in_group = accepted - samples_before[group_of_accepted]
    expected_errors = (
        errors_before[group_of_accepted]
        + group_errors[group_of_accepted] * position_in_group / group_size[group_of_accepted]
    )
    return accepted / len(accepted), expected_errors / accepted


def aurc(score: Values, is_wrong: Values) -> float:
    r"""Area under the risk-coverage curve: the mean risk over the coverages 1/N, 2/N, ..., 1.

    .. math:: \frac{1}{N} \sum_{k=1}^{N} \mathrm{risk}(k/N)

    Args:
        score: ``(N,)``, any real numbers, infinities included; higher = more suspect.
        is_wrong: ``(N,)``, booleans or 0 and 1: whether the prediction is an error.

    Returns:
        A number from 0 (no error at all) to 1 (nothing but errors); the error rate for a constant score.

    Raises:
        ValueError: for empty input, other shapes or NaN.

    >>> aurc([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    0.20833333333333331
    """
    _, risk = risk_coverage(score, is_wrong)
    return float(risk.mean())


def _to_numpy(values: Values, name: str) -> NDArray[Any]:
    """``values`` as a numpy array that is not empty: floats as float64, integers and booleans as they are."""
    # Asked by attribute, so that metrics of numpy arrays do not import torch; numpy has no bfloat16, hence double().
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        array: NDArray[Any] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    else:
        array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} of type {array.dtype}: give real numbers")
    if array.ndim > 0 and len(array) == 0:
        raise ValueError(f"no samples in {name}: give at least one")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _real_numbers(array: NDArray[Any], name: str) -> Floats:
    numbers = array.astype(np.float64, copy=False)
    if np.isnan(numbers).any():
        raise ValueError(
            f"{np.isnan(numbers).sum()} NaN in {name}: find out where they come from, or leave these samples out"
        )
    return numbers


def _class_indices(array: NDArray[Any], name: str, num_classes: int | None) -> Integers:
    if array.ndim != 1:
        raise ValueError(f"{name} of shape {array.shape}: give one class index per sample, shape (N,)")
    if array.dtype.kind == "f":
        raise ValueError(f"{name} of type float and shape (N,): give class indices as integers")
    if array.min() < 0:
        raise ValueError(f"class {array.min()} in {name}: leave out the samples without a known class")
    if num_classes is not None and array.max() >= num_classes:
        raise ValueError(
            f"class {array.max()} in {name}, but there are {num_classes} columns: give indices from 0 to "
            f"{num_classes - 1}"
        )
    return array.astype(np.int64)


def _check_same_length(first: NDArray[Any], first_name: str, second: NDArray[Any], second_name: str) -> None:
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} samples in {first_name}, but {len(second)} in {second_name}: give one of each per sample"
        )


def _probabilities_and_target(probabilities: Values, target: Values) -> tuple[Floats, Integers]:
    array = _to_numpy(probabilities, "probabilities")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"probabilities of shape {array.shape}: give shape (N, C), one column per class")
    probability = _real_numbers(array, "probabilities")
    if probability.min() < -_PROBABILITY_TOLERANCE or probability.max() > 1 + _PROBABILITY_TOLERANCE:
        raise ValueError(
            f"probabilities run from {probability.min():.4g} to {probability.max():.4g}, not within 0 to 1: "
            "pass probabilities, not logits"
        )
    expected = _class_indices(_to_numpy(target, "target"), "target", probability.shape[1])
    _check_same_length(probability, "probabilities", expected, "target")
    return probability.clip(0.0, 1.0), expected


def _score_and_truth(score: Values, truth: Values, truth_name: str) -> tuple[Floats, Booleans]:
    score_array, truth_array = _to_numpy(score, "score"), _to_numpy(truth, truth_name)
    for array, name in ((score_array, "score"), (truth_array, truth_name)):
        if array.ndim != 1:
            raise ValueError(f"{name} of shape {array.shape}: give one number per sample, shape (N,)")
    if not np.isin(truth_array, (0, 1)).all():
        raise ValueError(f"other values than 0 and 1 in {truth_name}: give booleans, such as {truth_name} > 0")
    _check_same_length(score_array, "score", truth_array, truth_name)
    return _real_numbers(score_array, "score"), truth_array.astype(np.bool_)


def _counts_above_thresholds(score: Values, is_positive: Values) -> tuple[Integers, Integers]:
    """True and false positives with the threshold above all scores, then at each distinct score, downwards."""
    suspicion, positive = _score_and_truth(score, is_positive, "is_positive")
    order = np.argsort(-suspicion)
    suspicion, positive = suspicion[order], positive[order]
    last_of_ties = np.flatnonzero(np.append(suspicion[1:] != suspicion[:-1], True))
    true_positives = np.cumsum(positive, dtype=np.int64)[last_of_ties]
    false_positives = last_of_ties + 1 - true_positives
    return np.insert(true_positives, 0, 0), np.insert(false_positives, 0, 0)


def _check_both_kinds(true_positives: Integers, false_positives: Integers, metric: str) -> None:
    if true_positives[-1] == 0 or false_positives[-1] == 0:
        missing = "positive" if true_positives[-1] == 0 else "negative"
        raise ValueError(f"is_positive holds no {missing}, so {metric} is undefined: give at least one of each kind")


def _check_tpr(tpr: object) -> None:
    if isinstance(tpr, bool) or not isinstance(tpr, int | float | np.integer | np.floating) or not 0 <= tpr <= 1:
        raise ValueError(f"tpr is {tpr}: give a number from 0 to 1")


def _check_bins(bins: object) -> None:
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"bins is {bins}: give a whole number, 1 or more")


def _bin_means(confidence: Floats, correct: Booleans, bins: int) -> tuple[Floats, Floats, Integers]:
    """Mean confidence, share correct and count per bin of confidence; NaN where a bin is empty."""
    # Compared with the edges k/B themselves: floor(confidence * B) would put 0.29 below the edge 29/100.
    inner_edges = np.arange(1, bins) / bins
    bin_of_sample = np.searchsorted(inner_edges, confidence, side="right")
    count = np.bincount(bin_of_sample, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bin_of_sample, weights=confidence, minlength=bins) / count
        share_correct = np.bincount(bin_of_sample, weights=correct, minlength=bins) / count
    return mean_confidence, share_correct, count


def _calibration_error(confidence: Floats, accuracy: Floats, count: Integers, norm: str) -> float:
    """Mean over samples of their bin's gap, absolute for l1, squared for l2."""
    filled = count > 0
    gap = np.abs(accuracy[filled] - confidence[filled])
    return float(np.average(gap if norm == "l1" else gap**2, weights=count[filled]))
