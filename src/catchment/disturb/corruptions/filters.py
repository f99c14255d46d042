"""What several corruptions are made of: filters, zooms, sampling between pixels, and plasma.

Images are ``(N, C, H, W)`` of any floating-point type. Sums are written out, one term after the other, so that an
image's result does not depend on the others in its batch, as that of a library's convolution may.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catchment.disturb.corruptions.draws import Draws

# How pixels beyond the edge are filled: a a|a b c|c c, c b|a b c|b a, b a|a b c|c b
_NUMPY_BORDERS = {"nearest": "edge", "reflect-101": "reflect", "reflect": "symmetric"}


def gaussian_taps(sigma: float, half_width: int) -> NDArray[np.float64]:
    r"""Weights :math:`e^{-i^2 / 2 \sigma^2}` for i from -half_width to half_width, of sum 1."""
    taps = np.exp(-(np.arange(-half_width, half_width + 1) ** 2) / (2 * sigma**2))
    weights: NDArray[np.float64] = taps / taps.sum()
    return weights


def gaussian(x: Tensor, sigma: float, *, border: str = "nearest", truncate: float = 4) -> Tensor:
    """Gaussian blur along rows and columns, cut off at ``int(truncate * sigma + 0.5)`` pixels."""
    half_width = int(truncate * sigma + 0.5)
    if half_width == 0:
        return x
    taps = gaussian_taps(sigma, half_width)
    return _along(_along(x, taps, border, -2), taps, border, -1)


def _along(x: Tensor, taps: NDArray[np.float64], border: str, dim: int) -> Tensor:
    side, half_width = x.shape[dim], len(taps) // 2
    padded = _padded(x, half_width, border, dim)
    total = torch.zeros_like(x)
    for position, tap in enumerate(taps.tolist()):
        total += padded.narrow(dim, position, side) * tap
    return total


def _padded(x: Tensor, amount: int, border: str, dim: int) -> Tensor:
    # NumPy's types know the names of its modes only as literals.
    pad: Any = np.pad
    index: NDArray[np.int64] = pad(np.arange(x.shape[dim]), amount, mode=_NUMPY_BORDERS[border])
    padded: Tensor = x.index_select(dim, torch.from_numpy(index).to(x.device))
    return padded


def correlate(x: Tensor, kernel: NDArray[np.generic], *, border: str = "reflect-101") -> Tensor:
    """Each pixel's neighbourhood times a kernel of odd sides, summed."""
    rows, columns = kernel.shape
    height, width = x.shape[-2:]
    padded = _padded(_padded(x, rows // 2, border, -2), columns // 2, border, -1)
    total = torch.zeros_like(x)
    for row, column in zip(*np.nonzero(kernel), strict=True):
        total += padded[..., row : row + height, column : column + width] * float(kernel[row, column])
    return total


def disk(radius: float, sigma: float) -> NDArray[np.float32]:
    """A disk of equal weights, smoothed by a gaussian of 3 taps, or 5 for a radius above 8."""
    reach = 8 if radius <= 8 else int(radius)
    column, row = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    inside = (column**2 + row**2 <= radius**2).astype(np.float32)
    inside /= inside.sum()
    taps = gaussian_taps(sigma, 1 if radius <= 8 else 2)
    smoothed = correlate(torch.from_numpy(inside)[None, None].double(), np.outer(taps, taps))
    return smoothed[0, 0].float().numpy()


def motion_taps(radius: float, sigma: float) -> NDArray[np.float64]:
    """ImageMagick's weights: the gaussian's half that starts at its top, of sum 1."""
    taps = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    weights: NDArray[np.float64] = taps / taps.sum()
    return weights


def motion(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Motion blur of images in 0..255 as ImageMagick does it, each in its own direction, rounded to whole levels.

    Tap i of an image reads the pixel nearest to i pixels away, or the nearest to that in the image.
    """
    taps = motion_taps(radius, sigma)
    angle = np.deg2rad(degrees.cpu().numpy())[:, None]
    steps = np.arange(len(taps))
    down, right = (
        torch.from_numpy(np.ceil(steps * part - 0.5).astype(np.int64)).to(x.device)
        for part in (np.sin(angle), np.cos(angle))
    )
    n, channels, height, width = x.shape
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    flat = x.reshape(n, channels, -1)
    total = torch.zeros_like(flat)
    for i, tap in enumerate(taps):
        rows = (row + down[:, i, None]).clamp_(0, height - 1)
        columns = (column + right[:, i, None]).clamp_(0, width - 1)
        place = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1)
        total += flat.gather(2, place.expand_as(flat)) * tap
    return (total + 0.5).floor_().view_as(x)


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of square images, enlarged to their size by linear interpolation between corners."""
    side = x.shape[-1]
    kept = math.ceil(side / factor)
    start, enlarged = (side - kept) // 2, round(kept * factor)
    trimmed = (enlarged - side) // 2
    position = np.arange(trimmed, trimmed + side) * ((kept - 1) / (enlarged - 1))
    before = np.minimum(position.astype(np.int64), kept - 2)
    share = torch.from_numpy(position - before).to(x)
    index = torch.from_numpy(start + before).to(x.device)
    for dim, shares in ((-2, share[:, None]), (-1, share)):
        before_, after = x.index_select(dim, index), x.index_select(dim, index + 1)
        x = before_.mul_(1 - shares).add_(after.mul_(shares))
    return x


def sample(x: Tensor, rows: Tensor, columns: Tensor, *, border: str) -> Tensor:
    """Images at positions between their pixels, ``(N, H, W)`` each: linear interpolation."""
    n, channels, height, width = x.shape
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).to(x.dtype)[:, None], (columns - left).to(x.dtype)[:, None]
    row, column = top.long(), left.long()
    flat = x.reshape(n, channels, -1)

    def pixel(below: int, beside: int) -> Tensor:
        place = _inside(row + below, height, border) * width + _inside(column + beside, width, border)
        return flat.gather(2, place.view(n, 1, -1).expand(n, channels, -1)).view(n, channels, *rows.shape[1:])

    upper = pixel(0, 0) * (1 - right) + pixel(0, 1) * right
    lower = pixel(1, 0) * (1 - right) + pixel(1, 1) * right
    return upper * (1 - down) + lower * down


def _inside(index: Tensor, side: int, border: str) -> Tensor:
    """The pixel that is meant by one beyond the edge."""
    last = 2 * side - 2 if border == "reflect-101" else 2 * side - 1
    index = index.remainder(last if border == "reflect-101" else last + 1)
    return torch.minimum(index, last - index)


def plasma(draws: Draws, side: int, decay: float) -> Tensor:
    """Height maps by diamonds and squares on a torus, ``(N, side, side)`` from exactly 0 to exactly 1, float64.

    Args:
        draws: of as many maps as it has keys.
        side: a power of two.
        decay: by which the wobble falls each time the step halves; squared, as the published code has it.
    """
    maps = torch.zeros(len(draws), side, side, dtype=torch.float64, device=draws.device)
    wobble, step = 100.0, side

    def wobbled_mean(total: Tensor) -> Tensor:
        return total * 0.25 + wobble * draws.uniform(*total.shape[1:], low=-wobble, high=wobble)

    while step >= 2:
        half = step // 2
        corner = maps[:, ::step, ::step]
        above = corner + corner.roll(-1, 1)
        centre = wobbled_mean(above + above.roll(-1, 2))
        maps[:, half::step, half::step] = centre
        maps[:, ::step, half::step] = wobbled_mean(centre + centre.roll(1, 1) + corner + corner.roll(-1, 2))
        maps[:, half::step, ::step] = wobbled_mean(centre + centre.roll(1, 2) + corner + corner.roll(-1, 1))
        step, wobble = half, wobble / decay
    maps -= maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)
