import numpy as np
import pytest

from catchment.data import Dataset
from catchment.experiments.thresholds import label_sets, precision_thresholds


def test_the_least_threshold_that_is_right_often_enough():
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5])[:, None]
    present = np.array([1, 0, 1, 1, 0], dtype=bool)[:, None]
    found = {precision: precision_thresholds(p, present, precision)[0] for precision in (0.5, 0.6, 0.7, 0.75, 0.8, 1.0)}
    assert found == {0.5: 0.5, 0.6: 0.5, 0.7: 0.6, 0.75: 0.6, 0.8: 0.9, 1.0: 0.9}


def test_equal_scores_are_predicted_together():
    p = np.array([0.8, 0.8, 0.4])[:, None]
    assert precision_thresholds(p, np.array([[1], [0], [0]]) > 0, 0.5)[0] == 0.8
    assert precision_thresholds(p, np.array([[1], [0], [0]]) > 0, 0.6)[0] == np.inf


def test_a_class_that_is_never_there_is_never_predicted():
    assert precision_thresholds(np.array([[0.3], [0.9]]), np.zeros((2, 1), bool), 0.1).tolist() == [np.inf]


def test_the_label_sets_of_single_labels():
    dataset = Dataset("d", np.zeros((4, 1), np.float32), np.array([1, -1, -100, 0]), ("a", "b"))
    sets, has_labels = label_sets(dataset)
    assert sets.tolist() == [[False, True], [False, False], [False, False], [True, False]]
    assert has_labels.tolist() == [True, True, False, True]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no labelled samples to choose thresholds on"):
        precision_thresholds(np.zeros((0, 2)), np.zeros((0, 2), bool), 0.5)
