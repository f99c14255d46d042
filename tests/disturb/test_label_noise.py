import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.disturb import (
    MAPPINGS,
    asymmetric_noise,
    class_proportional_noise,
    human_noise,
    open_set_noise,
    pair_flip_noise,
    random_pair_mapping,
    random_pair_noise,
    relabel_classes,
    symmetric_noise,
)
from catchment.disturb.cifar100 import SUPERCLASSES

TEN = np.repeat(np.arange(10), 100)

EVERY_KIND = {
    "symmetric": lambda labels, rng: symmetric_noise(labels, 0.4, 10, rng),
    "symmetric with own": lambda labels, rng: symmetric_noise(labels, 0.4, 10, rng, include_own=True),
    "asymmetric": lambda labels, rng: asymmetric_noise(labels, 0.4, "mnist", rng, num_classes=10),
    "pair-flip": lambda labels, rng: pair_flip_noise(labels, 0.4, 10, rng),
    "random-pair": lambda labels, rng: random_pair_noise(labels, 0.4, 10, rng),
    "class-proportional": lambda labels, rng: class_proportional_noise(labels, 0.4, 10, rng),
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
        "random-pair",
        "class-proportional",
        "relabel",
    ]
    assert [records[name]["rate_asked"] for name in RATED] == [0.4] * 6
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
    lambda rate: random_pair_noise(TEN, rate, 10, generator()),
    lambda rate: class_proportional_noise(TEN, rate, 10, generator()),
    lambda rate: open_set_noise(TEN, rate, 1000, generator()).disturbed,
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


@pytest.mark.parametrize(
    "call",
    [symmetric_noise, pair_flip_noise, random_pair_noise, class_proportional_noise],
    ids=lambda call: call.__name__,
)
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
        ("svhn", None, "mapping is 'svhn': give one of mnist, cifar10, .*tabasco-cifar100, or a dict of classes"),
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


# The names of CIFAR-100's classes in each superclass, as its authors list them.
CIFAR100_NAMES = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""


def test_superclasses_are_those_of_the_class_names():
    rows = [row.split() for row in CIFAR100_NAMES.strip().splitlines()]
    alphabetical = sorted(name for row in rows for name in row)
    assert len(set(alphabetical)) == 100
    assert [[alphabetical[fine] for fine in group] for group in SUPERCLASSES.values()] == rows
    # The superclasses' own numbers are alphabetical as well.
    assert list(SUPERCLASSES) == sorted(SUPERCLASSES)


def test_cifar100_blocks_are_cycles_of_alphabetical_neighbours():
    mapping = MAPPINGS["cifar100-blocks"]
    assert sorted(mapping) == list(range(100))
    assert [mapping[c] for c in (0, 1, 2, 3, 4, 5, 9, 98, 99)] == [1, 2, 3, 4, 0, 6, 5, 99, 95]
    assert all(source // 5 == target // 5 for source, target in mapping.items())


def test_cifar100_superclass_is_a_cycle_of_five_in_each():
    mapping = MAPPINGS["cifar100-superclass"]
    # apple -> mushroom, sweet_pepper -> apple; beaver -> dolphin, whale -> beaver
    assert [mapping[c] for c in (0, 83, 4, 95)] == [51, 0, 30, 4]
    assert sorted(mapping) == sorted(mapping.values()) == list(range(100))
    superclass_of = {fine: name for name, group in SUPERCLASSES.items() for fine in group}
    for start in range(100):
        cycle = [start]
        while mapping[cycle[-1]] != start:
            cycle.append(mapping[cycle[-1]])
        assert len(cycle) == 5
        assert len({superclass_of[fine] for fine in cycle}) == 1


@pytest.mark.parametrize("name", ["cifar100-blocks", "cifar100-superclass"])
def test_cifar100_mappings_move_the_asked_share_of_every_class(name):
    noisy = asymmetric_noise(np.repeat(np.arange(100), 500), 0.45, name, generator())
    counts = np.array(noisy.record["transition_counts"])
    assert noisy.record["rate_realised"] == 0.45
    assert [counts[c, MAPPINGS[name][c]] for c in range(100)] == [225] * 100
    assert np.diag(counts).tolist() == [275] * 100


def test_the_random_pair_mapping_is_the_published_one():
    assert list(MAPPINGS["tabasco-cifar10"].values()) == [6, 9, 6, 0, 0, 1, 8, 6, 2, 4]
    assert list(MAPPINGS["tabasco-cifar100"].values())[:10] == [38, 13, 73, 10, 76, 6, 80, 65, 17, 1]
    assert random_pair_mapping(2) == {0: 1, 1: 0}


@pytest.mark.parametrize("num_classes", [3, 14, 100])
def test_the_random_pair_mapping_is_one_choice_among_the_others_per_class(num_classes):
    legacy = np.random.RandomState(1)
    plain = {c: int(legacy.choice([o for o in range(num_classes) if o != c])) for c in range(num_classes)}
    assert random_pair_mapping(num_classes) == plain


def test_the_random_pair_mapping_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    random_pair_mapping(10)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_random_pair_draws_each_sample_by_itself():
    labels = np.repeat(np.arange(10), 10_000)
    noisy = random_pair_noise(labels, 0.4, 10, generator())
    # Five standard deviations: sqrt(0.4 * 0.6 / 100000) = 0.00155.
    assert noisy.record["rate_realised"] == pytest.approx(0.4, abs=0.0078)
    moved_per_class = noisy.changed.reshape(10, -1).sum(1)
    assert len(set(moved_per_class.tolist())) > 1
    mapping = MAPPINGS["tabasco-cifar10"]
    assert noisy.labels[noisy.changed].tolist() == [mapping[c] for c in labels[noisy.changed].tolist()]
    assert noisy.record["mapping"] == {str(source): target for source, target in mapping.items()}


@settings(deadline=None)
@given(label_lists, rates, seeds)
def test_class_proportional_moves_an_exact_number_to_classes_that_have_samples(labels, rate, seed):
    counted = labels[labels >= 0]
    moved = round(rate * len(counted))
    if moved and len(set(counted.tolist())) == 1:
        with pytest.raises(ValueError, match="all labels are class"):
            class_proportional_noise(labels, rate, 5, generator(seed))
        return
    noisy = class_proportional_noise(labels, rate, 5, generator(seed))
    assert noisy.changed.sum() == moved
    assert set(noisy.labels.tolist()) <= set(labels.tolist())
    assert np.array_equal(noisy.labels[labels < 0], labels[labels < 0])


def test_class_proportional_targets_are_as_frequent_as_the_classes_are_large():
    labels = np.repeat([0, 1, 2, 3], [40_000, 20_000, 10_000, 0])
    counts = np.array(class_proportional_noise(labels, 1.0, 4, generator(1)).record["transition_counts"])
    assert np.diag(counts).tolist() == [0, 0, 0, 0]
    assert counts[:, 3].tolist() == [0, 0, 0, 0]
    # Five standard deviations of a binomial share: from 0 to 1, from 1 to 0, from 2 to 0.
    for row, target, share in ((0, 1, 20 / 30), (1, 0, 40 / 50), (2, 0, 40 / 60)):
        samples = counts[row].sum()
        assert counts[row, target] / samples == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / samples))


def test_class_proportional_of_one_class_has_nowhere_to_go():
    with pytest.raises(ValueError, match="all labels are class 3: give labels of two classes, or use symmetric_noise"):
        class_proportional_noise([3, 3, -1], 0.5, 4, generator())
    assert class_proportional_noise([3, 3, -1], 0.0, 4, generator()).labels.tolist() == [3, 3, -1]


@settings(deadline=None)
@given(label_lists, seeds)
def test_human_noise_counts_what_differs(clean, seed):
    given_labels = generator(seed).integers(5, size=len(clean))
    noisy = human_noise(clean, given_labels, 5)
    counted = clean >= 0
    assert np.array_equal(noisy.labels, given_labels)
    assert np.array_equal(noisy.changed, clean != given_labels)
    wrong = int((clean != given_labels)[counted].sum())
    assert noisy.record["rate_realised"] == (wrong / counted.sum() if counted.any() else 0.0)
    assert np.sum(noisy.record["transition_counts"]) == counted.sum()
    assert np.trace(noisy.record["transition_counts"]) == counted.sum() - wrong
    assert json.loads(json.dumps(noisy.record)) == noisy.record


def test_human_noise_may_have_labels_left_out():
    noisy = human_noise([0, 1, 1, -1], [0, -100, 0, 1], 2)
    assert noisy.changed.tolist() == [False, True, True, True]
    assert noisy.record["transition_counts"] == [[1, 0], [1, 0]]
    # Of the three samples that have a class, two lost it.
    assert noisy.record["rate_realised"] == 2 / 3
    assert noisy.record["rate_asked"] is None
    assert not np.shares_memory(noisy.labels, human_noise([0], [0], 1).labels)


@pytest.mark.parametrize(
    ("clean", "given_labels", "message"),
    [
        ([0, 1], [0], "there are 2 clean and 1 given labels: give both for the same samples"),
        ([0, 2], [0, 1], "clean labels hold class 2, but num_classes is 2: give 3 or more"),
        ([0, 1], [0, 2], "given labels hold class 2, but num_classes is 2: give 3 or more"),
        ([0, 1], [0.0, 1.0], "given labels are of type float64: give integers"),
        ([[0, 1]], [0, 1], r"clean labels have shape \(1, 2\)"),
        ([0, -5], [0, 1], "clean labels hold -5: give -1 for none of the classes"),
    ],
)
def test_errors_of_human_noise(clean, given_labels, message):
    with pytest.raises(ValueError, match=message):
        human_noise(clean, given_labels, 2)


@settings(deadline=None)
@given(label_lists, rates, seeds)
def test_open_set_replaces_an_exact_number_of_images_by_different_ones(labels, rate, seed):
    noise = open_set_noise(labels, rate, 60, generator(seed))
    replaced = noise.outside_index >= 0
    assert replaced.sum() == round(rate * int((labels >= 0).sum()))
    assert (noise.outside_index[~replaced] == -1).all()
    drawn = noise.outside_index[replaced].tolist()
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(60))
    assert not replaced[labels < 0].any()
    assert np.array_equal(noise.disturbed.labels, labels)
    assert np.array_equal(noise.disturbed.changed, replaced)
    assert np.array_equal(noise.clean_labels, np.where(replaced, -1, labels))


def test_open_set_record_and_seed():
    one, same, other = (open_set_noise(TEN, 0.3, 5000, generator(seed)) for seed in (1, 1, 2))
    record = one.disturbed.record
    assert record["kind"] == "open-set"
    assert (record["rate_asked"], record["rate_realised"], record["num_outside"]) == (0.3, 0.3, 5000)
    assert record["transition_counts"] == np.diag([100] * 10).tolist()
    assert json.loads(json.dumps(record)) == record
    assert np.array_equal(one.outside_index, same.outside_index)
    assert not np.array_equal(one.outside_index, other.outside_index)


def test_open_set_images_are_drawn_uniformly():
    drawn = [open_set_noise(np.zeros(100, int), 0.5, 1000, generator(seed)).outside_index for seed in range(100)]
    tenths = np.bincount(np.concatenate(drawn)[np.concatenate(drawn) >= 0] // 100, minlength=10)
    assert tenths.sum() == 5000
    # 27.88 is the 99.9 % point of chi-square with 9 degrees of freedom.
    assert chi_square(tenths) < 27.88


def test_errors_of_open_set():
    with pytest.raises(
        ValueError, match=r"a rate of 0\.5 replaces 500 images, but the other set has 499: give a larger"
    ):
        open_set_noise(TEN, 0.5, 499, generator())
    assert (open_set_noise(TEN, 0.5, 500, generator()).outside_index >= 0).sum() == 500
    with pytest.raises(ValueError, match=r"num_outside is 10\.0: give a whole number, 0 or more"):
        open_set_noise(TEN, 0.5, 10.0, generator())
