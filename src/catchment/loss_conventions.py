"""What every loss of this library does alike: precision, checks of the labels, sample weights, reduction.

A loss computes one value per sample; these functions turn labels and weights into what it needs and its
values into what it returns, so that two losses never disagree on what ``ignore_index`` or ``"mean"`` means.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")
UNKNOWN_CLASS = -1
IGNORE_INDEX = -100


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself if it is float32 or float64, else a float32 copy (float16 and bfloat16 lose the loss)."""
    if not x.is_floating_point():
        raise ValueError(f"logits are {x.dtype}: give floating-point numbers")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_reduction(reduction: str) -> None:
    """Raise a ValueError unless ``reduction`` is one of "mean", "sum" and "none"."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: choose one of {', '.join(REDUCTIONS)}")


class Target(NamedTuple):
    """Labels made ready for a loss.

    Args:
        labels: class indices ``(N, d...)``, 0 where ignored, or class probabilities ``(N, C, d...)``.
        is_index: which of the two.
        ignored: ``(N, d...)`` mask of rows left out; None for class probabilities, and where none is known to be.
        weight: ``(N, d...)`` sample weights w[target] or ``sum_c w_c y_c``, 0 where ignored.
        is_uniform: whether every sample is known to count, with weight 1.
    """

    labels: Tensor
    is_index: bool
    ignored: Tensor | None
    weight: Tensor
    is_uniform: bool = False


def prepare_target(
    logits: Tensor, target: Tensor, *, num_classes: int, weight: Tensor | None, ignore_index: int
) -> Target:
    """Check ``target`` against ``logits`` ``(N, outputs, d...)`` and give each sample its weight.

    Raises:
        ValueError: the shapes or the dtype don't fit; in eager mode on a CPU also where a label is not one of
            ``0..C-1`` or ``ignore_index``, or a class probability is negative. (On an accelerator, and while
            compiling, looking at values would cost a synchronisation or a graph break.)
    """
    if logits.ndim < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: give (N, outputs, ...), one row for each sample")
    if weight is not None and tuple(weight.shape) != (num_classes,):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: give one number for each of the {num_classes} classes"
        )
    sample_shape = (logits.shape[0], *logits.shape[2:])
    if target.is_floating_point():
        return _prepare_probabilities(logits, target, (sample_shape[0], num_classes, *sample_shape[1:]), weight)
    if target.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f"target is {target.dtype}: give class indices (integers) or class probabilities (floats)")
    if tuple(target.shape) != sample_shape:
        raise ValueError(
            f"target has shape {tuple(target.shape)}: give class indices {sample_shape}, "
            f"or class probabilities as floats with {num_classes} columns"
        )
    target = target.long()  # in uint8 itself, the class 156 would equal -100
    dtype = _loss_dtype(logits)
    known = _label_range(target)
    if known is not None:
        low, high = known
        if low < 0 or high >= num_classes:
            _check_indices(target, num_classes, ignore_index)
        elif weight is None and not low <= ignore_index <= high:
            return Target(target, True, None, torch.ones_like(target, dtype=dtype), is_uniform=True)
    ignored = target == ignore_index
    labels = target.masked_fill(ignored, 0)
    sample_weight = (~ignored).to(dtype) if weight is None else weight.to(dtype)[labels].masked_fill(ignored, 0.0)
    return Target(labels, True, ignored, sample_weight)


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _prepare_probabilities(logits: Tensor, target: Tensor, expected: tuple[int, ...], weight: Tensor | None) -> Target:
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target has shape {tuple(target.shape)}: give class probabilities {expected}, or class indices as integers"
        )
    if _holds((target < 0).any(), target):
        raise ValueError("target holds negative class probabilities: give numbers from 0 to 1")
    dtype = _loss_dtype(logits)
    labels = target.to(dtype)
    if weight is None:
        sample_weight = logits.new_ones((logits.shape[0], *logits.shape[2:]), dtype=dtype)
    else:
        per_class = weight.to(dtype).reshape(1, -1, *[1] * (labels.ndim - 2))
        sample_weight = (per_class * labels).sum(1)
    return Target(labels, False, None, sample_weight)


def _check_indices(target: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if not wrong.any():
        return
    label = int(target[wrong][0])
    if label == UNKNOWN_CLASS:
        raise ValueError(
            "target holds -1 (no known class), which this loss cannot learn from: "
            f"drop those samples, or label them {ignore_index} to leave them out"
        )
    raise ValueError(
        f"target holds the label {label}: give 0 to {num_classes - 1}, or {ignore_index} to leave a sample out"
    )


def _label_range(target: Tensor) -> tuple[int, int] | None:
    """The smallest and the largest label, where asking costs nothing: in eager mode on a CPU."""
    if target.device.type != "cpu" or torch.compiler.is_compiling() or not target.numel():
        return None
    try:
        low, high = target.aminmax()
        return int(low), int(high)
    except RuntimeError:  # under vmap and with fake tensors they have no single value
        return None


def _holds(condition: Tensor, target: Tensor) -> bool:
    """Whether ``condition`` is true, where asking costs nothing: in eager mode on a CPU."""
    if target.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return bool(condition)
    except RuntimeError:  # under vmap and with fake tensors a condition has no single value
        return False


def reduce_loss(loss: Tensor, target: Target, reduction: str) -> Tensor:
    """Weigh the samples' losses ``(N, d...)`` and reduce them.

    The mean divides by the sum of the sample weights; with nothing to average it is 0 with a zero gradient
    (``F.cross_entropy`` gives NaN there).
    """
    if target.is_uniform:
        return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()
    if target.ignored is not None:
        loss = loss.masked_fill(target.ignored, 0.0)
    loss = loss * target.weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    mass = target.weight.sum()
    return loss.sum() / torch.where(mass > 0, mass, torch.ones_like(mass))
