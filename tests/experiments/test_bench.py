"""Every run once: whatever fails, whoever is killed, however many runners share the folder."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import tiny_suite

from catchment.experiments import bench
from catchment.experiments.bench import FAILED, FINISHED, open_folder, run_all
from catchment.experiments.suite import Selection, find_suite, parse_suite, plan
from catchment.files import append_jsonl, read_jsonl


@pytest.fixture(autouse=True)
def _pages_cost_nothing(monkeypatch):
    """A page takes longer to draw than these runs take; what pages hold is tested elsewhere."""
    monkeypatch.setattr("catchment.report.write_run_report", lambda folder: (folder / "report.html").write_text("page"))


@pytest.fixture
def opened(tmp_path):
    return tiny_suite.open_suite(tmp_path)


def results(out):
    return read_jsonl(out / bench.RESULTS)


def keys_with_status(out, status):
    return Counter(row["key"] for row in results(out) if row["status"] == status)


def test_every_run_is_done_once_and_recorded_with_all_that_is_needed(opened):
    runs, out = opened
    assert len(runs) == 8
    events = []
    run_all(runs, out, workers=1, device="cpu", listen=events.append)
    rows = results(out)
    assert Counter(row["key"] for row in rows) == Counter(run.key for run in runs)
    assert {row["status"] for row in rows} == {FINISHED}
    kinds = Counter(event.kind for event in events)
    assert kinds == {"started": 8, "epoch": 16, "ended": 8}
    for run, row in zip(runs, rows, strict=True):  # one worker goes through them in order
        assert (row["disturbance"], row["method"], row["seed"]) == (run.disturbance, run.method, run.seed)
        numbers = json.loads((out / bench.RUNS / run.key / "metrics.json").read_text())
        assert row["metrics"]["test_accuracy"] == numbers["test_accuracy"]
        assert row["device_seconds"] == numbers["train_seconds"]
        assert (out / bench.RUNS / run.key / "report.html").exists()
        assert row["noise"]["rate_asked"] == (0.2 if run.disturbance == "symmetric 0.2" else None)
        assert {"catchment", "torch", "numpy", "python"} == row["versions"].keys()
        assert {"cpu", "cores", "memory"} == row["hardware"].keys()
    before = (out / bench.RESULTS).read_bytes()
    run_all(runs, out, workers=1, device="cpu", listen=lambda event: pytest.fail("a finished run was run again"))
    assert (out / bench.RESULTS).read_bytes() == before


def test_a_failed_run_is_recorded_the_others_go_on_and_the_next_call_tries_again(tmp_path, monkeypatch):
    runs, out = tiny_suite.open_suite(tmp_path)
    broken = runs[1]
    real_run = bench.run

    def run(config, folder, **options):
        if config == broken.config or folder.name == broken.key:
            raise RuntimeError("the net\nexploded")
        return real_run(config, folder, **options)

    monkeypatch.setattr(bench, "run", run)
    run_all(runs, out, workers=1, device="cpu")
    assert keys_with_status(out, FAILED) == {broken.key: 1}
    assert len(keys_with_status(out, FINISHED)) == 7
    row = next(row for row in results(out) if row["status"] == FAILED)
    assert row["error"] == "RuntimeError: the net exploded"
    error = out / bench.RUNS / broken.key / bench.ERROR
    assert "Traceback" in error.read_text()
    run_all(runs, out, workers=1, device="cpu")
    assert keys_with_status(out, FAILED) == {broken.key: 2}
    monkeypatch.undo()
    run_all(runs, out, workers=1, device="cpu")
    assert keys_with_status(out, FINISHED) == {run.key: 1 for run in runs}
    assert not error.exists()


def test_equal_runs_of_two_settings_are_done_once(tmp_path):
    text = tiny_suite.TEXT + "[settings.matched]\n[settings.published]\nmethods.drainage = { learning_rate = 0.01 }\n"
    runs, out = tiny_suite.open_suite(tmp_path, text)
    assert len(runs) == 16
    run_all(runs, out, workers=1, device="cpu")
    assert len(results(out)) == 12  # cross-entropy's four are the same in both


def test_a_run_that_ended_without_being_recorded_is_recorded_and_not_trained_again(opened):
    runs, out = opened
    run_all(runs[:1], out, workers=1, device="cpu")
    recorded = results(out)
    (out / bench.RESULTS).unlink()
    events = []
    run_all(runs[:1], out, workers=1, device="cpu", listen=events.append)
    assert [event.kind for event in events] == ["started", "ended"]
    assert [row["metrics"] for row in results(out)] == [row["metrics"] for row in recorded]


def slow_runner(runs, out, seconds_per_flush):
    """In a forked process: a runner on a disk so slow that two of them meet."""
    real_fsync = os.fsync
    os.fsync = lambda file: (time.sleep(seconds_per_flush), real_fsync(file))
    run_all(runs, out, workers=1, device="cpu")


def start_runner(runs, out, seconds_per_flush=0.03):
    process = multiprocessing.get_context("fork").Process(target=slow_runner, args=(runs, out, seconds_per_flush))
    process.start()
    return process


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_runners_on_one_folder_share_the_runs(opened):
    runs, out = opened
    run_all(runs[:1], out, workers=1, device="cpu")  # imports are paid before the fork
    runners = [start_runner(runs, out) for _ in range(2)]
    for runner in runners:
        runner.join(60)
        assert runner.exitcode == 0  # each waits until all runs have ended, whoever did them
    assert keys_with_status(out, FINISHED) == {run.key: 1 for run in runs}
    assert keys_with_status(out, FAILED) == {}
    first_to_last = [row["finished_at"] for row in results(out)[1:]]
    spans = [(row["finished_at"] - row["wall_seconds"], row["finished_at"]) for row in results(out)[1:]]
    overlaps = sum(a[0] < b[1] and b[0] < a[1] for i, a in enumerate(spans) for b in spans[:i])
    assert overlaps > 0  # they did work at the same time
    assert first_to_last == sorted(first_to_last)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_bench_killed_again_and_again_ends_with_every_run_once(tmp_path):
    runs, out = tiny_suite.open_suite(tmp_path, tiny_suite.TEXT.replace("epochs = 2", "epochs = 6"))
    for ended in (1, 3, 4):
        runner = start_runner(runs, out)
        while len(results(out)) < ended:
            time.sleep(0.01)
        time.sleep(0.1)  # into the next run
        os.kill(runner.pid, signal.SIGKILL)
        runner.join()
    assert 4 <= len(results(out)) < 8
    run_all(runs, out, workers=1, device="cpu")
    assert keys_with_status(out, FINISHED) == {run.key: 1 for run in runs}
    for run in runs:
        history = read_jsonl(out / bench.RUNS / run.key / "history.jsonl")
        assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    alone = tmp_path / "alone"
    alone.mkdir()
    open_folder(*load(tmp_path), alone)
    run_all(runs, alone, workers=1, device="cpu")
    accuracies = [{row["key"]: row["metrics"]["test_accuracy"] for row in results(o)} for o in (out, alone)]
    assert accuracies[0] == accuracies[1]


def load(folder):
    text, where = find_suite(str(folder / "tiny.toml"))
    return parse_suite(text, where), text, where


def test_workers_share_the_runs_and_the_death_of_one_is_a_failed_run(opened):
    runs, out = opened
    killed = []

    def kill_first(event):
        if event.kind == "started" and not killed:
            # the worker that began it waits for nothing, so it may be one epoch further by now
            killed.append(event.run.key)
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGKILL)

    run_all(runs[:4], out, workers=2, device="cpu", listen=kill_first)
    failed = [row for row in results(out) if row["status"] == FAILED]
    assert killed[0] in {row["key"] for row in results(out)}
    assert all("its process died (signal 9)" in row["error"] for row in failed)
    assert {row["key"] for row in results(out)} == {run.key for run in runs[:4]}
    run_all(runs[:4], out, workers=1, device="cpu")
    assert keys_with_status(out, FINISHED) == {run.key: 1 for run in runs[:4]}


def test_workers_end_with_their_runner(tmp_path):
    path = tiny_suite.write_suite(tmp_path, tiny_suite.TEXT.replace("epochs = 2", "epochs = 2000"))
    command = [sys.executable, "-m", "catchment", "bench", str(path), "--workers", "2", "--device", "cpu"]
    runner = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    histories = []
    while len(histories) < 2:
        assert runner.poll() is None, runner.stderr.read()
        time.sleep(0.1)
        histories = list((tmp_path / "out" / bench.RUNS).glob("*/history.jsonl"))
    runner.kill()
    runner.wait()
    with runner.stderr:  # ends when the workers do, who share it
        assert "Traceback" not in runner.stderr.read()
    before = [len(read_jsonl(path)) for path in histories]
    time.sleep(2 * bench.LOOK_AGAIN)
    assert [len(read_jsonl(path)) for path in histories] == before
    assert read_jsonl(tmp_path / "out" / bench.RESULTS) == []


def test_a_torn_last_line_is_cut_off_and_said(opened):
    runs, out = opened
    run_all(runs[:2], out, workers=1, device="cpu")
    whole = (out / bench.RESULTS).read_bytes()
    with (out / bench.RESULTS).open("ab") as file:
        file.write(b'{"key": "0123", "sta')
    notes = open_folder(*load(out.parent), out)
    assert notes == [f"the last line of {out / bench.RESULTS} was torn, as a killed writer leaves it: cut off"]
    assert (out / bench.RESULTS).read_bytes() == whole
    assert open_folder(*load(out.parent), out) == []


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(opened, tmp_path):
    _, out = opened
    suite, text, where = load(tmp_path)
    other = parse_suite(text.replace('name = "tiny"', 'name = "other"'), where)
    with pytest.raises(ValueError, match="holds results of the suite tiny: choose another --out"):
        open_folder(other, text, where, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no results of a suite: choose another --out"):
        open_folder(suite, text, where, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file: choose another --out"):
        open_folder(suite, text, where, tmp_path / "mine" / "thesis.txt")


def test_a_changed_suite_keeps_what_is_the_same(opened, tmp_path):
    runs, out = opened
    run_all(runs, out, workers=1, device="cpu")
    changed = tiny_suite.TEXT.replace("alpha = 0.5", "alpha = 1.0")
    (tmp_path / "tiny.toml").write_text(changed)
    suite, text, where = load(tmp_path)
    assert open_folder(suite, text, where, out) == [
        f"tiny has changed since {out} began: runs that are still the same are kept"
    ]
    run_all(plan(suite, Selection()), out, workers=1, device="cpu")
    assert len(results(out)) == 12


def test_a_result_that_cannot_be_written_stops_the_bench(opened, monkeypatch):
    runs, out = opened

    def full(path, row):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(bench, "append_jsonl", full)
    with pytest.raises(OSError, match="No space left"):
        run_all(runs, out, workers=1, device="cpu")
    monkeypatch.undo()
    run_all(runs, out, workers=1, device="cpu")
    assert keys_with_status(out, FINISHED) == {run.key: 1 for run in runs}


def test_a_run_that_another_process_holds_is_waited_for(opened, monkeypatch):
    runs, out = opened
    monkeypatch.setattr(bench, "LOOK_AGAIN", 0.01)
    waits = []

    def wait(seconds):  # meanwhile the other runner finishes it
        waits.append(seconds)
        if len(waits) == 3:
            claim.__exit__(None, None, None)
            append_jsonl(out / bench.RESULTS, {"key": runs[0].key, "status": FINISHED})

    monkeypatch.setattr(bench.time, "sleep", wait)
    claim = bench.claim(out, runs[0].key)
    assert claim.__enter__()
    run_all(runs[:1], out, workers=1, device="cpu", listen=lambda event: pytest.fail("it was run twice"))
    assert waits == [0.01] * 3
