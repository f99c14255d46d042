"""Predictions of a finished run for new data, as a table that other programs read."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS, load_inputs
from catchment.experiments.abstention import calibrate, record
from catchment.experiments.corruption import corrupt_dataset
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
    corruption: str | None = None,
    corruption_size: str | None = None,
    corruption_seed: int = 0,
    max_risk: float | None = None,
    delta: float = 0.1,
    calibration: str | None = None,
) -> dict[str, Any]:
    """Write ``out``, a csv with a row for each sample of ``data``, from the model of the run in ``run_folder``.

    Columns: ``id`` (path or row number), ``predicted`` (a class name), ``confidence`` (its probability),
    ``unknown_score`` (higher = more likely none of the classes), where the data has labels ``label`` and
    ``label_score`` (higher = the label is more likely wrong), then ``probability_CLASS`` for each class.

    Images can be corrupted first, by ``corruption="gaussian_noise:3"`` for example, after they were brought to the
    model's size; see :func:`catchment.experiments.corruption.corrupt_dataset`.

    With ``max_risk``, a column ``accepted`` after ``unknown_score`` is 1 where the score is below a threshold that
    :func:`catchment.experiments.abstention.calibrate` finds, 0 where one should abstain. ``calibration`` names labelled
    data as ``data`` does; None takes the test part of the run.

    Returns:
        ``rows``, ``skipped_files``, ``corruption`` (None, or what was done in words), ``abstention`` (None without
        ``max_risk``, or what :func:`catchment.experiments.abstention.record` gives) and, where the data has labels, the
        numbers of ``prediction_metrics``.
    """
    model, input_format, _ = load_run(run_folder)
    model.to(choose_device(device))
    read = partial(
        load_inputs, like=input_format, label_column=label_column, skip_unreadable=skip_unreadable, data_dir=data_dir
    )
    dataset = read(data)
    done = None
    if corruption is not None:
        dataset = corrupt_dataset(dataset, corruption, seed=corruption_seed, size=corruption_size)
        done = dataset.notes[-1]
    elif corruption_size is not None or corruption_seed:
        raise ValueError("constants and a seed of no corruption do nothing: add --corruption NAME:SEVERITY")
    acceptance = None
    if max_risk is not None:
        labelled = None if calibration is None else read(calibration)
        acceptance = calibrate(run_folder, model, labelled, max_risk=max_risk, delta=delta)
    elif calibration is not None:
        raise ValueError("calibration data without a risk do nothing: add --max-risk 0.05")
    predictions = predict(model, dataset)
    accepted = None if acceptance is None else acceptance.accepts(predictions.unknown_score)
    names = input_format.class_names
    has_labels = bool((dataset.labels != IGNORE_INDEX).any())

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label_columns = ["label", "label_score"] if has_labels else []
    accepted_column = [] if accepted is None else ["accepted"]
    header = ["id", "predicted", "confidence", "unknown_score", *accepted_column, *label_columns]
    writer.writerow(header + [f"probability_{name}" for name in names])
    for i, p in enumerate(predictions.probabilities):
        best = int(p.argmax())
        row = [dataset.ids[i] if dataset.ids else i, names[best], _text(p[best]), _text(predictions.unknown_score[i])]
        if accepted is not None:
            row.append(int(accepted[i]))
        if has_labels:
            label = int(dataset.labels[i])
            row += [names[label] if label >= 0 else {UNKNOWN_CLASS: "unknown"}.get(label, "")]
            row += [_text(predictions.label_score[i]) if label >= 0 else ""]
        writer.writerow(row + [_text(value) for value in p])
    write_text(out, text.getvalue())
    scores = prediction_metrics(model, predictions, dataset) if has_labels else {}
    abstention = None
    if acceptance is not None and accepted is not None:
        source = calibration or f"the test part of {run_folder}"
        abstention = record(acceptance, calibration=source, accepted=int(accepted.sum()))
    return {
        "rows": len(dataset),
        "skipped_files": dataset.skipped,
        "corruption": done,
        "abstention": abstention,
        **scores,
    }


def _text(value: Any) -> str:
    return f"{float(value):.6g}"
