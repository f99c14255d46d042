"""Sums and contexts over the processes that share a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes there are; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum over all processes; it carries no gradient."""
    value = value.clone()
    dist.all_reduce(value)
    return value


def gather_columns(rows: Tensor) -> Tensor:
    """The rows ``(C, n)`` of all processes side by side, those of a shorter one filled up with NaN."""
    longest = torch.tensor(rows.shape[1], device=rows.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    padded = torch.nn.functional.pad(rows, (0, int(longest) - rows.shape[1]), value=torch.nan).contiguous()
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, padded)
    return torch.cat(parts, 1)


class DifferentiableSum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        """The sum."""
        return sum_over_processes(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The sum of the gradients."""
        return sum_over_processes(grads[0])
