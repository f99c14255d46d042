"""One way in: a name, a folder or a file becomes training and test parts, or rows to predict for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from catchment.data import digits
from catchment.data.arrays import read_arrays
from catchment.data.dataset import DataInfo, Dataset, Splits
from catchment.data.folder import read_class_folders, read_images
from catchment.data.images import fit_images
from catchment.data.input_format import InputFormat
from catchment.data.labels import check_classes, encode, hold_out, shorten
from catchment.data.table import read_table

KNOWN: dict[str, DataInfo] = {digits.INFO.name: digits.INFO}
_READERS = {digits.INFO.name: digits.read_digits}
_TABLES = (".csv", ".parquet")


def load_data(
    source: str | Path,
    *,
    test: str | Path | None = None,
    label_column: str = "label",
    drop_columns: Sequence[str] = (),
    image_size: int | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
) -> Splits:
    """Loads a known data set or one's own, in a training and a test part.

    Args:
        source: a known name (see :data:`KNOWN`), a folder with a folder of images for each class, or an ``.npz``,
            ``.csv`` or ``.parquet`` file.
        test: the same for the test part. Where it isn't given, known sets have their own, and of other data 20 % of
            each class is held out.
        label_column: the column of a table that holds the labels.
        drop_columns: columns of a table that are no features.
        image_size: side of the square that images are resized and cropped to, in pixels.
        skip_unreadable: leave out images that can't be read, and count them in ``Dataset.skipped``.
        seed: of the draw of the held-out part.

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
    if _is_known(source):
        _refuse_drop_columns(source, drop_columns)
        train, held_out = (_sized(part, image_size) for part in _READERS[str(source)]())
        if test is None:
            return Splits(train, held_out)
    else:
        train, remedy = _read_own(_found(source), label_column, drop_columns, image_size, skip_unreadable)
        check_classes(train, remedy)
        if test is None:
            train, held_out = hold_out(train, seed)
            return Splits(train, replace(held_out, skipped=0, notes=()))
    test_part = _read_like(test, InputFormat.of(train), label_column, skip_unreadable, need_labels=True)
    if not (test_part.labels >= 0).any():
        raise ValueError(
            f"{test}: no label in it is one of training's classes ({shorten(train.class_names)}): "
            "is it the right data and label column?"
        )
    return Splits(train, test_part)


def load_inputs(
    source: str | Path, like: InputFormat, *, label_column: str = "label", skip_unreadable: bool = False
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

    Returns:
        Rows of ``like.shape`` with ``like.class_names``; labels are -100 where there are none, and -1 where they are
        of no class of the model.

    Raises:
        FileNotFoundError: the source is neither a known name nor there.
        ValueError: the rows can't be read, or can't be brought into the form.
    """
    return _read_like(source, like, label_column, skip_unreadable, need_labels=False)


def _is_known(source: str | Path) -> bool:
    return str(source) in KNOWN and (isinstance(source, str) or not source.exists())


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
    if path.is_dir():
        dataset = read_class_folders(path, image_size=image_size, skip_unreadable=skip_unreadable)
        return dataset, "are these folders the classes?"
    _refuse_other_files(path)
    return _sized(read_arrays(path), image_size), "are the labels in y right?"


def _read_like(
    source: str | Path, like: InputFormat, label_column: str, skip_unreadable: bool, *, need_labels: bool
) -> Dataset:
    if _is_known(source):
        return _matched(source, _renamed(_READERS[str(source)]().test, like.class_names), like)
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
    return replace(dataset, inputs=fit_images(dataset.inputs, (height, width, channels)))


def _renamed(dataset: Dataset, class_names: tuple[str, ...]) -> Dataset:
    """The labels as positions in other class names."""
    labels = encode(np.array(dataset.class_names, dtype=np.str_)[dataset.labels], class_names)
    return replace(dataset, labels=labels, clean_labels=labels, class_names=class_names)


def _sized(dataset: Dataset, image_size: int | None) -> Dataset:
    if image_size is None:
        return dataset
    if not dataset.is_image:
        raise ValueError(f"{dataset.name}: this is a table, so --image-size has nothing to resize: leave it out")
    return replace(dataset, inputs=fit_images(dataset.inputs, (image_size, image_size, dataset.inputs.shape[-1])))


def _refuse_drop_columns(source: str | Path, drop_columns: Sequence[str]) -> None:
    if drop_columns:
        raise ValueError(f"{source}: only .csv and .parquet have columns to drop: leave --drop-columns out")


def _refuse_other_files(path: Path) -> None:
    if path.suffix.lower() != ".npz":
        raise ValueError(
            f"{path}: {path.suffix or 'a file without extension'} can't be read: "
            "give a folder of class folders, or an .npz, .csv or .parquet file"
        )
