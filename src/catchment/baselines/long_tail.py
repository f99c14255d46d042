"""Losses for classes of very unequal size.

Each needs the number of training samples of each class, which ``setup`` gives; outside the training loop give
``class_counts``. The counts are those of the labels as given: where labels are wrong too, the observed counts are
flatter than the true ones.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catchment.baselines.classification_loss import (
    ClassificationLoss,
    Conventions,
    Rows,
    check_hyperparameter,
    cross_entropy,
)
from catchment.loss_conventions import IGNORE_INDEX, Target, at_least_float32, reduce_loss
from catchment.objective import Method


class _KnowsCounts(ClassificationLoss):
    """A loss that knows how many samples each class has; the counts are saved with the model."""

    class_counts: Tensor | None

    def __init__(self, class_counts: Tensor | None, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.counts_given = class_counts is not None
        self.register_buffer("class_counts", None if class_counts is None else _checked_counts(class_counts))

    def setup(self, *, num_samples: int, class_counts: Tensor) -> None:
        """Take the training set's counts, unless counts were given."""
        if not self.counts_given:
            self.class_counts = _checked_counts(class_counts)

    def _counts(self, logits: Tensor) -> Tensor:
        """The counts ``(C,)`` in the logits' dtype."""
        if self.class_counts is None:
            name = type(self).__name__
            raise ValueError(f"{name} does not know the class counts: give class_counts=, or call setup() first")
        if logits.ndim > 1 and len(self.class_counts) != logits.shape[1]:
            raise ValueError(
                f"class_counts are for {len(self.class_counts)} classes and the logits for {logits.shape[1]}: "
                "give one count for each class"
            )
        return self.class_counts.to(logits.dtype)


def _checked_counts(class_counts: Tensor) -> Tensor:
    counts = torch.as_tensor(class_counts).float()
    if counts.ndim != 1 or not (counts >= 0).all() or not counts.sum() > 0:
        raise ValueError(f"class_counts are {counts.tolist()}: give (C,) numbers of samples, at least 0, not all 0")
    return counts


class LogitAdjustment(_KnowsCounts):
    r"""Logit-adjusted cross-entropy: cross-entropy of :math:`z_c + \tau \log \pi_c`, with the class shares pi.

    Inference uses z itself, which then balances the classes. A class without samples counts as absent in training.
    Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021.

    Args:
        tau: any finite number of at least 0; 0 is cross-entropy.
        class_counts: ``(C,)`` training samples of each class; None takes those of ``setup``.

    >>> LogitAdjustment(class_counts=torch.tensor([3, 1]))(torch.zeros(1, 2), torch.tensor([1]))  # -log(1 / 4)
    tensor(1.3863)
    """

    hyperparameters = ("tau",)

    def __init__(
        self, tau: float = 1.0, *, class_counts: Tensor | None = None, **conventions: Unpack[Conventions]
    ) -> None:
        super().__init__(class_counts, **conventions)
        self.tau = check_hyperparameter("tau", tau, at_least=0)

    def per_sample(self, logits: Tensor, target: Target) -> Tensor:
        """Cross-entropy of z + tau log pi."""
        counts = self._counts(logits)
        if self.tau == 0:
            return cross_entropy(logits, target)
        return cross_entropy(logits + _along_classes(self.tau * (counts / counts.sum()).log(), logits), target)


class BalancedSoftmax(_KnowsCounts):
    r"""Balanced softmax: cross-entropy of :math:`z_c + \log n_c`, with the class counts n.

    It equals ``LogitAdjustment`` with tau = 1. Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition,
    NeurIPS 2020.

    Args:
        class_counts: ``(C,)`` training samples of each class; None takes those of ``setup``.

    >>> BalancedSoftmax(class_counts=torch.tensor([3, 1]))(torch.zeros(1, 2), torch.tensor([0]))  # -log(3 / 4)
    tensor(0.2877)
    """

    def __init__(self, *, class_counts: Tensor | None = None, **conventions: Unpack[Conventions]) -> None:
        super().__init__(class_counts, **conventions)

    def per_sample(self, logits: Tensor, target: Target) -> Tensor:
        """Cross-entropy of z + log n."""
        return cross_entropy(logits + _along_classes(self._counts(logits).log(), logits), target)


def _along_classes(per_class: Tensor, logits: Tensor) -> Tensor:
    """``(C,)`` -> ``(C, 1...)``, to be added to logits ``(N, C, d...)``."""
    return per_class.reshape(-1, *[1] * (logits.ndim - 2))


def class_balanced_weights(class_counts: Tensor, beta: float = 0.9999) -> Tensor:
    r"""Class weights by the effective number of samples: :math:`(1 - \beta) / (1 - \beta^{n_c})`, scaled to sum to C.

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.

    Args:
        class_counts: ``(C,)`` samples of each class; a class without any gets weight 0.
        beta: from 0 (all weights 1) to below 1 (towards 1 / n_c).

    Returns:
        ``(C,)`` in float64.

    >>> class_balanced_weights(torch.tensor([2, 1]), beta=0.5)  # 0.5 / 0.75 and 0.5 / 0.5, times 2 / (5 / 3)
    tensor([0.8000, 1.2000], dtype=torch.float64)
    """
    return _effective_weights(_checked_counts(class_counts).double(), _check_share(beta))


def _effective_weights(counts: Tensor, beta: float) -> Tensor:
    # 1 - beta^n without cancellation; log(0) = -inf is right too, but Python refuses it
    effective = -torch.expm1(counts * (math.log(beta) if beta > 0 else -math.inf))
    weights = torch.where(counts > 0, 1 / effective, 0.0)
    return weights * (len(counts) / weights.sum())


def _check_share(beta: float) -> float:
    beta = check_hyperparameter("beta", beta, at_least=0, at_most=1)
    if beta == 1:
        raise ValueError("beta is 1: give a number from 0 to below 1, such as 0.9999")
    return beta


class ClassBalanced(_KnowsCounts):
    """Cross-entropy with class weights by the effective number of samples (see ``class_balanced_weights``).

    The mean divides by the sum of the sample weights, as for every loss here. Cui et al., Class-Balanced Loss Based on
    Effective Number of Samples, CVPR 2019.

    Args:
        beta: from 0 (cross-entropy) to below 1.
        class_counts: ``(C,)`` training samples of each class; None takes those of ``setup``.

    >>> loss = ClassBalanced(0.5, class_counts=torch.tensor([2, 1]), reduction="none")
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))  # 0.8 and 1.2 times log(2)
    tensor([0.5545, 0.8318])
    """

    hyperparameters = ("beta",)

    def __init__(
        self,
        beta: float = 0.9999,
        *,
        class_counts: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: str = "mean",
    ) -> None:
        super().__init__(class_counts, ignore_index=ignore_index, reduction=reduction)
        self.beta = _check_share(beta)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss: a scalar, or ``(N, d...)`` with reduction "none"."""
        logits = at_least_float32(logits)
        weight = _effective_weights(self._counts(logits), self.beta)
        prepared = self.prepare(logits, target, weight)
        return reduce_loss(cross_entropy(logits, prepared), prepared, self.reduction)


class LDAM(_KnowsCounts):
    r"""Label-distribution-aware margins: cross-entropy of :math:`s\,(z_c - m_y [c = y])`, then re-weighted.

    The margins are m_c = max_margin (n_min / n_c)^(1/4). From the share ``reweight_from`` of training on, samples have
    the weights of ``class_balanced_weights`` (deferred re-weighting, DRW). The logits are meant to be cosines, as from
    its head; ``probabilities`` are the softmax of s z. A class without samples counts as one of one sample.
    Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019.

    Args:
        max_margin: m of the smallest class, at least 0.
        scale: s, above 0.
        beta: of the re-weighting, from 0 (none) to below 1.
        reweight_from: share of training, 0 to 1; 1 never re-weights. 0.8 is epoch 160 of 200.
        class_counts: ``(C,)`` training samples of each class; None takes those of ``setup``.

    As input:
        logits ``(N, C, d...)``, target, and ``progress``, the share of training that is done.

    >>> loss = LDAM(max_margin=0.5, scale=2.0, class_counts=torch.tensor([16, 1]))
    >>> loss(torch.zeros(1, 2), torch.tensor([0]), progress=torch.tensor(0.0))  # log(1 + exp(2 * 0.25))
    tensor(0.9741)
    """

    needs = ("progress",)
    hyperparameters = ("max_margin", "scale", "beta", "reweight_from")

    def __init__(
        self,
        max_margin: float = 0.5,
        scale: float = 30.0,
        beta: float = 0.9999,
        *,
        reweight_from: float = 0.8,
        class_counts: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: str = "mean",
    ) -> None:
        super().__init__(class_counts, ignore_index=ignore_index, reduction=reduction)
        self.max_margin = check_hyperparameter("max_margin", max_margin, at_least=0)
        self.scale = check_hyperparameter("scale", scale, above=0)
        self.beta = _check_share(beta)
        self.reweight_from = check_hyperparameter("reweight_from", reweight_from, at_least=0, at_most=1)

    def make_head(self, in_features: int, num_classes: int) -> nn.Module:
        """A ``NormalizedLinear``."""
        return NormalizedLinear(in_features, num_classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of s z ``(N, C, d...)``, without margins."""
        return (self.scale * at_least_float32(logits)).softmax(1)

    def forward(  # type: ignore[override]  # one column more
        self, logits: Tensor, target: Tensor, *, progress: Tensor
    ) -> Tensor:
        """The loss: a scalar, or ``(N, d...)`` with reduction "none"."""
        logits = at_least_float32(logits)
        weights = _effective_weights(self._counts(logits), self.beta)
        deferred = torch.as_tensor(progress, device=weights.device) < self.reweight_from
        prepared = self.prepare(logits, target, torch.where(deferred, 1.0, weights))
        return reduce_loss(self.per_sample(logits, prepared), prepared, self.reduction)

    def per_sample(self, logits: Tensor, target: Target) -> Tensor:
        """log(1 + sum over the others of exp(s (z_k - z_c + m_c)))."""
        return super().per_sample(self.scale * logits, target)

    def per_class(self, rows: Rows) -> Tensor:
        """log(1 + e^(r_c + s m_c)), where r_c is of s z."""
        counts = self._counts(rows.logits).clamp(min=1.0)
        margins = self.max_margin * (counts.amin() / counts) ** 0.25
        return -F.logsigmoid(-(rows.log_odds + self.scale * rows.pick(margins)))


class NormalizedLinear(nn.Module):
    """Cosines between features and class vectors: ``(..., D)`` -> ``(..., C)`` in [-1, 1].

    Args:
        in_features: D.
        num_classes: C.

    >>> head = NormalizedLinear(4, 3)
    >>> bool((head(torch.randn(5, 4)).abs() <= 1 + 1e-6).all())
    True
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.normal_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """The cosines."""
        return F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


_LDAM_TRAINING: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.1,
    "weight_decay": 2e-4,
    "l1": 0.0,
    "clip_norm": 0.0,
    "epochs": 200,
    "batch_size": 128,
    "schedule": "step",
    "step_size": 160,
    "step_factor": 0.01,
}
_LDAM_PRESET = {"objective": {"max_margin": 0.5, "scale": 30.0, "beta": 0.9999}, "training": _LDAM_TRAINING}

METHODS: tuple[Method, ...] = (
    Method(
        name="logit-adjustment",
        cls=LogitAdjustment,
        paper="Menon et al., Long-tail Learning via Logit Adjustment, ICLR",
        year=2021,
        url="https://arxiv.org/abs/2007.07314",
        formula="CE of z + tau log(share of each class)",
        purpose="rare classes",
    ),
    Method(
        name="balanced-softmax",
        cls=BalancedSoftmax,
        paper="Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/2007.10740",
        formula="CE of z + log(count of each class)",
        purpose="rare classes; logit adjustment with tau 1",
    ),
    Method(
        name="ldam",
        cls=LDAM,
        paper="Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS",
        year=2019,
        url="https://arxiv.org/abs/1906.07413",
        formula="CE of s (z - m_y at the label), m_c ~ n_c^(-1/4); weighted from 80 % of training on",
        purpose="rare classes",
        presets={"cifar10": _LDAM_PRESET, "cifar100": _LDAM_PRESET},
    ),
    Method(
        name="class-balanced",
        cls=ClassBalanced,
        paper="Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR",
        year=2019,
        url="https://arxiv.org/abs/1901.05555",
        formula="-w_y log p_y, w_c ~ (1 - beta) / (1 - beta^n_c)",
        purpose="rare classes",
    ),
)
