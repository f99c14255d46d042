"""The activation functions a net can be built with, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Activation = Callable[[int], nn.Module]
"""Makes the activation function that follows a layer with so many channels."""


def relu(channels: int) -> nn.Module:
    """Rectified linear units."""
    return nn.ReLU()


def prelu(channels: int) -> nn.Module:
    """Leaky rectified linear units with one learned slope per channel."""
    return nn.PReLU(channels)


def selu(channels: int) -> nn.Module:
    """Scaled exponential linear units."""
    return nn.SELU()


def quantile(channels: int) -> nn.Module:
    """Quantile activation, whose context is what channel and batch hold."""
    from catchment.quantile import QuantileActivation

    return QuantileActivation(channels)


ACTIVATIONS: dict[str, Activation] = {"relu": relu, "prelu": prelu, "selu": selu, "quantile": quantile}
