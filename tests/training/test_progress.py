import io

import pytest

from catchment.training import progress
from catchment.training.progress import EpochProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(epochs, **settings):
    with EpochProgress(epochs, "drainage", **settings) as bar:
        for epoch in range(1, epochs + 1):
            bar({"epoch": epoch, "train_loss": 1 / epoch, "validation_accuracy": 0.5})
    return bar


def test_off_a_terminal_the_first_and_the_last_epoch_are_lines_on_stderr(capsys):
    assert show(40).epoch == 40
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "drainage: epoch 1/40, loss 1.0000, validation accuracy 0.5000",
        "drainage: epoch 40/40, loss 0.0250, validation accuracy 0.5000",
    ]


def test_long_epochs_are_a_line_each(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    show(3)
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_shows_nothing(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream())
    assert show(3, quiet=True).epoch == 3
    assert progress.sys.stderr.getvalue() == ""


def test_on_a_terminal_a_bar_ends_at_the_last_epoch(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    show(3)
    shown = progress.sys.stderr.getvalue()
    assert "loss 0.3333, validation accuracy 0.5000" in shown
    assert "3/3" in shown
    assert "epoch 3/3" not in shown
