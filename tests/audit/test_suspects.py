"""The ranked list, suggestions and neighbours."""

import csv

import numpy as np
import pytest
from audit.made_up import suspects_of, table

from catchment.audit import AuditConfig, Evidence, confident_learning, nearest_neighbours, suggest, write_suspects
from catchment.audit.neighbours import plain_features
from catchment.audit.runner import Audit, WrongLabels, compare_scores
from catchment.audit.suspects import all_scores, one_score, rank
from catchment.data import Dataset


def test_rank_puts_the_highest_first_ties_by_position_and_no_nan():
    score = np.array([0.5, np.nan, 0.9, 0.5, 0.1, 0.5])
    assert rank(score, 3).tolist() == [2, 0, 3]
    assert rank(score, 99).tolist() == [2, 0, 3, 5, 4]
    assert rank(score, 0).tolist() == rank(np.array([np.nan]), 1).tolist() == []
    assert rank(np.array([[0.1, 0.8], [0.9, 0.2]]), 2).tolist() == [2, 1]


def test_the_wrong_labels_come_first_with_the_true_ones_suggested():
    dataset, p = table(200)
    wrong = np.flatnonzero(dataset.labels != dataset.clean_labels)
    found = suspects_of(dataset, p, len(wrong))
    assert np.isin(found.rows, wrong).mean() > 0.9
    assert (found.suggested == dataset.clean_labels[found.rows]).mean() > 0.9
    assert (found.suggested != found.given).all()
    assert (np.diff(found.score) <= 0).all()


def test_a_suggestion_reaches_its_threshold_where_one_does():
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    thresholds = np.array([0.9, 0.25, 0.6])
    assert suggest(p, np.array([0, 0, 1]), thresholds).tolist() == [1, 1, 0]


def test_the_csv_says_all_of_it(tmp_path):
    dataset = Dataset("t", np.zeros((2, 1), np.float32), np.array([0, 1]), ("a", "b, c"), ids=("x/1.png", 'y"2'))
    p = np.array([[0.1, 0.9], [0.2, 0.8]])
    found = suspects_of(dataset, p, 1)
    write_suspects(tmp_path / "s.csv", dataset, found, {"margin": np.array([0.9, 0.2])})
    (row,) = csv.DictReader((tmp_path / "s.csv").open())
    assert row == {
        "row": "0", "id": "x/1.png", "given": "a", "suggested": "b, c", "score": "0.9",
        "reason": "p(a) is 0.100, p(b, c) is 0.900, confidently so", "score_margin": "0.9",
    }  # fmt: skip


def test_of_many_labels_a_suspect_is_a_class_of_a_sample(tmp_path):
    labels = np.array([[1, 0], [0, 0]], dtype=np.uint8)
    dataset = Dataset("t", np.zeros((2, 1), np.float32), labels, ("sea", "sky"))
    p = np.array([[0.9, 0.7], [0.2, 0.1]])
    found = suspects_of(dataset, p, 2)
    assert (found.rows.tolist(), found.classes.tolist()) == ([0, 1], [1, 0])
    assert (found.given.tolist(), found.suggested.tolist()) == ([0, 0], [1, 1])
    write_suspects(tmp_path / "s.csv", dataset, found, {})
    first, _ = csv.DictReader((tmp_path / "s.csv").open())
    assert (first["class"], first["given"], first["suggested"], first["reason"]) == (
        "sky", "absent", "present", "p(sky) is 0.700"
    )  # fmt: skip


def test_scores_are_compared_with_the_suspects_and_the_truth():
    dataset, p = table(200)
    evidence = Evidence("made up", p, {"drainage": np.linspace(0, 1, 200, dtype=np.float32)})
    found = confident_learning(p, dataset.labels)
    wrong = dataset.labels != dataset.clean_labels
    suspects = suspects_of(dataset, p, int(wrong.sum()))
    result = Audit(dataset, evidence, found, WrongLabels(1, 1, 1), suspects.score, suspects)
    scores = all_scores(evidence, dataset.labels, found)
    assert list(scores) == ["self-confidence", "margin", "confident-learning", "drainage"]
    by_name = {row["score"]: row for row in compare_scores(result, scores)}
    assert by_name["self-confidence"]["shared"] == 1
    assert by_name["self-confidence"]["precision"] == wrong[suspects.rows].mean()
    assert by_name["self-confidence"]["auroc"] > 0.98 > 0.7 > by_name["drainage"]["auroc"]
    with pytest.raises(ValueError, match="made up has no score 'dsink': choose one of self-confidence, margin"):
        one_score("dsink", evidence, dataset.labels, found)


def test_neighbours_are_the_most_similar_others():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 5)).astype(np.float32)
    rows = np.array([7, 299, 0])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit[rows] @ unit.T
    similarity[np.arange(3), rows] = -2
    expected = np.argsort(-similarity, axis=1)[:, :4]
    assert nearest_neighbours(features, rows, 4).tolist() == expected.tolist()


def test_neighbours_in_parts_are_the_same(monkeypatch):
    features = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    rows = np.arange(0, 300, 7)
    whole = nearest_neighbours(features, rows, 3)
    monkeypatch.setattr("catchment.audit.neighbours._ENTRIES", 50 * len(rows))
    assert nearest_neighbours(features, rows, 3).tolist() == whole.tolist()


def test_neighbours_of_few_samples():
    assert nearest_neighbours(np.eye(2, dtype=np.float32), np.array([0, 1]), 4).tolist() == [[1], [0]]
    assert nearest_neighbours(np.ones((1, 2)), np.array([0]), 4).shape == (1, 0)
    assert nearest_neighbours(np.ones((5, 2)), np.array([], dtype=np.int64), 4).shape == (0, 4)


def test_inputs_serve_as_features_where_there_are_no_others():
    dataset, _ = table(60)
    near = nearest_neighbours(plain_features(dataset), np.arange(60), 1)[:, 0]
    assert (dataset.clean_labels[near] == dataset.clean_labels).mean() > 0.9
    images = np.zeros((3, 40, 40, 1), dtype=np.uint8)
    images[:2, :20] = 200
    pictures = Dataset("p", images, np.array([0, 1, 0]), ("a", "b"))
    assert plain_features(pictures).shape == (3, 400)
    assert nearest_neighbours(plain_features(pictures), np.array([0]), 1).tolist() == [[1]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probabilities": "p.npz", "run": "r"}, "are both given to judge by"),
        ({"probabilities": "p.npz", "folds": 5}, "leave --folds out"),
        ({"folds": 1}, "folds is 1: give 2 or more, or 0 for one training run"),
        ({"score": "entropy"}, "there is no score 'entropy': choose one of self-confidence"),
        ({"suspects": 0}, "suspects is 0: give 1 or more"),
    ],
)
def test_settings_that_contradict_one_another(settings, message):
    with pytest.raises(ValueError, match=message):
        AuditConfig("digits", **settings)
