"""Confident learning (Northcutt, Jiang and Chuang 2021): which labels are wrong, how many, and of which pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from catchment.audit.scores import SUM_TOLERANCE, Floats, chunks, without_labels
from catchment.training.loop import cpu_threads

# A class whose samples all have one probability reaches its own mean in spite of rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class WrongLabels:
    """How many labels are believed wrong, and the ends of the interval."""

    count: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class ConfidentLearning:
    """What confident learning says of a set of labels.

    Args:
        self_confidence: ``(N,)`` or ``(N, C)``, 1 - p of what was given, as :func:`~catchment.audit.self_confidence`.
        is_off_diagonal: likewise, what the method calls wrong: another class is the confident one.
        thresholds: ``(C,)`` t_c, the mean of p_c over the samples labelled c; infinite without any. Of multi-label
            data ``(C, 2)``: of the absent and of the present.
        counts: ``(C, C)`` the confident joint: samples by given label and confident class; those that are confidently
            of no class are not in it. Of multi-label data ``(C, 2, 2)``, a table for each class.
        label_counts: ``(C,)`` how many samples have each label; ``(C, 2)`` of multi-label data.
    """

    self_confidence: Floats
    is_off_diagonal: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    counts: NDArray[np.int64]
    label_counts: NDArray[np.int64]

    @property
    def joint(self) -> NDArray[np.float64]:
        """The estimated joint of given and true labels ``(C, C)``: ``counts`` with rows scaled to the labels' shares.

        A label that no sample carries confidently is taken to be right. Of multi-label data ``(C, 2, 2)``, each
        table sums to 1.
        """
        rows = self.counts.sum(-1, keepdims=True)
        identity = np.broadcast_to(np.eye(self.counts.shape[-1]), self.counts.shape)
        shares = np.where(rows > 0, self.counts / np.maximum(rows, 1), identity)
        totals = self.label_counts.sum(-1, keepdims=True)
        joint: NDArray[np.float64] = shares * (self.label_counts / np.maximum(totals, 1))[..., None]
        return joint

    def wrong_labels(self, coverage: float = 0.95) -> WrongLabels:
        """How many labels are believed wrong: N times the mass of ``joint`` off its diagonal, and an interval.

        Of the labels c, a share ``s_c = off_c / (off_c + on_c)`` of the confident samples is off the diagonal. The
        interval is the normal one for ``sum_c n_c s_c``, each s_c a share among ``off_c + on_c`` samples, with half a
        sample added to both sides in its variance. It covers that the samples are a sample; it can't know that the
        classifier is wrong in one direction.
        """
        diagonal = np.diagonal(self.counts, axis1=-2, axis2=-1)
        rows = self.counts.sum(-1)
        off, labels = rows - diagonal, self.label_counts
        count = float((labels * (off / np.maximum(rows, 1))).sum())
        smoothed = (off + 0.5) / (rows + 1)
        deviation = float(np.sqrt((labels**2 * smoothed * (1 - smoothed) / (rows + 1)).sum()))
        reach = float(ndtri((1 + coverage) / 2)) * deviation
        total = int(labels.sum())
        return WrongLabels(round(count), max(0, math.floor(count - reach)), min(total, math.ceil(count + reach)))


@cpu_threads(1)
def confident_learning(probabilities: Any, labels: NDArray[Any]) -> ConfidentLearning:
    """Find wrong labels from out-of-sample probabilities, in two passes over them.

    A sample is confidently of class c if ``p_c >= t_c`` (less 1e-6 for rounding), where t_c is the mean of p_c over the
    samples labelled c; of several such classes the most probable one counts. With labels ``(N, C)`` of 0 and 1, each
    class is a problem of two, present or absent.

    Args:
        probabilities: ``(N, C)``, an array or one on disk; best from models that did not train on the sample.
        labels: ``(N,)`` class indices, -1 and -100 are left out; or ``(N, C)`` of 0 and 1.

    Raises:
        ValueError: the rows are no probabilities, or the labels don't fit them.

    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    >>> found = confident_learning(p, np.array([0, 0, 1, 1, 1]))
    >>> found.counts.tolist(), np.flatnonzero(found.is_off_diagonal).tolist()
    ([[1, 0], [1, 2]], [4])
    """
    labels = np.asarray(labels)
    return _one_label(probabilities, labels) if labels.ndim == 1 else _many_labels(probabilities, labels)


def _one_label(probabilities: Any, labels: NDArray[Any]) -> ConfidentLearning:
    samples, num_classes = len(labels), int(probabilities.shape[1])
    given, top = np.empty(samples), np.empty(samples)
    for rows, p, y in chunks(probabilities, labels):
        given[rows] = p.gather(1, y[:, None]).squeeze(1).numpy()
        top[rows] = p.amax(1).numpy()
    labelled = labels >= 0
    label_counts = np.bincount(labels[labelled], minlength=num_classes)
    sums = np.bincount(labels[labelled], weights=given[labelled], minlength=num_classes)
    thresholds = np.where(label_counts > 0, sums / np.maximum(label_counts, 1), np.inf)
    least = thresholds - _ROUNDING

    keeps = labelled & (given >= least[labels])
    confident = np.where(keeps, labels, -1)
    # The given class is settled where it is the most probable one and reaches its threshold. Elsewhere another class
    # can only be above the least of all thresholds if the largest other probability is: that one is the largest of
    # all, or where the given class has it, no larger than it and than what is left.
    largest_other = np.where(given < top, top, np.minimum(given, 1 - given + SUM_TOLERANCE))
    contested = labelled & ~(keeps & (given >= top)) & (largest_other >= least.min())
    for rows, p, _ in chunks(probabilities, labels, check=False):
        few = np.flatnonzero(contested[rows])
        if few.size:
            column, value = _most_probable(p.index_select(0, torch.from_numpy(few)).numpy(), least)
            few += rows.start
            wins = (column >= 0) & ~(keeps[few] & (given[few] >= value))
            confident[few[wins]] = column[wins]
    seen = confident >= 0
    cells = labels[seen].astype(np.int64) * num_classes + confident[seen]
    counts = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    unsure = without_labels((1 - given).astype(np.float32), labels)
    return ConfidentLearning(unsure, seen & (confident != labels), thresholds, counts, label_counts)


def _most_probable(p: NDArray[Any], least: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Of each row the most probable class that reaches its threshold, -1 where none does, and its probability."""
    column = p.argmax(1)
    value = p[np.arange(len(p)), column]
    unsettled = np.flatnonzero(value < least[column])
    if unsettled.size:
        few = p[unsettled]
        few *= few >= least.astype(p.dtype)
        best = few.argmax(1)
        value[unsettled] = few[np.arange(len(few)), best]
        column[unsettled] = np.where(value[unsettled] > 0, best, -1)
    return column, value


@cpu_threads(1)
def confident_margin(probabilities: Any, labels: NDArray[Any], thresholds: NDArray[np.float64]) -> Floats:
    """The margin of the best other class when each class's threshold is taken off; from 0 to 1.

    ``1/2 + (max_{c != y} (p_c - t_c) - (p_y - t_y)) / 4``: the samples that confident learning finds come with a high
    one, whether their class is one of which the classifier is sure or not. For labels ``(N, C)``, of each class
    present against absent.

    Args:
        probabilities: as in :func:`confident_learning`.
        labels: likewise.
        thresholds: that it found.
    """
    labels = np.asarray(labels)
    scores = np.empty(labels.shape, dtype=np.float32)
    # A class without samples has an infinite threshold, and is nobody's other class.
    off = torch.from_numpy(thresholds)
    for rows, p, y in chunks(probabilities, labels, check=False):
        if y.ndim == 1:
            margins = p - off.to(p.dtype)
            own = margins.gather(1, y[:, None]).squeeze(1)
            others = margins.scatter_(1, y[:, None], -torch.inf).amax(1)
        else:
            absent, present = 1 - p - off[:, 0], p - off[:, 1]
            own, others = torch.where(y == 1, present, absent), torch.where(y == 1, absent, present)
        scores[rows] = 0.5 + (others - own).clamp(-2, 2).numpy() / 4
    return without_labels(scores, labels)


def _many_labels(probabilities: Any, labels: NDArray[Any]) -> ConfidentLearning:
    num_classes = int(probabilities.shape[1])
    sums, label_counts = np.zeros((num_classes, 2)), np.zeros((num_classes, 2), dtype=np.int64)
    unsure = np.empty(labels.shape, dtype=np.float32)
    for rows, p, y in chunks(probabilities, labels):
        unsure[rows] = (p - y).abs().numpy()
        for side, likeliness, has in ((0, 1 - p, y == 0), (1, p, y == 1)):
            sums[:, side] += likeliness.double().mul(has).sum(0).numpy()
            label_counts[:, side] += has.sum(0).numpy()
    thresholds = np.where(label_counts > 0, sums / np.maximum(label_counts, 1), np.inf)

    is_off_diagonal = np.empty(labels.shape, dtype=np.bool_)
    counts = np.zeros((num_classes, 2, 2), dtype=np.int64)
    absent_at, present_at = torch.from_numpy(thresholds - _ROUNDING).T
    for rows, p, y in chunks(probabilities, labels, check=False):
        absent, present = (1 - p) - absent_at, p - present_at
        both = (absent >= 0) & (present >= 0)
        is_present = torch.where(both, p >= 0.5, present >= 0)
        is_confident = (absent >= 0) | (present >= 0)
        is_off_diagonal[rows] = (is_confident & (is_present != (y == 1))).numpy()
        for given in (0, 1):
            for found in (0, 1):
                hit = is_confident & (y == given) & (is_present == bool(found))
                counts[:, given, found] += hit.sum(0).numpy()
    return ConfidentLearning(unsure, is_off_diagonal, thresholds, counts, label_counts)
