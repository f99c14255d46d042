"""C++ loops compiled for this machine's CPU when first used, where it has a C++ compiler.

A source of this folder takes two to four seconds and is kept in ``$XDG_CACHE_HOME/catchment`` (``~/.cache/catchment``).
Without a compiler, and with ``CATCHMENT_COMPILE=0`` in the environment, the plain twins run.
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
from typing import Any

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)
_FOLDER = Path(__file__).parent
_FLAGS = (
    "-O3",
    "-march=native",
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
)

_LIBRARIES: dict[str, ctypes.CDLL | None] = {}


def is_compiled(source: str) -> bool:
    """Whether the compiled loops of ``source``, a file of this folder, are there; the first call compiles them."""
    return _library(source) is not None


def call(source: str, name: str, *arguments: Tensor | ctypes.Array[Any] | float | int | None) -> None:
    """Call a function of ``source``, with tensors and arrays as pointers, floats as float and integers as int64_t."""
    library = _library(source)
    assert library is not None
    function = getattr(library, name)
    if function.argtypes is None:
        function.argtypes = [_c_type(argument) for argument in arguments]
        function.restype = None
    function(*(argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments))


def _c_type(argument: object) -> type[ctypes.c_void_p | ctypes.c_float | ctypes.c_int64]:
    if isinstance(argument, float):
        return ctypes.c_float
    return ctypes.c_int64 if isinstance(argument, int) else ctypes.c_void_p


def threads(work: int) -> int:
    """How many threads ``work`` times about 0.1 ms is worth."""
    return max(1, min(torch.get_num_threads(), work))


def _library(source: str) -> ctypes.CDLL | None:
    if source not in _LIBRARIES:
        _LIBRARIES[source] = _load(source)
    return _LIBRARIES[source]


def _load(source: str) -> ctypes.CDLL | None:
    if os.environ.get("CATCHMENT_COMPILE") == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        _LOG.info("no C++ compiler: the plain twins of %s run", source)
        return None
    try:
        return ctypes.CDLL(str(_built(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("the plain twins of %s run: %s", source, error)
        return None


def _compiler() -> str | None:
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def _built(source: str, compiler: str) -> Path:
    """The compiled library: of this source, for this processor."""
    texts = [path.read_text() for path in (_FOLDER / source, *sorted(_FOLDER.glob("*.h")))]
    identity = "\n".join([*texts, compiler, *_FLAGS, _processor()])
    name = f"{Path(source).stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
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
    command = [compiler, *_FLAGS, "-o", str(unfinished), str(_FOLDER / source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
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
