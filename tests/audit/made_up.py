"""Made-up probabilities and labels, of which everything is known."""

import numpy as np

from catchment.audit import Evidence, confident_learning
from catchment.audit.suspects import list_suspects, one_score
from catchment.data import Dataset


def noisy(samples=2000, num_classes=5, rate=0.2, *, seed=0, sharpness=3.0):
    """Probabilities ``(N, C)`` around the true classes, given labels and true ones."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, samples)
    given = np.where(rng.random(samples) < rate, (true + rng.integers(1, num_classes, samples)) % num_classes, true)
    logits = rng.normal(size=(samples, num_classes))
    logits[np.arange(samples), true] += sharpness
    p = np.exp(logits)
    return (p / p.sum(1, keepdims=True)).astype(np.float32), given, true


def table(samples=60, *, rate=0.2, names=("cat", "dog", "eel"), seed=0):
    """A table whose classes are apart, with wrong labels, and probabilities that know the true ones."""
    p, given, true = noisy(samples, len(names), rate, seed=seed)
    rng = np.random.default_rng(seed)
    inputs = (rng.normal(0, 0.3, (samples, 3)) + 4 * np.eye(3)[true % 3]).astype(np.float32)
    dataset = Dataset("made-up", inputs, given, names, clean_labels=true, feature_names=("length", "mass", "age"))
    return dataset, p


def suspects_of(dataset, p, count=20, score="self-confidence"):
    """The suspects of these probabilities."""
    evidence = Evidence("made up", p)
    found = confident_learning(p, dataset.labels)
    return list_suspects(dataset, evidence, found, one_score(score, evidence, dataset.labels, found), count)
