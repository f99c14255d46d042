"""What labels are judged by: cross-validation, one run, a finished run, a file."""

from pathlib import Path

import numpy as np
import pytest
from audit.made_up import noisy, table

from catchment import audit as auditing
from catchment import metrics
from catchment.audit import confident_margin, from_file, from_run, one_run, out_of_fold, self_confidence
from catchment.audit.evidence import Trajectory, assign_folds
from catchment.audit.runner import count_wrong
from catchment.experiments.run import RunConfig, run
from catchment.training import TrainingConfig

FAST = TrainingConfig(epochs=4, batch_size=32, threads=1, device="cpu", seed=1)
PLAIN = RunConfig(objective="cross-entropy", training=FAST)
DRAINAGE = RunConfig(objective="drainage", training=FAST)


def test_folds_share_each_class_alike():
    labels = np.repeat([0, 1, 2, -1], [50, 20, 5, 3])
    folds = assign_folds(labels, 5, seed=3)
    for label in (0, 1, 2):
        assert np.bincount(folds[labels == label], minlength=5).tolist() == [sum(labels == label) // 5] * 5
    assert np.bincount(folds).tolist() == [16, 16, 16, 15, 15]
    assert (assign_folds(labels, 5, seed=3) == folds).all()
    assert (assign_folds(labels, 5, seed=4) != folds).any()


def test_out_of_fold_models_never_saw_the_label(monkeypatch):
    dataset, _ = table(90)
    trained = []
    train = auditing.evidence.train
    monkeypatch.setattr(
        auditing.evidence, "train", lambda model, part, *a, **k: trained.append(part) or train(model, part, *a, **k)
    )
    found = out_of_fold(dataset, PLAIN, 3)
    folds = assign_folds(dataset.labels, 3, seed=1)
    assert [len(part) for part in trained] == [60, 60, 60]
    for fold, part in enumerate(trained):
        assert part.inputs.tolist() == dataset.inputs[folds != fold].tolist()
    assert found.probabilities.sum(1) == pytest.approx(np.ones(90), abs=1e-5)
    wrong = dataset.labels != dataset.clean_labels
    assert metrics.auroc(self_confidence(found.probabilities, dataset.labels), wrong) > 0.95
    assert found.features.shape == (90, 128)
    assert (found.scores, found.held_out) == ({}, None)


def test_drainage_brings_its_own_score_out_of_fold():
    dataset, _ = table(60)
    found = out_of_fold(dataset, DRAINAGE, 2)
    assert found.scores["drainage"].shape == (60,)
    # 1 - p_t under the open softmax is no less than under the closed one
    assert (found.scores["drainage"] >= self_confidence(found.probabilities, dataset.labels) - 1e-6).all()


def test_samples_without_a_label_are_judged_by_nobody_and_trained_on_by_none():
    dataset, _ = table(60)
    dataset.labels[:6] = [-1, -100] * 3
    for found in (out_of_fold(dataset, PLAIN, 2), one_run(dataset, DRAINAGE)):
        assert np.isfinite(found.probabilities).all()
        for score in found.scores.values():
            assert np.isnan(score).tolist() == [True] * 6 + [False] * 54


def test_a_class_smaller_than_the_folds_is_noted():
    dataset, _ = table(60)
    dataset.labels[dataset.labels == 2] = 1
    dataset.labels[:2] = 2
    (note,) = out_of_fold(dataset, PLAIN, 3).notes
    assert note == "1 classes have fewer samples than there are folds (eel): theirs look suspect"


@pytest.mark.parametrize("folds", [1, 61])
def test_folds_that_cannot_be_made(folds):
    with pytest.raises(ValueError, match=f"{folds} folds of 60 samples: give at least 2"):
        out_of_fold(table(60)[0], PLAIN, folds)


def test_one_run_ranks_wrong_labels_and_counts_them_among_the_held_out():
    dataset, _ = table(600, rate=0.2)
    found = one_run(dataset, DRAINAGE)
    wrong = dataset.labels != dataset.clean_labels
    assert found.held_out.tolist() == np.flatnonzero(assign_folds(dataset.labels, 10, seed=1) == 0).tolist()
    assert set(found.scores) == {"loss-trajectory", "drainage", "drainage-trajectory"}
    joint = auditing.confident_learning(found.probabilities, dataset.labels)
    for score in (*found.scores.values(), confident_margin(found.probabilities, dataset.labels, joint.thresholds)):
        assert metrics.auroc(score, wrong) > 0.98
    count = count_wrong(found, dataset.labels, joint)
    there = auditing.confident_learning(found.probabilities[found.held_out], dataset.labels[found.held_out])
    assert count.count == there.wrong_labels().count * 10
    assert count.low <= wrong.sum() <= count.high
    assert one_run(dataset, DRAINAGE, held_out=0).held_out is None


def test_a_trajectory_is_the_mean_over_the_epochs():
    dataset, _ = table(30)
    seen = []

    class Spy(Trajectory):
        def look(self, model):
            super().look(model)
            seen.append((self.last.probabilities, self.last.label_score))
            return {}

    spy = Spy(dataset)
    model = auditing.evidence.create_model(DRAINAGE, dataset)
    auditing.evidence.train(model, dataset, FAST, evaluate=spy.look, evaluate_every=1)
    found = spy.evidence("drainage")
    assert len(seen) == 4
    p = np.stack([p for p, _ in seen])
    assert found.probabilities == pytest.approx(p.mean(0), abs=1e-6)
    given = p[:, np.arange(30), dataset.labels]
    assert found.scores["loss-trajectory"] == pytest.approx(-np.log(given).mean(0), rel=1e-5)
    assert found.scores["drainage-trajectory"] == pytest.approx(np.mean([s for _, s in seen], 0), rel=1e-5)
    assert found.scores["drainage"] == pytest.approx(seen[-1][1])
    with pytest.raises(ValueError, match="no epoch was looked at"):
        Trajectory(dataset).evidence("drainage")


def test_a_finished_run_judges_its_data(tmp_path):
    dataset, _ = table(60)
    path = tmp_path / "t.npz"
    np.savez(path, X=dataset.inputs, y=dataset.labels)
    run(RunConfig(data=str(path), objective="drainage", training=FAST), tmp_path / "run")
    config = auditing.AuditConfig(str(path), run=str(tmp_path / "run"), training=FAST)
    result = auditing.audit(config)
    assert result.evidence.probabilities.shape == (60, 3)
    assert result.evidence.scores.keys() == {"drainage"}
    assert "may have learned wrong labels by heart" in result.evidence.notes[0]
    with pytest.raises(ValueError, match="made-up holds a table of 3 features of 3 classes, but the run in .* takes"):
        from_run(tmp_path / "run", dataset, "cpu")  # its classes have other names


def saved(path: Path, **arrays):
    np.savez(path, **arrays)
    return path


def test_a_file_of_probabilities(tmp_path):
    dataset, p = table(40)
    features = np.ones((40, 2), dtype=np.float32)
    found = from_file(
        saved(tmp_path / "p.npz", probabilities=p, features=features, class_names=list("cde")), _named(dataset)
    )
    assert found.probabilities[:].tolist() == p.tolist()
    assert found.features.shape == (40, 2)
    np.save(tmp_path / "p.npy", p)
    assert from_file(tmp_path / "p.npy", dataset).probabilities[:].tolist() == p.tolist()


def _named(dataset):
    from dataclasses import replace

    return replace(dataset, class_names=tuple("cde"))


def test_two_auxiliaries_give_their_disagreement(tmp_path):
    dataset, p = table(40)
    other, _, _ = noisy(40, 3, seed=5)
    found = from_file(saved(tmp_path / "p.npz", noise_robust=p, imbalance_robust=other), dataset)
    assert found.scores["dsink"].tolist() == auditing.disagreement(p, other, dataset.labels).tolist()
    assert found.probabilities == pytest.approx((p + other) / 2)


def test_files_that_do_not_fit(tmp_path):
    dataset, p = table(40)
    cases = {
        "there are no probabilities in it, only other": {"other": p},
        r"probabilities has shape \(39, 3\), but made-up has 40 samples of 3 classes": {"probabilities": p[1:]},
        r"probabilities has shape \(40, 2\)": {"probabilities": p[:, :2]},
        r"imbalance_robust has shape \(40, 2\)": {"probabilities": p, "imbalance_robust": p[:, :2]},
        "its classes are eel, dog, cat, .. and those of made-up cat, dog, eel": {
            "probabilities": p, "class_names": ["eel", "dog", "cat"]
        },
        r"features have shape \(40,\): give a row for each of 40 samples": {"probabilities": p, "features": p[:, 0]},
    }  # fmt: skip
    for number, (message, arrays) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=message):
            from_file(saved(tmp_path / f"{number}.npz", **arrays), dataset)
    with pytest.raises(FileNotFoundError, match="save probabilities by"):
        from_file(tmp_path / "absent.npz", dataset)
