"""Predictions of a finished run for new data, as a table that other programs read."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS, load_inputs
from catchment.experiments.run import load_run
from catchment.files import write_text
from catchment.training.evaluation import predict, prediction_metrics
from catchment.training.loop import choose_device


def write_predictions(
    run_folder: Path,
    data: str,
    out: Path,
    *,
    label_column: str = "label",
    skip_unreadable: bool = False,
    data_dir: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Write ``out``, a csv with a row for each sample of ``data``, from the model of the run in ``run_folder``.

    Columns: ``id`` (path or row number), ``predicted`` (a class name), ``confidence`` (its probability),
    ``unknown_score`` (higher = more likely none of the classes), where the data has labels ``label`` and
    ``label_score`` (higher = the label is more likely wrong), then ``probability_CLASS`` for each class.

    Returns:
        ``rows``, ``skipped_files`` and, where the data has labels, the numbers of ``prediction_metrics``.
    """
    model, input_format, _ = load_run(run_folder)
    model.to(choose_device(device))
    dataset = load_inputs(
        data, input_format, label_column=label_column, skip_unreadable=skip_unreadable, data_dir=data_dir
    )
    predictions = predict(model, dataset)
    names = input_format.class_names
    has_labels = bool((dataset.labels != IGNORE_INDEX).any())

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label_columns = ["label", "label_score"] if has_labels else []
    header = ["id", "predicted", "confidence", "unknown_score", *label_columns]
    writer.writerow(header + [f"probability_{name}" for name in names])
    for i, p in enumerate(predictions.probabilities):
        best = int(p.argmax())
        row = [dataset.ids[i] if dataset.ids else i, names[best], _text(p[best]), _text(predictions.unknown_score[i])]
        if has_labels:
            label = int(dataset.labels[i])
            row += [names[label] if label >= 0 else {UNKNOWN_CLASS: "unknown"}.get(label, "")]
            row += [_text(predictions.label_score[i]) if label >= 0 else ""]
        writer.writerow(row + [_text(value) for value in p])
    write_text(out, text.getvalue())
    scores = prediction_metrics(model, predictions, dataset) if has_labels else {}
    return {"rows": len(dataset), "skipped_files": dataset.skipped, **scores}


def _text(value: Any) -> str:
    return f"{float(value):.6g}"
