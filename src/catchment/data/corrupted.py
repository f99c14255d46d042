"""CIFAR-10-C, CIFAR-100-C and MNIST-C: test images that were corrupted, beside the clean training part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from catchment.data.cifar import (
    CIFAR10_DOWNLOADS,
    CIFAR10_LAYOUT,
    CIFAR100_DOWNLOADS,
    CIFAR100_LAYOUT,
    find_cifar10,
    find_cifar100,
    read_cifar10,
    read_cifar100,
)
from catchment.data.dataset import Dataset, Splits
from catchment.data.idx import find_mnist_like, read_mnist
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.pickles import map_array

SEVERITIES = 5
# A note on what catchment disturb has written, which leaves its record there.
MADE_ANEW = "{folder} was made anew from the published constants: these are not the published arrays"
# As published: 15 that the benchmark's mean is over, and 4 to choose settings on.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "gaussian_blur", "saturate", "spatter", "speckle_noise",
)  # fmt: skip
# A middle one first: the first variant is the default.
VARIANTS = (
    "gaussian_noise:3",
    *(
        f"{name}:{severity}"
        for name in CORRUPTIONS
        for severity in range(1, 6)
        if (name, severity) != ("gaussian_noise", 3)
    ),
)
_MNIST_CORRUPTIONS = (
    "brightness", "canny_edges", "dotted_line", "fog", "glass_blur", "impulse_noise", "motion_blur", "rotate", "scale",
    "shear", "shot_noise", "spatter", "stripe", "translate", "zigzag", "identity",
)  # fmt: skip


def read_cifar10_c(folder: Path, variant: str) -> Splits:
    """CIFAR-10's training part, and its test part under a corruption and severity, such as "fog:3".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or its images aren't CIFAR-10's test images in their order.
    """
    train, test = read_cifar10(folder, name="cifar10-c")
    return Splits(train, _read_block(_found(folder, "CIFAR-10-C", "cifar10-c"), variant, test))


def read_cifar100_c(folder: Path, variant: str) -> Splits:
    """CIFAR-100's training part, and its test part under a corruption and severity, such as "fog:3".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or its images aren't CIFAR-100's test images in their order.
    """
    train, test = read_cifar100(folder, "fine", name="cifar100-c")
    return Splits(train, _read_block(_found(folder, "CIFAR-100-C", "cifar100-c"), variant, test))


def read_mnist_c(folder: Path, corruption: str) -> Splits:
    """MNIST's training part, uncorrupted, and its test part under a corruption: images uint8 ``(N, 28, 28, 1)``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or not what it should be.
    """
    found = find_mnist_c(folder)
    if found is None:
        raise FileNotFoundError(f"{folder}: mnist_c is missing: catchment fetch mnist-c")
    test = _read_mnist_part(found / corruption, "test")
    if find_mnist_like("mnist", folder) and not (found / "identity" / "train_images.npy").is_file():
        return Splits(replace(read_mnist(folder).train, name="mnist-c"), test)
    return Splits(_read_mnist_part(found / "identity", "train"), test)


def find_cifar_c(folder: Path, name: str) -> Path | None:
    """The folder of "CIFAR-10-C" or "CIFAR-100-C" under a data folder, or None."""
    return folder / name if (folder / name / "labels.npy").is_file() else None


def find_mnist_c(folder: Path) -> Path | None:
    """The folder of MNIST-C's corruptions under a data folder, or None."""
    return next((folder / name for name in ("mnist_c", "MNIST-C") if (folder / name).is_dir()), None)


def _found(folder: Path, name: str, fetch: str) -> Path:
    found = find_cifar_c(folder, name)
    if found is None:
        raise FileNotFoundError(f"{folder}: {name}/labels.npy is missing: catchment fetch {fetch}")
    return found


def _read_block(found: Path, variant: str, test: Dataset) -> Dataset:
    fetch = f"catchment fetch {test.name}"
    corruption, severity = variant.split(":")
    path = found / f"{corruption}.npy"
    images, labels = map_array(path, fetch), map_array(found / "labels.npy", fetch)
    block = len(test)
    shape = (SEVERITIES * block, *test.inputs.shape[1:])
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"{path}: it holds {images.dtype} {images.shape}, not uint8 {shape}: {fetch}")
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{found / 'labels.npy'}: it holds {labels.dtype} {labels.shape}, not {shape[0]} labels: {fetch}"
        )
    start = block * (int(severity) - 1)
    other = np.flatnonzero(labels[start : start + block] != test.labels)
    if other.size:
        first = other[0]
        raise ValueError(
            f"{found / 'labels.npy'}: label {labels[start + first]} at {start + first}, but test image {first} is "
            f"{test.labels[first]}: these are other images or in another order; {fetch}"
        )
    notes = (MADE_ANEW.format(folder=found),) if (found / "record.json").is_file() else ()
    return replace(test, inputs=np.array(images[start : start + block]), notes=(*test.notes, *notes))


def _read_mnist_part(found: Path, part: str) -> Dataset:
    fetch = "catchment fetch mnist-c"
    path = found / f"{part}_images.npy"
    images, labels = map_array(path, fetch), map_array(found / f"{part}_labels.npy", fetch)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] != 1 or images.dtype != np.uint8:
        raise ValueError(f"{path}: it holds {images.dtype} {images.shape}, not images uint8 (N, H, W, 1): {fetch}")
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{found / f'{part}_labels.npy'}: it holds {labels.dtype} {labels.shape}, "
            f"not one label for each of {len(images)} images: {fetch}"
        )
    digits = labels.reshape(-1).astype(np.int64)
    outside = np.flatnonzero((digits < 0) | (digits > 9))
    if outside.size:
        where = f"{digits[outside[0]]} at {outside[0]}"
        raise ValueError(f"{found / f'{part}_labels.npy'}: label {where} is no digit: {fetch}")
    return Dataset(
        name="mnist-c",
        inputs=np.array(images),
        labels=digits,
        class_names=tuple(str(digit) for digit in range(10)),
        clean_labels=digits,
        ids=tuple(map(str, range(len(digits)))),
    )


_LICENCE = "CC BY 4.0 (from memory, not checked)"

SETS = (
    KnownSet(
        info=DataInfo(
            name="cifar10-c",
            kind="images",
            classes=10,
            train=50_000,
            test=10_000,
            noise="none published; the test images are corrupted",
            licence=_LICENCE,
            where="https://zenodo.org/record/2535967",
            layout=f"{CIFAR10_LAYOUT} and CIFAR-10-C/{{labels,fog,...}}.npy",
            variants=VARIANTS,
        ),
        read=read_cifar10_c,
        find=lambda folder: find_cifar10(folder) and find_cifar_c(folder, "CIFAR-10-C"),
        downloads=(
            *CIFAR10_DOWNLOADS,
            RemoteFile(
                url="https://zenodo.org/record/2535967/files/CIFAR-10-C.tar",
                to=".",
                md5="56bf5dcef84df0e2308c6dcbcbbd8499",
                unpack=True,
            ),
        ),
    ),
    KnownSet(
        info=DataInfo(
            name="cifar100-c",
            kind="images",
            classes=100,
            train=50_000,
            test=10_000,
            noise="none published; the test images are corrupted",
            licence=_LICENCE,
            where="https://zenodo.org/record/3555552",
            layout=f"{CIFAR100_LAYOUT} and CIFAR-100-C/{{labels,fog,...}}.npy",
            variants=VARIANTS,
        ),
        read=read_cifar100_c,
        find=lambda folder: find_cifar100(folder) and find_cifar_c(folder, "CIFAR-100-C"),
        downloads=(
            *CIFAR100_DOWNLOADS,
            RemoteFile(
                url="https://zenodo.org/record/3555552/files/CIFAR-100-C.tar",
                to=".",
                md5="11f0ed0f1191edbf9fa23466ae6021d3",
                unpack=True,
            ),
        ),
    ),
    KnownSet(
        info=DataInfo(
            name="mnist-c",
            kind="images",
            classes=10,
            train=60_000,
            test=10_000,
            noise="none published; the test images are corrupted",
            licence="CC BY 4.0",
            where="https://zenodo.org/record/3239543",
            layout="mnist_c/{identity,fog,...}/{train,test}_{images,labels}.npy",
            variants=_MNIST_CORRUPTIONS,
        ),
        read=read_mnist_c,
        find=find_mnist_c,
        downloads=(
            RemoteFile(
                url="https://zenodo.org/record/3239543/files/mnist_c.zip",
                to=".",
                md5="4b34b33045869ee6d424616cd3a65da3",
                unpack=True,
            ),
        ),
    ),
)
