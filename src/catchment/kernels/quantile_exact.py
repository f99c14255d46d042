"""The grounded distribution function by exact rank, and its kernel density, for small contexts.

Values and contexts are rows, one a channel: ``(C, n)``. NaN counts in no context.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from catchment.kernels import quantile_cells, quantile_cpu
from catchment.kernels.quantile_density import node_density, place, read_density

_ALL_PAIRS_LIMIT = 512  # values a channel; above, the density is read off nodes
_PAIRS_AT_ONCE = 1 << 22


def rank_rows(values: Tensor, context: Tensor, negative_mass: float) -> Tensor:
    """F of the values ``(C, q)`` in the context ``(C, n)``; NaN where the value is.

    z >= 0: F = p + (1-p) #{0 <= v <= z} / (n+ + 1);  z < 0: F = p (1 - #{z <= v < 0} / (n- + 1)).
    """
    if context.shape[1] <= _ALL_PAIRS_LIMIT and quantile_cpu.serves(context):
        ranks: Tensor = quantile_cpu.rank(values, context, negative_mass)
        return ranks
    missing = context.isnan()
    num_known = (~missing).sum(1, keepdim=True)
    ordered = context.masked_fill(missing, torch.inf).sort(1).values
    num_negative = (context < 0).sum(1, keepdim=True)
    values = values.contiguous()
    up_to = torch.searchsorted(ordered, values, right=True).minimum(num_known)
    below = torch.searchsorted(ordered, values)
    p = negative_mass
    positive = p + (1 - p) * ((up_to - num_negative) / (num_known - num_negative + 1).to(values.dtype))
    negative = p * (1 - (num_negative - below) / (num_negative + 1).to(values.dtype))
    return torch.where(values < 0, negative, positive).masked_fill(values.isnan(), torch.nan)


def pairs_of_ranks(values: Tensor, cdf: Tensor, coarse: Tensor, negative_mass: float) -> Tensor:
    """See ``quantile_cells``; ``cdf`` is what ``rank_rows`` gives."""
    values = values.float()
    if quantile_cpu.serves(cdf):
        pairs: Tensor = quantile_cpu.pairs_of_ranks(values, cdf, coarse, negative_mass)
        return pairs
    return quantile_cells.pairs_of_ranks(values, cdf, coarse, negative_mass)


def density_rows(values: Tensor, context: Tensor, negative_mass: float, bandwidth: Tensor) -> Tensor:
    """The density f at the values ``(C, q)``, for bandwidths ``(C, 1)``; 0 at infinite values, NaN where the value is.

    f(z) = p / (n- + 1) sum_(v<0) K_h(z - v) + (1-p) / (n+ + 1) sum_(v>=0) K_h(z - v).
    """
    few = context.shape[1] <= _ALL_PAIRS_LIMIT
    if few and quantile_cpu.serves(context):
        compiled: Tensor = quantile_cpu.density(values, context, bandwidth, negative_mass)
        return compiled
    is_negative, is_positive = context < 0, context >= 0
    weight = torch.where(
        is_negative,
        negative_mass / (is_negative.sum(1, keepdim=True) + 1).to(values.dtype),
        (1 - negative_mass) / (is_positive.sum(1, keepdim=True) + 1).to(values.dtype),
    ).masked_fill(~context.isfinite(), 0.0)
    points = values.masked_fill(~values.isfinite(), 0.0)
    context = context.masked_fill(~context.isfinite(), 0.0)
    if few:
        density = _all_pairs(points, context, weight, bandwidth)
    else:
        nodes = node_density(place(context, bandwidth), weight.float(), bandwidth.float())
        density = read_density(nodes.to(values.dtype), place(points, bandwidth))
    return density.masked_fill(values.isinf(), 0.0).masked_fill(values.isnan(), torch.nan)


def _all_pairs(points: Tensor, context: Tensor, weight: Tensor, bandwidth: Tensor) -> Tensor:
    scale = 1 / (math.sqrt(2) * bandwidth)
    points, context = points * scale, context * scale
    channels = max(1, _PAIRS_AT_ONCE // max(1, points.shape[1] * context.shape[1]))
    sums = [
        torch.einsum("cqn,cn->cq", (z.unsqueeze(2) - v.unsqueeze(1)).square().neg().exp(), w)
        for z, v, w in zip(*(torch.split(rows, channels) for rows in (points, context, weight)), strict=True)
    ]
    return torch.cat(sums) * scale / math.sqrt(math.pi)
