"""Label noise that depends on the image, with a record of what was really done."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catchment.disturb.disturbed import Disturbed, Labels, check_labels, check_rate, check_rng, disturbed

# How far apart the noise rates of single images are, and how many are multiplied at a time: 2048 CIFAR images are
# 25 MB as float32, and the product is large enough to keep two cores busy.
RATE_DEVIATION = 0.1
_ROWS_AT_A_TIME = 2048


def instance_noise(
    images: ArrayLike, labels: ArrayLike, rate: float, num_classes: int, rng: np.random.Generator
) -> Disturbed:
    r"""Move labels with a probability and to a class that depend on the image.

    Each image :math:`x_i` (pixels from 0 to 1, not normalised) has a rate of its own, and a random linear map of its
    class says what it is mistaken for:

    .. math::
        q_i \sim \mathcal N(\eta, 0.1^2) \text{ on } [0, 1], \qquad
        W_c \in \mathbb R^{d \times C},\ W_{c,jk} \sim \mathcal N(0, 1)

    .. math::
        a_i = x_i W_{y_i},\quad a_{i, y_i} = -\infty, \qquad
        P(\tilde y_i = c) = q_i \, \mathrm{softmax}(a_i)_c + (1 - q_i) [c = y_i]

    The mean of :math:`q_i` is :math:`\eta` within 0.002 for rates from 0.25 to 0.75, and drawn inwards near the ends:
    0.129 at 0.1, 0.92 at 1. A rate of 0 leaves all labels as they are. With the same generator a higher rate changes
    what a lower one changes, and more.

    Args:
        images: ``(N, ...)``, uint8, or floating-point from 0 to 1.
        labels: integers ``(N,)`` below ``num_classes``; -1 and -100 stay and are not counted.
        rate: :math:`\eta`, from 0 to 1.
        num_classes: C, at least 2.
        rng: where the draws come from: N uniforms for the rates, N for the labels, then W, a class at a time.

    Returns:
        The noisy labels and their record.

    Raises:
        ValueError: for images that are neither uint8 nor floating-point from 0 to 1, or not one per label; for labels
            that are not 1-D integers or out of range, a rate out of range, fewer than two classes, no generator.

    Paper: Part-dependent Label Noise: Towards Instance-dependent Label Noise (NeurIPS 2020).

    >>> rng = np.random.default_rng(0)
    >>> images = rng.random((1000, 8, 8))
    >>> noisy = instance_noise(images, np.arange(1000) % 10, 0.5, 10, rng)
    >>> 0.4 < noisy.record["rate_realised"] < 0.6
    True
    """
    before, num_classes = check_labels(labels, num_classes, at_least=2)
    array = _check_images(images, len(before))
    pixels_per_image = math.prod(array.shape[1:])
    rate = check_rate(rate)
    check_rng(rng)
    flip_rate = _truncated_normal(rng.random(len(before)), rate, RATE_DEVIATION)
    uniform = rng.random(len(before))
    after = before.copy()
    largest_pixel = 255 if array.dtype == np.uint8 else 1
    for c in range(num_classes) if rate > 0 else ():
        # Also for a class that no sample has, so that W does not depend on which classes there are.
        weight = rng.standard_normal((pixels_per_image, num_classes), dtype=np.float32)
        members = np.flatnonzero(before == c)
        for start in range(0, len(members), _ROWS_AT_A_TIME):
            rows = members[start : start + _ROWS_AT_A_TIME]
            pixels = array[rows].reshape(len(rows), pixels_per_image).astype(np.float32, copy=False)
            score = (pixels @ weight).astype(np.float64)
            # The few products rather than the many pixels.
            score /= largest_pixel
            after[rows] = _draw_labels(score, c, flip_rate[rows], uniform[rows])
    return disturbed(before, after, num_classes, kind="instance", rate_asked=rate)


def _check_images(images: ArrayLike, samples: int) -> NDArray[np.generic]:
    """The images as an array: one for each label, in the numbers they should be in."""
    array = np.asarray(images)
    if array.ndim < 2 or len(array) != samples:
        raise ValueError(f"images have shape {array.shape}: give one image for each of the {samples} labels")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"images are of type {array.dtype}: give uint8, or floating-point numbers from 0 to 1")
    # min and max of an array with NaN are NaN, which is in no range.
    if array.dtype.kind == "f" and array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"images hold values from {array.min()} to {array.max()}: give pixels from 0 to 1, neither normalised nor "
            "NaN, or uint8"
        )
    return array


def _truncated_normal(uniform: NDArray[np.float64], mean: float, deviation: float) -> NDArray[np.float64]:
    """A normal variable restricted to [0, 1], by its inverse distribution function: increasing in ``mean`` too."""
    # Imported here, as scipy.special would add a good part of a second to `import catchment`.
    from scipy.special import ndtr, ndtri

    low, high = ndtr((0 - mean) / deviation), ndtr((1 - mean) / deviation)
    drawn: NDArray[np.float64] = mean + deviation * ndtri(low + uniform * (high - low))
    # Rounding may leave the interval by a last digit.
    return drawn.clip(0, 1)


def _draw_labels(
    score: NDArray[np.float64], own: int, flip_rate: NDArray[np.float64], uniform: NDArray[np.float64]
) -> Labels:
    """One label per row for samples of one class, from one uniform each; ``score`` is overwritten."""
    score[:, own] = -np.inf
    score -= score.max(axis=1, keepdims=True)
    probability = np.exp(score, out=score)
    probability *= (flip_rate / probability.sum(axis=1))[:, None]
    probability[:, own] = 1 - flip_rate
    cumulative = probability.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]
    # The first class whose cumulative probability exceeds the uniform; classes of probability 0 never are.
    drawn: Labels = np.count_nonzero(cumulative <= uniform[:, None], axis=1).astype(np.int64)
    return drawn
