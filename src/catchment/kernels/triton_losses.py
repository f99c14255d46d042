"""The row losses on CUDA: two reads of the logits and one write of the gradient, summed in float32.

The forward kernel reads a row once and keeps a few numbers of it: m and r with LSE over the rivals = m + r, and the
gradient's factors. The backward kernel reads it again:

    dl/dz_j = k e^(z_j - m - r) at the rivals,   and one number each at the label and, for drainage, at drainage.

Nothing here waits for the device, so that CUDA graphs may hold it. A label out of range gives NaN.
Triton's interpreter runs the same kernels on a CPU (TRITON_INTERPRET=1).
"""

# mypy: disable-error-code="import-untyped, no-any-return, no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from catchment.kernels.dispatch import is_plain
from catchment.kernels.drainage_rows import differentiable_gradient as drainage_gradient
from catchment.kernels.rows import differentiable_gradient as log_odds_gradient

_LARGEST_BLOCK = 4096
_NUMBERS = 5  # kept of each row: m, r, and the factors of the gradient at rivals, label and drainage


@triton.jit
def _log1p(x):
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))  # Kahan: the rounding of u cancels


@triton.jit
def logaddexp(a, b):
    """log(e^a + e^b)."""
    larger = tl.maximum(a, b)
    difference = tl.minimum(a, b) - larger
    return tl.where(tl.abs(larger) == float("inf"), larger, larger + _log1p(tl.exp(difference)))


@triton.jit
def _forward_kernel(
    logits,
    labels,
    loss,
    numbers,
    samples,
    columns,
    stride_sample,
    stride_column,
    log_alpha,
    log_beta,
    DRAINAGE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    row = logits + sample * stride_sample
    label = tl.load(labels + sample)
    classes = columns - 1 if DRAINAGE else columns
    largest = -float("inf")
    total = 0.0
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        is_rival = (column < classes) & (column != label)
        z = tl.load(row + column.to(tl.int64) * stride_column, mask=is_rival, other=-float("inf")).to(tl.float32)
        new_largest = tl.maximum(largest, tl.max(z, 0))
        shift = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(z - shift), 0)
        largest = new_largest
    largest = tl.where(largest == -float("inf"), 0.0, largest)
    rest = tl.log(total)
    in_range = (label >= 0) & (label < classes)
    z_label = tl.load(row + label * stride_column, mask=in_range, other=float("nan")).to(tl.float32)
    to_label = (largest - z_label) + rest
    if DRAINAGE:
        # As terms() of drainage_rows.py, line by line.
        no_rivals = total == 0.0
        z_drainage = tl.load(row + classes.to(tl.int64) * stride_column).to(tl.float32)
        to_drainage = (largest - z_drainage) + rest
        t1 = log_alpha + logaddexp(to_label, z_drainage - z_label)
        t1 = tl.where(z_label == -float("inf"), float("inf"), t1)
        t2 = -float("inf")
        if HAS_BETA:
            t2 = tl.where(no_rivals, -float("inf"), log_beta + to_drainage)
        value = logaddexp(0.0, logaddexp(t1, t2))
        t1 = tl.minimum(t1, 8e37)
        t2 = tl.minimum(t2, 8e37)
        w1 = tl.sigmoid(t1 - logaddexp(0.0, t2))
        w2 = tl.sigmoid(t2 - logaddexp(0.0, t1))
        share = tl.where(no_rivals, 1.0, tl.sigmoid(-to_drainage))
        value = tl.where(z_label != z_label, z_label, value)
        at_rivals = w1 * (1.0 - share) + w2
        at_label = -w1
        at_drainage = w1 * share - w2
    else:
        value = to_label
        at_rivals = 1.0
        at_label = -1.0
        at_drainage = 0.0
    tl.store(loss + sample, value)
    tl.store(numbers + sample, largest)
    tl.store(numbers + samples + sample, rest)
    tl.store(numbers + 2 * samples + sample, at_rivals)
    tl.store(numbers + 3 * samples + sample, at_label)
    tl.store(numbers + 4 * samples + sample, at_drainage)


@triton.jit
def _backward_kernel(
    logits,
    labels,
    numbers,
    grad_loss,
    grad,
    samples,
    columns,
    stride_sample,
    stride_column,
    stride_grad_loss,
    DRAINAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + sample)
    largest = tl.load(numbers + sample)
    rest = tl.load(numbers + samples + sample)
    upstream = tl.load(grad_loss + sample * stride_grad_loss).to(tl.float32)
    in_row = column < columns
    place = column.to(tl.int64)
    row = logits + sample * stride_sample
    z = tl.load(row + place * stride_column, mask=in_row, other=-float("inf")).to(tl.float32)
    share = tl.where(z == -float("inf"), 0.0, tl.exp((z - largest) - rest))
    value = share * tl.load(numbers + 2 * samples + sample)
    value = tl.where(column == label, tl.load(numbers + 3 * samples + sample), value)
    if DRAINAGE:
        value = tl.where(column == columns - 1, tl.load(numbers + 4 * samples + sample), value)
    tl.store(grad + sample * columns + place, (value * upstream).to(grad.dtype.element_ty), mask=in_row)


def _forward(logits: Tensor, labels: Tensor, alpha: float, beta: float, *, drainage: bool) -> tuple[Tensor, Tensor]:
    samples, columns = logits.shape
    loss = logits.new_empty(samples, dtype=torch.float32)
    numbers = logits.new_empty(_NUMBERS, samples, dtype=torch.float32)
    if samples:
        _forward_kernel[(samples,)](
            logits,
            labels,
            loss,
            numbers,
            samples,
            columns,
            *logits.stride(),
            math.log(alpha),
            math.log(beta) if beta > 0 else 0.0,
            DRAINAGE=drainage,
            HAS_BETA=beta > 0,
            BLOCK=block_of(columns),
        )
    return loss, numbers


def _backward(logits: Tensor, labels: Tensor, numbers: Tensor, grad_loss: Tensor, *, drainage: bool) -> Tensor:
    samples, columns = logits.shape
    grad = logits.new_empty(samples, columns)
    if samples:
        _backward_kernel[(samples, triton.cdiv(columns, block_of(columns)))](
            logits,
            labels,
            numbers,
            grad_loss,
            grad,
            samples,
            columns,
            *logits.stride(),
            *grad_loss.stride(),
            DRAINAGE=drainage,
            BLOCK=block_of(columns),
        )
    return grad


def block_of(columns: int) -> int:
    """How many columns a program takes at once."""
    return min(_LARGEST_BLOCK, triton.next_power_of_2(columns))


def log_odds_forward(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log odds ``(N,)``, and five numbers of each row, the first of which are m and r."""
    return _forward(logits, labels, 1.0, 1.0, drainage=False)


class _Drainage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
        labels = labels.contiguous()
        loss, numbers = _forward(logits, labels, alpha, beta, drainage=True)
        ctx.alpha, ctx.beta, ctx.numbers = alpha, beta, numbers
        ctx.save_for_backward(logits, labels)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(grads[0]):
            return drainage_gradient(logits, labels, grads[0], ctx.alpha, ctx.beta), None, None, None
        return _backward(logits, labels, ctx.numbers, grads[0], drainage=True), None, None, None


class _LabelLogOdds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.contiguous()
        log_odds, ctx.numbers = log_odds_forward(logits, labels)
        ctx.save_for_backward(logits, labels)
        return log_odds

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(grads[0]):
            return log_odds_gradient(logits, labels, grads[0].unsqueeze(1)), None
        return _backward(logits, labels, ctx.numbers, grads[0], drainage=False), None


def drainage_loss_of_indices(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """The drainage loss ``(N,)`` in float32 of logits ``(N, C+1)`` in float32, float16 or bfloat16, any strides."""
    loss: Tensor = _Drainage.apply(logits, labels, alpha, beta)
    return loss


def label_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The log odds against the label, ``(N, 1)`` in float32, of logits ``(N, C)`` likewise."""
    log_odds: Tensor = _LabelLogOdds.apply(logits, labels)
    return log_odds.unsqueeze(1)
