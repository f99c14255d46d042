"""What labels are judged by: probabilities of models that did not see the label, or saw it for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from catchment.audit.mapped import array_names, read_array
from catchment.audit.scores import Floats, chunks, disagreement, loss_of_labels, without_labels
from catchment.data import Dataset, ImageFiles, InputFormat
from catchment.experiments.run import RunConfig, create_model, load_run
from catchment.objective import Model
from catchment.training.batches import inputs_on_device
from catchment.training.loop import choose_device, train
from catchment.training.streaming import stream_in_order

_BATCH = 1024
_AUXILIARIES = ("noise_robust", "imbalance_robust")
OnEpoch = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of each sample.

    Args:
        how: where it is from, in words.
        probabilities: ``(N, C)``, an array or one on disk.
        scores: those that take more than probabilities, by name.
        features: ``(N, D)`` for nearest neighbours, where there are some.
        held_out: positions of the samples that no model was trained on, where others were; wrong labels are counted
            by these alone.
        notes: what its owner should know of, a sentence each.
    """

    how: str
    probabilities: Any
    scores: dict[str, Floats] = field(default_factory=dict)
    features: Any = None
    held_out: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of each sample, on the CPU: probabilities ``(N, C)``, label scores, features ``(N, D)``."""

    probabilities: Floats
    label_score: Floats
    features: Floats


@torch.no_grad()
def outputs(model: Model, dataset: Dataset) -> Outputs:
    """The model's outputs in eval mode for every row, in order."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        if isinstance(dataset.inputs, ImageFiles):
            parts = stream_in_order(dataset.inputs, device, batch_size=_BATCH, workers=0)
        else:
            parts = iter(torch.split(inputs_on_device(dataset, device), _BATCH))
        found = [model.net(part) for part in parts]
        logits = torch.cat([part["logits"].float() for part in found])
        features = torch.cat([part["features"].float().flatten(1).cpu() for part in found])
    finally:
        model.train(was_training)
    objective, labels = model.objective, torch.from_numpy(dataset.labels).to(device)
    label_score = objective.label_score(logits, labels).float().cpu().numpy()
    if label_score.ndim > dataset.labels.ndim:  # an objective for many labels on data with one: the given label's
        given = np.maximum(dataset.labels, 0)
        label_score = without_labels(label_score[np.arange(len(given)), given], dataset.labels)
    return Outputs(objective.probabilities(logits).float().cpu().numpy(), label_score, features.numpy())


def assign_folds(labels: NDArray[Any], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each sample ``(N,)``: the same share of each class in each, drawn at random.

    >>> np.bincount(assign_folds(np.array([0] * 6 + [1] * 3), 3, seed=0)).tolist()
    [3, 3, 3]
    """
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def out_of_fold(
    dataset: Dataset, config: RunConfig, folds: int, on_epoch: OnEpoch = lambda fold, row: None
) -> Evidence:
    """Cross-validation: each sample is judged by a model that was trained on the other folds.

    Args:
        dataset: what to judge; samples without a label are not trained on.
        config: objective, net and training settings; its data is not looked at.
        folds: how many, 2 or more.
        on_epoch: called with the fold in words and each row of its history.

    Raises:
        ValueError: there are more folds than samples, or fewer than 2; or the data can't be trained on.
    """
    if not 2 <= folds <= len(dataset):
        raise ValueError(
            f"{folds} folds of {len(dataset)} samples: give at least 2, and no more than there are samples"
        )
    fold_of = assign_folds(dataset.labels, folds, config.training.seed)
    labelled = _labelled(dataset)
    probabilities = np.empty((len(dataset), dataset.num_classes), dtype=np.float32)
    score = np.empty(dataset.labels.shape, dtype=np.float32)
    for fold in range(folds):
        held_out = fold_of == fold
        part = dataset.select(labelled & ~held_out)
        model = create_model(config, part)
        name = f"fold {fold + 1} of {folds}"
        train(model, part, config.training, on_epoch=lambda row, name=name: on_epoch(name, row))  # type: ignore[misc]
        found = outputs(model, dataset.select(held_out))
        probabilities[held_out], score[held_out] = found.probabilities, found.label_score
    return Evidence(
        f"{folds}-fold cross-validation, {config.objective}",
        probabilities,
        {"drainage": score} if config.objective == "drainage" else {},
        outputs(model, dataset).features,
        notes=_few_samples(dataset, folds),
    )


def one_run(
    dataset: Dataset, config: RunConfig, on_epoch: OnEpoch = lambda name, row: None, *, held_out: int = 10
) -> Evidence:
    """One training run, looked at after every epoch.

    Probabilities are means over the epochs: a network fits right labels early and wrong ones late, so these say more
    of the true class than the last epoch's. It still fits wrong labels, and so would count too few of them: therefore
    one sample in ``held_out`` is not trained on, and wrong labels are counted among those alone.

    Args:
        dataset: what to judge; samples without a label are not trained on.
        config: objective, net and training settings; its data is not looked at.
        on_epoch: called with what is trained, and each row of the history.
        held_out: one sample in so many is not trained on; 0 trains on all.
    """
    if held_out:
        is_held_out = assign_folds(dataset.labels, held_out, config.training.seed) == 0
    else:
        is_held_out = np.zeros(len(dataset), dtype=np.bool_)
    part = dataset.select(_labelled(dataset) & ~is_held_out)
    model = create_model(config, part)
    trajectory = Trajectory(dataset)
    train(
        model,
        part,
        config.training,
        on_epoch=lambda row: on_epoch("one run", row),
        evaluate=trajectory.look,
        evaluate_every=1,
    )
    found = trajectory.evidence(config.objective)
    return replace(found, held_out=np.flatnonzero(is_held_out) if held_out else None)


class Trajectory:
    """Means over the epochs of what a model says of each label, while it trains.

    Args:
        dataset: what to look at.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.epochs = 0
        self.probabilities = np.zeros((len(dataset), dataset.num_classes), dtype=np.float32)
        self.loss = np.zeros(dataset.labels.shape, dtype=np.float64)
        self.label_score = np.zeros(dataset.labels.shape, dtype=np.float64)
        self.last: Outputs | None = None

    def look(self, model: Model) -> dict[str, float]:
        """Take the model as it is now; returns no numbers, as ``train(evaluate=...)`` wants it."""
        self.epochs += 1
        self.last = outputs(model, self.dataset)
        # a running mean, so that sums of float32 don't lose digits
        self.probabilities += (self.last.probabilities - self.probabilities) / self.epochs
        self.loss += loss_of_labels(self.last.probabilities, self.dataset.labels)
        self.label_score += self.last.label_score
        return {}

    def evidence(self, objective: str) -> Evidence:
        """What all epochs so far say together."""
        if self.last is None:
            raise ValueError("no epoch was looked at: train with evaluate=trajectory.look and evaluate_every=1")
        scores = {"loss-trajectory": (self.loss / self.epochs).astype(np.float32)}
        if objective == "drainage":
            scores["drainage"] = self.last.label_score
            scores["drainage-trajectory"] = (self.label_score / self.epochs).astype(np.float32)
        how = f"one training run of {self.epochs} epochs, {objective}"
        return Evidence(how, self.probabilities, scores, self.last.features)


def from_run(folder: Path, dataset: Dataset, device: str = "auto") -> Evidence:
    """A finished run's model, which may have been trained on these very labels.

    Raises:
        ValueError: there is no finished run, or it takes other inputs or has other classes.
    """
    model, like, record = load_run(folder)
    form = InputFormat.of(dataset)
    if form.shape != like.shape or form.class_names != like.class_names:
        raise ValueError(
            f"{dataset.name} holds {form.describe()} of {len(form.class_names)} classes, but the run in {folder} takes "
            f"{like.describe()} of {len(like.class_names)}: give the data it was trained on, or leave --run out"
        )
    model.to(choose_device(device))
    found = outputs(model, dataset)
    scores = {"drainage": found.label_score} if record["objective"] == "drainage" else {}
    note = f"the model of {folder} may have learned wrong labels by heart: without --run, models are trained for this"
    return Evidence(f"the run in {folder}", found.probabilities, scores, found.features, notes=(note,))


def from_file(path: Path, dataset: Dataset) -> Evidence:
    """Probabilities from an ``.npz`` or ``.npy`` file, read from disk as they are needed.

    Arrays of an ``.npz`` file: ``probabilities`` ``(N, C)``, in the order of the samples and of the class names; and
    where there are any ``features`` ``(N, D)``, ``class_names`` ``(C,)`` and the probabilities of D-SINK's two
    auxiliaries, ``noise_robust`` and ``imbalance_robust``.

    Raises:
        ValueError: the arrays don't fit the data, or one another.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file: save probabilities by numpy.savez(path, probabilities=..)"
        )
    names = array_names(path)
    if names and not {"probabilities", *_AUXILIARIES} & set(names):
        raise ValueError(f"{path}: there are no probabilities in it, only {', '.join(names)}: save probabilities=...")
    arrays = {name: read_array(path, name) for name in names} if names else {"probabilities": read_array(path)}
    expected = (len(dataset), dataset.num_classes)
    for name in ("probabilities", *_AUXILIARIES):
        shape = tuple(arrays[name].shape) if name in arrays else expected
        if shape != expected:
            raise ValueError(
                f"{path}: {name} has shape {shape}, but {dataset.name} has {expected[0]} samples of {expected[1]} "
                "classes: give a row for each sample, in its order, and a column for each class"
            )
    if "class_names" in arrays:
        given = tuple(str(name) for name in arrays["class_names"][:])
        if given != dataset.class_names:
            raise ValueError(
                f"{path}: its classes are {', '.join(given[:5])}, .. and those of {dataset.name} "
                f"{', '.join(dataset.class_names[:5])}, ..: bring its columns in this order"
            )
    features = arrays.get("features")
    if features is not None and (features.ndim != 2 or len(features) != len(dataset)):
        raise ValueError(f"{path}: features have shape {features.shape}: give a row for each of {len(dataset)} samples")
    scores = {}
    if all(name in arrays for name in _AUXILIARIES):
        scores["dsink"] = disagreement(arrays["noise_robust"], arrays["imbalance_robust"], dataset.labels)
    main = arrays.get("probabilities")
    if main is None:
        main = _mean_of([arrays[name] for name in _AUXILIARIES if name in arrays], dataset.labels)
    return Evidence(f"probabilities of {path.name}", main, scores, features)


def _mean_of(several: list[Any], labels: NDArray[Any]) -> Floats:
    """The mean of the auxiliaries' probabilities."""
    mean = np.zeros(several[0].shape, dtype=np.float32)
    for one in several:
        for rows, p, _ in chunks(one, labels):
            mean[rows] += p.numpy() / len(several)
    return mean


def _labelled(dataset: Dataset) -> NDArray[np.bool_]:
    if dataset.is_multi_label:
        return np.ones(len(dataset), dtype=np.bool_)
    labelled: NDArray[np.bool_] = dataset.labels >= 0
    return labelled


def _few_samples(dataset: Dataset, folds: int) -> tuple[str, ...]:
    if dataset.is_multi_label:
        return ()
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=dataset.num_classes)
    few = [name for name, count in zip(dataset.class_names, counts, strict=True) if 0 < count < folds]
    if not few:
        return ()
    return (f"{len(few)} classes have fewer samples than there are folds ({', '.join(few[:5])}): theirs look suspect",)
