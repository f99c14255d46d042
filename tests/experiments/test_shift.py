"""Judged under shifted inputs: the numbers, what adapts the net, the run's folder, and the suites."""

import copy
import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import catchment as ct
from catchment import cli, metrics
from catchment.baselines.shift import adapt_batch_norm, tent
from catchment.data import Dataset
from catchment.disturb import corrupt
from catchment.experiments import shift
from catchment.experiments.bench import Pending
from catchment.experiments.results_table import collect
from catchment.experiments.run import RunConfig, run
from catchment.experiments.shift import MEASURES, Shift, ShiftRow, check_shift, evaluate_shift, summarise
from catchment.experiments.suite import Metric, Selection, find_suite, parse_suite, plan
from catchment.methods import create_objective
from catchment.objective import Model
from catchment.quantile import QuantileActivation, QuantileClassifier, adapt_context, set_context
from catchment.training import TrainingConfig

SIDE = 32


def stripes(count=120, seed=0):
    """Three classes by how bright the left half of an image is, with a little noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    images = rng.integers(60, 100, size=(count, SIDE, SIDE, 1))
    images[:, :, : SIDE // 2] += 25 * labels[:, None, None, None]
    return Dataset("stripes", images.astype(np.uint8), labels, ("dark", "middle", "bright"))


class Halves(nn.Module):
    """The mean of each half of an image, normalised, and a linear layer."""

    def __init__(self, *layers):
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(2, 3)

    def forward(self, x):
        features = self.layers(x.float().unflatten(3, (2, SIDE // 2)).mean((1, 2, 4)))
        return {"features": features, "logits": self.head(features)}


def fitted(dataset, *layers, objective=None):
    """Trained for a moment: good on what it was trained on."""
    torch.manual_seed(0)
    model = Model(Halves(*layers), objective or ct.CrossEntropy())
    x, y = torch.from_numpy(dataset.inputs).permute(0, 3, 1, 2), torch.from_numpy(dataset.labels)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(80):
        optimizer.zero_grad()
        model({"inputs": x, "target": y}).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def data():
    return stripes(), stripes(seed=1)


@pytest.fixture(scope="module")
def with_batch_norm(data):
    return fitted(data[0], nn.BatchNorm1d(2))


@pytest.fixture(scope="module")
def with_quantile(data):
    return fitted(data[0], QuantileActivation(2), objective=ct.CrossEntropy())


def by_reading(rows):
    return {(row.adaptation, row.corruption, row.severity): row for row in rows}


# ---- readings against the functions they stand for


def shuffled(test, condition=None):
    """The test images as the evaluation has them: in the order of seed 0, corrupted as image k of the set."""
    order = np.random.default_rng(0).permutation(len(test))
    images = test.inputs[order]
    if condition is not None:
        images = corrupt(images, *condition, "cifar", index=order)
    return torch.from_numpy(images).permute(0, 3, 1, 2), test.labels[order]


@pytest.mark.parametrize(("adaptation", "adapt"), [("batchnorm", adapt_batch_norm), ("tent", tent)])
def test_batch_norm_adaptation_and_tent_are_those_of_the_baselines(
    data, with_batch_norm, adaptation, adapt, monkeypatch
):
    monkeypatch.setattr(shift, "BATCH", 40)
    rows = by_reading(
        evaluate_shift(Shift("brightness,contrast", (5,), ("none", adaptation)), with_batch_norm, data[1])
    )
    assert len(rows) == 2 * 3
    for name, severity in (("clean", 0), ("brightness", 5), ("contrast", 5)):
        x, y = shuffled(data[1], None if severity == 0 else (name, severity))
        with torch.no_grad():
            plain = with_batch_norm.net(x)["logits"].softmax(1)
        adapted = adapt(with_batch_norm, x.split(40)).logits.softmax(1)
        for reading, p in (("none", plain), (adaptation, adapted)):
            row = rows[reading, name, severity]
            assert row.samples == 120
            assert row.accuracy == metrics.accuracy(p, y)
            assert row.ece == pytest.approx(metrics.ece(p, y), abs=1e-6)
            assert row.ece_marginal == pytest.approx(metrics.ece(p, y, kind="marginal"), abs=1e-6)
    # brighter images are all "bright" to stored statistics, and not to those of the batch
    assert rows["none", "clean", 0].accuracy > 0.95
    assert rows["none", "brightness", 5].accuracy < 0.5
    assert rows[adaptation, "brightness", 5].accuracy > 0.95


def test_contexts_of_quantile_activation(data, with_quantile):
    rows = by_reading(evaluate_shift(Shift("brightness", (5,), ("none", "batch", "context")), with_quantile, data[1]))
    x, y = shuffled(data[1], ("brightness", 5))
    model = copy.deepcopy(with_quantile)

    def accuracy():
        with torch.no_grad():
            return metrics.accuracy(model.net(x)["logits"].softmax(1), y)

    set_context(model.net, "running")
    with torch.no_grad():  # as trained, each sample counts by itself
        one_by_one = torch.cat([model.net(one)["logits"] for one in x.split(1)]).softmax(1)
    assert rows["none", "brightness", 5].accuracy == accuracy() == metrics.accuracy(one_by_one, y)
    set_context(model.net, "batch")
    assert rows["batch", "brightness", 5].accuracy == accuracy()
    adapt_context(model.net, [x])
    assert rows["context", "brightness", 5].accuracy == accuracy()
    assert rows["none", "brightness", 5].accuracy < 0.5 < 0.8 < rows["batch", "brightness", 5].accuracy


def test_map_at_k_is_of_the_features(data, with_batch_norm):
    row = by_reading(evaluate_shift(Shift("fog", (3,), ("batchnorm",)), with_batch_norm, data[1]))[
        "batchnorm", "fog", 3
    ]
    x, y = shuffled(data[1], ("fog", 3))
    adapted = adapt_batch_norm(with_batch_norm, [x]).model
    with torch.no_grad():  # one batch: the copy keeps its statistics
        assert row.map_at_k == pytest.approx(metrics.map_at_k(adapted.net(x)["features"], y, 100), abs=1e-6)
    assert 0.3 < row.map_at_k < 1


def test_the_model_is_left_alone(data, with_quantile):
    before = copy.deepcopy(with_quantile.state_dict())
    evaluate_shift(Shift("contrast", (1,), ("batch", "context")), with_quantile, data[1])
    assert all(torch.equal(value, before[name]) for name, value in with_quantile.state_dict().items())
    assert with_quantile.net.layers[0].context == "batch"
    assert not with_quantile.net._forward_hooks
    assert not with_quantile.training


def test_samples_are_the_same_for_every_corruption_and_keep_their_number(data, with_batch_norm):
    some = evaluate_shift(Shift("brightness", (5,), samples=30), with_batch_norm, data[1])
    assert [row.samples for row in some] == [30, 30]
    x, y = shuffled(data[1], ("brightness", 5))
    with torch.no_grad():
        p = with_batch_norm.net(x[:30])["logits"].softmax(1)
    assert some[1].accuracy == metrics.accuracy(p, y[:30])


def test_images_of_no_known_class_are_left_out(data, with_batch_norm):
    labels = data[1].labels.copy()
    labels[::2] = -1
    rows = evaluate_shift(Shift("fog", (1,)), with_batch_norm, replace(data[1], labels=labels))
    assert [row.samples for row in rows] == [60, 60]


# ---- last layers


def test_last_layers_are_fitted_on_the_training_features(data, with_batch_norm):
    readings = ("none/logistic", "none/quantile")
    rows = by_reading(evaluate_shift(Shift("contrast", (1,), readings), with_batch_norm, data[1], data[0]))
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(dataset):
        with torch.no_grad():
            return with_batch_norm.net(torch.from_numpy(dataset.inputs).permute(0, 3, 1, 2))["features"].numpy()

    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    p = regression.fit(features(data[0]), data[0].labels).predict_proba(features(data[1]))
    assert rows["none/logistic", "clean", 0].accuracy == metrics.accuracy(p, data[1].labels)
    assert rows["none/logistic", "clean", 0].ece == pytest.approx(metrics.ece(p, data[1].labels), abs=1e-6)
    torch.manual_seed(0)
    order = np.random.default_rng(0).permutation(len(data[1]))
    classifier = QuantileClassifier(2, 3).fit(torch.from_numpy(features(data[0])), torch.from_numpy(data[0].labels))
    with torch.no_grad():
        p = classifier(torch.from_numpy(features(data[1])[order]))
    judged = rows["none/quantile", "clean", 0]
    assert judged.accuracy == metrics.accuracy(p, data[1].labels[order])
    assert judged.ece_marginal == pytest.approx(metrics.ece(p, data[1].labels[order], kind="marginal"), abs=1e-6)
    assert rows["none/quantile", "clean", 0].map_at_k == rows["none/logistic", "clean", 0].map_at_k


def test_a_class_that_logistic_regression_never_saw_has_probability_0(data):
    seen = data[0].select(np.flatnonzero(data[0].labels != 1))
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(len(seen), 4)))
    p = shift._logistic(features, torch.from_numpy(seen.labels), 3)(features)
    assert (p[:, 1] == 0).all()
    assert p.sum(1).allclose(torch.ones(len(seen), dtype=torch.float64))


def test_a_last_layer_needs_training_images(data, with_batch_norm):
    with pytest.raises(ValueError, match="a last layer is fitted on the training images: give them"):
        evaluate_shift(Shift("fog", (1,), ("none/logistic",)), with_batch_norm, data[1])


# ---- summaries, by hand


def row(corruption, severity, accuracy, *, adaptation="none", ece=0.1, map_at_k=0.5):
    return ShiftRow(adaptation, corruption, severity, 100, accuracy, ece, 0.02, map_at_k)


def test_means_and_deviations_are_over_corruptions():
    rows = [row("clean", 0, 0.95), row("fog", 1, 0.9), row("snow", 1, 0.7), row("fog", 5, 0.5), row("snow", 5, 0.1)]
    found = summarise(rows)
    assert found["shift_accuracy_0"] == 0.95
    assert found["shift_accuracy_1"] == pytest.approx(0.8)
    assert found["shift_accuracy_5"] == pytest.approx(0.3)
    assert found["shift_accuracy"] == pytest.approx(0.55)  # over the severities above 0
    assert found["shift_accuracy_sd_1"] == pytest.approx(0.2 / 2**0.5)
    assert "shift_accuracy_sd_0" not in found
    assert found["shift_drop_0_1"] == pytest.approx(0.15)
    assert found["shift_drop_0_5"] == pytest.approx(0.65)
    assert found["shift_drop_1_5"] == pytest.approx(0.5)
    assert {f"shift_{measure}_{s}" for measure in MEASURES for s in (0, 1, 5)} <= found.keys()


def test_readings_have_their_own_keys_and_what_is_no_number_has_none():
    rows = [row("clean", 0, 0.9, adaptation=a, map_at_k=np.nan) for a in ("tent", "batch/quantile")]
    rows += [row("fog", 2, 0.6, adaptation=a, map_at_k=np.nan) for a in ("tent", "batch/quantile")]
    found = summarise(rows)
    assert found["shift_tent_accuracy_2"] == found["shift_batch_quantile_accuracy_2"] == 0.6
    assert found["shift_tent_drop_0_2"] == pytest.approx(0.3)
    assert not [name for name in found if "map_at_k" in name]


@pytest.mark.parametrize(
    ("key", "lower"),
    [
        ("shift_accuracy_5", False),
        ("shift_map_at_k_5", False),
        ("shift_ece_5", True),
        ("shift_ece_marginal_3", True),
        ("shift_ece", True),
        ("shift_drop_0_5", True),
        ("test_ece_at_k", True),
        ("test_unknown_fpr_at_95_tpr", True),
        ("test_accuracy", False),
    ],
)
def test_which_metrics_count_errors(key, lower):
    assert Metric(key, key).lower_is_better == lower


# ---- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": "fogg"}, "there is no corruption 'fogg': did you mean 'fog'"),
        ({"corruptions": "fog:3"}, "'fog:3' names a severity, and a file holds all 5: leave it out"),
        ({"severities": (0, 1)}, "severities are 0, 1: give rising whole numbers from 1 to 5"),
        ({"severities": (3, 1)}, "severities are 3, 1: give rising whole numbers from 1 to 5"),
        ({"severities": ()}, "severities are empty: give rising"),
        ({"severities": ("x",)}, "severities are x: give rising"),
        ({"adaptations": ("tnt",)}, "there is no adaptation 'tnt': did you mean 'tent'"),
        ({"adaptations": ("batch/logstic",)}, "there is no last layer 'logstic': did you mean 'logistic'"),
        ({"adaptations": ("none", "none")}, "adaptations are none, none: give each once"),
        ({"adaptations": ()}, "adaptations are empty: give each once, none at least"),
        ({"shift_samples": -1}, "shift_samples is -1: give a whole number of at least 0"),
        ({"corruptions": None, "severities": (1,)}, "severities and adaptations are of corruptions: name some"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**{"corruptions": "fog", **settings})


def test_what_the_net_or_the_images_cannot_take_is_refused(data, with_batch_norm, with_quantile):
    test = data[1]
    for adaptation, model, message in (
        ("batch", with_batch_norm, "adaptation batch is of quantile activation, which this net has not"),
        ("context", with_batch_norm, "adaptation context is of quantile activation"),
        ("tent", with_quantile, "adaptation tent is of BatchNorm, which this net has not"),
        ("batchnorm", with_quantile, "adaptation batchnorm is of BatchNorm"),
        (
            "tent",
            Model(with_batch_norm.net, ct.create_objective("quantile", num_classes=3)),
            "adaptation tent takes the entropy of probabilities, and those of QuantileLoss don't sum to 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_shift(Shift("fog", (1,), (adaptation,)), model, test)
    small = replace(test, inputs=test.inputs[:, :20, :20])
    with pytest.raises(ValueError, match="no constants are made for images of 20 pixels"):
        check_shift(Shift("fog"), with_batch_norm, small)
    with pytest.raises(
        ValueError, match="snow of severity 2 .* reaches over 21 pixels, but the images have 20: resize them"
    ):
        check_shift(Shift("snow", size="cifar"), with_batch_norm, small)
    table = Dataset("people", np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="people is a table, and corruptions are of images in memory"):
        check_shift(Shift("fog"), with_batch_norm, table)
    sets = replace(test, labels=np.eye(3, dtype=np.uint8)[test.labels])
    with pytest.raises(ValueError, match="stripes has several labels for an image: leave corruptions out"):
        check_shift(Shift("fog"), with_batch_norm, sets)


# ---- as part of a run


@pytest.fixture(scope="module")
def npz(tmp_path_factory, data):
    """Training images and test images in files."""
    folder = tmp_path_factory.mktemp("stripes")
    for name, dataset in zip(("train", "test"), data, strict=True):
        np.savez(folder / f"{name}.npz", X=dataset.inputs, y=dataset.labels)
    return folder


@pytest.fixture(scope="module")
def finished(npz):
    config = RunConfig(
        data=str(npz / "train.npz"), test=str(npz / "test.npz"), objective="cross-entropy", net="small-cnn",
        corruptions="contrast,fog", severities=(1, 5), adaptations=("none", "batchnorm"), shift_samples=60,
        training=TrainingConfig(epochs=1, threads=1, device="cpu"),
    )  # fmt: skip
    return config, run(config, npz / "run"), npz / "run"


def test_a_run_keeps_the_whole_table_and_sums_it_up(finished):
    config, numbers, folder = finished
    with (folder / "shift.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + 2 * 2)
    assert list(rows[0]) == ["adaptation", "corruption", "severity", "samples", *MEASURES]
    at_5 = [float(r["accuracy"]) for r in rows if (r["adaptation"], r["severity"]) == ("batchnorm", "5")]
    assert numbers["shift_batchnorm_accuracy_5"] == pytest.approx(np.mean(at_5))
    assert numbers["shift_accuracy_sd_5"] >= 0
    assert numbers["adaptations"] == ["none", "batchnorm"]
    assert RunConfig.from_dict(json.loads((folder / "config.json").read_text())) == config
    assert run(config, folder, resume=True) == numbers


def test_the_page_of_a_run_shows_accuracy_and_calibration_by_severity(finished):
    _, numbers, folder = finished
    page = (folder / "report.html").read_text()
    assert '<h2 id="shift">Shifted inputs</h2>' in page
    shown = f"{100 * numbers['shift_batchnorm_accuracy_5']:.1f} ± {100 * numbers['shift_batchnorm_accuracy_sd_5']:.1f}"
    assert f"<td>{shown}</td>" in page
    assert f"<td>{100 * numbers['shift_drop_0_5']:.2f}</td>" in page
    assert '<th scope="col">0 → 5</th>' in page


def test_a_run_without_corruptions_has_none_of_it(npz):
    config = RunConfig(
        data=str(npz / "train.npz"), test=str(npz / "test.npz"), objective="cross-entropy",
        training=TrainingConfig(epochs=1, threads=1, device="cpu"),
    )  # fmt: skip
    numbers = run(config, npz / "plain")
    assert not [name for name in numbers if name.startswith("shift_")]
    assert not (npz / "plain" / "shift.csv").exists()
    assert "Shifted inputs" not in (npz / "plain" / "report.html").read_text()


def test_what_cannot_be_judged_is_said_before_training(npz):
    config = RunConfig(
        data=str(npz / "train.npz"), net="mlp", objective="cross-entropy", corruptions="fog",
        adaptations=("batchnorm",), training=TrainingConfig(epochs=1, device="cpu"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="adaptation batchnorm is of BatchNorm, which this net has not"):
        run(config, npz / "none")
    assert not (npz / "none").exists()


def test_the_command_prints_both_tables_and_refuses_in_one_line(npz, capsys):
    command = ["train", "--data", str(npz / "train.npz"), "--objective", "cross-entropy", "--epochs", "1"]
    command += ["--device", "cpu", "--threads", "1", "--corruptions", "contrast", "--severities", "1,3"]
    assert cli.main([*command, "--adaptations", "none,batchnorm", "--out", str(npz / "by-command")]) == 0
    printed = capsys.readouterr().out
    assert "| accuracy, % | clean | severity 1 | severity 3 | mean without clean |" in printed
    assert "| accuracy lost, points | 0 → 1 | 0 → 3 | 1 → 3 |" in printed
    assert "| batchnorm |" in printed
    assert "shift_" not in printed
    for option, value, message in (
        ("--corruptions", "fogg", "there is no corruption 'fogg'"),
        ("--severities", "1,x", "severities are 1, x: give rising whole numbers from 1 to 5"),
        ("--adaptations", "tnt", "there is no adaptation 'tnt'"),
    ):
        assert cli.main([*command, option, value, "--out", str(npz / "refused")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


# ---- in a suite

SUITE = """
name = "small"
data = "train.npz"
test = "test.npz"
net = "small-cnn"
seeds = [0]
corruptions = "contrast"
severities = [5]
training = { epochs = 1, threads = 1 }
[[metrics]]
key = "shift_accuracy_5"
title = "accuracy at 5"
percent = true
[[methods]]
name = "as trained"
objective = "cross-entropy"
[[methods]]
name = "adapted"
objective = "cross-entropy"
adaptation = "batchnorm"
[[methods]]
name = "quantile"
objective = "cross-entropy"
activation = "quantile"
adaptation = "batch"
"""


def test_methods_that_differ_in_adaptation_are_readings_of_one_run(tmp_path):
    runs = plan(parse_suite(SUITE, "small.toml"), Selection())
    assert runs[0].key == runs[1].key != runs[2].key
    assert runs[0].config.adaptations == ("none", "batchnorm")
    assert [each.adaptation for each in runs] == ["none", "batchnorm", "batch"]
    assert runs[2].config.adaptations == ("batch",)
    assert [each.method for each in Pending(runs, tmp_path).runs] == ["as trained", "quantile"]
    only = plan(parse_suite(SUITE, "small.toml"), Selection(only=("adapted",)))
    assert [each.key for each in only] == [runs[1].key]  # the run is the same without the other row


def test_each_row_of_the_table_shows_its_own_adaptation():
    suite = parse_suite(SUITE, "small.toml")
    rows = [
        {
            "key": each.key, "budget": "paper", "setting": "matched", "disturbance": "none", "method": each.method,
            "variant": "", "seed": 0, "tuning": None, "status": "finished", "device_seconds": 1.0,
            "metrics": {"shift_accuracy_5": 0.4, "shift_batchnorm_accuracy_5": 0.9, "shift_batch_accuracy_5": 0.8},
            "hardware": {"cpu": "Abacus", "cores": "2", "memory": "4 GiB"}, "versions": {"torch": "2.6"},
        }
        for each in plan(suite, Selection())[1:]
    ]  # fmt: skip
    table = collect(suite, rows)
    assert ("shift", "corruptions contrast, severities 5, all test images, the same ones") in table.parts[0].protocol
    found = {row.method: row.cells["shift_accuracy_5"].values for row in table.rows}
    assert found == {"as trained": (40.0,), "adapted": (90.0,), "quantile": (80.0,)}


def test_budget_and_tuning():
    suite = parse_suite(SUITE.replace("severities", "shift_samples = 5000\nseverities"), "small.toml")
    assert {each.config.shift_samples for each in plan(suite, Selection())} == {5000}
    assert {each.config.shift_samples for each in plan(suite, Selection(budget="quick"))} == {400}
    suite = parse_suite(SUITE, "small.toml")
    assert {each.config.shift_samples for each in plan(suite, Selection(budget="quick"))} == {400}
    assert {each.config.corruptions for each in plan(suite, Selection(tuning="noisy"))} == {None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"contrast"', '"contrst"', "small.toml: there is no corruption 'contrst'"),
        ("[5]", "[6]", "small.toml: severities are 6: give rising"),
        ("[5]", '["5"]', "small.toml: severities are 5: give rising"),
        ('"batchnorm"', '"norm"', "small.toml: there is no adaptation 'norm'"),
        ('corruptions = "contrast"\nseverities = [5]', "", "small.toml: severities and adaptations are of corruptions"),
    ],
)
def test_a_suite_that_means_nothing_is_refused(old, new, message):
    assert old in SUITE
    with pytest.raises(ValueError, match=message):
        parse_suite(SUITE.replace(old, new), "small.toml")


@pytest.mark.parametrize("name", ["shift-cifar10", "shift-cifar100", "shift-tinyimagenet"])
def test_the_published_protocol(name):
    suite = parse_suite(*find_suite(name))
    runs = plan(suite, Selection(settings=("published",), seeds=(0,)))
    assert len({each.key for each in runs}) == 3 * 4  # losses x activations; last layers are readings
    for each in runs:
        config, training = each.config, each.config.training
        assert (config.validation, config.validation_seed) == (0.2, 42)
        assert (training.optimizer, training.learning_rate, training.schedule) == ("adam", 1e-3, "plateau")
        assert (training.step_size, training.step_factor, training.early_stopping) == (50, 0.1, 100)
        assert (config.corruptions, config.severities) == ("benchmark", (1, 2, 3, 4, 5))
    published = {(f.method, f.metric): f.value for f in suite.published}
    drop = {"shift-cifar10": (35.49, 16.86), "shift-cifar100": (36.87, 21.0), "shift-tinyimagenet": (21.49, 13.18)}
    assert published["CE, ReLU, logistic regression", "shift_drop_0_5"] == drop[name][0]
    assert published["CE, quantile, quantile classifier", "shift_drop_0_5"] == drop[name][1]
    augmix = plan(suite, Selection(settings=("augmix",), seeds=(0,)))[0].config.training
    assert (augmix.learning_rate, augmix.milestones, augmix.augmentation[-1]) == (5e-3, (0.5, 0.75, 0.875), "augmix:3")


def test_a_suite_with_the_triplet_loss_can_be_planned_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(ValueError, match=r'pip install "catchment\[metric\]"'):
        create_objective("ce-triplet", num_classes=2)
    suite = parse_suite(*find_suite("shift-cifar10"))
    assert sum(each.config.objective == "ce-triplet" for each in plan(suite, Selection(seeds=(0,)))) == 2 * 8


def test_shift_mnist_is_six_runs():
    runs = plan(parse_suite(*find_suite("shift-mnist")), Selection())
    assert len({each.key for each in runs}) == 2 * 3
    assert runs[0].config.adaptations == ("none", "batchnorm", "tent")
