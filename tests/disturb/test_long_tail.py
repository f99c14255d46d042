import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.disturb import long_tail, step_imbalance, symmetric_noise

BOTH = {"long-tail": long_tail, "step-imbalance": step_imbalance}
both = pytest.mark.parametrize("disturb", BOTH.values(), ids=BOTH.keys())
CIFAR10 = np.repeat(np.arange(10), 5000)
CIFAR100 = np.repeat(np.arange(100), 500)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("labels", "num_classes", "ratio", "total", "tail"),
    [
        (CIFAR10, 10, 10, 20431, 500),
        (CIFAR10, 10, 50, 13996, 100),
        (CIFAR10, 10, 100, 12406, 50),
        (CIFAR100, 100, 10, 19573, 50),
        (CIFAR100, 100, 50, 12608, 10),
        (CIFAR100, 100, 100, 10847, 5),
    ],
)
def test_published_totals(labels, num_classes, ratio, total, tail):
    kept = long_tail(labels, ratio, num_classes, generator())
    counts = np.bincount(kept.labels)
    assert len(kept.labels) == kept.record["samples_after"] == total
    assert (counts[0], counts[-1]) == (len(labels) // num_classes, tail)
    assert counts.tolist() == kept.record["class_counts"]
    assert (np.diff(counts) <= 0).all()
    assert kept.record["imbalance_ratio_realised"] == ratio


def test_published_profile_of_cifar10():
    counts = long_tail(CIFAR10, 100, 10, generator()).record["class_counts"]
    assert counts == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_step_imbalance_of_even_and_odd_numbers_of_classes():
    assert step_imbalance(CIFAR10, 100, 10, generator()).record["class_counts"] == [5000] * 5 + [50] * 5
    odd = step_imbalance(np.repeat(np.arange(5), 30), 10, 5, generator())
    assert odd.record["class_counts"] == [30, 30, 3, 3, 3]


class_sizes = st.lists(st.integers(1, 60), min_size=2, max_size=6)


@both
@settings(deadline=None)
@given(sizes=class_sizes, ratio=st.floats(1, 8), seed=st.integers(0, 2**32 - 1))
def test_what_is_kept_comes_from_the_original_in_order(disturb, sizes, ratio, seed):
    labels = generator(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    original = labels.copy()
    try:
        kept = disturb(labels, ratio, len(sizes), generator(seed))
    except ValueError as error:
        assert "without samples: give" in str(error)  # noqa: PT017  a small class may run out
        return
    counts = np.array(kept.record["class_counts"])
    assert np.array_equal(labels, original)
    assert np.array_equal(kept.labels, labels[kept.index])
    assert (np.diff(kept.index) > 0).all()
    assert np.array_equal(np.bincount(kept.labels, minlength=len(sizes)), counts)
    assert (counts <= sizes).all()
    assert (counts >= 1).all()
    assert (np.diff(counts) <= 0).all()
    assert kept.record["imbalance_ratio_realised"] == counts.max() / counts.min()
    assert not kept.changed.any()
    # No class runs out, and the largest profile that fits leaves nothing of some class but what rounding takes.
    assert (np.array(sizes) - counts).min() <= 0
    assert json.loads(json.dumps(kept.record)) == kept.record


@both
def test_a_ratio_of_one_keeps_all_of_equal_classes(disturb):
    kept = disturb(CIFAR10[::100], 1, 10, generator())
    assert kept.index.tolist() == list(range(500))
    assert kept.record["imbalance_ratio_realised"] == 1.0


@both
@pytest.mark.parametrize("ratio", [3, 7, 49, 98])
def test_the_smallest_class_loses_nothing_to_the_last_digit(disturb, ratio):
    labels = np.repeat(np.arange(4), 98 * 21)
    assert disturb(labels, ratio, 4, generator()).record["class_counts"][-1] == 98 * 21 // ratio


def test_classes_of_unequal_size_keep_the_profile():
    # The third class has 10 and may have a quarter of the head, so that the head gives up 160 of its 200.
    kept = long_tail(np.repeat([0, 1, 2], [200, 100, 10]), 4, 3, generator())
    assert kept.record["class_counts"] == [40, 20, 10]


@both
def test_samples_without_a_class_are_kept(disturb):
    labels = np.concatenate([[-1], np.repeat(np.arange(2), 10), [-100]])
    kept = disturb(labels, 5, 2, generator())
    assert kept.labels[[0, -1]].tolist() == [-1, -100]
    assert kept.index[[0, -1]].tolist() == [0, 21]
    assert kept.record["class_counts"] == [10, 2]
    assert (kept.record["samples_before"], kept.record["samples_after"]) == (22, 14)


@both
def test_the_seed_decides_and_a_higher_ratio_keeps_some_of_what_a_lower_one_keeps(disturb):
    one, same, other = (disturb(CIFAR10, 10, 10, generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.index, same.index)
    assert not np.array_equal(one.index, other.index)
    assert set(disturb(CIFAR10, 50, 10, generator(1)).index.tolist()) < set(one.index.tolist())


def test_which_samples_stay_is_uniform():
    labels = np.repeat(np.arange(2), 20)
    times = sum(np.bincount(long_tail(labels, 4, 2, generator(seed)).index, minlength=40)[20:] for seed in range(800))
    # Each stays 200 times of 800 on average; sd sqrt(800 * 0.25 * 0.75) = 12.2, five of them.
    assert np.abs(times - 200).max() < 62


@pytest.mark.parametrize("kind", BOTH)
def test_the_record(kind):
    record = BOTH[kind](CIFAR10, 20, 10, generator()).record
    assert (record["kind"], record["rate_asked"], record["rate_realised"]) == (kind, None, 0.0)
    assert (record["imbalance_ratio_asked"], record["samples_before"]) == (20.0, 50_000)
    assert record["transition_counts"] == np.diag(record["class_counts"]).tolist()


def test_noise_after_the_tail_is_measured_against_what_is_left():
    tail = long_tail(CIFAR10, 10, 10, generator(0))
    noisy = symmetric_noise(tail.labels, 0.4, 10, generator(1), include_own=True)
    # Own class included: 0.4 * (1 - 1/10); five standard deviations of sqrt(0.36 * 0.64 / 20431) = 0.0034.
    assert noisy.record["rate_realised"] == pytest.approx(0.36, abs=0.0168)
    assert np.array_equal(CIFAR10[tail.index[noisy.index]] != noisy.labels, noisy.changed)
    assert np.sum(noisy.record["transition_counts"], axis=1).tolist() == tail.record["class_counts"]


@both
@pytest.mark.parametrize("ratio", [0.01, 0, -10, float("nan"), float("inf"), True, "100", None])
def test_errors_of_the_ratio(disturb, ratio):
    with pytest.raises(ValueError, match=f"imbalance_ratio is {ratio}: give the largest class over the smallest"):
        disturb(CIFAR10, ratio, 10, generator())


@both
@pytest.mark.parametrize(
    ("labels", "ratio", "num_classes", "rng", "message"),
    [
        ([0] * 10 + [1] * 10, 11, 2, generator(), "is 11, which leaves class 1 without samples: give 10 or less"),
        ([0, 2], 1, 3, generator(), "class 1 has no samples: give labels with every class, or number them anew"),
        ([], 1, 2, generator(), "class 0 has no samples"),
        ([0, 1], 1, 1, generator(), "num_classes is 1: give a whole number, 2 or more"),
        ([0, 2], 1, 2, generator(), "labels hold class 2, but num_classes is 2: give 3 or more"),
        ([0, 1], 1, 2, 0, r"rng is 0: give a numpy\.random\.Generator"),
    ],
)
def test_errors_of_the_rest(disturb, labels, ratio, num_classes, rng, message):
    with pytest.raises(ValueError, match=message):
        disturb(labels, ratio, num_classes, rng)
