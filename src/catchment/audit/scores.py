"""How suspect each given label is. Higher = the label is more likely wrong, for every score.

Probabilities are ``(N, C)``: an array, a ``numpy.memmap`` or a :class:`~catchment.audit.mapped.MappedArray`; they are
read a few rows at a time and never changed. Labels are ``(N,)`` class indices, where -1 (no known class) and -100 (no
label) get NaN, and rows of probabilities sum to 1; or ``(N, C)`` of 0 and 1, any number of classes per sample, and
scores are ``(N, C)``, one for each class of each sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catchment.audit.mapped import row_blocks
from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS
from catchment.training.loop import cpu_threads

Floats = NDArray[np.float32]
# Entries read at a time: few enough to stay in the processor's cache, enough to keep its vector units busy. Several
# threads would wait for one another longer than they work on so few, so there is one.
_ENTRIES = 1 << 19
# How far from 1 a row of float32 or float16 probabilities may sum.
SUM_TOLERANCE = 1e-2


class Chunk(NamedTuple):
    """A few rows: where they are, their probabilities, and their labels, 0 where there is none."""

    rows: slice
    probabilities: Tensor
    labels: Tensor


def chunks(probabilities: Any, labels: NDArray[Any], *, check: bool = True) -> Iterator[Chunk]:
    """The rows, a few at a time; with ``check`` refuses what are no probabilities."""
    labels = check_labels(probabilities, labels)
    exclusive = labels.ndim == 1
    step = max(1, _ENTRIES // probabilities.shape[1])
    for start, block in zip(range(0, len(labels), step), row_blocks(probabilities, step), strict=True):
        rows = slice(start, start + len(block))
        p = as_tensor(block)
        if check:
            _check_chunk(p, start, exclusive)
        yield Chunk(rows, p, torch.from_numpy(labels[rows]).clamp(min=0))


def as_tensor(values: NDArray[Any]) -> Tensor:
    """An array as a tensor of float32 or float64, sharing memory where it can."""
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32)
    if not values.flags.writeable or not values.flags.c_contiguous:
        values = np.array(values)  # torch takes no read-only arrays
    return torch.from_numpy(values)


def check_labels(probabilities: Any, labels: NDArray[Any]) -> NDArray[np.int64]:
    """The labels as int64; a ValueError says what doesn't fit."""
    labels = np.asarray(labels)
    shape = tuple(probabilities.shape)
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"probabilities have shape {shape}: give one row per sample, one column per class (N, C)")
    if labels.dtype.kind not in "iub" or labels.shape not in ((shape[0],), shape):
        raise ValueError(
            f"labels are {labels.dtype} {labels.shape} for probabilities {shape}: give one class index for each row, "
            "or of multi-label data 0 or 1 for each entry"
        )
    labels = labels.astype(np.int64)
    if labels.ndim == 1:
        outside = (labels >= shape[1]) | ((labels < 0) & (labels != UNKNOWN_CLASS) & (labels != IGNORE_INDEX))
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"label {labels[row]} of row {row} is outside the {shape[1]} columns of the probabilities: "
                "give a column for each class, in the order of the class names"
            )
    elif ((labels < 0) | (labels > 1)).any():
        raise ValueError("labels (N, C) hold more than 0 and 1: say for each class whether the sample has it")
    return labels


def _check_chunk(p: Tensor, start: int, exclusive: bool) -> None:
    sums = p.sum(1)
    # NaN makes every comparison false, so what is asked is whether all is well.
    in_range = bool(p.amin() >= 0) and (exclusive or bool(p.amax() <= 1))
    if not in_range or not bool(((sums - 1).abs() <= SUM_TOLERANCE if exclusive else sums.isfinite()).all()):
        bad = ~((p >= 0) & (p <= 1 + SUM_TOLERANCE * exclusive)).all(1)
        if exclusive:
            bad |= ~((sums - 1).abs() <= SUM_TOLERANCE)
        at = int(bad.nonzero()[0])
        row = p[at]
        where = f"row {start + at} of the probabilities"
        if not bool(row.isfinite().all()):
            raise ValueError(f"{where} has an entry that is no finite number: give probabilities from 0 to 1")
        if bool((row < 0).any()) or bool((row > 1 + SUM_TOLERANCE).any()):
            worst = float(row[(row - 0.5).abs().argmax()])
            raise ValueError(f"{where} has an entry of {worst:.4g}: give probabilities from 0 to 1, not logits")
        raise ValueError(f"{where} sums to {float(sums[at]):.4g}, not 1: give probabilities, such as softmax of logits")


def without_labels(scores: Floats, labels: NDArray[Any]) -> Floats:
    """NaN in place of the scores of samples without a label."""
    if labels.ndim == 1:
        scores[labels < 0] = np.nan
    return scores


@cpu_threads(1)
def self_confidence(probabilities: Any, labels: NDArray[Any]) -> Floats:
    """1 - p of what was given: ``1 - p_y``, or ``|p_c - y_c|`` for each class. From 0 to 1.

    >>> self_confidence(np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]), np.array([0, 2])).round(2)
    array([0.3, 0.9], dtype=float32)
    """
    labels = np.asarray(labels)
    scores = np.empty(labels.shape, dtype=np.float32)
    for rows, p, y in chunks(probabilities, labels):
        scores[rows] = (1 - p.gather(1, y[:, None]).squeeze(1) if y.ndim == 1 else (p - y).abs()).numpy()
    return without_labels(scores, labels)


@cpu_threads(1)
def normalised_margin(probabilities: Any, labels: NDArray[Any]) -> Floats:
    """How far the most probable other class is ahead: ``(1 + max_{c != y} p_c - p_y) / 2``. From 0 to 1.

    Of one class among two, present or absent, this is ``|p_c - y_c|``.

    >>> normalised_margin(np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]), np.array([0, 2])).round(2)
    array([0.25, 0.8 ], dtype=float32)
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return self_confidence(probabilities, labels)
    scores = np.empty(labels.shape, dtype=np.float32)
    for rows, p, y in chunks(probabilities, labels):
        given = p.gather(1, y[:, None]).squeeze(1)
        others = p.scatter(1, y[:, None], -1.0).amax(1).clamp(min=0)
        scores[rows] = ((1 + others - given) / 2).numpy()
    return without_labels(scores, labels)


@cpu_threads(1)
def disagreement(noise_robust: Any, imbalance_robust: Any, labels: NDArray[Any]) -> Floats:
    """How little two auxiliary classifiers together make of the given label: ``1 - g_y``, g ~ sqrt(p p').

    g is the normalised geometric mean of their probabilities, the kernel of D-SINK before its class totals are met: a
    label is kept only by a class that neither rules out. From 0 to 1.

    Args:
        noise_robust: ``(N, C)`` probabilities of D-SINK's first auxiliary.
        imbalance_robust: ``(N, C)`` of the second.
        labels: ``(N,)``.

    >>> disagreement(np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]]), np.array([1])).round(2)
    array([0.75], dtype=float32)
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        raise ValueError("the disagreement of two auxiliaries is of one label per sample: choose another score")
    if tuple(noise_robust.shape) != tuple(imbalance_robust.shape):
        raise ValueError(
            f"the auxiliaries' probabilities are {tuple(noise_robust.shape)} and {tuple(imbalance_robust.shape)}: "
            "give both for the same samples and classes"
        )
    scores = np.empty(labels.shape, dtype=np.float32)
    both = zip(chunks(noise_robust, labels), chunks(imbalance_robust, labels), strict=True)
    for (rows, p, y), (_, other, _) in both:
        tiny = torch.finfo(torch.float32).tiny
        log_mean = (p.clamp(min=tiny).log() + other.clamp(min=tiny).log()) / 2
        scores[rows] = 1 - log_mean.softmax(1).gather(1, y[:, None]).squeeze(1).numpy()
    return without_labels(scores, labels)


@cpu_threads(1)
def loss_of_labels(probabilities: Any, labels: NDArray[Any]) -> Floats:
    """Negative log-likelihood of what was given: ``-log p_y``, or ``-log(1 - |p_c - y_c|)`` for each class.

    The mean of this over the epochs of one training run is the score "loss-trajectory": a network learns right labels
    early and wrong ones late, if at all.

    >>> loss_of_labels(np.array([[0.25, 0.75]]), np.array([0])).round(3)
    array([1.386], dtype=float32)
    """
    tiny = torch.finfo(torch.float32).tiny
    labels = np.asarray(labels)
    scores = np.empty(labels.shape, dtype=np.float32)
    for rows, p, y in chunks(probabilities, labels):
        given = p.gather(1, y[:, None]).squeeze(1) if y.ndim == 1 else torch.where(y == 1, p, 1 - p)
        scores[rows] = -given.clamp(min=tiny).log().numpy()
    return without_labels(scores, labels)
