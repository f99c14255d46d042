import json

import numpy as np
import pytest
import torch

from catchment.experiments.run import RunConfig, create_model, load_run, load_run_data, run
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


def test_an_unfinished_run_is_not_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"is not finished: catchment train --resume --out {tmp_path}"):
        load_run(tmp_path)


@pytest.mark.parametrize("share", [1e-6, 0.9999])
def test_a_validation_share_that_leaves_a_part_empty_is_refused(share):
    with pytest.raises(ValueError, match="leaves one part empty"):
        load_run_data(config(validation=share))
