"""Clothing1M: a million images from shops with labels from the text around them, and some that people labelled."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from catchment.data.dataset import Dataset, Splits
from catchment.data.image_files import ImageFiles, existing, read_list
from catchment.data.known import DataInfo, KnownSet

FOLDERS = ("clothing1M", "Clothing1M", "clothing1m")
PAGE = "https://github.com/Cysu/noisy_label"
CLASSES = (
    "T-shirt",
    "Shirt",
    "Knitwear",
    "Chiffon",
    "Sweater",
    "Hoodie",
    "Windbreaker",
    "Jacket",
    "Downcoat",
    "Suit",
    "Shawl",
    "Dress",
    "Vest",
    "Underwear",
)
MEAN, STD = (0.6959, 0.6537, 0.6371), (0.3113, 0.3192, 0.3214)


def read_clothing1m(folder: Path, variant: str = "noisy") -> Splits:
    """Reads Clothing1M from the data folder; images stay on disk.

    Args:
        folder: with ``clothing1M/`` or ``Clothing1M/`` in it.
        variant: "noisy" trains on the million noisy labels, whose clean labels are not known; "clean" on the 47,570
            that people gave. The test part is the clean one either way.

    Raises:
        FileNotFoundError: a list or more than one in a hundred images are missing.
        ValueError: a list can't be read, or has an image without label.
    """
    root = find_clothing1m(folder)
    if root is None:
        raise FileNotFoundError(f"clothing1m is not in {folder}: get it from {PAGE}; expected there: {_LAYOUT}")
    name = f"clothing1m:{variant}"
    return Splits(_part(name, root, variant, "train"), _part(name, root, "clean", "test"))


def find_clothing1m(folder: Path) -> Path | None:
    """The folder with the lists, in it or in its ``annotations``."""
    roots = (folder / name for name in FOLDERS)
    return next((root for root in roots if (_lists(root) / "clean_test_key_list.txt").is_file()), None)


def _lists(root: Path) -> Path:
    return root / "annotations" if (root / "annotations").is_dir() else root


def _part(name: str, root: Path, labels_of: str, part: str) -> Dataset:
    lists = _lists(root)
    names = lists / "category_names_eng.txt"
    class_names = tuple(_lines(names)) if names.is_file() else CLASSES
    label_file = lists / f"{labels_of}_label_kv.txt"
    label_of = _read_labels(label_file, len(class_names))
    key_file = lists / f"{labels_of}_{part}_key_list.txt"
    keys = _lines(key_file)
    unlabelled = [key for key in keys if key not in label_of]
    if unlabelled:
        raise ValueError(f"{key_file}: {unlabelled[0]} has no label in {label_file.name}: get both anew, see {PAGE}")
    # The tars hold 0/.., 1/..: unpacked straight into the folder, the images lack the lists' "images/".
    paths = keys if (root / "images").is_dir() else [key.removeprefix("images/") for key in keys]
    present, missing, notes = existing(name, root, paths, "unpack all of its ten tars, 0.tar to 9.tar")
    kept = np.flatnonzero(present).tolist()
    labels = np.array([label_of[keys[row]] for row in kept], dtype=np.int64)
    encoded = np.array([os.fsencode(paths[row]) for row in kept], dtype=np.bytes_)
    return Dataset(
        name=name,
        inputs=ImageFiles(root, encoded, 224, resize=256, mean=MEAN, std=STD),
        labels=labels,
        class_names=class_names,
        clean_labels=labels if labels_of == "clean" else None,
        ids=tuple(keys[row] for row in kept),
        augmentation=("random-crop", "flip"),
        skipped=missing,
        notes=notes,
    )


def _read_labels(path: Path, num_classes: int) -> dict[str, int]:
    """Path -> label. Names hold commas, so that this is no CSV."""
    label_of = {}
    for number, line in enumerate(_lines(path), 1):
        key, _, label = line.rpartition(" ")
        if not key or not label.isdecimal() or int(label) >= num_classes:
            raise ValueError(
                f"{path}: line {number} is {line!r}, not a path and a label below {num_classes}: "
                f"get it anew, see {PAGE}"
            )
        label_of[key] = int(label)
    return label_of


def _lines(path: Path) -> list[str]:
    return read_list(path, f"it comes with Clothing1M, see {PAGE}")


_LAYOUT = (
    "clothing1M/ or Clothing1M/ with the six lists (*_kv.txt, *_key_list.txt; or in annotations/) and images/0/ .. "
    "images/9/, or 0/ .. 9/"
)

SETS = (
    KnownSet(
        info=DataInfo(
            name="clothing1m",
            kind="images",
            classes=14,
            train=1_000_000,
            test=10_526,
            noise="labels from the text around the images; about 38.5 % wrong",
            licence="non-commercial research and education, no redistribution",
            where=f"{PAGE} (its authors, on request)",
            layout=_LAYOUT,
            variants=("noisy", "clean"),
        ),
        read=read_clothing1m,
        find=find_clothing1m,
    ),
)
