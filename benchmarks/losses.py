"""Time of forward + backward of the losses against ``F.cross_entropy``, on the CPU.

python benchmarks/losses.py [--csv FILE]

Every round times each loss once, in an order drawn anew, so that a slow spell of the machine hits all alike. Printed
are the median over rounds and the median of the ratios to ``F.cross_entropy`` of the same kind of target in the same
round. The drainage loss has one more column to read than cross-entropy, and its rival sum and gradient to compute.
"""

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from catchment import CrossEntropy, drainage_loss

SHAPES = ((128, 10), (256, 100), (1024, 1000))
ROUNDS = 60
WARM_UP = 10
MIN_SECONDS = 2e-3  # a timing repeats the call until it takes about this long


def cases(samples: int, num_classes: int) -> dict[str, tuple[Callable[[], Tensor], Tensor, str]]:
    """By name: the call, the logits it is differentiated by, and the name of what it is compared with."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(samples, num_classes, generator=generator).requires_grad_()
    with_drainage = torch.randn(samples, num_classes + 1, generator=generator).requires_grad_()
    hard = torch.randint(num_classes, (samples,), generator=generator)
    soft = torch.randn(samples, num_classes, generator=generator).softmax(1)
    cross_entropy = CrossEntropy()
    return {
        "F.cross_entropy, hard": (lambda: F.cross_entropy(classes, hard), classes, "F.cross_entropy, hard"),
        "CrossEntropy, hard": (lambda: cross_entropy(classes, hard), classes, "F.cross_entropy, hard"),
        "drainage, hard": (lambda: drainage_loss(with_drainage, hard), with_drainage, "F.cross_entropy, hard"),
        "F.cross_entropy, soft": (lambda: F.cross_entropy(classes, soft), classes, "F.cross_entropy, soft"),
        "CrossEntropy, soft": (lambda: cross_entropy(classes, soft), classes, "F.cross_entropy, soft"),
        "drainage, soft": (lambda: drainage_loss(with_drainage, soft), with_drainage, "F.cross_entropy, soft"),
    }


def seconds(call: Callable[[], Tensor], logits: Tensor, repeats: int) -> float:
    """Seconds for one forward and backward pass."""
    start = time.perf_counter()
    for _ in range(repeats):
        torch.autograd.grad(call(), logits)
    return (time.perf_counter() - start) / repeats


def measure(samples: int, num_classes: int) -> list[dict[str, str | int | float]]:
    """One row for each loss."""
    losses = cases(samples, num_classes)
    repeats = {}
    for name, (call, logits, _) in losses.items():
        once = statistics.median(seconds(call, logits, 1) for _ in range(WARM_UP))
        repeats[name] = max(1, round(MIN_SECONDS / once))
    times: dict[str, list[float]] = {name: [] for name in losses}
    order = random.Random(0)
    for _ in range(ROUNDS):
        for name in order.sample([*losses], len(losses)):
            call, logits, _ = losses[name]
            times[name].append(seconds(call, logits, repeats[name]))
    return [
        {
            "loss": name,
            "samples": samples,
            "classes": num_classes,
            "median_us": 1e6 * statistics.median(times[name]),
            "ratio": statistics.median(a / b for a, b in zip(times[name], times[peer], strict=True)),
            "compared_with": peer,
            "rounds": ROUNDS,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        for name, (_, _, peer) in losses.items()
    ]


def main() -> None:
    """Measure, print, and write the CSV where asked."""
    parser = argparse.ArgumentParser(description="Forward + backward of the losses against F.cross_entropy, on a CPU.")
    parser.add_argument("--csv", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, median of {ROUNDS} rounds")
    print(f"{'(N, C)':>12}  {'loss':<22} {'µs':>9}  ratio to F.cross_entropy")
    rows = []
    for samples, num_classes in SHAPES:
        for row in measure(samples, num_classes):
            rows.append(row)
            shape = f"({samples}, {num_classes})"
            print(f"{shape:>12}  {row['loss']:<22} {row['median_us']:>9.1f}  {row['ratio']:.2f}")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
