"""One way in: a name, a folder or a file becomes training and test parts, or rows to predict for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from catchment.data import (
    cifar,
    cifar_human,
    clothing1m,
    coco,
    corrupted,
    digits,
    idx,
    imagenet,
    mulan,
    nus_wide,
    svhn,
    tiny_imagenet,
    usps,
    webvision,
)
from catchment.data.arrays import read_arrays
from catchment.data.dataset import Dataset, Splits
from catchment.data.folder import read_class_folders, read_images
from catchment.data.image_files import ImageFiles
from catchment.data.images import fit_images
from catchment.data.input_format import InputFormat
from catchment.data.known import KnownSet
from catchment.data.labels import check_classes, encode, hold_out, shorten
from catchment.data.table import read_table
from catchment.nearest import did_you_mean

_MODULES = (
    *(digits, idx, usps, cifar, cifar_human, corrupted, svhn, tiny_imagenet, imagenet, webvision, clothing1m),
    *(mulan, coco, nus_wide),
)
KNOWN: dict[str, KnownSet] = {known.info.name: known for module in _MODULES for known in module.SETS}
DATA_DIR_VARIABLE, DEFAULT_DATA_DIR = "CATCHMENT_DATA", "data"
_TABLES = (".csv", ".parquet")
OWN_COCO_SIZE = 224


def load_data(
    source: str | Path,
    *,
    test: str | Path | None = None,
    label_column: str = "label",
    drop_columns: Sequence[str] = (),
    image_size: int | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> Splits:
    """Loads a known data set or one's own, in a training and a test part.

    Args:
        source: a known name (see :data:`KNOWN`), with a variant after a colon where it has some; a folder with a folder
            of images for each class; or an ``.npz``, ``.csv``, ``.parquet`` or COCO ``.json`` file.
        test: the same for the test part. Where it isn't given, known sets have their own, and of other data 20 % of
            each class is held out.
        label_column: the column of a table that holds the labels.
        drop_columns: columns of a table that are no features.
        image_size: side of the square that images are resized and cropped to, in pixels.
        skip_unreadable: leave out images that can't be read, and count them in ``Dataset.skipped``.
        seed: of the draw of the held-out part.
        data_dir: where known data sets lie; None takes the environment variable CATCHMENT_DATA, else ``data``.

    Returns:
        Both parts with the same class names and input shape: uint8 ``(N, H, W, C)`` or float32 ``(N, D)``. Labels of
        the test part that training doesn't have are -1.

    Raises:
        FileNotFoundError: the source is neither a known name nor there.
        ValueError: the data can't be read or trained on; says where and what to do.

    Example:
        >>> train, test = load_data("digits")
        >>> train.inputs.shape, test.inputs.shape
        ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}: give a number of pixels, 1 or more")
    if is_known(source):
        _refuse_drop_columns(source, drop_columns)
        splits = _read_known(str(source), data_dir, skip_unreadable)
        train, held_out = (_sized(part, image_size) for part in splits)
        if test is None:
            return Splits(train, held_out)
    else:
        train, remedy = _read_own(_found(source), label_column, drop_columns, image_size, skip_unreadable)
        if not train.is_multi_label:
            check_classes(train, remedy)
        if test is None:
            train, held_out = hold_out(train, seed)
            return Splits(train, replace(held_out, skipped=0, notes=()))
    like = InputFormat.of(train)
    test_part = _read_like(test, like, label_column, skip_unreadable, need_labels=True, data_dir=data_dir)
    if not (test_part.labels >= 0).any():
        raise ValueError(
            f"{test}: no label in it is one of training's classes ({shorten(train.class_names)}): "
            "is it the right data and label column?"
        )
    return Splits(train, test_part)


def load_labelled(
    source: str | Path,
    *,
    label_column: str = "label",
    drop_columns: Sequence[str] = (),
    image_size: int | None = None,
    skip_unreadable: bool = False,
    data_dir: str | Path | None = None,
) -> Dataset:
    """Loads all of one's own data with their labels, nothing held out; of a known data set, its training part.

    Arguments and errors are those of :func:`load_data`.

    Example:
        >>> len(load_labelled("digits"))
        1437
    """
    if is_known(source):
        _refuse_drop_columns(source, drop_columns)
        return _sized(_read_known(str(source), data_dir, skip_unreadable).train, image_size)
    dataset, remedy = _read_own(_found(source), label_column, drop_columns, image_size, skip_unreadable)
    if not dataset.is_multi_label:
        check_classes(dataset, remedy)
    return dataset


def load_inputs(
    source: str | Path,
    like: InputFormat,
    *,
    label_column: str = "label",
    skip_unreadable: bool = False,
    data_dir: str | Path | None = None,
) -> Dataset:
    """Loads rows to predict for, in the form that a model takes.

    Images are brought to the format's size and channels; a table's columns are found by name where the format has
    names, and others ignored. A folder may hold class folders, or images anywhere in it. Of a known data set, it is
    the test part.

    Args:
        source: as in :func:`load_data`.
        like: the form of the model's inputs, and its classes.
        label_column: the column of a table that holds labels, if it has any.
        skip_unreadable: leave out images that can't be read, and count them in ``Dataset.skipped``.
        data_dir: as in :func:`load_data`.

    Returns:
        Rows of ``like.shape`` with ``like.class_names``; labels are -100 where there are none, and -1 where they are
        of no class of the model.

    Raises:
        FileNotFoundError: the source is neither a known name nor there.
        ValueError: the rows can't be read, or can't be brought into the form.
    """
    return _read_like(source, like, label_column, skip_unreadable, need_labels=False, data_dir=data_dir)


def is_known(source: str | Path) -> bool:
    """Whether it names a known data set, with or without a variant, rather than a path."""
    return str(source).partition(":")[0] in KNOWN and (isinstance(source, str) or not source.exists())


def known_set(name: str) -> KnownSet:
    """The known data set of that name; a ValueError names the nearest."""
    if name not in KNOWN:
        raise ValueError(f"there is no known data set {name!r}: {did_you_mean(name, sorted(KNOWN), 'known are')}")
    return KNOWN[name]


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Where known data sets lie: what is given, else the environment variable CATCHMENT_DATA, else ``data``."""
    return Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR).expanduser()


def not_on_disk(source: str, data_dir: str | Path | None = None) -> str | None:
    """How to get a known data set that is not there, in a sentence; None where it is there."""
    name, folder = source.partition(":")[0], data_folder(data_dir)
    known = KNOWN[name]
    if known.find(folder) is not None:
        return None
    how = f"catchment fetch {name}" if known.downloads else f"get it from {known.info.where}"
    return (
        f"{name} is not in {folder.absolute()}: {how}, or say by --data-dir or {DATA_DIR_VARIABLE} where it is; "
        f"expected there: {known.info.layout}"
    )


def _read_known(source: str, data_dir: str | Path | None, skip_unreadable: bool) -> Splits:
    name, _, variant = source.partition(":")
    known, folder = KNOWN[name], data_folder(data_dir)
    variants = known.info.variants
    if variant and not variants:
        raise ValueError(f"{name} has no variants: leave {':' + variant!r} out")
    if variants and variant and variant not in variants:
        raise ValueError(f"{name} has no variant {variant!r}: {did_you_mean(variant, variants, 'choose one of')}")
    absent = not_on_disk(source, data_dir)
    if absent:
        raise FileNotFoundError(absent)
    splits = known.read(folder, variant or (variants[0] if variants else ""))
    if Path(source).exists() and Path(source).resolve().parent != folder.resolve():
        note = f"{source} is the known data set, not what is called so here: for that, write ./{source}"
        splits = Splits(replace(splits.train, notes=(*splits.train.notes, note)), splits.test)
    return Splits(*map(_skipping_unreadable, splits)) if skip_unreadable else splits


def _skipping_unreadable(dataset: Dataset) -> Dataset:
    """Images that stay on disk are found unreadable only when they are needed."""
    if not isinstance(dataset.inputs, ImageFiles):
        return dataset
    return replace(dataset, inputs=replace(dataset.inputs, on_error="skip"))


def _found(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    close = difflib.get_close_matches(str(source), KNOWN, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    raise FileNotFoundError(
        f"{source}: there is no such file or folder, and no known data set of that name: {suggestion}"
        f"known are {', '.join(sorted(KNOWN))}"
    )


def _read_own(
    path: Path, label_column: str, drop_columns: Sequence[str], image_size: int | None, skip_unreadable: bool
) -> tuple[Dataset, str]:
    """The data, and what to ask of someone whose classes are too many."""
    if path.suffix.lower() in _TABLES and path.is_file():
        dataset = read_table(path, label_column=label_column, drop_columns=drop_columns)
        return _sized(dataset, image_size), "is --label-column right?"
    _refuse_drop_columns(path, drop_columns)
    if path.suffix.lower() == ".json" and path.is_file():
        return coco.read_coco_json(path, None, image_size or OWN_COCO_SIZE), "are the categories right?"
    if path.is_dir():
        dataset = read_class_folders(path, image_size=image_size, skip_unreadable=skip_unreadable)
        return dataset, "are these folders the classes?"
    _refuse_other_files(path)
    return _sized(read_arrays(path), image_size), "are the labels in y right?"


def _read_like(
    source: str | Path,
    like: InputFormat,
    label_column: str,
    skip_unreadable: bool,
    *,
    need_labels: bool,
    data_dir: str | Path | None,
) -> Dataset:
    if is_known(source):
        known = _read_known(str(source), data_dir, skip_unreadable)
        return _matched(source, _renamed(known.test, like.class_names), like)
    path = _found(source)
    if path.is_dir():
        if like.kind == "table":
            raise ValueError(f"{path}: this is a folder of images, but the model takes {like.describe()}: give those")
        if need_labels:
            return read_class_folders(path, skip_unreadable=skip_unreadable, like=like)
        return read_images(path, like, skip_unreadable=skip_unreadable)
    if path.suffix.lower() in _TABLES:
        if like.kind == "image":
            raise ValueError(f"{path}: this is a table, but the model takes {like.describe()}: give those")
        return read_table(path, label_column=label_column, like=like, need_labels=need_labels)
    _refuse_other_files(path)
    return _matched(source, read_arrays(path, like=like, need_labels=need_labels), like)


def _matched(source: str | Path, dataset: Dataset, like: InputFormat) -> Dataset:
    """The inputs brought to the format's shape."""
    form = InputFormat.of(dataset)
    if form.kind != like.kind or (like.kind == "table" and form.shape != like.shape):
        raise ValueError(f"{source}: this holds {form.describe()}, but the model takes {like.describe()}: give those")
    if like.kind == "table":
        return replace(dataset, feature_names=like.feature_names)
    height, width, channels = like.shape
    return replace(dataset, inputs=_fitted(dataset, (height, width, channels)))


def _renamed(dataset: Dataset, class_names: tuple[str, ...]) -> Dataset:
    """The labels as positions in other class names; of multi-label data, whose names must agree, as they are."""
    if dataset.is_multi_label:
        if dataset.class_names != class_names:
            raise ValueError(f"{dataset.name}: its classes are not those of the model: give data with the same classes")
        return dataset
    labels = encode(np.array(dataset.class_names, dtype=np.str_)[dataset.labels], class_names)
    return replace(dataset, labels=labels, clean_labels=labels, class_names=class_names)


def _sized(dataset: Dataset, image_size: int | None) -> Dataset:
    if image_size is None:
        return dataset
    if not dataset.is_image:
        raise ValueError(f"{dataset.name}: this is a table, so --image-size has nothing to resize: leave it out")
    return replace(dataset, inputs=_fitted(dataset, (image_size, image_size, dataset.inputs.shape[-1])))


def _fitted(dataset: Dataset, shape: tuple[int, int, int]) -> Any:
    """The images in another size and number of channels."""
    files = dataset.inputs
    if not isinstance(files, ImageFiles):
        return fit_images(files, shape)
    height, width, channels = shape
    if height != width or channels != 3:
        raise ValueError(f"{dataset.name}: its images stay on disk, and come as RGB squares only: use such a model")
    return files.resized(height)


def _refuse_drop_columns(source: str | Path, drop_columns: Sequence[str]) -> None:
    if drop_columns:
        raise ValueError(f"{source}: only .csv and .parquet have columns to drop: leave --drop-columns out")


def _refuse_other_files(path: Path) -> None:
    if path.suffix.lower() != ".npz":
        raise ValueError(
            f"{path}: {path.suffix or 'a file without extension'} can't be read: "
            "give a folder of class folders, or an .npz, .csv, .parquet or COCO .json file"
        )
