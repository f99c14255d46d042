"""Which objective to take for one's own data, without a clean label: noisy validation splits, compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from catchment import metrics
from catchment.experiments.run import RunConfig, RunData, create_model, load_run_data
from catchment.methods import create_objective
from catchment.training.evaluation import predict
from catchment.training.loop import check_trainable, cpu_threads, train

CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cross-entropy", {}),
    ("gce", {}),
    ("nce-rce", {}),
    ("drainage", {"alpha": 1.0}),
    ("drainage", {"alpha": 0.1}),
    ("drainage", {"alpha": 0.01}),
)
# The choice is clear where each rival's p-value is at most this over the number of rivals (Bonferroni: the best of
# several is ahead of the others by chance more often than one of two).
SURE = 0.05


@dataclass(frozen=True)
class Candidate:
    """An objective, and how it did on each split.

    Args:
        objective: its name.
        parameters: of it.
        accuracy: ``(splits,)`` on the given, perhaps wrong, validation labels.
        clean_accuracy: ``(splits,)`` on the true ones, where they are known; it decides nothing.
    """

    objective: str
    parameters: dict[str, Any]
    accuracy: NDArray[np.float64]
    clean_accuracy: NDArray[np.float64] | None

    @property
    def name(self) -> str:
        """As the command line takes it: ``drainage:alpha=0.1``."""
        return describe(self.objective, self.parameters)


@dataclass(frozen=True)
class Difference:
    """How much better the chosen candidate did than another, over the same splits.

    Args:
        rival: the other's name.
        mean: of the differences in accuracy.
        standard_error: corrected for the splits' overlap.
        p_value: how likely so large a mean is if the two are equal, one-sided.
    """

    rival: str
    mean: float
    standard_error: float
    p_value: float


@dataclass(frozen=True)
class Choice:
    """What was found.

    Args:
        candidates: the best on noisy labels first.
        differences: between the first and each of the others, in the same order.
    """

    candidates: tuple[Candidate, ...]
    differences: tuple[Difference, ...]

    @property
    def chosen(self) -> Candidate:
        """The one with the largest mean accuracy on noisy validation labels."""
        return self.candidates[0]

    @property
    def tied(self) -> tuple[str, ...]:
        """The rivals that the splits can't tell from it."""
        return tuple(d.rival for d in self.differences if d.p_value > SURE / len(self.differences))

    def verdict(self) -> str:
        """What to take and how sure that is, in a sentence."""
        if not self.tied:
            return (
                f"take {self.chosen.name}: it is ahead of each other candidate beyond chance (p <= {SURE:g} over all)"
            )
        return (
            f"take {self.chosen.name}, but it is not clearly ahead of {', '.join(self.tied)}: "
            "more --splits may tell them apart, or choose among them by cost"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        against = {difference.rival: difference for difference in self.differences}
        rows = []
        for candidate in self.candidates:
            clean = candidate.clean_accuracy
            difference = against.get(candidate.name)
            rows.append(
                {
                    "objective": candidate.name,
                    "noisy_accuracy": float(candidate.accuracy.mean()),
                    "noisy_accuracies": candidate.accuracy.tolist(),
                    "clean_accuracy": None if clean is None else float(clean.mean()),
                    "behind_by": 0.0 if difference is None else difference.mean,
                    "standard_error": None if difference is None else difference.standard_error,
                    "p_value": None if difference is None else difference.p_value,
                }
            )
        return {"chosen": self.chosen.name, "tied": list(self.tied), "verdict": self.verdict(), "candidates": rows}


def choose(
    config: RunConfig,
    candidates: Sequence[tuple[str, dict[str, Any]]] = CANDIDATES,
    *,
    splits: int = 5,
    on_run: Callable[[str, int, float], None] = lambda name, split, accuracy: None,
) -> Choice:
    """Train every candidate on every split and compare their accuracy on the held-out noisy labels.

    Each split holds out ``config.validation`` of the training set (seed: the split's number); all candidates are
    trained on the same splits with the same seed, so that their differences are paired. The test part is not looked at.

    Args:
        config: data, noise, net and training; objective and parameters are the candidates'.
        candidates: pairs of a name and its parameters, two at least.
        splits: how many, two at least.
        on_run: called after each training with the candidate's name, the split and its accuracy.

    Raises:
        ValueError: there are too few candidates or splits, no validation part, or the data can't be used.
    """
    names = [describe(*candidate) for candidate in candidates]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"candidates are {', '.join(names)}: give at least two, each of them once")
    if splits < 2:
        raise ValueError(f"splits is {splits}: give at least 2, since their spread says how sure the choice is")
    if not config.validation:
        raise ValueError("nothing is held out to compare on: give validation a share above 0")
    for objective, parameters in candidates:
        create_objective(objective, num_classes=2, **parameters)
    noisy = np.zeros((len(names), splits))
    clean = np.full((len(names), splits), math.nan)
    for split in range(splits):
        seeded = replace(config, validation_seed=split, validation_labels="noisy")
        data = load_run_data(seeded)
        if data.train.is_multi_label:
            raise ValueError(f"{data.train.name} has any number of labels per sample, and choose is for one: use bench")
        for i, (objective, parameters) in enumerate(candidates):
            noisy[i, split], clean[i, split] = _accuracies(
                replace(seeded, objective=objective, parameters=parameters), data
            )
            on_run(names[i], split, noisy[i, split])
    order = np.argsort(-noisy.mean(1), kind="stable")
    ranked = []
    for i in order.tolist():
        objective, parameters = candidates[i]
        known = not np.isnan(clean[i]).any()
        ranked.append(Candidate(objective, parameters, noisy[i], clean[i] if known else None))
    differences = (_difference(ranked[0], rival, config.validation) for rival in ranked[1:])
    return Choice(tuple(ranked), tuple(differences))


def paired_difference(differences: NDArray[np.float64], validation: float) -> tuple[float, float, float]:
    r"""Mean, standard error and one-sided p-value of differences over random splits.

    The splits share most of their training samples, so that the plain standard error is too small. With k splits and
    the share v held out, the corrected one is

    .. math:: \sqrt{\left(\frac1k + \frac{v}{1 - v}\right) s^2},

    and mean over standard error is compared with Student's t with k - 1 degrees of freedom.

    Paper: Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52, 2003.

    >>> mean, error, p = paired_difference(np.array([0.01, 0.02, 0.03]), validation=0.2)
    >>> round(mean, 4), round(error, 4), round(p, 4)  # error: 0.01 * sqrt(1/3 + 0.2/0.8)
    (0.02, 0.0076, 0.0601)
    """
    k = len(differences)
    mean = float(differences.mean())
    error = math.sqrt((1 / k + validation / (1 - validation)) * float(differences.var(ddof=1)))
    if error == 0:  # the same difference in every split
        return mean, 0.0, 0.5 if mean == 0 else (0.0 if mean > 0 else 1.0)
    return mean, error, float(student_t.sf(mean / error, k - 1))


def describe(objective: str, parameters: dict[str, Any]) -> str:
    """As the command line takes it.

    >>> describe("drainage", {"alpha": 0.1})
    'drainage:alpha=0.1'
    """
    settings = ",".join(f"{key}={value:g}" for key, value in parameters.items())
    return f"{objective}:{settings}" if settings else objective


def _difference(chosen: Candidate, rival: Candidate, validation: float) -> Difference:
    return Difference(rival.name, *paired_difference(chosen.accuracy - rival.accuracy, validation))


def _accuracies(config: RunConfig, data: RunData) -> tuple[float, float]:
    """On the given validation labels, and on the clean ones (NaN where they aren't known)."""
    validation = data.validation
    if validation is None:
        raise ValueError("nothing is held out to compare on: give validation a share above 0")
    model = create_model(config, data.train)
    check_trainable(model, data.train, config.training, validation=validation)
    result = train(model, data.train, config.training, validation=validation)
    labelled = validation.select(validation.labels >= 0)
    with cpu_threads(result.threads):
        p = predict(model, labelled).probabilities
    on_clean = math.nan
    if labelled.clean_labels is not None and (labelled.clean_labels >= 0).all():
        on_clean = metrics.accuracy(p, labelled.clean_labels)
    return metrics.accuracy(p, labelled.labels), on_clean
