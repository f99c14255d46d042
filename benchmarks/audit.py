"""Time and memory to find wrong labels from probabilities, beside cleanlab in the same run.

python benchmarks/audit.py [--shapes 50000x100 ..] [--large] [--rounds N] [--csv FILE] [--folder FOLDER]

Probabilities are float32 in an .npy file, 20 % of the labels wrong at random. Every round runs each function once, in
an order drawn anew and in a process of its own, so that peak memory can be told and a slow spell of the machine hits
all alike. Timed is the call alone, the best of those made within a second, with the issues ranked, by the wall clock
and in CPU time (all run in one thread): ours from the array in memory, and from the file as it goes; cleanlab from the
array in memory, and its batched function from numpy's map of the file. Printed are medians over the rounds; the ratios
are of CPU times in the same round, to ours from memory. Memory is the peak above what the process held before, with
the array where it was read. --large adds 1,000,000 x 1,000 (4 GB on disk, 9 GB of memory for cleanlab). Needs the extra
[dev].
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OURS, STREAMED = "catchment", "catchment from the file"
NAMES = (
    OURS,
    STREAMED,
    "cleanlab confident_learning",
    "cleanlab prune_by_noise_rate",
    "cleanlab low_self_confidence",
    "cleanlab batched",
)

BUSY, MOST_CALLS = 1.0, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["50000x100"], metavar="NxC")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="besides ours")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--folder", type=Path, help="for the probabilities; default: a temporary one")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    names = list(dict.fromkeys([OURS, *options.only]))
    rows = []
    for shape in [*options.shapes, *["1000000x1000"] * options.large]:
        samples, classes = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_probabilities(Path(folder), samples, classes)
            rounds = [one_round(names, folder) for _ in range(options.rounds)]
        rows += [summary(shape, name, rounds) for name in names]
    for row in rows:
        times = f"{row['seconds']:8.4f} s, {row['cpu_seconds']:8.4f} s of CPU {row['times_ours']:6.1f}x"
        print(f"{row['shape']:>14} {row['function']:30} {times} {row['extra_mb']:7.0f} MB {row['issues']:>8} issues")
    if options.csv:
        from catchment.files import csv_text, write_text  # here, so that measured processes do not load it

        write_text(options.csv, csv_text(rows))


def write_probabilities(folder: Path, samples: int, classes: int) -> None:
    """A few rows at a time, so that it takes no more memory than what is measured."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, classes, samples)
    labels = np.where(rng.random(samples) < 0.2, rng.integers(0, classes, samples), true)
    np.save(folder / "labels.npy", labels)
    p = np.lib.format.open_memmap(folder / "p.npy", mode="w+", dtype=np.float32, shape=(samples, classes))
    step = max(1, 10_000_000 // classes)
    for start in range(0, samples, step):
        part = rng.random((min(step, samples - start), classes), dtype=np.float32)
        part[np.arange(len(part)), true[start : start + step]] += rng.gamma(2, classes / 3, len(part))
        p[start : start + step] = part / part.sum(1, keepdims=True)
    p.flush()


def one_round(names: list[str], folder: str) -> dict[str, dict[str, float]]:
    found = {}
    for name in random.sample(names, len(names)):
        command = [sys.executable, __file__, "--one", name, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, folder: Path) -> dict[str, float]:
    """Seconds of one call, and its peak of memory above what was held before the array was read."""
    labels = np.load(folder / "labels.npy")
    rng = np.random.default_rng(0)
    few = rng.dirichlet([1, 1], 100).astype(np.float32)
    small = few, few.argmax(1) ^ (rng.random(100) < 0.1)
    if name in (OURS, STREAMED):
        from catchment.audit import confident_learning, read_array

        def call(p, y):
            found = confident_learning(p, y)
            issues = np.flatnonzero(found.is_off_diagonal)
            return len(issues[np.argsort(-found.self_confidence[issues])])

        call(*small)
        before = peak()
        p = np.load(folder / "p.npy") if name == OURS else read_array(folder / "p.npy")
    else:
        from cleanlab.filter import find_label_issues

        how = name.split()[1]
        if how == "batched":
            from cleanlab.experimental.label_issues_batched import find_label_issues_batched

            def call(p, y):
                return len(find_label_issues_batched(y, p, n_jobs=1))
        else:

            def call(p, y):
                return len(find_label_issues(y, p, filter_by=how, n_jobs=1, return_indices_ranked_by="self_confidence"))

        call(*small)
        before = peak()
        p = np.load(folder / "p.npy", mmap_mode="r" if how == "batched" else None)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    while sum(seconds) < BUSY and len(seconds) < MOST_CALLS:
        started, cpu_started = time.perf_counter(), time.process_time()
        issues = call(p, labels)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    return {"seconds": min(seconds), "cpu_seconds": min(cpu_seconds), "extra": peak() - before, "issues": int(issues)}


def peak() -> float:
    """The most memory that this process has held so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def summary(shape: str, name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, str | float]:
    return {
        "shape": shape,
        "function": name,
        "seconds": statistics.median(each[name]["seconds"] for each in rounds),
        "cpu_seconds": statistics.median(each[name]["cpu_seconds"] for each in rounds),
        "times_ours": statistics.median(each[name]["cpu_seconds"] / each[OURS]["cpu_seconds"] for each in rounds),
        "extra_mb": max(each[name]["extra"] for each in rounds),
        "issues": rounds[0][name]["issues"],
        "rounds": len(rounds),
    }


if __name__ == "__main__":
    main()
