"""The kernel density of many weighted points, read at many others, through a grid of nodes.

    f(z) = sum_i w_i K_h(z - v_i),   K_h(t) = exp(-t^2 / 2 h^2) / (h sqrt(2 pi))

In units of h the nodes stand 1/8 apart up to |u| = 2 and at 16 per octave from there to 2^16. Each point gives its mass
to the two nodes around it in inverse proportion to the distance (which keeps the mean), the kernel takes the nodes'
mass to the nodes, and what lies between two nodes is read off the straight line. A node's mass is taken to be spread
evenly as far as halfway to its neighbours, so that far from zero, where nodes stand wider apart than h, a
histogram's density remains. Masses are added in fixed point: the sums don't depend on their order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from catchment.compile_marks import constant

PER_OCTAVE = 16
_SIDE_NODES = 256  # on each side of zero
NODES = 2 * _SIDE_NODES + 1
_NEAR = 2.0  # in units of h: up to here nodes are evenly spaced, PER_OCTAVE of them
FIXED_POINT = 2.0**50


def piecewise_log2(magnitude: Tensor) -> Tensor:
    """The logarithm to base 2 as e + m for ``magnitude = 2^e (1 + m)``, with straight lines between the powers of two.

    It is continuous, so that a rounded logarithm beside a power of two does no harm.
    """
    exponent = magnitude.log2().floor()
    return exponent + (magnitude * (-exponent).exp2() - 1)


def _node_position(u: Tensor) -> Tensor:
    """Where ``u`` stands among the nodes, 0 to NODES - 1, with a fraction between two of them."""
    magnitude = u.abs().clamp(max=2.0**PER_OCTAVE)
    far = PER_OCTAVE * piecewise_log2(magnitude.clamp(min=_NEAR))
    position = torch.where(magnitude < _NEAR, magnitude * (PER_OCTAVE / _NEAR), far)
    return _SIDE_NODES + torch.where(u < 0, -position, position)


_KERNELS: dict[torch.device, Tensor] = {}


@constant
def kernel_between_nodes(device: torch.device) -> Tensor:
    """Row a, column b: the density at node b, in units of 1/h, of a unit mass spread evenly around node a."""
    if device not in _KERNELS:
        _KERNELS[device] = _make_kernel().to(device)
    return _KERNELS[device]


def _make_kernel() -> Tensor:
    k = torch.arange(_SIDE_NODES + 1, dtype=torch.float64)
    octave = (k / PER_OCTAVE).floor()
    magnitude = torch.where(k < PER_OCTAVE, k * (_NEAR / PER_OCTAVE), 2**octave * (1 + k / PER_OCTAVE - octave))
    nodes = torch.cat([-magnitude.flip(0)[:-1], magnitude])
    halfway = (nodes[1:] + nodes[:-1]) / 2
    lower = torch.cat([nodes[:1], halfway]).unsqueeze(1)
    upper = torch.cat([halfway, nodes[-1:]]).unsqueeze(1)
    width = upper - lower
    # Sharing out and reading between nodes add a sixth of the squared distance each to the variance, the even spread
    # a twelfth: that much narrower the kernel is made.
    sharpened = (1 - width.square() / 4 - width.T.square() / 6).clamp(min=0.05).sqrt()
    share = (_normal_cdf((upper - nodes) / sharpened) - _normal_cdf((lower - nodes) / sharpened)) / width
    return share.float()


def _normal_cdf(t: Tensor) -> Tensor:
    return 0.5 * torch.erf(t / math.sqrt(2))


class NodePlace(NamedTuple):
    """Where points stand among the nodes: the node below, and how far towards the next."""

    node: Tensor
    fraction: Tensor


def place(points: Tensor, bandwidth: Tensor) -> NodePlace:
    """Where the points ``(C, S)`` stand, for bandwidths ``(C, 1)``."""
    position = _node_position(points / bandwidth)
    node = position.floor().clamp(max=NODES - 2)
    return NodePlace(node.long(), position - node)


def node_density(where: NodePlace, weight: Tensor, bandwidth: Tensor) -> Tensor:
    """The density ``(C, nodes)`` at the nodes, of points ``(C, S)`` with ``weight`` ``(C, S)`` of sum 1 or less."""
    mass = torch.zeros(weight.shape[0], NODES, dtype=torch.int64, device=weight.device)
    above = weight * where.fraction
    mass = mass.scatter_add(1, where.node, ((weight - above) * FIXED_POINT).long())
    mass = mass.scatter_add(1, where.node + 1, (above * FIXED_POINT).long())
    return density_at_nodes(mass, bandwidth)


def density_at_nodes(mass: Tensor, bandwidth: Tensor) -> Tensor:
    """The density ``(C, nodes)`` at the nodes, of their mass in fixed point, for bandwidths ``(C, 1)``."""
    kernel: Tensor = kernel_between_nodes(mass.device)
    return (mass.float() / FIXED_POINT) @ kernel / bandwidth


def read_density(nodes: Tensor, where: NodePlace) -> Tensor:
    """The density ``(C, S)`` at the points, from that at the nodes ``(C, nodes)``."""
    below, above = nodes.gather(1, where.node), nodes.gather(1, where.node + 1)
    return torch.lerp(below, above, where.fraction)
