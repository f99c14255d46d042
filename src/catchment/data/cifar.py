"""CIFAR-10 and CIFAR-100 in their Python version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import Dataset, Splits
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.pickles import labels_in, read_pickle

AUGMENTATION = ("crop:4", "flip")
LICENCE = "none stated by the authors, cite Krizhevsky 2009 (from memory, not checked)"
_WHERE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SIDE = 32
_TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR10, _CIFAR100 = "cifar-10-batches-py", "cifar-100-python"
CIFAR100_VARIANTS = ("fine", "coarse")


def find_cifar10(folder: Path) -> Path | None:
    """Where CIFAR-10's batches are under a data folder, or None."""
    return next((at for at in (folder / _CIFAR10, folder) if (at / "data_batch_1").is_file()), None)


def find_cifar100(folder: Path) -> Path | None:
    """Where CIFAR-100's files are under a data folder, or None."""
    named = folder / _CIFAR100
    if (named / "train").is_file():
        return named
    return folder if (folder / "train").is_file() and (folder / "meta").is_file() else None


def read_cifar10(folder: Path, *, name: str = "cifar10") -> Splits:
    """CIFAR-10 from a data folder, in the published order: images uint8 ``(N, 32, 32, 3)``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or not what it should be.
    """
    found = find_cifar10(folder) or folder / _CIFAR10
    class_names = _read_names(found / "batches.meta", "label_names", "cifar10")
    parts = (_TRAIN_BATCHES, ("test_batch",))
    return Splits(*(_read_part(found, files, "labels", class_names, name, "cifar10") for files in parts))


def read_cifar100(folder: Path, variant: str, *, name: str = "cifar100") -> Splits:
    """CIFAR-100 from a data folder, with the 100 "fine" or the 20 "coarse" classes: images uint8 ``(N, 32, 32, 3)``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or not what it should be.
    """
    found = find_cifar100(folder) or folder / _CIFAR100
    class_names = _read_names(found / "meta", f"{variant}_label_names", "cifar100")
    parts = (("train",), ("test",))
    return Splits(*(_read_part(found, files, f"{variant}_labels", class_names, name, "cifar100") for files in parts))


def _read_names(path: Path, key: str, fetch: str) -> tuple[str, ...]:
    names = _read_file(path, fetch).get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
        raise ValueError(f"{path}: there is no list of names {key!r} in it: catchment fetch {fetch}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)


def _read_file(path: Path, fetch: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: catchment fetch {fetch}")
    return read_pickle(path)


def _read_part(
    found: Path, files: Sequence[str], key: str, class_names: tuple[str, ...], name: str, fetch: str
) -> Dataset:
    images, labels = [], []
    for file in files:
        path = found / file
        batch = _read_file(path, fetch)
        labels.append(labels_in(batch, key, len(class_names), path, f"catchment fetch {fetch}"))
        images.append(_images_of(path, batch, len(labels[-1]), fetch))
    all_labels = np.concatenate(labels)
    return Dataset(
        name=name,
        inputs=images[0] if len(images) == 1 else np.concatenate(images),
        labels=all_labels,
        class_names=class_names,
        clean_labels=all_labels,
        ids=tuple(map(str, range(len(all_labels)))),
        augmentation=AUGMENTATION,
    )


def _images_of(path: Path, batch: dict[str, Any], count: int, fetch: str) -> NDArray[np.uint8]:
    data = batch.get("data")
    shape = (count, 3 * _SIDE * _SIDE)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != shape:
        held = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "no array"
        raise ValueError(f"{path}: its 'data' are {held}, not uint8 {shape}: catchment fetch {fetch}")
    # A row is a red, a green and a blue plane. Plane by plane is three times as fast as one transposed copy.
    pixels = np.empty((count, _SIDE * _SIDE, 3), dtype=np.uint8)
    for channel, plane in enumerate(np.split(data, 3, axis=1)):
        pixels[..., channel] = plane
    return pixels.reshape(count, _SIDE, _SIDE, 3)


CIFAR10_DOWNLOADS = (
    RemoteFile(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        to=".",
        md5="c58f30108f718f92721af3b95e74349a",
        unpack=True,
    ),
)
CIFAR100_DOWNLOADS = (
    RemoteFile(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        to=".",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        unpack=True,
    ),
)
CIFAR10_LAYOUT = f"{_CIFAR10}/{{data_batch_1..5,test_batch,batches.meta}}"
CIFAR100_LAYOUT = f"{_CIFAR100}/{{train,test,meta}}"

SETS = (
    KnownSet(
        info=DataInfo(
            name="cifar10",
            kind="images",
            classes=10,
            train=50_000,
            test=10_000,
            noise="none published",
            licence=LICENCE,
            where=_WHERE,
            layout=CIFAR10_LAYOUT,
        ),
        read=lambda folder, variant: read_cifar10(folder),
        find=find_cifar10,
        downloads=CIFAR10_DOWNLOADS,
    ),
    KnownSet(
        info=DataInfo(
            name="cifar100",
            kind="images",
            classes=100,
            train=50_000,
            test=10_000,
            noise="none published",
            licence=LICENCE,
            where=_WHERE,
            layout=CIFAR100_LAYOUT,
            variants=CIFAR100_VARIANTS,
        ),
        read=read_cifar100,
        find=find_cifar100,
        downloads=CIFAR100_DOWNLOADS,
    ),
)
