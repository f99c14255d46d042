"""Spatter: water or mud. Images are ``(N, C, H, W)``, float64 in 0..1, as the results are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from catchment.disturb.corruptions.draws import Draws
from catchment.disturb.corruptions.filters import correlate, gaussian
from catchment.disturb.corruptions.weather import luma

WATER = (175 / 255, 238 / 255, 238 / 255)  # pale turquoise
MUD = (63 / 255, 42 / 255, 20 / 255)
_BOX = np.ones((3, 3))
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
_FARTHEST = 20.0
# Lengths of the moves by which OpenCV approximates the Euclidean distance in a window of 5 x 5.
_MOVES = {
    (down, right): {1: 1.0, 2: 1.4, 5: 2.1969}[down**2 + right**2]
    for down in range(-2, 3)
    for right in range(-2, 3)
    if down**2 + right**2 in (1, 2, 5)
}
_NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


def spatter(
    x: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    intensity: float,
    is_mud: float,
) -> Tensor:
    """Drops of water, which brighten, or of mud, which cover; the same on all channels but for their colour."""
    layer = gaussian(draws.normal(1, *x.shape[2:]).double() * deviation + mean, sigma)
    layer = torch.where(layer < threshold, 0.0, layer)
    if is_mud:
        cover = gaussian((layer > threshold).double(), intensity)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return x * (1 - cover) + cover * _colour(MUD, x)
    return x + water(layer) * intensity * _colour(WATER, x)


def _colour(rgb: tuple[float, float, float], x: Tensor) -> Tensor:
    colour = torch.tensor(rgb, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    return colour if x.shape[1] == 3 else luma(colour)


def water(layer: Tensor) -> Tensor:
    """How much water there is, ``(N, 1, H, W)`` from 0 to 1; none where nothing is above the threshold."""
    levels = (layer * 255).floor_().clamp_(0, 255)
    distance = distance_to(canny(levels, 50, 150)).clamp_(max=_FARTHEST)
    # In float32, where the mean of a plateau is its whole height before it is rounded down.
    relief = equalized((correlate(distance, _BOX) * (1 / 9)).float().floor_().double())
    relief = correlate(relief, _EMBOSS).clamp_(0, 255)
    depth = levels * (correlate(relief, _BOX) * (1 / 9)).round_()
    largest = depth.amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, depth / largest.clamp(min=1), 0.0)


def shifted(x: Tensor, down: int, right: int, fill: float) -> Tensor:
    """The pixel so far down and right of each; beyond the edge, ``fill``."""
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=fill)
    return padded[..., 2 + down : 2 + down + height, 2 + right : 2 + right + width]


def canny(levels: Tensor, low: float, high: float) -> Tensor:
    """Canny's edges as OpenCV finds them, bool: Sobel, |dx| + |dy|, thinned, followed from ``high`` down to ``low``."""
    sobel = np.outer([1, 2, 1], [-1, 0, 1])
    across, down = (correlate(levels, kernel, border="nearest") for kernel in (sobel, sobel.T))
    strength = across.abs() + down.abs()
    tangent = down.abs() / across.abs().clamp(min=1e-9)  # of the gradient's angle
    flat, steep = tangent < 2**0.5 - 1, tangent > 2**0.5 + 1
    falling = across.sign() * down.sign() >= 0

    def is_peak(rows: int, columns: int) -> Tensor:
        before, after = shifted(strength, -rows, -columns, 0), shifted(strength, rows, columns, 0)
        # Of a plateau along rows or columns OpenCV keeps the first, of one along a diagonal none.
        return (strength > before) & (strength > after if rows and columns else strength >= after)

    diagonal = torch.where(falling, is_peak(1, 1), is_peak(1, -1))
    thin = torch.where(flat, is_peak(0, 1), torch.where(steep, is_peak(1, 0), diagonal))
    possible = thin & (strength > low)
    edges = possible & (strength > high)
    while True:
        grown = edges
        for down_, right in _NEIGHBOURS:
            grown = grown | shifted(edges, down_, right, False)
        grown = grown & possible
        if torch.equal(grown, edges):
            return edges
        edges = grown


def distance_to(edges: Tensor) -> Tensor:
    """Length of the shortest path to an edge by the moves of a 5 x 5 window; infinite, or wrong, where above 20."""
    distance = torch.where(edges, 0.0, torch.inf).double()
    for _ in range(int(_FARTHEST)):
        nearer = distance
        for (down, right), length in _MOVES.items():
            nearer = torch.minimum(nearer, shifted(distance, down, right, torch.inf) + length)
        if torch.equal(nearer, distance):
            break
        distance = nearer
    return distance


def equalized(levels: Tensor) -> Tensor:
    """Levels whose histogram is spread over 0..255, as OpenCV does it; an image of one level stays."""
    n = len(levels)
    flat = levels.view(n, -1).long()
    counts = torch.zeros(n, 256, dtype=torch.int64, device=levels.device).scatter_add_(1, flat, torch.ones_like(flat))
    lowest = flat.amin(1, keepdim=True)
    of_lowest = counts.gather(1, lowest)
    others = flat.shape[1] - of_lowest
    spread = ((counts.cumsum(1) - of_lowest) * (255 / others.clamp(min=1))).round().clamp(0, 255)
    return torch.where(others > 0, spread.gather(1, flat), flat.double()).view_as(levels)
