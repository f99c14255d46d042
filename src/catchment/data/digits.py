"""Handwritten digits, 8 x 8, that come with scikit-learn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from catchment.data.dataset import Dataset, Splits
from catchment.data.known import DataInfo, KnownSet
from catchment.data.labels import hold_out


def read_digits() -> Splits:
    """The 1797 digits: uint8 images ``(N, 8, 8, 1)``, 20 % stratified as test part, always the same split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    labels = labels.astype(np.int64)
    dataset = Dataset(
        name="digits",
        inputs=np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1),
        labels=labels,
        class_names=tuple(str(digit) for digit in range(10)),
        clean_labels=labels,
        ids=tuple(str(row) for row in range(len(labels))),
    )
    return hold_out(dataset, seed=0)


SETS = (
    KnownSet(
        info=DataInfo(
            name="digits",
            kind="images",
            classes=10,
            train=1437,
            test=360,
            noise="none known",
            licence="CC BY 4.0",
            where="comes with scikit-learn; https://archive.ics.uci.edu/dataset/80",
            layout="nothing: it is installed with scikit-learn",
        ),
        read=lambda folder, variant: read_digits(),
        find=lambda folder: Path(str(resources.files("sklearn"))),
    ),
)
