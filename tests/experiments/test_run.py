import json
import sys

import numpy as np
import pytest
import torch

from catchment.experiments.run import WATCHED_LABELS, RunConfig, create_model, load_run, load_run_data, run
from catchment.training import TrainingConfig, predict


def config(seed=0, **settings):
    return RunConfig(training=TrainingConfig(epochs=1, threads=1, device="cpu", seed=seed), **settings)


def test_the_seed_decides_which_labels_become_wrong_and_what_is_held_out():
    first, again, other = (load_run_data(config(seed, noise="symmetric:0.3", validation=0.2)) for seed in (1, 1, 2))
    assert np.array_equal(first.train.labels, again.train.labels)
    assert first.validation.ids == again.validation.ids
    assert first.validation.ids != other.validation.ids
    wrong = [
        {i for i, given, true in zip(d.train.ids, d.train.labels, d.train.clean_labels, strict=True) if given != true}
        for d in (first, other)
    ]
    in_both = set(first.train.ids) & set(other.train.ids)
    assert wrong[0] & in_both != wrong[1] & in_both
    assert first.test.ids == other.test.ids  # the known test part is the same for every seed


def test_the_seed_decides_the_weights_and_nothing_else_does():
    dataset = load_run_data(config()).train
    torch.manual_seed(5)
    first = create_model(config(1), dataset).net.head.classifier.weight
    torch.manual_seed(6)
    assert torch.equal(create_model(config(1), dataset).net.head.classifier.weight, first)
    assert not torch.equal(create_model(config(2), dataset).net.head.classifier.weight, first)


def test_a_loaded_run_predicts_what_its_numbers_say(tmp_path):
    metrics = run(config(objective="cross-entropy"), tmp_path / "a")
    model, input_format, record = load_run(tmp_path / "a")
    assert not model.training
    assert input_format.class_names == tuple("0123456789")
    test = load_run_data(RunConfig.from_dict(record)).test
    p = predict(model, test).probabilities
    assert (p.argmax(1).numpy() == test.labels).mean() == pytest.approx(metrics["test_accuracy"])


def test_settings_survive_json():
    before = config(3, noise="asymmetric:0.4", drop_columns=("id",), parameters={"alpha": 0.1})
    assert RunConfig.from_dict(json.loads(json.dumps(before.to_dict()))) == before


def test_a_runs_config_json_gives_its_settings_back(tmp_path):
    before = config(3, noise="asymmetric:0.4", max_train_samples=300, validation=0.2, eval_every=1)
    run(before, tmp_path / "a")
    assert RunConfig.from_dict(json.loads((tmp_path / "a" / "config.json").read_text())) == before


def test_an_unfinished_run_is_not_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"is not finished: catchment train --resume --out {tmp_path}"):
        load_run(tmp_path)


@pytest.mark.parametrize("share", [1e-6, 0.9999])
def test_a_validation_share_that_leaves_a_part_empty_is_refused(share):
    with pytest.raises(ValueError, match="leaves one part empty"):
        load_run_data(config(validation=share))


def test_a_subset_has_the_same_shares_of_the_classes_for_every_seed():
    parts = [load_run_data(config(seed, max_train_samples=500, noise="symmetric:0.2")).train for seed in (0, 1)]
    whole = load_run_data(config()).train
    assert parts[0].ids == parts[1].ids
    assert len(parts[0]) == 500
    shares = np.bincount(parts[0].clean_labels) / 500 - np.bincount(whole.labels) / len(whole)
    assert np.abs(shares).max() < 1 / 500
    assert not np.array_equal(parts[0].labels, parts[1].labels)  # the noise is the seed's
    assert len(load_run_data(config(max_train_samples=5000)).train) == len(whole)
    with pytest.raises(ValueError, match="5 training samples are fewer than the 10 classes"):
        load_run_data(config(max_train_samples=5))


def test_tuning_judges_on_held_out_training_samples_and_leaves_the_test_set_alone(tmp_path, monkeypatch):
    tuning = config(7, noise="asymmetric:0.4", validation=0.2, validation_seed=42, judged_on="validation", eval_every=1)
    seen = []
    module = sys.modules["catchment.experiments.run"]
    real_predict = module.predict
    monkeypatch.setattr(module, "predict", lambda model, data: (seen.append(len(data)), real_predict(model, data))[1])
    metrics = run(tuning, tmp_path / "a")
    assert not any(key.startswith("test_") and key != "test_samples" for key in metrics)
    assert 0 < metrics["validation_accuracy"] < 1
    assert metrics["judged_on"] == "validation"
    # what the history watches, the held-out fifth of 1437 and the rest; never the 360 of the test part
    assert seen == [WATCHED_LABELS, 287, 1150]
    assert not (tmp_path / "a" / "evaluation.npz").exists()
    assert "test_accuracy" not in json.loads((tmp_path / "a" / "history.jsonl").read_text())
    again = load_run_data(RunConfig.from_dict({**tuning.to_dict(), "training": config(8).training.to_dict()}))
    assert again.validation.ids == load_run_data(tuning).validation.ids  # seed 42, whatever the run's seed


def test_validation_labels_are_noisy_unless_clean_ones_are_asked_for():
    noisy, clean = (
        load_run_data(config(noise="symmetric:0.4", validation=0.2, validation_labels=which)).validation
        for which in ("noisy", "clean")
    )
    assert noisy.ids == clean.ids
    assert 0.3 < (noisy.labels != clean.labels).mean() < 0.5
    assert np.array_equal(clean.labels, noisy.clean_labels)


def test_the_test_accuracy_of_the_history_changes_nothing_but_the_history(tmp_path):
    settings = {"noise": "symmetric:0.2"}
    training = TrainingConfig(epochs=5, threads=1, device="cpu")
    looked = run(RunConfig(training=training, eval_every=2, **settings), tmp_path / "looked")
    plain = run(RunConfig(training=training, **settings), tmp_path / "plain")
    rows = [json.loads(line) for line in (tmp_path / "looked" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "test_accuracy" in row] == [2, 4, 5]
    assert rows[-1]["test_accuracy"] == looked["test_accuracy"] == plain["test_accuracy"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("looked", "plain")]
    assert weights[0] == weights[1]


def test_the_seconds_of_a_run_are_those_of_its_epochs(tmp_path):
    metrics = run(config(), tmp_path / "a")
    row = json.loads((tmp_path / "a" / "history.jsonl").read_text())
    assert metrics["train_seconds"] == row["seconds"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_train_samples": -1}, "max_train_samples is -1: give a whole number of at least 0"),
        ({"eval_every": -2}, "eval_every is -2: give a whole number of at least 0"),
        ({"judged_on": "train"}, "judged_on is 'train': choose test or validation"),
        ({"judged_on": "validation"}, "judged on a validation set that is not held out"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_a_run_is_judged_by_other_sets_too(tmp_path):
    config = RunConfig(also_test=("digits",), training=TrainingConfig(epochs=1, seed=3))
    numbers = run(config, tmp_path / "run")
    of_test = {key.removeprefix("test_"): value for key, value in numbers.items() if key.startswith("test_")}
    also = {key.removeprefix("also_digits_"): v for key, v in numbers.items() if key.startswith("also_digits_")}
    del of_test["samples"]
    assert also == of_test
    assert {"accuracy", "nll", "ece"} <= also.keys()
    assert RunConfig.from_dict(json.loads((tmp_path / "run" / "config.json").read_text())).also_test == ("digits",)
