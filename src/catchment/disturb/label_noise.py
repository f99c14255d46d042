"""Label noise drawn from the original labels, and a record of what was really done.

Labels are integers from 0 to C - 1. -1 (none of the classes) and -100 (left out) stay as they are and are counted
nowhere. Every function takes a :class:`numpy.random.Generator` and never changes its input. Where a count is exact, it
is rounded to the nearest whole number, halves to the even one, as :func:`round` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catchment.disturb.cifar100 import SUPERCLASSES
from catchment.disturb.disturbed import (
    Disturbed,
    Labels,
    check_classes,
    check_distinct,
    check_labels,
    check_rate,
    check_rng,
    check_whole_number,
    disturbed,
    share,
)
from catchment.loss_conventions import UNKNOWN_CLASS


def random_pair_mapping(num_classes: int) -> dict[int, int]:
    """One other class for every class, drawn at random once and for all: the map of the TABASCO benchmark.

    Several classes may share a target. The draw is that of numpy's legacy generator seeded with 1, one choice among
    the other classes for each class in order, whose stream numpy keeps for ever.

    Args:
        num_classes: C, at least 2.

    Returns:
        ``{class: the class it turns into}`` for all C classes.

    Raises:
        ValueError: for fewer than two classes.

    Paper: Label-Noise Learning with Intrinsically Long-Tailed Data (ICCV 2023).

    >>> list(random_pair_mapping(10).values())
    [6, 9, 6, 0, 0, 1, 8, 6, 2, 4]
    """
    num_classes = check_whole_number(num_classes, "num_classes", at_least=2)
    legacy = np.random.RandomState(1)  # the published map is of this stream
    others = legacy.randint(0, num_classes - 1, size=num_classes, dtype=np.int64).tolist()
    return {c: other + (other >= c) for c, other in enumerate(others)}


MAPPINGS: dict[str, dict[int, int]] = {
    # 7 -> 1, 2 -> 7, 5 <-> 6, 3 -> 8, as the digits look; scikit-learn's digits are the same ten classes.
    "mnist": {7: 1, 2: 7, 5: 6, 6: 5, 3: 8},
    # truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse.
    "cifar10": {9: 1, 2: 0, 3: 5, 5: 3, 4: 7},
    # What most published numbers call "asymmetric CIFAR-100": alphabetical neighbours, five to a block. Block 0 is
    # apple, aquarium_fish, baby, bear, beaver, no superclass.
    "cifar100-blocks": {c: c - c % 5 + (c + 1) % 5 for c in range(100)},
    # Mistakes within the true superclasses, from each fine class to the next of its five.
    "cifar100-superclass": {
        group[position]: group[(position + 1) % 5] for group in SUPERCLASSES.values() for position in range(5)
    },
    "tabasco-cifar10": random_pair_mapping(10),
    "tabasco-cifar100": random_pair_mapping(100),
}


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
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    rate = check_rate(rate)
    check_rng(rng)
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
    return disturbed(before, after, num_classes, kind="symmetric", rate_asked=rate, include_own=bool(include_own))


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
        mapping: ``{class: the class it turns into}``, or a name in :data:`MAPPINGS`: ``"mnist"``, ``"cifar10"``,
            ``"cifar100-blocks"``, ``"cifar100-superclass"``, ``"tabasco-cifar10"`` or ``"tabasco-cifar100"``.
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
    before, classes_known = check_labels(labels, num_classes, at_least=1)
    check_classes([*mapping.keys(), *mapping.values()], "mapping", classes_known, inferred=num_classes is None)
    target_of = {int(source): int(target) for source, target in mapping.items()}
    for source, target in target_of.items():
        if source == target:
            raise ValueError(f"mapping sends class {source} to itself: leave it out, or give another class")
    rate = check_rate(rate)
    check_rng(rng)
    after = _move_exact_counts(before, rate, target_of, classes_known, rng)
    changed = int(np.count_nonzero(after != before))
    samples_per_class = np.bincount(before[before >= 0], minlength=classes_known)
    return disturbed(
        before,
        after,
        classes_known,
        kind="asymmetric",
        rate_asked=rate,
        mapping={str(source): target for source, target in target_of.items()},
        rate_realised_of_mapped=share(changed, int(samples_per_class[list(target_of)].sum())),
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
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    rate = check_rate(rate)
    check_rng(rng)
    target_of = {c: (c + 1) % num_classes for c in range(num_classes)}
    after = _move_exact_counts(before, rate, target_of, num_classes, rng)
    return disturbed(before, after, num_classes, kind="pair-flip", rate_asked=rate)


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
    before, classes_known = check_labels(labels, num_classes, at_least=1)
    relabelled = check_classes(classes, "classes", classes_known, inferred=num_classes is None)
    targets = check_classes(into, "into", classes_known, inferred=num_classes is None)
    for named, name in ((relabelled, "classes"), (targets, "into")):
        check_distinct(named, name)
    shared = [c for c in relabelled if c in targets]
    if shared:
        raise ValueError(f"class {shared[0]} is in both classes and into: take it out of one of them")
    check_rng(rng)
    after = before.copy()
    moved = np.flatnonzero(np.isin(before, relabelled))
    after[moved] = rng.choice(np.array(targets, dtype=np.int64), size=len(moved))
    return disturbed(before, after, classes_known, kind="relabel", rate_asked=1.0, classes=relabelled, into=targets)


def random_pair_noise(labels: ArrayLike, rate: float, num_classes: int, rng: np.random.Generator) -> Disturbed:
    r"""Move each sample, with some probability, to the one class that its class is confused with: TABASCO's "flip".

    Each sample draws by itself, so that the count is random too. The map m of :func:`random_pair_mapping` is fixed;
    only who moves comes from ``rng``.

    .. math:: P(\tilde y = m(c) \mid y = c) = \eta, \qquad P(\tilde y = c \mid y = c) = 1 - \eta

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and are not counted.
        rate: :math:`\eta`, from 0 to 1.
        num_classes: C, at least 2.
        rng: where the draws come from.

    Returns:
        The noisy labels and their record, with ``mapping`` (its keys as text, as JSON has them) in it.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a rate out of range, fewer than two classes,
            no generator.

    Paper: Label-Noise Learning with Intrinsically Long-Tailed Data (ICCV 2023).

    >>> noisy = random_pair_noise(np.arange(10), 1.0, 10, np.random.default_rng(0))
    >>> noisy.labels.tolist()
    [6, 9, 6, 0, 0, 1, 8, 6, 2, 4]
    """
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    rate = check_rate(rate)
    check_rng(rng)
    mapping = random_pair_mapping(num_classes)
    after = before.copy()
    counted = np.flatnonzero(before >= 0)
    moved = counted[rng.random(len(counted)) < rate]
    after[moved] = np.array(list(mapping.values()))[before[moved]]
    return disturbed(
        before,
        after,
        num_classes,
        kind="random-pair",
        rate_asked=rate,
        mapping={str(source): target for source, target in mapping.items()},
    )


def class_proportional_noise(labels: ArrayLike, rate: float, num_classes: int, rng: np.random.Generator) -> Disturbed:
    r"""Move labels to other classes in proportion to the size of those, so that frequent classes attract noise.

    Exactly :math:`\mathrm{round}(\eta N)` samples, drawn without replacement over the whole set, move; with
    :math:`n_c` the samples of class c,

    .. math:: P(\tilde y = c' \mid y = c, \text{moved}) = \frac{n_{c'}}{N - n_c}, \qquad c' \ne c

    Args:
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and do not count into N.
        rate: :math:`\eta`, from 0 to 1.
        num_classes: C, at least 2.
        rng: where the draws come from.

    Returns:
        The noisy labels and their record.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a rate out of range, fewer than two classes,
            no generator, or where labels are to move but all are of one class.

    Paper: Robust Long-Tailed Learning under Label Noise (arXiv 2108.11569).

    >>> noisy = class_proportional_noise([0] * 8 + [1] * 2, 0.4, 3, np.random.default_rng(0))
    >>> int(noisy.changed.sum()), int((noisy.labels == 2).sum())
    (4, 0)
    """
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    rate = check_rate(rate)
    check_rng(rng)
    counted = np.flatnonzero(before >= 0)
    samples_per_class = np.bincount(before[counted], minlength=num_classes)
    moved = rng.choice(counted, size=round(rate * len(counted)), replace=False)
    if len(moved) and samples_per_class.max() == len(counted):
        raise ValueError(f"all labels are class {before[moved[0]]}: give labels of two classes, or use symmetric_noise")
    after = before.copy()
    for source in np.unique(before[moved]):
        of_source = moved[before[moved] == source]
        weight = samples_per_class.astype(np.float64)
        weight[source] = 0
        after[of_source] = rng.choice(num_classes, size=len(of_source), p=weight / weight.sum())
    return disturbed(before, after, num_classes, kind="class-proportional", rate_asked=rate)


def human_noise(clean: ArrayLike, given: ArrayLike, num_classes: int) -> Disturbed:
    """Labels that people gave, with the record of how they differ from the clean ones.

    Args:
        clean: integers ``(N,)`` below ``num_classes``; where -1 or -100, the sample is counted nowhere.
        given: the labels that people gave to the same samples, in the same order; -1 and -100 may occur.
        num_classes: C, at least 1.

    Returns:
        The labels given, and their record; ``rate_asked`` is None.

    Raises:
        ValueError: for labels that are not 1-D integers, out of range, or not equally many.

    >>> noisy = human_noise([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> noisy.record["rate_realised"], noisy.record["transition_counts"]
    (0.25, [[1, 1], [0, 2]])
    """
    before, num_classes = check_labels(clean, num_classes, at_least=1, name="clean labels")
    after, _ = check_labels(given, num_classes, at_least=1, name="given labels")
    if len(before) != len(after):
        raise ValueError(f"there are {len(before)} clean and {len(after)} given labels: give both for the same samples")
    return disturbed(before, after, num_classes, kind="human", rate_asked=None)


class OpenSetNoise(NamedTuple):
    """What came of replacing images.

    Args:
        disturbed: the labels, which all stay, with ``changed`` where the image is replaced.
        outside_index: int64 ``(N,)``: the position of the image in the other set that takes this one's place, or -1
            where the sample keeps its own.
        clean_labels: int64 ``(N,)``: -1, none of the classes, where the image is replaced, else the label.
    """

    disturbed: Disturbed
    outside_index: NDArray[np.int64]
    clean_labels: Labels


def open_set_noise(labels: ArrayLike, rate: float, num_outside: int, rng: np.random.Generator) -> OpenSetNoise:
    r"""Say which images are to be replaced by images of another set, that are none of the classes.

    Exactly :math:`\mathrm{round}(\eta N)` samples, drawn without replacement, keep their label and get an image of the
    other set, each a different one. The images are the caller's to replace:
    ``images[replaced] = other[outside_index[replaced]]``, with ``replaced = outside_index >= 0``.

    Args:
        labels: integers ``(N,)``; samples labelled -1 and -100 keep their image and do not count into N.
        rate: :math:`\eta`, from 0 to 1.
        num_outside: how many images the other set has.
        rng: where the draws come from.

    Returns:
        The :class:`OpenSetNoise`; its record has ``num_outside``, ``rate_realised`` is the share of images replaced,
        and ``transition_counts`` is diagonal, as no label changes.

    Raises:
        ValueError: for labels that are not 1-D integers or out of range, a rate out of range, an other set that has
            too few images, no generator.

    Paper: Iterative Learning with Open-set Noisy Labels (CVPR 2018).

    >>> noise = open_set_noise(np.arange(10) % 2, 0.3, 1000, np.random.default_rng(0))
    >>> int((noise.outside_index >= 0).sum()), noise.disturbed.record["rate_realised"]
    (3, 0.3)
    """
    before, num_classes = check_labels(labels, None, at_least=1)
    rate = check_rate(rate)
    num_outside = check_whole_number(num_outside, "num_outside", at_least=0)
    check_rng(rng)
    counted = np.flatnonzero(before >= 0)
    count = round(rate * len(counted))
    if count > num_outside:
        raise ValueError(
            f"a rate of {rate} replaces {count} images, but the other set has {num_outside}: give a larger set, or a "
            "lower rate"
        )
    replaced = rng.choice(counted, size=count, replace=False)
    outside_index = np.full(len(before), -1, dtype=np.int64)
    outside_index[replaced] = rng.choice(num_outside, size=count, replace=False)
    is_replaced = outside_index >= 0
    result = disturbed(
        before,
        before.copy(),
        num_classes,
        kind="open-set",
        rate_asked=rate,
        changed=is_replaced,
        num_outside=num_outside,
    )
    return OpenSetNoise(result, outside_index, np.where(is_replaced, UNKNOWN_CLASS, before))


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
