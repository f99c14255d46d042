"""What people said of CIFAR's images: CIFAR-10N and CIFAR-100N (training part), CIFAR-10H (test part)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catchment.data.cifar import (
    CIFAR10_DOWNLOADS,
    CIFAR10_LAYOUT,
    CIFAR100_DOWNLOADS,
    CIFAR100_LAYOUT,
    CIFAR100_VARIANTS,
    find_cifar10,
    find_cifar100,
    read_cifar10,
    read_cifar100,
)
from catchment.data.dataset import Dataset, Splits
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.pickles import labels_in, map_array, read_torch_pickle

_N_FOLDERS = ("CIFAR-N", "cifar-n", "data", "")
_H_FOLDERS = ("cifar-10h", "CIFAR-10H", "cifar-10h/data", "cifar-10h-master/data", "")
_COUNTS, _PROBABILITIES = "cifar10h-counts.npy", ("cifar10h-probs.npy", "cifar-10h-probs.npy")
_LEAST_AGREEMENT = 0.98  # 0.9921 on the published file; on shuffled rows it would be 0.1

_CIFAR10N_KEYS = {
    "worse": "worse_label",
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
}
_CIFAR100N_KEYS = {
    "fine": ("noisy_label", "clean_label"),
    "coarse": ("noisy_coarse_label", "clean_coarse_label"),
}


def read_cifar10n(folder: Path, variant: str) -> Splits:
    """CIFAR-10 with one of five sets of human labels on its training part; the true ones are ``clean_labels``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or its labels aren't of these images in this order.
    """
    annotations = _found(folder, _N_FOLDERS, ("CIFAR-10_human.pt",), "cifar10n")
    train, test = read_cifar10(folder, name="cifar10n")
    return Splits(_relabelled(train, annotations, _CIFAR10N_KEYS[variant], "clean_label", "cifar10n"), test)


def read_cifar100n(folder: Path, variant: str) -> Splits:
    """CIFAR-100, "fine" or "coarse", with human labels on its training part; the true ones are ``clean_labels``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or its labels aren't of these images in this order.
    """
    annotations = _found(folder, _N_FOLDERS, ("CIFAR-100_human.pt",), "cifar100n")
    train, test = read_cifar100(folder, variant, name="cifar100n")
    return Splits(_relabelled(train, annotations, *_CIFAR100N_KEYS[variant], "cifar100n"), test)


def read_cifar10h(folder: Path) -> Splits:
    """CIFAR-10 with how about 50 people each answered for its test images, as ``human_probabilities``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or its rows aren't of these images in this order.
    """
    answers = _found(folder, _H_FOLDERS, (_COUNTS, *_PROBABILITIES), "cifar10h")
    train, test = read_cifar10(folder, name="cifar10h")
    return Splits(train, replace(test, human_probabilities=_read_answers(answers, test)))


def _found(folder: Path, folders: tuple[str, ...], names: tuple[str, ...], fetch: str) -> Path:
    found = _find(folder, folders, names)
    if found is None:
        raise FileNotFoundError(f"{folder}: {folders[0]}/{names[0]} is missing: catchment fetch {fetch}")
    return found


def _find(folder: Path, folders: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    paths = (folder / inner / name for name in names for inner in folders)
    return next((path for path in paths if path.is_file()), None)


def _relabelled(train: Dataset, path: Path, noisy_key: str, clean_key: str, fetch: str) -> Dataset:
    content, remedy = read_torch_pickle(path), f"catchment fetch {fetch}"
    noisy, clean = (labels_in(content, key, train.num_classes, path, remedy) for key in (noisy_key, clean_key))
    for key, labels in ((noisy_key, noisy), (clean_key, clean)):
        if len(labels) != len(train):
            raise ValueError(f"{path}: {len(labels)} labels in {key!r} for {len(train)} images: {remedy}")
    other = np.flatnonzero(clean != train.labels)
    if other.size:
        first = other[0]
        raise ValueError(
            f"{path}: {clean_key}[{first}] is {clean[first]}, but the image's own label is {train.labels[first]} "
            f"({other.size} differ): these labels are of other images or in another order; {remedy}"
        )
    return replace(train, labels=noisy, clean_labels=clean)


def _read_answers(path: Path, test: Dataset) -> NDArray[np.float32]:
    remedy = "catchment fetch cifar10h"
    answers = map_array(path, remedy)
    shape = (len(test), test.num_classes)
    if answers.shape != shape or answers.dtype.kind not in "iuf":
        raise ValueError(f"{path}: it holds {answers.dtype} {answers.shape}, not numbers {shape}: {remedy}")
    values = answers.astype(np.float64)
    totals = values.sum(axis=1)
    # Negated, so that NaN counts as wrong.
    wrong = np.flatnonzero(~((values >= 0).all(axis=1) & (totals > 0) & np.isfinite(totals)))
    if wrong.size:
        raise ValueError(f"{path}: row {wrong[0]} holds no counts or probabilities of answers: {remedy}")
    agreement = float((values.argmax(axis=1) == test.labels).mean())
    if agreement < _LEAST_AGREEMENT:
        raise ValueError(
            f"{path}: the commonest answer is the label for {agreement:.2%} of the images, not for 99.21 %: "
            f"its rows are of other images or in another order; {remedy}"
        )
    probabilities: NDArray[np.float32] = (values / totals[:, None]).astype(np.float32)
    return probabilities


_CIFAR_N_DOWNLOADS = (
    RemoteFile(
        url="http://www.yliuu.com/web-cifarN/files/CIFAR-N-1.zip",
        to=".",
        md5="666bf3cff3a944c245f2b6f62af4b919",
        unpack=True,
    ),
)
_CIFAR_N = {"licence": "CC BY-NC 4.0: not for commercial use", "where": "https://github.com/UCSC-REAL/cifar-10-100n"}

SETS = (
    KnownSet(
        info=DataInfo(
            name="cifar10n",
            kind="images",
            classes=10,
            train=50_000,
            test=10_000,
            noise="training labels by people: 40.21 % (worse), 9.01 % (aggre), 17.23, 18.12 and 17.64 % (random1 to 3)",
            layout=f"{CIFAR10_LAYOUT} and CIFAR-N/CIFAR-10_human.pt (or cifar-n/)",
            variants=tuple(_CIFAR10N_KEYS),
            **_CIFAR_N,
        ),
        read=read_cifar10n,
        find=lambda folder: find_cifar10(folder) and _find(folder, _N_FOLDERS, ("CIFAR-10_human.pt",)),
        downloads=(*CIFAR10_DOWNLOADS, *_CIFAR_N_DOWNLOADS),
    ),
    KnownSet(
        info=DataInfo(
            name="cifar100n",
            kind="images",
            classes=100,
            train=50_000,
            test=10_000,
            noise="training labels by people: 40.20 % (fine), 26.40 % (coarse)",
            layout=f"{CIFAR100_LAYOUT} and CIFAR-N/CIFAR-100_human.pt (or cifar-n/)",
            variants=CIFAR100_VARIANTS,
            **_CIFAR_N,
        ),
        read=read_cifar100n,
        find=lambda folder: find_cifar100(folder) and _find(folder, _N_FOLDERS, ("CIFAR-100_human.pt",)),
        downloads=(*CIFAR100_DOWNLOADS, *_CIFAR_N_DOWNLOADS),
    ),
    KnownSet(
        info=DataInfo(
            name="cifar10h",
            kind="images",
            classes=10,
            train=50_000,
            test=10_000,
            noise="none; the test part says how people answered",
            licence="CC BY-NC-SA 4.0: not for commercial use",
            where="https://github.com/jcpeterson/cifar-10h",
            layout=f"{CIFAR10_LAYOUT} and cifar-10h/cifar10h-counts.npy (or cifar10h-probs.npy)",
        ),
        read=lambda folder, variant: read_cifar10h(folder),
        find=lambda folder: find_cifar10(folder) and _find(folder, _H_FOLDERS, (_COUNTS, *_PROBABILITIES)),
        downloads=(
            *CIFAR10_DOWNLOADS,
            RemoteFile(
                url="https://github.com/jcpeterson/cifar-10h/raw/master/data/cifar10h-counts.npy",
                to="cifar-10h/cifar10h-counts.npy",
                md5="f1284b6fba48a67d3db69bbafb5685ad",
                size=800_128,
            ),
        ),
    ),
)
