"""The grounded distribution function and its kernel density in a stored context: how much each coarse cell holds.

Within a cell of ``quantile_table`` both are read off a straight line, in plain arithmetic that exports.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from catchment.kernels.quantile_cells import MAGNITUDES, ZERO, coarse_centre, laid_out_like, magnitude_at, position_of
from catchment.kernels.quantile_density import node_density, place, read_density

STORED_CELLS = 2 * MAGNITUDES + 1  # negative by magnitude, zero, positive by magnitude
_EDGES = MAGNITUDES + 1  # of the cells on one side


def standard_normal_mass(count: float) -> Tensor:
    """What ``count`` values of a standard normal distribution leave in each cell, ``(STORED_CELLS,)``."""
    edges = magnitude_at(torch.arange(_EDGES, dtype=torch.float64))
    edges[-1] = torch.inf
    mass = -0.5 * torch.erfc(edges / math.sqrt(2)).diff()
    return torch.cat([mass, torch.zeros(1, dtype=torch.float64), mass]).float() * count


def running_cdf(x: Tensor, mass: Tensor, negative_mass: float) -> Tensor:
    """F of ``x`` ``(N, C, d...)``, float32, in the context ``mass`` ``(C, STORED_CELLS)``; NaN where the value is."""
    p = negative_mass
    negative = torch.nn.functional.pad(mass[:, :ZERO].cumsum(1), (1, 0))
    positive = mass[:, ZERO:].cumsum(1)  # at magnitude 0 all exact zeros count already
    lower = p * (1 - negative / (negative[:, -1:] + 1))
    upper = p + (1 - p) * (positive / (positive[:, -1:] + 1))
    return laid_out_like(x, _read(torch.cat([lower, upper], 1), x))


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
    return _read(at_edges, x).masked_fill(x.isinf(), 0.0)


def running_deviation(mass: Tensor) -> Tensor:
    """The standard deviation of each channel's context, ``(C, 1)``."""
    centres = _centres(mass)
    share = mass / mass.sum(1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    mean = (share * centres).sum(1, keepdim=True)
    return (share * (centres - mean).square()).sum(1, keepdim=True).sqrt()


def _centres(mass: Tensor) -> Tensor:
    return coarse_centre(torch.arange(STORED_CELLS, device=mass.device)).to(mass.dtype).expand(mass.shape[0], -1)


def _read(at_edges: Tensor, x: Tensor) -> Tensor:
    """Between the values ``(C, 2 * _EDGES)`` at the cells' edges, negative side first, on a straight line."""
    missing = x.isnan()
    position = position_of(x.abs().masked_fill(missing, 0.0))
    cell = position.floor().clamp(max=MAGNITUDES - 1)
    channel = torch.arange(x.shape[1], device=x.device).view(1, -1, *[1] * (x.ndim - 2))
    at = cell.long() + torch.where(x < 0, 0, _EDGES) + channel * (2 * _EDGES)
    values = at_edges.reshape(-1)
    below, above = values[at], values[at + 1]
    return (below + (position - cell) * (above - below)).masked_fill(missing, torch.nan)
