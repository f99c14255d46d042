"""Features drawn in the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

Features: TypeAlias = "ArrayLike | Tensor"

__all__ = ["FeatureMap", "chosen_rows", "tsne"]

_FEWEST = 4


class FeatureMap(NamedTuple):
    """Coordinates ``(n, 2)`` of the samples ``rows`` ``(n,)``, and the perplexity taken."""

    rows: NDArray[np.int64]
    coordinates: NDArray[np.float32]
    perplexity: float


def chosen_rows(samples: int, max_samples: int, seed: int) -> NDArray[np.int64]:
    """The rows, rising, that ``tsne`` maps of so many samples.

    >>> chosen_rows(3, 5, seed=0).tolist(), len(chosen_rows(100, 5, seed=0))
    ([0, 1, 2], 5)
    """
    if samples <= max_samples:
        return np.arange(samples)
    return np.sort(np.random.default_rng(seed).permutation(samples)[:max_samples])


def tsne(features: Features, *, max_samples: int = 2000, perplexity: float = 30.0, seed: int = 0) -> FeatureMap:
    """The t-SNE map of features, by scikit-learn, started from their two principal components.

    Neighbours in the map are mostly neighbours among the features; distances between groups, and their sizes, mean
    nothing. The same features and seed give the same map.

    Args:
        features: ``(N, D)``, N at least 4 and D at least 2.
        max_samples: of more than so many, a random choice is mapped.
        perplexity: how many neighbours count, about; at most a third of the samples.
        seed: of the choice and of t-SNE.

    Returns:
        Which samples, in rising order, where they lie, and the perplexity.

    Raises:
        ValueError: the features have another shape, are not finite, or are too few; an argument is out of range.

    Paper: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.

    >>> two_groups = np.random.default_rng(0).normal(size=(40, 5)) + np.repeat([[0], [9]], 20, axis=0)
    >>> found = tsne(two_groups, max_samples=30)
    >>> found.coordinates.shape, found.rows[:5].tolist()
    ((30, 2), [0, 1, 2, 3, 4])
    """
    from sklearn.manifold import TSNE

    values = np.asarray(features.detach().cpu() if hasattr(features, "detach") else features, dtype=np.float32)
    if values.ndim != 2 or len(values) < _FEWEST or values.shape[1] < 2:
        raise ValueError(f"features have shape {values.shape}: give (N, D), at least {_FEWEST} samples of 2 numbers")
    if max_samples < _FEWEST:
        raise ValueError(f"max_samples is {max_samples}: give at least {_FEWEST}")
    if not perplexity > 0:
        raise ValueError(f"perplexity is {perplexity}: give a number above 0")
    if not np.isfinite(values).all():
        raise ValueError("features hold NaN or infinities: find out where they come from, or leave these samples out")
    rows = chosen_rows(len(values), max_samples, seed)
    perplexity = min(perplexity, (len(rows) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(values[rows])
    return FeatureMap(rows, found, perplexity)
