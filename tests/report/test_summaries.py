import numpy as np
import pytest
from report.run_folders import made_up_evaluation

from catchment import metrics
from catchment.report import summaries
from catchment.report.run_folder import Evaluation


def evaluation(**changes):
    return Evaluation(made_up_evaluation() | changes)


def test_the_bins_are_those_of_full_probabilities():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.full(3, 0.5), 400).astype(np.float32)
    # edges of bins and certainty are where conventions differ
    probabilities[:3] = [[0.6, 0.4, 0], [1, 0, 0], [0.4, 0.2, 0.4]]
    target = rng.integers(0, 3, 400)
    found = summaries.reliability(
        evaluation(test_label=target, test_predicted=probabilities.argmax(1), test_confidence=probabilities.max(1))
    )
    confidence, accuracy, count = metrics.reliability(probabilities, target)
    np.testing.assert_array_equal(found.confidence, confidence)
    np.testing.assert_array_equal(found.accuracy, accuracy)
    np.testing.assert_array_equal(found.count, count)
    assert found.ece == metrics.ece(probabilities, target)


def test_samples_of_no_known_class_are_left_out():
    arrays = made_up_evaluation(unknown=50, tests=200)
    found = summaries.reliability(Evaluation(arrays))
    assert found.count.sum() == 150
    assert summaries.confusion_counts(Evaluation(arrays), 3).sum() == 150


def test_the_curve_is_thinned_and_its_area_is_not():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 3, (2, 5000))
    score = rng.random(5000)
    found = summaries.risk_coverage(evaluation(test_label=label, test_predicted=predicted, test_unknown_score=score))
    assert len(found.risk) == 250
    assert found.coverage[-1] == 1
    assert found.risk[-1] == pytest.approx((label != predicted).mean())
    assert found.aurc == metrics.aurc(score, label != predicted)


def test_the_most_frequent_pairs_are_off_the_diagonal_and_none_is_empty():
    counts = np.array([[90, 0, 3], [7, 80, 0], [3, 1, 70]])
    assert summaries.most_frequent_pairs(counts) == [(1, 0, 7), (0, 2, 3), (2, 0, 3), (2, 1, 1)]
    assert summaries.most_frequent_pairs(counts, at_most=1) == [(1, 0, 7)]
    assert summaries.most_frequent_pairs(np.diag([1, 2])) == []
    assert counts[0, 0] == 90


def test_wrong_labels_are_judged_where_both_are_known():
    given = np.array([0, 1, -100, 1, -1, 2])
    clean = np.array([0, 2, 1, -100, 0, -1])
    arrays = evaluation(train_label=given, train_clean_label=clean)
    assert summaries.wrong_training_labels(arrays).tolist() == [0, 1, -1, -1, -1, 1]
    unknown = Evaluation(made_up_evaluation(clean=False))
    assert set(summaries.wrong_training_labels(unknown)) == {-1}


def test_scores_are_grouped_by_what_is_known_of_the_samples():
    arrays = made_up_evaluation(tests=3, trained=5, unknown=0) | {
        "test_label": np.array([-1, 0, -100]),
        "test_unknown_score": np.array([0.9, 0.1, 0.2]),
        "train_label": np.array([0, 1, 2, 1, 0]),
        "train_clean_label": np.array([0, 2, 2, -100, -1]),
        "train_unknown_score": np.array([0.1, 0.7, np.inf, 0.3, 0.8]),
    }
    groups = {group.name: group.scores.tolist() for group in summaries.unknown_score_groups(Evaluation(arrays))}
    assert groups == {
        "clean (training)": [0.1],
        "mislabelled (training)": [0.7, 0.8],
        "training samples": [0.3],
        "unknown (test)": [0.9],
    }


def test_classes_without_a_test_sample_have_no_accuracy():
    arrays = evaluation(test_label=np.array([0, 0, 2, -1]), test_predicted=np.array([0, 1, 2, 1]))
    np.testing.assert_array_equal(summaries.class_accuracy(arrays, 3), [0.5, np.nan, 1.0])


def test_training_samples_are_counted_by_their_true_labels_where_these_are_known():
    labels = {"train_label": np.array([0, 1, 1, -100, -1]), "train_clean_label": np.array([0, 0, 1, 2, 2])}
    assert summaries.training_counts(evaluation(**labels), 4).tolist() == [2, 1, 2, 0]
    unknown = Evaluation(made_up_evaluation(clean=False) | {"train_label": labels["train_label"]})
    assert summaries.training_counts(unknown, 4).tolist() == [1, 2, 0, 0]


def test_the_nearest_other_point_agrees_or_not():
    points = np.array([[0, 0], [1, 0], [3, 0], [5.5, 0]], dtype=np.float32)  # nearest: 1, 0, 1, 2
    assert summaries.neighbours_agree(points, np.array([7, 7, 7, 8])) == 0.75
    assert summaries.neighbours_agree(points, np.array([7, 8, 8, 8])) == 0.5
    same = np.zeros((2, 2), dtype=np.float32)  # neither is its own neighbour
    assert summaries.neighbours_agree(same, np.array([0, 1])) == 0.0


@pytest.mark.parametrize(
    ("scores", "low", "high"), [([0.2, 0.4], 0, 1), ([-3.0, 5.0], -3, 5), ([7.0, 7.0], 6.5, 7.5), ([0.0, 1.0], 0, 1)]
)
def test_histograms_span_0_to_1_or_what_there_is(scores, low, high):
    edges = summaries.histogram_edges([summaries.ScoreGroup("a", np.array(scores))], bins=4)
    assert (edges[0], edges[-1], len(edges)) == (low, high, 5)
