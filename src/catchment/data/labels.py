"""From labels as they are written to class names and positions, and the checks on both."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import IGNORE_INDEX, UNKNOWN_CLASS, Dataset, Splits

HELD_OUT = 0.2
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names in order: by value where all are numbers, as text otherwise.

    Example:
        >>> sort_names(["10", "2", "1", "2"])
        ('1', '2', '10')
        >>> sort_names(["10", "2", "none"])
        ('10', '2', 'none')
    """
    distinct = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in distinct):
        distinct.sort(key=float)
    return tuple(distinct)


def encode(values: NDArray[np.str_], class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Positions ``(N,)`` of the values in the class names; -1 for those that aren't among them."""
    position = {name: index for index, name in enumerate(class_names)}
    distinct, inverse = np.unique(values, return_inverse=True)
    # Programs that hold missing numbers as NaN write the label 1 as 1.0 where another row has none.
    codes = [position.get(value, position.get(value.removesuffix(".0"), UNKNOWN_CLASS)) for value in distinct.tolist()]
    return np.array(codes, dtype=np.int64)[inverse]


def note_unseen(values: NDArray[np.str_], class_names: tuple[str, ...]) -> tuple[str, ...]:
    """A note on the labels that are not among the class names; nothing where all are."""
    unseen = values[encode(values, class_names) == UNKNOWN_CLASS]
    if not unseen.size:
        return ()
    rows = "1 row has a label" if unseen.size == 1 else f"{unseen.size} rows have labels"
    return (f"{rows} not seen in training ({shorten(sort_names(unseen.tolist()))}): read as none of the classes",)


def shorten(names: Iterable[str], most: int = 10) -> str:
    """The names in quotes, the first few of them."""
    names = list(names)
    listed = ", ".join(repr(str(name)) for name in names[:most])
    return listed if len(names) <= most else f"{listed}, ... ({len(names)} in all)"


def check_classes(dataset: Dataset, remedy: str) -> None:
    """Refuses labels that no classifier can be trained on.

    Raises:
        ValueError: fewer than two classes, as many classes as samples, or more than 20 classes of less than two
            samples each on average.
    """
    known = dataset.labels[dataset.labels >= 0]
    classes = np.unique(known)
    if classes.size == 0:
        raise ValueError(f"{dataset.name}: no row has a known class: give labels of at least two classes")
    if classes.size == 1:
        name = dataset.class_names[classes[0]]
        raise ValueError(f"{dataset.name}: there is only one class, {name!r}: give samples of at least two")
    if classes.size >= known.size or (classes.size > 20 and classes.size > known.size / 2):
        raise ValueError(f"{dataset.name}: {classes.size} classes for {known.size} samples: {remedy}")


def hold_out(dataset: Dataset, seed: int) -> Splits:
    """Holds out 20 % of each class as the test part; of multi-label data, 20 % of all rows.

    Rows that are left out of the loss (-100) stay in training, and so does a single row of no known class.

    Raises:
        ValueError: a class has one sample only, or there are too few samples for each class to be in the test part.
    """
    from sklearn.model_selection import train_test_split

    labels = dataset.labels
    if dataset.is_multi_label:
        train, test = train_test_split(np.arange(len(dataset)), test_size=HELD_OUT, random_state=seed)
        return Splits(dataset.select(np.sort(train)), dataset.select(np.sort(test)))
    strata, counts = np.unique(labels[labels != IGNORE_INDEX], return_counts=True)
    single = strata[(counts == 1) & (strata >= 0)]
    if single.size:
        names = shorten(dataset.class_names[code] for code in single)
        what = f"class {names} has" if single.size == 1 else f"classes {names} have"
        raise ValueError(
            f"{dataset.name}: {what} one sample only, so 20 % can't be held out: "
            "name a test set with --test, or give more samples"
        )
    stay = (labels == IGNORE_INDEX) | np.isin(labels, strata[counts == 1])
    candidates = np.flatnonzero(~stay)
    groups = int((counts > 1).sum())
    if math.ceil(HELD_OUT * candidates.size) < groups:
        raise ValueError(
            f"{dataset.name}: {candidates.size} samples are too few to hold out 20 % with all {groups} classes: "
            "name a test set with --test, or give at least 5 samples of each class"
        )
    train, test = train_test_split(candidates, test_size=HELD_OUT, stratify=labels[candidates], random_state=seed)
    return Splits(dataset.select(np.concatenate([train, np.flatnonzero(stay)])), dataset.select(test))
