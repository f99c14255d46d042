"""Long tails: classes are made rare by dropping samples.

Noise, if any, comes after: the tail is cut by the true class, and what is left is relabelled, as if rare classes had
been rare before anybody looked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catchment.disturb.disturbed import Disturbed, check_labels, check_rng, disturbed

# A product such as 4900 * (1 / 49) may fall short of its whole number by some last digits.
_SLACK = 1 + 1e-12


def long_tail(labels: ArrayLike, imbalance_ratio: float, num_classes: int, rng: np.random.Generator) -> Disturbed:
    r"""Keep exponentially fewer samples from class to class.

    .. math:: n_c = \left\lfloor n_0 \, \rho^{-c / (C - 1)} \right\rfloor, \qquad c = 0, \dots, C - 1

    with the imbalance ratio :math:`\rho`. Class 0 is the head. :math:`n_0` is the largest number with which no class
    runs out of samples: all of class 0 where the classes are equally large. Which samples stay is drawn uniformly;
    with the same generator, those that stay under a higher ratio are among those of a lower one (where :math:`n_0` is
    the same). They stay in their order.

    Args:
        labels: the true classes, integers ``(N,)`` below ``num_classes``, each at least once; -1 and -100 are kept.
        imbalance_ratio: :math:`\rho`, largest class over smallest, 1 or more.
        num_classes: C, at least 2.
        rng: where the draws come from.

    Returns:
        The labels kept, where they were, and their record, with ``imbalance_ratio_asked``,
        ``imbalance_ratio_realised``, ``class_counts``, ``samples_before`` and ``samples_after`` in it; ``rate_asked``
        is None, and no label changes.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a ratio below 1 or so high that a class would
            have no samples, a class without samples, fewer than two classes, no generator.

    Paper: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss (NeurIPS 2019).

    >>> tail = long_tail(np.repeat(np.arange(10), 5000), 100, 10, np.random.default_rng(0))
    >>> tail.record["class_counts"]
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    >>> len(tail.labels)
    12406
    """
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    ratio = _check_ratio(imbalance_ratio)
    # The reciprocal first, as in the published counts: 1 / ratio is the "imbalance factor".
    profile = (1 / ratio) ** (np.arange(num_classes) / (num_classes - 1))
    return _keep(before, profile, ratio, rng, kind="long-tail")


def step_imbalance(labels: ArrayLike, imbalance_ratio: float, num_classes: int, rng: np.random.Generator) -> Disturbed:
    r"""Keep all samples of the first half of the classes and a small share of the others.

    .. math::
        n_c = n_0 \;\text{for}\; c < \lfloor C / 2 \rfloor, \qquad
        n_c = \left\lfloor n_0 / \rho \right\rfloor \;\text{otherwise}

    with the imbalance ratio :math:`\rho`; of an odd number of classes, the greater part is made rare. :math:`n_0` is
    the largest number with which no class runs out of samples.

    Args:
        labels: the true classes, integers ``(N,)`` below ``num_classes``, each at least once; -1 and -100 are kept.
        imbalance_ratio: :math:`\rho`, largest class over smallest, 1 or more.
        num_classes: C, at least 2.
        rng: where the draws come from.

    Returns:
        As of :func:`long_tail`.

    Raises:
        ValueError: as :func:`long_tail`.

    Paper: A systematic study of the class imbalance problem in convolutional neural networks (Neural Networks 2018).

    >>> step = step_imbalance(np.repeat(np.arange(4), 50), 10, 4, np.random.default_rng(0))
    >>> step.record["class_counts"]
    [50, 50, 5, 5]
    """
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    ratio = _check_ratio(imbalance_ratio)
    profile = np.where(np.arange(num_classes) < num_classes // 2, 1.0, 1 / ratio)
    return _keep(before, profile, ratio, rng, kind="step-imbalance")


def _keep(
    before: NDArray[np.int64], profile: NDArray[np.float64], ratio: float, rng: np.random.Generator, *, kind: str
) -> Disturbed:
    """Keep of each class its share of the largest one, as ``profile`` (1 for the largest) says."""
    check_rng(rng)
    num_classes = len(profile)
    available = np.bincount(before[before >= 0], minlength=num_classes)
    missing = np.flatnonzero(available == 0)
    if len(missing):
        raise ValueError(f"class {missing[0]} has no samples: give labels with every class, or number them anew")
    largest = np.min(available / profile)
    counts = np.minimum(np.floor(largest * profile * _SLACK).astype(np.int64), available)
    if counts.min() == 0:
        raise ValueError(
            f"imbalance_ratio is {ratio:g}, which leaves class {np.argmin(counts)} without samples: "
            f"give {int(largest)} or less"
        )
    kept = before < 0
    for c in range(num_classes):
        # A whole permutation whatever the count, so that a higher ratio keeps some of what a lower one keeps.
        kept[rng.permutation(np.flatnonzero(before == c))[: counts[c]]] = True
    index = np.flatnonzero(kept)
    return disturbed(
        before[index],
        before[index],
        num_classes,
        kind=kind,
        rate_asked=None,
        index=index,
        imbalance_ratio_asked=ratio,
        imbalance_ratio_realised=float(counts.max() / counts.min()),
        class_counts=counts.tolist(),
        samples_before=len(before),
        samples_after=len(index),
    )


def _check_ratio(ratio: object) -> float:
    if (
        isinstance(ratio, bool | np.bool_)
        or not isinstance(ratio, int | float | np.integer | np.floating)
        or not 1 <= ratio < np.inf
    ):
        raise ValueError(
            f"imbalance_ratio is {ratio}: give the largest class over the smallest, 1 or more, such as 100"
        )
    return float(ratio)
