"""The ranked list of suspect labels: which, what else they may be, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.audit.confident import ConfidentLearning, confident_margin
from catchment.audit.evidence import Evidence
from catchment.audit.scores import Floats, normalised_margin, self_confidence
from catchment.data import Dataset
from catchment.files import write_text

# What each score is, in the order they are shown in.
SCORES = {
    "self-confidence": "1 - p of the given label",
    "margin": "how far the most probable other class is ahead",
    "confident-learning": "the same when each class's threshold is taken off",
    "loss-trajectory": "mean over the epochs of -log p of the given label",
    "drainage": "1 - p of the given label among classes and drainage",
    "drainage-trajectory": "its mean over the epochs",
    "dsink": "1 - geometric mean of two auxiliaries' p of the given label",
}
_FROM_PROBABILITIES: dict[str, Callable[[Any, NDArray[Any], NDArray[np.float64]], Floats]] = {
    "self-confidence": lambda probabilities, labels, thresholds: self_confidence(probabilities, labels),
    "margin": lambda probabilities, labels, thresholds: normalised_margin(probabilities, labels),
    "confident-learning": confident_margin,
}
PRESENCE = ("absent", "present")


@dataclass(frozen=True, eq=False)
class Suspects:
    """Suspect labels, the most suspect first.

    Args:
        rows: ``(M,)`` positions of the samples.
        classes: ``(M,)`` of multi-label data, which class of the sample it is about; else None.
        given: ``(M,)`` the label; of multi-label data 1 where the class is given, 0 where it is not.
        suggested: ``(M,)`` what it is more likely to be, in the same terms.
        score: ``(M,)`` higher = more suspect.
        reasons: in words.
    """

    rows: NDArray[np.int64]
    classes: NDArray[np.int64] | None
    given: NDArray[np.int64]
    suggested: NDArray[np.int64]
    score: Floats
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def all_scores(evidence: Evidence, labels: NDArray[Any], found: ConfidentLearning) -> dict[str, Floats]:
    """Every score that this evidence has, by name."""
    names = [name for name in SCORES if name in _FROM_PROBABILITIES or name in evidence.scores]
    return {name: one_score(name, evidence, labels, found) for name in names}


def one_score(name: str, evidence: Evidence, labels: NDArray[Any], found: ConfidentLearning) -> Floats:
    """The score called ``name``; a ValueError says what there is instead."""
    if name in _FROM_PROBABILITIES:
        return _FROM_PROBABILITIES[name](evidence.probabilities, labels, found.thresholds)
    if name not in evidence.scores:
        there = [*_FROM_PROBABILITIES, *evidence.scores]
        raise ValueError(f"{evidence.how} has no score {name!r}: choose one of {', '.join(there)}")
    return evidence.scores[name]


def rank(score: Floats, count: int) -> NDArray[np.int64]:
    """Positions (in the flattened score) of the ``count`` highest, the highest first; NaN is left out."""
    flat = score.reshape(-1)
    count = min(count, int((~np.isnan(flat)).sum()))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    falling = np.where(np.isnan(flat), np.inf, -flat)
    threshold = np.partition(falling, count - 1)[count - 1]
    candidates = np.flatnonzero(falling <= threshold)
    return candidates[np.argsort(falling[candidates], kind="stable")][:count]


def list_suspects(
    dataset: Dataset, evidence: Evidence, found: ConfidentLearning, score: Floats, count: int
) -> Suspects:
    """The ``count`` labels of the highest score, with suggestions and reasons."""
    at = rank(score, count)
    names = dataset.class_names
    if dataset.is_multi_label:
        rows, classes = np.divmod(at, dataset.num_classes)
        given = dataset.labels[rows, classes].astype(np.int64)
        p = np.asarray(evidence.probabilities[rows])[np.arange(len(rows)), classes]
        reasons = tuple(f"p({names[c]}) is {value:.3f}" for c, value in zip(classes, p, strict=True))
        return Suspects(rows, classes, given, 1 - given, score.reshape(-1)[at], reasons)
    given = dataset.labels[at].astype(np.int64)
    p = np.array(evidence.probabilities[at], dtype=np.float64)
    suggested = suggest(p, given, found.thresholds)
    each = np.arange(len(at))
    reasons = tuple(
        f"p({names[y]}) is {p_y:.3f}, p({names[s]}) is {p_s:.3f}{', confidently so' if off else ''}"
        for y, s, p_y, p_s, off in zip(
            given, suggested, p[each, given], p[each, suggested], found.is_off_diagonal[at], strict=True
        )
    )
    return Suspects(at, None, given, suggested, score[at], reasons)


def suggest(
    probabilities: NDArray[Any], given: NDArray[np.int64], thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """What each label is more likely to be ``(M,)``: never the given one.

    The most probable other class that reaches its threshold; the most probable other class where none does.

    >>> p = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    >>> suggest(p, np.array([0, 1]), np.array([0.9, 0.9, 0.1])).tolist()
    [2, 2]
    """
    others = np.array(probabilities, dtype=np.float64)
    others[np.arange(len(given)), given] = -1
    above = np.where(others >= thresholds, others, -1)
    suggested: NDArray[np.int64] = np.where(above.max(1) >= 0, above.argmax(1), others.argmax(1))
    return suggested


def label_text(dataset: Dataset, label: int) -> str:
    """A label in words."""
    return PRESENCE[label] if dataset.is_multi_label else dataset.class_names[label]


def write_suspects(path: Path, dataset: Dataset, suspects: Suspects, scores: dict[str, Floats]) -> None:
    """Write the list as a csv file.

    Columns: ``row`` (from 0), ``id`` (path or row number), of multi-label data ``class``, ``given``, ``suggested``,
    ``score``, ``reason``, and ``score_NAME`` for each of ``scores``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    about = [] if suspects.classes is None else ["class"]
    writer.writerow(
        ["row", "id", *about, "given", "suggested", "score", "reason", *(f"score_{name}" for name in scores)]
    )
    for i, row in enumerate(suspects.rows.tolist()):
        cells: list[Any] = [row, sample_id(dataset, row)]
        at: Any = row
        if suspects.classes is not None:
            at = row, int(suspects.classes[i])
            cells.append(dataset.class_names[at[1]])
        cells += [label_text(dataset, int(suspects.given[i])), label_text(dataset, int(suspects.suggested[i]))]
        cells += [f"{suspects.score[i]:.6g}", suspects.reasons[i], *(f"{values[at]:.6g}" for values in scores.values())]
        writer.writerow(cells)
    write_text(path, text.getvalue())


def sample_id(dataset: Dataset, row: int) -> str:
    """What a sample is called: its path, or its row number."""
    return str(row) if dataset.ids is None else dataset.ids[row]
