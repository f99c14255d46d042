"""Classes that training does not know: their samples are dropped, or keep their images and lose their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from catchment.disturb.cifar100 import SUPERCLASSES
from catchment.disturb.disturbed import (
    Disturbed,
    Labels,
    check_classes,
    check_distinct,
    check_labels,
    check_rng,
    check_whole_number,
    disturbed,
)
from catchment.loss_conventions import UNKNOWN_CLASS

# The split of the CIFAR60+40 paper was never released. Ours: in each superclass the first three fine classes of the
# alphabet are known, the last two are not.
CIFAR60_KNOWN: tuple[int, ...] = tuple(sorted(fine for group in SUPERCLASSES.values() for fine in group[:3]))
CIFAR40_UNLABELLED: tuple[int, ...] = tuple(sorted(fine for group in SUPERCLASSES.values() for fine in group[3:]))


def random_classes(num_classes: int, count: int, rng: np.random.Generator) -> list[int]:
    r"""Draw some of the classes, uniformly and without replacement.

    Args:
        num_classes: C, at least 1.
        count: how many, from 0 to C.
        rng: where the draw comes from.

    Returns:
        ``count`` different classes from 0 to C - 1, ascending.

    Raises:
        ValueError: for numbers that are not whole or out of range, no generator.

    >>> drawn = random_classes(10, 4, np.random.default_rng(0))
    >>> len(drawn), drawn == sorted(set(drawn))
    (4, True)
    """
    num_classes = check_whole_number(num_classes, "num_classes", at_least=1)
    count = check_whole_number(count, "count", at_least=0)
    if count > num_classes:
        raise ValueError(f"count is {count}, but there are {num_classes} classes: give {num_classes} or less")
    check_rng(rng)
    return sorted(rng.choice(num_classes, size=count, replace=False).tolist())


def remove_classes(labels: ArrayLike, classes: Sequence[int], *, num_classes: int | None = None) -> Disturbed:
    r"""Drop every sample of some classes, as open-set recognition does with its training data.

    .. math:: \mathrm{index} = \{i : y_i \notin \mathrm{classes}\}

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 are kept.
        classes: the classes that vanish.
        num_classes: C; the largest label + 1 if not given.

    Returns:
        The labels of the samples kept, in the original numbering (:func:`renumber` closes the gaps), where those
        samples were, and their record, with ``classes`` (ascending), ``samples_before`` and ``samples_after`` in it;
        ``rate_asked`` is None, and no label changes.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a list of classes that is empty, repeats a
            class or names one outside 0..C-1.

    >>> kept = remove_classes([0, 2, 1, 0, 2], [2])
    >>> kept.labels.tolist(), kept.index.tolist(), kept.record["samples_after"]
    ([0, 1, 0], [0, 2, 3], 3)
    """
    before, known, removed = _check(labels, classes, num_classes)
    index = np.flatnonzero(~np.isin(before, removed))
    return disturbed(
        before[index],
        before[index],
        known,
        kind="remove",
        rate_asked=None,
        index=index,
        classes=removed,
        samples_before=len(before),
        samples_after=len(index),
    )


def unlabel_classes(labels: ArrayLike, classes: Sequence[int], *, num_classes: int | None = None) -> Disturbed:
    r"""Take the label off every sample of some classes: it becomes -1, "none of the classes".

    .. math:: \tilde y_i = -1 \;\text{if}\; y_i \in \mathrm{classes}, \qquad \tilde y_i = y_i \;\text{otherwise}

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and are not counted.
        classes: the classes whose samples lose their label.
        num_classes: C; the largest label + 1 if not given.

    Returns:
        The labels in the original numbering (:func:`renumber` closes the gaps) and their record, with ``classes``
        (ascending) and ``samples_unlabelled`` in it; ``rate_asked`` is None, ``rate_realised`` the share of samples
        that lost their label. They are in no column of ``transition_counts``.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a list of classes that is empty, repeats a
            class or names one outside 0..C-1.

    >>> unlabelled = unlabel_classes([0, 2, 1, 0, 2], [2])
    >>> unlabelled.labels.tolist(), unlabelled.record["rate_realised"]
    ([0, -1, 1, 0, -1], 0.4)
    """
    before, known, unlabelled = _check(labels, classes, num_classes)
    return _unlabel(before, unlabelled, known, kind="unlabel")


def cifar60_40(labels: ArrayLike) -> Disturbed:
    r"""Take the labels off 40 of CIFAR-100's classes, two in each superclass: the CIFAR60+40 protocol.

    All images stay, in the training part and in the test part. Which two lose their labels was never published; here
    it is the last two of each superclass's five in the alphabet, :data:`CIFAR40_UNLABELLED`, and the other 60 are
    :data:`CIFAR60_KNOWN`.

    Args:
        labels: CIFAR-100's fine labels ``(N,)``, from 0 to 99, in their usual, alphabetical numbering.

    Returns:
        The labels, -1 where there is none, otherwise in the original numbering:
        ``renumber(labels, CIFAR60_KNOWN)`` makes them 0 to 59. The record is that of :func:`unlabel_classes`, with
        ``kind`` "cifar60+40" and the 60 classes as ``known``.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range.

    Paper: Quasibinary Classifier for Images with Zero and Multiple Labels (ICPR 2020).

    >>> fine = np.repeat(np.arange(100), 500)
    >>> split = cifar60_40(fine)
    >>> int((split.labels == -1).sum()), int(renumber(split.labels, CIFAR60_KNOWN).max())
    (20000, 59)
    """
    before, known = check_labels(labels, 100, at_least=1)
    return _unlabel(before, list(CIFAR40_UNLABELLED), known, kind="cifar60+40", known=list(CIFAR60_KNOWN))


def renumber(labels: ArrayLike, classes: Sequence[int]) -> Labels:
    r"""Number some classes anew, 0, 1, 2, .. in the order given; every other class becomes -1.

    Args:
        labels: integers ``(N,)``; -1 and -100 stay.
        classes: the classes to keep; the first becomes 0.

    Returns:
        The new labels, int64 ``(N,)``.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a list of classes that is empty, repeats a
            class or holds something else than classes.

    >>> renumber([3, 5, -1, 3, 4, -100], [3, 5]).tolist()
    [0, 1, -1, 0, -1, -100]
    """
    before, in_labels = check_labels(labels, None, at_least=1)
    # Any class will do, also one that no sample has: the test part may hold it.
    kept = check_classes(classes, "classes", None, inferred=False)
    check_distinct(kept, "classes")
    num_classes = max(in_labels, max(kept) + 1)
    position = np.full(num_classes, UNKNOWN_CLASS, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    after = before.copy()
    after[before >= 0] = position[before[before >= 0]]
    return after


def _check(labels: ArrayLike, classes: Sequence[int], num_classes: int | None) -> tuple[Labels, int, list[int]]:
    before, known = check_labels(labels, num_classes, at_least=1)
    named = check_classes(classes, "classes", known, inferred=num_classes is None)
    check_distinct(named, "classes")
    return before, known, sorted(named)


def _unlabel(before: Labels, classes: list[int], num_classes: int, *, kind: str, **details: Any) -> Disturbed:
    lost = np.isin(before, classes)
    return disturbed(
        before,
        np.where(lost, UNKNOWN_CLASS, before),
        num_classes,
        kind=kind,
        rate_asked=None,
        classes=classes,
        samples_unlabelled=int(np.count_nonzero(lost)),
        **details,
    )
