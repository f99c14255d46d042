"""The loops of ``quantile_table``, ``quantile_exact`` and ``quantile_running`` compiled for this machine's CPU.

They are there where it has a C++ compiler: see ``native``. ``torch.compile`` takes each operator as a whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from catchment.compile_marks import constant
from catchment.kernels import native
from catchment.kernels.native import threads
from catchment.kernels.quantile_cells import COARSE_CELLS, FINE_CELLS, MAGNITUDES
from catchment.kernels.quantile_density import kernel_between_nodes

_SOURCE = "quantile_cpu.cpp"


@constant
def is_compiled() -> bool:
    """Whether the compiled loops are there; the first call compiles them."""
    return native.is_compiled(_SOURCE)


def serves(x: Tensor) -> bool:
    """Whether the compiled loops take ``x``: float32, on a CPU, and they are there."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and is_compiled()


def _call(name: str, *arguments: Tensor | float | int | None) -> None:
    native.call(_SOURCE, name, *arguments)


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` without holes in memory, and whether its channels stand last there."""
    memory_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if memory_format is not None and not x.is_contiguous() and x.is_contiguous(memory_format=memory_format):
        return x, True
    return x.contiguous(), x.ndim == 2


def _sizes(x: Tensor, channels_last: bool) -> tuple[int, int, int, int, int]:
    samples, channels = x.shape[:2]
    return samples, channels, x.numel() // (samples * channels), int(channels_last), threads(x.numel() >> 16)


@torch.library.custom_op("catchment::quantile_count_coarse", mutates_args=())
def count_coarse(x: Tensor) -> Tensor:
    """Twin of ``quantile_cells.count_coarse``."""
    x, last = _dense(x)
    counts = torch.zeros(x.shape[1], COARSE_CELLS, dtype=torch.int32)
    _call("catchment_count", x, *_sizes(x, last), counts)
    return counts


@count_coarse.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], COARSE_CELLS, dtype=torch.int32)


@torch.library.custom_op("catchment::quantile_refine", mutates_args=())
def refine(x: Tensor, coarse: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    """Twin of ``quantile_cells.refine``."""
    x, last = _dense(x)
    key = torch.empty_like(x, dtype=torch.int16)
    fine = torch.zeros(x.shape[1], FINE_CELLS, dtype=torch.int32)
    _call("catchment_refine", x, coarse.contiguous(), negative_mass, *_sizes(x, last), key, fine)
    return key, fine


@refine.register_fake
def _(x: Tensor, coarse: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    key = torch.empty_like(_dense(x)[0], dtype=torch.int16)
    return key, x.new_empty(x.shape[1], FINE_CELLS, dtype=torch.int32)


def tables(coarse: Tensor, fine: Tensor, bandwidth: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    """Twin of ``quantile_cells.tables``."""
    both: tuple[Tensor, Tensor] = _tables(coarse, fine, bandwidth, kernel_between_nodes(coarse.device), negative_mass)
    return both


@torch.library.custom_op("catchment::quantile_tables", mutates_args=())
def _tables(
    coarse: Tensor, fine: Tensor, bandwidth: Tensor, kernel: Tensor, negative_mass: float
) -> tuple[Tensor, Tensor]:
    cdf = torch.empty(fine.shape)
    density = torch.empty(fine.shape)
    inputs = (coarse.contiguous(), fine.contiguous(), bandwidth.contiguous(), kernel.contiguous())
    _call("catchment_tables", *inputs, negative_mass, fine.shape[0], threads(fine.shape[0] >> 3), cdf, density)
    return cdf, density


@_tables.register_fake
def _(coarse: Tensor, fine: Tensor, bandwidth: Tensor, kernel: Tensor, negative_mass: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(fine, dtype=torch.float32), torch.empty_like(fine, dtype=torch.float32)


@torch.library.custom_op("catchment::quantile_look_up", mutates_args=())
def look_up(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    """Twin of ``quantile_cells.look_up``."""
    key, last = _dense(key)
    out = torch.empty_like(key, dtype=torch.float32)
    if grad is not None and grad.stride() != key.stride():
        grad = torch.empty_like(out).copy_(grad)
    _call("catchment_look_up", table.contiguous(), key, grad, *_sizes(key, last), out)
    return out


@look_up.register_fake
def _(table: Tensor, key: Tensor, grad: Tensor | None = None) -> Tensor:
    return torch.empty_like(_dense(key)[0], dtype=torch.float32)


@torch.library.custom_op("catchment::quantile_pairs_of_counts", mutates_args=())
def pairs_of_counts(coarse: Tensor, fine: Tensor, negative_mass: float) -> Tensor:
    """Twin of ``quantile_cells.pairs_of_counts``."""
    pairs = torch.empty(coarse.shape, dtype=torch.int64)
    channels = coarse.shape[0]
    inputs = (coarse.contiguous(), fine.contiguous(), negative_mass)
    _call("catchment_pairs_of_counts", *inputs, channels, threads(channels >> 4), pairs)
    return pairs


@pairs_of_counts.register_fake
def _(coarse: Tensor, fine: Tensor, negative_mass: float) -> Tensor:
    return torch.empty_like(coarse, dtype=torch.int64, memory_format=torch.contiguous_format)


@torch.library.custom_op("catchment::quantile_pairs_of_ranks", mutates_args=())
def pairs_of_ranks(rows: Tensor, cdf: Tensor, coarse: Tensor, negative_mass: float) -> Tensor:
    """Twin of ``quantile_cells.pairs_of_ranks``."""
    pairs = torch.zeros(coarse.shape, dtype=torch.int64)
    inputs = (rows.contiguous(), cdf.contiguous(), coarse.contiguous(), negative_mass)
    _call("catchment_pairs_of_ranks", *inputs, *rows.shape, threads(rows.shape[0] >> 5), pairs)
    return pairs


@pairs_of_ranks.register_fake
def _(rows: Tensor, cdf: Tensor, coarse: Tensor, negative_mass: float) -> Tensor:
    return torch.empty_like(coarse, dtype=torch.int64, memory_format=torch.contiguous_format)


@torch.library.custom_op("catchment::quantile_learn", mutates_args=("mass", "ties"))
def learn(
    mass: Tensor,
    ties: Tensor,
    coarse: Tensor,
    pairs: Tensor,
    factor: Tensor,
    least_share: float,
    least: float,
    equal_pairs: float,
) -> None:
    """Twin of ``quantile_running.learn``; ``mass`` and ``ties`` are contiguous, ``factor`` float32."""
    channels = coarse.shape[0]
    inputs = (coarse.contiguous(), pairs.contiguous(), factor, least_share, least, equal_pairs)
    _call("catchment_learn", *inputs, channels, threads(channels >> 6), mass, ties)


@learn.register_fake
def _(*args: object) -> None:
    return None


@torch.library.custom_op("catchment::quantile_learn_rows", mutates_args=("mass", "ties"))
def learn_rows(
    mass: Tensor,
    ties: Tensor,
    rows: Tensor,
    cdf: Tensor,
    factor: Tensor,
    negative_mass: float,
    least_share: float,
    least: float,
    equal_pairs: float,
) -> None:
    """Twin of ``quantile_running.learn_rows``; ``mass`` and ``ties`` are contiguous, ``factor`` float32."""
    inputs = (rows, cdf, factor, negative_mass, least_share, least, equal_pairs)
    sizes = (*rows.shape, *rows.stride(), *cdf.stride(), threads(rows.shape[0] >> 6))
    _call("catchment_learn_rows", *inputs, *sizes, mass, ties)


@learn_rows.register_fake
def _(*args: object) -> None:
    return None


@torch.library.custom_op("catchment::quantile_stored_tables", mutates_args=())
def stored_tables(mass: Tensor, ties: Tensor, negative_mass: float, least_share: float) -> Tensor:
    """Twin of ``quantile_running.stored_tables``."""
    channels = mass.shape[0]
    tables = torch.empty(2, channels, 2 * MAGNITUDES)
    inputs = (mass.contiguous(), ties.contiguous(), negative_mass, least_share)
    _call("catchment_stored_tables", *inputs, channels, threads(channels >> 5), *tables)
    return tables


@stored_tables.register_fake
def _(mass: Tensor, ties: Tensor, negative_mass: float, least_share: float) -> Tensor:
    return mass.new_empty(2, mass.shape[0], 2 * MAGNITUDES)


@torch.library.custom_op("catchment::quantile_read_stored", mutates_args=())
def read_stored(at_inner: Tensor, at_outer: Tensor, x: Tensor) -> Tensor:
    """Twin of ``quantile_running.read_stored``."""
    x, last = _dense(x)
    out = torch.empty_like(x)
    _call("catchment_read_stored", x, at_inner.contiguous(), at_outer.contiguous(), *_sizes(x, last), out)
    return out


@read_stored.register_fake
def _(at_inner: Tensor, at_outer: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(_dense(x)[0])


@torch.library.custom_op("catchment::quantile_rank", mutates_args=())
def rank(values: Tensor, context: Tensor, negative_mass: float) -> Tensor:
    """Twin of ``quantile_exact.rank_rows``, by comparing all pairs."""
    values, out = _with_room(values)
    _call("catchment_rank", values, context, negative_mass, *_row_sizes(values, context), out)
    return out


@rank.register_fake
def _(values: Tensor, context: Tensor, negative_mass: float) -> Tensor:
    return torch.empty_like(values)


@torch.library.custom_op("catchment::quantile_density", mutates_args=())
def density(values: Tensor, context: Tensor, bandwidth: Tensor, negative_mass: float) -> Tensor:
    """Twin of ``quantile_exact.density_rows``, over all pairs."""
    values, out = _with_room(values)
    inputs = (values, context, bandwidth.contiguous(), negative_mass)
    _call("catchment_density", *inputs, *_row_sizes(values, context), out)
    return out


@density.register_fake
def _(values: Tensor, context: Tensor, bandwidth: Tensor, negative_mass: float) -> Tensor:
    return torch.empty_like(values)


def _with_room(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values, and an empty tensor with the same strides; a copy where they overlap or leave holes."""
    out = torch.empty_like(values)
    return (values, out) if out.stride() == values.stride() else (values.contiguous(), torch.empty(values.shape))


def _row_sizes(values: Tensor, context: Tensor) -> tuple[int, ...]:
    work = values.numel() * context.shape[1] >> 20
    return (*values.shape, context.shape[1], *values.stride(), *context.stride(), threads(work))
