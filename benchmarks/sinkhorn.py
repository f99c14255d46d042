"""Time of the Sinkhorn solver against POT, its convergence over random hard problems, and a large problem.

python benchmarks/sinkhorn.py [--parts peers convergence large] [--threads 1] [--large 1000000x1000] [--out DIR]

peers: time to a marginal error (L1, per unit of mass) of 1e-6 on the same problem, labels or plan returned, in one
process and rounds in an order drawn anew. POT stops by an absolute L2 error, looked at every tenth step: it gets the
loosest threshold that reaches 1e-6. Both wall and processor seconds are medians over the rounds; on a busy machine go
by the processor's. convergence: 200 problems, n 64 to 4096, C 2 to 200, sharpness up to 12, error 1e-8. large: float32
scores, the labels not returned; the peak memory is that of making the problem (in chunks of 2,000) and of solving it,
beyond the scores. Each part writes a CSV.

A problem is random: f_N, f and f_L have normal logits times its sharpness; the scores are (log f_N + log f) / 2, the
totals the sums of f_L.
"""

import argparse
import functools
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from catchment.files import csv_text, write_text
from catchment.sinkhorn import sinkhorn_labels

PEER_PROBLEMS = ((20_000, 10, 4.0), (20_000, 10, 12.0), (50_000, 100, 4.0), (50_000, 100, 12.0))
ERROR = 1e-6
THRESHOLDS = [factor * 10.0**-exponent for exponent in range(4, 12) for factor in (1.0, 0.3)]
ROUNDS = 5
CONVERGENCE_PROBLEMS = 200
CHUNK = 2_000  # of the large problem's making


def problem(
    n: int, num_classes: int, sharpness: float, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    f_noise, f, f_imbalance = (
        sharpness * torch.randn(n, num_classes, generator=generator, dtype=dtype) for _ in range(3)
    )
    return 0.5 * (f_noise.log_softmax(1) + f.log_softmax(1)), f_imbalance.softmax(1).sum(0, dtype=torch.float64)


def l1_error(plan: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return max(np.abs(plan.sum(1) - a).sum(), np.abs(plan.sum(0) - b).sum())


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def solvers(scores: Tensor, totals: Tensor) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """By name, a call that solves the problem to the error, and the error it reaches."""
    n = len(scores)
    cost, a, b = (-2 * scores).numpy(), np.full(n, 1 / n), (totals / n).numpy()

    def ours() -> Any:
        return sinkhorn_labels(scores, totals, tol=ERROR)

    def pot(method: str, threshold: float) -> np.ndarray:
        return ot.sinkhorn(a, b, cost, 2.0, method=method, stopThr=threshold, numItermax=10_000)

    calls: dict[str, Callable[[], Any]] = {"catchment": ours}
    errors = {"catchment": ours().error}
    for method in ("sinkhorn", "sinkhorn_log"):
        for threshold in THRESHOLDS:
            calls[f"POT {method}"] = functools.partial(pot, method, threshold)
            errors[f"POT {method}"] = l1_error(pot(method, threshold), a, b)
            if errors[f"POT {method}"] <= ERROR:
                break
    return calls, errors


def peers(threads: int) -> list[dict[str, Any]]:
    rows = []
    print(f"{'(N, C)':>14} sharp  {'solver':<22} {'wall s':>8} {'cpu s':>8}   error  ratio wall / cpu to ours")
    for n, num_classes, sharpness in PEER_PROBLEMS:
        calls, errors = solvers(*problem(n, num_classes, sharpness, torch.Generator().manual_seed(0)))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name in random.sample([*calls], len(calls)):
                times[name].append(seconds(calls[name]))
        medians = {name: tuple(statistics.median(x) for x in zip(*taken, strict=True)) for name, taken in times.items()}
        for name, (wall, processor) in medians.items():
            ratios = wall / medians["catchment"][0], processor / medians["catchment"][1]
            row = {
                "samples": n,
                "classes": num_classes,
                "sharpness": sharpness,
                "solver": name,
                "wall_s": wall,
                "cpu_s": processor,
                "error": errors[name],
                "wall_ratio": ratios[0],
                "cpu_ratio": ratios[1],
                "rounds": ROUNDS,
                "threads": threads,
                "torch": torch.__version__,
                "pot": ot.__version__,
            }
            rows.append(row)
            shape = f"({n}, {num_classes})"
            print(
                f"{shape:>14} {sharpness:>5g}  {name:<22} {wall:>8.4f} {processor:>8.4f} {errors[name]:.1e}"
                f"  {ratios[0]:.1f} / {ratios[1]:.1f}",
                flush=True,
            )
    return rows


def convergence() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(CONVERGENCE_PROBLEMS):
        u = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        n, num_classes, sharpness = round(64 * 64 ** u[0]), round(2 * 100 ** u[1]), 12 * u[2]
        scores, totals = problem(n, num_classes, sharpness, generator)
        result = sinkhorn_labels(scores, totals, tol=1e-8)
        error = float((result.labels.sum(0) - totals).abs().sum()) / n
        rows.append(
            {
                "samples": n,
                "classes": num_classes,
                "sharpness": sharpness,
                "iterations": result.iterations,
                "error": error,
                "converged": result.converged,
            }
        )
    print(f"{'C':>10}  {'sharpness':>9}  problems  converged  iterations: median  most  largest error")
    for low, high in ((2, 10), (11, 50), (51, 200)):
        for soft, sharp in ((0, 4), (4, 8), (8, 12)):
            group = [row for row in rows if low <= row["classes"] <= high and soft <= row["sharpness"] < sharp]
            if group:
                steps = [row["iterations"] for row in group]
                converged = sum(row["converged"] for row in group)
                print(
                    f"{low:>4} to {high:<3}  {soft:>3} to {sharp:<3} {len(group):>8} {converged:>10}"
                    f" {statistics.median(steps):>19g} {max(steps):>5} {max(r['error'] for r in group):>14.1e}"
                )
    done = sum(row["converged"] and row["error"] <= 1e-8 for row in rows)
    print(f"converged: {done} of {len(rows)}, in at most {max(row['iterations'] for row in rows)} iterations")
    return rows


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def large(n: int, num_classes: int, sharpness: float, threads: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    before = peak_bytes()
    scores, totals = torch.empty(n, num_classes), torch.zeros(num_classes, dtype=torch.float64)
    for first in range(0, n, CHUNK):
        part, sums = problem(min(CHUNK, n - first), num_classes, sharpness, generator, torch.float32)
        scores[first : first + CHUNK] = part
        totals += sums
    started = time.perf_counter(), time.process_time()
    result = sinkhorn_labels(scores, totals, tol=ERROR, return_labels=False)
    wall, processor = time.perf_counter() - started[0], time.process_time() - started[1]
    row = {
        "samples": n,
        "classes": num_classes,
        "sharpness": sharpness,
        "scores_bytes": scores.nbytes,
        "peak_beyond_scores_bytes": peak_bytes() - before - scores.nbytes,
        "wall_s": wall,
        "cpu_s": processor,
        "iterations": result.iterations,
        "error": result.error,
        "converged": result.converged,
        "threads": threads,
        "torch": torch.__version__,
    }
    print(
        ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    )
    return [row]


def main() -> None:
    """Measure, print, and write one CSV for each part."""
    parser = argparse.ArgumentParser(description="The Sinkhorn solver: against POT, on hard problems, on a large one.")
    parser.add_argument(
        "--parts", nargs="+", default=["peers", "convergence"], choices=["peers", "convergence", "large"]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", default="1000000x1000", help="samples x classes; 4 GB of scores by default")
    parser.add_argument("--sharpness", type=float, default=4.0, help="of the large problem")
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, POT {ot.__version__}, {arguments.threads} threads")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(arguments.threads):
        for part in arguments.parts:
            if part == "large":
                n, num_classes = map(int, arguments.large.split("x"))
                rows = large(n, num_classes, arguments.sharpness, arguments.threads)
            else:
                rows = peers(arguments.threads) if part == "peers" else convergence()
            write_text(arguments.out / f"sinkhorn-{part}.csv", csv_text(rows))


if __name__ == "__main__":
    main()
