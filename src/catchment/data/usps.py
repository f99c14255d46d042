"""USPS: digits from envelopes, 16 x 16, as LIBSVM text or as a MATLAB matrix."""

from __future__ import annotations

import bz2
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import Dataset, Splits
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.labels import hold_out
from catchment.data.svhn import read_mat

_FOLDERS = ("", "USPS", "usps", "ood")
_TEXTS, _MATRIX = ("usps.bz2", "usps.t.bz2"), "usps_all.mat"
_SIDE = 16
_PIXELS = _SIDE * _SIDE
_REMEDY = "catchment fetch usps"
# Of the published training part: where a matrix begins with as many of each digit, its rows are in the published order.
_TRAIN_COUNTS = (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644)


def find_usps(folder: Path) -> Path | None:
    """The text of the training part under a data folder, else the matrix, else None."""
    paths = (folder / inner / name for name in (_TEXTS[0], _MATRIX) for inner in _FOLDERS)
    return next((path for path in paths if path.is_file()), None)


def read_usps(folder: Path) -> Splits:
    """USPS from a data folder: images uint8 ``(N, 16, 16, 1)``, white ink on black.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or not what it should be.
    """
    found = find_usps(folder)
    if found is None:
        raise FileNotFoundError(f"{folder}: neither {_TEXTS[0]} nor {_MATRIX} is in it: {_REMEDY}")
    if found.name == _MATRIX:
        return _split(_read_matrix(found))
    return Splits(*(_read_text(found.with_name(name)) for name in _TEXTS))


def _split(dataset: Dataset) -> Splits:
    published = sum(_TRAIN_COUNTS)
    counts = np.bincount(dataset.labels[:published], minlength=10)
    if len(dataset) > published and counts.tolist() == list(_TRAIN_COUNTS):
        note = f"the first {published} rows are the training part: they have the published count of each digit"
        rows = np.arange(len(dataset))
        train, test = dataset.select(rows[:published]), dataset.select(rows[published:])
    else:
        note = "the matrix says nothing of a split: 20 % of each class are held out as test part, always the same"
        train, test = hold_out(dataset, seed=0)
    return Splits(replace(train, notes=(note,)), test)


def _read_matrix(path: Path) -> Dataset:
    content = read_mat(path, _REMEDY)
    arrays = {key: value for key, value in content.items() if not key.startswith("__")}
    fitting = [value for value in arrays.values() if value.ndim == 2 and value.shape[1] == _PIXELS + 1]
    if len(fitting) != 1 or fitting[0].dtype != np.uint8:
        held = ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in arrays.items()) or "nothing"
        raise ValueError(f"{path}: it holds {held}, not one uint8 matrix (N, {_PIXELS + 1}): {_REMEDY}")
    matrix: NDArray[np.uint8] = fitting[0]
    return _dataset(path, np.ascontiguousarray(matrix[:, :-1]), matrix[:, -1].astype(np.int64), unit="row")


def _read_text(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: {_REMEDY}")
    try:
        with bz2.open(path) as file:
            lines = file.read().splitlines()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: the file is cut off or no bzip2 file ({error}): {_REMEDY}") from error
    labels = np.empty(len(lines), dtype=np.int64)
    values = np.zeros((len(lines), _PIXELS))  # zeros may be left out
    for row, line in enumerate(lines):
        try:
            numbers = np.array(line.replace(b":", b" ").split(), dtype=np.float64)
            # A line is the label, then pairs of an index, from 1, and a value.
            pixels = numbers[1::2].astype(np.int64)
            if len(numbers) % 2 == 0 or ((pixels < 1) | (pixels > _PIXELS)).any():
                raise ValueError(f"no pairs of an index from 1 to {_PIXELS} and a value")
            if not (np.abs(numbers[2::2]) <= 1).all():
                raise ValueError("a value outside -1 to 1")
        except ValueError as error:
            raise ValueError(f"{path}, line {row + 1}: {error}: {_REMEDY}") from error
        labels[row] = numbers[0]
        values[row, pixels - 1] = numbers[2::2]
    return _dataset(path, ((values + 1) / 2 * 255).astype(np.uint8), labels, unit="line")


def _dataset(path: Path, pixels: NDArray[np.uint8], labels: NDArray[Any], unit: str) -> Dataset:
    outside = np.flatnonzero((labels < 1) | (labels > 10))
    if outside.size or not labels.size:
        what = (
            f"{unit} {outside[0] + 1} has label {labels[outside[0]]}, none of 1 to 10"
            if outside.size
            else "it is empty"
        )
        raise ValueError(f"{path}: {what}: {_REMEDY}")
    digits = labels - 1
    return Dataset(
        name="usps",
        inputs=pixels.reshape(-1, _SIDE, _SIDE, 1),
        labels=digits,
        class_names=tuple(str(digit) for digit in range(10)),
        clean_labels=digits,
        ids=tuple(map(str, range(len(digits)))),
    )


_ADDRESS = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass"

SETS = (
    KnownSet(
        info=DataInfo(
            name="usps",
            kind="images",
            classes=10,
            train=7_291,
            test=2_007,
            noise="none published",
            licence="not stated",
            where="https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
            layout="usps.bz2 and usps.t.bz2, or usps_all.mat (or in usps/, USPS/ or ood/)",
        ),
        read=lambda folder, variant: read_usps(folder),
        find=find_usps,
        downloads=(
            RemoteFile(url=f"{_ADDRESS}/usps.bz2", to="usps.bz2", md5="ec16c51db3855ca6c91edd34d0e9b197"),
            RemoteFile(url=f"{_ADDRESS}/usps.t.bz2", to="usps.t.bz2", md5="8ea070ee2aca1ac39742fdd1ef5ed118"),
        ),
    ),
)
