"""BatchNorm, ReLU and maximum pooling of images as one step of training, on a CPU: ``norm_relu_cpu.cpp`` for tensors.

Each of the three alone reads and writes all values, which takes longer than the convolutions of a small net. Together
they read them twice forward and twice backward, and keep, beside what came in, one byte per pooled value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from catchment.kernels.native import call, is_compiled, threads

_SOURCE = "norm_relu_cpu.cpp"


def serves(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether the compiled loops take the images ``x``: float32, channels last in memory, on a CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and norm.training
        and norm.affine
        and x.ndim == 4
        and x.shape[1] == norm.num_features
        and x.numel() > x.shape[1]  # else no variance: BatchNorm2d says so
        and x.is_contiguous(memory_format=torch.channels_last)
        and norm.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and is_compiled(_SOURCE)
    )


def pools(x: Tensor, pool: nn.Module) -> bool:
    """Whether ``pool``, a ``MaxPool2d``, takes windows of 2 x 2 that tile ``x``, whose maximum is taken along."""
    assert isinstance(pool, nn.MaxPool2d)
    tiles = _pair(pool.kernel_size) == _pair(pool.stride) == (2, 2) and _pair(pool.padding) == (0, 0)
    plain = _pair(pool.dilation) == (1, 1) and not pool.return_indices
    return tiles and plain and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def norm_relu(x: Tensor, norm: nn.BatchNorm2d, *, pool: bool = False) -> Tensor:
    """``relu(norm(x))`` of images that the loops serve, and its maximum over windows of 2 x 2 where ``pool`` is set.

    The running statistics of ``norm`` move as in training.
    """
    momentum = 0.0
    running: tuple[Tensor | None, Tensor | None] = (None, None)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        running = (norm.running_mean, norm.running_var)
    y: Tensor = _NormRelu.apply(x, norm.weight, norm.bias, norm.eps, momentum, *running, pool)
    return y


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        momentum: float,
        running_mean: Tensor | None,
        running_variance: Tensor | None,
        pool: bool,
    ) -> Tensor:
        samples, channels, height, width = x.shape
        y, chosen = torch.empty_like(x), None
        if pool:
            size = (samples, channels, height // 2, width // 2)
            y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
            chosen = torch.empty_like(y, dtype=torch.uint8)
        statistics = x.new_empty(4, channels)
        ctx.sizes = (samples * height * width, channels, width if pool else 0, threads(x.numel() >> 17))
        inputs = (x, weight, bias, float(eps), float(momentum))
        call(
            _SOURCE,
            "catchment_norm_relu_forward",
            *inputs,
            *ctx.sizes,
            running_mean,
            running_variance,
            statistics,
            y,
            chosen,
        )
        ctx.save_for_backward(x, weight, statistics, chosen)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics, chosen = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        by_weight, by_bias = torch.empty_like(weight), torch.empty_like(weight)
        by_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        inputs = (x, grad, chosen, statistics)
        call(_SOURCE, "catchment_norm_relu_backward", *inputs, *ctx.sizes, by_weight, by_bias, by_x)
        return by_x, by_weight, by_bias, *5 * [None]
