import dataclasses
import json

import pytest

from catchment.training.config import TrainingConfig, parse_step

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs", [0, -1, 2.5, NAN, INF, "30", None, True]),
        ("batch_size", [0, 1, -4, 2.5, NAN, "64", None]),
        ("optimizer", ["lion", "SGD", "", None]),
        ("learning_rate", [0, 0.0, -0.1, NAN, INF, "0.1", None]),
        ("momentum", [-0.1, NAN, INF, "0.9", None]),
        ("nesterov", ["yes", 1, None]),
        ("weight_decay", [-1e-9, NAN, INF, None]),
        ("l1", [-1e-9, NAN, INF, None]),
        ("schedule", ["linear", "Cosine", "", None]),
        ("step_size", [0, -1, 0.5, NAN, None]),
        ("step_factor", [-0.1, NAN, INF, None]),
        ("milestones", [(), (0.0,), (1.0,), (0.75, 0.5), (0.5, 0.5), (0.5, "0.75"), (2,), (NAN,)]),
        ("clip_norm", [-1, NAN, INF, None]),
        ("early_stopping", [-1, 0.5, NAN, None]),
        ("augmentation", [("rotate",), ("crop",), ("crop:",), ("crop:0",), ("crop:-1",), ("crop:²",), ("crop:2.5",),
                          ("flip:1",), ("crop:4", "flop"), (4,), "flip", 4]),
        ("bf16", ["no", None]),
        ("channels_last", ["no", None]),
        ("compile", ["no", None]),
        ("device", [0, None]),
        ("threads", [-1, 1.5, None]),
        ("workers", [-1, 1.5, None]),
        ("seed", [-1, 0.5, NAN, "0", None, 2**32]),
    ],
)  # fmt: skip
def test_a_bad_value_is_an_error_that_names_the_setting(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} (is|are|.*:)"):
            TrainingConfig(**{name: value})


def test_every_setting_is_covered_by_the_test_above():
    (mark,) = test_a_bad_value_is_an_error_that_names_the_setting.pytestmark
    assert {name for name, _ in mark.args[1]} == {field.name for field in dataclasses.fields(TrainingConfig)}


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 1, "batch_size": 2, "step_size": 1, "learning_rate": 1, "momentum": 0, "seed": 2**32 - 1},
        {"optimizer": "adam", "schedule": "constant", "step_factor": 0.0, "clip_norm": 0},
        {"optimizer": "adamw", "schedule": "plateau", "early_stopping": 3, "l1": 1e-4, "weight_decay": 5e-4},
        {"schedule": "step", "step_factor": 2.0, "nesterov": True, "augmentation": ("crop:4", "flip")},
        {"augmentation": (), "device": "cuda:1", "threads": 8, "bf16": True, "channels_last": True, "compile": True},
    ],
)
def test_settings_come_back_from_json(values):
    config = TrainingConfig(**values)
    for name, value in values.items():
        assert getattr(config, name) == value
    again = TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert type(again.augmentation) is type(config.augmentation)


def test_settings_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"step_factor is 1\.0.*plateau.*below 1"):
        TrainingConfig(schedule="plateau", step_factor=1.0)
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        TrainingConfig(nesterov=True, momentum=0.0)
    assert TrainingConfig(optimizer="adam", nesterov=True, momentum=0.0).nesterov  # of SGD alone


def test_a_missing_setting_takes_its_default_and_an_unknown_one_is_refused():
    assert TrainingConfig.from_dict({"epochs": 3}) == TrainingConfig(epochs=3)
    with pytest.raises(ValueError, match="there is no training setting 'epoch': it may be from another version"):
        TrainingConfig.from_dict({"epochs": 3, "epoch": 3})
    with pytest.raises(ValueError, match="epochs is 0"):
        TrainingConfig.from_dict({"epochs": 0})


def test_settings_can_not_be_changed_behind_the_checks():
    config = TrainingConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 0
    with pytest.raises(ValueError, match="epochs is 0"):
        dataclasses.replace(config, epochs=0)


def test_augmentation_steps():
    assert parse_step("crop:12") == ("crop", (12.0,))
