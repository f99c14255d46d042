"""What the figures show, as numbers: counted from ``evaluation.npz`` with the conventions of ``catchment.metrics``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catchment import metrics
from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS
from catchment.report.run_folder import Evaluation

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
BINS, TOP_K_BINS = 15, 10
# A curve of a million samples is drawn with as many points as a screen can tell apart.
_CURVE_POINTS = 250


@dataclass(frozen=True, eq=False)
class Reliability:
    """Mean confidence, accuracy (NaN where a bin is empty) and count of each bin, and the ECE."""

    confidence: Floats
    accuracy: Floats
    count: Counts
    ece: float


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The error rate among the accepted samples at each coverage, and the mean over all coverages."""

    coverage: Floats
    risk: Floats
    aurc: float


@dataclass(frozen=True, eq=False)
class ScoreGroup:
    """The finite scores of samples of one kind."""

    name: str
    scores: Floats


def reliability(evaluation: Evaluation, bins: int | None = None) -> Reliability | None:
    """The bins of ``metrics.reliability`` and their ECE; None without predictions to judge.

    There are 15 bins by default, and 10 where samples have many labels, as ``ece_at_k`` has.
    """
    bins = bins or (TOP_K_BINS if evaluation.is_multi_label else BINS)
    confidence, correct = evaluation.judged
    if len(confidence) == 0 or not np.isfinite(confidence).all():
        return None
    # A second column of zeros never wins, so that its class stands for "wrong": same bins, same ECE as of all columns.
    probabilities = np.stack([confidence, np.zeros_like(confidence)], axis=1)
    target = np.where(correct, 0, 1)
    return Reliability(*metrics.reliability(probabilities, target, bins), metrics.ece(probabilities, target, bins))


def risk_coverage(evaluation: Evaluation) -> RiskCoverage | None:
    """The curve by the unknown score, thinned; None without test samples of a known class, or with many labels."""
    if evaluation.is_multi_label:
        return None
    score = evaluation["test_unknown_score"][evaluation.known]
    if len(score) == 0 or np.isnan(score).any():
        return None
    coverage, risk = metrics.risk_coverage(score, ~evaluation.correct)
    shown = np.unique(np.linspace(0, len(risk) - 1, _CURVE_POINTS).round().astype(np.int64))
    return RiskCoverage(coverage[shown], risk[shown], float(risk.mean()))


def confusion_counts(evaluation: Evaluation, num_classes: int) -> Counts | None:
    """How often a class (row) was taken for another (column); None without test samples of one known class."""
    if evaluation.is_multi_label:
        return None
    known = evaluation.known
    if not known.any():
        return None
    pairs = evaluation["test_label"][known] * num_classes + evaluation["test_predicted"][known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def most_frequent_pairs(counts: Counts, at_most: int = 20) -> list[tuple[int, int, int]]:
    """The largest counts off the diagonal as (row, column, count), the largest first, none of them 0."""
    off_diagonal = counts.copy()
    np.fill_diagonal(off_diagonal, 0)
    order = np.argsort(-off_diagonal, axis=None, kind="stable")[:at_most]
    rows, columns = np.unravel_index(order, counts.shape)
    pairs = zip(rows.tolist(), columns.tolist(), off_diagonal[rows, columns].tolist(), strict=True)
    return [(row, column, count) for row, column, count in pairs if count > 0]


def class_accuracy(evaluation: Evaluation, num_classes: int) -> Floats:
    """The share of each class's test samples that were predicted right; NaN for classes without any."""
    labels = evaluation["test_label"][evaluation.known]
    with np.errstate(invalid="ignore"):
        share: Floats = np.bincount(labels, weights=evaluation.correct, minlength=num_classes) / np.bincount(
            labels, minlength=num_classes
        )
    return share


def training_counts(evaluation: Evaluation, num_classes: int) -> Counts:
    """Training samples of each class, by the true labels where those are known."""
    clean = evaluation.get("train_clean_label")
    labels = evaluation["train_label"] if clean is None else clean
    return np.bincount(labels[labels >= 0], minlength=num_classes)


def neighbours_agree(coordinates: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The share of points whose nearest other point has the same label."""
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(coordinates).query(coordinates, k=2)
    own = np.arange(len(coordinates))
    other = np.where(nearest[:, 0] == own, nearest[:, 1], nearest[:, 0])  # of equal points either may come first
    return float((labels == labels[other]).mean())


def wrong_training_labels(evaluation: Evaluation) -> NDArray[np.int8]:
    """For each training sample 1 if its label is wrong, 0 if it is right, -1 if that is not known."""
    given, clean = evaluation["train_label"], evaluation.get("train_clean_label")
    if clean is None:
        return np.full(len(given), -1, dtype=np.int8)
    judged = (given >= 0) & (clean != IGNORE_INDEX)
    return np.where(judged, given != clean, -1).astype(np.int8)


def unknown_score_groups(evaluation: Evaluation) -> list[ScoreGroup]:
    """The unknown scores of clean, mislabelled and unknown samples; kinds without a finite score are left out.

    With many labels: those of test samples with a label and without.
    """
    if evaluation.is_multi_label:
        has_label, score = evaluation["test_label"].any(axis=1), evaluation["test_unknown_score"]
        return _finite_groups({"labelled (test)": score[has_label], "no label (test)": score[~has_label]})
    wrong, score = wrong_training_labels(evaluation), evaluation["train_unknown_score"]
    groups = {
        "clean (training)": score[wrong == 0],
        "mislabelled (training)": score[wrong == 1],
        "training samples": score[(wrong == -1) & (evaluation["train_label"] >= 0)],
        "no class (training)": score[evaluation["train_label"] == UNKNOWN_CLASS],
        "unknown (test)": evaluation["test_unknown_score"][evaluation["test_label"] == UNKNOWN_CLASS],
    }
    return _finite_groups(groups)


def _finite_groups(groups: dict[str, NDArray[np.float32]]) -> list[ScoreGroup]:
    finite = {name: values[np.isfinite(values)].astype(np.float64) for name, values in groups.items()}
    return [ScoreGroup(name, values) for name, values in finite.items() if len(values)]


def histogram_edges(groups: list[ScoreGroup], bins: int = 30) -> Floats:
    """Edges that all groups share: 0 to 1 where every score lies there, else from the least to the largest."""
    low = min(group.scores.min() for group in groups)
    high = max(group.scores.max() for group in groups)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)
