import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.disturb import MAPPINGS, asymmetric_noise, pair_flip_noise, relabel_classes, symmetric_noise

TEN = np.repeat(np.arange(10), 100)

EVERY_KIND = {
    "symmetric": lambda labels, rng: symmetric_noise(labels, 0.4, 10, rng),
    "symmetric with own": lambda labels, rng: symmetric_noise(labels, 0.4, 10, rng, include_own=True),
    "asymmetric": lambda labels, rng: asymmetric_noise(labels, 0.4, "mnist", rng, num_classes=10),
    "pair-flip": lambda labels, rng: pair_flip_noise(labels, 0.4, 10, rng),
    "relabel": lambda labels, rng: relabel_classes(labels, [7, 8, 9], range(7), rng, num_classes=10),
}
RATED = [kind for kind in EVERY_KIND if kind != "relabel"]

every_kind = pytest.mark.parametrize("disturb", EVERY_KIND.values(), ids=EVERY_KIND.keys())
rates = st.floats(0, 1)
label_lists = st.lists(st.sampled_from([-100, -1, 0, 1, 2, 3, 4]), max_size=60).map(lambda rows: np.array(rows, int))
seeds = st.integers(0, 2**32 - 1)


def generator(seed=0):
    return np.random.default_rng(seed)


def chi_square(counts):
    expected = np.mean(counts)
    return float(np.sum((np.asarray(counts) - expected) ** 2) / expected)


@settings(deadline=None)
@given(label_lists, rates, seeds)
def test_symmetric_moves_an_exact_number_to_other_classes(labels, rate, seed):
    noisy = symmetric_noise(labels, rate, 5, generator(seed))
    counted = int((labels >= 0).sum())
    assert noisy.changed.sum() == round(rate * counted)
    assert noisy.record["rate_realised"] == (round(rate * counted) / counted if counted else 0.0)
    assert np.array_equal(noisy.changed, noisy.labels != labels)
    assert np.array_equal(noisy.labels[labels < 0], labels[labels < 0])
    assert set(noisy.labels[labels >= 0]) <= set(range(5))


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.57, 0.69, 0.8])
def test_symmetric_loses_nothing_to_rounding_per_class(rate):
    labels = np.repeat(np.arange(100), 500)
    assert symmetric_noise(labels, rate, 100, generator()).record["rate_realised"] == rate


def test_symmetric_targets_are_uniform_over_the_other_classes():
    labels = np.repeat(np.arange(5), 4000)
    records = [symmetric_noise(labels, 1.0, 5, generator(seed)).record for seed in range(20)]
    counts = np.sum([record["transition_counts"] for record in records], axis=0)
    assert (np.diag(counts) == 0).all()
    # 37.70 is the 99.9 % point of chi-square with 15 degrees of freedom: three for each of five rows.
    assert sum(chi_square(np.delete(counts[row], row)) for row in range(5)) < 37.70


def test_symmetric_sources_are_uniform():
    moved = symmetric_noise(TEN, 0.5, 10, generator(2)).changed
    # 27.88 is the 99.9 % point of chi-square with 9 degrees of freedom.
    assert chi_square(moved.reshape(10, 100).sum(1)) < 27.88


def test_symmetric_with_own_realises_the_rate_times_the_share_of_others():
    labels = np.arange(200_000) % 4
    noisy = symmetric_noise(labels, 0.4, 4, generator(3), include_own=True)
    # Five standard deviations: sqrt(0.3 * 0.7 / 200000) = 0.00102.
    assert noisy.record["rate_realised"] == pytest.approx(0.4 * 3 / 4, abs=0.0051)
    everything = symmetric_noise(labels, 1.0, 4, generator(3), include_own=True)
    counts = np.array(everything.record["transition_counts"])
    # 37.70 is the 99.9 % point of chi-square with 15 degrees of freedom.
    assert chi_square(counts) < 37.70


@settings(deadline=None)
@given(label_lists, rates, seeds)
def test_asymmetric_moves_an_exact_number_of_each_mapped_class(labels, rate, seed):
    mapping = {0: 1, 1: 0, 3: 4}
    noisy = asymmetric_noise(labels, rate, mapping, generator(seed), num_classes=5)
    in_class = [int((labels == c).sum()) for c in range(5)]
    expected = np.diag(in_class)
    for source, target in mapping.items():
        expected[source, source] -= round(rate * in_class[source])
        expected[source, target] += round(rate * in_class[source])
    assert noisy.record["transition_counts"] == expected.tolist()
    mapped = in_class[0] + in_class[1] + in_class[3]
    assert noisy.record["rate_realised_of_mapped"] == (noisy.changed.sum() / mapped if mapped else 0.0)


def test_asymmetric_at_rate_one_swaps_without_flipping_back():
    noisy = asymmetric_noise([0, 1, 0, 1, 2], 1.0, {0: 1, 1: 0}, generator())
    assert noisy.labels.tolist() == [1, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("mnist", [(7, 1), (2, 7), (5, 6), (6, 5), (3, 8)]),
        # airplane automobile bird cat deer dog frog horse ship truck
        ("cifar10", [(9, 1), (2, 0), (3, 5), (5, 3), (4, 7)]),
    ],
)
def test_published_mappings(name, pairs):
    assert sorted(MAPPINGS[name].items()) == sorted(pairs)
    noisy = asymmetric_noise(TEN, 0.45, name, generator())
    counts = np.array(noisy.record["transition_counts"])
    moved = {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts) if a != b}
    assert moved == dict.fromkeys(pairs, 45)
    assert noisy.record["rate_realised"] == 0.225
    assert noisy.record["rate_realised_of_mapped"] == 0.45
    assert noisy.record["mapping"] == {str(source): target for source, target in pairs}


def test_asymmetric_draws_do_not_depend_on_the_order_of_the_mapping():
    one = asymmetric_noise(TEN, 0.3, {1: 2, 5: 6}, generator())
    other = asymmetric_noise(TEN, 0.3, {5: 6, 1: 2}, generator())
    assert np.array_equal(one.labels, other.labels)


def test_samples_that_move_are_drawn_uniformly_within_a_class():
    labels = np.zeros(20, int)
    times = sum(
        asymmetric_noise(labels, 0.25, {0: 1}, generator(s), num_classes=2).changed.astype(int) for s in range(800)
    )
    # Each is drawn 200 times of 800 on average; sd sqrt(800 * 0.25 * 0.75) = 12.2, five of them.
    assert np.abs(times - 200).max() < 62


@settings(deadline=None)
@given(label_lists, rates, seeds)
def test_pair_flip_moves_an_exact_number_to_the_next_class(labels, rate, seed):
    noisy = pair_flip_noise(labels, rate, 5, generator(seed))
    counts = np.array(noisy.record["transition_counts"])
    for c in range(5):
        moved = round(rate * int((labels == c).sum()))
        assert counts[c, (c + 1) % 5] == moved
        assert counts[c].sum() - counts[c, c] == moved


def test_pair_flip_of_two_classes_swaps():
    assert pair_flip_noise([0, 1, 1], 1, 2, generator()).labels.tolist() == [1, 0, 0]


def test_relabel_moves_every_sample_uniformly():
    labels = np.repeat(np.arange(10), 7000)
    noisy = relabel_classes(labels, [7, 8, 9], range(7), generator(4))
    assert np.array_equal(noisy.changed, labels >= 7)
    counts = np.array(noisy.record["transition_counts"])
    assert (counts[:, 7:] == 0).all()
    for row in (7, 8, 9):
        # 22.46 is the 99.9 % point of chi-square with 6 degrees of freedom.
        assert chi_square(counts[row, :7]) < 22.46
    assert noisy.record["classes"] == [7, 8, 9]
    assert noisy.record["into"] == list(range(7))
    assert noisy.record["rate_realised"] == 0.3


@every_kind
def test_the_record_tells_what_happened(disturb):
    labels = TEN.copy()
    labels[[3, 500, 999]] = [-1, -100, -1]
    noisy = disturb(labels, generator())
    record = noisy.record
    assert json.loads(json.dumps(record)) == record
    counts = np.array(record["transition_counts"])
    for before in range(10):
        for after in range(10):
            assert counts[before, after] == ((labels == before) & (noisy.labels == after)).sum()
    assert counts.sum() == 997
    assert record["rate_realised"] == noisy.changed.sum() / 997
    assert record["num_classes"] == 10


@every_kind
def test_shapes_and_dtypes(disturb):
    noisy = disturb(TEN.astype(np.uint8), generator())
    assert noisy.labels.dtype == np.int64
    assert noisy.index.tolist() == list(range(1000))
    assert noisy.changed.dtype == np.bool_


@every_kind
def test_the_input_is_unchanged_and_the_seed_decides(disturb):
    labels = TEN.copy()
    first, second, other = (disturb(labels, generator(seed)) for seed in (5, 5, 6))
    assert np.array_equal(labels, TEN)
    assert not np.shares_memory(first.labels, labels)
    assert np.array_equal(first.labels, second.labels)
    assert first.record == second.record
    assert not np.array_equal(first.labels, other.labels)


@every_kind
def test_labels_without_a_class_stay_and_no_labels_are_fine(disturb):
    without = disturb([-1, -100, -1], generator())
    assert without.labels.tolist() == [-1, -100, -1]
    assert without.record["rate_realised"] == 0.0
    assert disturb([], generator()).labels.shape == (0,)


def test_kinds_and_rates_are_recorded():
    records = {name: disturb(TEN, generator()).record for name, disturb in EVERY_KIND.items()}
    assert [records[name]["kind"] for name in EVERY_KIND] == [
        "symmetric",
        "symmetric",
        "asymmetric",
        "pair-flip",
        "relabel",
    ]
    assert [records[name]["rate_asked"] for name in RATED] == [0.4] * 4
    assert records["relabel"]["rate_asked"] == 1.0
    assert records["symmetric"]["include_own"] is False
    assert records["symmetric with own"]["include_own"] is True


@every_kind
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1]], r"labels have shape \(1, 2\): give one class index per sample"),
        ([0.0, 1.0], "labels are of type float64: give integers"),
        ([True, False], "labels are of type bool: give integers"),
        (["7"], "labels are of type <U1: give integers"),
        ([0, 10], "labels hold class 10, but num_classes is 10: give 11 or more"),
        ([0, -2], "labels hold -2: give -1 for none of the classes, -100 for a label to leave out"),
    ],
)
def test_errors_of_labels(disturb, labels, message):
    with pytest.raises(ValueError, match=message):
        disturb(labels, generator())


RATED_CALLS = [
    lambda rate: symmetric_noise(TEN, rate, 10, generator()),
    lambda rate: symmetric_noise(TEN, rate, 10, generator(), include_own=True),
    lambda rate: asymmetric_noise(TEN, rate, {0: 1}, generator()),
    lambda rate: pair_flip_noise(TEN, rate, 10, generator()),
]


@pytest.mark.parametrize("call", RATED_CALLS)
@pytest.mark.parametrize("rate", [1.4, -0.1, float("nan"), float("inf"), True, np.True_, "0.4", None])
def test_errors_of_rate(call, rate):
    with pytest.raises(ValueError, match=f"rate is {rate}: give a number from 0 to 1"):
        call(rate)


@pytest.mark.parametrize("call", RATED_CALLS)
@pytest.mark.parametrize("rate", [0, 1, np.float32(0.5), np.int64(1)])
def test_any_real_number_is_a_rate(call, rate):
    assert call(rate).record["rate_asked"] == float(rate)


@pytest.mark.parametrize("call", [symmetric_noise, pair_flip_noise])
@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.5, True, "10"])
def test_errors_of_num_classes(call, num_classes):
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}: give a whole number, 2 or more"):
        call([0, 0], 0.4, num_classes, generator())


@every_kind
def test_errors_of_rng(disturb):
    with pytest.raises(ValueError, match=r"rng is 1: give a numpy\.random\.Generator, such as"):
        disturb(TEN, 1)


@pytest.mark.parametrize(
    ("mapping", "num_classes", "message"),
    [
        ("svhn", None, "mapping is 'svhn': give one of mnist, cifar10, or a dict of classes"),
        ({}, None, "mapping is {}: give a dict with at least one class"),
        ([(0, 1)], None, r"mapping is \[\(0, 1\)\]: give a dict with at least one class"),
        ({0: 3}, None, "mapping names class 3, but there are 3 classes: give num_classes, or leave it out"),
        ({3: 0}, 3, "mapping names class 3, but there are 3 classes: give classes from 0 to 2"),
        ({-1: 0}, 3, "mapping names class -1, but there are 3 classes"),
        ("mnist", None, "mapping names class 7, but there are 3 classes: give num_classes"),
        ({1: 1}, None, "mapping sends class 1 to itself: leave it out, or give another class"),
        ({"0": 1}, None, "mapping names class '0': give classes as integers"),
        ({True: 0}, None, "mapping names class True: give classes as integers"),
    ],
)
def test_errors_of_mapping(mapping, num_classes, message):
    with pytest.raises(ValueError, match=message):
        asymmetric_noise([0, 1, 2], 0.4, mapping, generator(), num_classes=num_classes)


@pytest.mark.parametrize(
    ("classes", "into", "num_classes", "message"),
    [
        ([], [0], None, "classes is empty: name at least one class"),
        ([0], [], None, "into is empty: name at least one class"),
        ([0, 1], [1, 2], None, "class 1 is in both classes and into: take it out of one of them"),
        ([0, 0], [1], None, "classes holds class 0 twice: name each class once"),
        ([0], [1, 2, 1], None, "into holds class 1 twice: name each class once"),
        ([5], [1], None, "classes names class 5, but there are 3 classes: give num_classes, or leave it out"),
        ([0], [5], 3, "into names class 5, but there are 3 classes: give classes from 0 to 2"),
        ([-1], [1], None, "classes names class -1, but there are 3 classes"),
        ([0.5], [1], None, "classes names class 0.5: give classes as integers"),
        (0, [1], None, "classes is 0: give a list of classes"),
    ],
)
def test_errors_of_relabelled_classes(classes, into, num_classes, message):
    with pytest.raises(ValueError, match=message):
        relabel_classes([0, 1, 2], classes, into, generator(), num_classes=num_classes)


def test_classes_may_come_in_any_order_and_kind_of_list():
    noisy = relabel_classes([0, 1, 2], np.array([2]), (c for c in (1, 0)), generator())
    assert noisy.record["classes"] == [2]
    assert noisy.record["into"] == [1, 0]
    assert json.loads(json.dumps(noisy.record)) == noisy.record
