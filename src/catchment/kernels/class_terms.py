"""The functions h of one class's probability that losses sum over the classes, with their slopes dh/dlog p."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ClassTerm(NamedTuple):
    """h, elementwise.

    Args:
        name: tells it from other terms.
        value: h from (log p, p); differentiable, with whatever its definition detaches detached.
        value_into: h from (log p, p, out), written to out and returned, or log p itself; log p and p are kept.
        slope_into: dh/dlog p from (log p, p, out, spare), written to out and returned; spare is room to work in.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    value_into: Callable[[Tensor, Tensor, Tensor], Tensor]
    slope_into: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


COUNT = ClassTerm(
    name="count",
    value=lambda log_p, p: torch.ones_like(p),
    value_into=lambda log_p, p, out: out.fill_(1.0),
    slope_into=lambda log_p, p, out, spare: out.zero_(),
)

LOG = ClassTerm(
    name="log p",
    value=lambda log_p, p: log_p,
    value_into=lambda log_p, p, out: log_p,
    slope_into=lambda log_p, p, out, spare: out.fill_(1.0),
)

SQUARE = ClassTerm(
    name="p^2",
    value=lambda log_p, p: p.square(),
    value_into=lambda log_p, p, out: torch.mul(p, p, out=out),
    slope_into=lambda log_p, p, out, spare: torch.mul(p, p, out=out).mul_(2.0),
)

# p log p, the negative entropy's
P_LOG_P = ClassTerm(
    name="p log p",
    value=lambda log_p, p: p * log_p,
    value_into=lambda log_p, p, out: torch.mul(p, log_p, out=out),
    slope_into=lambda log_p, p, out, spare: torch.add(log_p, 1.0, out=out).mul_(p),
)


def shortfall(floor: float) -> ClassTerm:
    """max(floor - p, 0)."""

    def value_into(log_p: Tensor, p: Tensor, out: Tensor) -> Tensor:
        return torch.neg(p, out=out).add_(floor).clamp_(min=0.0)

    def slope_into(log_p: Tensor, p: Tensor, out: Tensor, spare: Tensor) -> Tensor:
        return torch.lt(p, floor, out=out).mul_(p).neg_()

    return ClassTerm(f"shortfall({floor})", lambda log_p, p: (floor - p).relu(), value_into, slope_into)


def log_above(floor: float) -> ClassTerm:
    """max(log p - log floor, 0)."""
    log_floor = math.log(floor)

    def value_into(log_p: Tensor, p: Tensor, out: Tensor) -> Tensor:
        return torch.sub(log_p, log_floor, out=out).clamp_(min=0.0)

    def slope_into(log_p: Tensor, p: Tensor, out: Tensor, spare: Tensor) -> Tensor:
        return torch.gt(log_p, log_floor, out=out)

    return ClassTerm(f"log_above({floor})", lambda log_p, p: (log_p - log_floor).relu(), value_into, slope_into)


def focal_log(gamma: float, *, detach_factor: bool = False) -> ClassTerm:
    """(1 - p)^gamma log p; p -> 1 adds nothing. ``detach_factor``: no gradient through (1 - p)^gamma."""

    def value(log_p: Tensor, p: Tensor) -> Tensor:
        factor = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny) ** gamma
        return (factor.detach() if detach_factor else factor) * log_p

    def value_into(log_p: Tensor, p: Tensor, out: Tensor) -> Tensor:
        return torch.neg(p, out=out).add_(1.0).pow_(gamma).mul_(log_p)

    def slope_into(log_p: Tensor, p: Tensor, out: Tensor, spare: Tensor) -> Tensor:
        if detach_factor or gamma == 0:
            return torch.neg(p, out=out).add_(1.0).pow_(gamma)
        # (1 - p)^(gamma - 1) (1 - p - gamma p log p); eps keeps that small where p is 1 but for its rounding
        not_p = torch.neg(p, out=spare).add_(1.0).clamp_(min=torch.finfo(p.dtype).eps)
        return torch.addcmul(not_p, p, log_p, value=-gamma, out=out).mul_(not_p.pow_(gamma - 1))

    return ClassTerm(f"focal_log({gamma}, {detach_factor})", value, value_into, slope_into)


def focal_above(gamma: float, floor: float, *, detach_factor: bool = False) -> ClassTerm:
    """The term of ``focal_log`` less what it is at ``floor``, to which p is raised."""
    log_floor = math.log(floor)
    lowest = math.pow(1 - floor, gamma) * log_floor
    of_class = focal_log(gamma, detach_factor=detach_factor)

    def value(log_p: Tensor, p: Tensor) -> Tensor:
        raised = log_p.clamp(min=log_floor)
        return (of_class.value(raised, raised) - lowest).clamp(min=0.0)

    def value_into(log_p: Tensor, p: Tensor, out: Tensor) -> Tensor:
        return of_class.value_into(log_p, p, out).sub_(lowest).clamp_(min=0.0)  # it falls with p below the floor

    def slope_into(log_p: Tensor, p: Tensor, out: Tensor, spare: Tensor) -> Tensor:
        of_class.slope_into(log_p, p, out, spare)
        return out.mul_(torch.gt(log_p, log_floor, out=spare))

    return ClassTerm(f"focal_above({gamma}, {floor}, {detach_factor})", value, value_into, slope_into)
