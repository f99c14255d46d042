"""Batch normalisation that is told whose statistics to use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from catchment.kernels.quantile_sync import DifferentiableSum, sum_over_processes


class ContextNorm(nn.Module):
    """Batch normalisation of ``(N, C, d...)`` whose caller says whose statistics are used.

    State and arithmetic are those of ``nn.BatchNorm2d``, over the processes too where the batch is shared.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor, *, batch: bool, shared: bool = False, factor: Tensor | None = None) -> Tensor:
        """Normalise with the statistics of the batch, or the stored ones.

        Args:
            x: ``(N, C, d...)``.
            batch: whether the batch's statistics are used.
            shared: whether the batch is spread over all processes.
            factor: the share of the batch in the new stored statistics; None leaves them alone.
        """
        if not batch:
            return self._with_stored(x)
        if shared:
            out, mean, variance, number = self._over_processes(x)
        else:
            out, mean, scale = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps)
            variance = scale.detach().float().pow(-2) - self.eps
            number = torch.tensor(x.numel() // x.shape[1], device=x.device)
        if factor is not None:
            with torch.no_grad():
                unbiased = variance.clamp(min=0.0) * (number / (number - 1).clamp(min=1))
                for stored, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                    stored.lerp_(new.to(stored.dtype), factor.to(stored.dtype))
        return out

    def _with_stored(self, x: Tensor) -> Tensor:
        """In plain arithmetic, which every exporter knows."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        centred = x - self.running_mean.view(shape)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _over_processes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = x.float()
        dims = [d for d in range(x.ndim) if d != 1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        number = sum_over_processes(torch.tensor(x.numel() // x.shape[1], device=x.device))
        mean = DifferentiableSum.apply(values.sum(dims)) / number
        centred = values - mean.view(shape)
        variance = DifferentiableSum.apply(centred.square().sum(dims)) / number
        scale = self.weight * (variance + self.eps).rsqrt()
        out = centred * scale.view(shape) + self.bias.view(shape)
        return out.to(x.dtype), mean.detach(), variance.detach(), number
