"""WebVision 1.0, and mini-WebVision: images that web searches for ImageNet's classes found, labelled by the search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from catchment.data import imagenet
from catchment.data.dataset import Dataset, Splits
from catchment.data.image_files import existing, read_list
from catchment.data.known import DataInfo, KnownSet

FOLDERS = ("webvision", "WebVision")
MINI = 50
PAGE = "https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html"
_AUGMENTATION = ("random-resized-crop", "flip", "color-jitter:0.4:0.4:0.4:0.2")


def read_webvision(folder: Path, variant: str = "mini") -> Splits:
    """Reads WebVision from the data folder; images stay on disk.

    Args:
        folder: with ``webvision/`` or ``WebVision/`` in it.
        variant: "mini" is the Google part's images of the first 50 classes, and WebVision's validation images of
            them; "mini:imagenet" is the same with ILSVRC's validation images; "full" is both parts and all classes.

    Raises:
        FileNotFoundError: a list or more than one in a hundred images are missing.
        ValueError: a list can't be read.
    """
    root = find_webvision(folder)
    if root is None:
        raise FileNotFoundError(f"webvision is not in {folder}: get it from {PAGE}; expected there: {_LAYOUT}")
    wnids, names = _read_synsets(root / "info" / "synsets.txt")
    parts = ("google", "flickr") if variant == "full" else ("google",)
    if variant != "full":
        if len(wnids) < MINI:
            raise ValueError(f"{root / 'info' / 'synsets.txt'}: {len(wnids)} lines, {MINI} or more wanted: get it anew")
        wnids, names = wnids[:MINI], names[:MINI]
    class_names = imagenet.distinct_names(wnids, names)

    train = _dataset(root, [row for part in parts for row in _train_list(root, part)], class_names, variant)
    if variant == "mini:imagenet":
        test = imagenet.validation_part(train.name, _imagenet_root(folder, root), wnids, class_names)
    else:
        listed = _read_list(root / "info" / "val_filelist.txt")
        test = _dataset(root, [(f"val_images_256/{path}", label) for path, label in listed], class_names, variant)
        # people looked at these
        test = replace(test, clean_labels=test.labels)
    return Splits(train, test)


def find_webvision(folder: Path) -> Path | None:
    """The folder with ``info``, named ``webvision`` or ``WebVision``."""
    return next((folder / name for name in FOLDERS if (folder / name / "info").is_dir()), None)


def _read_synsets(path: Path) -> tuple[list[str], list[str]]:
    """WordNet ids and first names, in the order of the labels."""
    pairs = [line.partition(" ") for line in _lines(path)]
    return [wnid for wnid, _, _ in pairs], [names.split(",")[0].strip() or wnid for wnid, _, names in pairs]


def _read_list(path: Path) -> list[tuple[str, int]]:
    rows = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdecimal():
            raise ValueError(f"{path}: line {number} is {line!r}, not a path and a label: get it anew from {PAGE}")
        rows.append((fields[0], int(fields[1])))
    return rows


def _lines(path: Path) -> list[str]:
    return read_list(path, f"unpack info.tar of {PAGE}")


def _train_list(root: Path, part: str) -> list[tuple[str, int]]:
    """The list of a part; its paths in the folder that its tar was unpacked to, which may carry the tar's name."""
    rows = _read_list(root / "info" / f"train_filelist_{part}.txt")
    packed = f"{part}_resized_256"
    if (root / part).is_dir() or not (root / packed).is_dir():
        return rows
    return [(f"{packed}/{path.removeprefix(f'{part}/')}", label) for path, label in rows]


def _dataset(root: Path, rows: list[tuple[str, int]], class_names: tuple[str, ...], variant: str) -> Dataset:
    # Every line is asked for its label: nothing says that the lists are sorted.
    if variant != "full":
        rows = [row for row in rows if row[1] < MINI]
    beyond = [row for row in rows if row[1] >= len(class_names)]
    if beyond:
        raise ValueError(
            f"{root / 'info'}: {beyond[0][0]} has label {beyond[0][1]}, and synsets.txt {len(class_names)} lines: "
            f"get info.tar anew from {PAGE}"
        )
    paths = [path for path, _ in rows]
    present, missing, notes = existing(f"webvision:{variant}", root, paths, f"unpack all of {PAGE}")
    kept = [row for row, there in zip(rows, present.tolist(), strict=True) if there]
    ids = tuple(path for path, _ in kept)
    return Dataset(
        name=f"webvision:{variant}",
        inputs=imagenet.image_files(root, ids),
        labels=np.array([label for _, label in kept], dtype=np.int64),
        class_names=class_names,
        ids=ids,
        augmentation=_AUGMENTATION,
        skipped=missing,
        notes=notes,
    )


def _imagenet_root(folder: Path, root: Path) -> Path:
    """ILSVRC's folder: within WebVision's, or beside it."""
    places = [root / "imagenet", *(folder / name for name in imagenet.FOLDERS)]
    for place in places:
        if (place / "val").is_dir():
            return place
    raise FileNotFoundError(
        f"{places[0] / 'val'} is not there, nor {places[1] / 'val'}: get ILSVRC's validation images from "
        f"{imagenet.PAGE}, or take webvision:mini, which is judged on WebVision's own"
    )


_LAYOUT = (
    "webvision/ or WebVision/ with info/*.txt, google/q0001/..., val_images_256/; of the full set also flickr/; "
    "for mini:imagenet also imagenet/val/ in it or beside it"
)

SETS = (
    KnownSet(
        info=DataInfo(
            name="webvision",
            kind="images",
            classes=50,
            train=65_944,
            test=2_500,
            noise="labels are web searches; about 20 % wrong, by its authors' estimate",
            licence="non-commercial research",
            where=PAGE,
            layout=_LAYOUT,
            variants=("mini", "full", "mini:imagenet"),
        ),
        read=read_webvision,
        find=find_webvision,
    ),
)
