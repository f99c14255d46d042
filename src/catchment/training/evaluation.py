"""What a trained model says of a data set, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catchment import metrics
from catchment.baselines.unknowns import SCORES
from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS, Dataset, ImageFiles
from catchment.objective import Model
from catchment.training.batches import inputs_on_device
from catchment.training.streaming import stream_in_order


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for a data set, on the CPU.

    Args:
        logits: ``(N, C + extra_outputs)``.
        probabilities: ``(N, C)``.
        unknown_score: ``(N,)`` higher = more likely none of the classes.
        label_score: ``(N,)`` higher = the given label is more likely wrong; NaN without a label.
    """

    logits: Tensor
    probabilities: Tensor
    unknown_score: Tensor
    label_score: Tensor


@torch.no_grad()
def predict(model: Model, dataset: Dataset, *, batch_size: int = 1024, workers: int = 0) -> Predictions:
    """The model's outputs in eval mode for every row, in order.

    Images on disk are decoded by so many ``workers`` (0 chooses), and go through in batches of 128 at most.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        if isinstance(dataset.inputs, ImageFiles):
            parts = stream_in_order(dataset.inputs, device, batch_size=batch_size, workers=workers)
        else:
            parts = iter(torch.split(inputs_on_device(dataset, device), batch_size))
        logits = torch.cat([model.net(part)["logits"].float().cpu() for part in parts])
    finally:
        model.train(was_training)
    objective = model.objective
    labels = torch.from_numpy(dataset.labels)
    label_score = objective.label_score(logits.to(device), labels.to(device)).cpu()
    if label_score.ndim > 1:  # one score per class: take the given label's
        given = labels.clamp(min=0).unsqueeze(1)
        label_score = label_score.gather(1, given).squeeze(1).masked_fill(labels < 0, torch.nan)
    return Predictions(
        logits,
        objective.probabilities(logits.to(device)).cpu(),
        objective.unknown_score(logits.to(device)).cpu(),
        label_score,
    )


def prediction_metrics(model: Model, predictions: Predictions, dataset: Dataset) -> dict[str, float]:
    """How good predictions are, by the given labels; samples of no known class count for the unknown score alone.

    Keys: ``accuracy``; ``nll``, ``brier``, ``ece`` where probabilities sum to 1; ``aurc``, of the unknown score against
    errors; where some samples are of no known class, ``unknown_auroc``, ``unknown_average_precision`` and
    ``unknown_fpr_at_95_tpr`` of the unknown score, and ``unknown_auroc_msp`` and ``unknown_auroc_energy`` of the scores
    that any softmax classifier offers (see :mod:`catchment.baselines.unknowns`); and, for objectives with outputs
    beyond the classes, ``extra_output_known`` and ``extra_output_unknown``: the share of samples whose arg-max over all
    outputs is such an output.
    """
    labels = dataset.labels
    known, unknown = labels >= 0, labels == UNKNOWN_CLASS
    probabilities = predictions.probabilities.numpy()
    result: dict[str, float] = {}
    if known.any():
        p, target = probabilities[known], labels[known]
        result["accuracy"] = metrics.accuracy(p, target)
        if model.objective.exclusive:
            result["nll"] = metrics.nll(p, target)
            result["brier"] = metrics.brier(p, target)
            result["ece"] = metrics.ece(p, target)
        result["aurc"] = metrics.aurc(predictions.unknown_score[known], p.argmax(1) != target)
    if known.any() and unknown.any():
        judged = known | unknown
        score = predictions.unknown_score.numpy()[judged]
        result["unknown_auroc"] = metrics.auroc(score, unknown[judged])
        result["unknown_average_precision"] = metrics.average_precision(score, unknown[judged])
        result["unknown_fpr_at_95_tpr"] = metrics.fpr_at_tpr(score, unknown[judged], tpr=0.95)
        if model.objective.exclusive:
            class_logits = predictions.logits[torch.from_numpy(judged), : probabilities.shape[1]]
            for name, function in SCORES.items():
                result[f"unknown_auroc_{name}"] = metrics.auroc(function(class_logits), unknown[judged])
    if model.objective.extra_outputs:
        extra = predictions.logits.argmax(1).numpy() >= probabilities.shape[1]
        for name, rows in (("known", known), ("unknown", unknown)):
            if rows.any():
                result[f"extra_output_{name}"] = float(extra[rows].mean())
    return result


def wrong_labels(dataset: Dataset) -> NDArray[np.bool_] | None:
    """Which given labels differ from the clean ones, among the rows that have both; None where none are known."""
    if dataset.clean_labels is None:
        return None
    judged = (dataset.labels >= 0) & (dataset.clean_labels != IGNORE_INDEX)
    wrong: NDArray[np.bool_] = judged & (dataset.labels != dataset.clean_labels)
    return wrong


def label_score_metrics(predictions: Predictions, dataset: Dataset) -> dict[str, float]:
    """How well ``label_score`` ranks the wrong labels of a training set; empty where that can't be known.

    Keys: ``label_score_auroc``, ``label_score_average_precision``.
    """
    wrong = wrong_labels(dataset)
    if wrong is None:
        return {}
    labelled = dataset.labels >= 0
    score, wrong = predictions.label_score.numpy()[labelled], wrong[labelled]
    if wrong.all() or not wrong.any():
        return {}
    return {
        "label_score_auroc": metrics.auroc(score, wrong),
        "label_score_average_precision": metrics.average_precision(score, wrong),
    }


@torch.no_grad()
def validation_metrics(model: Model, dataset: Dataset) -> dict[str, float]:
    """Accuracy and negative log-likelihood of the given labels, for schedules and early stopping."""
    labelled = dataset.select((dataset.labels != IGNORE_INDEX) & (dataset.labels != UNKNOWN_CLASS))
    p = predict(model, labelled).probabilities
    given = p.gather(1, torch.from_numpy(labelled.labels).unsqueeze(1)).double()
    tiny = torch.finfo(torch.float32).tiny
    return {
        "validation_accuracy": metrics.accuracy(p, labelled.labels),
        "validation_nll": float(-given.clamp(min=tiny).log().mean()),
    }
