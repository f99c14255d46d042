"""The runner of a suite: every run once, whatever is killed, however many runners share the folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from catchment.experiments.run import CONFIG, run
from catchment.experiments.suite import BenchRun, Suite, parse_suite
from catchment.files import append_jsonl, folder_lock, read_json, read_jsonl, repair_jsonl, write_json, write_text
from catchment.training.loop import choose_device

RESULTS, SUITE, RUNS, LOCKS, ERROR = "results.jsonl", "suite.json", "runs", ".locks", "error.txt"
FINISHED, FAILED = "finished", "failed"
WAIT = "wait"
# Seconds between two looks at runs that another runner is busy with, and between two looks for a vanished parent.
LOOK_AGAIN = 0.5
_NOT_KEPT = ("noise", "skipped_files")


@dataclass(frozen=True)
class Event:
    """What a runner tells of a run: "started", an "epoch" (its history row), or its end (its row of results)."""

    kind: str
    run: BenchRun
    row: Mapping[str, Any]


Listener = Callable[[Event], None]


def open_folder(suite: Suite, text: str, where: str, folder: Path) -> list[str]:
    """Make ``folder`` the suite's, or go on in it; returns what there is to say about what it held.

    Args:
        suite: what will be run.
        text: the suite's file, which is kept in the folder.
        where: where that file lies.
        folder: new, empty, or with results of the same suite.

    Raises:
        ValueError: it holds something else.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: choose another --out")
    notes = []
    if (folder / SUITE).exists():
        before = read_json(folder / SUITE)
        if before["name"] != suite.name:
            raise ValueError(f"{folder} holds results of the suite {before['name']}: choose another --out")
        if before["text"] != text:
            notes.append(f"{suite.name} has changed since {folder} began: runs that are still the same are kept")
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no results of a suite: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    if repair_jsonl(folder / RESULTS):
        notes.append(f"the last line of {folder / RESULTS} was torn, as a killed writer leaves it: cut off")
    (folder / RUNS).mkdir(exist_ok=True)
    (folder / LOCKS).mkdir(exist_ok=True)
    write_json(folder / SUITE, {"name": suite.name, "where": where, "text": text})
    return notes


def load_suite(folder: Path) -> Suite:
    """The suite whose results ``folder`` holds.

    Raises:
        ValueError: it holds none.
    """
    if not (folder / SUITE).exists():
        raise ValueError(f"{folder} holds no results of a suite: give the --out folder of catchment bench")
    record = read_json(folder / SUITE)
    return parse_suite(record["text"], record["where"])


def finished_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of ``results.jsonl`` of runs that are finished, by key."""
    return {row["key"]: row for row in read_jsonl(folder / RESULTS) if row["status"] == FINISHED}


def default_workers(device: str) -> int:
    """A worker per CPU core, since small nets use one each; one on CUDA."""
    return 1 if choose_device(device).type == "cuda" else os.cpu_count() or 1


def run_all(
    runs: Sequence[BenchRun],
    folder: Path,
    *,
    workers: int,
    device: str = "auto",
    data_dir: str | None = None,
    eval_every: int = 0,
    tensorboard: bool = False,
    listen: Listener = lambda event: None,
) -> None:
    """Do the runs that are not finished, and append a row for each to ``results.jsonl``.

    A run that another process is doing is left to it; should that process die, the run is taken over where its last
    checkpoint is. A run that fails is recorded with its error, and tried again by the next call.

    Args:
        runs: of one suite; equal ones are done once.
        folder: where results and runs' folders go; see ``open_folder``.
        workers: processes that share the work; 1 works in this process.
        device: as torch names it.
        data_dir: where known data sets lie.
        eval_every: epochs between two looks at the test accuracy for each run's history.
        tensorboard: write event files into the runs' folders.
        listen: called with every event, in this process.
    """
    pending = Pending(runs, folder)
    options = RunOptions(device, data_dir, eval_every, tensorboard, max(1, (os.cpu_count() or 1) // workers))
    if workers == 1 or len(pending.runs) < 2:
        _work(pending, options, listen)
    else:
        _share(pending, options, min(workers, len(pending.runs)), listen)


@dataclass(frozen=True)
class RunOptions:
    """What of a run is the machine's and the command's, not the suite's.

    Args:
        device: as torch names it.
        data_dir: where known data sets lie.
        eval_every: epochs between two looks at the test accuracy.
        tensorboard: write event files.
        threads: of the CPU for each run.
    """

    device: str
    data_dir: str | None
    eval_every: int
    tensorboard: bool
    threads: int


class Pending:
    """The runs that are left to do; of equal ones the first. A failed run stays failed until the next call."""

    def __init__(self, runs: Sequence[BenchRun], folder: Path) -> None:
        self.folder = folder
        self.failures_before = self._failures()
        finished = finished_rows(folder)
        once: dict[str, BenchRun] = {}
        for bench_run in runs:
            once.setdefault(bench_run.key, bench_run)
        self.runs = [bench_run for key, bench_run in once.items() if key not in finished]

    def drop_done(self) -> None:
        """Leave out what any runner has finished, or failed, since."""
        finished, failures = finished_rows(self.folder), self._failures()
        self.runs = [
            run
            for run in self.runs
            if run.key not in finished and failures.get(run.key, 0) == self.failures_before.get(run.key, 0)
        ]

    def hold_up(self, bench_run: BenchRun) -> str | None:
        """What keeps a run from starting: "wait", an auxiliary that is still to come, or why there will be none."""
        finished, left = finished_rows(self.folder), {run.key for run in self.runs}
        for role, key in bench_run.auxiliaries.items():
            if key not in finished:
                return WAIT if key in left else f"its {role.replace('_', '-')} model failed, run {key}: mend that first"
        return None

    def _failures(self) -> dict[str, int]:
        keys = [row["key"] for row in read_jsonl(self.folder / RESULTS) if row["status"] == FAILED]
        return {key: keys.count(key) for key in set(keys)}


def _work(pending: Pending, options: RunOptions, listen: Listener) -> None:
    """Do one run after the other until none is left, waiting for those that others are busy with."""
    pending.drop_done()
    while pending.runs:
        done_any = False
        for bench_run in list(pending.runs):
            with claim(pending.folder, bench_run.key) as claimed:
                pending.drop_done()
                hold_up = pending.hold_up(bench_run)
                if claimed and bench_run in pending.runs and hold_up != WAIT:
                    done_any = True
                    listen(Event("started", bench_run, {}))
                    if hold_up is None:
                        row = do_run(bench_run, pending.folder, options, listen)
                    else:
                        row = failed_row(bench_run, hold_up)
                    append_jsonl(pending.folder / RESULTS, row)
                    listen(Event("ended", bench_run, row))
        pending.drop_done()
        if pending.runs and not done_any:
            time.sleep(LOOK_AGAIN)


@contextmanager
def claim(folder: Path, key: str) -> Iterator[bool]:
    """Whether this process has the run for itself; a claim goes with its process, however that ends."""
    place = folder / LOCKS / key
    place.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(place))
            claimed = True
        except ValueError:
            claimed = False
        yield claimed


def do_run(bench_run: BenchRun, folder: Path, options: RunOptions, listen: Listener) -> dict[str, Any]:
    """Do a run or go on with it; the row that says how it ended."""
    run_folder = folder / RUNS / bench_run.key
    training = replace(bench_run.config.training, device=options.device)
    config = replace(bench_run.config, training=training, data_dir=options.data_dir, eval_every=options.eval_every)
    for role, key in bench_run.auxiliaries.items():
        config = replace(config, **{role: str(folder / RUNS / key)})  # type: ignore[arg-type]
    started = time.time()
    try:
        numbers = run(
            config,
            run_folder,
            resume=True,
            on_epoch=lambda epoch: listen(Event("epoch", bench_run, epoch)),
            tensorboard=options.tensorboard,
        )
    except Exception as error:  # whatever goes wrong in one run, the others go on
        run_folder.mkdir(parents=True, exist_ok=True)
        write_text(run_folder / ERROR, traceback.format_exc())
        return failed_row(bench_run, _one_line(error))
    (run_folder / ERROR).unlink(missing_ok=True)
    record = read_json(run_folder / CONFIG)
    noise = numbers["noise"] or {}
    return {
        **_names(bench_run),
        "status": FINISHED,
        "metrics": {key: value for key, value in numbers.items() if key not in _NOT_KEPT},
        "noise": {key: noise.get(key) for key in ("kind", "rate_asked", "rate_realised", "rate_realised_of_mapped")},
        "hardware": record["hardware"],
        "versions": record["versions"],
        "device_seconds": numbers["train_seconds"],
        "wall_seconds": time.time() - started,
        "finished_at": time.time(),
    }


def failed_row(bench_run: BenchRun, error: str) -> dict[str, Any]:
    """The row of results of a run that came to nothing."""
    return {**_names(bench_run), "status": FAILED, "error": error, "finished_at": time.time()}


def _names(bench_run: BenchRun) -> dict[str, Any]:
    config = bench_run.config
    return {
        "key": bench_run.key,
        "budget": bench_run.budget,
        "setting": bench_run.setting,
        "disturbance": bench_run.disturbance,
        "method": bench_run.method,
        "variant": bench_run.variant,
        "seed": bench_run.seed,
        "tuning": config.validation_labels if config.judged_on == "validation" else None,
    }


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _share(pending: Pending, options: RunOptions, workers: int, listen: Listener) -> None:
    """Let several processes work on the folder, and pass on what they tell.

    Each is a runner of its own, as if started by hand: what keeps two runners apart keeps them apart too.
    """
    by_key = {run.key: run for run in pending.runs}
    processes: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, BenchRun] = {}

    def start() -> None:
        receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_worker, args=(pending, options, sender, os.getpid()), daemon=True
        )
        process.start()
        sender.close()  # so that the worker's end closes with the worker
        processes[receiver] = process

    try:
        for _ in range(workers):
            start()
        while processes:
            for ready in wait(list(processes)):
                receiver = next(known for known in processes if known is ready)
                try:
                    message = receiver.recv()
                except EOFError:
                    process = processes.pop(receiver)
                    process.join()
                    if receiver in busy:
                        listen(_record_death(pending.folder, busy.pop(receiver), process.exitcode))
                        start()
                    continue
                if isinstance(message, OSError):
                    raise message
                kind, key, row = message
                event = Event(kind, by_key[key], row)
                if kind == "ended":
                    busy.pop(receiver)
                else:
                    busy[receiver] = event.run
                listen(event)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()
    pending.drop_done()
    if pending.runs:
        raise ValueError(f"the workers stopped with {len(pending.runs)} runs left: start the same command again")


def _record_death(folder: Path, bench_run: BenchRun, exitcode: int | None) -> Event:
    how = f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit status {exitcode}"
    row = failed_row(bench_run, f"its process died ({how}): if memory ran out, use fewer --workers")
    append_jsonl(folder / RESULTS, row)
    return Event("ended", bench_run, row)


def _worker(pending: Pending, options: RunOptions, sender: Connection, parent: int) -> None:
    """What a worker process does: it ends with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    warnings.formatwarning = lambda message, *arguments, **keywords: f"warning: {message}\n"
    torch.set_num_threads(options.threads)

    def tell(event: Event) -> None:
        try:
            sender.send((event.kind, event.run.key, dict(event.row)))
        except BrokenPipeError:  # the parent has died: as an error of the run, this would be recorded as its failure
            os._exit(1)

    try:
        _work(pending, options, tell)
    except OSError as error:  # results can't be written: that is the parent's to say
        sender.send(error)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_AGAIN)
    os._exit(1)
