"""The log odds of the label and sums over the other classes on CUDA, as ``rows.label_log_odds_and_sums`` has them.

After the kernel of the log odds, which leaves m and log S of each row, one kernel sums h and its slope for all terms,
and one writes the gradient: three reads of the logits and one write, in float32. Nothing waits for the device.
"""

# mypy: disable-error-code="import-untyped, no-any-return, no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from catchment.kernels.class_terms import ClassTerm
from catchment.kernels.dispatch import is_plain
from catchment.kernels.rows import gradient_of_sums
from catchment.kernels.triton_losses import block_of, log_odds_forward, logaddexp

MOST_TERMS = 3
_NO_TERM = (-1.0, 0.0, 0.0, 0.0, 0.0)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def _focal(gamma, through, log_p, p):
    u = tl.exp(log_p)
    near_one = tl.where(u == 1.0, -log_p, (1.0 - u) * (log_p / tl.log(u)))  # Kahan: the rounding of u cancels
    not_p = tl.where(log_p < -1.0, 1.0 - u, near_one)
    not_p = tl.maximum(not_p, _TINY)
    factor = tl.exp(gamma * tl.log(not_p))
    return factor * log_p, factor * (1.0 - through * p * log_p / not_p)


@triton.jit
def _term(KIND: tl.constexpr, a, through, b, c, log_p, p):
    """A term's h and dh/dlog p, by the code that ``class_terms`` gives it."""
    if KIND == 0:
        h = tl.full(p.shape, 1.0, tl.float32)
        slope = tl.zeros(p.shape, tl.float32)
    elif KIND == 1:
        h = log_p
        slope = tl.full(p.shape, 1.0, tl.float32)
    elif KIND == 2:
        h = p * p
        slope = 2.0 * h
    elif KIND == 3:
        h = p * log_p
        slope = h + p
    elif KIND == 4:
        h = tl.where(p < a, a - p, 0.0)
        slope = tl.where(p < a, -p, 0.0)
    elif KIND == 5:
        h = tl.where(log_p > a, log_p - a, 0.0)
        slope = tl.where(log_p > a, 1.0, 0.0)
    elif KIND == 6:
        h, slope = _focal(a, through, log_p, p)
    else:
        h, slope = _focal(a, through, log_p, p)
        h = tl.where(log_p > b, h - c, 0.0)
        slope = tl.where(log_p > b, slope, 0.0)
    return h, slope


@triton.jit
def _rivals(row, column, classes, label, stride_column, largest, log_scale):
    """For columns log p, p, and which of them are classes beside the label that are not at -inf."""
    inside = (column < classes) & (column != label)
    z = tl.load(row + column.to(tl.int64) * stride_column, mask=inside, other=-float("inf")).to(tl.float32)
    present = z != -float("inf")
    log_p = tl.where(present, (z - largest) + log_scale, 0.0)
    return log_p, tl.exp(log_p), present


@triton.jit
def _sums_kernel(
    logits,
    labels,
    log_odds,
    numbers,
    sums,
    samples,
    classes,
    stride_sample,
    stride_column,
    a0,
    through0,
    b0,
    c0,
    a1,
    through1,
    b1,
    c1,
    a2,
    through2,
    b2,
    c2,
    KIND0: tl.constexpr,
    KIND1: tl.constexpr,
    KIND2: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    odds = tl.load(log_odds + sample)
    largest = tl.load(numbers + sample)
    log_scale = -logaddexp(0.0, -odds) - tl.load(numbers + samples + sample)
    label = tl.load(labels + sample)
    h0 = 0.0
    h1 = 0.0
    h2 = 0.0
    s0 = 0.0
    s1 = 0.0
    s2 = 0.0
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        log_p, p, present = _rivals(
            logits + sample * stride_sample, column, classes, label, stride_column, largest, log_scale
        )
        h, slope = _term(KIND0, a0, through0, b0, c0, log_p, p)
        h0 += tl.sum(tl.where(present, h, 0.0), 0)
        s0 += tl.sum(tl.where(present, slope, 0.0), 0)
        if KIND1 >= 0:
            h, slope = _term(KIND1, a1, through1, b1, c1, log_p, p)
            h1 += tl.sum(tl.where(present, h, 0.0), 0)
            s1 += tl.sum(tl.where(present, slope, 0.0), 0)
        if KIND2 >= 0:
            h, slope = _term(KIND2, a2, through2, b2, c2, log_p, p)
            h2 += tl.sum(tl.where(present, h, 0.0), 0)
            s2 += tl.sum(tl.where(present, slope, 0.0), 0)
    nan = odds != odds  # the label is out of range
    tl.store(sums + sample, tl.where(nan, odds, h0))
    tl.store(sums + 3 * samples + sample, s0)
    if KIND1 >= 0:
        tl.store(sums + samples + sample, tl.where(nan, odds, h1))
        tl.store(sums + 4 * samples + sample, s1)
    if KIND2 >= 0:
        tl.store(sums + 2 * samples + sample, tl.where(nan, odds, h2))
        tl.store(sums + 5 * samples + sample, s2)


@triton.jit
def _gradient_kernel(
    logits,
    labels,
    log_odds,
    numbers,
    sums,
    upstream,
    grad,
    samples,
    classes,
    stride_sample,
    stride_column,
    a0,
    through0,
    b0,
    c0,
    a1,
    through1,
    b1,
    c1,
    a2,
    through2,
    b2,
    c2,
    KIND0: tl.constexpr,
    KIND1: tl.constexpr,
    KIND2: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    odds = tl.load(log_odds + sample)
    label = tl.load(labels + sample)
    rest = tl.load(numbers + samples + sample)
    log_others = -logaddexp(0.0, -odds)
    log_p, p, present = _rivals(
        logits + sample * stride_sample,
        column,
        classes,
        label,
        stride_column,
        tl.load(numbers + sample),
        log_others - rest,
    )
    of_odds = tl.load(upstream + sample)
    of0 = tl.load(upstream + samples + sample)
    pull = of0 * tl.load(sums + 3 * samples + sample)
    _, slope = _term(KIND0, a0, through0, b0, c0, log_p, p)
    value = of0 * slope
    if KIND1 >= 0:
        of1 = tl.load(upstream + 2 * samples + sample)
        pull += of1 * tl.load(sums + 4 * samples + sample)
        _, slope = _term(KIND1, a1, through1, b1, c1, log_p, p)
        value += of1 * slope
    if KIND2 >= 0:
        of2 = tl.load(upstream + 3 * samples + sample)
        pull += of2 * tl.load(sums + 5 * samples + sample)
        _, slope = _term(KIND2, a2, through2, b2, c2, log_p, p)
        value += of2 * slope
    value += tl.exp(log_p - log_others) * of_odds - p * pull
    value = tl.where(present, value, 0.0)
    value = tl.where(column == label, -(of_odds + tl.sigmoid(-odds) * pull), value)
    value = tl.where(odds != odds, odds, value)
    at = grad + sample * classes + column.to(tl.int64)
    tl.store(at, value.to(grad.dtype.element_ty), mask=column < classes)


def _arguments(terms: tuple[ClassTerm, ...]) -> tuple[list[float], dict[str, int]]:
    """The parameters of the terms, and their kinds."""
    codes = [(*term.code, *[0.0] * (5 - len(term.code))) for term in terms] + [_NO_TERM] * (MOST_TERMS - len(terms))
    parameters = [float(x) for _, a, detach, b, c in codes for x in (a, 0.0 if detach else a, b, c)]
    return parameters, {f"KIND{i}": int(code[0]) for i, code in enumerate(codes)}


class _LogOddsAndSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
        labels = labels.contiguous()
        samples, classes = logits.shape
        log_odds, numbers = log_odds_forward(logits, labels)
        sums = log_odds.new_empty(2 * MOST_TERMS, samples)
        parameters, kinds = _arguments(terms)
        if samples:
            tensors = (logits, labels, log_odds, numbers, sums)
            _sums_kernel[(samples,)](
                *tensors, samples, classes, *logits.stride(), *parameters, **kinds, BLOCK=block_of(classes)
            )
        ctx.terms, ctx.kept = terms, (log_odds, numbers, sums)
        ctx.save_for_backward(logits, labels)
        return log_odds.unsqueeze(1), *(sums[i].unsqueeze(1) for i in range(len(terms)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        if torch.is_grad_enabled() or not all(is_plain(grad) for grad in grads):
            return gradient_of_sums(logits, labels, ctx.terms, grads), None, None
        samples, classes = logits.shape
        grad = logits.new_empty(samples, classes)
        upstream = torch.cat(grads, 1).T.contiguous()
        parameters, kinds = _arguments(ctx.terms)
        if samples:
            block = block_of(classes)
            _gradient_kernel[(samples, triton.cdiv(classes, block))](
                logits, labels, *ctx.kept, upstream, grad, samples, classes, *logits.stride(), *parameters, **kinds,
                BLOCK=block,
            )  # fmt: skip
        return grad, None, None


def label_log_odds_and_sums(logits: Tensor, labels: Tensor, terms: tuple[ClassTerm, ...]) -> tuple[Tensor, ...]:
    """(r, H of each term), each ``(N, 1)`` in float32, of logits ``(N, C)`` in float32, float16 or bfloat16.

    Takes one to ``MOST_TERMS`` terms.
    """
    numbers: tuple[Tensor, ...] = _LogOddsAndSums.apply(logits, labels, terms)
    return numbers
