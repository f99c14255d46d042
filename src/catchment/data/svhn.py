"""SVHN: house numbers, each cropped around one digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from catchment.data.dataset import Dataset, Splits
from catchment.data.known import DataInfo, KnownSet, RemoteFile

_FOLDERS = ("", "SVHN", "svhn")
_REMEDY = "catchment fetch svhn"


def find_svhn(folder: Path) -> Path | None:
    """The folder of the two files under a data folder, or None."""
    return next((folder / inner for inner in _FOLDERS if (folder / inner / "train_32x32.mat").is_file()), None)


def read_svhn(folder: Path) -> Splits:
    """SVHN from a data folder: images uint8 ``(N, 32, 32, 3)``; the easier "extra" images are left out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or not what it should be.
    """
    found = find_svhn(folder) or folder
    return Splits(_read_part(found / "train_32x32.mat"), _read_part(found / "test_32x32.mat"))


def read_mat(path: Path, remedy: str) -> dict[str, Any]:
    """The variables of a MATLAB 5 file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or of another kind.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: {remedy}")
    try:
        content: dict[str, Any] = loadmat(path)
    # A broken file makes SciPy stumble over whatever it meets: ValueError, TypeError, zlib.error, MatReadError, ...
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: this is not a whole MATLAB 5 file ({reason}): {remedy}") from error
    return content


def _read_part(path: Path) -> Dataset:
    content = read_mat(path, _REMEDY)
    missing = [key for key in ("X", "y") if key not in content]
    if missing:
        raise ValueError(f"{path}: there is no {missing[0]!r} in it: {_REMEDY}")
    images, labels = content["X"], content["y"]
    if images.ndim != 4 or images.shape[2] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{path}: X is {images.dtype} {images.shape}, not images uint8 (H, W, 3, N): {_REMEDY}")
    if labels.shape != (images.shape[3], 1):
        raise ValueError(f"{path}: y is {labels.shape} for {images.shape[3]} images: {_REMEDY}")
    outside = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
    if outside.size:
        raise ValueError(f"{path}: label {labels[outside[0], 0]} at {outside[0]} is none of 1 to 10: {_REMEDY}")
    digits = labels[:, 0].astype(np.int64) % 10  # 10 is the digit 0
    return Dataset(
        name="svhn",
        inputs=np.ascontiguousarray(images.transpose(3, 0, 1, 2)),
        labels=digits,
        class_names=tuple(str(digit) for digit in range(10)),
        clean_labels=digits,
        ids=tuple(map(str, range(len(digits)))),
        augmentation=("crop:4",),
    )


SETS = (
    KnownSet(
        info=DataInfo(
            name="svhn",
            kind="images",
            classes=10,
            train=73_257,
            test=26_032,
            noise="none published",
            licence="not for commercial use (from memory, not checked)",
            where="http://ufldl.stanford.edu/housenumbers",
            layout="train_32x32.mat and test_32x32.mat (or in SVHN/ or svhn/)",
        ),
        read=lambda folder, variant: read_svhn(folder),
        find=find_svhn,
        downloads=(
            RemoteFile(
                url="http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                to="train_32x32.mat",
                md5="e26dedcc434d2e4c54c9b2d4a06d8373",
            ),
            RemoteFile(
                url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                to="test_32x32.mat",
                md5="eb5a983be6a315427106f1b164d9cef3",
            ),
        ),
    ),
)
