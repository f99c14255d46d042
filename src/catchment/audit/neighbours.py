"""The samples most like a suspect one, to judge it beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from catchment.data import Dataset, ImageFiles

# Similarities held at a time, and the side to which pictures without features are shrunk.
_ENTRIES = 1 << 24
_SIDE = 16


def nearest_neighbours(features: Any, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Of each of the ``rows``, the ``count`` other samples of the highest cosine similarity, ``(M, count)``.

    Args:
        features: ``(N, D)``, an array or one on disk; read a few rows at a time.
        rows: ``(M,)`` positions.
        count: fewer where there are fewer other samples.

    >>> nearest_neighbours(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0]), 1).tolist()
    [[1]]
    """
    samples = len(features)
    count = min(count, samples - 1)
    if count < 1 or not len(rows):
        return np.empty((len(rows), max(count, 0)), dtype=np.int64)
    wanted = F.normalize(torch.from_numpy(np.array(features[rows], dtype=np.float32)), dim=1)
    best = torch.full((len(rows), count), -torch.inf)
    index = torch.zeros((len(rows), count), dtype=torch.long)
    step = max(count + 1, _ENTRIES // len(rows))
    own = torch.from_numpy(rows)
    for start in range(0, samples, step):
        part = F.normalize(torch.from_numpy(np.array(features[start : start + step], dtype=np.float32)), dim=1)
        similarity = wanted @ part.T
        here = (own >= start) & (own < start + len(part))
        similarity[here, own[here] - start] = -torch.inf
        values, positions = similarity.topk(min(count, len(part)), dim=1)
        both, both_index = torch.cat([best, values], 1), torch.cat([index, positions + start], 1)
        best, chosen = both.topk(count, dim=1)
        index = both_index.gather(1, chosen)
    return index.numpy()


def plain_features(dataset: Dataset) -> NDArray[np.float32] | None:
    """The inputs themselves as features ``(N, D)``: standardised columns, or small pictures; None of images on disk."""
    if isinstance(dataset.inputs, ImageFiles):
        return None
    inputs = dataset.inputs
    if not dataset.is_image:
        x = inputs.astype(np.float64)
        deviation = x.std(0)
        standardised: NDArray[np.float32] = ((x - x.mean(0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        return standardised
    step = max(1, max(inputs.shape[1:3]) // _SIDE)
    small: NDArray[np.float32] = inputs[:, ::step, ::step].reshape(len(inputs), -1).astype(np.float32)
    small -= small.mean(1, keepdims=True)
    return small
