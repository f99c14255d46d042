"""What a finished run left on disk, read and checked."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS
from catchment.files import read_json, read_jsonl

CONFIG, METRICS, HISTORY, EVALUATION = "config.json", "metrics.json", "history.jsonl", "evaluation.npz"
FEATURE_MAP = "tsne.npz"
_NEEDED = (
    "test_label", "test_predicted", "test_confidence", "test_unknown_score", "train_label", "train_predicted",
    "train_label_score", "train_unknown_score", "gallery_index", "gallery_id", "suspect_index", "suspect_id",
)  # fmt: skip
_NEEDED_OF_MAP = ("index", "coordinates", "label", "predicted", "samples", "perplexity", "seed")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The arrays of ``evaluation.npz``, by the names that docs/reports.md explains."""

    arrays: dict[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def get(self, name: str) -> NDArray[Any] | None:
        """An array that only some runs have."""
        return self.arrays.get(name)

    @property
    def is_multi_label(self) -> bool:
        """Whether a sample has any number of labels."""
        return self["test_label"].ndim == 2

    @property
    def judged(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The confidence of each test prediction that can be judged, and whether it is right.

        With many labels each sample's k highest classes are a prediction each.
        """
        if self.is_multi_label:
            right = np.take_along_axis(self["test_label"], self["test_predicted"], axis=1) == 1
            return self["test_confidence"].ravel(), right.ravel()
        return self["test_confidence"][self.known], self.correct

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which test samples are of a known class, where a sample has one."""
        known: NDArray[np.bool_] = self["test_label"] >= 0
        return known

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which of the test samples of a known class were predicted right."""
        correct: NDArray[np.bool_] = (self["test_label"] == self["test_predicted"])[self.known]
        return correct


@dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Args:
        path: the folder.
        config: of config.json.
        metrics: of metrics.json.
        history: the rows of history.jsonl.
        evaluation: of evaluation.npz; None where there is none.
        feature_map: the arrays of tsne.npz; None where there is none.
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    evaluation: Evaluation | None
    feature_map: dict[str, NDArray[Any]] | None

    @property
    def class_names(self) -> list[str]:
        """One name per class."""
        return [str(name) for name in self.config["input_format"]["class_names"]]

    def label_names(self, labels: NDArray[Any]) -> str:
        """The names of the classes of one sample, of 0 and 1 for each."""
        return ", ".join(self.class_names[c] for c in np.flatnonzero(labels)) or "no label"

    def class_name(self, label: int) -> str:
        """What a label means, in words."""
        if label == UNKNOWN_CLASS:
            return "none of these"
        if label == IGNORE_INDEX:
            return "no label"
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder.

    Raises:
        ValueError: it holds no finished run, or a file of it is broken.
    """
    if not (folder / METRICS).exists() or not (folder / CONFIG).exists():
        remedy = (
            f"catchment train --resume --out {folder}"
            if (folder / CONFIG).exists()
            else "give the --out folder of catchment train"
        )
        raise ValueError(f"{folder} holds no finished run: {remedy}")
    evaluation = _read_arrays(folder / EVALUATION, _NEEDED)
    return RunFolder(
        path=folder,
        config=read_json(folder / CONFIG),
        metrics=read_json(folder / METRICS),
        history=read_jsonl(folder / HISTORY),
        evaluation=None if evaluation is None else Evaluation(evaluation),
        feature_map=_read_arrays(folder / FEATURE_MAP, _NEEDED_OF_MAP),
    )


def _read_arrays(path: Path, needed: tuple[str, ...]) -> dict[str, NDArray[Any]] | None:
    if not path.exists():
        return None
    remedy = "remove the file for a page without its figures, or train anew"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can't be read ({error}): {remedy}") from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: {remedy}")
    return arrays
