"""t-SNE of features."""

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from catchment.embedding import tsne
from catchment.report.summaries import neighbours_agree


def clusters(samples=150, dimensions=16, kinds=3, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(samples) % kinds
    centres = 6 * rng.normal(size=(kinds, dimensions))
    return (centres[label] + rng.normal(size=(samples, dimensions))).astype(np.float32), label


def test_groups_stay_apart_and_neighbours_stay_neighbours():
    features, label = clusters()
    found = tsne(features)
    assert found.coordinates.shape == (150, 2)
    assert found.rows.tolist() == list(range(150))
    assert found.perplexity == 30
    assert neighbours_agree(found.coordinates, label) == 1.0
    assert trustworthiness(features, found.coordinates, n_neighbors=10) > 0.9
    shuffled = np.random.default_rng(0).permutation(label)
    assert neighbours_agree(found.coordinates, shuffled) < 0.5


def test_the_same_seed_gives_the_same_map_of_the_same_samples():
    features, label = clusters()
    first, again = tsne(features, max_samples=60, seed=4), tsne(torch.from_numpy(features), max_samples=60, seed=4)
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert len(first.rows) == 60
    assert (np.diff(first.rows) > 0).all()
    assert first.perplexity == pytest.approx(59 / 3)  # a third of the samples
    assert neighbours_agree(first.coordinates, label[first.rows]) == 1.0
    assert tsne(features, max_samples=60, seed=5).rows.tolist() != first.rows.tolist()


def test_four_samples_are_enough():
    found = tsne(np.eye(4))
    assert np.isfinite(found.coordinates).all()
    assert found.perplexity == 1


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (np.zeros((3, 5)), {}, r"features have shape \(3, 5\): give \(N, D\), at least 4 samples of 2 numbers"),
        (np.zeros((9, 1)), {}, r"features have shape \(9, 1\)"),
        (np.zeros(9), {}, r"features have shape \(9,\)"),
        (np.full((9, 2), np.nan), {}, "features hold NaN or infinities"),
        (np.eye(9), {"max_samples": 3}, "max_samples is 3: give at least 4"),
        (np.eye(9), {"perplexity": 0.0}, "perplexity is 0.0: give a number above 0"),
    ],
)
def test_what_cannot_be_mapped_is_one_line(features, options, message):
    with pytest.raises(ValueError, match=message):
        tsne(features, **options)
