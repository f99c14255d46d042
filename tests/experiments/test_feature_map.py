"""The map of a run's features."""

import numpy as np
import pytest

from catchment.audit.evidence import outputs
from catchment.data import Dataset, Splits, load_data
from catchment.experiments import run as run_module
from catchment.experiments.feature_map import write_feature_map
from catchment.experiments.run import RunConfig, load_run, run
from catchment.files import write_json
from catchment.report import write_run_report
from catchment.report.summaries import neighbours_agree
from catchment.training import TrainingConfig

TRAINING = TrainingConfig(epochs=4, batch_size=64, seed=1, threads=1, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(RunConfig(objective="cross-entropy", training=TRAINING), folder)
    return folder


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_the_map_is_of_the_test_samples_and_is_on_the_page(folder):
    path = write_feature_map(folder, device="cpu", max_samples=200, seed=2)
    found = arrays(path)
    assert path == folder / "tsne.npz"
    test = load_data("digits").test
    assert (int(found["samples"]), int(found["seed"]), float(found["perplexity"])) == (360, 2, 30.0)
    assert found["coordinates"].shape == (200, 2)
    np.testing.assert_array_equal(found["label"], test.labels[found["index"]])
    model, _, _ = load_run(folder)
    expected = outputs(model, test)
    np.testing.assert_array_equal(found["predicted"], expected.probabilities.argmax(1)[found["index"]])
    # a trained net puts digits of one kind together; in the plane they stay so
    agree = neighbours_agree(found["coordinates"], found["label"])
    assert agree > 0.8
    text = write_run_report(folder).read_text()
    assert "t-SNE of the features of 200 random ones of 360 test samples (perplexity 30, seed 2)" in text
    assert f"In this plane {100 * agree:.1f} % have" in text


def test_the_same_run_gives_the_same_map(folder):
    first = arrays(write_feature_map(folder, device="cpu", max_samples=100))
    again = arrays(write_feature_map(folder, device="cpu", max_samples=100))
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)


def test_a_run_judged_on_its_validation_part_leaves_the_test_set_alone(tmp_path):
    config = RunConfig(objective="cross-entropy", validation=0.1, judged_on="validation", training=TRAINING)
    run(config, tmp_path / "run")
    found = arrays(write_feature_map(tmp_path / "run", device="cpu"))
    assert int(found["samples"]) == 144  # of 1,437 training samples
    assert "features of 144 validation samples" in write_run_report(tmp_path / "run").read_text()


def test_many_labels_and_unfinished_runs_are_refused(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 2, (60, 3)).astype(np.uint8)
    many = Dataset("toy", inputs, labels, ("a", "b", "c"), feature_names=tuple("wxyz"))
    monkeypatch.setattr(run_module, "load_data", lambda source, **options: Splits(many, many))
    run(RunConfig(data="toy", objective="quasibinary", training=TRAINING), tmp_path / "run")
    with pytest.raises(
        ValueError, match="has any number of labels per sample: a map of features is for one label each"
    ):
        write_feature_map(tmp_path / "run", device="cpu")
    (tmp_path / "unfinished").mkdir()
    write_json(tmp_path / "unfinished" / "config.json", {})
    with pytest.raises(ValueError, match="is not finished: catchment train --resume --out"):
        write_feature_map(tmp_path / "unfinished")
