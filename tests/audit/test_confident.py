"""Confident learning: by the definition, against cleanlab, its estimate and its interval, and its memory."""

import subprocess
import sys

import numpy as np
import pytest
from audit.made_up import noisy
from cleanlab.filter import find_label_issues

from catchment.audit import MappedArray, confident_learning, confident_margin, scores, self_confidence


def by_definition(p, labels):
    """Equation 1 of the paper, sample by sample: thresholds, confident joint, off the diagonal."""
    num_classes = p.shape[1]
    thresholds = np.array([p[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(num_classes)])
    counts, off = np.zeros((num_classes, num_classes), dtype=int), []
    for row, label in zip(p, labels, strict=True):
        above = [c for c in range(num_classes) if row[c] >= thresholds[c] - 1e-6]
        confident = None
        if label >= 0 and above:
            most = max(row[c] for c in above)
            confident = label if label in above and row[label] == most else next(c for c in above if row[c] == most)
            counts[label, confident] += 1
        off.append(confident is not None and confident != label)
    return thresholds, counts, np.array(off)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("imbalanced", [False, True])
def test_as_defined(sharpness, imbalanced):
    p, labels, _ = noisy(800, 6, 0.3, sharpness=sharpness)
    if imbalanced:
        kept = (labels != 2) | (np.arange(800) % 20 == 0)
        p, labels = p[kept], labels[kept]
        labels[::17] = -1
        labels[labels == 5] = 4
    thresholds, counts, off = by_definition(p.astype(np.float64), labels)
    found = confident_learning(p, labels)
    assert found.thresholds == pytest.approx(thresholds)
    assert found.counts.tolist() == counts.tolist()
    assert found.is_off_diagonal.tolist() == off.tolist()
    assert np.array_equal(found.self_confidence, self_confidence(p, labels), equal_nan=True)
    assert off.sum() > 20


@pytest.mark.parametrize(("num_classes", "sharpness"), [(4, 2.0), (20, 3.0), (50, 4.0)])
def test_the_same_samples_as_cleanlab(num_classes, sharpness):
    p, labels, _ = noisy(4000, num_classes, 0.25, sharpness=sharpness)
    theirs = find_label_issues(labels, p, filter_by="confident_learning", n_jobs=1)
    ours = confident_learning(p, labels).is_off_diagonal
    # cleanlab leaves those out whose given label is the most probable one, which the paper does not
    assert (ours & (p.argmax(1) != labels)).tolist() == theirs.tolist()
    assert theirs.sum() > 100


def test_a_class_of_equal_probabilities_reaches_its_own_mean():
    p = np.tile(np.array([[0.7, 0.3]], dtype=np.float32), (1001, 1))
    found = confident_learning(p, np.zeros(1001, dtype=np.int64))
    assert found.counts.tolist() == [[1001, 0], [0, 0]]


def test_the_joint_has_the_labels_shares_as_rows():
    p, labels, true = noisy(5000, 4, 0.2)
    found = confident_learning(p, labels)
    assert found.joint.sum(1) == pytest.approx(np.bincount(labels, minlength=4) / 5000)
    actual = np.histogram2d(labels, true, bins=4)[0] / 5000
    assert found.joint == pytest.approx(actual, abs=0.01)


def test_the_estimate_and_how_often_its_interval_holds():
    """Where the classifier is right when it is sure, the interval holds the realised number as often as it says."""
    held = 0
    for seed in range(100):
        p, labels, true = noisy(1000, 4, 0.2, seed=seed, sharpness=6.0)
        estimate = confident_learning(p, labels).wrong_labels()
        assert estimate.low <= estimate.count <= estimate.high
        assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * np.sqrt(1000 * 0.2 * 0.8), rel=0.35)
        held += estimate.low <= (labels != true).sum() <= estimate.high
    assert held >= 95


def test_no_wrong_label_is_believed_where_there_is_none():
    p = np.full((600, 3), 0.01)
    labels = np.arange(600) % 3
    p[np.arange(600), labels] = 0.98
    estimate = confident_learning(p, labels).wrong_labels()
    assert (estimate.low, estimate.count) == (0, 0)
    assert 0 < estimate.high < 10
    nothing = confident_learning(p, np.full(600, -1)).wrong_labels()
    assert (nothing.low, nothing.count, nothing.high) == (0, 0, 0)


def test_margin_less_thresholds():
    p = np.array([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
    labels = np.array([0, 0, 1, 1])
    thresholds = confident_learning(p, labels).thresholds
    assert thresholds == pytest.approx([0.7, 0.625])
    margins = [(0.4 - 0.625) - (0.6 - 0.7), (0.2 - 0.625) - (0.8 - 0.7), (0.3 - 0.7) - (0.7 - 0.625), -0.25 + 0.075]
    assert confident_margin(p, labels, thresholds) == pytest.approx(0.5 + np.array(margins) / 4)


def test_a_class_without_samples_is_nobodys_other_class():
    p = np.array([[0.5, 0.1, 0.4], [0.4, 0.5, 0.1]])
    found = confident_learning(p, np.array([0, 1]))
    assert found.thresholds.tolist() == [0.5, 0.5, np.inf]
    assert (confident_margin(p, np.array([0, 1]), found.thresholds) < 0.5).all()


def test_many_labels_are_a_problem_of_two_for_each_class():
    rng = np.random.default_rng(0)
    true = rng.random((3000, 3)) < [0.5, 0.2, 0.05]
    given = true ^ (rng.random((3000, 3)) < [0.1, 0.05, 0.0])
    p = np.clip(true * 0.9 + 0.05 + rng.normal(0, 0.02, (3000, 3)), 0, 1)
    found = confident_learning(p, given.astype(np.uint8))
    assert found.is_off_diagonal.shape == (3000, 3)
    assert found.self_confidence == pytest.approx(np.abs(p - given), abs=1e-6)
    for c in range(3):
        both = np.stack([1 - p[:, c], p[:, c]], 1)
        alone = confident_learning(both, given[:, c].astype(np.int64))
        assert found.thresholds[c] == pytest.approx(alone.thresholds)
        assert found.counts[c].tolist() == alone.counts.tolist()
        assert found.is_off_diagonal[:, c].tolist() == alone.is_off_diagonal.tolist()
        margin = confident_margin(p, given.astype(np.uint8), found.thresholds)[:, c]
        assert margin == pytest.approx(confident_margin(both, given[:, c].astype(np.int64), alone.thresholds), abs=1e-6)
    assert found.joint.sum((1, 2)) == pytest.approx([1, 1, 1])
    estimate = found.wrong_labels()
    assert estimate.low <= (given != true).sum() <= estimate.high


def test_chunks_of_any_length_give_the_same(monkeypatch):
    p, labels, _ = noisy(503, 7, 0.3, sharpness=1.0)
    whole = confident_learning(p, labels)
    monkeypatch.setattr(scores, "_ENTRIES", 7 * 50)
    parts = confident_learning(p, labels)
    assert parts.is_off_diagonal.tolist() == whole.is_off_diagonal.tolist()
    assert parts.counts.tolist() == whole.counts.tolist()


_STREAM = """
import sys
import numpy as np
from pathlib import Path
from catchment.audit import confident_learning, confident_margin, read_array, self_confidence

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

p = read_array(Path(sys.argv[1]))
labels = np.arange(len(p)) % p.shape[1]
before = peak()
found = confident_learning(p, labels)
confident_margin(p, labels, found.thresholds)
self_confidence(p, labels)
print(peak() - before)
"""


def test_streams_from_disk_in_little_memory(tmp_path):
    """A file of 160 MB takes no 80 MB of memory, pages of the file that are mapped included."""
    path = tmp_path / "p.npy"
    p = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(200_000, 200))
    p[:] = 1 / 200
    p.flush()
    del p
    done = subprocess.run([sys.executable, "-c", _STREAM, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 80


def test_the_same_from_disk_as_from_memory(tmp_path):
    p, labels, _ = noisy(500, 6)
    np.save(tmp_path / "p.npy", p)
    mapped = MappedArray(tmp_path / "p.npy", 128, p.shape, p.dtype)
    for array in (mapped, np.load(tmp_path / "p.npy", mmap_mode="r")):
        assert confident_learning(array, labels).counts.tolist() == confident_learning(p, labels).counts.tolist()
