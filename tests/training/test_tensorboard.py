"""The history as TensorBoard's event files, read back with TensorBoard's own reader."""

import json
import sys

import pytest

from catchment.experiments.run import RunConfig, run
from catchment.files import read_jsonl
from catchment.training import TrainingConfig
from catchment.training.tensorboard import FOLDER, TensorBoardLog


def scalars(folder):
    """Name -> {epoch: value}, as TensorBoard shows them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / FOLDER))
    events.Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def row(epoch, loss):
    return {"epoch": epoch, "train_loss": loss, "learning_rate": 0.1 / epoch, "seconds": 0.5}


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard")


def test_the_event_files_of_a_run_hold_its_history(tensorboard, tmp_path):
    config = RunConfig(
        objective="cross-entropy",
        net="mlp",
        validation=0.2,
        eval_every=2,
        training=TrainingConfig(epochs=2, batch_size=256, threads=1, device="cpu"),
    )
    run(config, tmp_path / "a", tensorboard=True)
    history = read_jsonl(tmp_path / "a" / "history.jsonl")
    found = scalars(tmp_path / "a")
    assert found.keys() == {name for row in history for name in row} - {"epoch"}
    assert {"train_loss", "learning_rate", "seconds", "validation_accuracy", "test_accuracy"} <= found.keys()
    for name, values in found.items():
        expected = {row["epoch"]: row[name] for row in history if name in row}
        assert values == pytest.approx(expected, rel=1e-6), name
    assert found["test_accuracy"].keys() == {2}
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["epochs"] == 2


def test_no_event_files_unless_asked(tmp_path):
    training = TrainingConfig(epochs=1, batch_size=512, threads=1, device="cpu")
    run(RunConfig(objective="cross-entropy", net="mlp", training=training), tmp_path / "a")
    assert not (tmp_path / "a" / FOLDER).exists()


def test_a_resumed_run_replaces_the_epochs_it_trains_again(tensorboard, tmp_path):
    with TensorBoardLog(tmp_path) as log:
        for epoch, loss in enumerate([4.0, 3.0, 99.0, 98.0], start=1):
            log(row(epoch, loss))
    with TensorBoardLog(tmp_path) as log:  # from the checkpoint after epoch 2
        log(row(3, 2.0))
    assert scalars(tmp_path)["train_loss"] == {1: 4.0, 2: 3.0, 3: 2.0}


def test_nothing_is_written_before_the_first_epoch(tensorboard, tmp_path):
    with TensorBoardLog(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_breaks_keeps_what_it_had(tensorboard, tmp_path):
    log = TensorBoardLog(tmp_path)
    log(row(1, 4.0))
    log.__exit__(KeyError, KeyError(), None)
    assert scalars(tmp_path)["train_loss"] == {1: 4.0}


@pytest.mark.parametrize("module", ["tensorboard", "torch.utils.tensorboard"])
def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, module):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"^tensorboard is not installed: pip install \"catchment\[log\]\"$"):
        TensorBoardLog(tmp_path)
    with pytest.raises(ValueError, match=r"catchment\[log\]"):
        run(RunConfig(), tmp_path / "a", tensorboard=True)
    assert list(tmp_path.iterdir()) == []
