"""From which unknown score on a run's predictions say "I don't know"."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment.data import IGNORE_INDEX, Dataset
from catchment.objective import Model
from catchment.reject import Acceptance, selective_risk_threshold
from catchment.report.run_folder import read_run
from catchment.training.evaluation import predict


def calibrate(
    run_folder: Path, model: Model, calibration: Dataset | None, *, max_risk: float, delta: float
) -> Acceptance:
    """The threshold that ``selective_risk_threshold`` finds for a run's model.

    Wrong are predictions that differ from the label, and all of samples of no known class; samples without a label
    don't count.

    Args:
        run_folder: of a finished run.
        model: its model.
        calibration: labelled samples that took no part in training; None takes the run's own test part, as
            ``evaluation.npz`` holds it.
        max_risk: the share of wrong ones among accepted predictions.
        delta: how likely the promise may fail.

    Raises:
        ValueError: there are no calibration samples, too few, or some with many labels.
    """
    if calibration is None:
        evaluation = read_run(run_folder).evaluation
        if evaluation is None:
            raise ValueError(f"{run_folder} has no evaluation.npz to calibrate on: name labelled data by --calibration")
        labels, score = evaluation["test_label"], evaluation["test_unknown_score"]
        predicted = evaluation["test_predicted"]
    else:
        predictions = predict(model, calibration)
        labels, score = calibration.labels, predictions.unknown_score.numpy()
        predicted = predictions.probabilities.argmax(1).numpy()
    if labels.ndim > 1:
        raise ValueError("the calibration samples have any number of labels: --max-risk is for one label per sample")
    labelled: NDArray[np.bool_] = labels != IGNORE_INDEX
    if not labelled.any():
        raise ValueError("no calibration sample has a label: give labelled data as --calibration")
    wrong = predicted[labelled] != labels[labelled]
    return selective_risk_threshold(score[labelled], wrong, max_risk=max_risk, delta=delta)


def record(acceptance: Acceptance, *, calibration: str, accepted: int) -> dict[str, Any]:
    """What ``--json`` says of it; a threshold that accepts all or nothing is null there."""
    return {
        "accepted": accepted,
        "threshold": acceptance.threshold if math.isfinite(acceptance.threshold) else None,
        "promise": acceptance.promise,
        "calibration": calibration,
        "calibration_samples": acceptance.calibration_samples,
        "calibration_accepted": acceptance.accepted,
        "calibration_wrong": acceptance.wrong,
    }
