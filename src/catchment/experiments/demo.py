"""Two stories on real handwritten digits, in under a minute: what drainage is for, and what it is not."""

from __future__ import annotations

import base64
import io
import multiprocessing
import os
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from catchment import report
from catchment.data import UNKNOWN_CLASS, Dataset
from catchment.experiments.run import RunConfig, check_new_folder, load_run, load_run_data, run
from catchment.files import write_json, write_text
from catchment.training.config import TrainingConfig
from catchment.training.evaluation import predict, wrong_labels
from catchment.training.loop import cpu_threads

NUMBERS = "demo.json"
METHODS = ("cross-entropy", "drainage")
SEEDS = (0, 1, 2)
UNKNOWN_TRAINING = TrainingConfig(epochs=40, batch_size=128, learning_rate=0.1, threads=1, device="cpu")
# both methods with the same penalty and learning rate: the penalty moves these numbers more than the loss does
NOISY_TRAINING = TrainingConfig(epochs=25, batch_size=128, learning_rate=0.1, l1=1e-3, threads=1, device="cpu")
TITLES = (
    "Labels that belong to no class you have: every 7, 8 and 9 was relabelled at random to 0..6",
    "Wrong labels: 40 % of five digits carry another digit's label",
)


class _Section(NamedTuple):
    """A story: its table, its picture (a data address) and what to know of both."""

    title: str
    rows: list[dict[str, str]]
    picture: str
    note: str


def demo_configs() -> dict[str, RunConfig]:
    """The runs of both stories, by the name of their folder."""
    parameters: dict[str, dict[str, Any]] = {"cross-entropy": {}, "drainage": {"alpha": 0.1}}
    configs = {
        f"no-class-{method}": RunConfig(
            noise="relabel:7,8,9", objective=method, parameters=parameters[method], training=UNKNOWN_TRAINING
        )
        for method in METHODS
    }
    for method in METHODS:
        for seed in SEEDS:
            training = TrainingConfig(**{**NOISY_TRAINING.to_dict(), "seed": seed})
            configs[f"wrong-labels-{method}-{seed}"] = RunConfig(
                noise="asymmetric:0.4", mapping="mnist", objective=method, training=training
            )
    return configs


def run_demo(out: Path, console: Console) -> dict[str, Any]:
    """Train the runs of both stories, print their tables, and write ``report.html`` and ``demo.json`` in ``out``.

    Args:
        out: replaced if an earlier demo wrote it.
        console: where the tables go.

    Returns:
        The numbers of both tables, and the seconds it took.

    Raises:
        ValueError: ``out`` holds something else.
    """
    started = time.perf_counter()
    configs = demo_configs()
    if (out / NUMBERS).exists():
        _remove_former(out, configs)
    check_new_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / NUMBERS, {})  # marks the folder as a demo's, so that the next one may replace it
    workers = min(2, os.cpu_count() or 1)
    console.print(
        f"Training {len(configs)} small networks on 1437 real handwritten digits: {workers} at a time, each on one CPU "
        "thread (for nets this small a second thread costs more than it brings)."
    )
    metrics = _run_all(configs, out, console, workers)
    no_class = _no_class_rows(metrics)
    wrong_labels_rows = _wrong_label_rows(metrics)
    with cpu_threads(1):
        pictures = (_picture_no_class(out), _picture_wrong_labels(out))
    notes = (_note_no_class(), _note_wrong_labels())
    sections = [_Section(*parts) for parts in zip(TITLES, (no_class, wrong_labels_rows), pictures, notes, strict=True)]
    write_text(
        out / report.NAME, report.render("demo.html", title="catchment: two stories on digits", sections=sections)
    )
    numbers = {
        "no_class": no_class,
        "wrong_labels": wrong_labels_rows,
        "seconds": time.perf_counter() - started,
    }
    write_json(out / NUMBERS, numbers)
    for section in sections:
        console.print()
        console.print(section.title, style="bold")
        console.print(_table(section.rows))
        console.print(section.note)
    console.print(f"\n{numbers['seconds']:.0f} s. Pictures and tables: {out / report.NAME}", soft_wrap=True)
    console.print(
        "Next: catchment train --data YOUR_FOLDER_OR_TABLE --objective drainage --out runs/mine", soft_wrap=True
    )
    return numbers


def _remove_former(out: Path, configs: dict[str, RunConfig]) -> None:
    """Delete what an earlier demo wrote, and nothing that someone else put beside it."""
    for name in configs:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (report.NAME, NUMBERS):
        (out / name).unlink(missing_ok=True)


def _run_all(configs: dict[str, RunConfig], out: Path, console: Console, workers: int) -> dict[str, dict[str, Any]]:
    """Do the runs, the longest first, in processes of their own where there are cores; their numbers, by name."""
    longest_first = sorted(configs, key=lambda name: -configs[name].training.epochs)
    metrics = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=len(configs))
        if workers == 1:
            for name in longest_first:
                metrics[name] = run(configs[name], out / name)
                progress.advance(task)
            return metrics
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            futures = {pool.submit(run, configs[name], out / name): name for name in longest_first}
            try:
                for future in as_completed(futures):
                    metrics[futures[future]] = future.result()
                    progress.advance(task)
            except BaseException:
                for process in multiprocessing.active_children():  # what has begun would otherwise be finished first
                    process.terminate()
                raise
    return metrics


def _no_class_rows(metrics: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for method in METHODS:
        m = metrics[f"no-class-{method}"]
        rows.append(
            {
                "method": method,
                "7, 8, 9 drained": _percent(m.get("test_extra_output_unknown")),
                "0..6 drained": _percent(m.get("test_extra_output_known")),
                "accuracy on 0..6": _percent(m["test_accuracy"]),
                "AUROC of unknown_score": f"{m['test_unknown_auroc']:.3f}",
            }
        )
    return rows


def _wrong_label_rows(metrics: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for method in METHODS:
        runs = [metrics[f"wrong-labels-{method}-{seed}"] for seed in SEEDS]
        rows.append(
            {
                "method": method,
                "test accuracy": _mean_sd([100 * m["test_accuracy"] for m in runs], 1) + " %",
                "AUROC of label_score": _mean_sd([m["label_score_auroc"] for m in runs], 3),
            }
        )
    return rows


def _note_no_class() -> str:
    return (
        "Drained: the arg-max over the classes and drainage is drainage. unknown_score: p_d for drainage, "
        "1 - max probability for cross-entropy. One seed, last epoch."
    )


def _note_wrong_labels() -> str:
    return (
        f"Mean ± sd of {len(SEEDS)} seeds, last epoch, same L1 penalty and learning rate for both. label_score ranks "
        "the training samples by how suspect their label is; the AUROC says how well that finds the wrong ones."
    )


def _table(rows: Sequence[dict[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def _picture_no_class(out: Path) -> str:
    """The most drained test digits, and how p_d is distributed over known and unknown ones."""
    config = demo_configs()["no-class-drainage"]
    test = load_run_data(config).test
    model, _, _ = load_run(out / "no-class-drainage")
    drained = predict(model, test).unknown_score.numpy()
    unknown = test.labels == UNKNOWN_CLASS
    plt = _pyplot()
    figure = plt.figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    axes = left.subplots()
    bins = np.linspace(0, 1, 21)
    axes.hist(
        [drained[~unknown], drained[unknown]],
        bins,
        stacked=True,
        color=["#0072b2", "#d55e00"],
        label=["0..6, the classes", "7, 8, 9, none of them"],
    )
    axes.set(xlabel="drainage probability $p_d$", ylabel="test digits")
    axes.legend(frameon=False)
    right.suptitle("the most drained test digits", fontsize=10)
    _gallery(right, test, np.argsort(-drained)[:32], rows=4, texts=None)
    return _png(figure)


def _picture_wrong_labels(out: Path) -> str:
    """The training digits whose labels are most suspect, with the label they carry."""
    config = demo_configs()["wrong-labels-drainage-0"]
    data = load_run_data(config).train
    model, _, _ = load_run(out / "wrong-labels-drainage-0")
    order = np.argsort(-predict(model, data).label_score.numpy())[:33]
    wrong = wrong_labels(data)
    texts = [
        (data.class_names[data.labels[i]], "#d55e00" if wrong is not None and wrong[i] else "#0072b2") for i in order
    ]
    figure = _pyplot().figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle("the most suspect training labels: the given label above each digit, orange if wrong", fontsize=10)
    _gallery(figure, data, order, rows=3, texts=texts)
    return _png(figure)


def _gallery(
    figure: Any, data: Dataset, index: NDArray[np.int64], *, rows: int, texts: list[tuple[str, str]] | None
) -> None:
    axes = figure.subplots(rows, -(-len(index) // rows)).flat
    for k, panel in enumerate(axes):
        panel.axis("off")
        if k < len(index):
            panel.imshow(data.inputs[index[k], :, :, 0], cmap="gray_r", vmin=0, vmax=255)
            if texts is not None:
                panel.set_title(texts[k][0], color=texts[k][1], fontsize=10, pad=2)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _png(figure: Any) -> str:
    """The figure as a data address, so that the page needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    _pyplot().close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _mean_sd(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
