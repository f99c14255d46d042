"""Where a loss's fast code may run in place of its plain twin."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor
from torch._C import _functorch

from catchment.compile_marks import constant


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is a tensor whose values can be looked at: neither torch.func nor a compiler is at work."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    return not (_functorch.is_functorch_wrapped_tensor(x) or _functorch.is_legacy_batchedtensor(x))


def is_for_triton(logits: Tensor, labels: Tensor) -> bool:
    """Whether the Triton kernels take these: rows of at most 32 bits on CUDA, where Triton is installed."""
    if not (logits.is_cuda and logits.ndim == 2 and logits.dtype in (torch.float32, torch.float16, torch.bfloat16)):
        return False
    return has_triton() and is_plain(logits) and is_plain(labels)


@constant
@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None
