"""Networks under the common corruptions, as trained and adapted to the test inputs, by severity.

    python docs/examples/shift.py

trains a small network with ReLU and one with quantile activation on MNIST, three seeds each, and prints accuracy and
expected calibration error (top label, 15 bins), mean ± standard deviation over the seeds, of

    as trained          stored statistics, and for quantile activation the running context
    batch               quantile activation in the context of the batch, normalisations included
    BatchNorm           BatchNorm statistics of the batch (quantile activation: on top of "batch")
    TENT                and entropy minimisation, online over the test set
    recalibration       quantile recalibration (ReLU, with --recalibration: slow, it sorts every activation)

at each severity, the mean over the corruptions. Test images are shuffled once (seed 0) and come in batches of 200; all
but "as trained" see the batch without its labels. MNIST is read where CATCHMENT_DATA says; without it scikit-learn's
digits are enlarged to 32 pixels. The corruptions are made anew with CIFAR's constants: these are not the published
MNIST-C, and images of 28 pixels are padded to 32. ``--quick``: 300 images, 1 epoch, 1 seed,
2 corruptions: it shows that all runs, not how good it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from catchment import CrossEntropy, Model, metrics
from catchment.baselines.shift import adapt_batch_norm, recalibrate_quantiles, source_quantiles, tent
from catchment.data import Dataset, InputFormat, load_data
from catchment.disturb import BENCHMARK_CORRUPTIONS, corrupt
from catchment.disturb.corruptions import SEVERITIES
from catchment.nets import create_net, input_statistics
from catchment.quantile import Context, set_context
from catchment.training import TrainingConfig, train

SIDE = 32  # what CIFAR's constants are made for
QUICK_CORRUPTIONS = ("gaussian_noise", "contrast")
Row = dict[str, float]
Method = Callable[[Model, list[Tensor]], Tensor]


@dataclass(frozen=True)
class Protocol:
    """How much is done."""

    seeds: int = 3
    epochs: int = 10
    train_size: int = 60_000
    test_size: int = 2000
    source_size: int = 1000
    batch_size: int = 200
    corruptions: tuple[str, ...] = BENCHMARK_CORRUPTIONS
    severities: tuple[int, ...] = tuple(range(1, SEVERITIES + 1))
    recalibration: bool = False


QUICK = Protocol(
    seeds=1,
    epochs=1,
    train_size=300,
    test_size=100,
    source_size=100,
    batch_size=50,
    corruptions=QUICK_CORRUPTIONS,
    severities=(1, 5),
)


def load(protocol: Protocol) -> tuple[Dataset, Dataset]:
    """Training and test part with sides of 32 pixels."""
    name = "mnist" if os.environ.get("CATCHMENT_DATA") else "digits"
    splits = load_data(name)
    rng = np.random.default_rng(0)
    parts = []
    for part, size in ((splits.train, protocol.train_size), (splits.test, protocol.test_size)):
        chosen = part.select(rng.permutation(len(part))[:size])
        parts.append(replace(chosen, inputs=to_side(chosen.inputs)))
    return parts[0], parts[1]


def to_side(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Padded to 32 pixels where little is missing, else enlarged."""
    missing = SIDE - images.shape[1]
    if missing <= 4:
        pad = (missing // 2, missing - missing // 2)
        return np.pad(images, ((0, 0), pad, pad, (0, 0)))
    enlarged = [Image.fromarray(image[..., 0]).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image) for image in enlarged])[..., None]


def train_net(dataset: Dataset, activation: str, seed: int, epochs: int) -> Model:
    """The small convolutional network with BatchNorm, by cross-entropy."""
    torch.manual_seed(seed)
    objective = CrossEntropy()
    net = create_net("small-cnn", InputFormat.of(dataset), objective, input_statistics(dataset), activation=activation)
    model = Model(net, objective)
    train(model, dataset, TrainingConfig(epochs=epochs, learning_rate=0.05, augmentation=(), seed=seed))
    return model.eval()


@torch.no_grad()
def predict(model: Model, batches: list[Tensor]) -> Tensor:
    """The logits of all batches."""
    return torch.cat([model.net(x)["logits"] for x in batches])


def by_batch_norm(model: Model, batches: list[Tensor]) -> Tensor:
    """With BatchNorm statistics of each batch."""
    return adapt_batch_norm(model, batches).logits


def by_tent(model: Model, batches: list[Tensor]) -> Tensor:
    """With TENT, online."""
    return tent(model, batches).logits


def in_context(context: Context, method: Method) -> Method:
    """The method, with quantile activation in that context."""

    def with_context(model: Model, batches: list[Tensor]) -> Tensor:
        set_context(model, context)
        return method(model, batches)

    return with_context


def methods(activation: str, model: Model, source: list[Tensor]) -> dict[str, Method]:
    """Ways to predict, by name; ``source``: batches of training inputs for quantile recalibration, or none."""
    if activation == "quantile":
        return {
            "as trained": in_context("running", predict),
            "batch": in_context("batch", predict),
            "BatchNorm": in_context("batch", by_batch_norm),
            "TENT": in_context("batch", by_tent),
        }
    ways: dict[str, Method] = {"as trained": predict, "BatchNorm": by_batch_norm, "TENT": by_tent}
    if source:
        quantiles = source_quantiles(model, source)
        ways["recalibration"] = lambda model, batches: recalibrate_quantiles(model, batches, quantiles).logits
    return ways


def test_sets(test: Dataset, protocol: Protocol) -> Iterator[tuple[int, list[Tensor]]]:
    """(severity, batches) of the clean images, whose severity is 0, and under every corruption."""
    yield 0, to_batches(test.inputs, protocol.batch_size)
    for name in protocol.corruptions:
        for severity in protocol.severities:
            yield severity, to_batches(corrupt(test.inputs, name, severity, "cifar"), protocol.batch_size)


def to_batches(images: NDArray[np.uint8], size: int) -> list[Tensor]:
    """uint8 ``(n, C, H, W)`` each."""
    return list(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().split(size))


def run(protocol: Protocol, activations: tuple[str, ...] = ("relu", "quantile")) -> dict[tuple[str, str], list[Row]]:
    """For each network and method a row for each seed: "accuracy S" and "ece S" at each severity S, 0 the clean."""
    train_part, test = load(protocol)
    sets = list(test_sets(test, protocol))
    kept = protocol.source_size if protocol.recalibration else 0
    source = to_batches(train_part.inputs[:kept], protocol.batch_size) if kept else []
    results: dict[tuple[str, str], list[Row]] = {}
    for activation in activations:
        for seed in range(protocol.seeds):
            model = train_net(train_part, activation, seed, protocol.epochs)
            for name, method in methods(activation, model, source).items():
                numbers: dict[str, list[float]] = {}
                for severity, batches in sets:
                    p = method(model, batches).softmax(1)
                    numbers.setdefault(f"accuracy {severity}", []).append(metrics.accuracy(p, test.labels))
                    numbers.setdefault(f"ece {severity}", []).append(metrics.ece(p, test.labels))
                row = {key: float(np.mean(values)) for key, values in numbers.items()}
                results.setdefault((activation, name), []).append(row)
    return results


def print_table(results: dict[tuple[str, str], list[Row]], measure: str) -> None:
    """One line a network and method, one column a severity, in percent."""
    columns = [key for key in next(iter(results.values()))[0] if key.startswith(measure)]
    print(f"\n{measure} (%) by severity, 0 = clean\n{'':26}" + "".join(f"{key.split()[1]:>14}" for key in columns))
    for (activation, name), rows in results.items():
        cells = []
        for key in columns:
            values = 100 * np.array([row[key] for row in rows])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        print(f"{activation + ', ' + name:26}" + "".join(f"{cell:>14}" for cell in cells))


def main(arguments: list[str] | None = None) -> None:
    """Train, corrupt, adapt, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 images, 1 epoch, 1 seed, 2 corruptions")
    parser.add_argument("--recalibration", action="store_true", help="quantile recalibration too, which is slow")
    options = parser.parse_args(arguments)
    results = run(replace(QUICK if options.quick else Protocol(), recalibration=options.recalibration))
    for measure in ("accuracy", "ece"):
        print_table(results, measure)


if __name__ == "__main__":
    main()
