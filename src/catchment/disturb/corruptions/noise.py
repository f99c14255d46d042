"""Noise: gaussian, shot, impulse and speckle. Images are ``(N, C, H, W)``, float64 in 0..1, as the results are."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from catchment.disturb.corruptions.draws import Draws


def gaussian_noise(x: Tensor, draws: Draws, deviation: float) -> Tensor:
    r""":math:`x + N(0, \sigma^2)`."""
    return x + draws.normal(*x.shape[1:]) * deviation


def shot_noise(x: Tensor, draws: Draws, photons: float) -> Tensor:
    r""":math:`\mathrm{Poisson}(cx) / c`, by the inverse of its distribution function."""
    # The row of a level lies between it and the next number, so that one sorted table serves all levels.
    cumulative, first = (table.to(x.device) for table in _poisson_table(photons))
    level = (x * 255).round().long()
    place = torch.searchsorted(cumulative, level + draws.uniform(*x.shape[1:]), right=True)
    return (place - first[level]).double() / photons


@cache
def _poisson_table(photons: float) -> tuple[Tensor, Tensor]:
    """The distribution functions of all 256 levels, each plus its level, one after the other; where each begins."""
    from scipy.special import pdtr

    counts = np.arange(int(photons + 10 * photons**0.5) + 20)
    rows = pdtr(counts, np.arange(256)[:, None] / 255 * photons)
    rows[:, -1] = 1
    table = (rows + np.arange(256)[:, None]).ravel()
    return torch.from_numpy(table), torch.arange(256) * len(counts)


def impulse_noise(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Each value by itself is replaced with that probability, by 0 or 1 alike."""
    replaced = draws.uniform(*x.shape[1:]) < share
    salt = draws.uniform(*x.shape[1:]) < 0.5
    return torch.where(replaced, salt.to(x.dtype), x)


def speckle_noise(x: Tensor, draws: Draws, deviation: float) -> Tensor:
    r""":math:`x + x N(0, \sigma^2)`."""
    return x + x * (draws.normal(*x.shape[1:]) * deviation)
