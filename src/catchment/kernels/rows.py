"""What the losses of one label per sample need from a row of logits, each with one gradient pass.

With p the softmax and y the label, most of them are a function of two numbers a row,

    r = LSE(z_k, k != y) - z_y = log((1 - p_y) / p_y),   H = sum_(k != y) h(p_k),

or of r alone, or of several H. ``label_log_odds`` gives r, ``label_log_odds_and_sums`` all: a loss is written in a few
operations on them, of the size of the labels, and differentiated by autograd. Their gradients by the logits are

    dr/dz_j = p_j / (1 - p_y) (j != y),  dr/dz_y = -1,
    dH/dz_j = s_j - p_j sum_k s_k,  s_k = dh/dlog p_k (k != y),  s_y = 0.

On a CPU, in eager mode, they are compiled loops where there is a compiler, on CUDA Triton kernels; anywhere else the
plain twins run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from catchment.kernels import losses_cpu
from catchment.kernels.class_terms import ClassTerm
from catchment.kernels.dispatch import is_for_triton, is_plain
from catchment.loss_conventions import at_least_float32


def label_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The log odds r ``(N, 1, d...)`` of logits ``(N, C, d...)`` against the class indices ``(N, d...)``.

    -inf where all other classes are -inf; +inf where the label alone is.
    """
    if is_for_triton(logits, labels):
        from catchment.kernels import triton_losses

        return triton_losses.label_log_odds(logits, labels)
    logits = at_least_float32(logits)
    if losses_cpu.serves(logits, labels):
        return _compiled(logits, labels, ())[0]
    return plain_label_log_odds(logits, labels)


def plain_label_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The plain twin of ``label_log_odds``."""
    at = labels.unsqueeze(1)
    others = logits.scatter(1, at, -torch.inf)
    none_left = others.isneginf().all(1, keepdim=True)
    # logsumexp over -inf alone has no derivative
    largest = others.detach().amax(1, keepdim=True).masked_fill(none_left, 0.0)
    rest = (others - largest).masked_fill(none_left, 0.0).logsumexp(1, keepdim=True)
    return (largest - logits.gather(1, at)) + rest.masked_fill(none_left, -torch.inf)


def top_class(logits: Tensor) -> Tensor:
    """``logits.argmax(1)`` for logits in float32 or float64, two to three times as fast on a CPU."""
    return losses_cpu.argmax(logits) if losses_cpu.serves(logits) else logits.argmax(1)


def label_log_odds_and_sums(logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
    """(r, H of each term), each ``(N, 1, d...)``; classes at -inf are left out of H."""
    if not terms:
        return (label_log_odds(logits, labels),)
    if is_for_triton(logits, labels):
        from catchment.kernels import triton_sums

        if len(terms) <= triton_sums.MOST_TERMS:
            return triton_sums.label_log_odds_and_sums(logits, labels, terms)
    logits = at_least_float32(logits)
    if losses_cpu.serves(logits, labels):
        return _compiled(logits, labels, terms)
    return plain_label_log_odds_and_sums(logits, labels, terms)


def plain_label_log_odds_and_sums(logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
    """The plain twin of ``label_log_odds_and_sums``."""
    absent = logits.isneginf()
    log_p = logits.log_softmax(1).masked_fill(absent, 0.0)
    left_out = absent.scatter(1, labels.unsqueeze(1), value=True)
    sums = [term.value(log_p, log_p.exp()).masked_fill(left_out, 0.0).sum(1, keepdim=True) for term in terms]
    return plain_label_log_odds(logits, labels), *sums


def differentiable_gradient(logits: Tensor, labels: Tensor, grad: Tensor) -> Tensor:
    """The gradient of ``label_log_odds`` by the logits, in operations that can be differentiated and batched."""
    return _plain_gradient(lambda: (plain_label_log_odds(at_least_float32(logits), labels),), logits, (grad,))


def gradient_of_sums(logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...], grads: tuple[Tensor, ...]) -> Tensor:
    """The gradient of ``label_log_odds_and_sums`` by the logits, likewise."""
    return _plain_gradient(
        lambda: plain_label_log_odds_and_sums(at_least_float32(logits), labels, terms), logits, grads
    )


class _Compiled(torch.autograd.Function):
    """(r, H...) and their gradient in compiled loops.

    The gradient's own derivative goes through the plain twin, and so does torch.func: a forward with ``setup_context``
    costs 50 µs more.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
        numbers, ctx.kept = losses_cpu.sums_forward(logits, labels, terms)
        ctx.terms = terms
        ctx.save_for_backward(logits, labels)
        return tuple(numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        terms: tuple[ClassTerm, ...] = ctx.terms
        if torch.is_grad_enabled() or not all(is_plain(grad) for grad in grads):
            return gradient_of_sums(logits, labels, terms, grads), None, None
        return losses_cpu.sums_backward(logits, labels, terms, ctx.kept, grads), None, None


def _compiled(logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
    numbers: tuple[Tensor, ...] = _Compiled.apply(logits, labels, terms)
    return numbers


def _plain_gradient(plain: Callable[[], tuple[Tensor, ...]], logits: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        numbers = plain()
    of_logits = [pair for pair in zip(numbers, grads, strict=True) if pair[0].requires_grad]
    outputs, upstream = zip(*of_logits, strict=True)
    return torch.autograd.grad(outputs, logits, upstream, create_graph=create_graph)[0]
