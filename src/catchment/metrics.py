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
    "cf1",
    "ece",
    "f1_macro_at_k",
    "fpr_at_tpr",
    "frequency_groups",
    "group_accuracy",
    "hamming_loss",
    "map_at_k",
    "mean_average_precision",
    "mean_max_confidence",
    "nll",
    "of1",
    "reliability",
    "risk_coverage",
    "subset_accuracy",
    "top_k_labels",
]

# A softmax in float32 may end a few units in the last place above 1.
_PROBABILITY_TOLERANCE = 1e-6
_ECE_KINDS = ("top-label", "marginal", "top-k")
_ECE_NORMS = ("l1", "l2")
_RELIABILITY_KINDS = ("top-label", "top-k")
_F1_DEFINITIONS = ("mean-of-f1", "f1-of-means")
_DISTANCES = ("euclidean", "cosine")
# as many distances between embeddings are held at a time
_DISTANCE_BLOCK = 4_000_000


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
    predicted, expected = _predicted_and_target(predictions, target)
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


def reliability(
    probabilities: Values,
    target: Values,
    bins: int = 15,
    kind: Literal["top-label", "top-k"] = "top-label",
    k: int = 4,
) -> tuple[Floats, Floats, Integers]:
    r"""Mean confidence, accuracy and count of the predictions in each bin of confidence.

    ``kind="top-label"``: each sample is one prediction, with the confidence :math:`\max_c p_c`. ``kind="top-k"``: its k
    largest probabilities are k predictions, each right if the sample has that class. Bin b holds
    :math:`b/B \le p < (b+1)/B`, the last one 1.0 too.

    Args:
        probabilities: ``(N, C)``, each from 0 to 1.
        target: class indices ``(N,)``, integers from 0 to C - 1; for "top-k" label sets, see :func:`subset_accuracy`.
        bins: how many bins of equal width divide 0..1.
        kind: ``"top-label"`` or ``"top-k"``.
        k: predictions of a sample, from 1 to C, for "top-k"; among ties the first classes.

    Returns:
        Three arrays of length ``bins``: mean confidence and accuracy as float64, NaN where a bin is empty, and the
        number of predictions as int64.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities or labels out of range, ``bins`` below 1, ``k``
            out of range, an unknown ``kind``.

    >>> confidence, accuracy, count = reliability([[0.75, 0.25], [1.0, 0.0]], [0, 1], bins=2)
    >>> confidence.tolist(), accuracy.tolist(), count.tolist()
    ([nan, 0.875], [nan, 0.5], [0, 2])
    """
    _check_choice(kind, "kind", _RELIABILITY_KINDS)
    if kind == "top-label":
        probability, expected = _probabilities_and_target(probabilities, target)
        _check_bins(bins)
        return _bin_means(probability.max(axis=1), probability.argmax(axis=1) == expected, bins)
    probability = _probabilities(probabilities)
    sets = _label_sets(target, "target", probability)
    _check_bins(bins)
    top = _top_k(probability, k)
    confidence, correct = np.take_along_axis(probability, top, axis=1), np.take_along_axis(sets, top, axis=1)
    return _bin_means(confidence.ravel(), correct.ravel(), bins)


def ece(
    probabilities: Values,
    target: Values,
    bins: int = 15,
    kind: Literal["top-label", "marginal", "top-k"] = "top-label",
    norm: Literal["l1", "l2"] = "l1",
    k: int = 4,
) -> float:
    r"""Expected calibration error: how far confidence is from accuracy, over bins of equal width.

    .. math::
        \ell_1 = \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|, \qquad
        \ell_2 = \sqrt{\sum_b \frac{n_b}{N} (\mathrm{acc}_b - \mathrm{conf}_b)^2}

    ``kind="top-label"`` bins the largest probability of each sample and ``kind="top-k"`` the k largest, each a
    prediction of its own (see :func:`reliability`). ``kind="marginal"`` takes every class as a binary problem,
    :math:`p_c` against :math:`[y = c]`, and returns the mean of the classes' :math:`\ell_1`, or the root of the mean of
    their squared :math:`\ell_2`.

    Args:
        probabilities: ``(N, C)``, each from 0 to 1.
        target: class indices ``(N,)``, integers from 0 to C - 1; for "marginal" and "top-k" also label sets, see
            :func:`subset_accuracy`.
        bins: how many bins divide 0..1; closed on the left, the last one on the right too. The quasibinary paper's
            top-k error has 10.
        kind: ``"top-label"``, ``"marginal"`` or ``"top-k"``.
        norm: ``"l1"`` or ``"l2"``.
        k: predictions of a sample, from 1 to C, for "top-k".

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities or labels out of range, ``bins`` below 1, ``k``
            out of range, an unknown ``kind`` or ``norm``.

    >>> ece([[0.75, 0.25], [1.0, 0.0]], [0, 1], bins=2)
    0.375
    >>> ece([[0.75, 0.25, 0.5]], [[1, 1, 0]], bins=2, kind="top-k", k=2)  # one right of 0.75 and 0.5
    0.125
    """
    _check_choice(kind, "kind", _ECE_KINDS)
    _check_choice(norm, "norm", _ECE_NORMS)
    if kind != "marginal":
        error = _calibration_error(*reliability(probabilities, target, bins, kind, k), norm)
    else:
        probability = _probabilities(probabilities)
        sets = _label_sets(target, "target", probability)
        _check_bins(bins)
        error = float(
            np.mean(
                [
                    _calibration_error(*_bin_means(confidence, present, bins), norm)
                    for confidence, present in zip(probability.T, sets.T, strict=True)
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


def mean_max_confidence(probabilities: Values) -> float:
    r"""Mean of the largest probability (MMC); on samples of no known class the best is 0.

    .. math:: \frac{1}{N} \sum_n \max_c p_{nc}

    Args:
        probabilities: ``(N, C)``, each from 0 to 1. A softmax can't give less than 1/C.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, probabilities out of range.

    >>> mean_max_confidence([[0.1, 0.3], [0.5, 0.2]])
    0.4
    """
    return float(_probabilities(probabilities).max(axis=1).mean())


def top_k_labels(scores: Values, k: int) -> Booleans:
    """The k classes of highest score of each sample, as a mask ``(N, C)``; among ties the first classes.

    Args:
        scores: ``(N, C)``, any real numbers, infinities included. Clipped probabilities may tie: give logits.
        k: from 1 to C.

    Returns:
        A boolean array ``(N, C)`` with k true in each row.

    Raises:
        ValueError: for empty input, other shapes, NaN, ``k`` out of range.

    >>> top_k_labels([[0.1, 0.7, 0.3]], k=2).tolist()
    [[False, True, True]]
    """
    array = _scores(scores)
    chosen = np.zeros(array.shape, dtype=np.bool_)
    np.put_along_axis(chosen, _top_k(array, k), True, axis=1)
    return chosen


def f1_macro_at_k(
    scores: Values,
    target: Values,
    k: int = 4,
    definition: Literal["mean-of-f1", "f1-of-means"] = "mean-of-f1",
) -> float:
    r"""Macro F1 of predicting the k classes of highest score, every class counting the same.

    With precision :math:`P_c` and recall :math:`R_c` of each class, 0 where there is nothing to divide by, papers mean
    one of two things:

    .. math::
        \text{mean-of-f1} = \frac1C \sum_c \frac{2 P_c R_c}{P_c + R_c}, \qquad
        \text{f1-of-means} = \frac{2 \bar P \bar R}{\bar P + \bar R}

    Args:
        scores: ``(N, C)``, any real numbers, infinities included.
        target: label sets, see :func:`subset_accuracy`.
        k: from 1 to C; the quasibinary paper has 4.
        definition: ``"mean-of-f1"``, or ``"f1-of-means"``, the :func:`cf1` of the k classes.

    Returns:
        A number from 0 to 1. A class that never occurs counts 0, as in scikit-learn.

    Raises:
        ValueError: for empty input, other shapes, NaN, ``k`` or labels out of range, an unknown ``definition``.

    >>> scores, target = [[0.9, 0.8, 0.1], [0.1, 0.9, 0.8]], [[1, 0, 0], [0, 1, 1]]
    >>> round(f1_macro_at_k(scores, target, k=2), 4), round(f1_macro_at_k(scores, target, 2, "f1-of-means"), 4)
    (0.8889, 0.9091)
    """
    _check_choice(definition, "definition", _F1_DEFINITIONS)
    predicted = top_k_labels(scores, k)
    if definition == "f1-of-means":
        return cf1(predicted, target)
    expected = _label_sets(target, "target", predicted)
    hits = (predicted & expected).sum(axis=0)
    return float(np.mean(_ratio(2 * hits, predicted.sum(axis=0) + expected.sum(axis=0))))


def cf1(predictions: Values, target: Values) -> float:
    r"""Per-class F1 (CF1): the F1 of the means over classes of precision and recall.

    .. math::
        \frac{2 \bar P \bar R}{\bar P + \bar R}, \qquad
        \bar P = \frac1C \sum_c P_c, \quad \bar R = \frac1C \sum_c R_c

    Args:
        predictions: ``(N, C)`` of 0 and 1 or booleans, such as ``probabilities > 0.5`` or :func:`top_k_labels`.
        target: label sets, see :func:`subset_accuracy`.

    Returns:
        A number from 0 to 1; precision and recall are 0 where there is nothing to divide by.

    Raises:
        ValueError: for empty input, other shapes, values or labels.

    >>> round(cf1([[1, 1, 0], [0, 1, 1]], [[1, 0, 0], [0, 1, 1]]), 4)
    0.9091
    """
    predicted, expected = _predictions_and_label_sets(predictions, target)
    hits = (predicted & expected).sum(axis=0)
    precision = _ratio(hits, predicted.sum(axis=0)).mean()
    recall = _ratio(hits, expected.sum(axis=0)).mean()
    return float(_ratio(2 * precision * recall, precision + recall))


def of1(predictions: Values, target: Values) -> float:
    r"""Overall F1 (OF1, micro F1): of all pairs of sample and class together.

    .. math:: \frac{2\,\mathrm{TP}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN}}

    Args:
        predictions: ``(N, C)`` of 0 and 1 or booleans.
        target: label sets, see :func:`subset_accuracy`.

    Returns:
        A number from 0 to 1; 0 where neither has any label.

    Raises:
        ValueError: for empty input, other shapes, values or labels.

    >>> round(of1([[1, 1, 0], [0, 1, 1]], [[1, 0, 0], [0, 1, 1]]), 4)
    0.8571
    """
    predicted, expected = _predictions_and_label_sets(predictions, target)
    return float(_ratio(2 * (predicted & expected).sum(), predicted.sum() + expected.sum()))


def mean_average_precision(scores: Values, target: Values) -> float:
    r"""MAP over classes (mAP): the mean of each class's :func:`average_precision` over the classes that occur.

    Args:
        scores: ``(N, C)``, any real numbers, infinities included.
        target: label sets, see :func:`subset_accuracy`.

    Returns:
        A number above 0 and up to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN, other labels, or if no sample has a label.

    >>> mean_average_precision([[0.9, 0.1], [0.8, 0.7], [0.3, 0.2]], [[1, 0], [0, 1], [1, 0]])
    0.9166666666666666
    """
    array = _scores(scores)
    sets = _label_sets(target, "target", array)
    occurring = sets.any(axis=0)
    if not occurring.any():
        raise ValueError("no sample in target has a label, so the mean average precision is undefined: give some")
    return float(np.mean([average_precision(array[:, c], sets[:, c]) for c in np.flatnonzero(occurring)]))


def subset_accuracy(predictions: Values, target: Values) -> float:
    r"""Share of samples whose predicted label set is exactly the target.

    .. math:: \frac1N \sum_n [\hat Y_n = Y_n]

    Args:
        predictions: ``(N, C)`` of 0 and 1 or booleans.
        target: label sets: ``(N, C)`` of 0 and 1 or booleans, or class indices ``(N,)``, where -1 is no class at all.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes, values or labels.

    >>> subset_accuracy([[1, 1], [0, 0]], [[1, 0], [0, 0]])
    0.5
    """
    predicted, expected = _predictions_and_label_sets(predictions, target)
    return float((predicted == expected).all(axis=1).mean())


def hamming_loss(predictions: Values, target: Values) -> float:
    r"""Share of the pairs of sample and class that are predicted wrongly.

    .. math:: \frac{1}{NC} \sum_{nc} [\hat y_{nc} \ne y_{nc}]

    Args:
        predictions: ``(N, C)`` of 0 and 1 or booleans.
        target: label sets, see :func:`subset_accuracy`.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes, values or labels.

    >>> hamming_loss([[1, 1], [0, 0]], [[1, 0], [0, 0]])
    0.25
    """
    predicted, expected = _predictions_and_label_sets(predictions, target)
    return float((predicted != expected).mean())


def map_at_k(
    embeddings: Values, labels: Values, k: int, distance: Literal["euclidean", "cosine"] = "euclidean"
) -> float:
    r"""Mean average precision at k of retrieval: every sample asks for the others of its class.

    .. math::
        \frac{1}{Q} \sum_q \frac{1}{\min(k, R_q)} \sum_{i=1}^{k} [\text{the i-th nearest is of q's class}]\, P_q(i)

    with :math:`R_q` the number of other samples of the class and :math:`P_q(i)` the share of them among the i nearest.
    Equally near samples come in their order (which of them the k-th place cuts off is not defined); samples alone in
    their class ask nothing.

    Args:
        embeddings: ``(N, D)``, finite.
        labels: class indices ``(N,)``, integers of at least 0.
        k: 1 or more; no more than N - 1 can be found.
        distance: ``"euclidean"`` or ``"cosine"``.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for empty input, other shapes, NaN or infinities, ``k`` below 1, an unknown ``distance``, for
            "cosine" a zero vector, or if no class has two samples.

    >>> map_at_k([[0.0], [0.1], [1.0], [1.3]], [0, 0, 0, 1], k=2)
    0.75
    """
    _check_choice(distance, "distance", _DISTANCES)
    points = _embeddings(embeddings, distance)
    classes = _class_indices(_to_numpy(labels, "labels"), "labels", None)
    _check_same_length(points, "embeddings", classes, "labels")
    _check_at_least_1(k, "k")
    relevant = np.bincount(classes)[classes] - 1
    if not relevant.any():
        raise ValueError("no class in labels has two samples, so there is nothing to retrieve: give more of each")
    squares = (points**2).sum(axis=1)
    k = min(k, len(points) - 1)
    total = 0.0
    for rows in np.array_split(np.arange(len(points)), -(-(len(points) ** 2) // _DISTANCE_BLOCK)):
        distances = squares - 2 * points[rows] @ points.T  # but for the query's own square, which changes no order
        distances[np.arange(len(rows)), rows] = np.inf
        nearest = np.sort(np.argpartition(distances, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(np.take_along_axis(distances, nearest, axis=1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        hit = classes[nearest] == classes[rows, None]
        precision = np.cumsum(hit, axis=1) / np.arange(1, k + 1)
        total += _ratio((hit * precision).sum(axis=1), np.minimum(k, relevant[rows])).sum()
    return float(total / np.count_nonzero(relevant))


def group_accuracy(
    predictions: Values, target: Values, class_counts: Values, *, many: int = 100, few: int = 20
) -> dict[str, float]:
    r"""Accuracy on the classes with many, medium and few training samples.

    The mean over the classes of a group of each class's accuracy, so that classes count the same whatever the test set.

    Args:
        predictions: class indices ``(N,)`` as integers, or scores ``(N, C)``, whose arg-max is the prediction.
        target: class indices ``(N,)``, integers from 0 to C - 1.
        class_counts: training samples of each class ``(C,)``; say whether they are of true or of observed labels.
        many: a class with more samples than this has many.
        few: a class with fewer has few; all others are medium.

    Returns:
        ``{"many": ..., "medium": ..., "few": ...}``, each from 0 to 1, NaN for a group without a sample in ``target``.

    Raises:
        ValueError: for empty input, other shapes, NaN, class indices or counts out of range, ``few`` above ``many``.

    >>> group_accuracy([0, 0, 1, 0], [0, 0, 1, 2], [500, 50, 5])
    {'many': 1.0, 'medium': 1.0, 'few': 0.0}
    """
    predicted, expected = _predicted_and_target(predictions, target)
    counts = _class_counts(class_counts)
    if expected.max() >= len(counts):
        raise ValueError(f"class {expected.max()} in target, but there are {len(counts)} class_counts: give one each")
    if few > many:
        raise ValueError(f"few is {few} and many is {many}: give few no larger than many")
    in_test = np.bincount(expected, minlength=len(counts))
    class_accuracy = _ratio(np.bincount(expected, weights=predicted == expected, minlength=len(counts)), in_test)
    groups = {"many": counts > many, "medium": (counts >= few) & (counts <= many), "few": counts < few}
    chosen = {name: group & (in_test > 0) for name, group in groups.items()}
    return {name: float(class_accuracy[g].mean()) if g.any() else float("nan") for name, g in chosen.items()}


def frequency_groups(class_counts: Values) -> list[str]:
    r"""Whether each class has "many", "medium" or "few" training samples, as the suites say it.

    Above 100, 20 to 100, below 20. Where there are 20 classes or fewer, all of which may have hundreds, it goes by
    rank: the largest 20 %, the next 50 %, the smallest 30 %, rounded; of equal classes the first is the smaller.

    Args:
        class_counts: training samples of each class ``(C,)``.

    Returns:
        C words.

    Raises:
        ValueError: for counts that are not one number of at least 0 per class.

    >>> frequency_groups([500, 300, 180, 108, 65, 39, 23, 14, 8, 5])
    ['many', 'many', 'medium', 'medium', 'medium', 'medium', 'medium', 'few', 'few', 'few']
    """
    counts = _class_counts(class_counts)
    many, few = 100.0, 20.0
    if len(counts) <= 20:
        counts = counts.argsort(kind="stable").argsort(kind="stable").astype(np.float64)
        many, few = len(counts) - 1 - round(0.2 * len(counts)), round(0.3 * len(counts))
    return ["many" if count > many else "few" if count < few else "medium" for count in counts]


def _class_counts(values: Values) -> Floats:
    counts = _real_numbers(_to_numpy(values, "class_counts"), "class_counts")
    if counts.ndim != 1 or counts.min() < 0:
        raise ValueError("class_counts must hold one number of at least 0 per class, shape (C,)")
    return counts


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


def _predicted_and_target(predictions: Values, target: Values) -> tuple[Integers, Integers]:
    """Predicted and given class indices; scores ``(N, C)`` predict their arg-max."""
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
    return predicted, expected


def _scores(scores: Values) -> Floats:
    array = _to_numpy(scores, "scores")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"scores of shape {array.shape}: give shape (N, C), one column per class")
    return _real_numbers(array, "scores")


def _probabilities(probabilities: Values) -> Floats:
    array = _to_numpy(probabilities, "probabilities")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"probabilities of shape {array.shape}: give shape (N, C), one column per class")
    probability = _real_numbers(array, "probabilities")
    if probability.min() < -_PROBABILITY_TOLERANCE or probability.max() > 1 + _PROBABILITY_TOLERANCE:
        raise ValueError(
            f"probabilities run from {probability.min():.4g} to {probability.max():.4g}, not within 0 to 1: "
            "pass probabilities, not logits"
        )
    return probability.clip(0.0, 1.0)


def _probabilities_and_target(probabilities: Values, target: Values) -> tuple[Floats, Integers]:
    probability = _probabilities(probabilities)
    expected = _class_indices(_to_numpy(target, "target"), "target", probability.shape[1])
    _check_same_length(probability, "probabilities", expected, "target")
    return probability, expected


def _label_sets(values: Values, name: str, like: NDArray[Any]) -> Booleans:
    """Label sets as a mask of the shape of ``like``, from a mask or class indices; -1 is no class at all."""
    array = _to_numpy(values, name)
    if array.ndim == 1:
        _check_same_length(like, "the predictions", array, name)
        none = array == -1
        index = _class_indices(np.where(none, 0, array), name, like.shape[1])
        sets: Booleans = (index[:, None] == np.arange(like.shape[1])) & ~none[:, None]
        return sets
    if array.shape != like.shape:
        raise ValueError(f"{name} of shape {array.shape}: give class indices (N,), or 0 and 1 of shape {like.shape}")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"other values than 0 and 1 in {name}: give 1 where the sample has the class, else 0")
    return array.astype(np.bool_)


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


def _predictions_and_label_sets(predictions: Values, target: Values) -> tuple[Booleans, Booleans]:
    array = _to_numpy(predictions, "predictions")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"predictions of shape {array.shape}: give shape (N, C), one column per class")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(
            "other values than 0 and 1 in predictions: give labels, such as probabilities > 0.5 or top_k_labels(...)"
        )
    return array.astype(np.bool_), _label_sets(target, "target", array)


def _embeddings(embeddings: Values, distance: str) -> Floats:
    array = _to_numpy(embeddings, "embeddings")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"embeddings of shape {array.shape}: give shape (N, D), one row per sample")
    points: Floats = array.astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError("NaN or infinities in embeddings: find out where they come from, or leave these samples out")
    if distance == "euclidean":
        points -= points.mean(axis=0)  # so that the squares of distances keep their digits
        return points
    norm = np.linalg.norm(points, axis=1, keepdims=True)
    if (norm == 0).any():
        raise ValueError("an embedding is zero, which has no direction: take distance='euclidean'")
    points /= norm
    return points


def _top_k(scores: Floats, k: int) -> Integers:
    """The columns of the k highest of each row, ``(N, k)``, highest first; among ties the first columns."""
    _check_at_least_1(k, "k")
    if k > scores.shape[1]:
        raise ValueError(f"k is {k}, but there are {scores.shape[1]} classes: give at most as many")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Their quotient, 0 where the denominator is."""
    denominator = np.asarray(denominator, dtype=np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def _check_choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: give one of {', '.join(choices)}")


def _check_at_least_1(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value}: give a whole number, 1 or more")


def _check_bins(bins: object) -> None:
    _check_at_least_1(bins, "bins")


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
