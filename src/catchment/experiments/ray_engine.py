"""The runs of a suite as tasks of a Ray cluster, each with its share of a GPU and retried when its node dies."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from catchment.experiments.bench import (
    LOOK_AGAIN,
    RESULTS,
    WAIT,
    Event,
    Listener,
    Pending,
    RunOptions,
    claim,
    do_run,
    failed_row,
)
from catchment.experiments.suite import BenchRun
from catchment.files import append_jsonl

# How often a task is started again after its process or node has died; it goes on from its last checkpoint.
RETRIES = 5


def run_all_on_ray(
    runs: Sequence[BenchRun],
    folder: Path,
    *,
    address: str | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    device: str = "auto",
    data_dir: str | None = None,
    eval_every: int = 0,
    tensorboard: bool = False,
    listen: Listener = lambda event: None,
) -> None:
    """Do the runs that are not finished as tasks on a Ray cluster; this process appends the rows to ``results.jsonl``.

    What ``run_all`` promises holds here too. ``folder`` and the data must be reached under the same path from every
    node, on a network disk for example, and every node must have catchment installed.

    Args:
        runs: of one suite; equal ones are done once.
        folder: see ``open_folder``.
        address: of the cluster, as ``ray.init`` takes it; None looks for a running one, and starts one on this machine
            where there is none.
        cpus_per_run: processors that a run takes; its threads are as many, at least one.
        gpus_per_run: share of a GPU that a run takes: 0.25 puts four runs on each.
        device: as torch names it.
        data_dir: where known data sets lie.
        eval_every: epochs between two looks at the test accuracy for each run's history.
        tensorboard: write event files into the runs' folders.
        listen: called with the end of every run, in this process.

    Raises:
        ValueError: Ray is not installed, or the cluster can't be reached.
    """
    ray = _ray()
    pending = Pending(runs, folder.absolute())
    options = RunOptions(device, data_dir, eval_every, tensorboard, max(1, int(cpus_per_run)))
    with _connected(ray, address):
        task = ray.remote(num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_retries=RETRIES)(_task)

        def start(bench_run: BenchRun) -> Any:
            return task.remote(bench_run, pending.folder, options)

        under_way: dict[Any, BenchRun] = {}
        waiting = list(pending.runs)
        try:
            while under_way or waiting:
                waiting = _start_ready(pending, waiting, under_way, start, listen)
                if not under_way:
                    time.sleep(LOOK_AGAIN)  # other runners are busy with the auxiliaries
                    continue
                ended, _ = ray.wait(list(under_way), timeout=LOOK_AGAIN)
                for reference in ended:
                    bench_run = under_way.pop(reference)
                    row = _result(ray, reference, bench_run)
                    if row is not None:
                        append_jsonl(pending.folder / RESULTS, row)
                        listen(Event("ended", bench_run, row))
                        continue
                    pending.drop_done()  # another runner is busy with it, unless it has just finished
                    if bench_run in pending.runs:
                        under_way[start(bench_run)] = bench_run
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


def _start_ready(
    pending: Pending,
    waiting: list[BenchRun],
    under_way: dict[Any, BenchRun],
    start: Callable[[BenchRun], Any],
    listen: Listener,
) -> list[BenchRun]:
    """Start the runs whose auxiliaries are finished, and record those whose auxiliaries failed; the runs still left."""
    left = []
    pending.drop_done()
    for bench_run in waiting:
        hold_up = pending.hold_up(bench_run)
        if hold_up is None:
            under_way[start(bench_run)] = bench_run
        elif hold_up == WAIT:
            left.append(bench_run)
        else:
            row = failed_row(bench_run, hold_up)
            append_jsonl(pending.folder / RESULTS, row)
            listen(Event("ended", bench_run, row))
    return left


def _task(bench_run: BenchRun, folder: Path, options: RunOptions) -> dict[str, Any] | None:
    """The row of a run; None, after a moment, where another runner is doing it."""
    torch.set_num_threads(options.threads)
    with claim(folder, bench_run.key) as claimed:
        if claimed:
            return do_run(bench_run, folder, options, lambda event: None)
    time.sleep(LOOK_AGAIN)
    return None


def _result(ray: Any, reference: Any, bench_run: BenchRun) -> dict[str, Any] | None:
    """What a task returned; a failed row where its processes died too often."""
    try:
        row: dict[str, Any] | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        return failed_row(bench_run, f"Ray gave up on it: {' '.join(str(error).split())[:300]}")
    return row


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster, which ends with the body unless it was there before."""
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _check_answers(address)
    try:
        ray.init(address=address or "auto", log_to_driver=False)
    except ConnectionError:
        if address is not None:
            raise
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError):
        raise ValueError(f"no Ray cluster answers at {address}: start it, or leave --address out") from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError('Ray is not installed: pip install "catchment[cluster]"') from None
    return ray
