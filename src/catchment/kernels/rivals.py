"""What the fast losses on a CPU read from a row of logits: softmax masses, and the sum over the rivals themselves.

With p the softmax over a row and O the places left out of it (the label; for drainage, drainage too), a loss needs p at
O and S, the sum of p over the rest. S is summed over the rest itself, so nothing cancels as p at the label goes to 1. A
row in which one of these numbers underflows is redone with the softmax over the rivals alone.

The gradient of every such loss is one number per row times p over the rivals, plus one number for each place in O, so
that the buffer of p becomes the gradient: forward and backward write one array of the size of the logits.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is a tensor whose values can be looked at: neither torch.func nor a compiler is at work."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    return not (_functorch.is_functorch_wrapped_tensor(x) or _functorch.is_legacy_batchedtensor(x))


def is_fast(logits: Tensor, labels: Tensor) -> bool:
    """Whether the closed-form functions of the CPU take these."""
    return logits.device.type == "cpu" and is_plain(logits) and is_plain(labels)


def is_for_triton(logits: Tensor, labels: Tensor) -> bool:
    """Whether the Triton kernels take these: rows of at most 32 bits on CUDA, where Triton is installed."""
    if not (logits.is_cuda and logits.ndim == 2 and logits.dtype in (torch.float32, torch.float16, torch.bfloat16)):
        return False
    return _has_triton() and is_plain(logits) and is_plain(labels)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class RivalMasses(NamedTuple):
    """The softmax of a row in parts; in the rows of ``redo`` only ``rivals`` counts, which sums to 1."""

    rivals: Tensor  # (N, C, d...): p at the rivals, 0 at the places left out
    outside: Tensor  # (N, K, d...): p at the places left out
    total: Tensor  # (N, 1, d...): the sum of ``rivals``
    redo: ExactRows | None


class ExactRows(NamedTuple):
    """The rows in which a mass underflows, R of them."""

    where: Tensor  # (N, d...) mask
    outside_logits: Tensor  # (R, K)
    largest: Tensor  # (R,): m of the rivals, whose LSE is m + r; 0 where there is no rival
    rest: Tensor  # (R,): r; -inf where there is no rival


def rival_masses(logits: Tensor, outside: Tensor, *, largest_factor: float = 1.0) -> RivalMasses:
    """The masses of each row of ``logits`` ``(N, C, d...)``, at ``outside`` ``(N, K, d...)`` and over all the rest.

    Args:
        logits: float32 or float64, on a CPU.
        outside: the places left out of the rivals.
        largest_factor: what the quotients of masses are multiplied by, at most; it must not overflow them.
    """
    rivals = logits.softmax(1)  # and not exp, which some libraries take 50 times longer for where it underflows
    at_outside = rivals.gather(1, outside)
    rivals.scatter_(1, outside, 0.0)
    total = rivals.sum(1, keepdim=True)
    lowest = lowest_mass(logits) * max(1.0, largest_factor)
    if not total.numel() or (float(at_outside.amin()) >= lowest and float(total.amin()) >= lowest):
        return RivalMasses(rivals, at_outside, total, None)
    where = ~((at_outside >= lowest).all(1) & (total.squeeze(1) >= lowest))  # true for NaN
    rows, places = logits.movedim(1, -1)[where], outside.movedim(1, -1)[where]
    outside_logits = rows.gather(1, places)
    shares, largest, rest = _rivals_softmax(rows.scatter_(1, places, -torch.inf))
    rivals.movedim(1, -1)[where] = shares
    total.masked_fill_(where.unsqueeze(1), 1.0)
    return RivalMasses(rivals, at_outside, total, ExactRows(where, outside_logits, largest, rest))


def lowest_mass(logits: Tensor) -> float:
    """From here on a sum of masses has all its digits, since terms that underflow are below its rounding.

    The quotient of two such masses is finite, too.
    """
    limits = torch.finfo(logits.dtype)
    return limits.tiny / limits.eps * logits.shape[1]


def _rivals_softmax(rival_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(shares, m, r) of rows ``(R, C)``: the softmax, 0 where all are -inf, and the LSE as m + r."""
    largest = rival_logits.amax(1)
    no_rivals = largest.isneginf()
    shares = rival_logits.softmax(1)
    if no_rivals.any():  # the softmax of -inf alone is NaN
        shares.masked_fill_(no_rivals.unsqueeze(1), 0.0)
    # LSE - max = -log(max softmax), well-conditioned since the largest of C shares is at least 1/C
    rest = -shares.amax(1).log()
    return shares, largest.masked_fill(no_rivals, 0.0), rest.masked_fill(no_rivals, -torch.inf)
