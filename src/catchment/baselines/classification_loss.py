"""What the losses of one label per sample share: rows of logits seen from their label, and the module around a formula.

Each of them is a function of the softmax p over the C classes and a class c,

    l(c) = f(p_c, sum over the other classes of g(p_k)),

and of class probabilities y it is sum_c y_c l(c). p_c comes from the log odds against c,

    r_c = LSE(z_k, k != c) - z_c,   log p_c = -log(1 + e^r_c),   log(1 - p_c) = -log(1 + e^-r_c),

with the LSE taken over the other classes themselves: "all minus c" loses every digit as p_c -> 1. A class whose logit
is -inf counts as absent: the loss is that of the remaining classes. So a loss is one method that turns ``Rows`` into
l(c).

For labels the numbers of a row come from ``catchment.kernels.rows``, with one gradient pass for all of them.
"""

from __future__ import annotations

import math
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from catchment.kernels.class_terms import ClassTerm
from catchment.kernels.rows import label_log_odds_and_sums, plain_label_log_odds
from catchment.loss_conventions import (
    IGNORE_INDEX,
    Target,
    at_least_float32,
    check_reduction,
    prepare_target,
    reduce_loss,
)
from catchment.objective import Objective


class Rows:
    """Rows of logits, seen from K classes each: from the label, or from every class in turn.

    Args:
        logits: ``(N, C, d...)``.
        labels: ``(N, d...)`` class indices, then K = 1; or None, then K = C.
        terms: what will be summed over the classes.

    Attributes:
        log_odds: ``(N, K, d...)`` r_c, against each of the K classes.
    """

    def __init__(self, logits: Tensor, labels: Tensor | None, terms: tuple[ClassTerm, ...] = ()) -> None:
        self.logits = logits
        self.from_every_class = labels is None
        self._class_log_p: Tensor | None = None
        if labels is None:
            top = logits.argmax(1)
            self.at = top.unsqueeze(1)
            self.log_odds = self._log_odds_of_every_class(plain_label_log_odds(logits, top))
            sums: list[Tensor] = [self._sum_others(term) for term in terms]
        else:
            self.at = labels.unsqueeze(1)
            self.log_odds, *sums = label_log_odds_and_sums(logits, labels, terms)
        self._sums = {term.name: total for term, total in zip(terms, sums, strict=True)}

    def _log_odds_of_every_class(self, of_top: Tensor) -> Tensor:
        # p_c is at most 1/2 but for the largest class, so that log(1 - p_c) keeps its digits
        log_p = self.logits.log_softmax(1)
        below_top = torch.log1p(-log_p.exp().scatter(1, self.at, 0.0)) - log_p
        return below_top.scatter(1, self.at, of_top)

    def _sum_others(self, term: ClassTerm) -> Tensor:
        values = self._of_classes(term)
        but_top = values.scatter(1, self.at, 0.0).sum(1, keepdim=True)
        others = but_top - values + values.gather(1, self.at)
        return others.scatter(1, self.at, but_top)

    def _of_classes(self, term: ClassTerm) -> Tensor:
        log_p = self.class_log_p
        return term.value(log_p, log_p.exp()).masked_fill(self.logits.isneginf(), 0.0)

    @property
    def log_p(self) -> Tensor:
        """``log p_c`` ``(N, K, d...)``."""
        return F.logsigmoid(-self.log_odds)

    @property
    def p(self) -> Tensor:
        """p_c ``(N, K, d...)``."""
        return torch.sigmoid(-self.log_odds)

    @property
    def log_not_p(self) -> Tensor:
        """``log(1 - p_c)`` ``(N, K, d...)``."""
        return F.logsigmoid(self.log_odds)

    @property
    def not_p(self) -> Tensor:
        """1 - p_c ``(N, K, d...)``."""
        return torch.sigmoid(self.log_odds)

    @property
    def class_log_p(self) -> Tensor:
        """``log p_k`` of all classes ``(N, C, d...)``; 0 where absent, which the sums leave out."""
        if self._class_log_p is None:
            self._class_log_p = self.logits.log_softmax(1).masked_fill(self.logits.isneginf(), 0.0)
        return self._class_log_p

    def sum_others(self, term: ClassTerm) -> Tensor:
        """The sum of a term over the classes other than c ``(N, K, d...)``; the loss has it in ``terms``."""
        return self._sums[term.name]

    def sum_classes(self, term: ClassTerm) -> Tensor:
        """The sum of a term over all classes ``(N, 1, d...)``, or ``(N, C, d...)``, all alike."""
        if self.from_every_class:
            return self._of_classes(term).sum(1, keepdim=True).expand_as(self.log_odds)
        log_p = self.log_p
        absent = log_p.isneginf()
        own = term.value(log_p.masked_fill(absent, 0.0), self.p).masked_fill(absent, 0.0)
        return self._sums[term.name] + own

    def pick(self, per_class: Tensor) -> Tensor:
        """A number of each class ``(C,)``, or a row ``(C, n)``, at the K classes: ``(N, K, d...)``, or with n last."""
        per_class = per_class.to(self.logits.dtype)
        if not self.from_every_class:
            return per_class[self.at]
        spatial = [1] * (self.logits.ndim - 2)
        return per_class.reshape(1, len(per_class), *spatial, *per_class.shape[1:])


class Conventions(TypedDict, total=False):
    """What every constructor here takes beside the symbols of its paper."""

    weight: Tensor | None
    ignore_index: int
    reduction: str


class ClassificationLoss(Objective):
    """A loss of one label per sample; a subclass says in ``per_class`` what it is.

    Args:
        weight: ``(C,)`` class weights; a sample's weight is w[target], or ``sum_c w_c y_c``.
        ignore_index: samples with this label are left out.
        reduction: "mean" (divided by the sample weights' sum), "sum" or "none".

    As input:
        logits ``(N, C, d...)``; target ``(N, d...)`` class indices, or ``(N, C, d...)`` class probabilities y, for
        which the loss is ``sum_c y_c loss(c)``.

    Raises:
        ValueError: shapes, dtypes, labels or hyper-parameters don't fit.
    """

    hyperparameters: tuple[str, ...] = ()
    weight: Tensor | None

    def __init__(
        self, *, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX, reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.register_buffer("weight", weight, persistent=False)

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        values = {name: getattr(self, name) for name in self.hyperparameters}
        return ", ".join(f"{k}={v}" if isinstance(v, bool) else f"{k}={v:g}" for k, v in values.items())

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss: a scalar, or ``(N, d...)`` with reduction "none"."""
        logits = at_least_float32(logits)
        prepared = self.prepare(logits, target, self.weight)
        return reduce_loss(self.per_sample(logits, prepared), prepared, self.reduction)

    def prepare(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Target:
        """The target, checked, with each sample's weight."""
        num_classes = logits.shape[1] if logits.ndim > 1 else 0
        return prepare_target(logits, target, num_classes=num_classes, weight=weight, ignore_index=self.ignore_index)

    def per_sample(self, logits: Tensor, target: Target) -> Tensor:
        """The loss of each sample ``(N, d...)``, neither weighted nor reduced."""
        loss = self.per_class(Rows(logits, target.labels if target.is_index else None, self.terms()))
        return loss.squeeze(1) if target.is_index else expected_loss(loss, target.labels)

    def terms(self) -> tuple[ClassTerm, ...]:
        """What ``per_class`` sums over the classes."""
        return ()

    def per_class(self, rows: Rows) -> Tensor:
        """l(c) ``(N, K, d...)`` at the K classes that the rows are seen from."""
        raise NotImplementedError


def expected_loss(loss: Tensor, probabilities: Tensor) -> Tensor:
    """``sum_c y_c l(c)``, each ``(N, C, d...)``; a class with y_c = 0 contributes 0 even where l(c) is infinite."""
    impossible = (probabilities == 0) & loss.isinf()
    return (probabilities * loss.masked_fill(impossible, 0.0)).sum(1)


def cross_entropy(logits: Tensor, target: Target) -> Tensor:
    """Cross-entropy of each sample ``(N, d...)``, as fast as torch's."""
    if target.is_index:
        return F.cross_entropy(logits, target.labels, reduction="none")
    return expected_loss(-logits.log_softmax(1), target.labels)


def check_hyperparameter(
    name: str, value: float, *, above: float | None = None, at_least: float | None = None, at_most: float = math.inf
) -> float:
    """``value`` as a float, or a ValueError that says the range."""
    value = float(value)
    fits = math.isfinite(value) and value <= at_most
    fits = fits and (above is None or value > above) and (at_least is None or value >= at_least)
    if not fits:
        low = f"above {above:g}" if above is not None else f"of at least {at_least:g}"
        high = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise ValueError(f"{name} is {value:g}: give a finite number {low}{high}")
    return value
