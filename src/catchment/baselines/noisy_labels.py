"""Losses for wrong labels that the papers compare with.

Written for a class c with the symbols of ``classification_loss``: p_c, log p_c, and sums over the other classes. Each
constructor takes the symbols of its paper, then ``weight``, ``ignore_index`` and ``reduction``
(see ``ClassificationLoss``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from catchment.baselines.classification_loss import (
    ClassificationLoss,
    Conventions,
    Rows,
    check_hyperparameter,
    cross_entropy,
)
from catchment.kernels.class_terms import (
    COUNT,
    LOG,
    P_LOG_P,
    SQUARE,
    ClassTerm,
    focal_above,
    focal_log,
    log_above,
    shortfall,
)
from catchment.kernels.rows import label_log_odds, top_class
from catchment.loss_conventions import IGNORE_INDEX, Target, at_least_float32, reduce_loss
from catchment.objective import Method


class CrossEntropy(ClassificationLoss):
    r"""Cross-entropy, :math:`-\log p_y`, or :math:`-\sum_c y_c \log p_c` for class probabilities.

    As ``torch.nn.CrossEntropyLoss``, with four departures: it computes in float32 or better and returns that, an
    empty or fully ignored batch gives 0 instead of NaN, a class at -inf with y_c = 0 contributes 0, and with class
    probabilities a class weight makes the sample's weight ``sum_c w_c y_c`` (torch weighs each term by w_c, and
    divides the mean by N).

    Args:
        weight: ``(C,)`` class weights.
        ignore_index: samples with this label are left out.
        reduction: "mean" (divided by the sample weights' sum), "sum" or "none".

    As input:
        logits ``(N, C, d...)``; target ``(N, d...)`` class indices or ``(N, C, d...)`` class probabilities.

    Raises:
        ValueError: shapes, dtypes or labels don't fit.

    >>> import torch
    >>> CrossEntropy()(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """

    def per_sample(self, logits: Tensor, target: Target) -> Tensor:
        """-log p_y."""
        return cross_entropy(logits, target)


class FocalLoss(ClassificationLoss):
    r"""Focal loss, :math:`-(1 - p_y)^\gamma \log p_y`. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

    Args:
        gamma: at least 0; 0 is cross-entropy.
        detach_factor: take no gradient through (1 - p_y)^gamma, as the code behind the published noisy-label numbers.

    >>> FocalLoss(gamma=2.0)(torch.zeros(1, 2), torch.tensor([0]))  # 0.5 ** 2 * log(2)
    tensor(0.1733)
    """

    hyperparameters = ("gamma", "detach_factor")

    def __init__(self, gamma: float = 2.0, *, detach_factor: bool = False, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.gamma = check_hyperparameter("gamma", gamma, at_least=0)
        self.detach_factor = bool(detach_factor)

    def per_class(self, rows: Rows) -> Tensor:
        """-(1 - p_c)^gamma log p_c."""
        return _focal_of_label(rows, self.gamma, self.detach_factor)


def _focal_of_label(rows: Rows, gamma: float, detach_factor: bool) -> Tensor:
    """-(1 - p_c)^gamma log p_c, exact as p_c -> 1, where the power has no derivative for gamma < 1."""
    if gamma == 0:
        return -rows.log_p
    factor = (gamma * rows.log_not_p).exp()
    log_p = rows.log_p
    impossible = log_p.isneginf()  # the factor's derivative would be infinite
    loss = -(factor.detach() if detach_factor else factor) * log_p.masked_fill(impossible, 0.0)
    return loss.masked_fill(impossible, torch.inf)


class MAE(ClassificationLoss):
    r"""Mean absolute error halved, :math:`1 - p_y`, which is :math:`\tfrac12 \sum_k |p_k - [k = y]|`.

    Ghosh, Kumar and Sastry, Robust Loss Functions under Label Noise for Deep Neural Networks, AAAI 2017.

    >>> MAE()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    def per_class(self, rows: Rows) -> Tensor:
        """1 - p_c."""
        return rows.not_p


class MSE(ClassificationLoss):
    r"""Squared error of the probabilities (Brier score), :math:`\sum_k (p_k - [k = y])^2`; ``nn.MSELoss`` is 1/C of it.

    Ghosh, Kumar and Sastry, Robust Loss Functions under Label Noise for Deep Neural Networks, AAAI 2017.

    >>> MSE()(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.5000)
    """

    def terms(self) -> tuple[ClassTerm, ...]:
        """p_k^2."""
        return (SQUARE,)

    def per_class(self, rows: Rows) -> Tensor:
        """(1 - p_c)^2 + the other classes' p_k^2."""
        return rows.not_p.square() + rows.sum_others(SQUARE)


class RCE(ClassificationLoss):
    r"""Reverse cross-entropy, :math:`-\sum_k p_k \log \max([k = y], \epsilon)`, about :math:`9.21\,(1 - p_y)`.

    Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019.

    Args:
        min_label: epsilon, what the label's zeros are raised to; between 0 and 1.
        min_prob: what probabilities below it are raised to, as in the published code; they get no gradient then.
            0 turns it off.

    >>> RCE()(torch.zeros(1, 2), torch.tensor([0]))  # -0.5 * log(1e-4)
    tensor(4.6052)
    """

    hyperparameters = ("min_label", "min_prob")

    def __init__(self, *, min_label: float = 1e-4, min_prob: float = 1e-7, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.min_label = check_hyperparameter("min_label", min_label, above=0, at_most=1)
        self.min_prob = _check_min_prob(min_prob)

    def terms(self) -> tuple[ClassTerm, ...]:
        """What raises p_k to min_prob."""
        return (shortfall(self.min_prob),) if self.min_prob > 0 else ()

    def per_class(self, rows: Rows) -> Tensor:
        """-log(epsilon) times the sum of the other classes' max(p_k, min_prob)."""
        raised = rows.not_p
        for term in self.terms():
            raised = raised + rows.sum_others(term)
        return -math.log(self.min_label) * raised


def _check_min_prob(min_prob: float) -> float:
    return check_hyperparameter("min_prob", min_prob, at_least=0, at_most=0.1)


class GCE(ClassificationLoss):
    r"""Generalised cross-entropy, :math:`(1 - p_y^q) / q`, between cross-entropy (q -> 0) and MAE (q = 1).

    Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, NeurIPS 2018.

    Args:
        q: above 0, at most 1.
        min_prob: what a p_y below it is raised to, as in the published code; it gets no gradient then. 0 turns it off.

    >>> GCE(q=1.0)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    hyperparameters = ("q", "min_prob")

    def __init__(self, q: float = 0.7, *, min_prob: float = 1e-7, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.q = check_hyperparameter("q", q, above=0, at_most=1)
        self.min_prob = _check_min_prob(min_prob)

    def per_class(self, rows: Rows) -> Tensor:
        """(1 - p_c^q) / q."""
        log_p = rows.log_p
        if self.min_prob > 0:
            log_p = log_p.clamp(min=math.log(self.min_prob))
        return -torch.expm1(self.q * log_p) / self.q


class SCE(ClassificationLoss):
    r"""Symmetric cross-entropy, :math:`\alpha` cross-entropy + :math:`\beta` reverse cross-entropy (see ``RCE``).

    Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019.

    Args:
        alpha: at least 0.
        beta: at least 0.
        min_label: of ``RCE``.
        min_prob: of ``RCE``.

    >>> SCE(alpha=1.0, beta=1.0)(torch.zeros(1, 2), torch.tensor([0]))
    tensor(5.2983)
    """

    hyperparameters = ("alpha", "beta")

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        *,
        min_label: float = 1e-4,
        min_prob: float = 1e-7,
        **conventions: Unpack[Conventions],
    ) -> None:
        super().__init__(**conventions)
        self.alpha = check_hyperparameter("alpha", alpha, at_least=0)
        self.beta = check_hyperparameter("beta", beta, at_least=0)
        self.reverse = RCE(min_label=min_label, min_prob=min_prob)

    def terms(self) -> tuple[ClassTerm, ...]:
        """RCE's."""
        return self.reverse.terms()

    def per_class(self, rows: Rows) -> Tensor:
        """-alpha log p_c + beta RCE."""
        return -self.alpha * rows.log_p + self.beta * self.reverse.per_class(rows)


class NCE(ClassificationLoss):
    r"""Normalised cross-entropy, :math:`\log p_y / \sum_k \log p_k`, from 0 to 1.

    Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML 2020.

    >>> NCE()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.2500)
    """

    def terms(self) -> tuple[ClassTerm, ...]:
        """``log p_k``."""
        return (LOG,)

    def per_class(self, rows: Rows) -> Tensor:
        """(log p_c) / (log p_c + the other classes' log p_k)."""
        return _share(-rows.log_p, -rows.sum_others(LOG))


def _share(own: Tensor, others: Tensor) -> Tensor:
    """``own`` / (own + others) for numbers of at least 0; 0 where both are 0, and 1 where ``own`` is infinite."""
    own = own.clamp(max=torch.finfo(own.dtype).max / 4)
    total = own + others
    return own / total.masked_fill(total == 0, 1.0)


class NFL(ClassificationLoss):
    r"""Normalised focal loss, :math:`F_y / \sum_k F_k` with :math:`F_k = -(1 - p_k)^\gamma \log p_k`, from 0 to 1.

    Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML 2020.

    Args:
        gamma: at least 0; 0 is ``NCE``.
        detach_factor: take no gradient through the (1 - p_k)^gamma, as the published code.

    >>> NFL()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.2500)
    """

    hyperparameters = ("gamma", "detach_factor")

    def __init__(self, gamma: float = 0.5, *, detach_factor: bool = False, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.gamma = check_hyperparameter("gamma", gamma, at_least=0)
        self.detach_factor = bool(detach_factor)

    def terms(self) -> tuple[ClassTerm, ...]:
        """-F_k."""
        return (focal_log(self.gamma, detach_factor=self.detach_factor),)

    def per_class(self, rows: Rows) -> Tensor:
        """F_c / (F_c + the other classes' F_k)."""
        own = _focal_of_label(rows, self.gamma, self.detach_factor)
        return _share(own, -rows.sum_others(*self.terms()))


class NNCE(ClassificationLoss):
    r"""Normalised negative cross-entropy, :math:`1 - (A + \log p_y) / \sum_k (A + \log p_k)`, from 0 to 1.

    A = -log(min_prob), and every p_k is raised to at least min_prob, so that all terms are at least 0.
    Ye et al., Active Negative Loss Functions for Learning with Noisy Labels, NeurIPS 2023.

    Args:
        min_prob: above 0, since A must be finite; below 1 / C, else every term may be 0.

    >>> NNCE()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    hyperparameters = ("min_prob",)

    def __init__(self, *, min_prob: float = 1e-7, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.min_prob = _check_floor(min_prob)

    def terms(self) -> tuple[ClassTerm, ...]:
        """A + log p_k."""
        return (log_above(self.min_prob),)

    def per_class(self, rows: Rows) -> Tensor:
        """The other classes' share of A + log p_k, each at least 0."""
        (above,) = self.terms()
        return _share(rows.sum_others(above), above.value(rows.log_p, rows.p))


def _check_floor(min_prob: float) -> float:
    if min_prob == 0:
        raise ValueError("min_prob is 0, which makes A = -log(min_prob) infinite: give a number above 0, such as 1e-7")
    return _check_min_prob(min_prob)


class NNFL(ClassificationLoss):
    r"""Normalised negative focal loss, :math:`1 - (A - F_y) / \sum_k (A - F_k)`, from 0 to 1.

    :math:`F_k = -(1 - p_k)^\gamma \log p_k` with p_k raised to at least min_prob, and A is F at min_prob.
    Ye et al., Active Negative Loss Functions for Learning with Noisy Labels, NeurIPS 2023.

    Args:
        gamma: at least 0; 0 is ``NNCE``.
        min_prob: above 0, since A must be finite; below 1 / C.
        detach_factor: take no gradient through the (1 - p_k)^gamma, as the published code.

    >>> NNFL()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    hyperparameters = ("gamma", "min_prob", "detach_factor")

    def __init__(
        self,
        gamma: float = 0.5,
        *,
        min_prob: float = 1e-7,
        detach_factor: bool = False,
        **conventions: Unpack[Conventions],
    ) -> None:
        super().__init__(**conventions)
        self.gamma = check_hyperparameter("gamma", gamma, at_least=0)
        self.min_prob = _check_floor(min_prob)
        self.detach_factor = bool(detach_factor)

    def terms(self) -> tuple[ClassTerm, ...]:
        """A - F_k."""
        return (focal_above(self.gamma, self.min_prob, detach_factor=self.detach_factor),)

    def per_class(self, rows: Rows) -> Tensor:
        """The other classes' share of A - F_k."""
        (above,) = self.terms()
        return _share(rows.sum_others(above), above.value(rows.log_p, rows.p))


class AGCE(ClassificationLoss):
    r"""Asymmetric generalised cross-entropy, :math:`((a + 1)^q - (a + p_y)^q) / q`.

    Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021.

    Args:
        a: above 0.
        q: above 0.

    >>> AGCE(a=1.0, q=1.0)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    hyperparameters = ("a", "q")

    def __init__(self, a: float = 0.6, q: float = 0.6, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.a = check_hyperparameter("a", a, above=0)
        self.q = check_hyperparameter("q", q, above=0)

    def per_class(self, rows: Rows) -> Tensor:
        """(a + 1)^q (1 - (1 - (1 - p_c) / (a + 1))^q) / q, which keeps its digits as p_c -> 1."""
        top = self.a + 1
        return torch.expm1(self.q * torch.log1p(-rows.not_p / top)) * (-math.pow(top, self.q) / self.q)


class AUL(ClassificationLoss):
    r"""Asymmetric unhinged loss, :math:`((a - p_y)^q - (a - 1)^q) / q`.

    Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021.

    Args:
        a: above 1.
        q: above 0.

    >>> AUL(a=2.0, q=1.0)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    hyperparameters = ("a", "q")

    def __init__(self, a: float = 5.5, q: float = 3.0, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.a = check_hyperparameter("a", a, above=1)
        self.q = check_hyperparameter("q", q, above=0)

    def per_class(self, rows: Rows) -> Tensor:
        """(a - 1)^q ((1 + (1 - p_c) / (a - 1))^q - 1) / q, which keeps its digits as p_c -> 1."""
        bottom = self.a - 1
        return torch.expm1(self.q * torch.log1p(rows.not_p / bottom)) * (math.pow(bottom, self.q) / self.q)


class AEL(ClassificationLoss):
    r"""Asymmetric exponential loss, :math:`e^{-p_y / a}`; at least e^(-1/a), never 0.

    Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021.

    Args:
        a: above 0.

    >>> AEL(a=0.5)(torch.zeros(1, 2), torch.tensor([0]))  # exp(-1)
    tensor(0.3679)
    """

    hyperparameters = ("a",)

    def __init__(self, a: float = 2.5, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.a = check_hyperparameter("a", a, above=0)

    def per_class(self, rows: Rows) -> Tensor:
        """exp(-p_c / a)."""
        return (-rows.p / self.a).exp()


class ActivePassive(ClassificationLoss):
    r"""An active loss, which raises p_y, and a passive one, which also lowers the others: :math:`\alpha A + \beta P`.

    Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML 2020.

    Args:
        active: such as ``NCE()`` or ``NFL()``.
        passive: such as ``MAE()``, ``RCE()``, ``AGCE()`` or ``NNCE()``.
        alpha: at least 0.
        beta: at least 0.

    Raises:
        ValueError: a term has class weights, an ``ignore_index`` or a reduction of its own: give them here.

    >>> ActivePassive(NCE(), MAE(), alpha=1.0, beta=2.0)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.7500)
    """

    hyperparameters = ("alpha", "beta")

    def __init__(
        self,
        active: ClassificationLoss,
        passive: ClassificationLoss,
        alpha: float = 1.0,
        beta: float = 1.0,
        **conventions: Unpack[Conventions],
    ) -> None:
        super().__init__(**conventions)
        self.alpha = check_hyperparameter("alpha", alpha, at_least=0)
        self.beta = check_hyperparameter("beta", beta, at_least=0)
        for term in (active, passive):
            if term.weight is not None or term.ignore_index != IGNORE_INDEX or term.reduction != "mean":
                raise ValueError(
                    f"{type(term).__name__} has a weight, ignore_index or reduction of its own: "
                    "give it to ActivePassive"
                )
        self.active = active
        self.passive = passive

    def terms(self) -> tuple[ClassTerm, ...]:
        """Those of both."""
        return tuple({term.name: term for term in (*self.active.terms(), *self.passive.terms())}.values())

    def per_class(self, rows: Rows) -> Tensor:
        """``alpha`` times the active loss + beta times the passive one."""
        return self.alpha * self.active.per_class(rows) + self.beta * self.passive.per_class(rows)


def _nce_mae(alpha: float = 1.0, beta: float = 1.0, **conventions: Unpack[Conventions]) -> ActivePassive:
    return ActivePassive(NCE(), MAE(), alpha, beta, **conventions)


def _nce_rce(
    alpha: float = 1.0,
    beta: float = 1.0,
    *,
    min_label: float = 1e-4,
    min_prob: float = 1e-7,
    **conventions: Unpack[Conventions],
) -> ActivePassive:
    passive = RCE(min_label=min_label, min_prob=min_prob)
    return ActivePassive(NCE(), passive, alpha, beta, **conventions)


def _nfl_rce(
    alpha: float = 1.0,
    beta: float = 1.0,
    *,
    gamma: float = 0.5,
    detach_factor: bool = False,
    min_label: float = 1e-4,
    min_prob: float = 1e-7,
    **conventions: Unpack[Conventions],
) -> ActivePassive:
    active, passive = NFL(gamma, detach_factor=detach_factor), RCE(min_label=min_label, min_prob=min_prob)
    return ActivePassive(active, passive, alpha, beta, **conventions)


def _nce_agce(
    alpha: float = 1.0, beta: float = 4.0, *, a: float = 6.0, q: float = 1.5, **conventions: Unpack[Conventions]
) -> ActivePassive:
    return ActivePassive(NCE(), AGCE(a, q), alpha, beta, **conventions)


def _nce_aul(
    alpha: float = 1.0, beta: float = 4.0, *, a: float = 6.3, q: float = 1.5, **conventions: Unpack[Conventions]
) -> ActivePassive:
    return ActivePassive(NCE(), AUL(a, q), alpha, beta, **conventions)


def _nce_ael(
    alpha: float = 1.0, beta: float = 4.0, *, a: float = 5.0, **conventions: Unpack[Conventions]
) -> ActivePassive:
    return ActivePassive(NCE(), AEL(a), alpha, beta, **conventions)


def _anl_ce(
    alpha: float = 5.0, beta: float = 5.0, *, min_prob: float = 1e-7, **conventions: Unpack[Conventions]
) -> ActivePassive:
    passive = NNCE(min_prob=min_prob)
    return ActivePassive(NCE(), passive, alpha, beta, **conventions)


def _anl_fl(
    alpha: float = 5.0,
    beta: float = 5.0,
    *,
    gamma: float = 0.5,
    min_prob: float = 1e-7,
    detach_factor: bool = False,
    **conventions: Unpack[Conventions],
) -> ActivePassive:
    active = NFL(gamma, detach_factor=detach_factor)
    passive = NNFL(gamma, min_prob=min_prob, detach_factor=detach_factor)
    return ActivePassive(active, passive, alpha, beta, **conventions)


class ANLCEER(ClassificationLoss):
    r"""ANL-CE and the batch's entropy: :math:`\alpha` NCE + :math:`\beta` NNCE + :math:`\lambda (\log C - H(\bar p))`.

    :math:`\bar p` is the mean of p over the batch's samples (those not ignored), of this process alone where there are
    several. The last term is one number for a batch, which every sample carries. Ye et al., Active Negative Loss: A
    Robust Framework for Learning with Noisy Labels, 2024.

    Args:
        alpha: at least 0.
        beta: at least 0.
        lamb: lambda, at least 0.
        min_prob: of ``NNCE``.

    >>> ANLCEER()(torch.zeros(1, 4), torch.tensor([0]))  # 5 * 1 / 4 + 5 * 3 / 4 + 0
    tensor(5.)
    """

    hyperparameters = ("alpha", "beta", "lamb", "min_prob")

    def __init__(
        self,
        alpha: float = 5.0,
        beta: float = 5.0,
        lamb: float = 2.0,
        *,
        min_prob: float = 1e-7,
        **conventions: Unpack[Conventions],
    ) -> None:
        super().__init__(**conventions)
        self.anl = _anl_ce(alpha, beta, min_prob=min_prob)
        self.alpha, self.beta, self.min_prob = self.anl.alpha, self.anl.beta, min_prob
        self.lamb = check_hyperparameter("lamb", lamb, at_least=0)

    def per_sample(self, logits: Tensor, target: Target) -> Tensor:
        """ANL-CE of each sample, and lambda (log C - H) on each."""
        p = logits.softmax(1)
        number: Tensor | int = max(1, target.weight.numel())
        if target.ignored is not None:
            p = p.masked_fill(target.ignored.unsqueeze(1), 0.0)
            number = (~target.ignored).sum().clamp(min=1)
        mean_p = p.sum([0, *range(2, logits.ndim)]) / number
        negative_entropy = (mean_p * mean_p.clamp(min=torch.finfo(mean_p.dtype).tiny).log()).sum()
        return self.anl.per_sample(logits, target) + self.lamb * (math.log(logits.shape[1]) + negative_entropy)


class LabelSmoothing(ClassificationLoss):
    r"""Cross-entropy with smoothed labels, :math:`-(1 - \epsilon) \log p_y - \tfrac{\epsilon}{C} \sum_k \log p_k`.

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016. C counts the classes whose
    logit is not -inf.

    Args:
        smoothing: epsilon, from 0 to 1.

    >>> LabelSmoothing(0.1)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.3863)
    """

    hyperparameters = ("smoothing",)

    def __init__(self, smoothing: float = 0.1, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.smoothing = check_hyperparameter("smoothing", smoothing, at_least=0, at_most=1)

    def terms(self) -> tuple[ClassTerm, ...]:
        """``log p_k``, and how many there are."""
        return (LOG, COUNT)

    def per_class(self, rows: Rows) -> Tensor:
        """-(1 - epsilon) log p_c - epsilon times the mean of log p_k."""
        mean = rows.sum_classes(LOG) / rows.sum_classes(COUNT)
        return -(1 - self.smoothing) * rows.log_p - self.smoothing * mean


class SoftBootstrap(ClassificationLoss):
    r"""Soft bootstrapping: cross-entropy with the label mixed with p.

    .. math:: -\sum_k (\beta [k = y] + (1 - \beta) p_k) \log p_k

    Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, ICLR workshop 2015. The gradient goes
    through both p.

    Args:
        beta: share of the given label, from 0 to 1.

    >>> SoftBootstrap(0.95)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.3863)
    """

    hyperparameters = ("beta",)

    def __init__(self, beta: float = 0.95, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.beta = check_hyperparameter("beta", beta, at_least=0, at_most=1)

    def terms(self) -> tuple[ClassTerm, ...]:
        """p_k log p_k."""
        return (P_LOG_P,)

    def per_class(self, rows: Rows) -> Tensor:
        """-beta log p_c + (1 - beta) H(p)."""
        return -self.beta * rows.log_p - (1 - self.beta) * rows.sum_classes(P_LOG_P)


class HardBootstrap(ClassificationLoss):
    r"""Hard bootstrapping: cross-entropy with the label mixed with the prediction.

    .. math:: -\beta \log p_y - (1 - \beta) \log p_k

    k is the arg-max of p, taken as a constant in the gradient. Reed et al., Training Deep Neural Networks on Noisy
    Labels with Bootstrapping, ICLR workshop 2015.

    Args:
        beta: share of the given label, from 0 to 1.

    >>> HardBootstrap(0.8)(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.3863)
    """

    hyperparameters = ("beta",)

    def __init__(self, beta: float = 0.8, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.beta = check_hyperparameter("beta", beta, at_least=0, at_most=1)

    def per_class(self, rows: Rows) -> Tensor:
        """-beta log p_c - (1 - beta) log of the largest p."""
        of_predicted = label_log_odds(rows.logits, top_class(rows.logits))
        return -self.beta * rows.log_p - (1 - self.beta) * F.logsigmoid(-of_predicted)


Transition = Tensor | Sequence[Sequence[float]] | float


class _Correction(ClassificationLoss):
    """What forward and backward correction share: the transition matrix, T_ij = P(given label j | true label i)."""

    transition: Tensor

    def __init__(self, transition: Transition, num_classes: int | None, **conventions: Unpack[Conventions]) -> None:
        super().__init__(**conventions)
        self.register_buffer("transition", transition_matrix(transition, num_classes), persistent=False)

    def extra_repr(self) -> str:
        """The number of classes."""
        return f"num_classes={len(self.transition)}"

    def _check_classes(self, logits: Tensor) -> None:
        if logits.shape[1] != len(self.transition):
            raise ValueError(
                f"the transition matrix is for {len(self.transition)} classes and the logits for {logits.shape[1]}: "
                "give the matrix of these classes"
            )


def transition_matrix(transition: Transition, num_classes: int | None = None) -> Tensor:
    """The matrix ``(C, C)`` in float64, T_ij = P(given label j | true label i).

    Args:
        transition: the matrix itself, or the rate of symmetric noise that moves labels to the other classes.
        num_classes: C, needed for a rate.

    Raises:
        ValueError: it is no square matrix of probabilities whose rows sum to 1, or no rate.

    >>> transition_matrix(0.2, 3)
    tensor([[0.8000, 0.1000, 0.1000],
            [0.1000, 0.8000, 0.1000],
            [0.1000, 0.1000, 0.8000]], dtype=torch.float64)
    """
    if isinstance(transition, int | float):
        rate = check_hyperparameter("transition", transition, at_least=0, at_most=1)
        if num_classes is None:
            raise ValueError("transition is a rate, and num_classes is not given: give it, or the matrix")
        off_diagonal = rate / max(num_classes - 1, 1)
        matrix = torch.full((num_classes, num_classes), off_diagonal, dtype=torch.float64)
        return matrix.fill_diagonal_(1 - rate)
    matrix = torch.as_tensor(transition, dtype=torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"transition has shape {tuple(matrix.shape)}: give (C, C), a row for each true class")
    if num_classes is not None and len(matrix) != num_classes:
        raise ValueError(f"transition is for {len(matrix)} classes: give it for the {num_classes} of the data")
    if not (matrix >= 0).all() or not torch.allclose(matrix.sum(1), matrix.new_ones(len(matrix)), rtol=0, atol=1e-4):
        raise ValueError("the rows of transition are not probabilities that sum to 1: T_ij = P(given j | true i)")
    return matrix


class ForwardCorrection(_Correction):
    r"""Forward correction, :math:`-\log \sum_k T_{ky} p_k`: p is of the true class, T p of the given label.

    Patrini et al., Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach, CVPR 2017.

    Args:
        transition: ``(C, C)``, T_ij = P(given label j | true label i); or the rate of symmetric noise.
        num_classes: C, needed for a rate.

    Class probabilities as target cost memory N C^2.

    >>> ForwardCorrection([[0.8, 0.2], [0.2, 0.8]])(torch.tensor([[50.0, 0.0]]), torch.tensor([1]))  # -log(0.2)
    tensor(1.6094)
    """

    def __init__(
        self, transition: Transition = 0.2, *, num_classes: int | None = None, **conventions: Unpack[Conventions]
    ) -> None:
        super().__init__(transition, num_classes, **conventions)

    def per_class(self, rows: Rows) -> Tensor:
        """-LSE(log p_k + log T_kc) over k."""
        self._check_classes(rows.logits)
        log_p = rows.logits.log_softmax(1).unsqueeze(1).movedim(2, -1)
        return -_logsumexp(log_p + rows.pick(self.transition.log().mT))


def _logsumexp(x: Tensor) -> Tensor:
    """Over the last dim; where all is -inf, that with a gradient of 0."""
    impossible = x.isneginf().all(-1)
    return x.masked_fill(impossible.unsqueeze(-1), 0.0).logsumexp(-1).masked_fill(impossible, -torch.inf)


class BackwardCorrection(_Correction):
    r"""Backward correction, :math:`-\sum_k (T^{-1})_{yk} \log p_k`, in expectation the clean labels' cross-entropy.

    Patrini et al., Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach, CVPR 2017. It may be
    negative and is not bounded below: where training runs away, use forward correction.

    Args:
        transition: ``(C, C)``, T_ij = P(given label j | true label i), invertible; or the rate of symmetric noise.
        num_classes: C, needed for a rate.

    >>> BackwardCorrection([[0.8, 0.2], [0.2, 0.8]])(torch.zeros(1, 2), torch.tensor([1]))
    tensor(0.6931)
    """

    inverse: Tensor

    def __init__(
        self, transition: Transition = 0.2, *, num_classes: int | None = None, **conventions: Unpack[Conventions]
    ) -> None:
        super().__init__(transition, num_classes, **conventions)
        if torch.linalg.cond(self.transition) > 1e8:
            raise ValueError("transition has no inverse: give a lower noise rate, or use forward correction")
        self.register_buffer("inverse", torch.linalg.inv(self.transition), persistent=False)

    def per_class(self, rows: Rows) -> Tensor:
        """-sum_k (T^-1)_ck log p_k."""
        self._check_classes(rows.logits)
        own = self.inverse.diagonal()
        others = rows.pick(self.inverse - own.diag())
        log_p = rows.class_log_p.unsqueeze(1).movedim(2, -1)
        return -rows.pick(own) * rows.log_p - (others * log_p).sum(-1)


class ELR(ClassificationLoss):
    r"""Early-learning regularisation, :math:`-\log p_y + \lambda \log(1 - \langle p, t \rangle)`.

    t is a running mean of what the network said of this very sample, :math:`t \leftarrow \beta t + (1 - \beta) p`, from
    0, updated before it is used, in training mode alone; it carries no gradient. ``setup`` makes one row of it for each
    training sample. Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020.

    Args:
        beta: from 0 to 1.
        lamb: lambda, at least 0.
        min_prob: p is kept between this and 1 - this in the second term, as in the published code (from memory), so
            that the logarithm stays finite. Above 0.

    As input:
        logits ``(N, C)``, target, and ``index`` ``(N,)``, the samples' positions in the training set.

    >>> loss = ELR(beta=0.5, lamb=3.0)
    >>> loss.setup(num_samples=8, class_counts=torch.tensor([4, 4]))
    >>> loss(torch.zeros(1, 2), torch.tensor([0]), index=torch.tensor([5]))  # log(2) + 3 * log(1 - 0.25)
    tensor(-0.1699)
    """

    needs = ("index",)
    hyperparameters = ("beta", "lamb", "min_prob")
    targets: Tensor | None

    def __init__(
        self, beta: float = 0.7, lamb: float = 3.0, *, min_prob: float = 1e-4, **conventions: Unpack[Conventions]
    ) -> None:
        super().__init__(**conventions)
        self.beta = check_hyperparameter("beta", beta, at_least=0, at_most=1)
        self.lamb = check_hyperparameter("lamb", lamb, at_least=0)
        self.min_prob = check_hyperparameter("min_prob", min_prob, above=0, at_most=0.1)
        self.register_buffer("targets", None)

    def setup(self, *, num_samples: int, class_counts: Tensor) -> None:
        """Make t, one row for each training sample."""
        self.register_sample_state("targets", torch.zeros(num_samples, len(class_counts)))

    def forward(  # type: ignore[override]  # one column more
        self, logits: Tensor, target: Tensor, *, index: Tensor
    ) -> Tensor:
        """The loss: a scalar, or ``(N,)`` with reduction "none"."""
        logits = at_least_float32(logits)
        prepared = self.prepare(logits, target, self.weight)
        if self.targets is None:
            raise ValueError("ELR keeps a row for each training sample: call setup(num_samples=, class_counts=) first")
        if logits.ndim != 2:
            raise ValueError(f"logits have shape {tuple(logits.shape)}: ELR takes (N, C), one label for each sample")
        p = logits.softmax(1).clamp(self.min_prob, 1 - self.min_prob)
        if self.training:
            self._update(p.detach(), index)
        agreement = (self.targets[index] * p).sum(1)
        loss = cross_entropy(logits, prepared) + self.lamb * torch.log1p(-agreement)
        return reduce_loss(loss, prepared, self.reduction)

    def _update(self, p: Tensor, index: Tensor) -> None:
        from catchment.training.distributed import all_gather_rows  # not at import: it brings the whole loop

        assert self.targets is not None
        said = (p / p.sum(1, keepdim=True)).to(self.targets.dtype)
        seen, said = all_gather_rows(index), all_gather_rows(said)  # every process keeps the rows of all
        self.targets[seen] = self.beta * self.targets[seen] + (1 - self.beta) * said


_SGD = {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 5.0}
_COSINE = {**_SGD, "schedule": "cosine", "batch_size": 128}
# how each data set is trained on, but for the penalties on the weights
_TRAINING: dict[str, dict[str, Any]] = {
    "mnist": {**_COSINE, "learning_rate": 0.01, "epochs": 50},
    "cifar10": {**_COSINE, "learning_rate": 0.01, "epochs": 120},
    "cifar100": {**_COSINE, "learning_rate": 0.1, "epochs": 200},
    "webvision": {
        **_SGD,
        "nesterov": True,
        "schedule": "step",
        "step_size": 1,
        "step_factor": 0.97,
        "learning_rate": 0.4,
        "epochs": 250,
        "batch_size": 512,
    },
    "clothing1m": {
        **_SGD,
        "schedule": "step",
        "step_size": 10,
        "step_factor": 0.1,
        "learning_rate": 1e-3,
        "epochs": 15,
        "batch_size": 32,
    },
}
_WEIGHT_DECAY = {"mnist": 1e-3, "cifar10": 1e-4, "cifar100": 1e-5, "webvision": 3e-5, "clothing1m": 1e-3}


def _published(dataset: str, objective: dict[str, Any], *, l1: float | None = None) -> dict[str, dict[str, Any]]:
    """Settings on a data set: with an L1 penalty where one is given, else with the usual weight decay."""
    penalty = {"l1": 0.0, "weight_decay": _WEIGHT_DECAY[dataset]} if l1 is None else {"l1": l1, "weight_decay": 0.0}
    return {"objective": objective, "training": {**_TRAINING[dataset], **penalty}}


def _presets(
    objectives: Mapping[str, dict[str, Any]], l1: Mapping[str, float] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings by data set; ``l1`` for those that have it in place of weight decay."""
    penalties = l1 or {}
    return {name: _published(name, values, l1=penalties.get(name)) for name, values in objectives.items()}


_CIFAR_L1 = {"cifar10": 1e-4, "cifar100": 1e-5}
_ANL_L1 = {"mnist": 1e-6, "cifar10": 5e-5, "cifar100": 5e-7, "webvision": 5e-6}
_Q = {"q": 0.7}
_FOCAL = {"gamma": 0.5, "detach_factor": True}
_ELR_TRAINING = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.02,
    "weight_decay": 1e-3,
    "l1": 0.0,
    "clip_norm": 0.0,
    "batch_size": 128,
    "schedule": "step",
    "step_factor": 0.01,
}

_GHOSH: dict[str, Any] = {
    "paper": "Ghosh, Kumar, Sastry, Robust Loss Functions under Label Noise for Deep Neural Networks, AAAI",
    "year": 2017,
    "url": "https://arxiv.org/abs/1712.09482",
}
_SYMMETRIC: dict[str, Any] = {
    "paper": "Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV",
    "year": 2019,
    "url": "https://arxiv.org/abs/1908.06112",
}
_NORMALISED: dict[str, Any] = {
    "paper": "Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML",
    "year": 2020,
    "url": "https://arxiv.org/abs/2006.13554",
}
_ASYMMETRIC: dict[str, Any] = {
    "paper": "Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML",
    "year": 2021,
    "url": "https://arxiv.org/abs/2106.03110",
}
_ACTIVE_NEGATIVE: dict[str, Any] = {
    "paper": "Ye et al., Active Negative Loss Functions for Learning with Noisy Labels, NeurIPS",
    "year": 2023,
    "url": "https://papers.neurips.cc/paper_files/paper/2023/hash/15f4cefb0e143c7ad9d40e879b0a9d0c-Abstract-Conference.html",
}
_BOOTSTRAP: dict[str, Any] = {
    "paper": "Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, ICLR workshop",
    "year": 2015,
    "url": "https://arxiv.org/abs/1412.6596",
}
_LOSS_CORRECTION: dict[str, Any] = {
    "paper": "Patrini et al., Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach, CVPR",
    "year": 2017,
    "url": "https://arxiv.org/abs/1609.03683",
}
_ROBUST = "wrong labels, symmetric noise above all"

METHODS: tuple[Method, ...] = (
    Method(
        name="cross-entropy",
        cls=CrossEntropy,
        paper="Good, Rational Decisions, Journal of the Royal Statistical Society B",
        year=1952,
        url="https://doi.org/10.1111/j.2517-6161.1952.tb00104.x",
        formula="-log p_y",
        purpose="the baseline of every comparison",
        presets=_presets({"cifar10": {}, "cifar100": {}, "webvision": {}}, _CIFAR_L1),
    ),
    Method(
        name="focal",
        cls=FocalLoss,
        paper="Lin et al., Focal Loss for Dense Object Detection, ICCV",
        year=2017,
        url="https://arxiv.org/abs/1708.02002",
        formula="-(1 - p_y)^gamma log p_y",
        purpose="many easy samples; a baseline under label noise",
        presets=_presets({"mnist": _FOCAL, "cifar10": _FOCAL, "cifar100": _FOCAL}),
    ),
    Method(
        name="mae",
        cls=MAE,
        **_GHOSH,
        formula="1 - p_y",
        purpose="wrong labels, few classes; underfits many",
        presets=_presets({"cifar10": {}, "cifar100": {}}),
    ),
    Method(
        name="mse",
        cls=MSE,
        **_GHOSH,
        formula="sum_k (p_k - [k = y])^2",
        purpose="wrong labels; bounded, and a proper score",
    ),
    Method(
        name="rce",
        cls=RCE,
        **_SYMMETRIC,
        formula="-sum_k p_k log max([k = y], 1e-4)",
        purpose="the passive part of SCE and NCE+RCE",
    ),
    Method(
        name="gce",
        cls=GCE,
        paper="Zhang, Sabuncu, Generalized Cross Entropy Loss for Training ... with Noisy Labels, NeurIPS",
        year=2018,
        url="https://arxiv.org/abs/1805.07836",
        formula="(1 - p_y^q) / q",
        purpose="wrong labels; the first to try",
        presets=_presets({"mnist": _Q, "cifar10": _Q, "cifar100": _Q, "webvision": _Q}, _CIFAR_L1),
    ),
    Method(
        name="sce",
        cls=SCE,
        **_SYMMETRIC,
        formula="alpha CE + beta RCE",
        purpose="wrong labels",
        presets=_presets(
            {
                "mnist": {"alpha": 0.01, "beta": 1.0},
                "cifar10": {"alpha": 0.1, "beta": 1.0},
                "cifar100": {"alpha": 6.0, "beta": 0.1},
                "webvision": {"alpha": 10.0, "beta": 1.0},
                "clothing1m": {"alpha": 5.0, "beta": 1.0},
            },
            _CIFAR_L1,
        ),
    ),
    Method(
        name="nce",
        cls=NCE,
        **_NORMALISED,
        formula="log p_y / sum_k log p_k",
        purpose="the active part of the combinations; underfits alone",
    ),
    Method(
        name="nfl",
        cls=NFL,
        **_NORMALISED,
        formula="F_y / sum_k F_k, F_k = -(1 - p_k)^gamma log p_k",
        purpose="the active part of the combinations; underfits alone",
    ),
    Method(
        name="nnce",
        cls=NNCE,
        **_ACTIVE_NEGATIVE,
        formula="1 - (A + log p_y) / sum_k (A + log p_k), A = -log min_prob",
        purpose="the passive part of ANL-CE",
    ),
    Method(
        name="nnfl",
        cls=NNFL,
        **_ACTIVE_NEGATIVE,
        formula="1 - (A - F_y) / sum_k (A - F_k), A = F at min_prob",
        purpose="the passive part of ANL-FL",
    ),
    Method(
        name="agce",
        cls=AGCE,
        **_ASYMMETRIC,
        formula="((a + 1)^q - (a + p_y)^q) / q",
        purpose=_ROBUST,
    ),
    Method(
        name="aul",
        cls=AUL,
        **_ASYMMETRIC,
        formula="((a - p_y)^q - (a - 1)^q) / q",
        purpose=_ROBUST,
    ),
    Method(
        name="ael",
        cls=AEL,
        **_ASYMMETRIC,
        formula="exp(-p_y / a)",
        purpose=_ROBUST,
    ),
    Method(
        name="nce-mae",
        cls=ActivePassive,
        make=_nce_mae,
        **_NORMALISED,
        formula="alpha NCE + beta MAE",
        purpose="wrong labels",
        presets=_presets(
            {
                "mnist": {"alpha": 1.0, "beta": 10.0},
                "cifar10": {"alpha": 1.0, "beta": 1.0},
                "cifar100": {"alpha": 10.0, "beta": 0.1},
            }
        ),
    ),
    Method(
        name="nce-rce",
        cls=ActivePassive,
        make=_nce_rce,
        **_NORMALISED,
        formula="alpha NCE + beta RCE",
        purpose="wrong labels; called APL in comparisons",
        presets=_presets(
            {
                "mnist": {"alpha": 1.0, "beta": 10.0},
                "cifar10": {"alpha": 1.0, "beta": 1.0},
                "cifar100": {"alpha": 10.0, "beta": 0.1},
                "webvision": {"alpha": 50.0, "beta": 0.1},
                "clothing1m": {"alpha": 50.0, "beta": 0.1},
            }
        ),
    ),
    Method(
        name="nfl-rce",
        cls=ActivePassive,
        make=_nfl_rce,
        **_NORMALISED,
        formula="alpha NFL + beta RCE",
        purpose="wrong labels",
        presets=_presets(
            {
                "mnist": {"alpha": 1.0, "beta": 10.0, **_FOCAL},
                "cifar10": {"alpha": 1.0, "beta": 1.0, **_FOCAL},
                "cifar100": {"alpha": 10.0, "beta": 0.1, **_FOCAL},
            }
        ),
    ),
    Method(
        name="nce-agce",
        cls=ActivePassive,
        make=_nce_agce,
        **_ASYMMETRIC,
        formula="alpha NCE + beta AGCE",
        purpose="wrong labels; taken to be the AFL of comparisons",
        presets=_presets(
            {
                "mnist": {"alpha": 0.0, "beta": 1.0, "a": 4.0, "q": 0.2},
                "cifar10": {"alpha": 1.0, "beta": 4.0, "a": 6.0, "q": 1.5},
                "cifar100": {"alpha": 10.0, "beta": 0.1, "a": 1.8, "q": 3.0},
                "webvision": {"alpha": 50.0, "beta": 0.1, "a": 2.5, "q": 3.0},
                "clothing1m": {"alpha": 50.0, "beta": 0.1, "a": 2.5, "q": 3.0},
            }
        ),
    ),
    Method(
        name="nce-aul",
        cls=ActivePassive,
        make=_nce_aul,
        **_ASYMMETRIC,
        formula="alpha NCE + beta AUL",
        purpose="wrong labels",
        presets=_presets(
            {
                "mnist": {"alpha": 0.0, "beta": 1.0, "a": 3.0, "q": 0.1},
                "cifar10": {"alpha": 1.0, "beta": 4.0, "a": 6.3, "q": 1.5},
                "cifar100": {"alpha": 10.0, "beta": 0.015, "a": 6.0, "q": 3.0},
            }
        ),
    ),
    Method(
        name="nce-ael",
        cls=ActivePassive,
        make=_nce_ael,
        **_ASYMMETRIC,
        formula="alpha NCE + beta AEL",
        purpose="wrong labels",
        presets=_presets(
            {
                "mnist": {"alpha": 0.0, "beta": 1.0, "a": 3.5},
                "cifar10": {"alpha": 1.0, "beta": 4.0, "a": 5.0},
                "cifar100": {"alpha": 10.0, "beta": 0.1, "a": 1.5},
            }
        ),
    ),
    Method(
        name="anl-ce",
        cls=ActivePassive,
        make=_anl_ce,
        **_ACTIVE_NEGATIVE,
        formula="alpha NCE + beta NNCE",
        purpose="wrong labels; wants an L1 penalty on the weights",
        presets=_presets(
            {
                "mnist": {"alpha": 1.0, "beta": 1.0},
                "cifar10": {"alpha": 5.0, "beta": 5.0},
                "cifar100": {"alpha": 10.0, "beta": 1.0},
                "webvision": {"alpha": 20.0, "beta": 1.0},
            },
            _ANL_L1,
        ),
    ),
    Method(
        name="anl-fl",
        cls=ActivePassive,
        make=_anl_fl,
        **_ACTIVE_NEGATIVE,
        formula="alpha NFL + beta NNFL",
        purpose="wrong labels; wants an L1 penalty on the weights",
        presets=_presets(
            {
                "mnist": {"alpha": 1.0, "beta": 1.0, **_FOCAL},
                "cifar10": {"alpha": 5.0, "beta": 5.0, **_FOCAL},
                "cifar100": {"alpha": 10.0, "beta": 1.0, **_FOCAL},
            },
            _ANL_L1,
        ),
    ),
    Method(
        name="anl-ce-er",
        cls=ANLCEER,
        paper="Ye et al., Active Negative Loss: A Robust Framework for Learning with Noisy Labels, arXiv",
        year=2024,
        url="https://arxiv.org/abs/2412.02373",
        formula="alpha NCE + beta NNCE + lamb (log C - H(mean p))",
        purpose="wrong labels that make some classes rarer than others",
        presets=_presets(
            {
                "cifar10": {"alpha": 5.0, "beta": 5.0, "lamb": 2.0},
                "cifar100": {"alpha": 10.0, "beta": 1.0, "lamb": 0.01},
            },
            _ANL_L1,
        ),
    ),
    Method(
        name="label-smoothing",
        cls=LabelSmoothing,
        paper="Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR",
        year=2016,
        url="https://arxiv.org/abs/1512.00567",
        formula="-(1 - eps) log p_y - eps / C sum_k log p_k",
        purpose="over-confidence; mild symmetric noise",
    ),
    Method(
        name="bootstrap-soft",
        cls=SoftBootstrap,
        **_BOOTSTRAP,
        formula="-sum_k (beta [k = y] + (1 - beta) p_k) log p_k",
        purpose="wrong labels; leans on the network's own probabilities",
    ),
    Method(
        name="bootstrap-hard",
        cls=HardBootstrap,
        **_BOOTSTRAP,
        formula="-beta log p_y - (1 - beta) log max_k p_k",
        purpose="wrong labels; leans on the network's own prediction",
    ),
    Method(
        name="forward-correction",
        cls=ForwardCorrection,
        **_LOSS_CORRECTION,
        formula="-log sum_k T_ky p_k",
        purpose="wrong labels whose transition matrix T is known",
    ),
    Method(
        name="backward-correction",
        cls=BackwardCorrection,
        **_LOSS_CORRECTION,
        formula="-sum_k inv(T)_yk log p_k",
        purpose="wrong labels whose transition matrix T is known; unbiased, not bounded below",
    ),
    Method(
        name="elr",
        cls=ELR,
        paper="Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/2007.00151",
        formula="-log p_y + lamb log(1 - <p, t>), t <- beta t + (1 - beta) p",
        purpose="wrong labels; keeps a memory of each sample",
        presets={
            "cifar10": {
                "objective": {"beta": 0.7, "lamb": 3.0},
                "training": {**_ELR_TRAINING, "epochs": 120, "step_size": 40},
            },
            "cifar100": {
                "objective": {"beta": 0.9, "lamb": 7.0},
                "training": {**_ELR_TRAINING, "epochs": 150, "step_size": 80},
            },
        },
    ),
)
