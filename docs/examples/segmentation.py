"""Drainage for segmentation: void pixels left out, and objects of no class that the annotators labelled at random.

    python docs/examples/segmentation.py --out docs/images

draws segmentation.png there and prints the numbers of docs/segmentation.md, mean and standard deviation over the
seeds 0 to 4 (about two minutes on one core). --quick takes one seed and a few images: a look at whether it runs.
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

from catchment import CrossEntropy, DrainageLoss, Objective, with_drainage
from catchment.metrics import auroc

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from PIL import Image

SIZE = 64
NUM_CLASSES = 3  # background, vertical stripes, horizontal stripes
NOBODY = 3  # the true class of slanted stripes, for which there is no label
VOID = -100  # the border of every object, where nobody can say: left out of the loss and of every number
ANGLES = {1: 0.0, 2: np.pi / 2, NOBODY: np.pi / 4}
ALPHAS = (1.0, 0.3, 0.1)

# Okabe and Ito's palette, which colour-blind people can tell apart
COLOURS = ["#F0F0F0", "#0072B2", "#E69F00"]
DRAINED_COLOUR = "#CC79A7"


class Scenes(NamedTuple):
    """Images with what their pixels are and what they are called."""

    images: Tensor  # (N, 3, SIZE, SIZE)
    true: Tensor  # (N, SIZE, SIZE), 0 to 2, 3 for nobody's objects, -100 for void
    given: Tensor  # (N, SIZE, SIZE), 0 to 2, -100 for void


def make_scenes(count: int, rng: np.random.Generator) -> Scenes:
    """Noisy images with three or four striped objects each.

    Every object of nobody's class is labelled as one of the three classes, drawn at random; a tenth of the striped
    objects of the known classes carry the label of the other one.
    """
    y, x = np.mgrid[:SIZE, :SIZE]
    images = np.zeros((count, 3, SIZE, SIZE), np.float32)
    true = np.zeros((count, SIZE, SIZE), np.int64)
    given = np.zeros_like(true)
    for image, true_map, given_map in zip(images, true, given, strict=True):
        void = np.zeros((SIZE, SIZE), bool)
        quarters = rng.permutation([(17, 17), (17, 46), (46, 17), (46, 46)])
        kinds = rng.permutation([1, 2, NOBODY, rng.integers(1, NOBODY + 1)])[: rng.integers(3, 5)]
        for centre, kind in zip(quarters, kinds, strict=False):
            dy, dx = y - centre[0] - rng.integers(-3, 4), x - centre[1] - rng.integers(-3, 4)
            radius = rng.integers(8, 13)
            is_disc = rng.random() < 0.5
            distance = np.hypot(dy, dx) - radius if is_disc else np.maximum(abs(dy), abs(dx)) - radius
            inside = distance <= 0
            angle = ANGLES[int(kind)] + rng.normal(0, 0.1)
            stripes = np.sin(2 * np.pi / 6 * (dx * np.cos(angle) + dy * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
            image[:, inside] += 0.5 * stripes[inside]
            label = kind
            if kind == NOBODY:
                label = rng.integers(0, NUM_CLASSES)
            elif rng.random() < 0.1:
                label = 3 - kind
            true_map[inside], given_map[inside] = kind, label
            void |= abs(distance) <= 1
        true_map[void] = given_map[void] = VOID
        image += rng.normal(0, 0.15, (3, 1, 1)) + rng.normal(0, 0.6, image.shape)
    return Scenes(torch.tensor(images), torch.tensor(true), torch.tensor(given))


def make_net() -> nn.Sequential:
    """A small fully convolutional network: (N, 3, H, W) -> (N, NUM_CLASSES, H, W), the classifier a 1x1 convolution."""
    layers: list[nn.Module] = []
    for channels, dilation in ((3, 1), (16, 1), (16, 2), (16, 4)):
        layers += [nn.Conv2d(channels, 16, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, NUM_CLASSES, 1))


def train(objective: Objective, scenes: Scenes, *, seed: int, epochs: int = 12) -> nn.Module:
    """The same weights to start from, the same batches and the same Adam for every objective."""
    torch.manual_seed(seed)
    net = make_net()
    if objective.extra_outputs:
        net = with_drainage(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(scenes.images), generator=generator).split(8):
            optimizer.zero_grad()
            objective(net(scenes.images[batch]), scenes.given[batch]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def measure(objective: Objective, net: nn.Module, scenes: Scenes) -> dict[str, float]:
    """Numbers from 0 to 1 over the pixels that are not void; "-" in the printed table stands for NaN."""
    logits = net(scenes.images)
    classes = objective.probabilities(logits)
    nobody = scenes.true == NOBODY
    known = (scenes.true != VOID) & ~nobody
    objects = known & (scenes.true > 0)
    counted = known | nobody
    has_drainage = objective.extra_outputs == 1
    drained = logits.argmax(1) == NUM_CLASSES
    right = classes.argmax(1) == scenes.true
    nan = float("nan")
    return {
        "accuracy": right[known].float().mean().item(),
        "accuracy, objects": right[objects].float().mean().item(),
        "AUROC 1 - max p": auroc(1 - classes.amax(1)[counted], nobody[counted]),
        "AUROC p_d": auroc(objective.unknown_score(logits)[counted], nobody[counted]) if has_drainage else nan,
        "drained: nobody's": drained[nobody].float().mean().item() if has_drainage else nan,
        "objects": drained[objects].float().mean().item() if has_drainage else nan,
        "background": drained[known & ~objects].float().mean().item() if has_drainage else nan,
    }


def compare(seeds: Iterable[int], *, train_count: int = 48, epochs: int = 12) -> dict[str, list[dict[str, float]]]:
    """Cross-entropy and drainage on fresh scenes per seed; 24 test scenes."""
    objectives: dict[str, Objective] = {"cross-entropy": CrossEntropy()}
    objectives |= {f"drainage, alpha {alpha:g}": DrainageLoss(alpha) for alpha in ALPHAS}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in objectives}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        training, test = make_scenes(train_count, rng), make_scenes(24, rng)
        for name, objective in objectives.items():
            net = train(objective, training, seed=seed, epochs=epochs)
            results[name].append(measure(objective, net, test))
    return results


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """One line an objective: mean ± standard deviation over the seeds, in percent."""
    columns = list(next(iter(results.values()))[0])
    print(f"{'percent':22}" + "".join(f"{column:>19}" for column in columns))
    for name, rows in results.items():
        cells = []
        for column in columns:
            values = 100 * np.array([row[column] for row in rows])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            cells.append("-" if np.isnan(values).any() else f"{values.mean():.1f} ± {spread:.1f}")
        print(f"{name:22}" + "".join(f"{cell:>19}" for cell in cells))


def draw_labels(axes: Axes, labels: Tensor) -> None:
    """Classes as colours, drainage as one more, void grey and hatched."""
    colours = ListedColormap([*COLOURS, DRAINED_COLOUR])
    axes.imshow(labels.clamp(min=0).numpy(), cmap=colours, vmin=0, vmax=NUM_CLASSES, interpolation="nearest")
    void = (labels == VOID).float().numpy()
    if void.any():
        axes.contourf(void, levels=[0.5, 1.5], colors=["#999999"], hatches=["xxxx"])


@torch.no_grad()
def draw(path: Path, *, alpha: float = 0.3, train_count: int = 48, epochs: int = 12) -> None:
    """Three training scenes of seed 0: input, given labels, arg-max and p_d, nobody's objects outlined in black."""
    training = make_scenes(train_count, np.random.default_rng(0))
    objective = DrainageLoss(alpha)
    with torch.enable_grad():
        net = train(objective, training, seed=0, epochs=epochs)
    logits = net(training.images[:3])
    drainage = objective.unknown_score(logits)
    titles = ("input", "given labels", "arg-max of the outputs", "$p_d$")
    figure, panels = plt.subplots(3, 4, figsize=(8.4, 7.2), layout="constrained")
    for row, scene in zip(panels, range(3), strict=True):
        picture = (0.5 + training.images[scene].permute(1, 2, 0) / 4).clamp(0, 1)
        row[0].imshow(picture.numpy())
        draw_labels(row[1], training.given[scene])
        draw_labels(row[2], logits[scene].argmax(0))
        shades = row[3].imshow(drainage[scene].numpy(), cmap=plt.get_cmap("cividis", 10), vmin=0, vmax=1)
        nobody = (training.true[scene] == NOBODY).float().numpy()
        for axes, title in zip(row, titles, strict=True):
            line = "white" if axes is row[3] else "black"
            axes.contour(nobody, levels=[0.5], colors=line, linewidths=1.6)
            axes.set(xticks=[], yticks=[])
            if scene == 0:
                axes.set_title(title, fontsize=12)
    figure.colorbar(shades, ax=panels[:, 3], shrink=0.5, pad=0.04)
    names = ("background", "vertical stripes", "horizontal stripes", "drainage")
    colours = dict(zip([*COLOURS, DRAINED_COLOUR], names, strict=True))
    handles = [
        *(Patch(facecolor=colour, edgecolor="#555555", label=name) for colour, name in colours.items()),
        Patch(facecolor="#999999", hatch="xxxx", label="void, left out"),
        Patch(facecolor="none", edgecolor="black", linewidth=1.6, label="outline: nobody's class"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor="white")
    plt.close(figure)
    # a palette makes the file small
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the picture")
    parser.add_argument("--quick", action="store_true", help="one seed, 16 images, 2 epochs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the same sums in the same order on every machine with the same processor
    seeds, size = (range(1), {"train_count": 16, "epochs": 2}) if options.quick else (range(5), {})
    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "segmentation.png", **size)
    print_table(compare(seeds, **size))


if __name__ == "__main__":
    main()
