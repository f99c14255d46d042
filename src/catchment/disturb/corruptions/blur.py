"""Blur: gaussian, defocus, glass, motion and zoom. Images are ``(N, C, H, W)``, float64 in 0..1, as the results are."""

from __future__ import annotations

import torch
from torch import Tensor

from catchment.disturb.corruptions.draws import Draws
from catchment.disturb.corruptions.filters import clipped_zoom, correlate, disk, gaussian, motion


def gaussian_blur(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """A gaussian of 4 sigma to either side; edge pixels are repeated."""
    return gaussian(x, sigma)


def defocus_blur(x: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """Correlation with an anti-aliased disk."""
    return correlate(x, disk(radius, sigma))


def glass_blur(x: Tensor, draws: Draws, sigma: float, largest_step: float, iterations: float) -> Tensor:
    """Blur, pixels copied from near by, blur.

    The published code means to swap pixels, but what it swaps are views of the image: the second keeps its colour.
    """
    levels = (gaussian(x, sigma) * 255).floor_()
    for _ in range(int(iterations)):
        levels = copy_from_partners(levels, draws, int(largest_step))
    return gaussian(levels / 255, sigma)


def copy_from_partners(x: Tensor, draws: Draws, largest_step: int) -> Tensor:
    """Give pixels the colour of one near by, from the last to the first, those at the edges excepted.

    Steps are drawn from ``-largest_step`` to ``largest_step - 1``, so more lead up and left. A partner that had its
    turn before already has its new colour.
    """
    n, channels, side, _ = x.shape
    turn = torch.arange(side - largest_step, largest_step, -1, device=x.device)
    step = draws.integers(-largest_step, largest_step, len(turn), len(turn), 2)
    own = (turn[:, None] * side + turn).expand(n, -1, -1)
    partner = own + step[..., 1] * side + step[..., 0]
    source = torch.arange(side * side, device=x.device).expand(n, -1).clone()
    has_turn = torch.zeros_like(source, dtype=torch.bool).index_fill_(1, own[0].flatten(), True)
    source.scatter_(1, own.flatten(1), partner.flatten(1))
    # Follow partners whose turn came before: each look leads to where they themselves have looked so far.
    pixel = torch.arange(side * side, device=x.device)
    came_before = (source > pixel) & has_turn.gather(1, source)
    leads_to = torch.where(came_before, source, pixel)
    while not torch.equal(further := leads_to.gather(1, leads_to), leads_to):
        leads_to = further
    source = source.gather(1, leads_to)
    return x.reshape(n, channels, -1).gather(2, source[:, None].expand(-1, channels, -1)).view_as(x)


def motion_blur(x: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """A one-sided gaussian in a direction between -45 and 45 degrees."""
    degrees = draws.uniform(1, low=-45, high=45)[:, 0]
    return motion((x * 255).round_(), radius, sigma, degrees) / 255


def zoom_blur(x: Tensor, draws: Draws, *factors: float) -> Tensor:
    """The mean of the image and its zooms, in float32 as published; the factor 1 gives the image a second weight."""
    x = x.float()
    total = x.clone()
    for factor in factors:
        total += clipped_zoom(x, factor)
    return (total / (len(factors) + 1)).double()
