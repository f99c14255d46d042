"""The grounded distribution function and its kernel density in a stored context: how much each coarse cell holds.

Within a cell of ``quantile_table`` both are read off a straight line, in plain arithmetic that exports.

For F that is wrong where a cell's values are equal: each has the rank of the last. Stored masses don't tell (a narrow
distribution fills a cell too, and normalisation moves a repeated value to another cell from batch to batch), so every
batch does, by its *ties*: how many values it had in cells of equal ones, and what share of their side of zero was up to
there. In such a cell F is the mean of what the batches gave, and beyond it no less.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from catchment.kernels import quantile_cpu
from catchment.kernels.quantile_cells import (
    MAGNITUDES,
    STORED_CELLS,
    ZERO,
    coarse_centre,
    laid_out_like,
    magnitude_at,
    position_of,
)
from catchment.kernels.quantile_density import node_density, place, read_density
from catchment.kernels.quantile_exact import pairs_of_ranks
from catchment.kernels.quantile_table import count_coarse

_EDGES = MAGNITUDES + 1  # of the cells on one side
_LEAST_TIES, _LEAST_SHARE_OF_TIES = 8.0, 1 / 64  # values in a cell, and their share of the context
_EQUAL_PAIRS = 1 / 4  # of the pairs in a cell; that many if one half of the values are equal and the others differ
_TIES = (_LEAST_SHARE_OF_TIES, _LEAST_TIES, _EQUAL_PAIRS)
_TINY = torch.finfo(torch.float32).tiny


def standard_normal_mass(count: float) -> Tensor:
    """What ``count`` values of a standard normal distribution leave in each cell, ``(STORED_CELLS,)``."""
    edges = magnitude_at(torch.arange(_EDGES, dtype=torch.float64))
    edges[-1] = torch.inf
    mass = -0.5 * torch.erfc(edges / math.sqrt(2)).diff()
    return torch.cat([mass, torch.zeros(1, dtype=torch.float64), mass]).float() * count


def ties_of_batch(coarse: Tensor, pairs: Tensor) -> Tensor:
    """What a batch leaves in the ties: ``(2, C, STORED_CELLS)``, float32.

    First the number of values of each cell of equal values, 0 for other cells; then that times the share of the values
    on its side of zero that are up to the cell's outer edge.

    Args:
        coarse: how many values each coarse cell holds ``(C, COARSE_CELLS)``, int32.
        pairs: how many others are equal, summed over these, ``(C, COARSE_CELLS)``, int64.
    """
    mass = coarse[:, :STORED_CELLS].float()
    least = (_LEAST_SHARE_OF_TIES * mass.sum(1, keepdim=True)).clamp(min=_LEAST_TIES)
    are_equal = pairs[:, :STORED_CELLS] >= _EQUAL_PAIRS * mass * (mass - 1)
    count = mass * ((mass >= least) & are_equal & _is_divided(coarse.device))
    negative, positive = _shares_up_to(mass)
    return torch.stack([count, count * torch.cat([negative[:, 1:], positive[:, :1], positive[:, 1:]], 1)])


def learn(mass: Tensor, ties: Tensor, coarse: Tensor, pairs: Tensor, factor: Tensor) -> None:
    """Let a batch have the share ``factor`` of the running ``mass`` and ``ties``, in place.

    Args:
        mass: ``(C, STORED_CELLS)``, float32 like ``ties``.
        ties: the mean of ``ties_of_batch``, ``(2, C, STORED_CELLS)``.
        coarse: how many values of the batch each coarse cell holds ``(C, COARSE_CELLS)``, int32.
        pairs: how many others are equal, summed over these, ``(C, COARSE_CELLS)``, int64.
        factor: between 0 and 1.
    """
    if _are_for_loops(mass, ties):
        quantile_cpu.learn(mass, ties, coarse, pairs, factor.float(), *_TIES)
    else:
        mass.lerp_(coarse[:, :STORED_CELLS].float(), factor)
        ties.lerp_(ties_of_batch(coarse, pairs), factor)


def learn_rows(mass: Tensor, ties: Tensor, rows: Tensor, cdf: Tensor, negative_mass: float, factor: Tensor) -> None:
    """``learn`` from a whole context as rows ``(C, n)``, float32, and F of each of its values by exact rank."""
    if _are_for_loops(mass, ties) and quantile_cpu.serves(cdf):
        quantile_cpu.learn_rows(mass, ties, rows, cdf, factor.float(), negative_mass, *_TIES)
    else:
        coarse = count_coarse(rows.T)
        learn(mass, ties, coarse, pairs_of_ranks(rows, cdf, coarse, negative_mass), factor)


def _are_for_loops(mass: Tensor, ties: Tensor) -> bool:
    return quantile_cpu.serves(mass) and mass.is_contiguous() and ties.is_contiguous()


def running_cdf(x: Tensor, mass: Tensor, ties: Tensor, negative_mass: float) -> Tensor:
    """F of ``x`` ``(N, C, d...)``, float32; NaN where the value is.

    Args:
        x: the values.
        mass: how many values each cell of an average batch holds ``(C, STORED_CELLS)``.
        ties: the mean of ``ties_of_batch``, ``(2, C, STORED_CELLS)``.
        negative_mass: p.
    """
    if quantile_cpu.serves(x) and not _is_recorded():
        at_inner, at_outer = quantile_cpu.stored_tables(mass, ties, negative_mass, _LEAST_SHARE_OF_TIES)
        out: Tensor = quantile_cpu.read_stored(at_inner, at_outer, x)
        return out
    at_inner, at_outer = stored_tables(mass, ties, negative_mass)
    return laid_out_like(x, read_stored(at_inner, at_outer, x))


def stored_tables(mass: Tensor, ties: Tensor, negative_mass: float) -> Tensor:
    """F at the edge of each cell that is nearer to zero, and at the other: ``(2, C, 2 * MAGNITUDES)``."""
    p = negative_mass
    up_to = torch.stack(_shares_up_to(mass), 1)  # (C, sides, _EDGES)
    inner, outer = up_to[..., :-1], up_to[..., 1:]
    count, rank = torch.stack([ties[..., :ZERO], ties[..., ZERO + 1 :]], 2)
    is_tied = count >= _LEAST_SHARE_OF_TIES * mass.sum(1).view(-1, 1, 1)
    tied = is_tied * count / torch.stack([mass[:, :ZERO], mass[:, ZERO + 1 :]], 1).clamp(min=_TINY)
    level = rank / count.clamp(min=_TINY)
    inner = torch.lerp(inner, level.maximum(inner), tied)
    outer = _running_max(torch.lerp(outer, level.maximum(outer), tied))
    inner = inner.maximum(torch.nn.functional.pad(outer[..., :-1], (1, 0)))
    lower, upper = p * (1 - torch.stack([inner, outer])), p + (1 - p) * torch.stack([inner, outer])
    return torch.cat([lower[:, :, 0], upper[:, :, 1]], 2)


def running_density(x: Tensor, mass: Tensor, negative_mass: float, bandwidth: Tensor) -> Tensor:
    """The density at ``x`` ``(N, C, d...)``, float32, for bandwidths ``(C, 1)``; 0 at infinite values, NaN at NaN."""
    p = negative_mass
    negative, positive = mass[:, :ZERO], mass[:, ZERO:]
    weight = torch.cat(
        [
            negative * (p / (negative.sum(1, keepdim=True) + 1)),
            positive * ((1 - p) / (positive.sum(1, keepdim=True) + 1)),
        ],
        1,
    )
    nodes = node_density(place(_centres(mass), bandwidth), weight, bandwidth)
    edges = magnitude_at(torch.arange(_EDGES, device=mass.device, dtype=mass.dtype))
    at_edges = read_density(nodes, place(torch.cat([-edges, edges]).expand(mass.shape[0], -1), bandwidth))
    at_edges = at_edges.view(-1, 2, _EDGES)
    return read_stored(at_edges[..., :-1].flatten(1), at_edges[..., 1:].flatten(1), x).masked_fill(x.isinf(), 0.0)


def running_deviation(mass: Tensor) -> Tensor:
    """The standard deviation of each channel's context, ``(C, 1)``."""
    centres = _centres(mass)
    share = mass / mass.sum(1, keepdim=True).clamp(min=_TINY)
    mean = (share * centres).sum(1, keepdim=True)
    return (share * (centres - mean).square()).sum(1, keepdim=True).sqrt()


def _centres(mass: Tensor) -> Tensor:
    return coarse_centre(torch.arange(STORED_CELLS, device=mass.device)).to(mass.dtype).expand(mass.shape[0], -1)


def _is_recorded() -> bool:
    """Whether this call is compiled, exported or traced, and what it does may run where the loops are not."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _is_divided(device: torch.device) -> Tensor:
    """Whether values of a cell can differ and yet be told from those of other magnitudes: all but the outermost."""
    cell = torch.arange(STORED_CELLS, device=device)
    magnitude = torch.where(cell < ZERO, cell, cell - ZERO - 1)
    return (magnitude > 0) & (magnitude < MAGNITUDES - 1)


def _shares_up_to(mass: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the values on each side of zero up to each edge, ``(C, _EDGES)``; zeros count as positive."""
    negative = torch.nn.functional.pad(mass[:, :ZERO].cumsum(1), (1, 0))
    positive = mass[:, ZERO:].cumsum(1)  # at magnitude 0 all exact zeros count already
    return negative / (negative[:, -1:] + 1), positive / (positive[:, -1:] + 1)


def _running_max(values: Tensor) -> Tensor:
    """The largest up to each of the last dimension, in arithmetic that exports."""
    reach = 1
    while reach < values.shape[-1]:
        values = torch.cat([values[..., :reach], values[..., reach:].maximum(values[..., :-reach])], -1)
        reach *= 2
    return values


def read_stored(at_inner: Tensor, at_outer: Tensor, x: Tensor) -> Tensor:
    """On a straight line between values ``(C, 2 * MAGNITUDES)`` at both edges of each cell, negative side first."""
    missing = x.isnan()
    position = position_of(x.abs().masked_fill(missing, 0.0))
    cell = position.floor().clamp(max=MAGNITUDES - 1)
    channel = torch.arange(x.shape[1], device=x.device).view(1, -1, *[1] * (x.ndim - 2))
    at = cell.long() + torch.where(x < 0, 0, MAGNITUDES) + channel * (2 * MAGNITUDES)
    below, above = at_inner.reshape(-1)[at], at_outer.reshape(-1)[at]
    return (below + (position - cell) * (above - below)).masked_fill(missing, torch.nan)
