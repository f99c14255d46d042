"""Random numbers that depend on an image's key alone: the same in any batch, and on any device."""

from __future__ import annotations

import hashlib
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): word number k of a stream is mix(key + k * STEP) modulo 2^64, as
# which sums and products of int64 wrap around.
_STEP = _signed(0x9E3779B97F4A7C15)
_FACTORS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))

# A standard normal number is read from a table of the quantiles of its magnitude, straight between its points, of which
# each halving of the tail's probability has 256: at most 2e-6 off. Sums and products round alike everywhere, which no
# library's logarithm does. 31 bits choose the magnitude, which thus ends at 6.3.
_POINTS_PER_HALVING = 256
_MANTISSA_BITS = 23
_REST_BITS = _MANTISSA_BITS - 8
_EXPONENT_OF_ONE = 127


def image_keys(seed: int, name: str, severity: int, index: Tensor) -> Tensor:
    """A key for each image, int64 ``(N,)``, from all that its draws depend on."""
    digest = hashlib.sha256(f"{seed} {name} {severity}".encode()).digest()
    return _mix(index * _STEP + int.from_bytes(digest[:8], "little", signed=True))


class Draws:
    """A stream of random numbers for each image, ``(N, ...)`` at a time.

    Args:
        keys: int64 ``(N,)``, one for each image.
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys = keys
        self._used = 0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def device(self) -> torch.device:
        """Where the numbers are drawn."""
        return self._keys.device

    def words(self, *shape: int) -> Tensor:
        """64 random bits each, as int64 ``(N, *shape)``."""
        count = math.prod(shape)
        number = torch.arange(self._used + 1, self._used + count + 1, device=self._keys.device)
        self._used += count
        return _mix(self._keys[:, None] + number * _STEP).view(-1, *shape)

    def uniform(self, *shape: int, low: float = 0, high: float = 1) -> Tensor:
        """Uniform from ``low`` to below ``high``, float64 of 53 bits."""
        unit = _shifted(self.words(*shape), 11).double().mul_(2**-53)
        return unit if (low, high) == (0, 1) else unit.mul_(high - low).add_(low)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from ``low`` to ``high`` - 1, int64."""
        return self.uniform(*shape).mul_(high - low).long().add_(low)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32."""
        count = math.prod(shape)
        words = self.words((count + 1) // 2)
        halves = torch.cat((words & 0xFFFFFFFF, _shifted(words, 32)), dim=1)[:, :count]
        # An odd number up to 2^32 over 2^33 is the tail's probability; its exponent and first bits are the place in the
        # table, the other bits the way to the next place.
        bits = ((halves & 0x7FFFFFFF) * 2 + 1).float().view(torch.int32)
        place = (bits >> _REST_BITS) - (_EXPONENT_OF_ONE << 8)
        rest = (bits & ((1 << _REST_BITS) - 1)).float().mul_(2**-_REST_BITS)
        quantile, to_next = (table.to(words.device) for table in _quantiles())
        magnitude = to_next[place].mul_(rest).add_(quantile[place])
        return torch.where(halves > 0x7FFFFFFF, -magnitude, magnitude).view(-1, *shape)


@cache
def _quantiles() -> tuple[Tensor, Tensor]:
    """Of the magnitude: at each place of the table, and what is to be added up to the next."""
    from scipy.special import ndtri

    place = np.arange(32 * _POINTS_PER_HALVING + 2)
    halving, within = np.divmod(place, _POINTS_PER_HALVING)
    tail = 2.0 ** (halving - 33) * (1 + within / _POINTS_PER_HALVING)
    quantile = -ndtri(np.minimum(tail, 0.5))
    return torch.from_numpy(quantile).float(), torch.from_numpy(np.diff(quantile, append=0)).float()


def _mix(words: Tensor) -> Tensor:
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        words = (words ^ _shifted(words, shift)) * factor
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, by: int) -> Tensor:
    """To the right, filled with zeros, as for numbers without sign."""
    return (words >> by) & ((1 << (64 - by)) - 1)
