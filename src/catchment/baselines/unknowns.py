"""None of the known classes: scores that any trained classifier offers, and losses that learn from such samples.

Scores: higher = more likely unknown. The losses take samples labelled -1, "none of the known classes", beside others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor

from catchment.baselines.classification_loss import (
    ClassificationLoss,
    Conventions,
    Rows,
    check_hyperparameter,
    cross_entropy,
)
from catchment.kernels.class_terms import COUNT, LOG, ClassTerm
from catchment.kernels.rows import top_class
from catchment.loss_conventions import UNKNOWN_CLASS, Target, at_least_float32, reduce_loss
from catchment.objective import Method


def msp(class_logits: Tensor) -> Tensor:
    r"""Maximum softmax probability, turned round: :math:`1 - \max_c p_c`.

    Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks,
    ICLR 2017.

    Args:
        class_logits: ``(N, C, d...)``, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, from 0 to 1 - 1/C, in float32 or better.

    >>> msp(torch.tensor([[0.0, 0.0], [50.0, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    return 1 - at_least_float32(class_logits).softmax(1).amax(1)


def energy(class_logits: Tensor) -> Tensor:
    r"""Free energy at temperature 1: :math:`-\log \sum_c e^{z_c}`.

    Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020.

    Args:
        class_logits: ``(N, C, d...)``, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, any real number, in float32 or better.

    >>> energy(torch.tensor([[0.0, 0.0]])).exp()
    tensor([0.5000])
    """
    return -torch.logsumexp(at_least_float32(class_logits), 1)


def max_logit(class_logits: Tensor) -> Tensor:
    r"""Maximum logit, turned round: :math:`-\max_c z_c`.

    Hendrycks et al., Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022.

    Args:
        class_logits: ``(N, C, d...)``, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, any real number, in float32 or better.

    >>> max_logit(torch.tensor([[3.0, 1.0]]))
    tensor([-3.])
    """
    return -at_least_float32(class_logits).amax(1)


def entropy(class_logits: Tensor) -> Tensor:
    r"""Entropy of the softmax in nats: :math:`-\sum_c p_c \log p_c`.

    Args:
        class_logits: ``(N, C, d...)``, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, from 0 to log C, in float32 or better.

    >>> entropy(torch.tensor([[0.0, 0.0]]))
    tensor([0.6931])
    """
    p = at_least_float32(class_logits).softmax(1)
    return -torch.xlogy(p, p).sum(1)


def margin(class_logits: Tensor) -> Tensor:
    r"""How little the first class leads: :math:`1 - (p_{(1)} - p_{(2)})`, of the two largest probabilities.

    Args:
        class_logits: ``(N, C, d...)``, C at least 2, without outputs beyond the classes.

    Returns:
        ``(N, d...)``, from 0 to 1, in float32 or better.

    Raises:
        ValueError: there is a single class.

    >>> margin(torch.tensor([[0.5, 0.2, 0.3]]).log())
    tensor([0.8000])
    """
    if class_logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(class_logits.shape)}: a margin needs two classes or more")
    first, second = at_least_float32(class_logits).softmax(1).topk(2, dim=1).values.unbind(1)
    return 1 - (first - second)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "max_logit": max_logit,
    "energy": energy,
    "entropy": entropy,
    "margin": margin,
}


class _LearnsUnknown(ClassificationLoss):
    """Cross-entropy on the labelled samples, and something else on those labelled -1; a mean over each."""

    accepts_unknown = True
    share: float

    def seen_from(self, logits: Tensor) -> Tensor:
        """The class ``(N, d...)`` that rows of no known class are seen from."""
        raise NotImplementedError

    def of_unknown(self, rows: Rows) -> Tensor:
        """The loss of samples of no known class ``(N, 1, d...)``."""
        raise NotImplementedError

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss: a scalar, or ``(N, d...)`` with reduction "none"."""
        logits = at_least_float32(logits)
        if not _may_be_unknown(target):
            prepared = self.prepare(logits, target, self.weight)
            return reduce_loss(cross_entropy(logits, prepared), prepared, self.reduction)
        unknown = target == UNKNOWN_CLASS
        prepared = self.prepare(logits, target.long().masked_fill(unknown, self.ignore_index), self.weight)
        rows = Rows(logits, torch.where(unknown, self.seen_from(logits), prepared.labels), self.terms())
        labelled = reduce_loss(-rows.log_p.squeeze(1), prepared, self.reduction)
        as_target = Target(prepared.labels, True, ~unknown, unknown.to(logits.dtype))
        return labelled + self.share * reduce_loss(self.of_unknown(rows).squeeze(1), as_target, self.reduction)


def _may_be_unknown(target: Tensor) -> bool:
    """Whether the target can hold -1: class probabilities and unsigned integers can't."""
    return target.dtype.is_signed and not target.is_floating_point() and not target.is_complex()


class UniformLoss(_LearnsUnknown):
    r"""L_Uniform: cross-entropy, and for samples of no known class the distance of p from uniform.

    .. math:: E_{known}[-\log p_y] + \beta\, E_{unknown}[KL(U \| p)],\qquad
              KL(U \| p) = -\tfrac1C \sum_k \log p_k - \log C

    Each expectation is a mean of its own. Lee et al., Training Confidence-calibrated Classifiers for Detecting
    Out-of-Distribution Samples, ICLR 2018, without its generator; with samples of another data set it is outlier
    exposure (Hendrycks et al., Deep Anomaly Detection with Outlier Exposure, ICLR 2019). C counts the classes whose
    logit is not -inf.

    Args:
        beta: at least 0.

    >>> UniformLoss(beta=1.0)(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([-1]))  # -log(0.4) / 2 - log(2) + ...
    tensor(0.2231)
    """

    hyperparameters = ("beta",)

    def __init__(self, beta: float = 1.0, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.beta = self.share = check_hyperparameter("beta", beta, at_least=0)

    def terms(self) -> tuple[ClassTerm, ...]:
        """``log p_k``, and how many there are."""
        return (LOG, COUNT)

    def seen_from(self, logits: Tensor) -> Tensor:
        """Any class: all count alike."""
        return torch.zeros_like(logits[:, 0], dtype=torch.long)

    def of_unknown(self, rows: Rows) -> Tensor:
        """KL(U || p)."""
        num_present = rows.sum_classes(COUNT)
        return -rows.sum_classes(LOG) / num_present - num_present.log()


class MaxConfLoss(_LearnsUnknown):
    r"""L_MaxConf: cross-entropy, and for samples of no known class the log of the largest probability.

    .. math:: E_{known}[-\log p_y] + \lambda\, E_{unknown}[\max_k \log p_k]

    Each expectation is a mean of its own. The second is at least -log C. Hein, Andriushchenko and Bitterwolf, Why ReLU
    Networks Yield High-Confidence Predictions Far Away From the Training Data, CVPR 2019 (CEDA; its code divides both
    sums by the number of all samples).

    Args:
        lamb: lambda, at least 0.

    >>> MaxConfLoss()(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([-1]))  # log(0.8)
    tensor(-0.2231)
    """

    hyperparameters = ("lamb",)

    def __init__(self, lamb: float = 1.0, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.lamb = self.share = check_hyperparameter("lamb", lamb, at_least=0)

    def seen_from(self, logits: Tensor) -> Tensor:
        """The largest class."""
        return top_class(logits)

    def of_unknown(self, rows: Rows) -> Tensor:
        """max_k log p_k."""
        return rows.log_p


METHODS: tuple[Method, ...] = (
    Method(
        name="l-uniform",
        cls=UniformLoss,
        paper="Lee et al., Training Confidence-calibrated Classifiers for Detecting Out-of-Distribution Samples, ICLR",
        year=2018,
        url="https://arxiv.org/abs/1711.09325",
        formula="-log p_y; beta KL(uniform, p) where the label is -1",
        purpose="samples of none of the classes, labelled -1 (outlier exposure)",
    ),
    Method(
        name="l-maxconf",
        cls=MaxConfLoss,
        paper="Hein, Andriushchenko, Bitterwolf, Why ReLU Networks Yield High-Confidence Predictions ..., CVPR",
        year=2019,
        url="https://arxiv.org/abs/1812.05720",
        formula="-log p_y; lamb max_k log p_k where the label is -1",
        purpose="samples of none of the classes, labelled -1",
    ),
)
