"""Scores of labels: by hand, against cleanlab, on any kind of array, and what they refuse."""

import math

import numpy as np
import pytest
from audit.made_up import noisy
from cleanlab.rank import get_label_quality_scores

from catchment.audit import disagreement, loss_of_labels, normalised_margin, scores, self_confidence

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.5, 0.0]])
Y = np.array([0, 0, 1])


def test_by_hand():
    assert self_confidence(P, Y) == pytest.approx([0.3, 0.9, 0.5])
    assert normalised_margin(P, Y) == pytest.approx([(1 + 0.2 - 0.7) / 2, (1 + 0.6 - 0.1) / 2, 0.5])
    assert loss_of_labels(P, Y) == pytest.approx([-math.log(0.7), -math.log(0.1), -math.log(0.5)])


def test_as_cleanlab_has_them():
    p, given, _ = noisy()
    ours = {"self_confidence": self_confidence, "normalized_margin": normalised_margin}
    for method, score in ours.items():
        quality = get_label_quality_scores(given, p, method=method)
        assert score(p, given) == pytest.approx(1 - quality, abs=1e-6)


def test_one_class_has_no_other():
    assert normalised_margin(np.ones((2, 1)), np.array([0, 0])).tolist() == [0, 0]


def test_an_impossible_label_has_a_finite_loss():
    loss = loss_of_labels(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))
    assert loss.tolist() == pytest.approx([-math.log(np.finfo(np.float32).tiny)])


def test_samples_without_a_label_have_no_score():
    for score in (self_confidence, normalised_margin, loss_of_labels):
        values = score(P, np.array([-1, 0, -100]))
        assert np.isnan(values).tolist() == [True, False, True]


def test_many_labels_are_judged_class_by_class():
    p, y = np.array([[0.9, 0.4]]), np.array([[0, 1]])
    assert self_confidence(p, y) == pytest.approx(np.array([[0.9, 0.6]]))
    assert normalised_margin(p, y) == pytest.approx(np.array([[0.9, 0.6]]))
    assert loss_of_labels(p, y) == pytest.approx(-np.log([[0.1, 0.4]]), abs=1e-6)


def test_disagreement_is_one_minus_the_normalised_geometric_mean():
    first, second = np.array([[0.64, 0.36]]), np.array([[0.25, 0.75]])
    means = np.sqrt(first * second)
    assert disagreement(first, second, np.array([0])) == pytest.approx(1 - means[0, :1] / means.sum())
    # a class that one of them rules out keeps no label
    assert disagreement(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]), np.array([1])) == pytest.approx([1], abs=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_precision_and_layout(dtype):
    p, given, _ = noisy(300, 7)
    for array in (p.astype(dtype), np.asfortranarray(p.astype(dtype)), np.repeat(p.astype(dtype), 2, axis=0)[::2]):
        before = array.copy()
        array.flags.writeable = False
        assert self_confidence(array, given) == pytest.approx(1 - p[np.arange(300), given], abs=1e-3)
        assert (array == before).all()


def test_chunks_of_any_length_give_the_same(monkeypatch):
    p, given, _ = noisy(301, 7)
    whole = normalised_margin(p, given)
    for entries in (1, 7 * 100, 7 * 300):
        monkeypatch.setattr(scores, "_ENTRIES", entries)
        assert (normalised_margin(p, given) == whole).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            [0.5, 0.7, 0.5],
            "row 2 of the probabilities sums to 1.7, not 1: give probabilities, such as softmax of logits",
        ),
        ([-2.0, 1.0, 2.0], "row 2 of the probabilities has an entry of -2: give probabilities from 0 to 1, not logits"),
        ([np.nan, 0.5, 0.5], "row 2 of the probabilities has an entry that is no finite number"),
        ([np.inf, 0.0, 0.0], "row 2 of the probabilities has an entry that is no finite number"),
    ],
)
def test_what_is_no_probability_is_refused(row, message):
    p = P.copy()
    p[2] = row
    with pytest.raises(ValueError, match=message):
        self_confidence(p, Y)


def test_many_labels_need_not_sum_to_one_but_lie_between_0_and_1():
    y = np.array([[0, 1, 1]])
    assert self_confidence(np.array([[0.9, 0.9, 0.9]]), y) == pytest.approx(np.array([[0.9, 0.1, 0.1]]))
    with pytest.raises(ValueError, match="has an entry of 1.5"):
        self_confidence(np.array([[0.9, 1.5, 0.9]]), y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, 1], "label 3 of row 1 is outside the 3 columns of the probabilities: give a column for each class"),
        ([0, -2, 1], "label -2 of row 1 is outside"),
        ([0, 1], r"labels are int64 \(2,\) for probabilities \(3, 3\): give one class index for each row"),
        ([[0, 2, 0]] * 3, r"labels \(N, C\) hold more than 0 and 1"),
        ([0.0, 1.0, 2.0], "labels are float64"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        self_confidence(P, np.array(labels))
    with pytest.raises(ValueError, match=r"probabilities have shape \(3,\)"):
        self_confidence(P[:, 0], Y)


def test_auxiliaries_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the auxiliaries' probabilities are \(3, 3\) and \(3, 2\)"):
        disagreement(P, np.full((3, 2), 0.5), Y)
    with pytest.raises(ValueError, match="one label per sample"):
        disagreement(P, P, np.zeros((3, 3), dtype=np.int64))
