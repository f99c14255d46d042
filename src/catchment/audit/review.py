"""The page to review suspect labels on: one self-contained HTML file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from catchment.audit.cleaning import COLUMNS, data_fingerprint
from catchment.audit.confident import WrongLabels
from catchment.audit.neighbours import nearest_neighbours, plain_features
from catchment.audit.suspects import PRESENCE, Suspects, label_text, sample_id
from catchment.data import Dataset, ImageFiles
from catchment.files import write_text
from catchment.report import render
from catchment.report.thumbnails import data_address

# Suspects on a page; those of them whose neighbours have pictures; neighbours of each; the side of a picture.
PAGE_SUSPECTS, WITH_PICTURES, NEIGHBOURS, SIDE = 10_000, 1000, 4, 96
# Columns of a table shown of each row.
_FACTS = 6


def write_review(
    path: Path,
    dataset: Dataset,
    suspects: Suspects,
    *,
    features: Any = None,
    wrong: WrongLabels | None = None,
) -> Path:
    """Write a page with the most suspect labels, 10,000 at most; returns ``path``.

    It shows each sample (an image, or the most unusual columns of a row), its given and suggested label, its score
    and nearest neighbours, takes decisions by key and button, keeps them in the browser, and exports them as a csv
    file that :func:`~catchment.audit.read_decisions` reads.

    Args:
        path: the HTML file.
        dataset: the data.
        suspects: ranked.
        features: ``(N, D)`` by which neighbours are found; None takes the inputs themselves, where they are in memory.
        wrong: how many labels are believed wrong, for the summary.

    Raises:
        ValueError: there are no suspects.
    """
    if not len(suspects):
        raise ValueError(
            f"no label of {dataset.name} is believed wrong: list the most suspect anyway, by --suspects 100"
        )
    content = page_content(dataset, suspects, features)
    shown = len(content["items"])
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    # inside a script element only these could end it or begin a comment
    data = Markup(text.replace("<", "\\u003c"))
    html = render(
        "review.html",
        title=f"Suspect labels of {dataset.name}",
        data=data,
        samples=len(dataset),
        shown=shown,
        listed=len(suspects),
        wrong=wrong,
        multi_label=dataset.is_multi_label,
    )
    write_text(path, html)
    return path


def page_content(dataset: Dataset, suspects: Suspects, features: Any = None) -> dict[str, Any]:
    """What the page's program reads."""
    rows = suspects.rows[:PAGE_SUSPECTS]
    if features is None:
        features = plain_features(dataset)
    near = np.empty((len(rows), 0), dtype=np.int64)
    if features is not None:
        near = nearest_neighbours(features, rows, NEIGHBOURS)
    pictured = np.unique(np.concatenate([rows, near[:WITH_PICTURES].reshape(-1)])).tolist() if dataset.is_image else []
    classes = [-1] * len(rows) if suspects.classes is None else suspects.classes[: len(rows)].tolist()
    given, suggested, score = suspects.given.tolist(), suspects.suggested.tolist(), suspects.score.tolist()
    items = [
        [
            row,
            sample_id(dataset, row),
            classes[i],
            given[i],
            suggested[i],
            round(score[i], 4),
            suspects.reasons[i],
            near_row,
        ]
        for i, (row, near_row) in enumerate(zip(rows.tolist(), near.tolist(), strict=True))
    ]
    fingerprint = data_fingerprint(dataset)
    list_digest = hashlib.sha256(f"{fingerprint}{rows.tolist()}{classes}".encode()).hexdigest()[:8]
    around = np.unique(near).tolist()
    return {
        "data": fingerprint,
        "key": f"catchment-review-{fingerprint}-{list_digest}",
        "columns": COLUMNS,
        "classes": list(dataset.class_names),
        "labels": list(PRESENCE if dataset.is_multi_label else dataset.class_names),
        "multi": dataset.is_multi_label,
        "items": items,
        "near": {row: _words(dataset, row) for row in around},
        "pictures": {row: data_address(_small(dataset, row)) for row in pictured},
        "tiny": bool(dataset.is_image and max(dataset.inputs.shape[1:3]) <= 32),
        "facts": [] if dataset.is_image else _facts(dataset, rows),
    }


def _words(dataset: Dataset, row: int) -> str:
    """The label of a neighbour in words."""
    if dataset.is_multi_label:
        return ", ".join(name for name, has in zip(dataset.class_names, dataset.labels[row], strict=True) if has) or "-"
    label = int(dataset.labels[row])
    return label_text(dataset, label) if label >= 0 else "no class"


def _small(dataset: Dataset, row: int) -> NDArray[np.uint8]:
    """The image, ``SIDE`` pixels wide and high at most."""
    inputs = dataset.inputs
    image: NDArray[np.uint8] = inputs.decode(np.array([row]))[0] if isinstance(inputs, ImageFiles) else inputs[row]
    if max(image.shape[:2]) <= SIDE:
        return image
    from PIL import Image

    single = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if single else image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    small = np.asarray(picture)
    return small[..., None] if single else small


def _facts(dataset: Dataset, rows: NDArray[np.int64]) -> list[list[list[str]]]:
    """Of each row the columns in which it is furthest from the mean of its label, with their values."""
    inputs, names = dataset.inputs, dataset.feature_names
    found = []
    deviation = inputs.std(0, dtype=np.float64)
    deviation[deviation == 0] = 1
    means: dict[int, NDArray[np.float64]] = {}
    for row in rows.tolist():
        label = -1 if dataset.is_multi_label else int(dataset.labels[row])
        if label not in means:
            means[label] = (inputs if label < 0 else inputs[dataset.labels == label]).mean(0, dtype=np.float64)
        distance = np.abs(inputs[row] - means[label]) / deviation
        columns = np.sort(np.argsort(-distance, kind="stable")[:_FACTS])
        called = [f"column {c}" if names is None else names[c] for c in columns]
        found.append([[name, f"{inputs[row, c]:.4g}"] for name, c in zip(called, columns, strict=True)])
    return found
