"""What a run's pages need of its predictions, a few bytes a sample: ``evaluation.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data import Dataset
from catchment.files import atomic_write
from catchment.training.evaluation import TOP_K, Predictions, ranking_scores

NAME = "evaluation.npz"
# How many samples the pages show of each kind, and the longer side of their pictures in pixels.
SHOWN, THUMBNAIL = 48, 96


def write_evaluation(
    folder: Path, train: Dataset, on_train: Predictions, test: Dataset, on_test: Predictions, *, top_k: int = TOP_K
) -> None:
    """Write labels, predictions and scores of both parts, and the samples that a page shows, to ``evaluation.npz``.

    Of multi-label data labels are ``(N, C)`` of 0 and 1, and predicted classes and their confidence ``(N, k)``: the
    ``top_k`` classes of highest probability, in that order.
    """
    k = min(top_k, test.num_classes) if test.is_multi_label else None
    arrays = {
        "test_label": test.labels,
        **_highest("test", on_test, k),
        "test_unknown_score": on_test.unknown_score.numpy(),
        "train_label": train.labels,
        "train_predicted": _highest("train", on_train, k)["train_predicted"],
        "train_label_score": on_train.label_score.numpy(),
        "train_unknown_score": on_train.unknown_score.numpy(),
    }
    if train.clean_labels is not None:
        arrays["train_clean_label"] = train.clean_labels
    by_unknown_score = np.argsort(arrays["test_unknown_score"], kind="stable")
    ranks = np.unique(np.linspace(0, len(test) - 1, SHOWN).round().astype(np.int64))
    arrays |= _shown("gallery", test, by_unknown_score[ranks])
    labelled = np.arange(len(train)) if train.is_multi_label else np.flatnonzero(train.labels >= 0)
    most_suspect = labelled[np.argsort(-arrays["train_label_score"][labelled], kind="stable")[:SHOWN]]
    arrays |= _shown("suspect", train, most_suspect)
    if train.is_multi_label:
        p = on_train.probabilities.numpy()[most_suspect]
        suspect_class = np.abs(p - train.labels[most_suspect]).argmax(axis=1)
        arrays |= {"suspect_class": suspect_class, "suspect_probability": p[np.arange(len(p)), suspect_class]}
    atomic_write(folder / NAME, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _highest(part: str, predictions: Predictions, k: int | None) -> dict[str, NDArray[Any]]:
    """The class of highest probability of each sample, or the k highest, with their probabilities."""
    p = predictions.probabilities.numpy()
    if k is None:
        return {f"{part}_predicted": p.argmax(1), f"{part}_confidence": p.max(1)}
    classes = np.argsort(-ranking_scores(predictions), axis=1, kind="stable")[:, :k]
    return {f"{part}_predicted": classes, f"{part}_confidence": np.take_along_axis(p, classes, axis=1)}


def _shown(name: str, dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    ids = [str(row) if dataset.ids is None else dataset.ids[row] for row in rows]
    arrays: dict[str, NDArray[Any]] = {f"{name}_index": rows, f"{name}_id": np.array(ids, dtype=np.str_)}
    if dataset.is_image:
        arrays[f"{name}_image"] = _thumbnails(dataset.inputs[rows])
    return arrays


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images at most ``THUMBNAIL`` pixels high and wide."""
    from PIL import Image

    height, width = images.shape[1:3]
    scale = THUMBNAIL / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(width * scale)), max(1, round(height * scale))
    mode = "L" if images.shape[-1] == 1 else "RGB"
    small = [
        Image.fromarray(image.squeeze(-1) if mode == "L" else image).resize(size, Image.Resampling.BOX)
        for image in images
    ]
    return np.stack([np.asarray(image).reshape(size[1], size[0], -1) for image in small])
