"""What the losses of one label per sample need from a row of logits, each with one gradient pass.

With p the softmax and y the label, most of them are a function of two numbers a row,

    r = LSE(z_k, k != y) - z_y = log((1 - p_y) / p_y),   H = sum_(k != y) h(p_k),

or of r alone, or of several H. ``label_log_odds`` gives r, ``label_log_odds_and_sums`` all: a loss is written in a few
operations on them, of the size of the labels, and differentiated by autograd. Their gradients by the logits are

    dr/dz_j = p_j / (1 - p_y) (j != y),  dr/dz_y = -1,
    dH/dz_j = s_j - p_j sum_k s_k,  s_k = dh/dlog p_k (k != y),  s_y = 0.

On a CPU, in eager mode, they are closed-form functions; on CUDA r has a Triton kernel; anywhere else the plain twins
run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from catchment.kernels.class_terms import ClassTerm
from catchment.kernels.rivals import is_fast, is_for_triton, is_plain, lowest_mass, rival_masses
from catchment.loss_conventions import at_least_float32


def label_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The log odds r ``(N, 1, d...)`` of logits ``(N, C, d...)`` against the class indices ``(N, d...)``.

    -inf where all other classes are -inf; +inf where the label alone is.
    """
    if is_for_triton(logits, labels):
        from catchment.kernels import triton_losses

        return triton_losses.label_log_odds(logits, labels)
    logits = at_least_float32(logits)
    if is_fast(logits, labels):
        log_odds: Tensor = _LabelLogOdds.apply(logits, labels)
        return log_odds
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


def label_log_odds_and_sums(logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
    """(r, H of each term), each ``(N, 1, d...)``; classes at -inf are left out of H."""
    if not terms:
        return (label_log_odds(logits, labels),)
    logits = at_least_float32(logits)
    if is_fast(logits, labels):
        numbers: tuple[Tensor, ...] = _LabelLogOddsAndSums.apply(logits, labels, terms)
        return numbers
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


class _LabelLogOdds(torch.autograd.Function):
    """r from softmax masses. The gradient takes the place of p, which a second pass makes again.

    ``torch.func`` goes through the plain twin: a forward with ``setup_context`` costs 50 µs more.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        at = labels.unsqueeze(1)
        rivals, at_label, total, redo = rival_masses(logits, at)
        log_odds = total.div(at_label).log_()
        if redo is not None:
            log_odds.squeeze(1)[redo.where] = (redo.largest - redo.outside_logits.squeeze(1)) + redo.rest
        ctx.rivals, ctx.total = rivals, total
        ctx.save_for_backward(logits, labels)
        return log_odds

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rivals, ctx.rivals = ctx.rivals, None
        logits, labels = ctx.saved_tensors
        if _is_differentiated(grads):
            return differentiable_gradient(logits, labels, grads[0]), None
        at, grad = labels.unsqueeze(1), grads[0]
        if rivals is None:
            rivals = rival_masses(logits, at).rivals
        return rivals.mul_(grad / ctx.total).scatter_(1, at, -grad), None


class _LabelLogOddsAndSums(torch.autograd.Function):
    """(r, H...) from softmax masses; log p and h live for a few rows at a time, in the processor's cache.

    Rows in which a mass underflows, or a logit is infinite, go through the plain twin. The gradient takes the place of
    p, which a second pass makes again.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
        at = labels.unsqueeze(1)
        z_label = logits.gather(1, at)
        p_label, p_others, sum_log, log_p_label, *sums = (torch.empty_like(z_label) for _ in range(4 + len(terms)))
        rivals = torch.empty_like(logits, memory_format=torch.contiguous_format)
        scratch = _Scratch(logits)
        for z, z_y, y, p, p_y, others, sum_log_part, log_p_y, *sum_parts in scratch.parts(
            logits, z_label, at, rivals, p_label, p_others, sum_log, log_p_label, *sums
        ):
            torch.softmax(z, 1, out=p)
            torch.gather(p, 1, y, out=p_y)
            torch.sum(p.scatter_(1, y, 0.0), 1, keepdim=True, out=others)
            torch.div(others, p_y, out=log_p_y).log1p_().neg_()  # log p_y = -log(1 + e^r)
            log_p, out, _, _ = scratch.buffers(len(z))
            torch.sub(z, z_y, out=log_p).add_(log_p_y)
            torch.sum(log_p, 1, keepdim=True, out=sum_log_part)
            for term, sum_part in zip(terms, sum_parts, strict=True):
                torch.sum(term.value_into(log_p, p, out).scatter_(1, y, 0.0), 1, keepdim=True, out=sum_part)
        log_odds = (p_others / p_label).log_()
        lowest = lowest_mass(logits)
        where = ~((p_label >= lowest) & (p_others >= lowest) & sum_log.isfinite()).squeeze(1)
        ctx.redo = None
        if where.any():
            rows = logits.movedim(1, -1)[where]
            with torch.enable_grad():
                exact = plain_label_log_odds_and_sums(rows.requires_grad_(), labels[where], terms)
            for number, exact_number in zip((log_odds, *sums), exact, strict=True):
                number.movedim(1, -1)[where] = exact_number.detach()
            ctx.redo = where, rows, exact
        ctx.terms, ctx.rivals, ctx.numbers = terms, rivals, (z_label, log_p_label, p_label, p_others)
        ctx.save_for_backward(logits, labels)
        return log_odds, *sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rivals, ctx.rivals = ctx.rivals, None
        logits, labels = ctx.saved_tensors
        terms: tuple[ClassTerm, ...] = ctx.terms
        if _is_differentiated(grads):
            plain = _plain_gradient(lambda: plain_label_log_odds_and_sums(logits, labels, terms), logits, grads)
            return plain, None, None
        at = labels.unsqueeze(1)
        if rivals is None:
            rivals = logits.softmax(1).scatter_(1, at, 0.0)
        z_label, log_p_label, p_label, p_others = ctx.numbers
        grad_log_odds, *grad_sums = grads
        scratch = _Scratch(logits)
        for z, z_y, y, p, p_y, others, log_p_y, grad_y, *grad_parts in scratch.parts(
            logits, z_label, at, rivals, p_label, p_others, log_p_label, grad_log_odds, *grad_sums
        ):
            log_p, slopes, out, spare = scratch.buffers(len(z))
            torch.sub(z, z_y, out=log_p).add_(log_p_y)
            for i, (term, grad_part) in enumerate(zip(terms, grad_parts, strict=True)):
                slope = term.slope_into(log_p, p, slopes if i == 0 else out, spare).mul_(grad_part)
                if i > 0:
                    slopes.add_(slope)
            pull = slopes.scatter_(1, y, 0.0).sum(1, keepdim=True)
            at_y = torch.addcmul(grad_y, pull, p_y).neg_()
            p.mul_((grad_y / others).sub_(pull)).add_(slopes).scatter_(1, y, at_y)
        if ctx.redo is not None:
            where, rows, exact = ctx.redo
            upstream = tuple(grad.movedim(1, -1)[where] for grad in grads)
            rivals.movedim(1, -1)[where] = _gradient(exact, rows, upstream, retain_graph=True)
        return rivals, None, None


def _is_differentiated(grads: tuple[Tensor, ...]) -> bool:
    """Whether the backward pass is itself to be differentiated, or under vmap."""
    return torch.is_grad_enabled() or not all(is_plain(grad) for grad in grads)


def _plain_gradient(plain: Callable[[], tuple[Tensor, ...]], logits: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        return _gradient(plain(), logits, grads, create_graph=create_graph)


def _gradient(numbers: tuple[Tensor, ...], logits: Tensor, grads: tuple[Tensor, ...], **options: bool) -> Tensor:
    of_logits = [pair for pair in zip(numbers, grads, strict=True) if pair[0].requires_grad]
    outputs, upstream = zip(*of_logits, strict=True)
    return torch.autograd.grad(outputs, logits, upstream, **options)[0]


# With one thread, 512 KB in float32: smaller parts spend more on calls, larger ones on memory. With several, threads
# wait for one another in every call, for milliseconds where programs compete for the cores: so few parts.
_ELEMENTS_OF_ONE_THREAD = 2**17
_ELEMENTS_OF_SEVERAL_THREADS = 2**20


class _Scratch:
    """The samples a few at a time, and four buffers of that size.

    Each thread keeps its buffers: memory that is new to the process costs more than the work done in it.
    """

    _kept = threading.local()

    def __init__(self, logits: Tensor) -> None:
        elements = _ELEMENTS_OF_ONE_THREAD if torch.get_num_threads() == 1 else _ELEMENTS_OF_SEVERAL_THREADS
        self.samples = max(1, elements // max(1, logits[:1].numel()))
        shape = (4, self.samples, *logits.shape[1:])
        kept: Tensor | None = getattr(self._kept, "buffers", None)
        if kept is None or kept.dtype != logits.dtype or kept.numel() < math.prod(shape):
            with torch.inference_mode(False):  # else training could not write to buffers made while evaluating
                kept = self._kept.buffers = logits.new_empty(math.prod(shape))
        self.whole = kept[: math.prod(shape)].view(shape).unbind()

    def parts(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The tensors, all cut alike."""
        return zip(*(torch.split(tensor, self.samples) for tensor in tensors), strict=True)

    def buffers(self, samples: int) -> tuple[Tensor, ...]:
        """The buffers, for so many samples."""
        return self.whole if samples == self.samples else tuple(buffer[:samples] for buffer in self.whole)
