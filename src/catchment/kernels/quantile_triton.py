"""Large contexts of quantile activation on CUDA: ``quantile_cells`` in Triton kernels.

Forward reads the values twice, to count them in coarse and in fine cells, and the two bytes of each value's fine cell
once, to read its F; backward reads these again, and the gradient. Counts are collected in shared memory, a program for
each channel and part of the values, and added up as integers, so that nothing depends on the order. What lies between,
the tables of a channel, is one program each. Nothing waits for the device. Triton's interpreter runs the same kernels
on a CPU (TRITON_INTERPRET=1).
"""

# mypy: disable-error-code="import-untyped, no-any-return, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from catchment.kernels import quantile_cells
from catchment.kernels.quantile_density import FIXED_POINT, NODES, density_at_nodes

_COARSE = tl.constexpr(quantile_cells.COARSE_CELLS)
_FINE = tl.constexpr(quantile_cells.FINE_CELLS)
_MAGNITUDES = tl.constexpr(quantile_cells.MAGNITUDES)
_ZERO = tl.constexpr(quantile_cells.ZERO)
_MISSING = tl.constexpr(quantile_cells.MISSING)
_BASE = tl.constexpr(quantile_cells.BASE)
_FRACTION_BITS = tl.constexpr(quantile_cells.FRACTION_BITS)
_FRACTION = tl.constexpr((1 << quantile_cells.FRACTION_BITS) - 1)
_CELLS_OF_ALL = tl.constexpr(1 / quantile_cells.MASS_OF_A_CELL)
_BELOW_ALL = tl.constexpr(2.0 ** (quantile_cells.SMALLEST - 1))
_LARGEST = tl.constexpr(2.0**quantile_cells.LARGEST)
_COARSE_LANES = tl.constexpr(triton.next_power_of_2(quantile_cells.COARSE_CELLS))
_HALVINGS = tl.constexpr(quantile_cells.COARSE_CELLS.bit_length())
_FINE_LANES = tl.constexpr(triton.next_power_of_2(quantile_cells.FINE_CELLS))
_SIDE_NODES = tl.constexpr(NODES // 2)
_NODES = tl.constexpr(NODES)
_FIXED_POINT = tl.constexpr(FIXED_POINT)
_TILE = 8192
_PROGRAMS = 2048  # about so many count at once
_LOOK_UPS = 1024  # of a program
_WARPS = 16  # with fewer, registers spill


@triton.jit
def _coarse_cell(bits):
    magnitude = bits & 0x7FFFFFFF
    cell = tl.minimum(tl.maximum((magnitude >> _FRACTION_BITS) - _BASE + 1, 0), _MAGNITUDES - 1)
    cell = tl.where(bits < 0, cell, cell + _ZERO + 1)
    cell = tl.where(magnitude == 0, _ZERO, cell)
    return tl.where(magnitude > 0x7F800000, _MISSING, cell)


@triton.jit
def _place(number, channel, channels, positions):
    """Where the values of a channel lie, by their number in it."""
    sample = number // positions
    return (sample.to(tl.int64) * channels + channel) * positions + (number - sample * positions)


@triton.jit
def _count_kernel(x, counts, channels, values, positions, tiles, TILE: tl.constexpr):
    channel = tl.program_id(0)
    total = tl.zeros([_COARSE_LANES], dtype=tl.int32)
    start = tl.program_id(1) * tiles * TILE
    for tile in range(tiles):
        number = start + tile * TILE + tl.arange(0, TILE)
        known = number < values
        at = _place(number, channel, channels, positions)
        cell = _coarse_cell(tl.load(x + at, mask=known, other=0.0).to(tl.int32, bitcast=True))
        total += tl.histogram(tl.where(known, cell, _COARSE_LANES - 1), _COARSE_LANES)
    lane = tl.arange(0, _COARSE_LANES)
    tl.atomic_add(counts + channel * _COARSE + lane, total, mask=(lane < _COARSE) & (total > 0), sem="relaxed")


@triton.jit
def _cells_kernel(coarse, cells, negative_mass):
    """Where each coarse cell's fine cells start, above how far its values are shifted to find theirs, as one number."""
    channel = tl.program_id(0)
    lane = tl.arange(0, _COARSE_LANES)
    count = tl.load(coarse + channel * _COARSE + lane, mask=lane < _COARSE, other=0)
    negative = tl.sum(tl.where(lane < _ZERO, count, 0), 0)
    other = tl.sum(tl.where((lane >= _ZERO) & (lane < _MISSING), count, 0), 0)
    lower = tl.div_rn(negative_mass, (negative + 1).to(tl.float32))
    upper = tl.div_rn(1.0 - negative_mass, (other + 1).to(tl.float32))
    parts = tl.maximum(count.to(tl.float32) * tl.where(lane < _ZERO, lower, upper) * _CELLS_OF_ALL, 1.0)
    power = parts.to(tl.int32, bitcast=True)
    bits = (power >> 23) - 127 + tl.where((power & 0x7FFFFF) != 0, 1, 0)  # the logarithm to base 2, rounded up
    outermost = (lane == 0) | (lane == _MAGNITUDES - 1) | (lane == _ZERO + 1) | (lane >= 2 * _MAGNITUDES)
    bits = tl.where(outermost | (lane == _ZERO), 0, bits)
    size = tl.where(lane < _COARSE, 1 << bits, 0)
    start = tl.cumsum(size, 0) - size
    tl.store(cells + channel * _COARSE + lane, (start << 8) | (_FRACTION_BITS - bits), mask=lane < _COARSE)


@triton.jit
def _refine_kernel(x, cells, key, counts, channels, values, positions, tiles, TILE: tl.constexpr):
    channel = tl.program_id(0)
    total = tl.zeros([_FINE_LANES], dtype=tl.int32)
    start = tl.program_id(1) * tiles * TILE
    for tile in range(tiles):
        number = start + tile * TILE + tl.arange(0, TILE)
        known = number < values
        at = _place(number, channel, channels, positions)
        bits = tl.load(x + at, mask=known, other=0.0).to(tl.int32, bitcast=True)
        cell = tl.load(cells + channel * _COARSE + _coarse_cell(bits))
        fine = (cell >> 8) + ((bits & _FRACTION) >> (cell & 31))
        tl.store(key + at, fine.to(tl.int16), mask=known)
        total += tl.histogram(tl.where(known, fine, _FINE_LANES - 1), _FINE_LANES)
    lane = tl.arange(0, _FINE_LANES)
    tl.atomic_add(counts + channel * _FINE + lane, total, mask=(lane < _FINE) & (total > 0), sem="relaxed")


@triton.jit
def _cdf_kernel(cells, fine, bandwidth, negative_mass, cdf, position, mass):
    """F of each fine cell, where it stands among the nodes of the density, and how much mass it gives them."""
    channel = tl.program_id(0)
    lane = tl.arange(0, _FINE_LANES)
    owner = tl.zeros([_FINE_LANES], dtype=tl.int32)
    for halving in tl.static_range(_HALVINGS):  # the last coarse cell that starts here or before
        further = owner + (_COARSE_LANES >> (halving + 1))
        first = tl.load(cells + channel * _COARSE + further, mask=further < _COARSE, other=0x7FFFFFFF) >> 8
        owner = tl.where((further < _COARSE) & (first <= lane), further, owner)
    count = tl.load(fine + channel * _FINE + lane, mask=(lane < _FINE) & (owner != _MISSING), other=0)
    is_negative = owner < _ZERO
    negative = tl.sum(tl.where(is_negative, count, 0), 0)
    other = tl.sum(count, 0) - negative
    up_to = tl.cumsum(count, 0)
    lower, upper = (negative + 1).to(tl.float32), (other + 1).to(tl.float32)
    p = negative_mass
    rank = tl.where(
        is_negative,
        p * (1.0 - tl.div_rn(up_to.to(tl.float32), lower)),
        p + (1.0 - p) * tl.div_rn((up_to - negative).to(tl.float32), upper),
    )
    rank = tl.where(owner == _MISSING, float("nan"), rank)
    tl.store(cdf + channel * _FINE + lane, rank, mask=lane < _FINE)

    cell = tl.load(cells + channel * _COARSE + owner)
    shift = cell & 31
    magnitude_cell = tl.where(is_negative, owner, owner - _ZERO - 1)
    middle = ((magnitude_cell - 1 + _BASE) << _FRACTION_BITS) + ((lane - (cell >> 8)) << shift) + (1 << (shift - 1))
    centre = middle.to(tl.float32, bitcast=True)
    centre = tl.where(magnitude_cell == 0, _BELOW_ALL, centre)
    centre = tl.where(magnitude_cell >= _MAGNITUDES - 1, _LARGEST, centre)
    centre = tl.where(owner == _ZERO, 0.0, tl.where(is_negative, -centre, centre))
    # far from zero, where the nodes are wide apart, the mean takes the place of zero
    share = count.to(tl.float32) / tl.maximum(negative + other, 1).to(tl.float32)
    mean = tl.sum(share * centre, 0)
    variance = tl.sum(share * (centre - mean) * (centre - mean), 0)
    units = (centre - tl.where(mean * mean > 4.0 * variance, mean, 0.0)) / tl.load(bandwidth + channel)
    magnitude = tl.minimum(tl.abs(units), 65536.0)
    far = (magnitude.to(tl.int32, bitcast=True) - (127 << 23)).to(tl.float32) * (16.0 / (1 << 23))
    steps = tl.where(magnitude < 2.0, magnitude * 8.0, far)
    stands = _SIDE_NODES + tl.where(units < 0, -steps, steps)
    tl.store(position + channel * _FINE + lane, stands, mask=lane < _FINE)
    node = tl.minimum(stands.to(tl.int32), _NODES - 2)
    weight = count.to(tl.float32) * tl.where(is_negative, p / lower, (1.0 - p) / upper)
    above = weight * (stands - node.to(tl.float32))
    given = mass + channel * _NODES + node
    tl.atomic_add(given, ((weight - above) * _FIXED_POINT).to(tl.int64), mask=count > 0, sem="relaxed")
    tl.atomic_add(given + 1, (above * _FIXED_POINT).to(tl.int64), mask=count > 0, sem="relaxed")


@triton.jit
def _density_kernel(cdf, position, nodes, density):
    channel = tl.program_id(0)
    lane = tl.arange(0, _FINE_LANES)
    known = lane < _FINE
    stands = tl.load(position + channel * _FINE + lane, mask=known, other=0.0)
    node = tl.minimum(stands.to(tl.int32), _NODES - 2)
    below = tl.load(nodes + channel * _NODES + node)
    above = tl.load(nodes + channel * _NODES + node + 1)
    value = below + (stands - node.to(tl.float32)) * (above - below)
    rank = tl.load(cdf + channel * _FINE + lane, mask=known, other=0.0)
    tl.store(density + channel * _FINE + lane, tl.where(rank != rank, rank, value), mask=known)


@triton.jit
def _look_up_kernel(table, key, grad, out, values, channels, positions, HAS_GRAD: tl.constexpr, TILE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * TILE
    at = first + tl.arange(0, TILE)
    known = at < values
    row = first // positions  # sample by channel; from here on 32 bits suffice
    further = ((first - row * positions).to(tl.int32) + tl.arange(0, TILE)) // positions
    channel = ((row % channels).to(tl.int32) + further) % channels
    entry = tl.load(table + channel * _FINE + tl.load(key + at, mask=known, other=0).to(tl.int32), mask=known)
    if HAS_GRAD:
        entry *= tl.load(grad + at, mask=known)
    tl.store(out + at, entry, mask=known)


@torch.library.custom_op("catchment::quantile_count_coarse_triton", mutates_args=())
def count_coarse(x: Tensor) -> Tensor:
    """Twin of ``quantile_cells.count_coarse``."""
    x = x.contiguous()
    counts = x.new_zeros(x.shape[1], quantile_cells.COARSE_CELLS, dtype=torch.int32)
    grid, sizes = _counting(x)
    _count_kernel[grid](x, counts, *sizes, TILE=_TILE, num_warps=_WARPS)
    return counts


@count_coarse.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], quantile_cells.COARSE_CELLS, dtype=torch.int32)


@torch.library.custom_op("catchment::quantile_refine_triton", mutates_args=())
def refine(x: Tensor, coarse: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    """Twin of ``quantile_cells.refine``; the cells are laid out with positions last."""
    x = x.contiguous()
    key = torch.empty_like(x, dtype=torch.int16)
    fine = x.new_zeros(x.shape[1], quantile_cells.FINE_CELLS, dtype=torch.int32)
    grid, sizes = _counting(x)
    _refine_kernel[grid](x, _cells(coarse, negative_mass), key, fine, *sizes, TILE=_TILE, num_warps=_WARPS)
    return key, fine


@refine.register_fake
def _(x: Tensor, coarse: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    key = x.new_empty(x.shape, dtype=torch.int16)
    return key, x.new_empty(x.shape[1], quantile_cells.FINE_CELLS, dtype=torch.int32)


@torch.library.custom_op("catchment::quantile_tables_triton", mutates_args=())
def tables(coarse: Tensor, fine: Tensor, bandwidth: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    """Twin of ``quantile_cells.tables``."""
    channels = fine.shape[0]
    cdf, position, density = (torch.empty_like(fine, dtype=torch.float32) for _ in range(3))
    mass = fine.new_zeros(channels, NODES, dtype=torch.int64)
    cells = _cells(coarse, negative_mass)
    _cdf_kernel[(channels,)](
        cells, fine.contiguous(), bandwidth.contiguous(), negative_mass, cdf, position, mass, num_warps=_WARPS
    )
    nodes = density_at_nodes(mass, bandwidth)
    _density_kernel[(channels,)](cdf, position, nodes, density, num_warps=8)
    return cdf, density


@tables.register_fake
def _(coarse: Tensor, fine: Tensor, bandwidth: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(fine, dtype=torch.float32), torch.empty_like(fine, dtype=torch.float32)


@torch.library.custom_op("catchment::quantile_look_up_triton", mutates_args=())
def look_up(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    """Twin of ``quantile_cells.look_up``."""
    key = key.contiguous()
    out = torch.empty_like(key, dtype=torch.float32)
    _look_up_kernel[(triton.cdiv(key.numel(), _LOOK_UPS),)](
        table.contiguous(),
        key,
        None if grad is None else grad.contiguous(),
        out,
        key.numel(),
        key.shape[1],
        key.numel() // (key.shape[0] * key.shape[1]),
        HAS_GRAD=grad is not None,
        TILE=_LOOK_UPS,
    )
    return out


@look_up.register_fake
def _(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    return key.new_empty(key.shape, dtype=torch.float32)


def _counting(x: Tensor) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The grid, and the sizes that both counting kernels take: a channel's values are divided among some programs."""
    samples, channels = x.shape[:2]
    positions = x.numel() // (samples * channels)
    values = samples * positions
    tiles = max(1, triton.cdiv(values * channels, _TILE * _PROGRAMS))
    return (channels, triton.cdiv(values, tiles * _TILE)), (channels, values, positions, tiles)


def _cells(coarse: Tensor, negative_mass: float) -> Tensor:
    cells = torch.empty_like(coarse, memory_format=torch.contiguous_format)
    _cells_kernel[(coarse.shape[0],)](coarse.contiguous(), cells, negative_mass, num_warps=8)
    return cells
