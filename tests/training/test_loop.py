import math

import numpy as np
import pytest
import torch
from tiny_objectives import SAMPLES, make_dataset, make_model, make_objectives

import catchment as ct
from catchment.files import read_jsonl
from catchment.training import TrainingConfig, predict, train
from catchment.training.checkpoint import NAME as CHECKPOINT
from catchment.training.checkpoint import Checkpointer
from catchment.training.loop import (
    HISTORY,
    add_l1_gradient,
    choose_device,
    choose_threads,
    make_optimizer,
    make_scheduler,
)

NAMES = tuple(make_objectives())
CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.1, threads=1, device="cpu")


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(autouse=True)
def checkpoint_after_every_epoch(monkeypatch):
    monkeypatch.setattr(Checkpointer.__init__, "__kwdefaults__", {"share": math.inf})


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_bits(name):
    results = []
    for _ in range(2):
        model, columns = make_model(name)
        result = train(model, make_dataset(), CONFIG, columns=columns)
        results.append((weights(model), [row["train_loss"] for row in result.history]))
    assert results[0][1][-1] < results[0][1][0]
    assert results[0][1] == results[1][1]
    assert_same_bits(results[0][0], results[1][0])
    model, columns = make_model(name)
    train(model, make_dataset(), TrainingConfig(**{**CONFIG.to_dict(), "seed": 1}), columns=columns)
    assert not torch.equal(results[0][0]["net.body.weight"], model.net.body.weight)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_resumes_to_the_same_bits(name, tmp_path):
    whole, columns = make_model(name)
    train(whole, make_dataset(), CONFIG, columns=columns, folder=_made(tmp_path / "whole"))
    expected = weights(whole)

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    interrupted, columns = make_model(name)
    folder = _made(tmp_path / "interrupted")
    with pytest.raises(Stop):
        train(interrupted, make_dataset(), CONFIG, columns=columns, folder=folder, on_epoch=stop)
    resumed, columns = make_model(name, seed=99)  # other initial weights: all must come from the checkpoint
    result = train(resumed, make_dataset(), CONFIG, columns=columns, folder=folder, resume=True)
    assert_same_bits(weights(resumed), expected)
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert read_jsonl(folder / HISTORY) == result.history


def test_history_rows_after_the_checkpoint_are_trained_again_once(tmp_path):
    model, _ = make_model("drainage")
    train(model, make_dataset(), TrainingConfig(**{**CONFIG.to_dict(), "epochs": 2}), folder=tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    (tmp_path / HISTORY).write_text(
        (tmp_path / HISTORY).read_text() + '{"epoch": 3, "train_loss": 0.5}\n{"epoch": 4, "tr'
    )
    resumed, _ = make_model("drainage")
    longer = TrainingConfig(**{**CONFIG.to_dict(), "epochs": 3})
    train(resumed, make_dataset(), longer, folder=tmp_path, resume=True)
    rows = read_jsonl(tmp_path / HISTORY)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[:2] == state["history"]
    assert rows[2]["train_loss"] != 0.5


def test_the_loop_is_the_plain_one_written_out():
    """Five steps by hand: cosine schedule, L1 outside the loss and before clipping, momentum."""
    config = TrainingConfig(
        epochs=2, batch_size=SAMPLES, learning_rate=0.3, l1=0.01, clip_norm=0.5, threads=1, device="cpu"
    )
    model, _ = make_model("drainage")
    by_hand, _ = make_model("drainage")
    train(model, make_dataset(), config)
    data = make_dataset()
    parameters = list(by_hand.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    for epoch in range(2):
        logits = by_hand.net(torch.from_numpy(data.inputs))["logits"]
        loss = ct.drainage_loss(logits, torch.from_numpy(data.labels), alpha=0.1)
        loss = loss + 0.01 * sum(p.abs().sum() for p in parameters)
        grads = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum(g.square().sum() for g in grads))
        assert norm > 0.5
        learning_rate = 0.3 * (1 + math.cos(math.pi * epoch / 2)) / 2
        for p, g, v in zip(parameters, grads, velocity, strict=True):
            v.mul_(0.9).add_(g * 0.5 / norm)
            p.data.sub_(learning_rate * v)
    for trained, expected in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-5, atol=1e-6)


def test_l1_gradient_is_that_of_the_norm():
    parameter = torch.nn.Parameter(torch.tensor([2.0, -0.5, 0.0]))
    frozen = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 1.0, 1.0])
    add_l1_gradient([parameter, frozen], 0.1)
    torch.testing.assert_close(parameter.grad, torch.tensor([1.1, 0.9, 1.0]))
    assert frozen.grad is None


def test_optimizers_and_schedules():
    parameter = [torch.nn.Parameter(torch.ones(1))]

    def rates(**settings):
        config = TrainingConfig(epochs=4, learning_rate=1.0, **settings)
        optimizer = make_optimizer(parameter, config)
        scheduler = make_scheduler(optimizer, config)
        seen = []
        for _ in range(4):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step(*([1.0] if config.schedule == "plateau" else []))
        return seen

    assert rates(schedule="cosine") == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])
    assert rates(schedule="step", step_size=2, step_factor=0.5) == pytest.approx([1, 1, 0.5, 0.5])
    assert rates(schedule="milestones", milestones=(0.25, 0.75), step_factor=0.5) == pytest.approx([1, 0.5, 0.5, 0.25])
    assert rates(schedule="plateau", step_size=1, step_factor=0.1) == pytest.approx([1, 1, 1, 0.1])
    assert rates(schedule="constant") == [1, 1, 1, 1]
    assert type(make_optimizer(parameter, TrainingConfig(optimizer="adam"))) is torch.optim.Adam
    adamw = make_optimizer(parameter, TrainingConfig(optimizer="adamw", weight_decay=0.1))
    assert type(adamw) is torch.optim.AdamW
    assert adamw.param_groups[0]["weight_decay"] == 0.1
    sgd = make_optimizer(parameter, TrainingConfig(momentum=0.8, nesterov=True))
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.8, True)


def test_early_stopping_restores_and_reports_the_best_validation_epoch():
    data = make_dataset()
    # A learning rate that wrecks the model after a while: the best epoch is not the last.
    config = TrainingConfig(
        epochs=30,
        batch_size=8,
        learning_rate=5.0,
        schedule="constant",
        clip_norm=0,
        early_stopping=3,
        threads=1,
        device="cpu",
    )
    seen = {}
    model, _ = make_model("cross-entropy")

    def remember(row):
        seen[row["epoch"]] = (row["validation_accuracy"], weights(model))

    result = train(model, data, config, validation=make_dataset(12), on_epoch=remember)
    best = max(seen, key=lambda epoch: (seen[epoch][0], -epoch))
    assert result.reported_epoch == best
    assert len(result.history) == min(best + 3, 30)
    assert best < len(result.history)
    assert_same_bits(weights(model), seen[best][1])


def test_of_equally_good_validation_epochs_the_first_counts(monkeypatch):
    accuracies = iter([0.5, 0.8, 0.8, 0.7, 0.8, 0.9])
    monkeypatch.setattr(
        "catchment.training.loop.validation_metrics",
        lambda model, dataset: {"validation_accuracy": next(accuracies), "validation_nll": 1.0},
    )
    model, _ = make_model("cross-entropy")
    config = TrainingConfig(**{**CONFIG.to_dict(), "epochs": 6, "early_stopping": 3})
    result = train(model, make_dataset(), config, validation=make_dataset(12))
    assert result.reported_epoch == 2
    assert len(result.history) == 5


def test_dropout_depends_on_seed_and_epoch_alone(tmp_path):
    def with_dropout():
        model, _ = make_model("drainage")
        model.net.body = torch.nn.Sequential(model.net.body, torch.nn.Dropout(0.5))
        return model

    whole, resumed = with_dropout(), with_dropout()
    torch.manual_seed(1)
    train(whole, make_dataset(), CONFIG)
    torch.manual_seed(2)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(with_dropout(), make_dataset(), CONFIG, folder=tmp_path, on_epoch=stop)
    torch.manual_seed(3)
    train(resumed, make_dataset(), CONFIG, folder=tmp_path, resume=True)
    assert_same_bits(weights(resumed), weights(whole))


def test_without_early_stopping_the_last_epoch_counts_whatever_validation_says():
    model, _ = make_model("cross-entropy")
    last = {}
    result = train(
        model, make_dataset(), CONFIG, validation=make_dataset(12), on_epoch=lambda row: last.update(weights(model))
    )
    assert result.reported_epoch == 4
    assert_same_bits(weights(model), last)


def test_columns_may_be_functions_of_the_inputs_and_their_index():
    seen = []
    other = torch.randn(SAMPLES, 3)

    def column(inputs, index):
        assert not torch.is_grad_enabled()
        seen.append((inputs, index))
        return other[index]

    by_function, _ = make_model("other-logits")
    train(by_function, make_dataset(), CONFIG, columns={"noise_robust_logits": column})
    by_array, _ = make_model("other-logits")
    train(by_array, make_dataset(), CONFIG, columns={"noise_robust_logits": other.numpy()})
    assert_same_bits(weights(by_function), weights(by_array))
    inputs, index = seen[0]
    assert torch.equal(inputs, torch.from_numpy(make_dataset().inputs)[index])


def test_bf16_channels_last_and_compile_train_alike():
    def final_loss(**settings):
        model, _ = make_model("drainage")
        return train(model, make_dataset(), TrainingConfig(**{**CONFIG.to_dict(), **settings})).history[-1][
            "train_loss"
        ]

    assert final_loss(bf16=True) == pytest.approx(final_loss(), rel=0.05)
    assert final_loss(bf16=True) != final_loss()
    assert final_loss(channels_last=True) == pytest.approx(final_loss(), rel=1e-5)


def test_compile_gives_the_same_training(monkeypatch):
    plain, _ = make_model("drainage")
    train(plain, make_dataset(), CONFIG)
    compiled, _ = make_model("drainage")
    calls = []
    original = ct.Model.compile
    monkeypatch.setattr(ct.Model, "compile", lambda self: (calls.append(1), original(self, backend="aot_eager"))[1])
    train(compiled, make_dataset(), TrainingConfig(**{**CONFIG.to_dict(), "compile": True}))
    assert calls == [1]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_training_leaves_threads_and_the_global_generator_alone():
    threads = torch.get_num_threads()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    model, _ = make_model("drainage", seed=4)
    torch.manual_seed(4)
    train(model, make_dataset(), CONFIG)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_resuming_under_another_number_of_threads_warns(tmp_path):
    model, _ = make_model("drainage")
    train(model, make_dataset(), TrainingConfig(**{**CONFIG.to_dict(), "epochs": 2}), folder=tmp_path)
    resumed, _ = make_model("drainage")
    config = TrainingConfig(**{**CONFIG.to_dict(), "threads": 2})
    with pytest.warns(UserWarning, match="started with 1 threads and goes on with 2"):
        result = train(resumed, make_dataset(), config, folder=tmp_path, resume=True)
    assert (result.threads, len(result.history)) == (2, CONFIG.epochs)


def test_small_steps_get_one_thread_and_large_ones_torchs_own():
    model, _ = make_model("drainage")
    assert choose_threads(model, torch.zeros(8, 4)) == 1
    wide = ct.Model(_Wide(), ct.CrossEntropy())
    assert choose_threads(wide, torch.zeros(64, 4000)) == torch.get_num_threads()


def test_a_checkpoint_takes_no_more_than_its_share_of_the_time(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 22.0, 23.0])  # a save takes 1 s; the next may come 20 s after it
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    checkpointer = Checkpointer(tmp_path, share=0.05)
    checkpointer.save({"epoch": 1})
    checkpointer.save({"epoch": 2})
    assert torch.load(tmp_path / CHECKPOINT)["epoch"] == 1
    checkpointer.save({"epoch": 3})
    assert torch.load(tmp_path / CHECKPOINT)["epoch"] == 3


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda labels: np.full_like(labels, -100), CONFIG, "no labelled sample"),
        (lambda labels: np.where(labels == 2, -1, labels), CONFIG, "13 training samples are labelled -1"),
        (lambda labels: labels, TrainingConfig(early_stopping=3), "early stopping needs a validation set"),
        (lambda labels: labels, TrainingConfig(learning_rate=1e30, clip_norm=0, threads=1), "lower the learning rate"),
    ],
)
def test_bad_training_sets_and_settings_say_what_to_do(change, config, message):
    data = make_dataset()
    model, _ = make_model("drainage")
    with pytest.raises(ValueError, match=message):
        train(model, data.__class__(data.name, data.inputs, change(data.labels), data.class_names), config)


def test_a_missing_column_is_named():
    model, _ = make_model("other-logits")
    with pytest.raises(ValueError, match="needs the column 'noise_robust_logits'"):
        train(model, make_dataset(), CONFIG)


@pytest.mark.parametrize("device", ["gpu", "cuda:97"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"device '{device}' can't be used here"):
        choose_device(device)


def test_ignored_samples_are_left_out():
    data = make_dataset()
    labels = data.labels.copy()
    labels[:10] = -100
    spoiled = data.inputs.copy()
    spoiled[:10] = 1e3
    results = []
    for inputs in (data.inputs, spoiled):
        model, _ = make_model("cross-entropy")
        config = TrainingConfig(epochs=2, batch_size=SAMPLES, threads=1, device="cpu")
        train(model, data.__class__(data.name, inputs, labels, data.class_names), config)
        results.append(weights(model))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name])


def test_predictions_after_training_are_good():
    model, _ = make_model("drainage")
    train(model, make_dataset(), TrainingConfig(**{**CONFIG.to_dict(), "epochs": 20}))
    p = predict(model, make_dataset()).probabilities
    assert (p.argmax(1).numpy() == make_dataset().labels).mean() > 0.9


class _Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4000, 4000)

    def forward(self, x):
        return {"features": x, "logits": self.layer(x)}


def _made(folder):
    folder.mkdir()
    return folder


def test_what_is_watched_comes_after_every_epoch_and_decides_nothing(tmp_path):
    seen = []

    def watch(model):
        seen.append(model.training)
        return {"watched": len(seen) / 10}

    model, columns = make_model(NAMES[0])
    result = train(model, make_dataset(), CONFIG, columns=columns, folder=_made(tmp_path / "run"), watch=watch)
    assert [row["watched"] for row in result.history] == [0.1, 0.2, 0.3, 0.4]
    assert [row["watched"] for row in read_jsonl(tmp_path / "run" / HISTORY)] == [0.1, 0.2, 0.3, 0.4]
    alone, columns = make_model(NAMES[0])
    train(alone, make_dataset(), CONFIG, columns=columns)
    assert_same_bits(weights(model), weights(alone))
