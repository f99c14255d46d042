"""The grounded distribution function and its kernel density by a table, for large contexts.

Two passes over the values count them in the cells of ``quantile_cells``, coarse and then fine; a third reads the
table. A value's F is that of the largest magnitude of its fine cell: exact where the cell holds one value or equal
ones, and 1/2048 off at most where the values of a coarse cell are spread evenly over it. Counts are integers and add
up over shards, so the result is the same however the values are divided among processes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

from catchment.kernels import quantile_cells, quantile_cpu
from catchment.kernels.dispatch import has_triton

Reduce = Callable[[Tensor], Tensor]


class Table(NamedTuple):
    """What the values are in their context.

    Args:
        key: the fine cell of each value, int16, laid out like the values.
        cdf: F of each fine cell ``(C, FINE_CELLS)``.
        density: f of each fine cell ``(C, FINE_CELLS)``.
        coarse: how many values of the context each coarse cell holds ``(C, COARSE_CELLS)``, int32.
        fine: likewise each fine cell ``(C, FINE_CELLS)``, int32.
    """

    key: Tensor
    cdf: Tensor
    density: Tensor
    coarse: Tensor
    fine: Tensor


def build_table(x: Tensor, negative_mass: float, bandwidth: Tensor, reduce: Reduce) -> Table:
    """The table of ``x`` ``(N, C, d...)``, float32, for bandwidths ``(C, 1)``.

    ``reduce`` adds counts up over the processes that share the context.
    """
    loops = _loops(x)
    coarse = reduce(loops.count_coarse(x))
    key, fine = loops.refine(x, coarse, negative_mass)
    fine = reduce(fine)
    cdf, density = loops.tables(coarse, fine, bandwidth, negative_mass)
    return Table(key, cdf, density, coarse, fine)


def count_coarse(x: Tensor) -> Tensor:
    """How many values of ``x`` ``(N, C, d...)``, float32, each coarse cell holds: ``(C, COARSE_CELLS)``, int32."""
    counts: Tensor = _loops(x).count_coarse(x)
    return counts


def pairs_of_table(table: Table, negative_mass: float) -> Tensor:
    """How many other values share its fine cell, summed over each coarse cell: ``(C, COARSE_CELLS)``, int64."""
    loops = quantile_cpu if quantile_cpu.serves(table.cdf) else quantile_cells
    pairs: Tensor = loops.pairs_of_counts(table.coarse, table.fine, negative_mass)
    return pairs


def look_up(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    """The entry of ``table`` ``(C, FINE_CELLS)`` for each key ``(N, C, d...)``, times ``grad`` where it is given."""
    entries: Tensor = _loops(table).look_up(table, key, grad)
    return entries


def _loops(x: Tensor) -> ModuleType:
    """The functions of ``quantile_cells``, as the loops or kernels that serve the device of ``x``, or plain."""
    if quantile_cpu.serves(x):
        return quantile_cpu
    if x.is_cuda and has_triton():
        return importlib.import_module("catchment.kernels.quantile_triton")
    return quantile_cells
