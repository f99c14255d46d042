"""Time of forward + backward of quantile activation against BatchNorm.

python benchmarks/quantile.py [--device cuda] [--csv FILE] [--threads N] [--rounds N]

Both get the same dense upstream gradient (``.sum().backward()`` would send BatchNorm down a slow path). Every round
times each once, in an order drawn anew, so that a slow spell of the machine hits all alike. Printed are the median over
rounds and the median of the ratios to BatchNorm in the same round. "function" is ``quantile_activation``; "layer" is
``QuantileActivation``, which holds two batch normalisations itself and keeps running statistics; "plain" is the
function without its compiled loops or kernels. On a CPU times are of the processor, so that other work on the machine
counts less; on a GPU they are of the clock, with a wait for the device at the end, and the memory that forward leaves
taken, output included, is given in bytes per value.
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
from catchment.kernels import quantile_cpu, quantile_table
from catchment.quantile import QuantileActivation, quantile_activation

SHAPES = {"cpu": ((128, 64, 16, 16), (128, 512)), "cuda": ((256, 256, 32, 32),)}
GOALS = {("cpu", 4): 2.5, ("cpu", 2): 20.0, ("cuda", 4): 2.0}  # of the function, by the number of dimensions
WARM_UP = 3


def without_compiled_loops() -> Callable[[], None]:
    """Switches the compiled loops and kernels off and returns what switches them on again."""
    serves, has_triton = quantile_cpu.serves, quantile_table.has_triton

    def switch(serves: Callable[[Tensor], bool], has_triton: Callable[[], bool]) -> None:
        quantile_cpu.serves, quantile_table.has_triton = serves, has_triton

    switch(lambda x: False, lambda: False)
    return lambda: switch(serves, has_triton)


def seconds(call: Callable[[Tensor], Tensor], x: Tensor, up: Tensor, *, plain: bool, repeats: int) -> float:
    """Seconds for one forward and backward pass."""
    restore = without_compiled_loops() if plain else lambda: None
    try:
        start = now(x)
        for _ in range(repeats):
            out = call(x)
            torch.autograd.grad(out, x, up)
        return (now(x) - start) / repeats
    finally:
        restore()


def now(x: Tensor) -> float:
    """The time on the clock of the device of ``x``."""
    if not x.is_cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def bytes_taken(call: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """What a forward pass leaves allocated on a GPU, per value."""
    if not x.is_cuda:
        return ""
    before = torch.cuda.memory_allocated()
    out = call(x)
    return f"{(torch.cuda.memory_allocated() - before) / out.numel():.2f}"


def measure(shape: tuple[int, ...], rounds: int, device: str) -> list[dict[str, str | int | float]]:
    """One row for each of BatchNorm, ReLU, function, layer and plain function."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device).requires_grad_()
    up = torch.randn(shape, generator=generator).to(device)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]).to(device)
    peer = type(norm).__name__
    calls = {
        peer: norm,
        "ReLU": torch.relu,
        "function": quantile_activation,
        "layer": QuantileActivation(shape[1]).to(device),
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
            "bytes_per_value": bytes_taken(calls[name], x),
            "rounds": rounds,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        for name, measured in times.items()
    ]


def main() -> None:
    """Measure, print, and write the CSV where asked."""
    parser = argparse.ArgumentParser(description="Forward + backward of quantile activation against BatchNorm.")
    parser.add_argument("--device", choices=list(SHAPES), default="cpu")
    parser.add_argument("--csv", type=Path, help="write the numbers to this file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.device == "cuda":
        compiled, where = quantile_table.has_triton(), torch.cuda.get_device_name()
    else:
        compiled, where = quantile_cpu.is_compiled(), f"{arguments.threads} threads"
    print(f"torch {torch.__version__}, {where}, float32, {'with' if compiled else 'without'} compiled loops")
    rows = []
    for shape in SHAPES[arguments.device]:
        for row in measure(shape, arguments.rounds, arguments.device):
            rows.append(row)
            goal = f"  (goal: {GOALS[arguments.device, len(shape)]:g})" if row["what"] == "function" else ""
            print(
                f"{row['shape']:>14}  {row['what']:<12} {row['median_ms']:>9.3f} ms  "
                f"{row['ratio']:>7.2f} x {row['compared_with']}{goal}"
            )
    if arguments.csv:
        write_text(arguments.csv, csv_text(rows))


if __name__ == "__main__":
    main()
