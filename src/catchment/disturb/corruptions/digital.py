"""Contrast, elastic transform, pixelate, JPEG, saturate and brightness.

Images are ``(N, C, H, W)``, float64 in 0..1, as the results are.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from catchment.disturb.corruptions.draws import Draws
from catchment.disturb.corruptions.filters import gaussian, sample

if TYPE_CHECKING:
    from PIL import Image


def contrast(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Each channel's distance from its mean over the image, times a factor."""
    levels = (x * 255).round().long()  # whose sum no order of summing changes
    mean = levels.sum((2, 3), keepdim=True).double() / (255 * x.shape[2] * x.shape[3])
    return (x - mean) * factor + mean


def brightness(x: Tensor, draws: Draws, added: float) -> Tensor:
    """The largest channel (V of HSV) plus a number, hue and saturation kept."""
    value = x.amax(1, keepdim=True)
    share = torch.where(value > 0, x / value.clamp(min=1 / 255), 1.0)
    return share * (value + added).clamp_(0, 1)


def saturate(x: Tensor, draws: Draws, factor: float, offset: float) -> Tensor:
    """The saturation of HSV times a factor plus an offset, hue and value kept; grey images stay as they are.

    A grey pixel of a colour image has the hue 0 and turns red where there is an offset.
    """
    if x.shape[1] == 1:
        return x
    value, lowest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    span = value - lowest
    saturation = torch.where(value > 0, span / value.clamp(min=1 / 255), 0.0)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device)[:, None, None]
    # 0 at the largest channel, 1 at the least
    below_value = torch.where(span > 0, (value - x) / span.clamp(min=1 / 255), red)
    return value * (1 - (saturation * factor + offset).clamp_(0, 1) * below_value)


def elastic_transform(x: Tensor, draws: Draws, displacement: float, smoothing: float, jitter: float) -> Tensor:
    """A random affine map, then a smooth random displacement; in float32 as published.

    The affine map takes three anchors, a third of the side from the middle, to where their jitter moves them.
    """
    x = x.float()
    side = x.shape[-1]
    middle, third = side // 2, side // 3
    moved = draws.uniform(3, 2, low=-jitter, high=jitter)  # (column, row) each
    moved += torch.tensor([[1, 1], [1, -1], [-1, -1]], device=x.device) * third + middle
    along = torch.arange(side, dtype=torch.float64, device=x.device)
    # An output pixel is moved[1] + s (moved[0] - moved[1]) + t (moved[1] - moved[2]), and comes from where that point
    # is with the anchors in their own places.
    origin, first, second = moved[:, 1], moved[:, 0] - moved[:, 1], moved[:, 1] - moved[:, 2]
    area = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])[:, None, None]
    column = along[None, None, :] - origin[:, 0, None, None]
    row = along[None, :, None] - origin[:, 1, None, None]
    s = (column * second[:, 1, None, None] - row * second[:, 0, None, None]) / area
    t = (row * first[:, 0, None, None] - column * first[:, 1, None, None]) / area
    warped = sample(x, middle - third + s * (2 * third), middle + third + t * (2 * third), border="reflect-101")

    right, down = (smooth_field(draws, side, displacement, smoothing) for _ in range(2))
    return sample(warped, along[:, None] + down, along + right, border="reflect").double()


def smooth_field(draws: Draws, side: int, displacement: float, smoothing: float) -> Tensor:
    """Uniform numbers from -1 to 1, smoothed and scaled, ``(N, side, side)``."""
    field = draws.uniform(side, side, low=-1, high=1)
    return gaussian(field, smoothing, border="reflect", truncate=3) * displacement


def pixelate(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Made smaller and larger again by Pillow's box filter."""
    from PIL import Image

    side = x.shape[-1]
    small = int(side * factor)

    def apply(image: Image.Image) -> Image.Image:
        return image.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)

    return _each_by_pillow(x, apply)


def jpeg_compression(x: Tensor, draws: Draws, quality: float) -> Tensor:
    """Encoded and decoded by Pillow."""
    from PIL import Image

    def apply(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _each_by_pillow(x, apply)


def _each_by_pillow(x: Tensor, apply: Callable[[Image.Image], Image.Image]) -> Tensor:
    from PIL import Image

    levels = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    results = np.empty_like(levels)
    for image, result in zip(levels, results, strict=True):
        pixels = image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image)
        result[...] = np.asarray(apply(Image.fromarray(pixels))).reshape(result.shape)
    return torch.from_numpy(results).to(x.device).permute(0, 3, 1, 2).double() / 255
