"""The two auxiliary models of D-SINK: finished runs, or runs done first, whose outputs become batch columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from catchment.data import Dataset, InputFormat
from catchment.objective import Model, Objective
from catchment.training.batches import Column
from catchment.training.evaluation import predict
from catchment.training.loop import choose_device

if TYPE_CHECKING:
    from catchment.experiments.run import RunConfig

# Which objective trains an auxiliary where none is named. The choice is ours: the paper's pair is unknown to us.
DEFAULTS = {"noise_robust": "gce", "imbalance_robust": "balanced-softmax"}
VIEWS = ("cached", "augmented")


def roles_needed(objective: Objective) -> tuple[str, ...]:
    """The auxiliaries that an objective takes the outputs of, without ``_logits``."""
    return tuple(role for role in DEFAULTS if f"{role}_logits" in objective.needs)


def auxiliary_columns(
    objective: Objective,
    sources: Mapping[str, str | None],
    dataset: Dataset,
    *,
    view: str,
    device: str,
    train_auxiliary: Callable[[str, str], Path],
) -> dict[str, Column]:
    """Log-probabilities ``(N, C)`` of each auxiliary that the objective needs, as batch columns.

    Args:
        objective: of the run.
        sources: role -> folder of a finished run, or an objective with parameters to train one with; None takes
            ``DEFAULTS``.
        dataset: the training set.
        view: "cached", outputs for the images as they are, computed once; or "augmented", for what the model in
            training sees, at the cost of both auxiliaries' forward passes in every step.
        device: that auxiliaries run on.
        train_auxiliary: does the run of a role with an objective; gives its folder.

    Raises:
        ValueError: an auxiliary was trained on other classes or other inputs, or can't be trained or read.
    """
    columns: dict[str, Column] = {}
    for role in roles_needed(objective):
        source = sources[role] or DEFAULTS[role]
        folder = Path(source) if Path(source).is_dir() else train_auxiliary(role, source)
        model = _load(role, folder, dataset).to(choose_device(device))
        columns[f"{role}_logits"] = (
            _log_probabilities(model, predict(model, dataset).logits).cpu() if view == "cached" else _on_view(model)
        )
    return columns


def _load(role: str, folder: Path, dataset: Dataset) -> Model:
    from catchment.experiments.run import load_run

    model, form, _ = load_run(folder)
    wanted = InputFormat.of(dataset)
    name = role.replace("_", "-")
    if form.class_names != wanted.class_names:
        raise ValueError(
            f"--{name} {folder} was trained on other classes than {dataset.name} has: give a run on the same data"
        )
    if (form.kind, form.shape) != (wanted.kind, wanted.shape):
        raise ValueError(f"--{name} {folder} takes {form.describe()}, not {wanted.describe()}: give a run on those")
    if not model.objective.exclusive:
        raise ValueError(f"--{name} {folder} gives probabilities that don't sum to 1: give a run for one label each")
    return model.eval()


def _log_probabilities(model: Model, logits: Tensor) -> Tensor:
    """Of the classes alone, whatever outputs the objective adds."""
    probabilities = model.objective.probabilities(logits.to(next(model.parameters()).device))
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def _on_view(model: Model) -> Column:
    def column(inputs: Tensor, index: Tensor) -> Tensor:
        return _log_probabilities(model, model.net(inputs)["logits"])

    return column


def final_labels(objective: Objective, logits: Tensor, columns: Mapping[str, Column]) -> dict[str, Any] | None:
    """The transported labels of the whole training set at the end, and how they were had; None for other objectives.

    Keys: ``labels`` (N, C), ``potential`` (C,), ``error``, ``converged``, ``asked`` and ``reached`` (C,) class totals.
    """
    from catchment.dsink import DSinkLoss, dsink_labels

    noise_robust, imbalance_robust = (columns.get(f"{role}_logits") for role in DEFAULTS)
    if not isinstance(objective, DSinkLoss) or objective.teacher != "transport":
        return None
    if not isinstance(noise_robust, Tensor) or not isinstance(imbalance_robust, Tensor):
        return None
    of_classes = objective.probabilities(logits.cpu()).clamp(min=torch.finfo(torch.float32).tiny).log()
    solved = dsink_labels(
        noise_robust,
        of_classes,
        imbalance_robust,
        kl_weights=objective.kl_weights,
        min_prob=objective.min_prob,
        **objective.solver,
    )
    labels = solved.labels
    assert labels is not None
    return {
        "labels": labels,
        "potential": solved.potential.tolist(),
        "error": solved.error,
        "converged": solved.converged,
        "asked": imbalance_robust.softmax(1).sum(0, dtype=torch.float64).tolist(),
        "reached": labels.sum(0, dtype=torch.float64).tolist(),
    }


def auxiliary_config(config: RunConfig, objective: str) -> RunConfig:
    """The run that trains an auxiliary: the same in all but its objective.

    Args:
        config: of the run that needs it.
        objective: a name with parameters, ``gce:q=0.7``.
    """
    from dataclasses import replace

    from catchment.methods import parse_objective

    name, parameters = parse_objective(objective)
    return replace(
        config, objective=name, parameters=parameters, noise_robust=None, imbalance_robust=None, eval_every=0
    )
