"""Quasibinary classifier: zero, one or many labels with one normaliser for the whole batch.

Paper: "Quasibinary Classifier for Images with Zero and Multiple Labels", Liao, Gavves, Oh and Snoek, ICPR 2020,
doi 10.1109/ICPR48806.2021.9412933.

With z the logits (B, K), y in 0..1 the labels and N = sum_ik y_ik their number, one constant C serves all (eq. 10):

    q_ik = e^(z_ik) / C,   C = 1/N sum_ik e^(z_ik).

The paper maximises eq. 11; as a loss, with penalty weight w (1 in the paper),

    L = 1/B sum_ik [ -y_ik log q_ik + w max(log q_ik, 0) ],
    log q = log_softmax over all B K logits + log N.

C depends on the logits and is not detached: without its gradient nothing would push an absent class down. With
m = [q > 1] and M = sum_ik m_ik, dL/dlog C = (N - w M) / B and dlog C/dz = q / N, so

    dL/dz = [ q (1 - w M / N) - y + w m ] / B,

which sums to 0. All that a part of the batch needs of the rest are five numbers: log C (as m + r with m the largest
logit, so that a common offset cancels before anything is rounded), N, B and M. Processes exchange them in the forward
pass; the backward pass needs no exchange.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from catchment.label_sets import LabelSets, prepare_label_sets
from catchment.loss_conventions import at_least_float32
from catchment.objective import Method, Model, Objective

EMPTY = ("push-down", "skip", "raise")

# A number in eager mode on a CPU; else a tensor, since looking at it would cost a synchronisation or a graph break.
Scalar: TypeAlias = Tensor | float


class BatchTotals(NamedTuple):
    """What a part of a batch needs to know of the whole: numbers, or tensors without a gradient.

    Args:
        largest: m, the largest logit, or 0 where there is none.
        log_rest: r, with log C = m + r.
        labels: N, the number of labels.
        rows: B, the number of samples that count.
        above_one: M, the number of pairs of sample and class with q > 1.
    """

    largest: Scalar
    log_rest: Scalar
    labels: Scalar
    rows: Scalar
    above_one: Scalar

    @property
    def log_normalizer(self) -> Scalar:
        """The logarithm of C."""
        return self.largest + self.log_rest

    def log_q(self, logits: Tensor) -> Tensor:
        """The logarithm of q for logits ``(N, K)``; -r at most."""
        return _log_q(logits, self.largest, self.log_rest)


class QuasibinaryLoss(Objective):
    r"""The quasibinary loss, its running normaliser, and how to read the outputs of a network trained with it.

    .. math::
        L = \frac1B \sum_{ik} \left[ -y_{ik} \log q_{ik} + w \max(\log q_{ik}, 0) \right], \qquad
        q_{ik} = \frac{e^{z_{ik}}}{C}, \quad C = \frac{1}{N} \sum_{ik} e^{z_{ik}}, \quad N = \sum_{ik} y_{ik}

    In training mode C is that of the batch (of all processes), its gradient included, and a running mean of it is kept
    in the buffer ``log_normalizer`` (log C; 0 before the first batch). In eval mode, in ``probabilities`` and in
    the scores C is the running one. A sample without any label is learnt from like any other.

    A batch without any label has no C. By default it gives the loss ``1/B sum_ik [min(q, 1) + max(log q, 0)]`` with
    the running C (before there is one: C as if the batch held one label), whose gradient is ``min(q, 1) / B``. A batch
    with nothing to learn from gives 0.

    Args:
        momentum: weight of the new batch in the running mean of C, above 0 and up to 1 (torch's sense; the paper's 0.9
            is 1 - this); None: the plain mean over all batches. The first batch sets C.
        penalty_weight: w, at least 0; 1 in the paper.
        empty: what a batch without any label does: "push-down", as above; "skip": loss 0; "raise": a ValueError (in
            eager mode on a CPU, else as "skip").

    As input:
        logits ``(N, K)``, any floating-point dtype; target: class indices ``(N,)``, with -1 for no class at all and
        -100 to leave a sample out, or ``(N, K)`` with numbers from 0 to 1 and -100 for each pair of sample and class
        that is not known. totals: see ``observe``.

    Returns:
        A scalar, float32, or float64 for float64 logits. Over processes its mean is the loss of the whole batch, and
        the mean of the gradients its gradient. +inf where a label stands on a logit of -inf.

    Raises:
        ValueError: shapes, dtypes or hyper-parameters don't fit; in eager mode on a CPU also values out of range.

    >>> loss = QuasibinaryLoss()
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> loss(logits, torch.tensor([0, -1]))  # one label: (log(e^2 + 5) - 2) / 2
    tensor(0.2584)
    >>> loss.eval().probabilities(logits)
    tensor([[0.5964, 0.0807, 0.0807],
            [0.0807, 0.0807, 0.0807]])
    """

    exclusive = False
    accepts_unknown = True
    log_normalizer: Tensor
    num_batches: Tensor

    def __init__(self, *, momentum: float | None = 0.1, penalty_weight: float = 1.0, empty: str = "push-down") -> None:
        super().__init__()
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f"momentum is {momentum}: give a number above 0 and up to 1, or None for the plain mean")
        if not (math.isfinite(penalty_weight) and penalty_weight >= 0):
            raise ValueError(f"penalty_weight is {penalty_weight}: give a finite number of at least 0")
        if empty not in EMPTY:
            raise ValueError(f"empty is {empty!r}: choose one of {', '.join(EMPTY)}")
        self.momentum = momentum
        self.penalty_weight = float(penalty_weight)
        self.empty = empty
        self.register_buffer("log_normalizer", torch.zeros(()))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        return f"momentum={self.momentum}, penalty_weight={self.penalty_weight:g}, empty={self.empty!r}"

    def forward(self, logits: Tensor, target: Tensor, *, totals: BatchTotals | None = None) -> Tensor:
        """The loss; of a part of a batch, if ``totals`` says what the whole batch has."""
        logits, labels = _prepared(logits, target)
        if not self.training:
            return self._with_constant_normalizer(logits, labels)
        if totals is None:
            totals = self._observe(logits, labels)
        loss: Tensor = _QuasibinarySum.apply(
            logits, labels.present, totals.log_q(logits.detach()), _Weights.of(totals, self.penalty_weight, self.empty)
        )
        return loss

    def _with_constant_normalizer(self, logits: Tensor, labels: LabelSets) -> Tensor:
        log_q = logits - self.log_normalizer
        return labels.mean(self.penalty_weight * log_q.relu().sum(1) - (labels.present * log_q).nansum(1))

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor) -> BatchTotals:
        """Take the totals of a batch (of all processes), and in training mode move the running normaliser.

        For a batch whose gradient is accumulated in parts: observe the logits of the whole batch first, without a
        gradient, then pass what this returns with every part. The parts' losses sum up to that of the batch.
        """
        return self._observe(*_prepared(logits, target))

    @torch.no_grad()
    def _observe(self, logits: Tensor, labels: LabelSets) -> BatchTotals:
        largest, total = _scaled_sum(logits)
        num_labels = _scalar(labels.present.sum())
        rows = _scalar(labels.num_rows())
        if _world_size() > 1:
            largest, total, num_labels, rows = _over_processes(logits, largest, total, num_labels, rows)
        has_labels, has_logits, old_batches = num_labels > 0, total > 0, _scalar(self.num_batches)
        if self.empty == "raise" and _surely(num_labels == 0):
            raise ValueError("the batch holds no label: draw larger batches, or choose empty='push-down'")
        log_rest = _where(has_logits, _log(total), 0.0) - _where(has_labels, _log(num_labels), 0.0)
        if not _surely(has_labels):  # C of earlier batches, or as if the batch held one label
            use_running = _where(has_labels, False, old_batches > 0)
            largest = _where(use_running, 0.0, largest)
            log_rest = _where(use_running, _scalar(self.log_normalizer), log_rest)
        largest = _where(has_logits, largest, 0.0)
        if self.training:
            self._move_normalizer(largest + log_rest, has_labels & has_logits)
        above_one: Scalar = 0.0
        if not _surely(log_rest >= 0):  # else no q is above 1, since log q is at most -r
            count = (_log_q(logits, largest, log_rest) > 0).sum()
            if _world_size() > 1:
                dist.all_reduce(count)
            above_one = _scalar(count)
        return BatchTotals(largest, log_rest, num_labels, rows, above_one)

    def _move_normalizer(self, log_normalizer: Scalar, usable: Tensor | bool) -> None:
        """C <- (1 - share) C + share C_t, in log space; the first batch has the share 1."""
        old, count = _scalar(self.log_normalizer), _scalar(self.num_batches.to(self.log_normalizer.dtype))
        share = 1 / (count + 1) if self.momentum is None else _where(count > 0, self.momentum, 1.0)
        moved = _logaddexp(_log(1 - share) + old, _log(share) + log_normalizer)
        usable = usable & (log_normalizer - log_normalizer == 0)  # finite: one NaN would stay for good
        self.log_normalizer.fill_(_where(usable, moved, old))
        self.num_batches.add_(usable)

    @torch.no_grad()
    def recalibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the running normaliser to the exact C over all ``batches``, pairs (logits, target), of all processes.

        Give the logits of the network in eval mode: they differ from those in training where there is dropout, batch
        normalisation or augmentation. See the function ``recalibrate``.

        Raises:
            ValueError: there is no label among all targets, or C is not finite.
        """
        totals = torch.full((2,), -torch.inf, dtype=torch.float64, device=self.log_normalizer.device)
        for batch_logits, target in batches:
            logits, labels = _prepared(batch_logits.double(), target)
            largest, total = _scaled_sum(logits)
            totals = torch.logaddexp(totals, _stacked(totals, largest + _log(total), _log(labels.present.sum())))
        if _world_size() > 1:
            totals = _gathered(totals).logsumexp(0)
        log_sum, log_labels = totals
        if log_labels.isneginf():
            raise ValueError("there is no label in these batches, so C is not defined: give labelled samples")
        if not log_sum.isfinite():
            raise ValueError(f"the logits make log C {log_sum.item()}: find out which of them are not finite")
        self.log_normalizer.copy_(log_sum - log_labels)
        self.num_batches.fill_(1)

    def log_q(self, logits: Tensor) -> Tensor:
        """The logarithm of q for logits ``(N, K)`` with the running C, in float32 or better; above 0 where q > 1."""
        return at_least_float32(logits) - self.log_normalizer

    def probabilities(self, logits: Tensor) -> Tensor:
        """The q with the running C, clipped to at most 1: ``(N, K)``; rows may sum to anything from 0 to K."""
        return self.log_q(logits).clamp(max=0.0).exp()

    def share_above_one(self, logits: Tensor) -> Tensor:
        """The share of pairs of sample and class with q > 1, which ``probabilities`` clips; a scalar from 0 to 1."""
        return (self.log_q(logits) > 0).to(torch.float32).mean()

    def unknown_score(self, logits: Tensor) -> Tensor:
        """-max_k log q ``(N,)``, in nats: how likely the sample has no class; below 0 where q > 1.

        It ranks as 1 - max q does, without the ties among clipped values, and its ranking does not depend on C.
        """
        return -self.log_q(logits).amax(1)


def recalibrate(model: Model, loader: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the running normaliser of ``model`` to the exact C over a data set, with the net in eval mode.

    The running mean of training lags behind the weights and has seen the net in training mode; this has neither fault.
    Where several processes hold different parts of the data, C is that of all.

    Args:
        model: a net and a ``QuasibinaryLoss``, or a ``Combined`` with one.
        loader: batches with "inputs" and "target", as the model takes them in training.

    Raises:
        ValueError: the objective has no quasibinary loss, there is no label in the data, or C is not finite.
    """
    losses = [module for module in model.objective.modules() if isinstance(module, QuasibinaryLoss)]
    if len(losses) != 1:
        raise ValueError(f"the model's objective holds {len(losses)} quasibinary losses: give one that holds one")
    device = losses[0].log_normalizer.device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            losses[0].recalibrate(
                (model.net(batch["inputs"].to(device))["logits"], batch["target"].to(device)) for batch in loader
            )
    finally:
        model.train(was_training)


def _prepared(logits: Tensor, target: Tensor) -> tuple[Tensor, LabelSets]:
    """The logits in float32 or better, -inf (so q = 0) where it is not known whether the class is there."""
    logits = at_least_float32(logits)
    labels = prepare_label_sets(logits, target)
    return logits if labels.known is None else logits.masked_fill(~labels.known, -torch.inf), labels


def _scaled_sum(logits: Tensor) -> tuple[Scalar, Scalar]:
    """(m, sum e^(z - m)) over all logits, m the largest; (-inf, 0) where there is none."""
    largest = _scalar(logits.amax()) if logits.numel() else -math.inf
    offset = _where(largest == -math.inf, 0.0, largest)
    return largest, _scalar((logits - offset).exp().sum())


def _log_q(logits: Tensor, largest: Scalar, log_rest: Scalar) -> Tensor:
    return (logits - largest) - log_rest


class _Weights(NamedTuple):
    """The scalars of ``_QuasibinarySum``; None for those that surely change nothing.

    Args:
        scale: 1 / B, times the number of processes.
        inverse_labels: 1 / N, or 0.
        pull: of q in the gradient, 1 - w M / N.
        penalty: w.
        push: whether the batch has no label, for which C is constant and the loss the sum of min(q, 1) + max(log q, 0).
    """

    scale: Scalar
    inverse_labels: Scalar
    pull: Scalar | None = None
    penalty: Scalar | None = None
    push: Scalar | None = None

    @classmethod
    def of(cls, totals: BatchTotals, penalty_weight: float, empty: str) -> _Weights:
        scale = _world_size() / _where(totals.rows > 0, totals.rows, 1.0)
        has_labels = totals.labels > 0
        inverse_labels = 1 / _where(has_labels, totals.labels, math.inf)
        if _surely(has_labels) and _surely(totals.log_rest >= 0):
            return cls(scale, inverse_labels)
        push = _where(has_labels, 0.0, float(empty == "push-down"))
        pull = _where(has_labels, 1 - penalty_weight * totals.above_one * inverse_labels, push)
        penalty = _where(has_labels, penalty_weight, 0.0)
        return cls(scale, inverse_labels, pull, penalty, None if _surely(has_labels) else push)


class _QuasibinarySum(torch.autograd.Function):
    """The loss of a part of a batch from log q; C moves with the logits."""

    @staticmethod
    def forward(logits: Tensor, present: Tensor, log_q: Tensor, weights: _Weights) -> Tensor:
        penalty, push = weights.penalty, weights.push
        loss = -(present * log_q).nansum()  # an absent class at -inf counts 0; NaN logits reach the loss by the penalty
        if penalty is not None:
            loss = loss + penalty * log_q.relu().sum()
        if push is not None:
            loss = loss + push * (_q(log_q, push).sum() + log_q.relu().sum())
        return loss * weights.scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.weights = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, present, log_q = ctx.saved_tensors
        scale, inverse_labels, pull, penalty, push = ctx.weights
        if torch.is_grad_enabled():  # differentiated again: log q moves with the logit, and with C by dlog C/dz = q / N
            attached = log_q + (logits - logits.detach())
            share = _q(attached, push).sum() * inverse_labels
            log_q = attached - (share - share.detach())
        grad = _q(log_q, push)
        if pull is not None:
            grad = pull * grad
        grad = grad - present
        if penalty is not None:
            grad = grad + penalty * (log_q > 0)
        return grad * (grads[0] * scale), None, None, None


def _q(log_q: Tensor, push: Scalar | None) -> Tensor:
    """e^(log q); at most 1 in a batch without any label, whose C is that of other batches."""
    return log_q.exp() if push is None else log_q.clamp(max=_where(push > 0, 0.0, math.inf)).exp()


def _scalar(value: Tensor) -> Scalar:
    """The number in a tensor of one, where it can be looked at."""
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return value
    try:
        return value.item()
    except RuntimeError:  # under vmap and with fake tensors there is no single number
        return value


def _surely(condition: Tensor | bool) -> bool:
    return condition if isinstance(condition, bool) else False


def _where(condition: Tensor | bool, if_true: Any, if_false: Any) -> Any:
    if isinstance(condition, bool):
        return if_true if condition else if_false
    return torch.where(condition, if_true, if_false)


def _log(value: Scalar) -> Scalar:
    if isinstance(value, Tensor):
        return value.log()
    return -math.inf if value == 0 else math.log(value)


def _logaddexp(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.logaddexp(a, b)
    return float(np.logaddexp(a, b))


def _stacked(like: Tensor, *values: Scalar) -> Tensor:
    """The values in one tensor, float64, on the device of ``like``."""
    return torch.stack([torch.as_tensor(value, dtype=torch.float64, device=like.device) for value in values])


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gathered(values: Tensor) -> Tensor:
    """The 1-D ``values`` of all processes, a row for each."""
    rows = values.new_empty(_world_size() * len(values))
    dist.all_gather_into_tensor(rows, values)
    return rows.view(-1, len(values))


def _over_processes(like: Tensor, largest: Scalar, total: Scalar, *counts: Scalar) -> tuple[Scalar, ...]:
    """(m, sum e^(z - m), counts) of all processes."""
    rows = _gathered(_stacked(like, largest, total, *counts))
    every_largest = rows[:, 0].amax()
    scale = (rows[:, 0] - every_largest.masked_fill(every_largest.isneginf(), 0.0)).exp()
    joined = (every_largest, (scale * rows[:, 1]).sum(), *rows[:, 2:].sum(0))
    return tuple(_scalar(value.to(like.dtype)) for value in joined)


_PROTOCOL = {
    **{"epochs": 200, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    **{"weight_decay": 1e-4, "schedule": "milestones", "milestones": (0.5, 0.75), "step_factor": 0.1, "clip_norm": 0.0},
}
# What the paper trains all its classifiers with. It says "momentum set to 1e-4", read here as the weight decay beside
# a momentum of 0.9; the multi-label nets are fine-tuned for 20 epochs.
PROTOCOL = {
    "one-vs-rest": {"objective": {}, "training": _PROTOCOL},
    "zero-label": {"objective": {}, "training": _PROTOCOL},
    "multi-label": {"objective": {}, "training": _PROTOCOL | {"epochs": 20}},
}

METHODS = (
    Method(
        name="quasibinary",
        cls=QuasibinaryLoss,
        paper="Liao et al., Quasibinary Classifier for Images with Zero and Multiple Labels, ICPR",
        year=2020,
        url="https://doi.org/10.1109/ICPR48806.2021.9412933",
        formula="sum_k -y_k log q_k + max(log q_k, 0), q = e^z / C, C = the batch's sum of e^z / its number of labels",
        purpose="zero, one or many labels with calibrated probabilities",
        presets=PROTOCOL,
    ),
)
