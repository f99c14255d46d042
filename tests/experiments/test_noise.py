import json

import numpy as np
import pytest

from catchment.data import Dataset, Splits
from catchment.disturb import MAPPINGS
from catchment.experiments.noise import KINDS, add_unknowns, apply_imbalance, apply_noise, given_noise

NAMES = ("cat", "dog", "bird", "fish")
EACH = 10


def make_part(labels, names=NAMES, name="pets", **columns):
    labels = np.asarray(labels, dtype=np.int64)
    inputs = np.arange(len(labels), dtype=np.float32)[:, None]
    return Dataset(name, inputs, labels, tuple(names), **columns)


def make_splits(**columns):
    return Splits(
        make_part(np.repeat(range(4), EACH), **columns),
        make_part(np.tile(range(4), 3), clean_labels=np.tile(range(4), 3)),
    )


def transitions(before, after, classes=4):
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (before, after), 1)
    return counts


def spoil(splits, noise, mapping=None, seed=5):
    return apply_noise(splits, noise, mapping=mapping, seed=seed)


CASES = [
    ("symmetric:0.4", None),
    ("asymmetric:0.4", "cat:dog,fish:cat"),
    ("pair-flip:0.3", None),
    ("relabel:dog", None),
]


@pytest.mark.parametrize(("noise", "mapping"), CASES)
def test_only_the_training_labels_change(noise, mapping):
    splits = make_splits()
    given = splits.train.labels.copy()
    noisy, record = spoil(splits, noise, mapping)
    np.testing.assert_array_equal(splits.train.labels, given)  # what was given stays as it was
    assert splits.train.clean_labels is None
    np.testing.assert_array_equal(noisy.train.inputs, splits.train.inputs)
    assert json.loads(json.dumps(record)) == record
    assert record["kind"] == noise.partition(":")[0]
    if record["kind"] != "relabel":
        assert noisy.test is splits.test
        np.testing.assert_array_equal(noisy.train.clean_labels, given)
        assert noisy.train.class_names == NAMES
        counts = transitions(given, noisy.train.labels)
        assert record["transition_counts"] == counts.tolist()
        assert record["rate_realised"] == (40 - counts.trace()) / 40


def test_symmetric_noise_moves_exactly_that_share_to_every_other_class():
    noisy, record = spoil(make_splits(), "symmetric:0.4")
    assert (noisy.train.labels != np.repeat(range(4), EACH)).sum() == 16
    assert (record["rate_asked"], record["rate_realised"], record["include_own"]) == (0.4, 0.4, False)
    many = make_part(np.repeat(range(4), 300))
    everything, _ = spoil(Splits(many, many), "symmetric:1")
    counts = transitions(many.labels, everything.train.labels)
    assert counts.trace() == 0
    assert (counts + 100 * np.eye(4) > 60).all()  # 100 expected, with a standard deviation of 8


def test_pair_flip_noise_moves_a_share_of_each_class_to_the_next():
    noisy, record = spoil(make_splits(), "pair-flip:0.3")
    expected = 7 * np.eye(4, dtype=int) + 3 * np.roll(np.eye(4, dtype=int), 1, axis=1)
    np.testing.assert_array_equal(transitions(np.repeat(range(4), EACH), noisy.train.labels), expected)
    assert record["rate_asked"] == record["rate_realised"] == 0.3


@pytest.mark.parametrize("mapping", ["cat:dog,fish:cat", " fish : cat , cat : dog "])
def test_asymmetric_noise_maps_classes_by_name(mapping):
    noisy, record = spoil(make_splits(), "asymmetric:0.4", mapping)
    expected = [[6, 4, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [4, 0, 0, 6]]
    assert transitions(np.repeat(range(4), EACH), noisy.train.labels).tolist() == expected
    assert record["mapping"] == {"0": 1, "3": 0}
    assert (record["rate_realised"], record["rate_realised_of_mapped"]) == (0.2, 0.4)


def test_removed_classes_leave_training_and_are_unknown_in_the_test_part():
    noisy, record = spoil(make_splits(), "remove:dog,fish")
    assert noisy.train.class_names == noisy.test.class_names == ("cat", "bird")
    np.testing.assert_array_equal(noisy.train.labels, np.repeat([0, 1], EACH))
    np.testing.assert_array_equal(noisy.train.inputs[:, 0], [*range(10), *range(20, 30)])
    np.testing.assert_array_equal(noisy.test.labels, np.tile([0, -1, 1, -1], 3))
    assert (record["kind"], record["classes"], record["rate_realised"]) == ("remove", [1, 3], 0.0)
    assert json.loads(json.dumps(record)) == record


def test_the_seed_decides_which_classes_are_removed():
    kept = {spoil(make_digits("digits"), "remove-random:4", seed=seed)[0].train.class_names for seed in range(5)}
    assert len(kept) > 1
    assert {len(names) for names in kept} == {6}
    again = spoil(make_digits("digits"), "remove-random:4", seed=0)[0].train.class_names
    assert again == spoil(make_digits("digits"), "remove-random:4", seed=0)[0].train.class_names


def make_digits(name):
    names = [str(c) for c in range(10)]
    return Splits(make_part(np.repeat(range(10), EACH), names, name), make_part(range(10), names, name))


@pytest.mark.parametrize(("mapping", "name"), [(None, "digits"), ("mnist", "my-digits"), ("cifar10", "digits")])
def test_asymmetric_noise_by_the_name_of_a_mapping_which_digits_need_not_state(mapping, name):
    noisy, record = spoil(make_digits(name), "asymmetric:0.4", mapping)
    expected = 10 * np.eye(10, dtype=int)
    for source, target in MAPPINGS[mapping or "mnist"].items():
        expected[source, [source, target]] = 6, 4
    np.testing.assert_array_equal(transitions(np.repeat(range(10), EACH), noisy.train.labels, 10), expected)
    assert record["rate_realised"] == 0.2


def test_digits_take_pairs_where_they_are_given():
    _, record = spoil(make_digits("digits"), "asymmetric:0.5", "0:9")
    assert record["mapping"] == {"0": 9}


@pytest.mark.parametrize(("noise", "mapping"), CASES[:3])
def test_labels_known_to_be_clean_before_stay_the_clean_ones(noise, mapping):
    clean = np.repeat(range(4), EACH)[::-1].copy()
    noisy, _ = spoil(make_splits(clean_labels=clean), noise, mapping)
    np.testing.assert_array_equal(noisy.train.clean_labels, clean)


@pytest.mark.parametrize(("noise", "mapping"), CASES)
def test_samples_of_no_class_and_left_out_ones_stay_so(noise, mapping):
    train = make_part([*np.repeat(range(4), EACH), -1, -100])
    noisy, record = spoil(Splits(train, train), noise, mapping)
    assert noisy.train.labels[-2:].tolist() == [-1, -100]
    assert noisy.train.clean_labels[-2:].tolist() == [-1, -100]
    assert np.sum(record["transition_counts"]) == 4 * EACH


def test_relabelled_classes_are_gone_and_the_others_are_renumbered():
    splits = make_splits(clean_labels=np.repeat(range(4), EACH))
    noisy, record = spoil(splits, "relabel:dog")
    train, test = noisy
    assert train.class_names == test.class_names == ("cat", "bird", "fish")
    was = np.repeat(range(4), EACH)
    for old, new in ((0, 0), (2, 1), (3, 2)):
        assert (train.labels[was == old] == new).all()
        assert (train.clean_labels[was == old] == new).all()
    assert set(train.labels[was == 1]) == {0, 1, 2}
    assert (train.clean_labels[was == 1] == -1).all()
    np.testing.assert_array_equal(test.labels, np.tile([0, -1, 1, 2], 3))
    np.testing.assert_array_equal(test.clean_labels, test.labels)
    assert (train.labels != train.clean_labels).mean() == record["rate_realised"] == 0.25
    # the record counts in the classes before
    counts = np.array(record["transition_counts"])
    assert counts.shape == (4, 4)
    assert counts[1].sum() == EACH
    assert counts[1, 1] == 0
    assert counts[[0, 2, 3], [0, 2, 3]].tolist() == [EACH] * 3
    assert (record["classes"], record["into"]) == ([1], [0, 2, 3])


def test_relabel_takes_names_in_any_order_and_with_spaces():
    noisy, _ = spoil(make_splits(), "relabel: fish , cat,")
    assert noisy.train.class_names == ("dog", "bird")
    np.testing.assert_array_equal(noisy.test.labels, np.tile([-1, 0, 1, -1], 3))
    assert noisy.test.labels.dtype == noisy.train.labels.dtype == noisy.train.clean_labels.dtype == np.int64
    assert set(noisy.train.labels) == {0, 1}
    np.testing.assert_array_equal(noisy.train.clean_labels, np.repeat([-1, 0, 1, -1], EACH))


@pytest.mark.parametrize(("noise", "mapping"), CASES)
def test_the_seed_decides(noise, mapping):
    first, _ = spoil(make_splits(), noise, mapping, seed=1)
    again, _ = spoil(make_splits(), noise, mapping, seed=1)
    other, _ = spoil(make_splits(), noise, mapping, seed=2)
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    assert (first.train.labels != other.train.labels).any()


@pytest.mark.parametrize("noise", ["uniform:0.4", "", "0.4", "Symmetric:0.4"])
def test_an_unknown_kind_lists_those_there_are(noise):
    with pytest.raises(ValueError, match="there is no noise") as caught:
        spoil(make_splits(), noise)
    assert all(how in str(caught.value) for how in KINDS.values())


@pytest.mark.parametrize("kind", ["symmetric", "pair-flip", "asymmetric"])
@pytest.mark.parametrize("rate", ["", ":", ":much", ":0,4", ":40%"])
def test_a_rate_that_is_no_number(kind, rate):
    mapping = "cat:dog" if kind == "asymmetric" else None
    with pytest.raises(ValueError, match=f"noise {kind}:.* has no rate: give a number from 0 to 1, {kind}:0.4"):
        spoil(make_splits(), kind + rate, mapping)


@pytest.mark.parametrize("kind", ["symmetric", "pair-flip", "asymmetric"])
@pytest.mark.parametrize("rate", ["1.1", "-0.1", "nan", "inf", "40"])
def test_a_rate_outside_its_range(kind, rate):
    mapping = "cat:dog" if kind == "asymmetric" else None
    with pytest.raises(ValueError, match=f"rate is {float(rate)}"):
        spoil(make_splits(), f"{kind}:{rate}", mapping)


@pytest.mark.parametrize(
    ("noise", "mapping", "message"),
    [
        ("relabel:dog,cow", None, "there is no class 'cow': the classes are cat, dog, bird, fish$"),
        ("asymmetric:0.4", "cow:dog", "there is no class 'cow'"),
        ("asymmetric:0.4", "dog:cow", "there is no class 'cow'"),
        ("asymmetric:0.4", "dog:", "there is no class ''"),
        ("asymmetric:0.4", "cat:dog,fish", "there is no class ''"),
        ("asymmetric:0.4", "dog:dog", "mapping sends class 1 to itself"),
        ("asymmetric:0.4", "cat:dog,cat:bird", "maps 'cat' twice: give each class once"),
        ("asymmetric:0.4", "imagenet", "mapping is 'imagenet': give one of mnist, cifar10"),
        ("asymmetric:0.4", "mnist", "mapping names class 7, but there are 4 classes"),
        ("asymmetric:0.4", None, "asymmetric noise on pets needs --mapping: one of mnist, cifar10"),
        ("symmetric:0.4", "cat:dog", "--mapping goes with asymmetric noise, not with symmetric: leave it out"),
        ("pair-flip:0.4", "mnist", "--mapping goes with asymmetric noise, not with pair-flip: leave it out"),
        ("relabel:cat", "mnist", "--mapping goes with asymmetric noise, not with relabel: leave it out"),
        ("relabel", None, "relabel names no class"),
        ("relabel:", None, "relabel names no class"),
        ("relabel: , ", None, "relabel names no class"),
        ("relabel:cat,dog,bird", None, "relabel leaves 1 of 4 classes: keep at least 2"),
        ("relabel:cat,dog,bird,fish", None, "relabel leaves 0 of 4 classes"),
        ("relabel:cat,cat", None, "twice: name each class once"),
        ("remove:", None, "remove names no class"),
        ("remove:cow", None, "there is no class 'cow'"),
        ("remove:cat,dog,bird", None, "remove leaves 1 of 4 classes: keep at least 2"),
        ("remove-random:cat", None, "noise remove-random:cat has no count: give how many classes, remove-random:4"),
        ("remove-random:0", None, "noise remove-random:0 has no count"),
        ("remove-random:3", None, "remove leaves 1 of 4 classes: keep at least 2"),
        ("remove-random:5", None, "5"),
    ],
)
def test_errors_say_what_is_wrong(noise, mapping, message):
    with pytest.raises(ValueError, match=message):
        spoil(make_splits(), noise, mapping)


def test_a_long_list_of_classes_is_cut():
    names = [f"c{n}" for n in range(20)]
    splits = Splits(make_part(range(20), names), make_part(range(20), names))
    with pytest.raises(ValueError, match=r"the classes are c0, .*c11, \.\.$"):
        spoil(splits, "relabel:x")


def make_images(count=60, classes=3, seed=0, name="dots"):
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    images = rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    return Dataset(name, images, labels, tuple("abc"[:classes]))


@pytest.mark.parametrize("noise", ["symmetric-own:0.5", "random-pair:0.5", "class-proportional:0.5", "instance:0.5"])
def test_every_kind_of_rate_changes_about_that_share_and_keeps_what_was_given(noise):
    data = make_images(600)
    noisy, record = spoil(Splits(data, data), noise)
    assert record["rate_asked"] == 0.5
    assert record["rate_realised"] == (noisy.train.labels != data.labels).mean()
    expected = 0.5 * 2 / 3 if noise.startswith("symmetric-own") else 0.5  # a third of those draw their own class
    assert record["rate_realised"] == pytest.approx(expected, abs=0.07)
    np.testing.assert_array_equal(noisy.train.clean_labels, data.labels)
    again, _ = spoil(Splits(data, data), noise)
    np.testing.assert_array_equal(again.train.labels, noisy.train.labels)


def test_open_set_noise_puts_other_images_under_the_labels():
    data, outside = make_images(), make_images(40, seed=1, name="elsewhere")
    noisy, record = apply_noise(Splits(data, data), "open-set:0.3", mapping=None, seed=5, outside=outside)
    np.testing.assert_array_equal(noisy.train.labels, data.labels)
    replaced = (noisy.train.inputs != data.inputs).any((1, 2, 3))
    assert replaced.sum() == 18
    np.testing.assert_array_equal(noisy.train.clean_labels, np.where(replaced, -1, data.labels))
    known = {image.tobytes() for image in outside.inputs}
    taken = [image.tobytes() for image in noisy.train.inputs[replaced]]
    assert set(taken) <= known
    assert len(set(taken)) == 18  # each at most once
    assert (record["kind"], record["outside"], record["rate_realised"]) == ("open-set", "elsewhere", 0.3)
    with pytest.raises(ValueError, match="--outside goes with open-set noise, and with no other: add one"):
        spoil(Splits(data, data), "open-set:0.3")
    with pytest.raises(ValueError, match="and with no other: leave it out"):
        apply_noise(Splits(data, data), "symmetric:0.3", mapping=None, seed=5, outside=outside)


def test_instance_noise_needs_pixels():
    with pytest.raises(ValueError, match="instance noise looks at the pixels of images in memory, and pets has none"):
        spoil(make_splits(), "instance:0.4")


def test_imbalance_follows_the_clean_labels_and_comes_before_noise():
    clean = np.repeat(range(4), 64)
    splits = Splits(make_part(np.roll(clean, 1), clean_labels=clean), make_part(range(4)))
    rare, record = apply_imbalance(splits, "long-tail:8", seed=3)
    assert np.bincount(rare.train.clean_labels).tolist() == [64, 32, 16, 8]
    assert json.loads(json.dumps(record)) == record
    assert (record["kind"], len(rare.train)) == ("long-tail", 120)
    assert rare.test is splits.test
    steps, _ = apply_imbalance(splits, "step:8", seed=3)
    assert np.bincount(steps.train.clean_labels).tolist() == [64, 64, 8, 8]
    again, _ = apply_imbalance(splits, "long-tail:8", seed=3)
    np.testing.assert_array_equal(again.train.inputs, rare.train.inputs)
    with pytest.raises(ValueError, match="there is no imbalance 'tail:8'"):
        apply_imbalance(splits, "tail:8", seed=0)
    with pytest.raises(ValueError, match="imbalance step:few has no ratio"):
        apply_imbalance(splits, "step:few", seed=0)


def test_samples_of_another_set_become_unknowns_of_the_test_part():
    test, other = make_images(6), make_images(4, seed=1, name="elsewhere")
    both = add_unknowns(test, other)
    np.testing.assert_array_equal(both.labels, [0, 1, 2, 0, 1, 2, -1, -1, -1, -1])
    np.testing.assert_array_equal(both.inputs[6:], other.inputs)
    named = add_unknowns(make_part([0, 1], ids=("x", "y")), make_part([0, 1], name="others"))
    assert named.ids == ("x", "y", "others/0", "others/1")


def test_wrong_labels_that_came_with_the_data_are_recorded():
    assert given_noise(make_part([0, 1, 2, 3])) is None
    assert given_noise(make_part([0, 1], clean_labels=np.array([0, 1]))) is None
    record = given_noise(make_part([0, 1, 1, -1], clean_labels=np.array([0, 1, 2, 3])))
    assert (record["kind"], record["rate_realised"]) == ("given", 1 / 3)
    assert record["transition_counts"][2][1] == 1
