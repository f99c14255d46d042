"""From which probability on a class is predicted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from catchment.data import IGNORE_INDEX, Dataset


def label_sets(dataset: Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The classes of each sample ``(N, C)``, and which samples have labels at all ``(N,)``; -1 is no class."""
    if dataset.is_multi_label:
        return dataset.labels == 1, np.ones(len(dataset), dtype=np.bool_)
    return dataset.labels[:, None] == np.arange(dataset.num_classes), dataset.labels != IGNORE_INDEX


def precision_thresholds(
    probabilities: NDArray[np.floating], label_sets: NDArray[np.bool_], precision: float
) -> NDArray[np.float64]:
    r"""For each class the least probability from which on it is right often enough on held-out samples.

    .. math:: t_c = \min\{t : |\{n : p_{nc} \ge t, y_{nc} = 1\}| \ge \pi\, |\{n : p_{nc} \ge t\}|\}

    Of all such thresholds the least finds the most. It is chosen on these samples, so that on new ones the precision is
    about, not at least, what was asked for; the fewer samples of a class, the less it is worth.

    Args:
        probabilities: ``(N, C)`` of samples that took no part in training.
        label_sets: ``(N, C)``, which classes they have.
        precision: pi, above 0 and up to 1.

    Returns:
        ``(C,)``; inf where no threshold reaches the precision, so that the class is never predicted.

    Raises:
        ValueError: the precision is out of range, or there are no samples.

    >>> precision_thresholds(np.array([[0.9], [0.8], [0.7], [0.6]]), np.array([[1], [0], [1], [0]]) > 0, 0.6)
    array([0.7])
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision is {precision}: give a number above 0 and up to 1")
    if len(probabilities) == 0:
        raise ValueError("there are no labelled samples to choose thresholds on: give some as --calibration")
    return np.array([_threshold(p, y, precision) for p, y in zip(probabilities.T, label_sets.T, strict=True)])


def _threshold(p: NDArray[np.floating], present: NDArray[np.bool_], precision: float) -> float:
    order = np.argsort(-p)
    p, present = p[order], present[order]
    last_of_ties = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    reached = np.cumsum(present)[last_of_ties] >= precision * (last_of_ties + 1)
    return float(p[last_of_ties[reached][-1]]) if reached.any() else math.inf


def check_threshold(threshold: float) -> float:
    """The threshold, if it is one."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: give a number from 0 to 1")
    return threshold
