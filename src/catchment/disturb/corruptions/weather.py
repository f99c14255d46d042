"""Snow, frost and fog. Images are ``(N, C, H, W)``, float64 in 0..1, as the results are."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from catchment.disturb.corruptions.draws import Draws, image_keys
from catchment.disturb.corruptions.filters import clipped_zoom, motion, plasma

FROST_TEXTURES = 5
_FROST_TINT = (0.86, 0.94, 1.0)


def luma(x: Tensor) -> Tensor:
    """One channel of three: 0.299 R + 0.587 G + 0.114 B; a single one as it is."""
    if x.shape[1] == 1:
        return x
    return x[:, :1] * 0.299 + x[:, 1:2] * 0.587 + x[:, 2:] * 0.114


def snow(
    x: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    weight: float,
) -> Tensor:
    """A whitened image plus blown flakes, and the same flakes turned upside down."""
    layer = snow_layer(draws, x.shape[-1], mean, deviation, zoom, threshold, radius, sigma)
    return whitened(x, weight) + layer + layer.flip(2, 3)


def whitened(x: Tensor, weight: float) -> Tensor:
    """A mean of the image and a bleached one."""
    return x * weight + torch.maximum(x, luma(x) * 1.5 + 0.5) * (1 - weight)


def snow_layer(
    draws: Draws, side: int, mean: float, deviation: float, zoom: float, threshold: float, radius: float, sigma: float
) -> Tensor:
    """Flakes ``(N, 1, side, side)``: what is large of zoomed noise, blown between -135 and -45 degrees."""
    layer = clipped_zoom(draws.normal(1, side, side).double() * deviation + mean, zoom)
    layer = torch.where(layer < threshold, 0.0, layer).clamp_(0, 1).mul_(255).floor_()
    return motion(layer, radius, sigma, draws.uniform(1, low=-135, high=-45)[:, 0]) / 255


def frost(x: Tensor, draws: Draws, image_weight: float, frost_weight: float) -> Tensor:
    """A weighted sum of the image and a random part of one of five textures, which are not the published ones."""
    side = x.shape[-1]
    textures = frost_textures(1 << max(5, (side - 1).bit_length())).to(x.device)
    last = textures.shape[-1] - side
    which, top, left = (draws.integers(0, stop, 1, 1) for stop in (FROST_TEXTURES, last, last))
    along = torch.arange(side, device=x.device)
    part = textures[which, :, top + along[:, None], left + along]  # (N, side, side, 3)
    return x * image_weight + _coloured(part.permute(0, 3, 1, 2), x) * frost_weight


def _coloured(layer: Tensor, x: Tensor) -> Tensor:
    return layer if x.shape[1] == 3 else luma(layer)


@cache
def frost_textures(side: int) -> Tensor:
    """Ice on glass, ``(5, 3, 4 side, 4 side)`` float64 of whole levels over 255: crystals where plasma has ridges."""
    draws = Draws(image_keys(0, "frost textures", 0, torch.arange(FROST_TEXTURES)))
    depth, *others = (plasma(draws, 4 * side, decay) for decay in (1.9, 1.6, 1.45, 1.3))
    crystals = torch.zeros_like(depth)
    for height in others:
        ridge = 1 - (height * 8).remainder(2).sub_(1).abs_()
        crystals = torch.maximum(crystals, ridge * ridge * ridge)
    ice = depth * 0.45 + crystals * 0.5 + 0.1
    tint = torch.tensor(_FROST_TINT, dtype=torch.float64)[:, None, None]
    return (ice[:, None] * tint).clamp_(0, 1).mul_(255).floor_() / 255


def fog(x: Tensor, draws: Draws, strength: float, decay: float, map_side: int) -> Tensor:
    r"""The image plus plasma, scaled so that nothing is brighter than the image was.

    :math:`(x + s \, p) M / (M + s)`, with M the image's largest value.
    """
    side = x.shape[-1]
    height = plasma(draws, max(map_side, 1 << (side - 1).bit_length()), decay)[:, None, :side, :side]
    largest = x.amax((1, 2, 3), keepdim=True)
    return (x + height * strength) * largest / (largest + strength)
