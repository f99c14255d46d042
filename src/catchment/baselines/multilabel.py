"""Losses for zero, one or many labels that the quasibinary classifier is compared with.

Targets are class indices ``(N,)`` (-1: no class at all, -100: sample left out) or ``(N, K)`` with numbers from 0 to 1
(-100: not known whether the class is there). With l_i the loss of a sample, a sum over its known classes, each returns
the mean of l_i over the samples of which anything is known, and 0 where there is none. Logits ``(N, K)`` are taken in
float32 or better; a class at -inf that is absent contributes 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from catchment.label_sets import LabelSets, prepare_label_sets
from catchment.loss_conventions import at_least_float32
from catchment.objective import Method, Objective
from catchment.quasibinary import PROTOCOL


class BinaryCrossEntropy(Objective):
    r"""Binary cross-entropy of each class, summed over classes.

    .. math:: \ell = \sum_k -y_k \log \sigma(z_k) - (1 - y_k) \log(1 - \sigma(z_k))

    Raises:
        ValueError: shapes, dtypes or labels don't fit.

    >>> BinaryCrossEntropy()(torch.zeros(2, 4), torch.tensor([0, -1]))  # 4 log 2
    tensor(2.7726)
    """

    exclusive = False
    accepts_unknown = True

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        labels = prepare_label_sets(logits, target)
        if_present, if_absent = _apart(logits, labels)
        return _mean(labels, -F.logsigmoid(if_present), -F.logsigmoid(-if_absent))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids ``(N, K)``."""
        return at_least_float32(logits).sigmoid()


class BinaryFocalLoss(Objective):
    r"""Focal loss of each class as a binary problem, summed over classes.

    .. math::
        \ell = \sum_k -y_k\, a\, (1 - p_k)^\gamma \log p_k - (1 - y_k) (1 - a)\, p_k^\gamma \log(1 - p_k),
        \qquad p_k = \sigma(z_k)

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

    Args:
        gamma: at least 0; 0 with ``alpha=None`` is binary cross-entropy.
        alpha: a, the weight of present classes, from 0 to 1 (0.25 in the paper); None: no weights.
        detach_factor: take no gradient through the powers.

    Raises:
        ValueError: shapes, dtypes, labels or hyper-parameters don't fit.

    >>> BinaryFocalLoss(gamma=1.0)(torch.zeros(2, 4), torch.tensor([0, -1]))  # half of 4 log 2
    tensor(1.3863)
    """

    exclusive = False
    accepts_unknown = True

    def __init__(self, gamma: float = 2.0, *, alpha: float | None = None, detach_factor: bool = False) -> None:
        super().__init__()
        self.gamma = _at_least_zero(gamma, "gamma")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}: give a number from 0 to 1, or None for no weights")
        self.alpha = alpha
        self.detach_factor = detach_factor

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        return f"gamma={self.gamma:g}, alpha={self.alpha}, detach_factor={self.detach_factor}"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        labels = prepare_label_sets(logits, target)
        where_present, where_absent = _apart(logits, labels)
        if_present, if_absent = self._of_present(where_present), self._of_present(-where_absent)
        if self.alpha is not None:
            if_present, if_absent = self.alpha * if_present, (1 - self.alpha) * if_absent
        return _mean(labels, if_present, if_absent)

    def _of_present(self, logits: Tensor) -> Tensor:
        return -_power(F.logsigmoid(-logits), self.gamma, self.detach_factor) * F.logsigmoid(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids ``(N, K)``."""
        return at_least_float32(logits).sigmoid()


class AsymmetricLoss(Objective):
    r"""Asymmetric loss (ASL): focal factors of their own for present and absent classes, and absent ones clipped.

    .. math::
        \ell = \sum_k -y_k (1 - p_k)^{\gamma_+} \log p_k - (1 - y_k)\, \tilde p_k^{\gamma_-} \log(1 - \tilde p_k),
        \qquad p_k = \sigma(z_k),\quad \tilde p_k = \max(p_k - m, 0)

    Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021. The authors' code sums over the batch
    where this takes the mean over samples, and its two versions disagree on whether the factors carry a gradient.

    Args:
        gamma_neg: of absent classes, at least 0.
        gamma_pos: of present classes, at least 0. With both 0 and no clip it is binary cross-entropy.
        clip: m, the probability below which an absent class costs nothing, from 0 to less than 1.
        detach_factor: take no gradient through the powers.

    Raises:
        ValueError: shapes, dtypes, labels or hyper-parameters don't fit.

    >>> loss = AsymmetricLoss(gamma_neg=1.0, gamma_pos=0.0, clip=0.25)
    >>> loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 - 0.25 log(0.75)
    tensor(0.7651)
    """

    exclusive = False
    accepts_unknown = True

    def __init__(
        self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, *, clip: float = 0.05, detach_factor: bool = False
    ) -> None:
        super().__init__()
        self.gamma_neg = _at_least_zero(gamma_neg, "gamma_neg")
        self.gamma_pos = _at_least_zero(gamma_pos, "gamma_pos")
        if not 0 <= clip < 1:
            raise ValueError(f"clip is {clip}: give a number from 0 to less than 1")
        self.clip = float(clip)
        self.detach_factor = detach_factor

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        return (
            f"gamma_neg={self.gamma_neg:g}, gamma_pos={self.gamma_pos:g}, clip={self.clip:g}, "
            f"detach_factor={self.detach_factor}"
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        labels = prepare_label_sets(logits, target)
        where_present, where_absent = _apart(logits, labels)
        factor = _power(F.logsigmoid(-where_present), self.gamma_pos, self.detach_factor)
        return _mean(labels, -factor * F.logsigmoid(where_present), self._of_absent(where_absent))

    def _of_absent(self, logits: Tensor) -> Tensor:
        if self.clip == 0:
            return -_power(F.logsigmoid(logits), self.gamma_neg, self.detach_factor) * F.logsigmoid(-logits)
        p = logits.sigmoid()
        free = p <= self.clip
        clipped = torch.where(free, 0.5, p - self.clip)  # any number above 0, so that its power has a derivative
        loss = -_power(clipped.log(), self.gamma_neg, self.detach_factor) * torch.log1p(-clipped)
        return loss.masked_fill(free, 0.0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids ``(N, K)``."""
        return at_least_float32(logits).sigmoid()


class MultiLabelSoftmax(Objective):
    r"""Softmax cross-entropy with the labels shared out evenly: :math:`t_k = y_k / \sum_j y_j`.

    .. math:: \ell = -\sum_k t_k \log p_k, \qquad p = \mathrm{softmax}(z)

    A sample without any label contributes 0 (and counts in the mean). Mahajan et al., Exploring the Limits of Weakly
    Supervised Pretraining, ECCV 2018. ``fit_temperature`` sets T on held-out data; the probabilities are
    ``softmax(z / T)``, training is not affected. Their rows sum to 1, so that no class of a sample with two labels can
    be sure.

    Raises:
        ValueError: shapes, dtypes or labels don't fit; for class indices, the label -1.

    >>> MultiLabelSoftmax()(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]))
    tensor(1.3863)
    """

    exclusive = False  # it takes any number of labels, though the rows of its probabilities sum to 1
    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        labels = prepare_label_sets(logits, target, accepts_unknown=False)
        return labels.mean(_shared_cross_entropy(_known_logits(logits, labels).log_softmax(1), labels))

    @torch.no_grad()
    def fit_temperature(self, logits: Tensor, target: Tensor) -> float:
        """Set T to what minimises the loss of z / T on held-out data, between 1e-3 and 1e3, and return it.

        The loss is convex in 1 / T, so that its derivative has one root, which is found by bisection.

        Raises:
            ValueError: no sample has a label, or some logit is NaN or +inf.
        """
        logits = at_least_float32(logits).double()
        labels = prepare_label_sets(logits, target, accepts_unknown=False)
        labelled = labels.present.sum(1) > 0
        if not labelled.any():
            raise ValueError("no sample has a label, so no temperature fits: give labelled held-out data")
        if not (logits < torch.inf).all():
            raise ValueError("some logits are NaN or +inf: find out where they come from")
        z = _known_logits(logits, labels)[labelled]
        z = (z - z.amax(1, keepdim=True)).clamp(min=-1e30)  # finite, so that 0 probability times it is 0
        target_mean = (_shares(labels)[labelled] * z).sum(1)
        low, high = math.log(1e-3), math.log(1e3)  # of 1 / T
        for _ in range(60):
            middle = (low + high) / 2
            slope = ((z * math.exp(middle)).softmax(1) * z).sum(1) - target_mean
            low, high = (low, middle) if slope.mean() > 0 else (middle, high)
        self.temperature.fill_(math.exp(-(low + high) / 2))
        return float(self.temperature)

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax(z / T) ``(N, K)``."""
        return (at_least_float32(logits) / self.temperature).softmax(1)


class SelfNormalizedCrossEntropy(Objective):
    r"""Softmax cross-entropy that draws every row's normaliser to 1, so that e^z can be read as a probability.

    .. math:: \ell = -\sum_k t_k \log p_k + \alpha (\log Z)^2, \qquad Z = \sum_k e^{z_k}, \quad t_k = y_k / \sum_j y_j

    A sample without any label contributes 0. Devlin et al., Fast and Robust Neural Network Joint Models for Statistical
    Machine Translation, ACL 2014. The probabilities are min(e^z, 1); their rows sum to about 1 where the training
    succeeded.

    Args:
        alpha: at least 0.

    Raises:
        ValueError: shapes, dtypes, labels or ``alpha`` don't fit; for class indices, the label -1.

    >>> SelfNormalizedCrossEntropy(alpha=1.0)(torch.zeros(1, 4), torch.tensor([0]))  # log 4 + (log 4)^2
    tensor(3.3081)
    """

    exclusive = False

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        self.alpha = _at_least_zero(alpha, "alpha")

    def extra_repr(self) -> str:
        """The hyper-parameter."""
        return f"alpha={self.alpha:g}"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        labels = prepare_label_sets(logits, target, accepts_unknown=False)
        known = _known_logits(logits, labels)
        log_z = known.logsumexp(1)
        loss = _shared_cross_entropy(known.log_softmax(1), labels) + self.alpha * log_z.square()
        return labels.mean(loss.masked_fill(labels.present.sum(1) == 0, 0.0))

    def probabilities(self, logits: Tensor) -> Tensor:
        """min(e^z, 1) ``(N, K)``."""
        return at_least_float32(logits).clamp(max=0.0).exp()


class ZLPR(Objective):
    r"""Zero-bounded log-sum-exp and pairwise rank-based loss: every present class above 0, every absent one below.

    .. math:: \ell = \log\left(1 + \sum_k (1 - y_k) e^{z_k}\right) + \log\left(1 + \sum_k y_k e^{-z_k}\right)

    Su et al., ZLPR: A Novel Loss for Multi-label Classification, 2022. Numbers between 0 and 1 weigh the terms (ours).
    The threshold is 0; ``probabilities`` gives sigmoids, which rank and share that threshold, and are not calibrated.

    Raises:
        ValueError: shapes, dtypes or labels don't fit.

    >>> ZLPR()(torch.zeros(1, 4), torch.tensor([0]))  # log 4 + log 2
    tensor(2.0794)
    """

    exclusive = False
    accepts_unknown = True

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        labels = prepare_label_sets(logits, target)
        present, absent = _signs(labels)
        zero = logits.new_zeros(len(logits), 1)
        above_zero = torch.cat([zero, torch.where(absent > 0, logits + absent.log(), -torch.inf)], 1).logsumexp(1)
        below_zero = torch.cat([zero, torch.where(present > 0, present.log() - logits, -torch.inf)], 1).logsumexp(1)
        return labels.mean(above_zero + below_zero)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids ``(N, K)``: a score with the threshold 0.5, not calibrated."""
        return at_least_float32(logits).sigmoid()


class TwoWayLoss(Objective):
    r"""Two-way loss: present against absent classes of each sample, and the same of samples for each class.

    .. math::
        \ell = \mathrm{softplus}\left( T_n \log\sum_{k: y_k = 0} e^{z_k / T_n}
               + T_p \log\sum_{k: y_k = 1} e^{-z_k / T_p} \right)

    once over the classes of a sample, averaged over the samples that have a label, and once over the samples of a
    class, averaged over the classes that have one; the loss is the sum of the two means. Kobayashi, Two-Way Multi-Label
    Loss, CVPR 2023. A sample without any label enters the second way alone.

    The loss compares samples of one batch: over processes each compares its own, as in the authors' code. Labels are 0
    or 1; other numbers count as present above 0.5. ``probabilities`` gives sigmoids, which rank and are not calibrated.

    Args:
        positive_temperature: T_p, above 0.
        negative_temperature: T_n, above 0.

    Raises:
        ValueError: shapes, dtypes, labels or temperatures don't fit.

    >>> loss = TwoWayLoss(positive_temperature=1.0)
    >>> loss(torch.zeros(2, 4), torch.tensor([0, -1]))  # log(1 + 3) + log(1 + 1)
    tensor(2.0794)
    """

    exclusive = False
    accepts_unknown = True

    def __init__(self, positive_temperature: float = 4.0, negative_temperature: float = 1.0) -> None:
        super().__init__()
        for name, value in (("positive", positive_temperature), ("negative", negative_temperature)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}_temperature is {value}: give a finite number above 0")
        self.positive_temperature = float(positive_temperature)
        self.negative_temperature = float(negative_temperature)

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        return f"positive_temperature={self.positive_temperature:g}, negative_temperature={self.negative_temperature:g}"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logits = at_least_float32(logits)
        present, absent = (share > 0.5 for share in _signs(prepare_label_sets(logits, target)))
        absent = absent & (logits != -torch.inf)
        return self._one_way(logits, present, absent, 1) + self._one_way(logits, present, absent, 0)

    def _one_way(self, logits: Tensor, present: Tensor, absent: Tensor, dim: int) -> Tensor:
        t_p, t_n = self.positive_temperature, self.negative_temperature
        has_present, has_absent = present.any(dim), absent.any(dim)
        highest_absent = t_n * _masked_logsumexp(logits / t_n, absent, dim)
        lowest_present = t_p * _masked_logsumexp(-logits / t_p, present, dim)
        margin = highest_absent + lowest_present
        loss = torch.logaddexp(torch.zeros_like(margin), margin).masked_fill(~(has_present & has_absent), 0.0)
        return loss.sum() / has_present.sum().clamp(min=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids ``(N, K)``: a score, not calibrated."""
        return at_least_float32(logits).sigmoid()


def _at_least_zero(value: float, name: str) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}: give a finite number of at least 0")
    return float(value)


def _apart(logits: Tensor, labels: LabelSets) -> tuple[Tensor, Tensor]:
    """The logits of present and of absent classes, 0 elsewhere: so an infinite one reaches no term that y rules out."""
    present = labels.present
    return torch.where(present > 0, logits, 0.0), torch.where(present < 1, logits, 0.0)


def _mean(labels: LabelSets, if_present: Tensor, if_absent: Tensor) -> Tensor:
    """The mean over samples of y times the first plus 1 - y times the second, summed over known classes."""
    present, absent = _signs(labels)
    return labels.mean((present * if_present + absent * if_absent).sum(1))


def _power(log_base: Tensor, exponent: float, detach: bool) -> Tensor:
    """The base to the exponent, without the infinite derivative that a power has at 0."""
    if exponent == 0:
        return torch.ones_like(log_base)
    power = (exponent * log_base).exp()
    return power.detach() if detach else power


def _signs(labels: LabelSets) -> tuple[Tensor, Tensor]:
    """The shares y and 1 - y, both 0 where nothing is known."""
    absent = 1 - labels.present
    return labels.present, absent if labels.known is None else absent.masked_fill(~labels.known, 0.0)


def _known_logits(logits: Tensor, labels: LabelSets) -> Tensor:
    """-inf where it is not known whether the class is there; rows of which nothing is known stay as they are."""
    if labels.known is None:
        return logits
    return logits.masked_fill(~labels.known & labels.known.any(1, keepdim=True), -torch.inf)


def _shares(labels: LabelSets) -> Tensor:
    count = labels.present.sum(1, keepdim=True)
    return labels.present / torch.where(count > 0, count, 1.0)


def _shared_cross_entropy(log_p: Tensor, labels: LabelSets) -> Tensor:
    shares = _shares(labels)
    return -torch.where(shares > 0, shares * log_p, 0.0).sum(1)


def _masked_logsumexp(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Log-sum-exp over the masked-in values; 0 with a zero gradient where there is none."""
    none = ~mask.any(dim)
    filled = torch.where(mask, values, -torch.inf).masked_fill(none.unsqueeze(dim), 0.0)
    return filled.logsumexp(dim).masked_fill(none, 0.0)


METHODS = (
    Method(
        name="binary-cross-entropy",
        cls=BinaryCrossEntropy,
        paper="Cox, The Regression Analysis of Binary Sequences, Journal of the Royal Statistical Society B",
        year=1958,
        url="https://doi.org/10.1111/j.2517-6161.1958.tb00292.x",
        formula="sum_k -y_k log s(z_k) - (1 - y_k) log(1 - s(z_k))",
        purpose="zero, one or many labels: the baseline",
        presets=PROTOCOL,
    ),
    Method(
        name="multi-label-softmax",
        cls=MultiLabelSoftmax,
        paper="Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining, ECCV",
        year=2018,
        url="https://arxiv.org/abs/1805.00932",
        formula="-sum_k (y_k / sum_j y_j) log p_k",
        purpose="one or many labels",
        presets={task: PROTOCOL[task] for task in ("one-vs-rest", "multi-label")},
    ),
    Method(
        name="binary-focal",
        cls=BinaryFocalLoss,
        paper="Lin et al., Focal Loss for Dense Object Detection, ICCV",
        year=2017,
        url="https://arxiv.org/abs/1708.02002",
        formula="sum_k -y_k (1 - p_k)^gamma log p_k - (1 - y_k) p_k^gamma log(1 - p_k), p = s(z)",
        purpose="zero, one or many labels, most of them easy",
    ),
    Method(
        name="asl",
        cls=AsymmetricLoss,
        paper="Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV",
        year=2021,
        url="https://arxiv.org/abs/2009.14119",
        formula="sum_k -y_k (1 - p_k)^gamma_pos log p_k - (1 - y_k) m_k^gamma_neg log(1 - m_k), m = max(p - clip, 0)",
        purpose="many classes of which few are present",
    ),
    Method(
        name="zlpr",
        cls=ZLPR,
        paper="Su et al., ZLPR: A Novel Loss for Multi-label Classification",
        year=2022,
        url="https://arxiv.org/abs/2208.02955",
        formula="log(1 + sum_absent e^z) + log(1 + sum_present e^-z)",
        purpose="zero, one or many labels with the threshold 0",
    ),
    Method(
        name="two-way",
        cls=TwoWayLoss,
        paper="Kobayashi, Two-Way Multi-Label Loss, CVPR",
        year=2023,
        url="https://openaccess.thecvf.com/content/CVPR2023/html/"
        "Kobayashi_Two-Way_Multi-Label_Loss_CVPR_2023_paper.html",
        formula="softplus(T_n LSE_absent(z / T_n) + T_p LSE_present(-z / T_p)), over classes and over samples",
        purpose="one or many labels: ranking",
    ),
    Method(
        name="self-normalized-cross-entropy",
        cls=SelfNormalizedCrossEntropy,
        paper="Devlin et al., Fast and Robust Neural Network Joint Models for Statistical Machine Translation, ACL",
        year=2014,
        url="https://aclanthology.org/P14-1129/",
        formula="-sum_k (y_k / sum_j y_j) log p_k + alpha (log sum_k e^z_k)^2",
        purpose="one or many labels, probabilities without a sum over classes",
    ),
)
