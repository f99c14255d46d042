"""Forward + backward of every loss against ``F.cross_entropy``: time and peak memory, as ratios in the same run.

make bench                                   all of it: the CSV, the table in docs/speed.md and its plot (ten minutes)
python benchmarks/losses.py --only nce gce   a few of them, printed

The losses are those that take logits and one label per sample; what needs other columns has a benchmark of its own.
Every round times each loss once, in an order drawn anew, so that a slow spell of the machine hits all alike; the ratio
is the median over rounds of the ratios within a round. Each loss gives one value per sample (reduction "none") and gets
the same dense upstream gradient. In half of the rows the label leads by 15. On a CPU time is the process's CPU time,
which counts the work of all threads but not that of other programs; nor, with OMP_WAIT_POLICY=passive as make sets it,
their waiting for each other. On CUDA time is the device's. Rows named "textbook:" are the same losses written as
papers' code writes them, on autograd.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from catchment import create_objective, list_objectives
from catchment.files import csv_text, write_text

CPU_SIZES = ((128, 10), (1024, 1000), (256, 50000))
CUDA_SIZES = ((1024, 1000), (8192, 32000))
MIN_SECONDS = 2e-3  # a timing repeats the call until it takes about this long
REFERENCE = "F.cross_entropy"
MARGIN = 15.0
LARGEST_MATRIX = 2**26  # elements of the C x C matrices that some losses need
GOALS = {("drainage", 128): 2.0, ("drainage", 1024): 1.0, ("drainage", 256): 0.6}  # by loss and number of samples
GOAL = 1.3  # of every other loss, from 1000 classes
CUDA_GOAL = 0.5  # at the larger size
TABLE = ("<!-- losses-cpu.csv: written by make bench -->", "<!-- end of losses-cpu.csv -->")


def textbook_gce(logits: Tensor, target: Tensor) -> Tensor:
    p = (logits.softmax(1) * F.one_hot(target, logits.shape[1])).sum(1).clamp(min=1e-7)
    return (1 - p**0.7) / 0.7


def textbook_sce(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.softmax(1).clamp(min=1e-7, max=1.0)
    label = F.one_hot(target, logits.shape[1]).float().clamp(min=1e-4, max=1.0)
    return 0.1 * F.cross_entropy(logits, target, reduction="none") - (p * label.log()).sum(1)


def textbook_nce(logits: Tensor, target: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    return (F.one_hot(target, logits.shape[1]) * log_p).sum(1) / log_p.sum(1)


def textbook_anl_ce(logits: Tensor, target: Tensor) -> Tensor:
    one_hot = F.one_hot(target, logits.shape[1])
    above = logits.softmax(1).clamp(min=1e-7).log() + 16.118096
    return 5 * textbook_nce(logits, target) + 5 * (1 - (one_hot * above).sum(1) / above.sum(1))


def textbook_drainage(logits: Tensor, target: Tensor) -> Tensor:
    columns = torch.arange(logits.shape[1])
    is_label = columns == target[:, None]
    rivals = torch.masked_select(logits, ~is_label & (columns < logits.shape[1] - 1)).view(len(logits), -1)
    z_t, z_d = logits.gather(1, target[:, None]), logits[:, -1:]
    first = torch.cat([z_d, rivals], 1).logsumexp(1, keepdim=True) - z_t
    second = rivals.logsumexp(1, keepdim=True) - z_d
    return torch.cat([torch.zeros_like(first), first, second], 1).logsumexp(1)


TEXTBOOK = {
    "textbook: gce": textbook_gce,
    "textbook: sce": textbook_sce,
    "textbook: nce": textbook_nce,
    "textbook: anl-ce": textbook_anl_ce,
    "textbook: drainage": textbook_drainage,
}


@dataclass
class Case:
    """One loss: what is called, and what it is differentiated by."""

    name: str
    call: Callable[[], Tensor]
    logits: Tensor
    upstream: Tensor

    def run(self) -> None:
        """Forward and backward once."""
        torch.autograd.grad(self.call(), self.logits, self.upstream)


def cases(samples: int, num_classes: int, device: str, dtype: torch.dtype, only: Iterable[str]) -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(num_classes, (samples,), generator=generator)
    logits = torch.randn(samples, num_classes + 1, generator=generator)
    logits[::2] = logits[::2].scatter_add(1, target[::2, None], torch.full((len(target[::2]), 1), MARGIN))
    upstream = torch.rand(samples, generator=generator).to(device)
    with_drainage = logits.to(device, dtype).requires_grad_()
    without = logits[:, :-1].contiguous().to(device, dtype).requires_grad_()
    target = target.to(device)

    def reference() -> Tensor:
        return F.cross_entropy(without, target, reduction="none")

    found = [Case(REFERENCE, reference, without, upstream.to(dtype))]
    known = {"index": torch.arange(samples, device=device), "progress": 0.5}
    for method in list_objectives():
        if only and method.name not in only:
            continue
        if "correction" in method.name and num_classes**2 > LARGEST_MATRIX:
            continue
        objective = create_objective(method.name, num_classes=num_classes)
        if not objective.exclusive or objective.inputs != ("logits",) or not set(objective.needs) <= known.keys():
            continue
        objective = create_objective(method.name, num_classes=num_classes, reduction="none")
        objective.setup(num_samples=samples, class_counts=torch.bincount(target.cpu(), minlength=num_classes))
        objective.to(device)
        z = with_drainage if objective.extra_outputs else without
        call = _bind(objective, z, target, {name: known[name] for name in objective.needs})
        found.append(Case(method.name, call, z, upstream))
    for name, function in TEXTBOOK.items():
        if device == "cpu" and (not only or name in only):
            z = with_drainage if "drainage" in name else without
            found.append(Case(name, _bind(function, z, target, {}), z, upstream))
    return found


def _bind(function: Callable[..., Tensor], z: Tensor, target: Tensor, needs: dict[str, object]) -> Callable[[], Tensor]:
    return lambda: function(z, target, **needs)


def cpu_seconds(run: Callable[[], None], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def cuda_seconds(run: Callable[[], None], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def cpu_peak_bytes(run: Callable[[], None]) -> int:
    """The most that one call held at a time beyond what was there before."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()
    held = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak


def cuda_peak_bytes(run: Callable[[], None]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(
    samples: int, num_classes: int, device: str, dtype: torch.dtype, rounds: int, only: Iterable[str]
) -> list[dict[str, str | int | float]]:
    """One row for each loss."""
    seconds, peak_bytes = (cuda_seconds, cuda_peak_bytes) if device == "cuda" else (cpu_seconds, cpu_peak_bytes)
    losses = {case.name: case for case in cases(samples, num_classes, device, dtype, only)}
    if device == "cuda":
        z = losses[REFERENCE].logits.detach()
        losses["copy"] = Case("copy", z.clone, z, z)
        losses["copy"].run = lambda: z.clone()  # type: ignore[method-assign]
    repeats = {}
    for name, case in losses.items():
        once = statistics.median(seconds(case.run, 1) for _ in range(3))
        repeats[name] = max(1, round(MIN_SECONDS / once))
    times: dict[str, list[float]] = {name: [] for name in losses}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample([*losses], len(losses)):
            times[name].append(seconds(losses[name].run, repeats[name]))
    peak = {name: peak_bytes(case.run) for name, case in losses.items()}
    found = []
    for name in losses:
        ratios = [mine / theirs for mine, theirs in zip(times[name], times[REFERENCE], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        found.append(
            {
                "loss": name,
                "device": device if device == "cpu" else torch.cuda.get_device_name(),
                "dtype": str(dtype).removeprefix("torch."),
                "samples": samples,
                "classes": num_classes,
                "threads": torch.get_num_threads(),
                "median_us": round(1e6 * statistics.median(times[name]), 1),
                "time_ratio": round(statistics.median(ratios), 3),
                "time_ratio_q1": round(quartiles[0], 3),
                "time_ratio_q3": round(quartiles[2], 3),
                "peak_mib": round(peak[name] / 2**20, 3),
                "memory_ratio": round(peak[name] / peak[REFERENCE], 3),
                "goal": goal(name, samples, num_classes, device),
                "rounds": rounds,
                "torch": torch.__version__,
            }
        )
    if device == "cuda":  # the logits read twice and the gradient written: one and a half copies
        copy = 1.5 * statistics.median(times["copy"])
        for row in found:
            row["copy_share"] = round(copy / (row["median_us"] * 1e-6), 3)
    return found


def goal(name: str, samples: int, num_classes: int, device: str) -> float | str:
    if name == REFERENCE or name == "copy" or name.startswith("textbook"):
        return ""
    if device == "cuda":
        return CUDA_GOAL if num_classes == CUDA_SIZES[-1][1] else ""
    if name == "drainage":
        return GOALS.get((name, samples), "")
    return GOAL if num_classes >= 1000 else ""


def table(rows: list[dict[str, str]]) -> str:
    """The CPU's rows as a Markdown table: time with one and two threads, and memory, as ratios."""
    sizes = sorted({(int(row["samples"]), int(row["classes"])) for row in rows}, key=lambda size: size[1])
    by_key = {(row["loss"], int(row["classes"]), int(row["threads"])): row for row in rows}
    threads = sorted({int(row["threads"]) for row in rows})
    names = list(dict.fromkeys(row["loss"] for row in rows))
    head = (
        "| loss | " + " | ".join(f"{n} × {c}" for n, c in sizes) + " | memory, " + f"{sizes[-1][0]} × {sizes[-1][1]} |"
    )
    lines = [head, "| --- |" + " ---: |" * (len(sizes) + 1)]
    for name in names:
        cells = []
        for _, classes in sizes:
            found = [by_key.get((name, classes, n)) for n in threads]
            cells.append(" / ".join(f"{float(row['time_ratio']):.2f}" for row in found if row) or "-")
        largest = by_key.get((name, sizes[-1][1], threads[0]))
        cells.append(f"{float(largest['memory_ratio']):.2f}" if largest else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(page: Path, rows: list[dict[str, str]]) -> None:
    """Put the table between its marks in the page."""
    text = page.read_text()
    before, rest = text.split(TABLE[0])
    after = rest.split(TABLE[1])[1]
    page.write_text(f"{before}{TABLE[0]}\n{table(rows)}\n{TABLE[1]}{after}")


def plot(path: Path, rows: list[dict[str, str]]) -> None:
    """The time ratios of one thread, a panel for each size."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["threads"] == rows[0]["threads"] and row["loss"] != REFERENCE]
    sizes = sorted({(int(row["samples"]), int(row["classes"])) for row in rows}, key=lambda size: size[1])
    names = list(dict.fromkeys(row["loss"] for row in rows))
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(11, 0.22 * len(names) + 1.2), sharey=True)
    for axis, (samples, classes) in zip(axes, sizes, strict=True):
        here = {row["loss"]: row for row in rows if int(row["classes"]) == classes}
        for place, name in enumerate(names):
            if name in here:
                low, middle, high = (float(here[name][key]) for key in ("time_ratio_q1", "time_ratio", "time_ratio_q3"))
                color = "tab:gray" if name.startswith("textbook") else "tab:blue"
                axis.plot([low, high], [place, place], color=color, linewidth=1)
                axis.plot(middle, place, "o", color=color, markersize=4)
                if here[name]["goal"]:
                    axis.plot(float(here[name]["goal"]), place, "|", color="tab:orange", markersize=9)
        axis.axvline(1.0, color="black", linewidth=0.6)
        axis.set_xscale("log")
        axis.set_title(f"{samples} × {classes}", fontsize=10)
        axis.set_xlabel("time / F.cross_entropy")
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0].invert_yaxis()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description="Forward + backward of the losses against F.cross_entropy.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these losses instead of all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="thread counts on the CPU")
    parser.add_argument("--csv", type=Path, help="write the numbers to this file; CUDA's to one beside it")
    parser.add_argument("--page", type=Path, help="put the table of the CPU's numbers into this page, at its marks")
    parser.add_argument("--plot", type=Path, help="draw the CPU's numbers into this PNG")
    arguments = parser.parse_args()

    runs = [
        ("cpu", torch.float32, samples, classes, threads, 15 if samples * classes < 10**7 else 5)
        for threads in arguments.threads
        for samples, classes in CPU_SIZES
    ]
    if torch.cuda.is_available():
        runs += [("cuda", t, n, c, 1, 25) for t in (torch.float32, torch.bfloat16) for n, c in CUDA_SIZES]
    print(f"torch {torch.__version__}; ratios to {REFERENCE}, median and quartiles over rounds")
    found: dict[str, list[dict[str, str]]] = {"cpu": [], "cuda": []}
    for device, dtype, samples, classes, threads, rounds in runs:
        torch.set_num_threads(threads)
        print(f"\n{device}, {dtype}, {samples} x {classes}, {threads} threads, {rounds} rounds")
        print(f"{'loss':<24} {'µs':>10}  {'time':>6} (quartiles)      {'memory':>6}  goal")
        for row in measure(samples, classes, device, dtype, rounds, arguments.only):
            found[device].append({key: str(value) for key, value in row.items()})
            spread = f"({row['time_ratio_q1']:.2f} to {row['time_ratio_q3']:.2f})"
            print(
                f"{row['loss']:<24} {row['median_us']:>10.1f}  {row['time_ratio']:>6.2f} {spread:<16} "
                f"{row['memory_ratio']:>6.2f}  {row['goal']}",
                flush=True,
            )
    if arguments.csv:
        for device, rows in found.items():
            if rows:
                path = arguments.csv.with_name(arguments.csv.name.replace("cpu", device))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, csv_text(rows))
    if arguments.page:
        write_table(arguments.page, found["cpu"])
    if arguments.plot:
        plot(arguments.plot, found["cpu"])


if __name__ == "__main__":
    main()
