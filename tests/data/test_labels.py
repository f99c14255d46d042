import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.data.dataset import Dataset
from catchment.data.labels import check_classes, encode, hold_out, note_unseen, shorten, sort_names


def rows(labels, classes):
    labels = np.array(labels, dtype=np.int64)
    inputs = np.arange(len(labels), dtype=np.float32)[:, None]
    return Dataset("mine", inputs, labels, tuple(f"c{i}" for i in range(classes)))


def test_numbers_sort_by_value_and_text_as_text():
    assert sort_names(["10", "-1", "2", "1.5", "2"]) == ("-1", "1.5", "2", "10")
    assert sort_names(["b", "10", "2"]) == ("10", "2", "b")


@given(st.lists(st.sampled_from(["a", "b", "10", "9", "z"]), min_size=1))
def test_encoding_is_undone_by_the_class_names(values):
    names = sort_names(values)
    assert [names[code] for code in encode(np.array(values), names)] == values


def test_unseen_labels_become_no_known_class_and_are_noted():
    values = np.array(["b", "x", "a", "x", "y"])
    np.testing.assert_array_equal(encode(values, ("a", "b")), [1, -1, 0, -1, -1])
    assert note_unseen(values, ("a", "b")) == (
        "3 rows have labels not seen in training ('x', 'y'): read as none of the classes",
    )
    assert note_unseen(values[:1], ("a", "b")) == ()


def test_whole_numbers_written_as_decimals_find_their_class():
    np.testing.assert_array_equal(encode(np.array(["1.0", "2", "2.5"]), ("1", "2")), [0, 1, -1])


def test_long_lists_are_shortened():
    assert shorten("abc", most=2) == "'a', 'b', ... (3 in all)"


@given(st.integers(2, 6), st.integers(5, 20), st.integers(0, 3), st.integers(0, 5), st.integers(0, 99))
def test_hold_out_takes_a_fifth_and_keeps_left_out_rows_in_training(classes, each, unknown, ignored, seed):
    dataset = rows([*np.repeat(np.arange(classes), each), *[-1] * unknown, *[-100] * ignored], classes)
    train, test = hold_out(dataset, seed)
    assert sorted([*train.inputs[:, 0], *test.inputs[:, 0]]) == list(range(len(dataset)))
    candidates = classes * each + (unknown if unknown > 1 else 0)
    assert len(test) == -(-candidates // 5)
    assert (train.labels == -100).sum() == ignored
    for name in range(classes):
        assert abs((test.labels == name).sum() - each / 5) <= 1
    again, _ = hold_out(dataset, seed)
    np.testing.assert_array_equal(again.inputs, train.inputs)


def test_hold_out_differs_with_the_seed():
    dataset = rows([0, 1] * 50, 2)
    assert set(hold_out(dataset, 0).test.inputs[:, 0]) != set(hold_out(dataset, 1).test.inputs[:, 0])


def test_a_class_with_one_sample_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"mine: class 'c2' has one sample only.*--test, or give more samples"):
        hold_out(rows([0] * 9 + [1] * 9 + [2], 3), 0)
    with pytest.raises(ValueError, match=r"classes 'c1', 'c2' have one sample only"):
        hold_out(rows([0] * 9 + [1, 2], 3), 0)


def test_too_few_samples_for_all_classes_in_the_test_part():
    with pytest.raises(ValueError, match=r"6 samples are too few to hold out 20 % with all 3 classes.*--test"):
        hold_out(rows([0, 0, 1, 1, 2, 2], 3), 0)


def test_labels_no_classifier_can_be_trained_on():
    with pytest.raises(ValueError, match="only one class, 'c1'"):
        check_classes(rows([1, 1, 1, -1], 2), "why?")
    with pytest.raises(ValueError, match="no row has a known class"):
        check_classes(rows([-1, -100], 2), "why?")
    with pytest.raises(ValueError, match=r"3 classes for 3 samples: why\?"):
        check_classes(rows([0, 1, 2, -100, -1], 3), "why?")
    with pytest.raises(ValueError, match="21 classes for 41 samples"):
        check_classes(rows([*range(21), *range(20)], 21), "why?")
    check_classes(rows([*range(21), *range(21)], 21), "why?")
    check_classes(rows([*range(20), 0], 20), "why?")
