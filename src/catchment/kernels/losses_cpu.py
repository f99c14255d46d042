"""The losses of one label per sample in compiled loops, on a CPU: ``losses_cpu.cpp`` in terms of tensors.

Logits are ``(N, C, d...)`` in float32 or float64, labels ``(N, d...)``. Forward gives what the loss needs, and a few
numbers of each row that backward takes with the upstream gradient to write the gradient by the logits.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from catchment.kernels.class_terms import ClassTerm
from catchment.kernels.dispatch import is_plain
from catchment.kernels.native import call, is_compiled, threads

_SOURCE = "losses_cpu.cpp"
_TYPES = {torch.float32: "float", torch.float64: "double"}
_PARAMETERS = 4  # of a term


def serves(*tensors: Tensor) -> bool:
    """Whether the compiled loops take these: in eager mode on a CPU, where they are there."""
    return all(x.device.type == "cpu" and is_plain(x) for x in tensors) and is_compiled(_SOURCE)


def drainage_forward(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """(loss ``(N, d...)``, what is kept)."""
    rows = _rows(logits)
    loss = logits.new_empty(labels.shape)
    kept = logits.new_empty(rows.shape[0], 4, dtype=torch.float64)
    call(
        _SOURCE,
        f"catchment_drainage_forward_{_TYPES[logits.dtype]}",
        *_inputs(rows, labels),
        _doubles(alpha, beta),
        _threads(rows),
        loss,
        kept,
    )
    return loss, kept


def drainage_backward(logits: Tensor, labels: Tensor, kept: Tensor, grad_loss: Tensor) -> Tensor:
    """The gradient, shaped like the logits."""
    rows = _rows(logits)
    grad = rows.new_empty(rows.shape)
    call(
        _SOURCE,
        f"catchment_drainage_backward_{_TYPES[logits.dtype]}",
        *_inputs(rows, labels),
        kept,
        grad_loss.contiguous(),
        _threads(rows),
        grad,
    )
    return _like_logits(grad, logits)


def sums_forward(logits: Tensor, labels: Tensor, terms: Sequence[ClassTerm]) -> tuple[list[Tensor], Tensor]:
    """((log odds, sum of each term), each ``(N, 1, d...)``; what is kept)."""
    rows = _rows(logits)
    numbers = [logits.new_empty((labels.shape[0], 1, *labels.shape[1:])) for _ in range(1 + len(terms))]
    kept = logits.new_empty(rows.shape[0], 2 + len(terms), dtype=torch.float64)
    call(
        _SOURCE,
        f"catchment_sums_forward_{_TYPES[logits.dtype]}",
        *_inputs(rows, labels),
        *_codes(tuple(term.code for term in terms)),
        _threads(rows),
        _pointers(numbers),
        kept,
    )
    return numbers, kept


def sums_backward(
    logits: Tensor, labels: Tensor, terms: Sequence[ClassTerm], kept: Tensor, grads: Sequence[Tensor]
) -> Tensor:
    """The gradient, shaped like the logits."""
    rows = _rows(logits)
    grad = rows.new_empty(rows.shape)
    grads = [grad.contiguous() for grad in grads]
    call(
        _SOURCE,
        f"catchment_sums_backward_{_TYPES[logits.dtype]}",
        *_inputs(rows, labels),
        *_codes(tuple(term.code for term in terms)),
        kept,
        _pointers(grads),
        _threads(rows),
        grad,
    )
    return _like_logits(grad, logits)


def argmax(logits: Tensor) -> Tensor:
    """``logits.argmax(1)``."""
    rows = _rows(logits)
    top = logits.new_empty((logits.shape[0], *logits.shape[2:]), dtype=torch.int64)
    call(_SOURCE, f"catchment_argmax_{_TYPES[logits.dtype]}", rows, rows.stride(0), *rows.shape, _threads(rows), top)
    return top


def _rows(logits: Tensor) -> Tensor:
    """``(N d..., C)``, each row without holes; a copy where the logits don't lie like that."""
    rows = logits if logits.ndim == 2 else logits.movedim(1, -1).flatten(0, -2)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _like_logits(grad: Tensor, logits: Tensor) -> Tensor:
    if logits.ndim == 2:
        return grad
    return grad.view(logits.shape[0], *logits.shape[2:], logits.shape[1]).movedim(-1, 1)


def _inputs(rows: Tensor, labels: Tensor) -> tuple[Tensor | int, ...]:
    return rows, rows.stride(0), labels.long().contiguous(), *rows.shape


def _threads(rows: Tensor) -> int:
    return threads(rows.numel() >> 16)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@functools.lru_cache(maxsize=64)
def _doubles(*values: float) -> ctypes.Array[ctypes.c_double]:
    return (ctypes.c_double * len(values))(*values)


@functools.lru_cache(maxsize=64)
def _codes(
    codes: tuple[tuple[float, ...], ...],
) -> tuple[int, ctypes.Array[ctypes.c_int64], ctypes.Array[ctypes.c_double]]:
    """The number of terms, their kinds and their parameters."""
    kinds = (ctypes.c_int64 * len(codes))(*(int(kind) for kind, *_ in codes))
    parameters = [value for _, *values in codes for value in (*values, *[0.0] * (_PARAMETERS - len(values)))]
    return len(codes), kinds, _doubles(*parameters)
