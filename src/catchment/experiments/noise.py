"""Label noise as the command line and suites name it: ``asymmetric:0.4``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment import disturb
from catchment.data import UNKNOWN_CLASS, Dataset, Splits

KINDS = {
    "symmetric": "symmetric:RATE, exactly that share of the labels to another class, uniformly",
    "asymmetric": "asymmetric:RATE, that share of each mapped class to the class it is mapped to (--mapping)",
    "pair-flip": "pair-flip:RATE, that share of each class to the next class",
    "relabel": "relabel:A,B,.., every sample of these classes to one of the others, which are then the classes",
}
# which named mapping a known data set means when none is given
DEFAULT_MAPPINGS = {"digits": "mnist"}


def apply_noise(splits: Splits, noise: str, *, mapping: str | None, seed: int) -> tuple[Splits, dict[str, Any]]:
    """Spoil the training labels as ``noise`` says; the test labels stay as they are.

    Relabelled classes are classes no more: their test samples become -1, "none of the classes".

    Args:
        splits: training and test part.
        noise: one of ``KINDS``.
        mapping: of asymmetric noise: the name of a mapping, or pairs of class names, ``cat:dog,dog:cat``.
        seed: of the draws.

    Returns:
        The splits with noise, and the record of what was done.

    Raises:
        ValueError: the kind, the rate, a class or the mapping is not one that it can use.
    """
    kind, _, argument = noise.partition(":")
    if kind not in KINDS:
        raise ValueError(f"there is no noise {noise!r}: use one of {'; '.join(KINDS.values())}")
    if mapping is not None and kind != "asymmetric":
        raise ValueError(f"--mapping goes with asymmetric noise, not with {kind}: leave it out")
    train = splits.train
    rng = np.random.default_rng(seed)
    if kind == "relabel":
        return _relabel(splits, argument, rng)
    rate = _rate(kind, argument)
    if kind == "symmetric":
        disturbed = disturb.symmetric_noise(train.labels, rate, train.num_classes, rng)
    elif kind == "pair-flip":
        disturbed = disturb.pair_flip_noise(train.labels, rate, train.num_classes, rng)
    else:
        disturbed = disturb.asymmetric_noise(
            train.labels, rate, _mapping(train, mapping), rng, num_classes=train.num_classes
        )
    return Splits(_with_labels(train, disturbed.labels), splits.test), disturbed.record


def _with_labels(dataset: Dataset, labels: NDArray[np.int64]) -> Dataset:
    """Other labels; the ones before are the clean ones, unless cleaner ones were known."""
    clean = dataset.labels if dataset.clean_labels is None else dataset.clean_labels
    return replace(dataset, labels=labels, clean_labels=clean)


def _relabel(splits: Splits, argument: str, rng: np.random.Generator) -> tuple[Splits, dict[str, Any]]:
    names = splits.train.class_names
    gone = [_class_position(name.strip(), names) for name in argument.split(",") if name.strip()]
    if not gone:
        raise ValueError("relabel names no class: use relabel:A,B with class names")
    kept = [c for c in range(len(names)) if c not in gone]
    if len(kept) < 2:
        raise ValueError(f"relabel leaves {len(kept)} of {len(names)} classes: keep at least 2")
    disturbed = disturb.relabel_classes(splits.train.labels, gone, kept, rng, num_classes=len(names))
    return (
        Splits(_keep_classes(_with_labels(splits.train, disturbed.labels), kept), _keep_classes(splits.test, kept)),
        disturbed.record,
    )


def _keep_classes(dataset: Dataset, kept: list[int]) -> Dataset:
    """Only these classes, renumbered; labels of the others become -1."""
    position = np.full(dataset.num_classes, UNKNOWN_CLASS)
    position[kept] = np.arange(len(kept))

    def renumber(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(labels >= 0, position[labels.clip(min=0)], labels)

    return replace(
        dataset,
        labels=renumber(dataset.labels),
        class_names=tuple(dataset.class_names[c] for c in kept),
        clean_labels=None if dataset.clean_labels is None else renumber(dataset.clean_labels),
    )


def _rate(kind: str, argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise ValueError(f"noise {kind}:{argument} has no rate: give a number from 0 to 1, {kind}:0.4") from None


def _mapping(dataset: Dataset, mapping: str | None) -> dict[int, int] | str:
    mapping = mapping or DEFAULT_MAPPINGS.get(dataset.name)
    if mapping is None:
        raise ValueError(
            f"asymmetric noise on {dataset.name} needs --mapping: "
            f"one of {', '.join(disturb.MAPPINGS)}, or pairs of class names such as cat:dog,dog:cat"
        )
    if ":" not in mapping:
        return mapping
    pairs: dict[int, int] = {}
    for pair in mapping.split(","):
        source, _, target = (part.strip() for part in pair.partition(":"))
        position = _class_position(source, dataset.class_names)
        if position in pairs:
            raise ValueError(f"--mapping maps {source!r} twice: give each class once")
        pairs[position] = _class_position(target, dataset.class_names)
    return pairs


def _class_position(name: str, class_names: tuple[str, ...]) -> int:
    if name not in class_names:
        shown = ", ".join(class_names[:12]) + (", .." if len(class_names) > 12 else "")
        raise ValueError(f"there is no class {name!r}: the classes are {shown}")
    return class_names.index(name)
