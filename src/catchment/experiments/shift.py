"""A trained classifier where the test images shift: accuracy and calibration by corruption and severity."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from catchment import metrics
from catchment.baselines.shift import adapt_batch_norm, tent
from catchment.data import Dataset, ImageFiles
from catchment.disturb.corruptions import SEVERITIES, corrupt, size_of
from catchment.experiments.corruption import parse_corruptions
from catchment.files import csv_text
from catchment.nearest import did_you_mean
from catchment.objective import Model
from catchment.quantile import QuantileActivation, QuantileClassifier, adapt_context, set_context
from catchment.report.shift import drops, key

NAME = "shift.csv"
CLEAN = "clean"  # severity 0
ALL_SEVERITIES = tuple(range(1, SEVERITIES + 1))
ADAPTATIONS = {
    "none": "as trained: stored statistics, each sample by itself",
    "batch": "quantile activation in the context of the batch",
    "context": "quantile activation in the context of all test images (adapt_context)",
    "batchnorm": "BatchNorm with the statistics of the batch, and quantile activation in its context",
    "tent": "the same, and TENT from batch to batch",
}
LAST_LAYERS = ("logistic", "quantile")
MEASURES = ("accuracy", "ece", "ece_marginal", "map_at_k")
BATCH = 200  # images that are adapted to at once
# Neighbours that MAP@K looks at (the paper doesn't state its K), of so many images, as each is compared with all.
MAP_K, RETRIEVED = 100, 2000


class Reading(NamedTuple):
    """How a trained network is read: what adapts it, and a last layer fitted anew on the training embeddings."""

    adaptation: str
    last_layer: str | None


@dataclass(frozen=True)
class ShiftRow:
    """The numbers of one reading of a network on one test set.

    Args:
        adaptation: the reading, ``ADAPTATION`` or ``ADAPTATION/LAST_LAYER``.
        corruption: its name; "clean" for the images as they are.
        severity: 1 to 5; 0 for the clean images.
        samples: how many images.
        accuracy: share of right predictions.
        ece: expected calibration error of the top label, 15 bins.
        ece_marginal: the mean over classes of the calibration error of each.
        map_at_k: mean average precision of retrieval by the features at ``MAP_K``; NaN where no class has two samples.
    """

    adaptation: str
    corruption: str
    severity: int
    samples: int
    accuracy: float
    ece: float
    ece_marginal: float
    map_at_k: float


def parse_adaptation(text: str) -> Reading:
    """The reading that ``batch/quantile`` names.

    >>> parse_adaptation("batch/quantile")
    Reading(adaptation='batch', last_layer='quantile')
    """
    name, slash, layer = text.partition("/")
    if name not in ADAPTATIONS:
        raise ValueError(f"there is no adaptation {name!r}: {did_you_mean(name, ADAPTATIONS, 'choose one of')}")
    if slash and layer not in LAST_LAYERS:
        raise ValueError(f"there is no last layer {layer!r}: {did_you_mean(layer, LAST_LAYERS, 'choose one of')}")
    return Reading(name, layer or None)


@dataclass(frozen=True)
class Shift:
    """Under which shift, and how, a network is judged.

    Args:
        corruptions: names with commas, "benchmark" (15) or "all" (19).
        severities: of each, from 1 to 5, rising.
        adaptations: readings of the network, each as ``parse_adaptation`` takes it.
        size: whose constants of the corruptions; None: by the images' side.
        samples: how many test images to take, the same for all; 0 takes all.

    Raises:
        ValueError: a name or a number is not one of these.
    """

    corruptions: str
    severities: tuple[int, ...] = ALL_SEVERITIES
    adaptations: tuple[str, ...] = ("none",)
    size: str | None = None
    samples: int = 0

    def __post_init__(self) -> None:
        parse_corruptions(self.corruptions)
        whole = all(isinstance(severity, int) and severity in ALL_SEVERITIES for severity in self.severities)
        if not self.severities or not whole or list(self.severities) != sorted(set(self.severities)):
            raise ValueError(
                f"severities are {', '.join(map(str, self.severities)) or 'empty'}: "
                f"give rising whole numbers from 1 to {SEVERITIES}"
            )
        for adaptation in self.adaptations:
            parse_adaptation(adaptation)
        if not self.adaptations or len(set(self.adaptations)) < len(self.adaptations):
            raise ValueError(f"adaptations are {', '.join(self.adaptations) or 'empty'}: give each once, none at least")
        if self.samples < 0:
            raise ValueError(f"shift_samples is {self.samples}: give a whole number of at least 0")

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions by name."""
        return parse_corruptions(self.corruptions)


def check_shift(shift: Shift, model: Model, test: Dataset) -> None:
    """Raise a ValueError if the test images can't be corrupted so, or the network can't be adapted so."""
    images = _images(test)
    size = shift.size or size_of(images.shape[1])
    for name, severity in itertools.product(shift.names, shift.severities):
        corrupt(images[:1], name, severity, size)
    kinds = {parse_adaptation(adaptation).adaptation for adaptation in shift.adaptations}
    if kinds & {"batch", "context"} and not _has(model.net, QuantileActivation):
        named = ", ".join(sorted(kinds & {"batch", "context"}))
        raise ValueError(f"adaptation {named} is of quantile activation, which this net has not: choose another")
    if kinds & {"batchnorm", "tent"} and not _has(model.net, _BatchNorm):
        named = ", ".join(sorted(kinds & {"batchnorm", "tent"}))
        raise ValueError(f"adaptation {named} is of BatchNorm, which this net has not: choose another")
    if "tent" in kinds and not model.objective.exclusive:
        raise ValueError(
            f"adaptation tent takes the entropy of probabilities, and those of {type(model.objective).__name__} don't "
            "sum to 1: choose batchnorm"
        )


def evaluate_shift(shift: Shift, model: Model, test: Dataset, train: Dataset | None = None) -> list[ShiftRow]:
    """Judge a trained model on clean and on corrupted test images, adapted in each of the ways asked for.

    Test images of a known class are shuffled once (seed 0) and come in batches of ``BATCH``; image k is corrupted as
    image k of the test set with seed 0. Each test set is adapted to anew, from the model as it was trained, which is
    left alone.

    Args:
        shift: what to judge under.
        model: the trained model; its net gives "features" beside "logits".
        test: images in memory, one label each.
        train: what last layers are fitted on; needed where a reading has one.

    Raises:
        ValueError: see ``check_shift``.
    """
    check_shift(shift, model, test)
    images = _images(test)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(test.labels >= 0))
    rows = rows[: shift.samples] if shift.samples else rows
    images, labels = images[rows], test.labels[rows]
    device = next(model.parameters()).device
    size = shift.size or size_of(images.shape[1])
    readings = {text: parse_adaptation(text) for text in shift.adaptations}
    layers = _fitted_layers({reading.last_layer for reading in readings.values()} - {None}, model, train)
    found: list[ShiftRow] = []
    conditions = [(CLEAN, 0), *itertools.product(shift.names, shift.severities)]
    for name, severity in conditions:
        shown = images
        if severity:
            where = "cuda" if device.type == "cuda" else "cpu"
            shown = corrupt(images, name, severity, size, index=rows, device=where)
        batches = _batches(shown, device)
        outputs = {
            kind: _adapted(model, batches, kind) for kind in dict.fromkeys(r.adaptation for r in readings.values())
        }
        for text, reading in readings.items():
            logits, features = outputs[reading.adaptation]
            if reading.last_layer is None:
                p = model.objective.probabilities(logits).cpu()
            else:
                p = layers[reading.last_layer](features)
            found.append(ShiftRow(text, name, severity, len(labels), *_measures(p, features, labels)))
    return sorted(found, key=lambda row: shift.adaptations.index(row.adaptation))


def _measures(probabilities: Tensor, features: Tensor, labels: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """In the order of ``MEASURES``."""
    near = features[:RETRIEVED].cpu()
    has_pairs = bool(np.bincount(labels[:RETRIEVED]).max(initial=0) > 1)
    return (
        metrics.accuracy(probabilities, labels),
        metrics.ece(probabilities, labels),
        metrics.ece(probabilities, labels, kind="marginal"),
        metrics.map_at_k(near, labels[:RETRIEVED], MAP_K) if has_pairs else float("nan"),
    )


def _adapted(model: Model, batches: list[Tensor], adaptation: str) -> tuple[Tensor, Tensor]:
    """(logits, features) of all batches, as predicted by a copy of the model that is adapted to them."""
    adapted = copy.deepcopy(model).eval()
    if _has(adapted.net, QuantileActivation):
        set_context(adapted.net, "running" if adaptation == "none" else "batch")
    if adaptation == "context":
        adapt_context(adapted.net, batches)
    features: list[Tensor] = []

    def keep(net: nn.Module, args: tuple[Tensor], outputs: Mapping[str, Tensor]) -> None:
        features.append(outputs["features"].detach().float())

    adapted.net.register_forward_hook(keep)  # stays on copies of this copy, and every batch is seen once
    if adaptation == "batchnorm":
        logits = adapt_batch_norm(adapted, batches).logits
    elif adaptation == "tent":
        logits = tent(adapted, batches).logits
    else:
        with torch.no_grad():
            logits = torch.cat([adapted.net(batch)["logits"] for batch in batches])
    return logits.float(), torch.cat(features)


def _fitted_layers(
    kinds: set[str | None], model: Model, train: Dataset | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """What gives the classes' probabilities of features, fitted on the features of the training images as trained."""
    if not kinds:
        return {}
    if train is None:
        raise ValueError("a last layer is fitted on the training images: give them")
    known = np.flatnonzero(train.labels >= 0)
    device = next(model.parameters()).device
    _, features = _adapted(model, _batches(_images(train)[known], device), "none")
    target = torch.from_numpy(train.labels[known]).to(device)
    layers: dict[str, Callable[[Tensor], Tensor]] = {}
    if "logistic" in kinds:
        layers["logistic"] = _logistic(features, target, train.num_classes)
    if "quantile" in kinds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            classifier = QuantileClassifier(features.shape[1], train.num_classes).to(device)
        layers["quantile"] = _without_gradient(classifier.fit(features, target))
    return layers


def _without_gradient(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def probabilities(features: Tensor) -> Tensor:
        found: Tensor = layer(features).cpu()
        return found

    return probabilities


def _logistic(features: Tensor, target: Tensor, num_classes: int) -> Callable[[Tensor], Tensor]:
    """Scikit-learn's logistic regression on standardised features; a class that it never saw has probability 0."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(features.cpu().numpy(), target.cpu().numpy())

    def probabilities(features: Tensor) -> Tensor:
        found = torch.zeros(len(features), num_classes, dtype=torch.float64)
        found[:, torch.from_numpy(regression.classes_)] = torch.from_numpy(
            regression.predict_proba(features.cpu().numpy())
        ).double()
        return found

    return probabilities


def _images(dataset: Dataset) -> NDArray[np.uint8]:
    if not dataset.is_image or isinstance(dataset.inputs, ImageFiles):
        kind = "a table" if not dataset.is_image else "images on disk"
        raise ValueError(f"{dataset.name} is {kind}, and corruptions are of images in memory: leave corruptions out")
    if dataset.is_multi_label:
        raise ValueError(f"{dataset.name} has several labels for an image: leave corruptions out")
    images: NDArray[np.uint8] = dataset.inputs
    return images


def _batches(images: NDArray[np.uint8], device: torch.device) -> list[Tensor]:
    """uint8 ``(n, C, H, W)`` each; a rest of a few images joins the batch before it."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous().to(device)
    return list(torch.tensor_split(x, max(1, round(len(x) / BATCH))))


def _has(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


# ---- summaries


def summarise(rows: Sequence[ShiftRow]) -> dict[str, float]:
    """The numbers for ``metrics.json``: means over corruptions by severity, and the accuracy drops.

    For each reading and each of ``MEASURES``: ``shift_MEASURE_S``, the mean over the corruptions at severity S (0, the
    clean images), ``shift_MEASURE_sd_S``, their standard deviation, and ``shift_MEASURE``, the mean over severities
    above 0; ``shift_drop_I_J`` as ``drops`` has it. Readings other than "none" stand in the name:
    ``shift_tent_accuracy_5``.
    """
    found: dict[str, float] = {}
    for adaptation in dict.fromkeys(row.adaptation for row in rows):
        own = [row for row in rows if row.adaptation == adaptation]
        for measure in MEASURES:
            means = {}
            for severity in sorted({row.severity for row in own}):
                values = np.array([getattr(row, measure) for row in own if row.severity == severity])
                means[severity] = float(values.mean())
                found[key(adaptation, measure, severity)] = means[severity]
                if len(values) > 1:
                    found[key(adaptation, measure, "sd", severity)] = float(values.std(ddof=1))
            found[key(adaptation, measure)] = float(np.mean([mean for s, mean in means.items() if s > 0]))
            if measure == "accuracy":
                found |= {key(adaptation, "drop", i, j): drop for (i, j), drop in drops(means).items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def to_csv(rows: Sequence[ShiftRow]) -> str:
    """All rows, as ``shift.csv`` holds them."""
    return csv_text([asdict(row) for row in rows])
