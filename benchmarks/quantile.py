"""Time of forward + backward of quantile activation against BatchNorm, on a CPU.

python benchmarks/quantile.py [--csv FILE] [--threads N] [--rounds N]

Both get the same dense upstream gradient (``.sum().backward()`` would send BatchNorm down a slow path). Every round
times each once, in an order drawn anew, so that a slow spell of the machine hits all alike. Printed are the median over
rounds and the median of the ratios to BatchNorm in the same round. "function" is ``quantile_activation``; "layer" is
``QuantileActivation``, which holds two batch normalisations itself and keeps running statistics; "plain" is the
function without its compiled loops. Times are of the processor, so that other work on the machine counts less.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from catchment.files import csv_text, write_text
from catchment.kernels import quantile_cpu
from catchment.quantile import QuantileActivation, quantile_activation

SHAPES = ((128, 64, 16, 16), (128, 512))
GOALS = {4: 2.5, 2: 20.0}  # of the function, by the number of dimensions
WARM_UP = 3


def without_compiled_loops() -> Callable[[], None]:
    """Switches the compiled loops off and returns what switches them on again."""
    serves = quantile_cpu.serves
    quantile_cpu.serves = lambda x: False
    return lambda: setattr(quantile_cpu, "serves", serves)


def seconds(call: Callable[[Tensor], Tensor], x: Tensor, up: Tensor, *, plain: bool, repeats: int) -> float:
    """Processor seconds for one forward and backward pass."""
    restore = without_compiled_loops() if plain else lambda: None
    try:
        start = time.process_time()
        for _ in range(repeats):
            out = call(x)
            torch.autograd.grad(out, x, up)
        return (time.process_time() - start) / repeats
    finally:
        restore()


def measure(shape: tuple[int, ...], rounds: int) -> list[dict[str, str | int | float]]:
    """One row for each of BatchNorm, ReLU, function, layer and plain function."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_()
    up = torch.randn(shape, generator=generator)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    peer = type(norm).__name__
    calls = {
        peer: norm,
        "ReLU": torch.relu,
        "function": quantile_activation,
        "layer": QuantileActivation(shape[1]),
        "plain": quantile_activation,
    }
    repeats = 1 if len(shape) == 4 else 10
    for name, call in calls.items():
        for _ in range(WARM_UP):
            seconds(call, x, up, plain=name == "plain", repeats=1)
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample([*calls], len(calls)):
            times[name].append(seconds(calls[name], x, up, plain=name == "plain", repeats=repeats))
    return [
        {
            "what": name,
            "shape": "x".join(map(str, shape)),
            "median_ms": 1e3 * statistics.median(measured),
            "ratio": statistics.median(a / b for a, b in zip(measured, times[peer], strict=True)),
            "compared_with": peer,
            "rounds": rounds,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        for name, measured in times.items()
    ]


def main() -> None:
    """Measure, print, and write the CSV where asked."""
    parser = argparse.ArgumentParser(
        description="Forward + backward of quantile activation against BatchNorm, on a CPU."
    )
    parser.add_argument("--csv", type=Path, help="write the numbers to this file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    compiled = "with" if quantile_cpu.is_compiled() else "without"
    print(f"torch {torch.__version__}, {arguments.threads} threads, float32, {compiled} compiled loops")
    rows = []
    for shape in SHAPES:
        for row in measure(shape, arguments.rounds):
            rows.append(row)
            goal = f"  (goal: {GOALS[len(shape)]:g})" if row["what"] == "function" else ""
            print(
                f"{row['shape']:>14}  {row['what']:<12} {row['median_ms']:>9.3f} ms  "
                f"{row['ratio']:>7.2f} x {row['compared_with']}{goal}"
            )
    if arguments.csv:
        write_text(arguments.csv, csv_text(rows))


if __name__ == "__main__":
    main()
