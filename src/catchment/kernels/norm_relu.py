"""BatchNorm, ReLU and maximum pooling of images as one step of training, on a CPU: ``norm_relu_cpu.cpp`` for tensors.

Each of the three alone reads and writes all values, which takes longer than the convolutions of a small net. Together
they read them twice forward and twice backward, and keep, beside what came in, one byte per pooled value.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from catchment.kernels.dispatch import is_plain
from catchment.kernels.native import call, is_compiled, threads

_SOURCE = "norm_relu_cpu.cpp"


def serves(x: object, norm: nn.BatchNorm2d) -> bool:
    """Whether the compiled loops take the images ``x``: float32, channels last in memory, eager mode, on a CPU."""
    return (
        isinstance(x, Tensor)
        and is_plain(x)
        and x.device.type == "cpu"
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
    y, mean, variance = cast(tuple[Tensor, Tensor, Tensor], _NormRelu.apply(x, norm.weight, norm.bias, norm.eps, pool))
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        number = x.numel() // x.shape[1]
        with torch.no_grad():
            norm.running_mean.lerp_(mean, momentum)
            norm.running_var.lerp_(variance * (number / (number - 1)), momentum)
    return y


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        samples, channels, height, width = x.shape
        rows = samples * height * width
        mean, variance = x.new_empty(channels), x.new_empty(channels)
        call(_SOURCE, "catchment_moments", x, rows, channels, _threads(x), mean, variance)
        inverse = (variance.double() + eps).rsqrt()
        scale = (weight * inverse).float()
        shift = (bias - mean * inverse * weight).float()
        if pool:
            y = _images(x, height // 2, width // 2)
            chosen = torch.empty_like(y, dtype=torch.uint8)
            sizes = (rows // 4, channels, width)
            call(_SOURCE, "catchment_scale_relu_pool", x, scale, shift, *sizes, _threads(x), y, chosen)
        else:
            y, chosen = torch.empty_like(x), None
            call(_SOURCE, "catchment_scale_relu", x, scale, shift, rows, channels, _threads(x), y)
        ctx.save_for_backward(x, weight, mean, inverse, scale, shift, chosen)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, scale, shift, chosen = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        samples, channels, height, width = x.shape
        rows, many = samples * height * width, _threads(x)
        sums = x.new_empty(2, channels, dtype=torch.float64)
        if chosen is None:
            call(_SOURCE, "catchment_relu_sums", x, grad, scale, shift, mean, rows, channels, many, sums)
        else:
            sizes = (rows // 4, channels, width)
            call(_SOURCE, "catchment_relu_pool_sums", x, grad, chosen, mean, *sizes, many, sums)
        grad_bias, grad_weight = sums[0], sums[1] * inverse
        grad_x = None
        if ctx.needs_input_grad[0]:
            # scale * (d - mean of d - normalised x * mean of d times normalised x), d what reaches it
            slope = weight * inverse
            by_x = -slope * inverse * grad_weight / rows
            factors = (scale, by_x.float(), (-slope * grad_bias / rows - by_x * mean).float())
            grad_x = torch.empty_like(x)
            if chosen is None:
                call(
                    _SOURCE, "catchment_relu_gradient", x, grad, scale, shift, *factors, rows, channels, many, grad_x
                )  # fmt: skip
            else:
                call(_SOURCE, "catchment_relu_pool_gradient", x, grad, chosen, *factors, *sizes, many, grad_x)
        return grad_x, grad_weight.float(), grad_bias.float(), None, None


def _images(x: Tensor, height: int, width: int) -> Tensor:
    size = (x.shape[0], x.shape[1], height, width)
    return torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)


def _threads(x: Tensor) -> int:
    return threads(x.numel() >> 17)
