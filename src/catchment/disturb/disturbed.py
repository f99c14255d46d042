"""What every disturbance returns, and the checks that all of them make.

Labels are integers from 0 to C - 1; -1 (none of the classes) and -100 (left out) stay as they are and are counted
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catchment.loss_conventions import IGNORE_INDEX, UNKNOWN_CLASS

Labels: TypeAlias = NDArray[np.int64]

UNCOUNTED_LABELS = (UNKNOWN_CLASS, IGNORE_INDEX)


@dataclass(frozen=True, eq=False)
class Disturbed:
    """What came of disturbing labels.

    Args:
        labels: the labels afterwards, int64 ``(n_kept,)``.
        index: where each of them was in the original, int64 ``(n_kept,)``, ascending; label noise keeps all.
        changed: which of the kept samples differ from the original, bool ``(n_kept,)``: in their label, or, under
            open-set noise, in their image.
        record: what was asked and what was done, fit for JSON: ``kind``, ``rate_asked`` (None where no rate is asked
            for), ``rate_realised`` (the share of the kept samples with a class that changed), ``num_classes``,
            ``transition_counts`` (C lists of C integers, row = class before, column = class after), and what belongs
            to the kind.
    """

    labels: Labels
    index: NDArray[np.int64]
    changed: NDArray[np.bool_]
    record: dict[str, Any]


def disturbed(
    before: Labels,
    after: Labels,
    num_classes: int,
    *,
    kind: str,
    rate_asked: float | None,
    index: NDArray[np.int64] | None = None,
    changed: NDArray[np.bool_] | None = None,
    **details: Any,
) -> Disturbed:
    """The result and its record, from the labels of the kept samples before and after.

    ``index`` says where the kept samples were; without it, all were kept. ``changed`` is where labels differ unless
    given. Only samples that had a class before count
    into ``rate_realised``, and only those that have one afterwards too into ``transition_counts``.
    """
    if changed is None:
        changed = after != before
    counted = before >= 0
    has_column = counted & (after >= 0)
    pairs = before[has_column] * num_classes + after[has_column]
    transition_counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    record = {
        "kind": kind,
        "rate_asked": rate_asked,
        "rate_realised": share(int(np.count_nonzero(changed & counted)), int(np.count_nonzero(counted))),
        "num_classes": num_classes,
        "transition_counts": transition_counts.tolist(),
        **details,
    }
    if index is None:
        index = np.arange(len(after))
    return Disturbed(labels=after, index=index, changed=changed, record=record)


def share(part: int, whole: int) -> float:
    """``part / whole``, and 0 of nothing."""
    return part / whole if whole else 0.0


def check_labels(
    labels: ArrayLike, num_classes: int | None, *, at_least: int, name: str = "labels"
) -> tuple[Labels, int]:
    """The labels as int64, and C: ``num_classes`` or the largest label + 1."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"{name} have shape {array.shape}: give one class index per sample, shape (N,)")
    if array.dtype.kind not in "iu" and len(array) > 0:
        raise ValueError(f"{name} are of type {array.dtype}: give integers")
    largest = int(array.max()) if len(array) else -1
    if num_classes is None:
        num_classes = max(largest + 1, 0)
    else:
        num_classes = check_whole_number(num_classes, "num_classes", at_least=at_least)
        if largest >= num_classes:
            raise ValueError(
                f"{name} hold class {largest}, but num_classes is {num_classes}: give {largest + 1} or more"
            )
    before = array.astype(np.int64)
    unexpected = before[(before < 0) & ~np.isin(before, UNCOUNTED_LABELS)]
    if len(unexpected):
        raise ValueError(f"{name} hold {unexpected[0]}: give -1 for none of the classes, -100 for a label to leave out")
    return before, num_classes


def check_classes(classes: object, name: str, num_classes: int | None, *, inferred: bool) -> list[int]:
    """The classes as a list.

    ``num_classes`` None lets any class from 0 on pass; ``inferred`` says that it was read off the labels, which changes
    the remedy.
    """
    if not isinstance(classes, Iterable):
        raise ValueError(f"{name} is {classes!r}: give a list of classes, such as [7, 8, 9]")
    named = list(classes)
    for c in named:
        if isinstance(c, bool) or not isinstance(c, int | np.integer):
            raise ValueError(f"{name} names class {c!r}: give classes as integers")
        if num_classes is None:
            if c < 0:
                raise ValueError(f"{name} names class {c}: give classes from 0 on")
        elif not 0 <= c < num_classes:
            remedy = "give num_classes, or leave it out" if inferred else f"give classes from 0 to {num_classes - 1}"
            raise ValueError(f"{name} names class {c}, but there are {num_classes} classes: {remedy}")
    return [int(c) for c in named]


def check_rate(rate: object) -> float:
    """The rate as a float from 0 to 1."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating) or not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}: give a number from 0 to 1")
    return float(rate)


def check_distinct(named: list[int], name: str) -> None:
    """Raise a ValueError where no class is named, or one twice."""
    if not named:
        raise ValueError(f"{name} is empty: name at least one class")
    repeated = [c for c in named if named.count(c) > 1]
    if repeated:
        raise ValueError(f"{name} holds class {repeated[0]} twice: name each class once")


def check_whole_number(value: object, name: str, *, at_least: int) -> int:
    """The value as an int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"{name} is {value}: give a whole number, {at_least} or more")
    return int(value)


def check_rng(rng: object) -> None:
    """Raise a ValueError unless ``rng`` is a numpy.random.Generator."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng is {rng!r}: give a numpy.random.Generator, such as numpy.random.default_rng(1)")
