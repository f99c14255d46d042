"""The grounded distribution function and its kernel density by a table, for large contexts.

Two passes over the values count them in the cells of ``quantile_cells``, coarse and then fine; a third reads the
table. A value's F is that of the largest magnitude of its fine cell: exact where the cell holds one value or equal
ones, and 1/2048 off at most where the values of a coarse cell are spread evenly over it. Counts are integers and add
up over shards, so the result is the same however the values are divided among processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from catchment.kernels import quantile_cells, quantile_cpu

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
    coarse = reduce(count_coarse(x))
    if quantile_cpu.serves(x):
        key, fine = quantile_cpu.refine(x, coarse, negative_mass)
        fine = reduce(fine)
        cdf, density = quantile_cpu.tables(coarse, fine, bandwidth, negative_mass)
    else:
        key, fine = quantile_cells.refine(x, coarse, negative_mass)
        fine = reduce(fine)
        cdf, density = quantile_cells.tables(coarse, fine, negative_mass, bandwidth)
    return Table(key, cdf, density, coarse, fine)


def count_coarse(x: Tensor) -> Tensor:
    """How many values of ``x`` ``(N, C, d...)``, float32, each coarse cell holds: ``(C, COARSE_CELLS)``, int32."""
    return quantile_cpu.count_coarse(x) if quantile_cpu.serves(x) else quantile_cells.count_coarse(x)


def pairs_of_table(table: Table, negative_mass: float) -> Tensor:
    """How many other values share its fine cell, summed over each coarse cell: ``(C, COARSE_CELLS)``, int64."""
    if quantile_cpu.serves(table.cdf):
        pairs: Tensor = quantile_cpu.pairs_of_counts(table.coarse, table.fine, negative_mass)
        return pairs
    return quantile_cells.pairs_of_counts(table.coarse, table.fine, negative_mass)


def look_up(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    """The entry of ``table`` ``(C, FINE_CELLS)`` for each key ``(N, C, d...)``, times ``grad`` where it is given."""
    if quantile_cpu.serves(table):
        entries: Tensor = quantile_cpu.look_up(table, key, grad)
        return entries
    return quantile_cells.look_up(table, key, grad)
