"""Zero, one and many labels end to end: train, judge, predict, report."""

import csv
import json

import numpy as np
import pytest
import torch

import catchment as ct
from catchment import report
from catchment.cli import main
from catchment.data import Dataset, Splits
from catchment.experiments import run as run_module
from catchment.experiments.noise import apply_noise
from catchment.experiments.prediction import write_predictions
from catchment.experiments.run import RunConfig, create_model, load_run, load_run_data, run
from catchment.experiments.tasks import settle_task
from catchment.training import TrainingConfig, predict
from catchment.training.evaluation import (
    Predictions,
    calibrate,
    label_set_metrics,
    normalizer_metrics,
    prediction_metrics,
    ranking_scores,
    validation_metrics,
)

CLASSES = ("red", "round", "small", "far")


def make_sets(samples=160, seed=0):
    """Rows whose four features say which of the four classes they have; one in nine has none."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((samples, 4)) < [0.5, 0.4, 0.3, 0.3]).astype(np.uint8)
    inputs = (labels + rng.normal(0, 0.4, (samples, 4))).astype(np.float32)
    return Dataset("toy", inputs, labels, CLASSES, feature_names=tuple("abcd"))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    real, inputs = run_module.load_data, make_sets(80, 1)

    def load(source, **options):
        return Splits(make_sets(), inputs) if source == "toy" else real(source, **options)

    monkeypatch.setattr(run_module, "load_data", load)
    monkeypatch.setattr("catchment.experiments.prediction.load_inputs", lambda source, like, **options: inputs)


def config(objective="quasibinary", epochs=12, **settings):
    training = TrainingConfig(epochs=epochs, batch_size=32, learning_rate=0.05, threads=1, device="cpu")
    return RunConfig(**{"data": "toy"} | settings, objective=objective, training=training)


def zero_label(epochs=6, objective="quasibinary", **settings):
    return config(objective, epochs, data="digits", noise="unlabel:7,8,9", **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished runs on the toy data, of a quasibinary classifier and of a softmax."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_data", lambda source, **options: Splits(make_sets(), make_sets(80, 1)))
        numbers = {
            name: run(config(name, validation=0.2, eval_every=6), folder / name)
            for name in ("quasibinary", "multi-label-softmax")
        }
    return folder, numbers


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_on_many_labels_is_judged_by_what_its_saved_model_predicts(finished):
    folder, numbers = finished
    found = numbers["quasibinary"]
    model, _, record = load_run(folder / "quasibinary")
    test = make_sets(80, 1)
    p = predict(model, test).probabilities
    assert found["task"] == "multi-label"
    assert found["top_k"] == 4
    assert found["test_map"] == pytest.approx(
        ct.metrics.mean_average_precision(p, test.labels), abs=1e-3
    )  # clipped ties
    assert found["test_map"] > 0.9
    assert found["test_hamming_loss"] == pytest.approx(((p.numpy() >= 0.5) != test.labels).mean())
    assert found["test_subset_accuracy"] == pytest.approx(((p.numpy() >= 0.5) == test.labels).all(1).mean())
    assert found["test_f1_macro_at_k"] == pytest.approx(np.mean([2 * n / (80 + n) for n in test.labels.sum(0)]))
    assert found["test_ece_at_k"] == pytest.approx(ct.metrics.ece(p, test.labels, 10, "top-k", k=4))
    assert found["test_unlabelled_auroc"] > 0.9
    assert record["class_counts"] == load_run_data(config(validation=0.2)).train.labels.sum(0).tolist()


def test_scores_by_hand():
    logits = torch.tensor([[2.0, 1.0, -3.0], [0.0, -2.0, 1.0]])
    labels = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.uint8)
    p = torch.tensor([[0.9, 0.7, 0.1], [0.5, 0.2, 0.6]])
    dataset = Dataset("two", np.zeros((2, 1), np.float32), labels, ("a", "b", "c"))
    found = label_set_metrics(Predictions(logits, p, 1 - p.amax(1), p[:, 0]), dataset, top_k=1)
    assert found == pytest.approx(
        {
            "f1_macro_at_k": 2 / 3,  # a and c right, b neither there nor predicted
            "f1_of_means_at_k": 2 / 3,
            "ece_at_k": (0.1 + 0.4) / 2,
            "cf1": 2 * (1.5 / 3) * (2 / 3) / (1.5 / 3 + 2 / 3),  # a: 1 of 2, b: 0 of 1, c: 1 of 1
            "of1": 2 * 2 / (4 + 2),
            "subset_accuracy": 0.0,
            "hamming_loss": 2 / 6,
            "map": 1.0,
        }
    )


def test_clipped_probabilities_rank_as_their_logits_and_equal_ones_stay_equal():
    p, z = torch.tensor([[1.0, 1.0, 0.2], [0.2, 1.0, 0.3]]), torch.tensor([[3.0, 2.0, -1.0], [-1.0, 3.0, 0.0]])
    ranks = ranking_scores(Predictions(z, p, p[:, 0], p[:, 0]))
    assert ranks.tolist() == [[3, 2, 0], [0, 3, 1]]


def test_the_label_score_of_a_sample_is_that_of_its_most_doubtful_class():
    dataset = make_sets()
    model = create_model(config("binary-cross-entropy"), dataset)
    found = predict(model, dataset)
    expected = (found.probabilities - torch.from_numpy(dataset.labels)).abs().amax(1)
    assert torch.equal(found.label_score, expected)


def test_history_holds_the_normaliser_of_each_epoch(finished):
    folder, _ = finished
    rows = [json.loads(line) for line in (folder / "quasibinary" / "history.jsonl").read_text().splitlines()]
    model, _, _ = load_run(folder / "quasibinary")
    assert rows[-1]["log_normalizer"] == pytest.approx(float(model.objective.log_normalizer))
    train = load_run_data(config(validation=0.2)).train
    log_z = predict(model, train).logits.double().logsumexp(1)
    assert len(train) < 256  # so all are watched
    assert rows[-1]["log_partition_mean"] == pytest.approx(float(log_z.mean()), abs=1e-5)
    assert rows[-1]["log_partition_sd"] == pytest.approx(float(log_z.std(correction=0)), abs=1e-5)
    softmax = [json.loads(line) for line in (folder / "multi-label-softmax" / "history.jsonl").read_text().splitlines()]
    assert "log_partition_sd" in softmax[0]
    assert "log_normalizer" not in softmax[0]
    assert [row["epoch"] for row in rows if "test_map" in row] == [6, 12]
    assert all("validation_map" in row for row in rows)
    assert normalizer_metrics(create_model(config("binary-cross-entropy"), train), train) == {}


def test_early_stopping_keeps_the_epoch_of_the_best_validation_map(tmp_path):
    training = TrainingConfig(epochs=8, early_stopping=8, learning_rate=0.05, threads=1, device="cpu")
    numbers = run(RunConfig(data="toy", objective="quasibinary", validation=0.2, training=training), tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a" / "history.jsonl").read_text().splitlines()]
    scores = [row["validation_map"] for row in rows]
    assert numbers["reported_epoch"] == 1 + scores.index(max(scores))
    model, _, _ = load_run(tmp_path / "a")
    data = load_run_data(RunConfig(data="toy", objective="quasibinary", validation=0.2, training=training))
    assert validation_metrics(model, data.validation)["validation_map"] == max(scores)


def test_calibrating_fits_one_number_on_the_held_out_part(tmp_path):
    plain = run(config("multi-label-softmax", 4, validation=0.2), tmp_path / "plain")
    fitted = run(config("multi-label-softmax", 4, validation=0.2, calibrate=True), tmp_path / "fitted")
    assert fitted["calibrated_temperature"] != 1
    assert fitted["test_map"] != 0
    assert fitted["test_f1_macro_at_k"] == plain["test_f1_macro_at_k"]
    model, _, _ = load_run(tmp_path / "fitted")
    assert float(model.objective.temperature) == pytest.approx(fitted["calibrated_temperature"])
    data = load_run_data(config("multi-label-softmax", 4, validation=0.2))
    model.objective.temperature.fill_(1.0)
    assert calibrate(model, data.validation)["temperature"] == pytest.approx(fitted["calibrated_temperature"])


def test_calibrating_a_quasibinary_classifier_makes_its_scores_sum_to_the_labels_held_out():
    data = load_run_data(config(validation=0.2))
    model = create_model(config(), data.train)
    calibrate(model, data.validation)
    q = model.objective.log_q(predict(model, data.validation).logits).exp()
    assert float(q.sum()) == pytest.approx(data.validation.labels.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibrate": True}, "calibrate needs held-out samples"),
        ({"objective": "zlpr", "calibrate": True, "validation": 0.2}, "ZLPR has nothing that held-out samples could"),
        ({"task": "one-vs-rest"}, "toy has any number of labels per sample: use --task multi-label, not one-vs-rest"),
        ({"data": "digits", "task": "multi-label"}, "digits has one label per sample: use --task one-vs-rest"),
        ({"data": "digits", "task": "zero-label"}, "digits has no training sample without a label"),
        ({"task": "many"}, "task is 'many': choose one of one-vs-rest, zero-label, multi-label"),
        ({"top_k": 0}, "top_k is 0"),
        ({"noise": "symmetric:0.2"}, "symmetric noise is for one"),
        ({"objective": "drainage"}, "DrainageLoss takes one: choose an objective for many labels"),
        ({"last_epochs": 2}, "last_epochs averages the accuracy"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(config(**settings), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_task_is_what_the_labels_are_for():
    digits = load_run_data(config(data="digits"))
    assert digits.task == "single-label"
    assert settle_task("one-vs-rest", digits.train) == "one-vs-rest"
    assert load_run_data(zero_label()).task == "zero-label"
    assert load_run_data(config()).task == "multi-label"


def test_unlabelling_takes_the_label_off_in_both_parts():
    before = load_run_data(config(data="digits"))
    data = load_run_data(zero_label())
    assert data.train.class_names == tuple("0123456")
    assert len(data.train) == len(before.train)
    for part, whole in ((data.train, before.train), (data.test, before.test)):
        assert np.array_equal(part.labels == -1, whole.labels >= 7)
        assert np.array_equal(part.labels[part.labels >= 0], whole.labels[whole.labels < 7])
    assert data.noise["kind"] == "unlabel"
    assert data.noise["rate_realised"] == pytest.approx((before.train.labels >= 7).mean())


def test_cifar60_40_unlabels_two_classes_of_each_superclass():
    names = tuple(f"class {i}" for i in range(100))
    part = Dataset("cifar100", np.zeros((200, 2, 2, 3), np.uint8), np.arange(200) % 100, names)
    splits, _ = apply_noise(Splits(part, part), "cifar60-40", mapping=None, seed=0)
    assert splits.train.num_classes == 60
    assert [int((s.labels == -1).sum()) for s in splits] == [80, 80]
    other = Splits(*(Dataset("other", part.inputs, part.labels, names) for _ in range(2)))
    with pytest.raises(ValueError, match="cifar60-40 names classes of cifar100, not of other: use unlabel:A,B"):
        apply_noise(other, "cifar60-40", mapping=None, seed=0)


def test_zero_label_runs_say_how_sure_they_are_of_what_has_no_label(tmp_path):
    numbers = run(zero_label(), tmp_path / "a")
    model, _, _ = load_run(tmp_path / "a")
    test = load_run_data(zero_label()).test
    p = predict(model, test).probabilities.numpy()
    unknown = test.labels == -1
    assert numbers["task"] == "zero-label"
    assert numbers["test_unknown_mean_max_confidence"] == pytest.approx(p[unknown].max(1).mean())
    assert numbers["test_unknown_mean_max_confidence"] < 1 / 7  # which a softmax cannot reach
    assert numbers["test_accuracy"] == pytest.approx((p[~unknown].argmax(1) == test.labels[~unknown]).mean())
    assert numbers["test_unknown_auroc"] > 0.9
    assert numbers["test_ece"] == pytest.approx(ct.metrics.ece(p[~unknown], test.labels[~unknown]))
    page = (tmp_path / "a" / "report.html").read_text()
    assert "no class (training): " in page
    assert "training samples were taken off: they are of no class" in page


def test_prediction_names_every_class_above_the_threshold(finished, tmp_path):
    folder, _ = finished
    test = make_sets(80, 1)
    p = predict(load_run(folder / "quasibinary")[0], test).probabilities.numpy()
    for threshold in (0.5, 0.1):
        out = tmp_path / f"{threshold}.csv"
        asked = None if threshold == 0.5 else threshold
        summary = write_predictions(folder / "quasibinary", "toy", out, threshold=asked)
        rows = rows_of(out)
        for row, scores, given in zip(rows, p, test.labels, strict=True):
            assert row["predicted"] == ";".join(np.array(CLASSES)[scores >= threshold])
            assert row["label"] == ";".join(np.array(CLASSES)[given == 1])
            found = [float(row[f"probability_{name}"]) for name in CLASSES]
            assert found == pytest.approx(scores.tolist(), abs=1e-5)
        assert summary["labels"] == (p >= threshold).sum()
        assert summary["thresholds"] == dict.fromkeys(CLASSES, threshold)
        assert {"map", "hamming_loss"} <= summary.keys()
    assert any(row["predicted"] == "" for row in rows_of(tmp_path / "0.5.csv"))


def test_thresholds_for_a_precision_are_chosen_on_what_was_held_out(finished, tmp_path):
    folder, _ = finished
    held_out = load_run_data(config(validation=0.2)).validation
    p = predict(load_run(folder / "quasibinary")[0], held_out).probabilities.numpy()
    summary = write_predictions(folder / "quasibinary", "toy", tmp_path / "a.csv", precision=0.8)
    for c, name in enumerate(CLASSES):
        t = summary["thresholds"][name]
        assert t in p[:, c]
        assert held_out.labels[p[:, c] >= t, c].mean() >= 0.8
        lower = [value for value in p[:, c] if value < t]
        assert all(held_out.labels[p[:, c] >= value, c].mean() < 0.8 for value in lower)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5: give a number from 0 to 1"),
        ({"precision": 0.0}, "precision is 0.0: give a number above 0 and up to 1"),
        ({"threshold": 0.5, "precision": 0.9}, "give one of them"),
        ({"calibration": "toy"}, "add --max-risk 0.05 or --precision 0.9"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(finished, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_predictions(finished[0] / "quasibinary", "toy", tmp_path / "a.csv", **options)
    assert not (tmp_path / "a.csv").exists()


def test_the_page_of_many_labels_has_its_figures(finished):
    folder, numbers = finished
    page = (folder / "quasibinary" / "report.html").read_text()
    for anchor in ("curves", "confidence", "scores", "panels", "suspects"):
        assert f'id="{anchor}"' in page
    assert 'id="confusion"' not in page
    assert f"expected calibration error {numbers['quasibinary']['test_ece_at_k']:.4f}" in page
    assert "Judged are the 4 highest classes of each sample" in page
    assert "The running log C, one for all samples" in page
    assert "no label (test): " in page
    assert page.count("✓") > 24  # the 24 samples that are shown have more right classes among their highest than one


def test_runs_on_many_labels_are_compared(finished, tmp_path):
    folder, _ = finished
    names = ("quasibinary", "multi-label-softmax")
    page = report.write_comparison([folder / name for name in names], tmp_path / "both.html").read_text()
    assert "Reliability: accuracy against confidence per bin." in page
    assert "Standard deviation of log Z over samples per epoch." in page
    assert "Log C per epoch." in page
    assert "Accuracy per class" not in page


def test_single_label_metrics_of_scores_that_do_not_sum_to_one():
    data = load_run_data(config(data="digits", objective="binary-cross-entropy"))
    test = data.test.select(np.arange(100))
    model = create_model(config("binary-cross-entropy", data="digits"), data.train)
    predictions = predict(model, test)
    found = prediction_metrics(model, predictions, test)
    p = predictions.probabilities
    assert found["ece_marginal"] == ct.metrics.ece(p, test.labels, kind="marginal")
    assert found["ece"] == ct.metrics.ece(p, test.labels)
    assert not {"nll", "brier", "share_above_one"} & found.keys()


def test_the_share_above_one_is_that_before_clipping():
    data = load_run_data(config())
    model = create_model(config(), data.train)
    model.objective.log_normalizer.fill_(float(predict(model, data.test).logits.double().quantile(0.75)))
    found = prediction_metrics(model, predict(model, data.test), data.test)
    assert found["share_above_one"] == pytest.approx(0.25, abs=0.01)


def test_the_command_trains_and_predicts_zero_labels(tmp_path, capsys):
    command = ["train", "--data", "digits", "--task", "zero-label", "--noise", "unlabel:7,8,9", "--epochs", "2"]
    command += ["--objective", "quasibinary", "--preset", "zero-label", "--device", "cpu", "--out", str(tmp_path / "a")]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "zero-label"
    saved = json.loads((tmp_path / "a" / "config.json").read_text())
    assert saved["training"]["milestones"] == [0.5, 0.75]
    assert (saved["training"]["batch_size"], saved["training"]["epochs"]) == (64, 2)


def test_the_papers_protocol_is_a_preset():
    for name in ("quasibinary", "binary-cross-entropy"):
        training = ct.preset(name, "zero-label")["training"]
        assert (training["epochs"], training["batch_size"], training["learning_rate"]) == (200, 64, 0.1)
        assert (training["schedule"], training["milestones"]) == ("milestones", (0.5, 0.75))
    assert ct.preset("quasibinary", "multi-label")["training"]["epochs"] == 20
