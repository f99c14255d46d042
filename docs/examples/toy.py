"""Drainage in two dimensions: a learned z_d against constant ones, and the drained region as alpha and beta change.

    python docs/examples/toy.py --out docs/images

draws toy.png and toy-alpha-beta.png there and prints the numbers of docs/toy.md, mean and standard deviation over the
seeds 0 to 4 (about two minutes on one core). --quick takes one seed and few steps: a look at whether it runs.
"""

import argparse
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn

from catchment import DrainageHead, DrainageLoss

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from scipy.spatial import cKDTree

NUM_CLASSES = 3
NOBODY = 3  # the true class of the clump that is none of the three
CENTRES = np.array([[-1.5, -1.0], [1.5, -1.0], [0.0, 1.6]])
CLUMP = np.array([3.0, 2.0])
WIDTH = 5.0  # everything is measured and drawn on the square from -5 to 5
GRID_SIDE = 201
ALPHAS = BETAS = (0.1, 1.0, 10.0)

# Okabe and Ito's palette, which colour-blind people can tell apart
COLOURS = ["#0072B2", "#E69F00", "#009E73"]
TINTS = ["#BFDCEC", "#F9E7BF", "#BFE7DC"]
DRAINED_TINT = "#FFFFFF"


class Points(NamedTuple):
    """A training set: where the points are, what they are, and what they are called."""

    features: Tensor  # (N, 2)
    true: Tensor  # (N,), 0 to 2, and 3 for nobody's points
    given: Tensor  # (N,), 0 to 2


def make_points(seed: int, per_class: int = 200) -> Points:
    """Three blobs with a tenth of their labels wrong, and a clump half as large that is labelled at random."""
    rng = np.random.default_rng(seed)
    blobs = np.concatenate([centre + 0.65 * rng.standard_normal((per_class, 2)) for centre in CENTRES])
    clump = CLUMP + 0.5 * rng.standard_normal((per_class // 2, 2))
    true = np.concatenate([np.repeat(np.arange(NUM_CLASSES), per_class), np.full(len(clump), NOBODY)])
    given = true.copy()
    given[true == NOBODY] = rng.integers(0, NUM_CLASSES, len(clump))
    wrong = rng.choice(len(blobs), len(blobs) // 10, replace=False)
    given[wrong] = (true[wrong] + rng.integers(1, NUM_CLASSES, len(wrong))) % NUM_CLASSES
    features = np.concatenate([blobs, clump]).astype(np.float32)
    return Points(torch.tensor(features), torch.tensor(true), torch.tensor(given))


def train(
    points: Points,
    *,
    alpha: float = 1.0,
    beta: float | None = None,
    constant: float | None = None,
    steps: int = 400,
    seed: int = 0,
) -> nn.Module:
    """A network with two hidden layers of 32, trained on all points at once with Adam; no penalty on the weights."""
    torch.manual_seed(seed)
    head = DrainageHead(32, NUM_CLASSES, constant=constant)
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), head)
    criterion = DrainageLoss(alpha, beta)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(net(points.features), points.given).backward()
        optimizer.step()
    return net


def grid() -> Tensor:
    """The square as (GRID_SIDE^2, 2) points, row by row from below."""
    axis = torch.linspace(-WIDTH, WIDTH, GRID_SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def near_points(points: Points) -> Tensor:
    """Which grid points have a training point within a distance of 1."""
    distance, _ = cKDTree(points.features).query(grid())
    return torch.tensor(distance <= 1)


@torch.no_grad()
def measure(net: nn.Module, points: Points) -> dict[str, float]:
    """Shares, 0 to 1, of the grid and of the training points where drainage is the arg-max; and the accuracy."""
    drained = net(grid()).argmax(1) == NUM_CLASSES
    near = near_points(points)
    logits = net(points.features)
    point_drained = logits.argmax(1) == NUM_CLASSES
    known = points.true != NOBODY
    right = points.given == points.true
    kinds = {
        "area": drained,
        "area near points": drained[near],
        "area elsewhere": drained[~near],
        "right labels": point_drained[right],
        "wrong labels": point_drained[known & ~right],
        "nobody's points": point_drained[~known],
        "accuracy": (logits[:, :NUM_CLASSES].argmax(1) == points.true)[known],
    }
    return {name: values.float().mean().item() for name, values in kinds.items()}


@torch.no_grad()
def agreement(net: nn.Module, other: nn.Module, points: Points) -> float:
    """Share of the grid near training points where both networks name the same class, drainage left aside."""
    near = grid()[near_points(points)]
    classes, other_classes = (each(near)[:, :NUM_CLASSES].argmax(1) for each in (net, other))
    return (classes == other_classes).float().mean().item()


def compare_constants(seeds: Iterable[int], steps: int, per_class: int = 200) -> dict[str, list[dict[str, float]]]:
    """Learned against constant z_d at alpha = beta = 1: what ``measure`` gives, per variant and seed.

    "same class" is the agreement with the learned z_d; "learned, other start" says how far two starts differ anyway.
    """
    results: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        points = make_points(seed, per_class)
        learned = train(points, steps=steps, seed=seed)
        variants = {"learned": learned, "learned, other start": train(points, steps=steps, seed=1000 + seed)}
        for constant in (5.0, 0.0, -5.0):
            variants[f"constant {constant:g}"] = train(points, constant=constant, steps=steps, seed=seed)
        for name, net in variants.items():
            row = measure(net, points) | {"same class": agreement(net, learned, points)}
            results.setdefault(name, []).append(row)
    return results


def sweep_alpha_beta(seeds: Iterable[int], steps: int) -> dict[str, list[dict[str, float]]]:
    """A learned z_d over all pairs of alpha and beta."""
    results: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        points = make_points(seed)
        for alpha in ALPHAS:
            for beta in BETAS:
                net = train(points, alpha=alpha, beta=beta, steps=steps, seed=seed)
                results.setdefault(f"alpha {alpha:g}, beta {beta:g}", []).append(measure(net, points))
    return results


def print_table(title: str, results: dict[str, list[dict[str, float]]]) -> None:
    """One line a variant: mean ± standard deviation over the seeds, in percent."""
    columns = list(next(iter(results.values()))[0])
    print(f"\n{title}\n{'percent':22}" + "".join(f"{column:>18}" for column in columns))
    for name, rows in results.items():
        cells = []
        for column in columns:
            values = 100 * np.array([row[column] for row in rows])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.1f} ± {spread:.1f}")
        print(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells))


@torch.no_grad()
def draw_regions(axes: Axes, net: nn.Module) -> float:
    """The classes as tints, drainage hatched, and the borders between the classes as black lines, also inside it.

    Returns the share of the square that is drained.
    """
    logits = net(grid())
    extent = (-WIDTH, WIDTH, -WIDTH, WIDTH)
    shape = (GRID_SIDE, GRID_SIDE)
    winners = logits.argmax(1).reshape(shape).numpy()
    colours = ListedColormap([*TINTS, DRAINED_TINT])
    axes.imshow(winners, origin="lower", extent=extent, cmap=colours, vmin=0, vmax=3, interpolation="nearest")
    axis = np.linspace(-WIDTH, WIDTH, GRID_SIDE)
    drained = (winners == NUM_CLASSES).astype(float)
    if drained.any():
        axes.contourf(axis, axis, drained, levels=[0.5, 1.5], colors="none", hatches=["////"])
        axes.contour(axis, axis, drained, levels=[0.5], colors="#777777", linewidths=1.2)
    closed = logits[:, :NUM_CLASSES].argmax(1).reshape(shape).numpy()
    for label in range(NUM_CLASSES):
        axes.contour(axis, axis, (closed == label).astype(float), levels=[0.5], colors="black", linewidths=1.8)
    return float(drained.mean())


def draw_points(axes: Axes, points: Points, size: float = 9) -> None:
    """Right labels as dots, wrong ones as crosses, nobody's points as diamonds; the colour is the given label."""
    right = points.given == points.true
    nobody = points.true == NOBODY
    for label, colour in enumerate(COLOURS):
        here = points.given == label
        for chosen, marker, edge, scale in (
            (here & right, "o", "none", 1.0),
            (here & ~right & ~nobody, "X", "black", 3.5),
            (here & nobody, "D", "black", 2.0),
        ):
            x, y = points.features[chosen].T.numpy()
            axes.scatter(x, y, s=scale * size, c=colour, marker=marker, edgecolors=edge, linewidths=size / 20)


def tidy(axes: Axes, title: str) -> None:
    """The square without ticks, and a title."""
    axes.set(xlim=(-WIDTH, WIDTH), ylim=(-WIDTH, WIDTH), xticks=[], yticks=[], aspect="equal")
    axes.set_title(title, fontsize=12)


def add_legend(figure: plt.Figure, *, with_points: bool) -> None:
    """What the marks mean, below the panels."""
    grey = {"linestyle": "none", "color": "#999999", "markersize": 8}
    marks = [
        Line2D([], [], marker="o", label="right label", **grey),
        Line2D([], [], marker="X", markeredgecolor="black", label="wrong label", **grey),
        Line2D([], [], marker="D", markeredgecolor="black", label="nobody's, labelled at random", **grey),
    ]
    regions = [
        Line2D([], [], color="black", linewidth=1.8, label="border between classes"),
        Patch(facecolor="white", edgecolor="black", hatch="////", label="drained"),
    ]
    classes = [Patch(facecolor=colour, label=f"class {label}") for label, colour in enumerate(COLOURS)]
    handles = [*classes, *regions, *(marks if with_points else [])]
    columns = 3 if with_points else 5
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=11, frameon=False)


def draw_constants(path: Path, steps: int) -> None:
    """The data of seed 0, and the regions with a learned and two constant z_d."""
    points = make_points(0)
    figure, panels = plt.subplots(2, 2, figsize=(8.4, 9.5), layout="constrained")
    draw_points(panels[0, 0], points, size=12)
    tidy(panels[0, 0], "the training points")
    variants = {"$z_d$ learned": None, "$z_d = 0$, constant": 0.0, "$z_d = -5$, constant": -5.0}
    for axes, (title, constant) in zip(panels.flat[1:], variants.items(), strict=True):
        net = train(points, constant=constant, steps=steps)
        drained = draw_regions(axes, net)
        draw_points(axes, points, size=5)
        tidy(axes, f"{title}: {drained:.0%} of the square drained")
    add_legend(figure, with_points=True)
    save(figure, path)


def draw_alpha_beta(path: Path, steps: int) -> None:
    """The regions for all pairs of alpha and beta, alpha down and beta across, for the data of seed 0."""
    points = make_points(0)
    figure, panels = plt.subplots(3, 3, figsize=(8.4, 9.2), layout="constrained")
    for row, alpha in zip(panels, ALPHAS, strict=True):
        for axes, beta in zip(row, BETAS, strict=True):
            net = train(points, alpha=alpha, beta=beta, steps=steps)
            drained = draw_regions(axes, net)
            draw_points(axes, points, size=4)
            is_default = abs(alpha * beta - 1) < 1e-9
            tidy(axes, f"$\\beta$ = {beta:g}" + (" = 1/$\\alpha$" if is_default else ""))
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
            axes.text(-4.7, -4.6, f"{drained:.0%} drained", fontsize=11, bbox=box)
        row[0].set_ylabel(f"$\\alpha$ = {alpha:g}", fontsize=13)
    add_legend(figure, with_points=False)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """A PNG with a palette of 64 colours, which is a third of the size."""
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the pictures")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--quick", action="store_true", help="one seed, 30 steps")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # small matrices: more threads only wait for one another
    seeds, steps = (range(1), 30) if options.quick else (range(5), options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_constants(options.out / "toy.png", steps)
    draw_alpha_beta(options.out / "toy-alpha-beta.png", steps)
    print_table("Learned and constant z_d, alpha = beta = 1", compare_constants(seeds, steps))
    print_table("A learned z_d", sweep_alpha_beta(seeds, steps))


if __name__ == "__main__":
    main()
