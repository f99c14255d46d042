"""The common corruptions of CIFAR-10-C, CIFAR-100-C, Tiny-ImageNet-C and ImageNet-C, made anew from their constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from catchment.disturb.corruptions import blur, digital, noise, spatter, weather
from catchment.disturb.corruptions.constants import (
    BENCHMARK_CORRUPTIONS,
    CONSTANTS,
    CORRUPTIONS,
    DETERMINISTIC,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    SIDES,
)
from catchment.disturb.corruptions.draws import Draws, image_keys
from catchment.nearest import did_you_mean

__all__ = [
    "BENCHMARK_CORRUPTIONS",
    "CONSTANTS",
    "CORRUPTIONS",
    "DETERMINISTIC",
    "EXTRA_CORRUPTIONS",
    "SEVERITIES",
    "SIDES",
    "corrupt",
    "size_of",
]

_CORRUPT: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "spatter": spatter.spatter,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "saturate": digital.saturate,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
# Over how many pixels a corruption reaches, given its constants.
_REACH: dict[str, Callable[..., int]] = {
    "defocus_blur": lambda radius, sigma: 2 * int(radius) + 3,
    "glass_blur": lambda sigma, largest_step, iterations: 2 * largest_step + 1,
    "motion_blur": lambda radius, sigma: 2 * math.ceil(radius) + 1,
    "snow": lambda mean, deviation, zoom, threshold, radius, sigma, weight: 2 * math.ceil(radius) + 1,
    "zoom_blur": lambda *factors: 2 * math.ceil(max(factors)),
    "elastic_transform": lambda displacement, smoothing, jitter: 3 * (int(jitter) + 1),
    "pixelate": lambda factor: math.ceil(1 / factor),
    "fog": lambda *constants: 2,
    "spatter": lambda *constants: 5,
}


def _reach(name: str, constants: tuple[float, ...]) -> int:
    return _REACH[name](*constants) if name in _REACH else 1


# Values that are worked on at a time. On a CPU as many as PyTorch works on in one thread: threads with blocks of their
# own need not wait for one another, as those that share each short operation must, which is slow on a busy machine.
_VALUES_AT_A_TIME = {"cpu": (1 << 15) - 1, "cuda": 1 << 25}


def corrupt(
    images: ArrayLike,
    name: str,
    severity: int = 3,
    size: str = "cifar",
    seed: int = 0,
    *,
    index: ArrayLike | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.uint8]:
    """Corrupt images as in CIFAR-10-C, Tiny-ImageNet-C or ImageNet-C; see docs/corruptions.md for what each does.

    An image's random numbers depend on ``seed``, ``name``, ``severity`` and its ``index`` alone, so its bytes depend
    neither on the batch that it is in nor on the thread count. On another device or with other library versions, what
    draws nothing is at most 1 level away, JPEG's codec excepted.

    Args:
        images: squares, uint8 ``(N, H, H, 3)``, or ``(N, H, H, 1)`` for grey ones: these have one channel of noise,
            drops and frost in the luma (0.299 R + 0.587 G + 0.114 B) of their colours, and nothing to saturate.
            Floating-point images from 0 to 1 are rounded to 255ths first.
        name: of ``CORRUPTIONS``.
        severity: 1 to 5.
        size: whose constants: "cifar" (made for 32 pixels), "tiny-imagenet" (64) or "imagenet" (224). Images may have
            any side; lengths are in pixels, so constants for another side mean something else.
        seed: a whole number.
        index: integers ``(N,)``, which image each is; default: its row.
        device: where to compute: "cpu", on as many threads as PyTorch has, or "cuda".

    Returns:
        uint8 of the same shape, rounded down, as the published ones.

    Raises:
        ValueError: for images of another shape or type, floating-point ones outside 0..1, images smaller than the
            corruption reaches, an unknown name, severity, size or device, a seed or index that isn't whole numbers.

    Paper: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019).

    >>> images = np.full((2, 32, 32, 3), 128, dtype=np.uint8)
    >>> corrupt(images, "brightness", 1)[0, 0, 0]
    array([140, 140, 140], dtype=uint8)
    """
    array = _check_images(images)
    constants = _constants(name, severity, size)
    if not isinstance(seed, int | np.integer):
        raise ValueError(f"seed is {seed!r}: give a whole number")
    rows = np.arange(len(array)) if index is None else np.asarray(index)
    if rows.shape != (len(array),) or rows.dtype.kind not in "iu":
        raise ValueError(f"index is {rows.dtype} {rows.shape}: give one whole number for each of {len(array)} images")
    side = array.shape[1]
    reach = _reach(name, constants)
    if side < reach:
        raise ValueError(
            f"{name} of severity {severity} with the constants of {size} reaches over {reach} pixels, but the images "
            f"have {side}: resize them, or take another severity or corruption"
        )
    function = _CORRUPT[name]
    if name == "fog":
        function = partial(function, map_side=1 << (SIDES[size] - 1).bit_length())

    where = _device(device)
    levels = torch.arange(256, dtype=torch.float64).div_(255).to(where)
    result = np.empty_like(array)

    def corrupt_block(part: slice) -> None:
        given = torch.from_numpy(np.array(array[part])).to(where).permute(0, 3, 1, 2).contiguous()
        keys = image_keys(int(seed), name, int(severity), torch.from_numpy(rows[part].astype(np.int64)).to(where))
        corrupted = function(levels[given.int()], Draws(keys), *constants)
        whole = corrupted.clamp_(0, 1).mul_(255).byte()
        result[part] = whole.permute(0, 2, 3, 1).cpu().numpy()

    values, at_a_time = math.prod(array.shape[1:]), _VALUES_AT_A_TIME[where.type]
    block = max(1, at_a_time // values)
    parts = [slice(start, start + block) for start in range(0, len(array), block)]
    threads = torch.get_num_threads() if where.type == "cpu" and values <= at_a_time else 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(corrupt_block, parts))
    return result


def size_of(side: int) -> str:
    """Whose constants were made for images of that side, as ``corrupt`` takes them.

    Raises:
        ValueError: nobody's.
    """
    for size, made_for in SIDES.items():
        if side == made_for:
            return size
    made = ", ".join(f"{size} ({made_for})" for size, made_for in SIDES.items())
    raise ValueError(f"no constants are made for images of {side} pixels: say whose to take, of {made}")


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ValueError(f"there is no device {device!r}: choose cpu, cuda, cuda:1, ..") from None
    if where.type not in _VALUES_AT_A_TIME:
        raise ValueError(f"corruptions are not made on {where}: choose cpu, cuda, cuda:1, ..")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no CUDA device: take device cpu")
    return where


def _check_images(images: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1] != array.shape[2] or array.shape[3] not in (1, 3):
        raise ValueError(
            f"images have shape {array.shape}: give (N, H, H, 3), or (N, H, H, 1) for grey ones; "
            "cut or resize them to squares"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"images are of type {array.dtype}: give uint8, or floating-point numbers from 0 to 1")
    # min and max of an array with NaN are NaN, which is in no range.
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"images hold values from {array.min()} to {array.max()}: give pixels from 0 to 1, neither normalised nor "
            "NaN, or uint8"
        )
    levels: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
    return levels


def _constants(name: str, severity: int, size: str) -> tuple[float, ...]:
    if size not in CONSTANTS:
        raise ValueError(f"size is {size!r}: {did_you_mean(size, tuple(CONSTANTS), 'choose one of')}")
    if name not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {name!r}: {did_you_mean(name, CORRUPTIONS, 'choose one of')}")
    if not isinstance(severity, int | np.integer) or severity not in range(1, SEVERITIES + 1):
        raise ValueError(f"severity is {severity!r}: give a whole number from 1 to {SEVERITIES}")
    return CONSTANTS[size][name][severity - 1]
