"""The loops of ``quantile_table`` and ``quantile_exact`` compiled for this machine's CPU, where it has a C++ compiler.

``quantile_cpu.cpp`` is compiled when first used, in about two seconds, and kept in ``$XDG_CACHE_HOME/catchment``
(``~/.cache/catchment``). ``CATCHMENT_COMPILE=0`` in the environment leaves it at the plain twins. ``torch.compile``
takes each operator as a whole.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from catchment.compile_marks import constant
from catchment.kernels.quantile_cells import COARSE_CELLS, FINE_CELLS
from catchment.kernels.quantile_density import kernel_between_nodes

_LOG = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
)


_LIBRARY: list[ctypes.CDLL | None] = []


@constant
def is_compiled() -> bool:
    """Whether the compiled loops are there; the first call compiles them."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    if not _LIBRARY:
        _LIBRARY.append(_load())
    return _LIBRARY[0]


def _load() -> ctypes.CDLL | None:
    if os.environ.get("CATCHMENT_COMPILE") == "0":
        return None
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if compiler is None:
        _LOG.info("no C++ compiler: quantile activation runs without its compiled loops")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("quantile activation runs without its compiled loops: %s", error)
        return None


def _built(compiler: str) -> Path:
    """The compiled library: of this source, for this processor."""
    identity = "\n".join([_SOURCE.read_text(), compiler, *_FLAGS, _processor()])
    name = f"quantile-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "catchment"
    library = folder / name
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = Path(tempfile.mkdtemp(dir=folder))
    except OSError:
        folder = scratch = Path(tempfile.mkdtemp(prefix="catchment-"))
        library = folder / name
    unfinished = scratch / "unfinished.so"
    subprocess.run(
        [compiler, *_FLAGS, "-o", str(unfinished), str(_SOURCE)], check=True, capture_output=True, timeout=120
    )
    unfinished.replace(library)
    if scratch != folder:
        scratch.rmdir()
    return library


def _processor() -> str:
    """What -march=native depends on: the processor and its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def serves(x: Tensor) -> bool:
    """Whether the compiled loops take ``x``: float32, on a CPU, and they are there."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and is_compiled()


def _call(name: str, *arguments: Tensor | float | int | None) -> None:
    library = _library()
    assert library is not None
    function = getattr(library, name)
    function.argtypes = [_c_type(argument) for argument in arguments]
    function.restype = None
    function(*(argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments))


def _c_type(argument: Tensor | float | int | None) -> type[ctypes.c_void_p | ctypes.c_float | ctypes.c_int64]:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p
    return ctypes.c_float if isinstance(argument, float) else ctypes.c_int64


def _threads(work: int) -> int:
    """How many threads ``work`` times about 0.1 ms is worth."""
    return max(1, min(torch.get_num_threads(), work))


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` without holes in memory, and whether its channels stand last there."""
    memory_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if memory_format is not None and not x.is_contiguous() and x.is_contiguous(memory_format=memory_format):
        return x, True
    return x.contiguous(), x.ndim == 2


def _sizes(x: Tensor, channels_last: bool) -> tuple[int, int, int, int, int]:
    samples, channels = x.shape[:2]
    return samples, channels, x.numel() // (samples * channels), int(channels_last), _threads(x.numel() >> 16)


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
    _call("catchment_tables", *inputs, negative_mass, fine.shape[0], _threads(fine.shape[0] >> 3), cdf, density)
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
    threads = _threads(values.numel() * context.shape[1] >> 20)
    return (*values.shape, context.shape[1], *values.stride(), *context.stride(), threads)
