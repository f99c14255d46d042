"""What a data set is here: inputs, labels, class names and, where known, the clean labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from catchment.loss_conventions import IGNORE_INDEX, UNKNOWN_CLASS

__all__ = ["IGNORE_INDEX", "UNKNOWN_CLASS", "Dataset", "Splits"]


@dataclass(frozen=True)
class Dataset:
    """Inputs with their labels, aligned by row.

    Args:
        name: what it is called in tables and records.
        inputs: images as uint8 ``(N, H, W, C)`` with C = 1 or 3, or as :class:`~catchment.data.ImageFiles`, decoded
            when they are needed; or a table as float32 ``(N, D)``.
        labels: int64 ``(N,)``, positions in ``class_names``; -1 is "none of these classes", -100 is left out. Of
            multi-label data uint8 ``(N, C)``: 1 where the class is present.
        class_names: one name per class.
        clean_labels: the true labels, where they are known.
        human_probabilities: float32 ``(N, C)``, how people answered for each sample, where they were asked.
        ids: where each row came from (a path, a row number); row numbers if not given.
        feature_names: the columns of a table.
        augmentation: what this data set wants in training: ``"crop:P"`` (pad P pixels, crop back) and ``"flip"``.
        skipped: how many unreadable files were left out on reading.
        notes: choices made on reading that its owner should know of, a sentence each.
    """

    name: str
    inputs: Any  # NDArray or ImageFiles: what few places ask which, ask by isinstance
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    clean_labels: NDArray[Any] | None = None
    human_probabilities: NDArray[np.float32] | None = None
    ids: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    augmentation: tuple[str, ...] = ()
    skipped: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses columns of different lengths and inputs that are neither images nor a table."""
        n = len(self.inputs)
        rows = {
            "labels": self.labels,
            "clean_labels": self.clean_labels,
            "human_probabilities": self.human_probabilities,
            "ids": self.ids,
        }
        for column, values in rows.items():
            if values is not None and len(values) != n:
                raise ValueError(f"{self.name}: {n} inputs but {len(values)} {column}: give one for each input")
        is_image = self.inputs.dtype == np.uint8 and self.inputs.ndim == 4 and self.inputs.shape[-1] in (1, 3)
        is_table = self.inputs.dtype == np.float32 and self.inputs.ndim == 2
        if not (is_image or is_table):
            raise ValueError(
                f"{self.name}: inputs are {self.inputs.dtype} {self.inputs.shape}: "
                "give images as uint8 (N, H, W, 1 or 3) or a table as float32 (N, D)"
            )

        shape, dtype = self.labels.shape, self.labels.dtype
        is_multi_label = dtype == np.uint8 and shape == (n, self.num_classes)
        if not (is_multi_label or (np.issubdtype(dtype, np.integer) and shape == (n,))):
            raise ValueError(
                f"{self.name}: labels are {dtype} {shape}: give one class index per input, or of multi-label data "
                f"uint8 ({n}, {self.num_classes})"
            )

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.inputs)

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images, not rows of a table."""
        return bool(self.inputs.ndim == 4)

    @property
    def is_multi_label(self) -> bool:
        """Whether a sample has any number of classes, not one."""
        return self.labels.ndim == 2

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """How many samples are labelled with each class."""
        if self.is_multi_label:
            counts: NDArray[np.int64] = self.labels.sum(axis=0, dtype=np.int64)
            return counts
        return np.bincount(self.labels[self.labels >= 0], minlength=self.num_classes)

    def select(self, index: NDArray[Any]) -> Dataset:
        """The rows at ``index`` (positions or a mask), in that order."""
        index = np.arange(len(self))[index]
        return replace(
            self,
            inputs=self.inputs[index],
            labels=self.labels[index],
            clean_labels=None if self.clean_labels is None else self.clean_labels[index],
            human_probabilities=None if self.human_probabilities is None else self.human_probabilities[index],
            ids=None if self.ids is None else tuple(self.ids[i] for i in index),
        )


class Splits(NamedTuple):
    """A data set in its two parts."""

    train: Dataset
    test: Dataset
