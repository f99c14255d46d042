"""What a trained model says of a data set, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catchment import metrics
from catchment.baselines.multilabel import MultiLabelSoftmax
from catchment.baselines.unknowns import SCORES
from catchment.data import IGNORE_INDEX, UNKNOWN_CLASS, Dataset, ImageFiles
from catchment.objective import Model, Objective
from catchment.quasibinary import QuasibinaryLoss
from catchment.training.batches import inputs_on_device
from catchment.training.streaming import stream_in_order

# The quasibinary paper's protocol: so many classes of each sample are judged, their confidence in so many bins.
TOP_K, TOP_K_BINS = 4, 10
# From which probability on a class is said to be present.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for a data set, on the CPU.

    Args:
        logits: ``(N, C + extra_outputs)``.
        probabilities: ``(N, C)``.
        unknown_score: ``(N,)`` higher = more likely none of the classes.
        label_score: ``(N,)`` higher = the given label is more likely wrong; NaN without a label. Of many labels: that
            of the class whose presence or absence is most likely wrong.
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
    if dataset.is_multi_label:
        label_score = label_score.amax(1)
    elif label_score.ndim > 1:  # one score per class: take the given label's
        given = labels.clamp(min=0).unsqueeze(1)
        label_score = label_score.gather(1, given).squeeze(1).masked_fill(labels < 0, torch.nan)
    return Predictions(
        logits,
        objective.probabilities(logits.to(device)).cpu(),
        objective.unknown_score(logits.to(device)).cpu(),
        label_score,
    )


def prediction_metrics(
    model: Model, predictions: Predictions, dataset: Dataset, *, top_k: int = TOP_K
) -> dict[str, float]:
    """How good predictions are, by the given labels; samples of no known class count for the unknown score alone.

    Of data with one label per sample: ``accuracy``; ``ece``; ``nll`` and ``brier`` where probabilities sum to 1,
    ``ece_marginal`` where they don't; ``aurc``, of the unknown score against errors; where some samples are of no known
    class, ``unknown_mean_max_confidence``, ``unknown_auroc``, ``unknown_average_precision`` and
    ``unknown_fpr_at_95_tpr`` of the unknown score, and ``unknown_auroc_msp`` and ``unknown_auroc_energy`` of the scores
    that any softmax classifier offers (see :mod:`catchment.baselines.unknowns`); and, for objectives with outputs
    beyond the classes, ``extra_output_known`` and ``extra_output_unknown``: the share of samples whose arg-max over all
    outputs is such an output.

    Of multi-label data what ``label_set_metrics`` gives, with ``top_k``. Of either, for a quasibinary classifier,
    ``share_above_one``: of the q before clipping.
    """
    if dataset.is_multi_label:
        result = label_set_metrics(predictions, dataset, top_k=top_k)
    else:
        result = _label_metrics(model, predictions, dataset)
    if isinstance(model.objective, QuasibinaryLoss):
        share = model.objective.share_above_one(predictions.logits.to(model.objective.log_normalizer.device))
        result["share_above_one"] = float(share)
    return result


def label_set_metrics(predictions: Predictions, dataset: Dataset, *, top_k: int = TOP_K) -> dict[str, float]:
    """How good predictions of multi-label data are.

    By the ``top_k`` classes of highest probability (all, where there are fewer): ``f1_macro_at_k``, the mean of the
    classes' F1; ``f1_of_means_at_k``, the F1 of the mean precision and recall; ``ece_at_k``, of these pairs of sample
    and class, in 10 bins. By the classes of probability 0.5 or more: ``cf1``, ``of1``, ``subset_accuracy``,
    ``hamming_loss``. By the ranking of all: ``map``; where some samples have no label and some have,
    ``unlabelled_mean_max_confidence`` and ``unlabelled_auroc``, of the unknown score.
    """
    labels, probabilities = dataset.labels, predictions.probabilities.numpy()
    scores = ranking_scores(predictions)
    k = min(top_k, labels.shape[1])
    chosen = probabilities >= THRESHOLD
    result = {
        "f1_macro_at_k": metrics.f1_macro_at_k(scores, labels, k),
        "f1_of_means_at_k": metrics.f1_macro_at_k(scores, labels, k, "f1-of-means"),
        "ece_at_k": metrics.ece(probabilities, labels, bins=TOP_K_BINS, kind="top-k", k=k),
        "cf1": metrics.cf1(chosen, labels),
        "of1": metrics.of1(chosen, labels),
        "subset_accuracy": metrics.subset_accuracy(chosen, labels),
        "hamming_loss": metrics.hamming_loss(chosen, labels),
    }
    has_label = labels.any(axis=1)
    if has_label.any():
        result["map"] = metrics.mean_average_precision(scores, labels)
    if has_label.any() and not has_label.all():
        result["unlabelled_mean_max_confidence"] = metrics.mean_max_confidence(probabilities[~has_label])
        result["unlabelled_auroc"] = metrics.auroc(predictions.unknown_score, ~has_label)
    return result


def ranking_scores(predictions: Predictions) -> NDArray[np.int64]:
    """Numbers ``(N, C)`` that rank as the probabilities do, and as the logits where clipping made those equal."""
    p = predictions.probabilities.numpy()
    z = predictions.logits[:, : p.shape[1]].numpy()
    order = np.lexsort((z.ravel(), p.ravel()))
    is_higher = (np.diff(p.ravel()[order]) > 0) | (np.diff(z.ravel()[order]) > 0)
    ranks = np.empty(p.size, dtype=np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(is_higher)])
    return ranks.reshape(p.shape)


def _label_metrics(model: Model, predictions: Predictions, dataset: Dataset) -> dict[str, float]:
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
        else:
            result["ece_marginal"] = metrics.ece(p, target, kind="marginal")
        result["ece"] = metrics.ece(p, target)
        result["aurc"] = metrics.aurc(predictions.unknown_score[known], p.argmax(1) != target)
    if known.any() and unknown.any():
        judged = known | unknown
        score = predictions.unknown_score.numpy()[judged]
        result["unknown_mean_max_confidence"] = metrics.mean_max_confidence(probabilities[unknown])
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
    """How good the model is on held-out samples, for schedules and early stopping.

    ``validation_accuracy`` and ``validation_nll``, the negative log-likelihood, of the given labels; of multi-label
    data ``validation_map``.
    """
    if dataset.is_multi_label:
        scores = ranking_scores(predict(model, dataset))
        return {"validation_map": metrics.mean_average_precision(scores, dataset.labels)}
    labelled = dataset.select((dataset.labels != IGNORE_INDEX) & (dataset.labels != UNKNOWN_CLASS))
    p = predict(model, labelled).probabilities
    given = p.gather(1, torch.from_numpy(labelled.labels).unsqueeze(1)).double()
    tiny = torch.finfo(torch.float32).tiny
    return {
        "validation_accuracy": metrics.accuracy(p, labelled.labels),
        "validation_nll": float(-given.clamp(min=tiny).log().mean()),
    }


def normalizer_metrics(model: Model, dataset: Dataset) -> dict[str, float]:
    """What normalises the outputs, for the history: how steady a quasibinary C and a softmax's Z are.

    For objectives that keep a normaliser, ``log_normalizer`` (log C). For those and for a softmax of many labels,
    ``log_partition_mean`` and ``log_partition_sd``, over the samples of ``dataset``, of log Z = log sum_k exp(z_k).
    """
    objective = model.objective
    if not isinstance(objective, QuasibinaryLoss | MultiLabelSoftmax):
        return {}
    log_z = predict(model, dataset).logits.double().logsumexp(1)
    spread = {"log_partition_mean": float(log_z.mean()), "log_partition_sd": float(log_z.std(correction=0))}
    if isinstance(objective, QuasibinaryLoss):
        return {"log_normalizer": float(objective.log_normalizer), **spread}
    return spread


@torch.no_grad()
def calibrate(model: Model, dataset: Dataset) -> dict[str, float]:
    """Fit the one number with which the objective reads its logits as probabilities on held-out samples.

    Returns:
        ``temperature`` of a softmax of many labels, or ``log_normalizer`` of a quasibinary classifier.

    Raises:
        ValueError: the objective has no such number.
    """
    check_calibratable(model.objective)
    logits, labels = predict(model, dataset).logits.double(), torch.from_numpy(dataset.labels)
    if isinstance(model.objective, MultiLabelSoftmax):
        return {"temperature": model.objective.fit_temperature(logits, labels)}
    assert isinstance(model.objective, QuasibinaryLoss)
    model.objective.recalibrate([(logits, labels)])
    return {"log_normalizer": float(model.objective.log_normalizer)}


def check_calibratable(objective: Objective) -> None:
    """Raise a ValueError if ``calibrate`` has nothing to fit."""
    if not isinstance(objective, QuasibinaryLoss | MultiLabelSoftmax):
        raise ValueError(
            f"{type(objective).__name__} has nothing that held-out samples could calibrate: leave --calibrate out, or "
            "choose quasibinary or multi-label-softmax"
        )
