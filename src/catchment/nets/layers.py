"""Layers in order, with what belongs together done together where that is faster."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn

from catchment.kernels import norm_relu
from catchment.kernels.dispatch import is_plain


class Layers(nn.Sequential):
    """``nn.Sequential`` whose BatchNorm, ReLU and maximum pooling are one step in training on a CPU.

    A run of ``BatchNorm2d``, ``ReLU`` and, where its windows tile the images, ``MaxPool2d(2)`` goes through the
    compiled loops of ``kernels.norm_relu``, with the same results but for rounding. Layers that carry hooks, or whose
    input the loops don't take, run one by one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output."""
        if not is_plain(x):
            for layer in self:
                x = layer(x)
            return x
        layers = list(self)
        position = 0
        while position < len(layers):
            layer, *following = layers[position : position + 3]
            if _begins_a_run(layer, following) and norm_relu.serves(x, layer):
                pools = (
                    len(following) == 2 and _is_bare(following[1], nn.MaxPool2d) and norm_relu.pools(x, following[1])
                )
                x = norm_relu.norm_relu(x, layer, pool=pools)
                position += 3 if pools else 2
            else:
                x = layer(x)
                position += 1
        return x


def _begins_a_run(layer: nn.Module, following: list[nn.Module]) -> TypeGuard[nn.BatchNorm2d]:
    return _is_bare(layer, nn.BatchNorm2d) and len(following) > 0 and _is_bare(following[0], nn.ReLU)


def _is_bare(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of just this class, and nobody watches it."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is kind and not any(hooks)
