"""The drainage loss of class indices: the plain twin, and the compiled one on a CPU.

See ``catchment.drainage`` for the loss, T1, T2, A and the gradient. ``loss_of_indices`` chooses.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from catchment.kernels import losses_cpu
from catchment.kernels.dispatch import is_for_triton, is_plain
from catchment.loss_conventions import at_least_float32


def loss_of_indices(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """The loss of each row ``(N, d...)`` for logits ``(N, C+1, d...)`` and class indices ``(N, d...)``."""
    if is_for_triton(logits, labels):
        from catchment.kernels.triton_losses import drainage_loss_of_indices

        return drainage_loss_of_indices(logits, labels, alpha, beta)
    logits = at_least_float32(logits)
    if losses_cpu.serves(logits, labels):
        loss: Tensor = _CompiledIndexLoss.apply(logits, labels, alpha, beta)
        return loss
    return plain_loss_of_indices(logits, labels, alpha, beta)


def plain_loss_of_indices(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """As ``loss_of_indices``, on any device, under torch.func and torch.compile."""
    loss: Tensor = _PlainIndexLoss.apply(logits, labels, alpha, beta)[0]
    return loss


class Terms(NamedTuple):
    """The loss and the pieces of its gradient, elementwise in (z_t, z_d, A)."""

    loss: Tensor
    w1: Tensor
    w2: Tensor
    drainage_share: Tensor  # s_d


def terms(z_t: Tensor, z_d: Tensor, largest: Tensor, rest: Tensor, alpha: float, beta: float) -> Terms:
    """The loss and w1, w2, s_d from z_t, z_d and A = largest + rest over the rivals; infinite logits included."""
    no_rivals = rest.isneginf()
    rivals_to_label = (largest - z_t) + rest
    rivals_to_drainage = (largest - z_d) + rest
    t1 = math.log(alpha) + torch.logaddexp(rivals_to_label, z_d - z_t)
    t1 = torch.where(z_t.isneginf(), torch.inf, t1)
    if beta > 0:
        # A rival at -inf has no mass, so nothing flows from it to drainage, whatever that is.
        t2 = torch.where(no_rivals, -torch.inf, math.log(beta) + rivals_to_drainage)
    else:
        t2 = torch.full_like(t1, -torch.inf)
    zero = torch.zeros_like(t1)  # log(1 + e^x) as logaddexp(0, x): softplus drops e^-x above a threshold
    loss = torch.logaddexp(zero, torch.logaddexp(t1, t2))
    # Cut at a huge finite number, so that a term at +inf takes all of the weight instead of inf - inf.
    huge = torch.finfo(t1.dtype).max / 4
    t1, t2 = t1.clamp(max=huge), t2.clamp(max=huge)
    # softmax(0, T1, T2) as sigmoids: e^(T1 - loss) would carry the rounding of the loss, 1e-3 for logits of 1e4
    w1 = torch.sigmoid(t1 - torch.logaddexp(zero, t2))
    w2 = torch.sigmoid(t2 - torch.logaddexp(zero, t1))
    share = torch.sigmoid(-rivals_to_drainage).masked_fill(no_rivals, 1.0)
    return Terms(loss, w1, w2, share)


def outside_rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the label and drainage stand in a row: ``(N, 2, d...)`` for logits ``(N, C+1, d...)``."""
    return torch.stack([labels, torch.full_like(labels, logits.shape[1] - 1)], 1)


def rivals_logsumexp(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(m, r), each ``(N, d...)``: A = m + r, and m the largest class but the label; (0, -inf) where none is left."""
    rival_logits = logits.scatter(1, outside_rivals(logits, labels), -torch.inf)
    largest = rival_logits.amax(1)
    no_rivals = largest.isneginf()
    # LSE - max = -log(max softmax), well-conditioned since the largest of C shares is at least 1/C
    rest = -rival_logits.softmax(1).amax(1).log()
    return largest.masked_fill(no_rivals, 0.0), rest.masked_fill(no_rivals, -torch.inf)


def rivals_softmax(logits: Tensor, outside: Tensor, no_rivals: Tensor) -> Tensor:
    """e^(z_j - A) for the rivals, ``(N, C+1, d...)``; what it holds at ``outside`` is not used."""
    # With no rival left a softmax over -inf alone would be NaN: such a row puts its mass on drainage.
    at_drainage = torch.zeros_like(logits[:, 0]).masked_fill(~no_rivals, -torch.inf)
    fill = torch.stack([torch.full_like(at_drainage, -torch.inf), at_drainage], 1)
    return logits.scatter(1, outside, fill).softmax(1)


class _PlainIndexLoss(torch.autograd.Function):
    """(loss, m, r) for class indices. m and r are outputs, so that the gradient can itself be differentiated.

    The gradient of A = m + r goes through r, as if m were a constant.
    There is no ``jvp``: torch.compile can't trace one. Second derivatives are taken in reverse mode.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        largest, rest = rivals_logsumexp(logits, labels)
        z_t = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
        return terms(z_t, logits[:, -1], largest, rest, alpha, beta).loss, largest, rest

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, labels, ctx.alpha, ctx.beta = inputs
        _, largest, rest = output
        ctx.save_for_backward(logits, labels, largest, rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, largest, rest = ctx.saved_tensors
        grad_loss, _, grad_rest = grads
        grad = _gradient(logits, labels, largest, rest, grad_loss, grad_rest, ctx.alpha, ctx.beta)
        return grad, None, None, None


def differentiable_gradient(logits: Tensor, labels: Tensor, grad_loss: Tensor, alpha: float, beta: float) -> Tensor:
    """The gradient by the logits, in their dtype, in operations that can be differentiated and batched."""
    wide = at_least_float32(logits)
    _, largest, rest = _PlainIndexLoss.apply(wide, labels, alpha, beta)
    return _gradient(wide, labels, largest, rest, grad_loss, 0.0, alpha, beta).to(logits.dtype)


def _gradient(
    logits: Tensor,
    labels: Tensor,
    largest: Tensor,
    rest: Tensor,
    grad_loss: Tensor,
    grad_rest: Tensor | float,
    alpha: float,
    beta: float,
) -> Tensor:
    z_t, z_d = logits.gather(1, labels.unsqueeze(1)).squeeze(1), logits[:, -1]
    _, w1, w2, share = terms(z_t, z_d, largest, rest, alpha, beta)
    k = w1 * (1 - share) + w2
    outside = outside_rivals(logits, labels)
    grad = rivals_softmax(logits, outside, rest.isneginf()) * (grad_loss * k + grad_rest).unsqueeze(1)
    at_label_and_drainage = torch.stack([-grad_loss * w1, grad_loss * (w1 * share - w2)], 1)
    # not scatter_: torch.func nests levels of vmap in which the gradient coming in has more dims than the logits
    return grad.scatter(1, outside, at_label_and_drainage)


class _CompiledIndexLoss(torch.autograd.Function):
    """The loss and its gradient in compiled loops.

    The gradient's own derivative goes through the plain twin, and so does torch.func: a forward with ``setup_context``
    costs 50 µs more.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
        loss, ctx.kept = losses_cpu.drainage_forward(logits, labels, alpha, beta)
        ctx.alpha, ctx.beta = alpha, beta
        ctx.save_for_backward(logits, labels)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(grads[0]):
            grad = differentiable_gradient(logits, labels, grads[0], ctx.alpha, ctx.beta)
        else:
            grad = losses_cpu.drainage_backward(logits, labels, ctx.kept, grads[0])
        return grad, None, None, None
