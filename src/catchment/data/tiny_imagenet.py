"""Tiny-ImageNet (200 classes, 64 x 64) and its corrupted version; images stay on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from catchment.data.corrupted import VARIANTS as CORRUPTED_VARIANTS
from catchment.data.dataset import Dataset, Splits
from catchment.data.image_files import ImageFiles
from catchment.data.imagenet import distinct_names
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.labels import shorten

_SIDE = 64
_ENDINGS = (".jpeg", ".jpg", ".png")
_MEAN, _STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
_REMEDY, _REMEDY_C = "catchment fetch tiny-imagenet", "catchment fetch tiny-imagenet-c"
# Two orders of the classes are in use: of their WordNet ids, as ImageFolder has them, and of the file wnids.txt.
_ORDERS = ("sorted", "wnids.txt")
_NAME, _NAMES_C = "tiny-imagenet-200", ("Tiny-ImageNet-C", "Tiny-ImageNet-C-extra")


def find_tiny_imagenet(folder: Path) -> Path | None:
    """The folder with wnids.txt under a data folder, or None."""
    return next((at for at in (folder / _NAME, folder) if (at / "wnids.txt").is_file()), None)


def find_tiny_imagenet_c(folder: Path) -> Path | None:
    """The folder of corruptions under a data folder, or None."""
    return next((folder / name for name in _NAMES_C if (folder / name).is_dir()), None)


def read_tiny_imagenet(folder: Path, order: str) -> Splits:
    """Tiny-ImageNet from a data folder; the validation part, which has labels, is the test part.

    Args:
        folder: the data folder.
        order: of the classes: "sorted" by WordNet id, or as "wnids.txt" lists them.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the annotations don't fit the images.
    """
    root = _root(folder)
    wnids = _wnids(root, order)
    class_names = _class_names(root, wnids)
    return Splits(_train_part("tiny-imagenet", root, wnids, class_names), _validation_part(root, wnids, class_names))


def read_tiny_imagenet_c(folder: Path, variant: str) -> Splits:
    """Tiny-ImageNet's training part, and test images under a corruption and severity, such as "fog:3".

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the classes are other ones.
    """
    root = _root(folder)
    wnids = _wnids(root, "sorted")
    class_names = _class_names(root, wnids)
    corruption, severity = variant.split(":")
    roots = (folder / name for name in _NAMES_C)
    root_c = next((at for at in roots if (at / corruption / severity).is_dir()), None)
    if root_c is None:
        raise FileNotFoundError(f"{folder / _NAMES_C[0] / corruption / severity}: there is no such folder: {_REMEDY_C}")
    found = root_c / corruption / severity
    folders = sorted(entry.name for entry in found.iterdir() if entry.is_dir())
    other = sorted(set(folders) ^ set(wnids))
    if other:
        raise ValueError(
            f"{found}: its folders are not Tiny-ImageNet's classes, they differ in {shorten(other)}: {_REMEDY_C}"
        )
    by_class = [
        [f"{corruption}/{severity}/{wnid}/{name}" for name in _images(found / wnid, _REMEDY_C)] for wnid in wnids
    ]
    train = _train_part("tiny-imagenet-c", root, wnids, class_names)
    return Splits(train, _of_classes("tiny-imagenet-c", root_c, by_class, class_names))


def _root(folder: Path) -> Path:
    root = find_tiny_imagenet(folder)
    if root is None:
        raise FileNotFoundError(f"{folder}: {_NAME}/wnids.txt is missing: {_REMEDY}")
    return root


def _wnids(root: Path, order: str) -> tuple[str, ...]:
    wnids = (root / "wnids.txt").read_text("utf-8").split()
    if not wnids or len(set(wnids)) != len(wnids):
        raise ValueError(f"{root / 'wnids.txt'}: it doesn't list each class once: {_REMEDY}")
    return tuple(wnids if order == "wnids.txt" else sorted(wnids))


def _class_names(root: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    path = root / "words.txt"
    if not path.is_file():
        return wnids
    words = dict(line.split("\t", 1) for line in path.read_text("utf-8").splitlines() if "\t" in line)
    return distinct_names(wnids, [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids])


def _train_part(name: str, root: Path, wnids: tuple[str, ...], class_names: tuple[str, ...]) -> Dataset:
    by_class = [
        [f"train/{wnid}/images/{file}" for file in _images(root / "train" / wnid / "images", _REMEDY)] for wnid in wnids
    ]
    return _of_classes(name, root, by_class, class_names)


def _validation_part(root: Path, wnids: tuple[str, ...], class_names: tuple[str, ...]) -> Dataset:
    """Flat and annotated as published, or rebuilt into a folder for each class, as many people do."""
    flat, annotations = root / "val" / "images", root / "val" / "val_annotations.txt"
    if not flat.is_dir():
        by_class = []
        for wnid in wnids:
            inner = f"val/{wnid}/images" if (root / "val" / wnid / "images").is_dir() else f"val/{wnid}"
            by_class.append([f"{inner}/{file}" for file in _images(root / inner, _REMEDY)])
        return _of_classes("tiny-imagenet", root, by_class, class_names)
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations}: there is no such file: {_REMEDY}")
    position = {wnid: label for label, wnid in enumerate(wnids)}
    paths, labels = [], []
    present = set(_images(flat, _REMEDY))
    for number, line in enumerate(annotations.read_text("utf-8").splitlines(), 1):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in position:
            raise ValueError(f"{annotations}, line {number}: {wnid!r} is none of the classes in wnids.txt: {_REMEDY}")
        if file not in present:
            raise ValueError(f"{annotations}, line {number}: there is no image val/images/{file}: {_REMEDY}")
        paths.append(f"val/images/{file}")
        labels.append(position[wnid])
    if len(set(paths)) != len(present):
        raise ValueError(f"{annotations}: it names {len(set(paths))} of the {len(present)} images: {_REMEDY}")
    return _dataset("tiny-imagenet", root, paths, labels, class_names)


def _images(folder: Path, remedy: str) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder: {remedy}")
    # os.listdir, because 100,000 Path objects take seconds.
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(_ENDINGS))  # noqa: PTH208
    if not names:
        raise FileNotFoundError(f"{folder}: there are no images in it: {remedy}")
    return names


def _of_classes(name: str, root: Path, by_class: list[list[str]], class_names: tuple[str, ...]) -> Dataset:
    labels = [label for label, paths in enumerate(by_class) for _ in paths]
    return _dataset(name, root, [path for paths in by_class for path in paths], labels, class_names)


def _dataset(name: str, root: Path, paths: list[str], labels: list[int], class_names: tuple[str, ...]) -> Dataset:
    positions = np.array(labels, dtype=np.int64)
    return Dataset(
        name=name,
        inputs=ImageFiles(root, np.array(paths, dtype=np.bytes_), _SIDE, mean=_MEAN, std=_STD),
        labels=positions,
        class_names=class_names,
        clean_labels=positions,
        ids=tuple(paths),
    )


_TERMS = "ImageNet's: non-commercial research and education (from memory, not checked)"
_DOWNLOADS = (
    RemoteFile(
        url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        to=".",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        unpack=True,
    ),
)
_LAYOUT = f"{_NAME}/{{wnids.txt,words.txt,train/,val/}}"

SETS = (
    KnownSet(
        info=DataInfo(
            name="tiny-imagenet",
            kind="images",
            classes=200,
            train=100_000,
            test=10_000,
            noise="none published",
            licence=_TERMS,
            where="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            layout=_LAYOUT,
            variants=_ORDERS,
        ),
        read=read_tiny_imagenet,
        find=find_tiny_imagenet,
        downloads=_DOWNLOADS,
    ),
    KnownSet(
        info=DataInfo(
            name="tiny-imagenet-c",
            kind="images",
            classes=200,
            train=100_000,
            test=10_000,
            noise="none published; the test images are corrupted",
            licence=_TERMS,
            where="https://zenodo.org/record/8206060",
            layout=f"{_LAYOUT} and Tiny-ImageNet-C/fog/3/<wnid>/*.JPEG, ...",
            variants=CORRUPTED_VARIANTS,
        ),
        read=read_tiny_imagenet_c,
        find=lambda folder: find_tiny_imagenet(folder) and find_tiny_imagenet_c(folder),
        downloads=(
            *_DOWNLOADS,
            RemoteFile(
                url="https://zenodo.org/record/8206060/files/Tiny-ImageNet-C.tar",
                to=".",
                md5="f9c9a9dbdc11469f0b850190f7ad8be1",
                unpack=True,
            ),
            RemoteFile(
                url="https://zenodo.org/record/8206060/files/Tiny-ImageNet-C-extra.tar",
                to=".",
                md5="0db0588d243cf403ef93449ec52b70eb",
                unpack=True,
            ),
        ),
    ),
)
