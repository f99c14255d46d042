"""Estimators for scikit-learn: every method of this library behind ``fit`` and ``predict``, with scores for labels.

The library's own loop trains them, so an estimator and a run do the same.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d
from torch import Tensor, nn

from catchment.data import IGNORE_INDEX, Dataset, InputFormat
from catchment.data.labels import shorten
from catchment.drainage import DrainageLoss
from catchment.methods import create_objective
from catchment.nets import Net, create_net, input_statistics
from catchment.objective import Model, Objective
from catchment.training.config import TrainingConfig
from catchment.training.evaluation import Predictions, predict
from catchment.training.loop import choose_device, cpu_threads, train

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        """The method of the estimator that became this function."""
        return estimator._validate_data(*args, **kwargs)


__all__ = ["DrainageClassifier", "RobustClassifier"]


class _Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What the estimators share; they differ in the objective that their constructor describes."""

    def _objective(self, num_classes: int) -> Objective:
        raise NotImplementedError

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on ``X`` with the labels ``y``, some of which may be wrong.

        Args:
            X: a table of finite numbers ``(N, D)``, or images as uint8 ``(N, H, W, 1 or 3)``.
            y: ``(N,)`` numbers or text, at least two classes. Every value is a class, -1 and -100 too.
            sample_weight: ``(N,)`` at least 0; the loss of a batch is ``sum_i w_i l_i / sum_i w_i``. Samples of weight
                0 are left out. Early stopping counts all others alike.

        Raises:
            ValueError: the data or a parameter can't be used.
        """
        rows: NDArray[Any]
        given: NDArray[Any]
        rows, given = validate_data(self, X, y, allow_nd=True, ensure_min_samples=2)
        check_classification_targets(given)
        weight = None if sample_weight is None else _sample_weight(sample_weight, rows)
        if weight is not None:
            rows, given, weight = rows[weight > 0], given[weight > 0], weight[weight > 0]
        self.classes_, labels = np.unique(given, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {shorten(self.classes_)}: give samples of at least two classes")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}: give a share between 0 and 1")
        dataset = Dataset("X", _inputs(rows), labels.astype(np.int64), tuple(map(str, self.classes_)))
        config = self._training_config()
        self.input_format_ = InputFormat.of(dataset)
        held_out = np.zeros(len(dataset), dtype=bool)
        if config.early_stopping:
            held_out = _held_out(len(dataset), self.validation_fraction, config.seed)
        training_set = dataset.select(~held_out)
        self.model_ = self._model(training_set, config.seed)
        validation = dataset.select(held_out) if config.early_stopping else None
        if weight is None:
            result = train(self.model_, training_set, config, validation=validation)
        else:
            weighted = _WeightedObjective(self.model_.objective)
            columns = {"sample_weight": torch.from_numpy(weight[~held_out])}
            model = Model(self.model_.net, weighted)
            result = train(model, training_set, config, validation=validation, columns=columns)
            weighted.restore()
        self.history_, self.reported_epoch_, self.threads_ = result.history, result.reported_epoch, result.threads
        return self

    def _training_config(self) -> TrainingConfig:
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            l1=self.l1,
            schedule=self.schedule,
            early_stopping=self.early_stopping,
            augmentation=self.augmentation,
            device=self.device,
            threads=self.threads,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
        )

    def _model(self, dataset: Dataset, seed: int) -> Model:
        """The net with seeded weights, and the objective."""
        objective, statistics = self._objective(dataset.num_classes), input_statistics(dataset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(self.net, nn.Module):
                net = _net_of_module(self.net, self.input_format_, objective, statistics)
            else:
                net = create_net(self.net, self.input_format_, objective, statistics)
        return Model(net, objective)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each sample ``(N,)``, as it was called in ``y``."""
        best = self._predictions(X).probabilities.argmax(1).numpy()
        predicted: NDArray[Any] = self.classes_[best]
        return predicted

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities ``(N, C)`` in the order of ``classes_``.

        Rows sum to 1 where the objective's classes exclude each other. With drainage they are the closed ones: the
        drainage output is left out.
        """
        return self._predictions(X).probabilities.double().numpy()

    def unknown_score(self, X: ArrayLike) -> NDArray[np.float64]:
        """How likely each sample is none of the classes ``(N,)``, higher = more likely."""
        return self._predictions(X).unknown_score.double().numpy()

    def label_quality(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """How right each label of ``y`` looks ``(N,)``, from 0, surely wrong, to 1, surely right.

        It is 1 - the objective's ``label_score``: with drainage the open probability of the label. Of samples that the
        estimator was trained on, it also says how well their labels could be learnt by heart.

        Raises:
            ValueError: ``y`` holds a label that ``fit`` has not seen.
        """
        check_is_fitted(self)
        labels = column_or_1d(y)
        unseen = ~np.isin(labels, self.classes_)
        if unseen.any():
            names = shorten(dict.fromkeys(labels[unseen]))
            raise ValueError(f"y holds labels that fit has not seen ({names}): leave those samples out, or fit on them")
        return 1 - self._predictions(X, np.searchsorted(self.classes_, labels)).label_score.double().numpy()

    def _predictions(self, X: ArrayLike, labels: NDArray[np.int64] | None = None) -> Predictions:
        """The outputs for ``X``, scored against ``labels`` where there are some."""
        check_is_fitted(self)
        inputs = _inputs(validate_data(self, X, allow_nd=True, reset=False))
        if inputs.shape[1:] != self.input_format_.shape:
            raise ValueError(
                f"X has rows of shape {inputs.shape[1:]}, and fit saw {self.input_format_.shape}: match it"
            )
        if labels is None:
            labels = np.full(len(inputs), IGNORE_INDEX)
        self.model_.to(choose_device(self.device))
        with cpu_threads(self.threads_):
            return predict(self.model_, Dataset("X", inputs, labels, self.input_format_.class_names))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, with the model on the CPU, where every machine can load it."""
        state: dict[str, Any] = super().__getstate__()
        if "model_" in state:
            state = {**state, "model_": copy.deepcopy(state["model_"]).cpu()}
        return state


class RobustClassifier(_Classifier):
    """Any objective of this library on any net, as a scikit-learn classifier.

    Args:
        objective: a name that ``catchment list objectives`` shows, or an :class:`~catchment.Objective`, of which a
            copy is trained.
        objective_parameters: of an objective given by name: ``{"alpha": 0.1}``.
        net: a name that ``catchment list nets`` shows, or a module that turns standardised inputs, tables ``(N, D)`` or
            images ``(N, C, H, W)``, into features ``(N, F)``; a copy of it is trained, and the objective adds its head.
        epochs: passes over the training set.
        batch_size: at least 2.
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: at the start.
        weight_decay: the optimiser's.
        l1: L1 penalty on all parameters.
        schedule: "cosine", "step", "plateau" or "constant".
        early_stopping: stop after so many epochs without a better accuracy on held-out samples with their given,
            perhaps wrong, labels, and take the best epoch; 0 trains on all samples until the last.
        validation_fraction: the share that early stopping holds out.
        augmentation: steps for images, ``("crop:4", "flip")`` for example.
        device: as torch names it; "auto" is CUDA where there is one.
        threads: of the CPU; 0 chooses.
        random_state: of weights, order, augmentation and the held-out samples: a whole number for the same result
            every time.

    Attributes:
        classes_: ``(C,)`` the labels, sorted.
        model_: the trained :class:`~catchment.Model`.
        history_: a dictionary per epoch, as in ``history.jsonl``.
        reported_epoch_: whose weights the model has.
        threads_: that it was trained with.
        input_format_: form of the inputs.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    >>> X, y = np.array([[0.0], [0.2], [0.8], [1.0]] * 8), ["low", "low", "high", "high"] * 8
    >>> model = RobustClassifier("cross-entropy", batch_size=4, random_state=0).fit(X, y)
    >>> model.predict([[0.1], [0.9]]).tolist()
    ['low', 'high']
    """

    def __init__(
        self,
        objective: str | Objective = "drainage",
        *,
        objective_parameters: dict[str, Any] | None = None,
        net: str | nn.Module = "auto",
        epochs: int = 30,
        batch_size: int = 64,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        schedule: str = "cosine",
        early_stopping: int = 0,
        validation_fraction: float = 0.1,
        augmentation: tuple[str, ...] = (),
        device: str = "auto",
        threads: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.objective = objective
        self.objective_parameters = objective_parameters
        self.net = net
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.l1 = l1
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.augmentation = augmentation
        self.device = device
        self.threads = threads
        self.random_state = random_state

    def _objective(self, num_classes: int) -> Objective:
        if isinstance(self.objective, Objective):
            if self.objective_parameters:
                raise ValueError("objective_parameters are of an objective given by name: leave them out")
            return copy.deepcopy(self.objective)
        return create_objective(self.objective, num_classes=num_classes, **(self.objective_parameters or {}))


class DrainageClassifier(_Classifier):
    """Drainage as a scikit-learn classifier: one more output takes the mass of wrong and ambiguous labels.

    Paper: "Drainage: A Unifying Framework for Addressing Class Uncertainty", CVPR 2026, arXiv 2512.03182.

    Args:
        alpha: weight of the mass that is not on the label, above 0; see :func:`~catchment.drainage_loss`.
        beta: weight of the other classes against drainage, at least 0; None means 1 / alpha.

    The other arguments and the attributes are those of :class:`RobustClassifier`.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float | None = None,
        *,
        net: str | nn.Module = "auto",
        epochs: int = 30,
        batch_size: int = 64,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        schedule: str = "cosine",
        early_stopping: int = 0,
        validation_fraction: float = 0.1,
        augmentation: tuple[str, ...] = (),
        device: str = "auto",
        threads: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.net = net
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.l1 = l1
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.augmentation = augmentation
        self.device = device
        self.threads = threads
        self.random_state = random_state

    def _objective(self, num_classes: int) -> Objective:
        return DrainageLoss(self.alpha, self.beta)


class _WeightedObjective(Objective):
    """An objective whose samples have weights, ``sum_i w_i l_i / sum_i w_i``, until ``restore`` is called."""

    base: Any  # an Objective that has a reduction

    def __init__(self, base: Objective) -> None:
        super().__init__()
        if not hasattr(base, "reduction"):
            raise ValueError(
                f"{type(base).__name__} has no loss for each sample to weigh: leave sample_weight out, "
                "or choose another objective"
            )
        self.base, self.former_reduction = base, base.reduction
        self.base.reduction = "none"
        self.diagnostics = base.diagnostics
        self.inputs, self.needs = base.inputs, (*base.needs, "sample_weight")
        self.extra_outputs, self.exclusive = base.extra_outputs, base.exclusive

    def setup(self, *, num_samples: int, class_counts: Tensor) -> None:
        """Set up the objective."""
        self.base.setup(num_samples=num_samples, class_counts=class_counts)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The objective's, for early stopping."""
        probabilities: Tensor = self.base.probabilities(logits)
        return probabilities

    def forward(self, *outputs_and_target: Tensor, sample_weight: Tensor, **columns: Tensor) -> Tensor:
        """The weighted mean of the samples' losses."""
        loss: Tensor = self.base(*outputs_and_target, **columns)
        return (sample_weight * loss).sum() / sample_weight.sum()

    def restore(self) -> None:
        """Give the objective its own reduction back."""
        self.base.reduction = self.former_reduction


def _sample_weight(sample_weight: ArrayLike, X: NDArray[Any]) -> NDArray[np.float32]:
    """One finite number for each sample, at least 0 and not all of them 0; a single number stands for all."""
    weight: NDArray[np.float32] = _check_sample_weight(sample_weight, X, dtype=np.float32)
    if (weight < 0).any() or not (weight > 0).any():
        raise ValueError("sample_weight holds a negative number, or nothing above 0: give weights from 0 up")
    return weight


def _inputs(X: NDArray[Any]) -> NDArray[Any]:
    """Images as they are, a table in float32."""
    if X.ndim == 4 and X.dtype == np.uint8 and X.shape[-1] in (1, 3):
        return X
    if X.ndim != 2:
        raise ValueError(f"X is {X.dtype} {X.shape}: give a table (N, D), or images as uint8 (N, H, W, 1 or 3)")
    with np.errstate(over="ignore"):
        table = X.astype(np.float32)
    if not np.isfinite(table).all():
        raise ValueError("X holds values too large for float32 (above 3.4e38): scale its columns")
    return table


def _held_out(num_samples: int, share: float, seed: int) -> NDArray[np.bool_]:
    """A random share of the samples, as a mask; at least one, and two are left."""
    count = min(max(1, round(share * num_samples)), num_samples - 2)
    if count < 1:
        raise ValueError(f"{num_samples} samples are too few to hold some out: set early_stopping=0, or give more")
    mask = np.zeros(num_samples, dtype=bool)
    mask[np.random.default_rng([seed, 1]).permutation(num_samples)[:count]] = True
    return mask


def _net_of_module(
    module: nn.Module, input_format: InputFormat, objective: Objective, statistics: tuple[Tensor, Tensor]
) -> Net:
    """A copy of a module that makes features, with the objective's head."""
    backbone = copy.deepcopy(module).float().cpu()
    shape = input_format.shape
    if input_format.kind == "image":
        shape = (shape[2], *shape[:2])
    was_training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, *shape))
    backbone.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError("the module given as net makes no features (N, F): give one without its classifier")
    mean, std = statistics
    return Net(backbone, objective.make_head(features.shape[1], len(input_format.class_names)), mean=mean, std=std)
