import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.disturb import (
    CIFAR40_UNLABELLED,
    CIFAR60_KNOWN,
    cifar60_40,
    random_classes,
    remove_classes,
    renumber,
    unlabel_classes,
)
from catchment.disturb.cifar100 import SUPERCLASSES

FINE = np.repeat(np.arange(100), 5)
label_lists = st.lists(st.sampled_from([-100, -1, 0, 1, 2, 3, 4]), max_size=60).map(lambda rows: np.array(rows, int))
class_sets = st.sets(st.integers(0, 4), min_size=1).map(list)


def generator(seed=0):
    return np.random.default_rng(seed)


@settings(deadline=None)
@given(label_lists, class_sets)
def test_remove_drops_exactly_these_classes(labels, classes):
    original = labels.copy()
    kept = remove_classes(labels, classes, num_classes=5)
    expected = [i for i, y in enumerate(labels.tolist()) if y not in classes]
    assert kept.index.tolist() == expected
    assert np.array_equal(kept.labels, labels[expected])
    assert kept.changed.tolist() == [False] * len(expected)
    assert np.array_equal(labels, original)
    counts = np.bincount(kept.labels[kept.labels >= 0], minlength=5)
    assert kept.record == {
        "kind": "remove",
        "classes": sorted(classes),
        "num_classes": 5,
        "samples_before": len(labels),
        "samples_after": len(expected),
        "rate_asked": None,
        "rate_realised": 0.0,
        "transition_counts": np.diag(counts).tolist(),
    }
    assert json.loads(json.dumps(kept.record)) == kept.record


@settings(deadline=None)
@given(label_lists, class_sets)
def test_unlabel_keeps_every_sample(labels, classes):
    result = unlabel_classes(labels, classes, num_classes=5)
    lost = np.isin(labels, classes)
    assert np.array_equal(result.labels, np.where(lost, -1, labels))
    assert np.array_equal(result.changed, lost)
    assert result.index.tolist() == list(range(len(labels)))
    counted = int((labels >= 0).sum())
    assert result.record["rate_realised"] == (lost.sum() / counted if counted else 0.0)
    assert result.record["samples_unlabelled"] == lost.sum()
    assert np.sum(result.record["transition_counts"]) == counted - lost.sum()
    assert json.loads(json.dumps(result.record)) == result.record


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_random_classes_are_different_ascending_and_decided_by_the_seed(num_classes, data):
    count = data.draw(st.integers(0, num_classes))
    drawn = random_classes(num_classes, count, generator(5))
    assert len(drawn) == count
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(range(num_classes))
    assert drawn == random_classes(num_classes, count, generator(5))
    assert json.loads(json.dumps(drawn)) == drawn


def test_random_classes_are_uniform():
    times = np.bincount([c for seed in range(1000) for c in random_classes(10, 4, generator(seed))], minlength=10)
    # Each is drawn 400 times of 1000 on average; sd sqrt(1000 * 0.4 * 0.6) = 15.5, five of them.
    assert np.abs(times - 400).max() < 78


def test_the_cifar60_40_split_has_three_known_and_two_unlabelled_classes_in_each_superclass():
    assert len(CIFAR60_KNOWN) == 60
    assert len(CIFAR40_UNLABELLED) == 40
    assert sorted(CIFAR60_KNOWN + CIFAR40_UNLABELLED) == list(range(100))
    for group in SUPERCLASSES.values():
        assert sorted(group) == list(group)
        assert [fine in CIFAR60_KNOWN for fine in group] == [True, True, True, False, False]
    # beaver, dolphin, otter are known; seal, whale are not
    assert [fine in CIFAR60_KNOWN for fine in (4, 30, 55, 72, 95)] == [True, True, True, False, False]


def test_the_documentation_lists_the_split():
    page = (Path(__file__).parents[2] / "docs" / "unknown-classes.md").read_text()
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.count("(") == 5]
    listed = {row[0]: [[int(fine) for fine in re.findall(r"\((\d+)\)", cell)] for cell in row[1:]] for row in rows}
    assert listed == {name: [list(group[:3]), list(group[3:])] for name, group in SUPERCLASSES.items()}


def test_cifar60_40_keeps_all_images_and_takes_two_labels_of_five():
    split = cifar60_40(FINE)
    assert len(split.labels) == 500
    assert (split.labels == -1).sum() == 200
    assert np.array_equal(split.labels == -1, np.isin(FINE, CIFAR40_UNLABELLED))
    assert np.array_equal(split.labels[split.labels >= 0], FINE[np.isin(FINE, CIFAR60_KNOWN)])
    record = split.record
    assert (record["kind"], record["rate_realised"], record["samples_unlabelled"]) == ("cifar60+40", 0.4, 200)
    assert record["known"] == list(CIFAR60_KNOWN)
    assert record["classes"] == list(CIFAR40_UNLABELLED)
    assert json.loads(json.dumps(record)) == record
    assert sorted(set(renumber(split.labels, CIFAR60_KNOWN).tolist())) == list(range(-1, 60))


@settings(deadline=None)
@given(label_lists, class_sets)
def test_renumber_counts_the_classes_as_they_are_given(labels, classes):
    new = renumber(labels, classes)
    for before, after in zip(labels.tolist(), new.tolist(), strict=True):
        expected = before if before < 0 else classes.index(before) if before in classes else -1
        assert after == expected


def test_renumber_takes_classes_that_no_sample_has_in_any_order():
    assert renumber([3, 7, 3], (c for c in (9, 7, 3))).tolist() == [2, 1, 2]
    assert renumber([], [2]).tolist() == []


@pytest.mark.parametrize("call", [remove_classes, unlabel_classes])
@pytest.mark.parametrize(
    ("labels", "classes", "num_classes", "message"),
    [
        ([0, 1], [], None, "classes is empty: name at least one class"),
        ([0, 1], [1, 1], None, "classes holds class 1 twice: name each class once"),
        ([0, 1], [2], None, "classes names class 2, but there are 2 classes: give num_classes, or leave it out"),
        ([0, 1], [2], 2, "classes names class 2, but there are 2 classes: give classes from 0 to 1"),
        ([0, 1], [-1], 2, "classes names class -1, but there are 2 classes"),
        ([0, 1], ["1"], 2, "classes names class '1': give classes as integers"),
        ([0, 1], 1, 2, "classes is 1: give a list of classes"),
        ([0, 5], [1], 2, "labels hold class 5, but num_classes is 2: give 6 or more"),
        ([[0]], [0], 2, "labels have shape"),
    ],
)
def test_errors_of_remove_and_unlabel(call, labels, classes, num_classes, message):
    with pytest.raises(ValueError, match=message):
        call(labels, classes, num_classes=num_classes)


@pytest.mark.parametrize(
    ("num_classes", "count", "rng", "message"),
    [
        (10, 11, generator(), "count is 11, but there are 10 classes: give 10 or less"),
        (10, -1, generator(), "count is -1: give a whole number, 0 or more"),
        (10, 2.0, generator(), r"count is 2\.0: give a whole number, 0 or more"),
        (0, 0, generator(), "num_classes is 0: give a whole number, 1 or more"),
        (10, 4, 3, r"rng is 3: give a numpy\.random\.Generator"),
    ],
)
def test_errors_of_random_classes(num_classes, count, rng, message):
    with pytest.raises(ValueError, match=message):
        random_classes(num_classes, count, rng)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "classes is empty: name at least one class"),
        ([1, 1], "classes holds class 1 twice"),
        ([-1], "classes names class -1: give classes from 0 on"),
        ([0.5], r"classes names class 0\.5: give classes as integers"),
    ],
)
def test_errors_of_renumber(classes, message):
    with pytest.raises(ValueError, match=message):
        renumber([0, 1], classes)


def test_errors_of_cifar60_40():
    with pytest.raises(ValueError, match="labels hold class 100, but num_classes is 100: give 101 or more"):
        cifar60_40([100])
