"""Cells that floats are counted in: by sign, exponent and leading bits, and finer where many values are.

*Coarse cells* are keyed on a float's sign, exponent and four leading bits of the mantissa, from 2^-24 to 2^20; zero has
a cell of its own, and so has what is smaller and what is larger, on each side. A coarse cell that holds more than
1/2048 of the probability is divided by the next bits of the mantissa into the least power of two *fine cells* that
would leave each at most that much if they were alike. In all there are fewer than 4096 more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from catchment.kernels.quantile_density import PER_OCTAVE, node_density, piecewise_log2, place, read_density

_LEADING_BITS = 4
FRACTION_BITS = 23 - _LEADING_BITS
SMALLEST, LARGEST = -24, 20  # powers of two
BASE = (127 + SMALLEST) << _LEADING_BITS
MAGNITUDES = ((LARGEST - SMALLEST) << _LEADING_BITS) + 2  # with the one below and the one above
ZERO = MAGNITUDES
MISSING = 2 * MAGNITUDES + 1
COARSE_CELLS = 2 * MAGNITUDES + 2  # negative by magnitude, zero, positive by magnitude, NaN
STORED_CELLS = 2 * MAGNITUDES + 1  # without that of NaN
MASS_OF_A_CELL = 2.0**-11
FINE_CELLS = COARSE_CELLS + 2 * 2**11

assert 2**_LEADING_BITS == PER_OCTAVE


def coarse_key(x: Tensor) -> Tensor:
    """The coarse cell of each value, int32."""
    magnitude = ((_magnitude_bits(x) >> FRACTION_BITS) - BASE + 1).clamp(0, MAGNITUDES - 1)
    positive = torch.where(x == 0, ZERO, ZERO + 1 + magnitude)
    return torch.where(x < 0, magnitude, positive).masked_fill(x.isnan(), MISSING)


def count_coarse(x: Tensor) -> Tensor:
    """How many values of ``x`` ``(N, C, d...)`` each coarse cell holds: ``(C, COARSE_CELLS)``, int32."""
    return _count(coarse_key(x), COARSE_CELLS)


def refine(x: Tensor, coarse: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    """The fine cell of each value, int16, and how many each holds: ``(C, FINE_CELLS)``, int32.

    ``coarse`` counts the whole context, which may be larger than ``x``.
    """
    bits = _fine_bits(coarse, negative_mass)
    key = laid_out_like(x, _fine_key(x, _starts(bits), bits))
    return key, _count(key, FINE_CELLS)


def tables(coarse: Tensor, fine: Tensor, bandwidth: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    """F and f of each fine cell, ``(C, FINE_CELLS)`` each, for bandwidths ``(C, 1)``."""
    bits = _fine_bits(coarse, negative_mass)
    start = _starts(bits)
    owner = _owner(start)
    density = _density(fine, owner, start, bits, negative_mass, bandwidth)
    return _cdf(fine, owner, negative_mass), density


def pairs_of_counts(coarse: Tensor, fine: Tensor, negative_mass: float) -> Tensor:
    """How many other values share its fine cell, summed over each coarse cell: ``(C, COARSE_CELLS)``, int64."""
    start = _starts(_fine_bits(coarse, negative_mass)).long()
    pairs = fine.long() * (fine - 1)
    up_to = torch.nn.functional.pad(pairs.cumsum(1), (1, 0))
    return up_to.gather(1, torch.nn.functional.pad(start, (0, 1), value=FINE_CELLS)).diff()


def pairs_of_ranks(rows: Tensor, cdf: Tensor, coarse: Tensor, negative_mass: float) -> Tensor:
    """How many other values are equal, summed over each coarse cell: ``(C, COARSE_CELLS)``, int64.

    A value's rank r counts those up to it and itself. Over c different values with b before them the ranks add up to
    c b + c (c + 1) / 2, and each pair of equal ones adds 1: so 2 (r - b) - c - 1 is summed. Where the values are only
    a part of the context the sums over all parts are the numbers.

    Args:
        rows: values ``(C, n)``, float32.
        cdf: F of each, by exact rank in the whole context.
        coarse: counts the whole context.
        negative_mass: p.
    """
    p = negative_mass
    key = coarse_key(rows)
    num_negative, num_positive = _sides(coarse)
    rank = torch.where(key < ZERO, (1 - cdf / p) * (num_negative + 1), (cdf - p) / (1 - p) * (num_positive + 1))
    rank = rank.masked_fill(key == MISSING, 0.0).round().long()
    up_to = coarse.cumsum(1) - torch.where(torch.arange(COARSE_CELLS, device=coarse.device) < ZERO, 0, num_negative)
    key = key.long()
    pairs = 2 * rank - (2 * up_to - coarse + 1).gather(1, key)  # b + c is up_to
    return torch.zeros_like(up_to).scatter_add(1, key, pairs.masked_fill(key == MISSING, 0))


def look_up(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    """The entry of ``table`` ``(C, FINE_CELLS)`` for each key ``(N, C, d...)``, times ``grad`` where it is given."""
    entries = table.reshape(-1)[_flat(key, table.shape[1])]
    return entries if grad is None else entries * grad


def laid_out_like(x: Tensor, out: Tensor) -> Tensor:
    """``out`` with its channels last in memory if those of ``x`` are."""
    memory_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if memory_format is None or x.is_contiguous() or not x.is_contiguous(memory_format=memory_format):
        return out
    return out.contiguous(memory_format=memory_format)


def _starts(bits: Tensor) -> Tensor:
    size = 1 << bits
    return (size.cumsum(1) - size).int()


def _count(key: Tensor, cells: int) -> Tensor:
    at = _flat(key, cells).reshape(-1)
    counts = torch.zeros(key.shape[1] * cells, dtype=torch.int32, device=key.device)
    return counts.scatter_add(0, at, torch.ones_like(at, dtype=torch.int32)).view(-1, cells)


def _flat(key: Tensor, cells: int) -> Tensor:
    channel = torch.arange(key.shape[1], device=key.device).view(1, -1, *[1] * (key.ndim - 2))
    return key + channel * cells


def _magnitude_bits(x: Tensor) -> Tensor:
    return x.abs().view(torch.int32)


def _fine_bits(coarse: Tensor, negative_mass: float) -> Tensor:
    """Into how many fine cells, as a power of two, each coarse cell is divided."""
    num_negative, num_positive = _sides(coarse)
    known = coarse[:, :MISSING].float()
    p = negative_mass
    mass = torch.cat([known[:, :ZERO] * (p / (num_negative + 1)), known[:, ZERO:] * ((1 - p) / (num_positive + 1))], 1)
    cells = (mass / MASS_OF_A_CELL).clamp(min=1).view(torch.int32)
    bits = (cells >> 23) - 127 + ((cells & ((1 << 23) - 1)) != 0)  # the logarithm to base 2, rounded up
    whole = torch.tensor([0, MAGNITUDES - 1, ZERO, ZERO + 1, 2 * MAGNITUDES], device=coarse.device)
    return torch.nn.functional.pad(bits.index_fill(1, whole, 0), (0, 1))


def _sides(coarse: Tensor) -> tuple[Tensor, Tensor]:
    """How many negative and how many other values each channel's context holds, ``(C, 1)`` each."""
    return coarse[:, :ZERO].sum(1, keepdim=True), coarse[:, ZERO:MISSING].sum(1, keepdim=True)


def _fine_key(x: Tensor, start: Tensor, bits: Tensor) -> Tensor:
    at = _flat(coarse_key(x), COARSE_CELLS)
    leading = _magnitude_bits(x) & ((1 << FRACTION_BITS) - 1)
    return (start.reshape(-1)[at] + (leading >> (FRACTION_BITS - bits.reshape(-1)[at]))).short()


def _owner(start: Tensor) -> Tensor:
    """The coarse cell that each fine cell is part of, ``(C, FINE_CELLS)``; those left over belong to the last."""
    fine = torch.arange(FINE_CELLS, device=start.device, dtype=start.dtype).expand(start.shape[0], -1).contiguous()
    return torch.searchsorted(start, fine, right=True) - 1


def _cdf(fine: Tensor, owner: Tensor, negative_mass: float) -> Tensor:
    p = negative_mass
    is_negative = owner < ZERO
    up_to = fine.masked_fill(owner == MISSING, 0).cumsum(1)
    num_negative = (fine * is_negative).sum(1, keepdim=True)
    num_positive = up_to[:, -1:] - num_negative
    # negative cells run from zero outwards, so that up_to is #{z <= v < 0} there
    negative = p * (1 - up_to / (num_negative + 1))
    positive = p + (1 - p) * ((up_to - num_negative) / (num_positive + 1))
    return torch.where(is_negative, negative, positive).masked_fill(owner == MISSING, torch.nan)


def _density(
    fine: Tensor, owner: Tensor, start: Tensor, bits: Tensor, negative_mass: float, bandwidth: Tensor
) -> Tensor:
    is_negative = owner < ZERO
    is_missing = owner == MISSING
    num_negative = (fine * is_negative).sum(1, keepdim=True)
    num_positive = fine.masked_fill(is_missing, 0).sum(1, keepdim=True) - num_negative
    weight = torch.where(is_negative, negative_mass / (num_negative + 1), (1 - negative_mass) / (num_positive + 1))
    weight = (weight * fine).masked_fill(is_missing, 0.0)
    part = torch.arange(FINE_CELLS, device=fine.device) - start.gather(1, owner)
    centre = coarse_centre(owner, (part + 0.5) * (-bits.gather(1, owner).float()).exp2())
    where = place(centre - _far_from_zero(fine.masked_fill(is_missing, 0), centre), bandwidth)
    density = read_density(node_density(where, weight, bandwidth), where)
    return density.masked_fill(is_missing, torch.nan)


def _far_from_zero(fine: Tensor, centre: Tensor) -> Tensor:
    """The mean of a channel ``(C, 1)`` that lies more than two standard deviations from zero, else 0.

    The nodes of the density are dense around zero: there such a channel is moved to.
    """
    share = fine / fine.sum(1, keepdim=True).clamp(min=1)
    mean = (share * centre).sum(1, keepdim=True)
    variance = (share * (centre - mean).square()).sum(1, keepdim=True)
    return torch.where(mean.square() > 4 * variance, mean, 0.0)


def coarse_centre(cell: Tensor, fraction: Tensor | float = 0.5) -> Tensor:
    """The value at a fraction of the way from the smaller to the larger magnitude of a coarse cell."""
    magnitude_cell = torch.where(cell < ZERO, cell, cell - ZERO - 1)
    return torch.where(cell < ZERO, -1.0, 1.0) * magnitude_at(magnitude_cell + fraction).masked_fill(cell == ZERO, 0.0)


def magnitude_at(position: Tensor) -> Tensor:
    """The magnitude at a position 0 to MAGNITUDES among the magnitude cells: the inverse of ``position_of``."""
    steps = (position - 1).clamp(0, MAGNITUDES - 2)
    octave = (steps / PER_OCTAVE).floor()
    inside = (octave + SMALLEST).exp2() * (1 + steps / PER_OCTAVE - octave)
    return torch.where(position < 1, position * 2.0**SMALLEST, inside)


def position_of(magnitude: Tensor) -> Tensor:
    """Where a magnitude stands among the magnitude cells, 0 to MAGNITUDES, with a fraction within its cell."""
    inside = PER_OCTAVE * (piecewise_log2(magnitude.clamp(2.0**SMALLEST, 2.0**LARGEST)) - SMALLEST) + 1
    position = torch.where(magnitude < 2.0**SMALLEST, magnitude * 2.0**-SMALLEST, inside)
    return torch.where(magnitude >= 2.0**LARGEST, MAGNITUDES - 2.0**LARGEST / magnitude, position)
