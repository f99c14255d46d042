"""Time of the quasibinary loss over binary cross-entropy.

python benchmarks/quasibinary.py [--device cuda] [--csv FILE]

Timed at (64, 80) and (64, 10,000), side by side in an order drawn anew every round: a training step of a small
classifier (512 features -> 512 -> K, SGD with momentum), and the forward and backward pass of the loss alone. Printed
are the medians over rounds, and the median of the ratios within a round to ``F.binary_cross_entropy_with_logits`` on
the same multi-hot targets. On a CPU it is CPU time of one thread, so that other programs don't count.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catchment.files import csv_text, write_text
from catchment.quasibinary import QuasibinaryLoss

SHAPES = ((64, 80), (64, 10_000))
FEATURES = 512
WARM_UP = 5
MIN_SECONDS = 5e-3  # a timing repeats the call until it takes about this long
LOSSES = ("binary cross-entropy", "quasibinary")


def make_loss(name: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    return QuasibinaryLoss().to(device) if name == "quasibinary" else F.binary_cross_entropy_with_logits


def training_step(name: str, num_classes: int, target: Tensor) -> Callable[[], object]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, num_classes)).to(target.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    features, loss = torch.randn(len(target), FEATURES).to(target.device), make_loss(name, target.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(net(features), target).backward()
        optimizer.step()

    return step


def loss_alone(name: str, num_classes: int, target: Tensor) -> Callable[[], object]:
    torch.manual_seed(0)
    logits = torch.randn(len(target), num_classes).to(target.device).requires_grad_()
    loss = make_loss(name, target.device)
    return lambda: torch.autograd.grad(loss(logits, target), logits)


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def measure(
    kind: str, samples: int, num_classes: int, rounds: int, device: torch.device
) -> list[dict[str, str | int | float]]:
    drawn = torch.rand(samples, num_classes, generator=torch.Generator().manual_seed(0))
    target = (drawn < 3 / num_classes).float().to(device)
    make = training_step if kind == "step" else loss_alone
    calls = {name: make(name, num_classes, target) for name in LOSSES}
    repeats = {}
    for name, call in calls.items():
        once = statistics.median(seconds(call, 1, device) for _ in range(WARM_UP))
        repeats[name] = max(1, round(MIN_SECONDS / once))
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(LOSSES, len(LOSSES)):
            times[name].append(seconds(calls[name], repeats[name], device))
    return [
        {
            "timed": kind,
            "loss": name,
            "samples": samples,
            "classes": num_classes,
            "median_us": 1e6 * statistics.median(times[name]),
            "ratio": statistics.median(a / b for a, b in zip(times[name], times[LOSSES[0]], strict=True)),
            "rounds": rounds,
            "torch": torch.__version__,
            "device": str(device),
        }
        for name in LOSSES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The quasibinary loss over binary cross-entropy.")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--csv", type=Path, help="write the numbers to this file")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.device}, float32, median of {arguments.rounds} rounds")
    rows = []
    for kind in ("step", "loss"):
        for samples, num_classes in SHAPES:
            for row in measure(kind, samples, num_classes, arguments.rounds, arguments.device):
                rows.append(row)
                shape = f"({samples}, {num_classes})"
                print(f"{kind:<5} {shape:>12}  {row['loss']:<20} {row['median_us']:>10.1f} µs  {row['ratio']:.2f}")
    if arguments.csv:
        write_text(arguments.csv, csv_text(rows))


if __name__ == "__main__":
    main()
