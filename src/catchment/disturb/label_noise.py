"""Label noise with exact counts, drawn from the original labels, and a record of what was really done.

Labels are integers from 0 to C - 1. -1 (none of the classes) and -100 (left out) stay as they are and are counted
nowhere. Every function takes a :class:`numpy.random.Generator` and never changes its input. Counts are rounded to the
nearest whole number, halves to the even one, as :func:`round` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catchment.loss_conventions import IGNORE_INDEX, UNKNOWN_CLASS

Labels: TypeAlias = NDArray[np.int64]

MAPPINGS: dict[str, dict[int, int]] = {
    # 7 -> 1, 2 -> 7, 5 <-> 6, 3 -> 8, as the digits look; scikit-learn's digits are the same ten classes.
    "mnist": {7: 1, 2: 7, 5: 6, 6: 5, 3: 8},
    # truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse.
    "cifar10": {9: 1, 2: 0, 3: 5, 5: 3, 4: 7},
}

_UNCOUNTED_LABELS = (UNKNOWN_CLASS, IGNORE_INDEX)


@dataclass(frozen=True, eq=False)
class Disturbed:
    """What came of disturbing labels.

    Args:
        labels: the labels afterwards, int64 ``(n_kept,)``.
        index: where each of them was in the original, int64 ``(n_kept,)``; label noise keeps all, in order.
        changed: which of them differ from the original, bool ``(n_kept,)``.
        record: what was asked and what was done, fit for JSON: ``kind``, ``rate_asked``, ``rate_realised`` (the share
            of counted labels that changed), ``num_classes``, ``transition_counts`` (C lists of C integers, row = class
            before, column = class after), and what belongs to the kind.
    """

    labels: Labels
    index: NDArray[np.int64]
    changed: NDArray[np.bool_]
    record: dict[str, Any]


def symmetric_noise(
    labels: ArrayLike, rate: float, num_classes: int, rng: np.random.Generator, *, include_own: bool = False
) -> Disturbed:
    r"""Move labels to classes drawn uniformly.

    Without ``include_own``, exactly :math:`\mathrm{round}(\eta N)` samples, drawn without replacement, each move to one
    of the other classes; with it, each sample by itself draws, with probability :math:`\eta`, one of all C classes, so
    that a share of about :math:`\eta (1 - 1/C)` changes:

    .. math::
        P(\tilde y = c' \mid y = c) = \frac{\eta}{C - 1} \;(c' \ne c) \qquad\text{or}\qquad
        P(\tilde y = c' \mid y = c) = \frac{\eta}{C} + (1 - \eta) [c' = c]

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and do not count into N.
        rate: :math:`\eta`, from 0 to 1.
        num_classes: C, at least 2.
        rng: where the draws come from.
        include_own: whether a label may be drawn anew as itself.

    Returns:
        The noisy labels and their record, with ``include_own`` in it.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a rate out of range, fewer than two classes,
            no generator.

    >>> clean = np.repeat(np.arange(4), 25)
    >>> noisy = symmetric_noise(clean, 0.4, 4, np.random.default_rng(0))
    >>> int((noisy.labels != clean).sum()), noisy.record["rate_realised"]
    (40, 0.4)
    """
    before, num_classes = _check_labels(labels, num_classes, at_least=2)
    rate = _check_rate(rate)
    _check_rng(rng)
    after = before.copy()
    counted = np.flatnonzero(before >= 0)
    if include_own:
        moved = counted[rng.random(len(counted)) < rate]
        after[moved] = rng.integers(num_classes, size=len(moved))
    else:
        moved = rng.choice(counted, size=round(rate * len(counted)), replace=False)
        other = rng.integers(num_classes - 1, size=len(moved))
        # C - 1 values, with a gap opened at the sample's own class: uniform over the others.
        after[moved] = other + (other >= before[moved])
    return _disturbed(before, after, num_classes, kind="symmetric", rate_asked=rate, include_own=bool(include_own))


def asymmetric_noise(
    labels: ArrayLike,
    rate: float,
    mapping: Mapping[int, int] | str,
    rng: np.random.Generator,
    *,
    num_classes: int | None = None,
) -> Disturbed:
    r"""Move a share of some classes to the class that each is mistaken for.

    Of the :math:`n_c` samples of each mapped class c, exactly :math:`\mathrm{round}(\eta n_c)`, drawn without
    replacement, get the label ``mapping[c]``. All are drawn from the original labels, so none moves twice.

    .. math:: P(\tilde y = m(c) \mid y = c) = \eta, \qquad P(\tilde y = c \mid y = c) = 1 - \eta

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and are not counted.
        rate: :math:`\eta`, from 0 to 1, of each mapped class; classes that are not mapped stay clean.
        mapping: ``{class: the class it turns into}``, or a name in :data:`MAPPINGS`: ``"mnist"`` or ``"cifar10"``.
        rng: where the draws come from.
        num_classes: C; the largest label + 1 if not given.

    Returns:
        The noisy labels and their record, with ``mapping`` (its keys as text, as JSON has them) and
        ``rate_realised_of_mapped``, the share of the mapped classes' samples that changed, in it.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a rate out of range, a mapping that is
            unknown, empty, names a class outside 0..C-1 or maps one to itself, no generator.

    >>> clean = np.repeat(np.arange(3), 10)
    >>> noisy = asymmetric_noise(clean, 0.4, {0: 1, 1: 0}, np.random.default_rng(0))
    >>> noisy.record["transition_counts"]
    [[6, 4, 0], [4, 6, 0], [0, 0, 10]]
    >>> round(noisy.record["rate_realised"], 4), noisy.record["rate_realised_of_mapped"]
    (0.2667, 0.4)
    """
    if isinstance(mapping, str):
        if mapping not in MAPPINGS:
            raise ValueError(f"mapping is {mapping!r}: give one of {', '.join(MAPPINGS)}, or a dict of classes")
        mapping = MAPPINGS[mapping]
    elif not isinstance(mapping, Mapping) or not mapping:
        raise ValueError(f"mapping is {mapping!r}: give a dict with at least one class, such as {{7: 1}}, or a name")
    before, classes_known = _check_labels(labels, num_classes, at_least=1)
    _check_classes([*mapping.keys(), *mapping.values()], "mapping", classes_known, inferred=num_classes is None)
    target_of = {int(source): int(target) for source, target in mapping.items()}
    for source, target in target_of.items():
        if source == target:
            raise ValueError(f"mapping sends class {source} to itself: leave it out, or give another class")
    rate = _check_rate(rate)
    _check_rng(rng)
    after = _move_exact_counts(before, rate, target_of, classes_known, rng)
    changed = int(np.count_nonzero(after != before))
    samples_per_class = np.bincount(before[before >= 0], minlength=classes_known)
    return _disturbed(
        before,
        after,
        classes_known,
        kind="asymmetric",
        rate_asked=rate,
        mapping={str(source): target for source, target in target_of.items()},
        rate_realised_of_mapped=_share(changed, int(samples_per_class[list(target_of)].sum())),
    )


def pair_flip_noise(labels: ArrayLike, rate: float, num_classes: int, rng: np.random.Generator) -> Disturbed:
    r"""Move a share of every class to the class after it.

    Of the :math:`n_c` samples of each class c, exactly :math:`\mathrm{round}(\eta n_c)`, drawn without replacement,
    get the label :math:`(c + 1) \bmod C`.

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and are not counted.
        rate: :math:`\eta`, from 0 to 1.
        num_classes: C, at least 2.
        rng: where the draws come from.

    Returns:
        The noisy labels and their record.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a rate out of range, fewer than two classes,
            no generator.

    >>> noisy = pair_flip_noise(np.repeat(np.arange(3), 10), 0.3, 3, np.random.default_rng(0))
    >>> noisy.record["transition_counts"]
    [[7, 3, 0], [0, 7, 3], [3, 0, 7]]
    """
    before, num_classes = _check_labels(labels, num_classes, at_least=2)
    rate = _check_rate(rate)
    _check_rng(rng)
    target_of = {c: (c + 1) % num_classes for c in range(num_classes)}
    after = _move_exact_counts(before, rate, target_of, num_classes, rng)
    return _disturbed(before, after, num_classes, kind="pair-flip", rate_asked=rate)


def relabel_classes(
    labels: ArrayLike,
    classes: Sequence[int],
    into: Sequence[int],
    rng: np.random.Generator,
    *,
    num_classes: int | None = None,
) -> Disturbed:
    r"""Give every sample of some classes a label drawn uniformly from other classes, as if theirs did not exist.

    .. math::
        P(\tilde y = c' \mid y = c) = \frac{1}{|\mathrm{into}|}, \qquad
        c \in \mathrm{classes},\ c' \in \mathrm{into}

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and are not counted.
        classes: the classes that vanish.
        into: the classes that their samples are given; none of ``classes``.
        rng: where the draws come from.
        num_classes: C; the largest label + 1 if not given.

    Returns:
        The noisy labels and their record, with ``classes`` and ``into`` in it; ``rate_asked`` is 1.0, a rate of the
        relabelled classes.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, lists of classes that are empty, overlap,
            repeat a class or name one outside 0..C-1, no generator.

    >>> clean = np.repeat(np.arange(10), 10)
    >>> noisy = relabel_classes(clean, [7, 8, 9], range(7), np.random.default_rng(0))
    >>> int(noisy.labels.max()), noisy.record["rate_realised"]
    (6, 0.3)
    """
    before, classes_known = _check_labels(labels, num_classes, at_least=1)
    relabelled = _check_classes(classes, "classes", classes_known, inferred=num_classes is None)
    targets = _check_classes(into, "into", classes_known, inferred=num_classes is None)
    for named, name in ((relabelled, "classes"), (targets, "into")):
        if not named:
            raise ValueError(f"{name} is empty: name at least one class")
        repeated = [c for c in named if named.count(c) > 1]
        if repeated:
            raise ValueError(f"{name} holds class {repeated[0]} twice: name each class once")
    shared = [c for c in relabelled if c in targets]
    if shared:
        raise ValueError(f"class {shared[0]} is in both classes and into: take it out of one of them")
    _check_rng(rng)
    after = before.copy()
    moved = np.flatnonzero(np.isin(before, relabelled))
    after[moved] = rng.choice(np.array(targets, dtype=np.int64), size=len(moved))
    return _disturbed(before, after, classes_known, kind="relabel", rate_asked=1.0, classes=relabelled, into=targets)


def _move_exact_counts(
    before: Labels, rate: float, target_of: Mapping[int, int], num_classes: int, rng: np.random.Generator
) -> Labels:
    """A copy of ``before`` in which ``round(rate * n_c)`` samples of each class c in ``target_of`` have moved."""
    after = before.copy()
    by_class = np.argsort(before, kind="stable")
    start = np.searchsorted(before[by_class], np.arange(num_classes + 1))
    # In the order of classes, so that the draws do not depend on the order in which a mapping was written.
    for source in sorted(target_of):
        members = by_class[start[source] : start[source + 1]]
        moved = rng.choice(members, size=round(rate * len(members)), replace=False)
        after[moved] = target_of[source]
    return after


def _disturbed(
    before: Labels, after: Labels, num_classes: int, *, kind: str, rate_asked: float, **details: Any
) -> Disturbed:
    changed = after != before
    counted = before >= 0
    pairs = before[counted] * num_classes + after[counted]
    transition_counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    record = {
        "kind": kind,
        "rate_asked": rate_asked,
        "rate_realised": _share(int(np.count_nonzero(changed)), int(np.count_nonzero(counted))),
        "num_classes": num_classes,
        "transition_counts": transition_counts.tolist(),
        **details,
    }
    return Disturbed(labels=after, index=np.arange(len(after)), changed=changed, record=record)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _check_labels(labels: ArrayLike, num_classes: object, *, at_least: int) -> tuple[Labels, int]:
    """The labels as int64, and C: ``num_classes`` or the largest label + 1."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels have shape {array.shape}: give one class index per sample, shape (N,)")
    if array.dtype.kind not in "iu" and len(array) > 0:
        raise ValueError(f"labels are of type {array.dtype}: give integers")
    largest = int(array.max()) if len(array) else -1
    if num_classes is None:
        num_classes = max(largest + 1, 0)
    elif isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < at_least:
        raise ValueError(f"num_classes is {num_classes}: give a whole number, {at_least} or more")
    elif largest >= num_classes:
        raise ValueError(f"labels hold class {largest}, but num_classes is {num_classes}: give {largest + 1} or more")
    before = array.astype(np.int64)
    unexpected = before[(before < 0) & ~np.isin(before, _UNCOUNTED_LABELS)]
    if len(unexpected):
        raise ValueError(f"labels hold {unexpected[0]}: give -1 for none of the classes, -100 for a label to leave out")
    return before, int(num_classes)


def _check_classes(classes: object, name: str, num_classes: int, *, inferred: bool) -> list[int]:
    if not isinstance(classes, Iterable):
        raise ValueError(f"{name} is {classes!r}: give a list of classes, such as [7, 8, 9]")
    named = list(classes)
    remedy = "give num_classes, or leave it out" if inferred else f"give classes from 0 to {num_classes - 1}"
    for c in named:
        if isinstance(c, bool) or not isinstance(c, int | np.integer):
            raise ValueError(f"{name} names class {c!r}: give classes as integers")
        if not 0 <= c < num_classes:
            raise ValueError(f"{name} names class {c}, but there are {num_classes} classes: {remedy}")
    return [int(c) for c in named]


def _check_rate(rate: object) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating) or not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}: give a number from 0 to 1")
    return float(rate)


def _check_rng(rng: object) -> None:
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng is {rng!r}: give a numpy.random.Generator, such as numpy.random.default_rng(1)")
