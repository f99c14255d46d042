"""Label noise as the command line and suites name it: ``asymmetric:0.4``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment import disturb
from catchment.data import UNKNOWN_CLASS, Dataset, Splits

KINDS = {
    "symmetric": "symmetric:RATE, exactly that share of the labels to another class, uniformly",
    "symmetric-own": "symmetric-own:RATE, each label with that probability to any class, its own included",
    "asymmetric": "asymmetric:RATE, that share of each mapped class to the class it is mapped to (--mapping)",
    "pair-flip": "pair-flip:RATE, that share of each class to the next class",
    "random-pair": "random-pair:RATE, each label with that probability to one fixed other class (TABASCO's flip)",
    "class-proportional": "class-proportional:RATE, that share of the labels to another class, by the classes' sizes",
    "instance": "instance:RATE, each image by its own pixels, that share on average",
    "open-set": "open-set:RATE, that share of the images replaced by images of another set (--outside)",
    "relabel": "relabel:A,B,.., every sample of these classes to one of the others, which are then the classes",
    "unlabel": "unlabel:A,B,.., the samples of these classes lose their label, in both parts, and the classes go",
    "cifar60-40": "cifar60-40, the same for 40 classes of CIFAR-100, two of each superclass",
    "remove": "remove:A,B,.., these classes have no training samples, and are unknown in the test part",
    "remove-random": "remove-random:COUNT, as many classes, drawn by the seed",
}
IMBALANCES = {
    "long-tail": "long-tail:RATIO, exponentially fewer samples from class to class, RATIO times in all",
    "step": "step:RATIO, the second half of the classes RATIO times rarer than the first",
}
# which named mapping a known data set means when none is given
DEFAULT_MAPPINGS = {"digits": "mnist", "mnist": "mnist", "cifar10": "cifar10", "cifar100": "cifar100-blocks"}
_OF_RATE: dict[str, Callable[..., disturb.Disturbed]] = {
    "symmetric": disturb.symmetric_noise,
    "symmetric-own": partial(disturb.symmetric_noise, include_own=True),
    "pair-flip": disturb.pair_flip_noise,
    "random-pair": disturb.random_pair_noise,
    "class-proportional": disturb.class_proportional_noise,
}


def apply_noise(
    splits: Splits, noise: str, *, mapping: str | None, seed: int, outside: Dataset | None = None
) -> tuple[Splits, dict[str, Any]]:
    """Spoil the training labels as ``noise`` says; the test labels stay as they are.

    Relabelled, unlabelled and removed classes are classes no more: their test samples become -1, "none of the classes".

    Args:
        splits: training and test part.
        noise: one of ``KINDS``.
        mapping: of asymmetric noise: the name of a mapping, or pairs of class names, ``cat:dog,dog:cat``.
        seed: of the draws.
        outside: of open-set noise: where images of none of the classes come from, in the form of the training set's.

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
    if (outside is not None) != (kind == "open-set"):
        remedy = "add one, notmnist for example" if outside is None else "leave it out"
        raise ValueError(f"--outside goes with open-set noise, and with no other: {remedy}")
    train = splits.train
    if train.is_multi_label:
        raise ValueError(f"{train.name} has any number of labels per sample, and {kind} noise is for one: leave it out")
    rng = np.random.default_rng(seed)
    if kind == "relabel":
        return _relabel(splits, argument, rng)
    if kind == "unlabel":
        return _unlabel(splits, _classes(kind, argument, train.class_names))
    if kind == "cifar60-40":
        if train.name != "cifar100":
            raise ValueError(f"cifar60-40 names classes of cifar100, not of {train.name}: use unlabel:A,B")
        return _unlabel(splits, list(disturb.CIFAR40_UNLABELLED))
    if kind == "remove":
        return _remove(splits, _classes(kind, argument, train.class_names))
    if kind == "remove-random":
        return _remove(splits, disturb.random_classes(train.num_classes, _count(kind, argument), rng))
    rate = _rate(kind, argument)
    if kind == "open-set" and outside is not None:
        noisy, record = _replace_images(train, rate, outside, rng)
        return Splits(noisy, splits.test), record
    if kind == "asymmetric":
        target_of = _mapping(train, mapping)
        disturbed = disturb.asymmetric_noise(train.labels, rate, target_of, rng, num_classes=train.num_classes)
    elif kind == "instance":
        disturbed = disturb.instance_noise(_images(train), train.labels, rate, train.num_classes, rng)
    else:
        disturbed = _OF_RATE[kind](train.labels, rate, train.num_classes, rng)
    return Splits(_with_labels(train, disturbed.labels), splits.test), disturbed.record


def apply_imbalance(splits: Splits, imbalance: str, *, seed: int) -> tuple[Splits, dict[str, Any]]:
    """Keep fewer training samples of some classes, by their clean labels where those are known; see ``IMBALANCES``.

    It comes before noise, so that the true classes have the profile and the given labels a mixture of it.

    Raises:
        ValueError: there is no such imbalance, or no ratio, or the classes are too small for it.
    """
    kind, _, argument = imbalance.partition(":")
    if kind not in IMBALANCES:
        raise ValueError(f"there is no imbalance {imbalance!r}: use one of {'; '.join(IMBALANCES.values())}")
    train = splits.train
    if train.is_multi_label:
        raise ValueError(f"{train.name} has any number of labels per sample: leave --imbalance out")
    try:
        ratio = float(argument)
    except ValueError:
        raise ValueError(
            f"imbalance {imbalance} has no ratio: give the largest class over the least, {kind}:100"
        ) from None
    true = train.labels if train.clean_labels is None else train.clean_labels
    keep = disturb.long_tail if kind == "long-tail" else disturb.step_imbalance
    disturbed = keep(true, ratio, train.num_classes, np.random.default_rng([seed, 2]))
    return Splits(train.select(disturbed.index), splits.test), disturbed.record


def given_noise(train: Dataset) -> dict[str, Any] | None:
    """The record of the wrong labels that a data set came with; None where none are known to be wrong."""
    if train.clean_labels is None or train.is_multi_label or (train.clean_labels == train.labels).all():
        return None
    both = (train.clean_labels >= 0) & (train.labels >= 0)
    disturbed = disturb.human_noise(train.clean_labels[both], train.labels[both], train.num_classes)
    return {**disturbed.record, "kind": "given"}


def add_unknowns(test: Dataset, unknowns: Dataset) -> Dataset:
    """The test part with the samples of another set added, as samples of none of its classes."""
    labels = np.full(len(unknowns), UNKNOWN_CLASS)
    return replace(
        test,
        inputs=np.concatenate([test.inputs, unknowns.inputs]),
        labels=np.concatenate([test.labels, labels]),
        clean_labels=None if test.clean_labels is None else np.concatenate([test.clean_labels, labels]),
        human_probabilities=None,
        ids=None if test.ids is None else (*test.ids, *(f"{unknowns.name}/{i}" for i in range(len(unknowns)))),
    )


def _images(train: Dataset) -> NDArray[Any]:
    if not isinstance(train.inputs, np.ndarray) or not train.is_image:
        raise ValueError(
            f"instance noise looks at the pixels of images in memory, and {train.name} has none: choose another"
        )
    return train.inputs


def _replace_images(
    train: Dataset, rate: float, outside: Dataset, rng: np.random.Generator
) -> tuple[Dataset, dict[str, Any]]:
    noise = disturb.open_set_noise(train.labels, rate, len(outside), rng)
    replaced = noise.outside_index >= 0
    inputs = train.inputs.copy()
    inputs[replaced] = outside.inputs[noise.outside_index[replaced]]
    clean = train.labels if train.clean_labels is None else train.clean_labels
    record = {**noise.disturbed.record, "outside": outside.name}
    return replace(train, inputs=inputs, clean_labels=np.where(replaced, UNKNOWN_CLASS, clean)), record


def _with_labels(dataset: Dataset, labels: NDArray[np.int64]) -> Dataset:
    """Other labels; the ones before are the clean ones, unless cleaner ones were known."""
    clean = dataset.labels if dataset.clean_labels is None else dataset.clean_labels
    return replace(dataset, labels=labels, clean_labels=clean)


def _relabel(splits: Splits, argument: str, rng: np.random.Generator) -> tuple[Splits, dict[str, Any]]:
    names = splits.train.class_names
    gone = _classes("relabel", argument, names)
    kept = _others(gone, names, "relabel")
    disturbed = disturb.relabel_classes(splits.train.labels, gone, kept, rng, num_classes=len(names))
    return (
        Splits(_keep_classes(_with_labels(splits.train, disturbed.labels), kept), _keep_classes(splits.test, kept)),
        disturbed.record,
    )


def _unlabel(splits: Splits, gone: list[int]) -> tuple[Splits, dict[str, Any]]:
    names = splits.train.class_names
    kept = _others(gone, names, "unlabel")
    disturbed = disturb.unlabel_classes(splits.train.labels, gone, num_classes=len(names))
    return Splits(_keep_classes(splits.train, kept), _keep_classes(splits.test, kept)), disturbed.record


def _remove(splits: Splits, gone: list[int]) -> tuple[Splits, dict[str, Any]]:
    names = splits.train.class_names
    kept = _others(gone, names, "remove")
    disturbed = disturb.remove_classes(splits.train.labels, gone, num_classes=len(names))
    return (
        Splits(_keep_classes(splits.train.select(disturbed.index), kept), _keep_classes(splits.test, kept)),
        disturbed.record,
    )


def _classes(kind: str, argument: str, names: tuple[str, ...]) -> list[int]:
    classes = [_class_position(name.strip(), names) for name in argument.split(",") if name.strip()]
    if not classes:
        raise ValueError(f"{kind} names no class: use {kind}:A,B with class names")
    return classes


def _others(gone: list[int], names: tuple[str, ...], kind: str) -> list[int]:
    kept = [c for c in range(len(names)) if c not in gone]
    if len(kept) < 2:
        raise ValueError(f"{kind} leaves {len(kept)} of {len(names)} classes: keep at least 2")
    return kept


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


def _count(kind: str, argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise ValueError(f"noise {kind}:{argument} has no count: give how many classes, {kind}:4")
    return int(argument)


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
