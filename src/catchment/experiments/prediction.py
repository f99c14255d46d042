"""Predictions of a finished run for new data, as a table that other programs read."""

from __future__ import annotations

import csv
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS, Dataset, load_inputs
from catchment.experiments.abstention import calibrate, record
from catchment.experiments.corruption import corrupt_dataset
from catchment.experiments.run import METRICS, RunConfig, load_run, load_run_data
from catchment.experiments.tasks import OF_LABEL_SETS
from catchment.experiments.thresholds import check_threshold, label_sets, precision_thresholds
from catchment.files import read_json, write_text
from catchment.objective import Model
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
    threshold: float | None = None,
    precision: float | None = None,
    calibration: str | None = None,
) -> dict[str, Any]:
    """Write ``out``, a csv with a row for each sample of ``data``, from the model of the run in ``run_folder``.

    Columns: ``id`` (path or row number), ``predicted`` (a class name), ``confidence`` (its probability),
    ``unknown_score`` (higher = more likely none of the classes), where the data has labels ``label`` and
    ``label_score`` (higher = the label is more likely wrong), then ``probability_CLASS`` for each class.

    Of a run of multi-label or zero-label data, or where ``threshold`` or ``precision`` is given, ``predicted`` names
    every class whose probability is at least its threshold, joined by semicolons, and nothing where there is none. The
    threshold is 0.5 by default; ``precision`` chooses one for each class, see
    :func:`catchment.experiments.thresholds.precision_thresholds`. Labels of multi-label data are joined likewise.

    Images can be corrupted first, by ``corruption="gaussian_noise:3"`` for example, after they were brought to the
    model's size; see :func:`catchment.experiments.corruption.corrupt_dataset`.

    With ``max_risk``, a column ``accepted`` after ``unknown_score`` is 1 where the score is below a threshold that
    :func:`catchment.experiments.abstention.calibrate` finds, 0 where one should abstain. ``calibration`` names labelled
    data as ``data`` does, for ``max_risk`` or ``precision``; None takes the test part of the run, for ``precision``
    its validation part where it has one.

    Returns:
        ``rows``, ``skipped_files``, ``corruption`` (None, or what was done in words), ``abstention`` (None without
        ``max_risk``, or what :func:`catchment.experiments.abstention.record` gives), ``thresholds`` (by class; None for
        a class that is never predicted; None altogether where one class is predicted for each sample), ``labels`` (how
        many were predicted) and, where the data has labels, the numbers of ``prediction_metrics``.
    """
    if threshold is not None and precision is not None:
        raise ValueError("a threshold and a precision, which chooses thresholds: give one of them")
    model, input_format, config_record = load_run(run_folder)
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
    elif calibration is not None and precision is None:
        raise ValueError("calibration data alone do nothing: add --max-risk 0.05 or --precision 0.9")
    thresholds = None
    if precision is not None:
        held_out = _held_out(config_record) if calibration is None else read(calibration)
        thresholds = _thresholds_for(model, held_out, precision)
    elif threshold is not None or _predicts_label_sets(run_folder):
        thresholds = np.full(len(input_format.class_names), check_threshold(0.5 if threshold is None else threshold))
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
        predicted = names[best] if thresholds is None else _joined(names, p.numpy() >= thresholds)
        row = [dataset.ids[i] if dataset.ids else i, predicted, _text(p[best]), _text(predictions.unknown_score[i])]
        if accepted is not None:
            row.append(int(accepted[i]))
        if has_labels and dataset.is_multi_label:
            row += [_joined(names, dataset.labels[i] == 1), _text(predictions.label_score[i])]
        elif has_labels:
            label = int(dataset.labels[i])
            row += [names[label] if label >= 0 else {UNKNOWN_CLASS: "unknown"}.get(label, "")]
            row += [_text(predictions.label_score[i]) if label >= 0 else ""]
        writer.writerow(row + [_text(value) for value in p])
    write_text(out, text.getvalue())
    top_k = RunConfig.from_dict(config_record).top_k
    scores = prediction_metrics(model, predictions, dataset, top_k=top_k) if has_labels else {}
    above = None if thresholds is None else predictions.probabilities.numpy() >= thresholds
    abstention = None
    if acceptance is not None and accepted is not None:
        source = calibration or f"the test part of {run_folder}"
        abstention = record(acceptance, calibration=source, accepted=int(accepted.sum()))
    return {
        "rows": len(dataset),
        "skipped_files": dataset.skipped,
        "corruption": done,
        "abstention": abstention,
        "thresholds": None if thresholds is None else _by_class(names, thresholds),
        "labels": len(dataset) if above is None else int(above.sum()),
        **scores,
    }


def _predicts_label_sets(run_folder: Path) -> bool:
    return read_json(run_folder / METRICS).get("task") in OF_LABEL_SETS


def _held_out(config_record: dict[str, Any]) -> Dataset:
    """The samples of a run that took no part in its training."""
    data = load_run_data(RunConfig.from_dict(config_record))
    return data.test if data.validation is None else data.validation


def _thresholds_for(model: Model, held_out: Dataset, precision: float) -> NDArray[np.float64]:
    sets, has_labels = label_sets(held_out)
    if not has_labels.any():
        raise ValueError(f"{held_out.name} has no labels to choose thresholds by: give labelled data as --calibration")
    probabilities = predict(model, held_out.select(has_labels)).probabilities.numpy()
    return precision_thresholds(probabilities, sets[has_labels], precision)


def _by_class(names: tuple[str, ...], thresholds: NDArray[np.float64]) -> dict[str, float | None]:
    return {n: t if math.isfinite(t) else None for n, t in zip(names, thresholds.tolist(), strict=True)}


def _joined(names: tuple[str, ...], chosen: NDArray[np.bool_]) -> str:
    return ";".join(names[c] for c in np.flatnonzero(chosen))


def _text(value: Any) -> str:
    return f"{float(value):.6g}"
