"""A task whose label depends on the batch, and what solves it: the tables and the picture of docs/quantile.md.

python docs/examples/quantile_toy.py [--out docs/images] [--steps 1500] [--seeds 3]

Each batch shows two clouds of points on the unit circle, class 0 at an angle t and class 1 45 degrees further on, with
t drawn anew for each batch. Over all batches every place on the circle belongs to both classes equally often, so a
network that looks at one point at a time can't do better than chance; next to its batch, a point's class is plain.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from catchment.quantile import QuantileActivation, quantile_activation

PER_CLASS = 128
DEVIATION = 0.1
APART = math.pi / 4
WIDTH = 64


def make_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points ``(2 * PER_CLASS, 2)`` and their classes, at a random angle."""
    angle = 2 * math.pi * torch.rand(1, generator=generator)
    labels = torch.arange(2).repeat_interleave(PER_CLASS)
    at = angle + APART * labels
    centres = torch.stack([at.cos(), at.sin()], 1)
    return centres + DEVIATION * torch.randn(len(labels), 2, generator=generator), labels


def quantile(*, pre: bool, post: bool) -> nn.Module:
    """A quantile activation with or without its batch normalisations."""
    return QuantileActivation(WIDTH, pre_norm=pre, post_norm=post)


class BatchNormalised(nn.Sequential):
    """Batch normalisation that always uses the batch's statistics, then ReLU."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d(WIDTH, track_running_stats=False), nn.ReLU())


def mlp(*activations: nn.Module) -> nn.Sequential:
    """A linear layer before each activation, and one after the last."""
    layers: list[nn.Module] = []
    for index, activation in enumerate(activations):
        layers += [nn.Linear(WIDTH if index else 2, WIDTH), activation]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 2))


NETS = {
    "ReLU, ReLU": lambda: mlp(nn.ReLU(), nn.ReLU()),
    "BN ReLU, BN ReLU": lambda: mlp(BatchNormalised(), BatchNormalised()),
    "quantile, quantile": lambda: mlp(quantile(pre=True, post=True), quantile(pre=True, post=True)),
    "quantile, quantile, without BN": lambda: mlp(quantile(pre=False, post=False), quantile(pre=False, post=False)),
    "ReLU, quantile, quantile": lambda: mlp(nn.ReLU(), quantile(pre=True, post=True), quantile(pre=True, post=True)),
    "ReLU, BN ReLU, BN ReLU": lambda: mlp(nn.ReLU(), BatchNormalised(), BatchNormalised()),
}


def run(name: str, seed: int, *, steps: int, test_batches: int = 300) -> dict[str, float]:
    """Train on fresh batches and test on others, in the context of each: mean and 5th percentile of accuracy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    net = NETS[name]()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    for _ in range(steps):
        x, y = make_batch(generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        schedule.step()
    elapsed = time.perf_counter() - start
    net.eval()
    with torch.no_grad():
        batches = [make_batch(generator) for _ in range(test_batches)]
        accuracies = torch.stack([(net(x).argmax(1) == y).float().mean() for x, y in batches])
    return {"accuracy": accuracies.mean().item(), "p5": accuracies.quantile(0.05).item(), "seconds": elapsed}


def print_table(seeds: int, steps: int) -> None:
    """Mean ± standard deviation over the seeds."""
    print(f"{'activations':<32} {'accuracy':>15} {'worst 5 % of batches':>22} {'seconds':>8}")
    for name in NETS:
        results = [run(name, seed, steps=steps) for seed in range(seeds)]
        columns = {key: [result[key] for result in results] for key in results[0]}
        accuracy, worst = (
            f"{statistics.mean(columns[key]):.3f} ± {statistics.stdev(columns[key]) if seeds > 1 else 0:.3f}"
            for key in ("accuracy", "p5")
        )
        print(f"{name:<32} {accuracy:>15} {worst:>22} {statistics.mean(columns['seconds']):>8.0f}", flush=True)


def draw(path: Path) -> None:
    """Two clouds and a direction; what is projected on it, and what ReLU and quantile activation make of that."""
    generator = torch.Generator().manual_seed(0)
    cloud = 0.55 * torch.randn(4000, 2, generator=generator) * torch.tensor([1.0, 0.5])
    moved = 1.8 * cloud[torch.randperm(4000, generator=generator)] + torch.tensor([0.5, 0.2])
    direction = torch.tensor([0.8, 0.6])
    projected = {"before": cloud @ direction, "after": moved @ direction}
    colours = {"before": "#1f77b4", "after": "#ff7f0e"}
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    for name, points in (("before", cloud), ("after", moved)):
        panels[0].scatter(*points[:600].T.numpy(), s=4, c=colours[name], label=name)
    panels[0].axline((0, 0), tuple(direction.tolist()), color="red")
    panels[0].set(title="inputs before and after a shift", xlim=(-3, 4), ylim=(-2, 2.5))
    panels[0].legend(frameon=False, loc="upper left")
    rows = {
        "projected on the red line": lambda z: z,
        "after ReLU": torch.relu,
        "after quantile activation": lambda z: quantile_activation(z[:, None])[:, 0],
    }
    for axes, (title, activate) in zip(panels[1:], rows.items(), strict=True):
        for name, z in projected.items():
            axes.hist(activate(z).numpy(), bins=60, density=True, alpha=0.55, color=colours[name])
        axes.set(title=title, yticks=[])
    figure.savefig(path, dpi=80, facecolor="white")
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the picture")
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # small matrices: more threads only wait for one another
    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "quantile-shift.png")
    print_table(options.seeds, options.steps)


if __name__ == "__main__":
    main()
