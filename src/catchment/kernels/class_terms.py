"""The functions h of one class's probability that losses sum over the classes."""

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
        code: what the compiled loops know it by: its kind in losses_cpu.cpp, and its parameters.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    code: tuple[float, ...]


COUNT = ClassTerm("count", lambda log_p, p: torch.ones_like(p), (0,))

LOG = ClassTerm("log p", lambda log_p, p: log_p, (1,))

SQUARE = ClassTerm("p^2", lambda log_p, p: p.square(), (2,))

# the negative entropy's
P_LOG_P = ClassTerm("p log p", lambda log_p, p: p * log_p, (3,))


def shortfall(floor: float) -> ClassTerm:
    """max(floor - p, 0)."""
    return ClassTerm(f"shortfall({floor})", lambda log_p, p: (floor - p).relu(), (4, floor))


def log_above(floor: float) -> ClassTerm:
    """max(log p - log floor, 0)."""
    log_floor = math.log(floor)
    return ClassTerm(f"log_above({floor})", lambda log_p, p: (log_p - log_floor).relu(), (5, log_floor))


def focal_log(gamma: float, *, detach_factor: bool = False) -> ClassTerm:
    """(1 - p)^gamma log p; p -> 1 adds nothing. ``detach_factor``: no gradient through (1 - p)^gamma."""

    def value(log_p: Tensor, p: Tensor) -> Tensor:
        factor = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny) ** gamma
        return (factor.detach() if detach_factor else factor) * log_p

    return ClassTerm(f"focal_log({gamma}, {detach_factor})", value, (6, gamma, detach_factor))


def focal_above(gamma: float, floor: float, *, detach_factor: bool = False) -> ClassTerm:
    """The term of ``focal_log`` less what it is at ``floor``, to which p is raised."""
    log_floor = math.log(floor)
    lowest = math.pow(1 - floor, gamma) * log_floor
    of_class = focal_log(gamma, detach_factor=detach_factor)

    def value(log_p: Tensor, p: Tensor) -> Tensor:
        raised = log_p.clamp(min=log_floor)
        return (of_class.value(raised, raised) - lowest).clamp(min=0.0)

    code = (7, gamma, detach_factor, log_floor, lowest)
    return ClassTerm(f"focal_above({gamma}, {floor}, {detach_factor})", value, code)
