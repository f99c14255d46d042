"""What is said while a suite runs: on a terminal and off it."""

import io
import sys

from suite_rows import failed, find_runs, finished, make_suite

from catchment.experiments.bench import Event
from catchment.experiments.bench_progress import BenchProgress
from catchment.experiments.suite import Metric

ACCURACY = Metric("test_accuracy", "accuracy", percent=True)


class Terminal(io.StringIO):
    """Looks like a terminal to whoever asks."""

    def isatty(self):
        return True


def as_terminal(monkeypatch):
    """Stderr as a terminal; to be called in the test itself, as pytest puts its own stderr back before each phase."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return sys.stderr


def two_runs(*changes):
    return find_runs(make_suite(*changes), disturbance="none", seeds=(0,))


def show(progress, run, row, epochs=2):
    progress(Event("started", run, {}))
    for epoch in range(1, epochs + 1):
        progress(Event("epoch", run, {"epoch": epoch, "train_loss": 1.0}))
    progress(Event("ended", run, row))


def test_off_a_terminal_there_is_a_line_per_ended_run(capsys):
    first, second = two_runs()
    with BenchProgress(2, ACCURACY) as progress:
        show(progress, first, finished(first, 0.91234, seconds=2.2))
        show(progress, second, finished(second, 0.5))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "[1/2] matched, none, cross-entropy, seed 0: accuracy 91.23 %, 3 s",
        "[2/2] matched, none, drainage, seed 0: accuracy 50 %, 2 s",
    ]
    assert (progress.ended, progress.failed) == (2, 0)


def test_a_share_is_shown_without_percent_and_a_missing_number_as_a_dash(capsys):
    first, second = two_runs()
    with BenchProgress(2, Metric("label_score_auroc", "AUROC")) as progress:
        show(progress, first, finished(first, 0.5, auroc=0.98765))
        show(progress, second, finished(second, 0.5))
    first_line, second_line = capsys.readouterr().err.splitlines()
    assert first_line.endswith("seed 0: AUROC 0.9877, 2 s")
    assert second_line.endswith("seed 0: AUROC -, 2 s")


def test_a_tuning_run_shows_what_it_was_judged_by(capsys):
    run, *_ = find_runs(make_suite(), disturbance="none", method="drainage", tuning="noisy")
    with BenchProgress(1, ACCURACY) as progress:
        show(progress, run, finished(run, 0.75))
    assert capsys.readouterr().err == (
        "[1/1] matched, none, drainage, l1=0, learning_rate=0.01, seed 0: accuracy 75 %, 2 s\n"
    )


def test_a_failed_run_says_its_error_on_one_line(capsys):
    first, second = two_runs()
    error = "RuntimeError: " + "a long story " * 30 + "[/b]"
    with BenchProgress(2, ACCURACY) as progress:
        show(progress, first, failed(first, error))
        show(progress, second, finished(second, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"[1/2] matched, none, cross-entropy, seed 0: failed: {error}"
    assert len(lines) == 2
    assert (progress.ended, progress.failed) == (2, 1)


def test_a_run_under_way_says_nothing_off_a_terminal(capsys):
    run, _ = two_runs()
    with BenchProgress(2, ACCURACY) as progress:
        progress(Event("started", run, {}))
        progress(Event("epoch", run, {"epoch": 1}))
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_the_runs_under_way_and_lines_of_the_ended_ones(monkeypatch):
    terminal = as_terminal(monkeypatch)
    first, second = two_runs()
    with BenchProgress(2, ACCURACY) as progress:
        progress(Event("started", first, {}))
        progress(Event("started", second, {}))
        progress(Event("epoch", first, {"epoch": 5}))
        tasks = {task.description: (task.completed, task.total) for task in progress._progress.tasks}
        assert tasks == {
            "runs": (0, 2),
            "  matched, none, cross-entropy, seed 0": (5, 20),
            "  matched, none, drainage, seed 0": (0, 20),
        }
        progress(Event("ended", first, finished(first, 0.5)))
        tasks = {task.description: task.completed for task in progress._progress.tasks}
        assert tasks == {"runs": 1, "  matched, none, drainage, seed 0": 0}
        progress(Event("ended", second, failed(second, "no memory")))
        assert [task.completed for task in progress._progress.tasks] == [2]
    assert "[1/2] matched, none, cross-entropy, seed 0: accuracy 50 %, 2 s" in terminal.getvalue()
    assert "drainage, seed 0: failed: no memory" in terminal.getvalue()


def test_names_with_brackets_are_shown_as_they_are(monkeypatch):
    terminal = as_terminal(monkeypatch)
    change = ('objective = "cross-entropy"', 'objective = "cross-entropy"\nname = "a [/b] [red]"')
    run, _ = two_runs(change, ("methods.cross-entropy", 'methods."a [/b] [red]"'))
    with BenchProgress(1, ACCURACY) as progress:
        progress(Event("started", run, {}))
        progress._progress.refresh()
        progress(Event("ended", run, finished(run, 0.5)))
    assert terminal.getvalue().count("a [/b] [red]") >= 2


def test_a_run_that_ends_without_having_started_here_is_counted(monkeypatch):
    """A worker that dies is told of by its parent."""
    terminal = as_terminal(monkeypatch)
    run, _ = two_runs()
    with BenchProgress(1, ACCURACY) as progress:
        progress(Event("ended", run, failed(run, "its process died")))
    assert progress.failed == 1
    assert "its process died" in terminal.getvalue()
