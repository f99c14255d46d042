"""Images per second of the training loop against a plain one, both in this process.

The plain loop is written from the published protocol as its authors' code has it: images one by one through
torchvision's transforms in a DataLoader, the L1 penalty through autograd, and a log line for each step.

    python benchmarks/training_loop.py --device cpu
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

import catchment as ct
from catchment.data import Dataset, InputFormat
from catchment.experiments.environment import hardware, versions
from catchment.files import csv_text, write_text
from catchment.nets import create_net, input_statistics
from catchment.training import TrainingConfig, train

SHAPES = {"cnn4": (28, 28, 1), "cnn8": (32, 32, 3), "resnet34": (32, 32, 3)}
BATCH, L1, CLIP = 128, 1e-4, 5.0


class PlainImages(TorchDataset):
    """One image at a time, as torchvision's CIFAR10 gives it."""

    def __init__(self, dataset: Dataset, augment: bool) -> None:
        self.images, self.labels = dataset.inputs, dataset.labels
        channels = dataset.inputs.shape[-1]
        steps = [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()] if augment else []
        self.transform = T.Compose([*steps, T.ToTensor(), T.Normalize((0.5,) * channels, (0.25,) * channels)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = self.images[row]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return self.transform(picture), int(self.labels[row])


class Plain(nn.Module):
    """Backbone and head, without what our net does to its inputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = net.backbone, net.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.backbone(x))


def plain_epochs(net: nn.Module, dataset: Dataset, epochs: int, device: torch.device, log: logging.Logger) -> None:
    """Train as published."""
    loader = DataLoader(
        PlainImages(dataset, dataset.inputs.shape[-1] == 3), batch_size=BATCH, shuffle=True, num_workers=2
    )
    net.to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for step, (images, labels) in enumerate(loader):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            logits = net(images)
            loss = nn.functional.cross_entropy(logits, labels)
            loss = loss + L1 * sum(p.abs().sum() for p in net.parameters())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            accuracy = (logits.argmax(1) == labels).float().mean()
            log.info("epoch %d step %d loss %.4f accuracy %.4f", epoch, step, loss.item(), accuracy.item())
        schedule.step()


def our_epochs(name: str, dataset: Dataset, epochs: int, device: torch.device, bf16: bool, compiled: bool) -> float:
    """Train with catchment; seconds of an epoch, without the first, which chooses and compiles."""
    objective = ct.CrossEntropy()
    net = create_net(name, InputFormat.of(dataset), objective, input_statistics(dataset))
    augmentation = ("crop:4", "flip") if dataset.inputs.shape[-1] == 3 else ()
    config = TrainingConfig(
        epochs=epochs + 1, batch_size=BATCH, learning_rate=0.01, l1=L1, clip_norm=CLIP, augmentation=augmentation,
        bf16=bf16, compile=compiled, device=str(device), threads=torch.get_num_threads(),
    )  # fmt: skip
    result = train(ct.Model(net, objective), dataset, config)
    return sum(row["seconds"] for row in result.history[1:]) / epochs


def seconds(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(name: str, images: int, epochs: int, rounds: int, device: torch.device, variants: list[str]) -> list[dict]:
    """Median images per second of the plain loop and of ours, in turn."""
    rng = np.random.default_rng(0)
    dataset = Dataset(
        "random images",
        rng.integers(0, 256, (images, *SHAPES[name]), dtype=np.uint8),
        np.arange(images) % 10,
        tuple("0123456789"),
    )
    found: dict[str, list[float]] = {"plain": [], **{variant: [] for variant in variants}}
    with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
        log = logging.getLogger("plain")
        log.handlers, log.propagate = [logging.StreamHandler(file)], False
        log.setLevel(logging.INFO)
        for _ in range(rounds):
            net = Plain(create_net(name, InputFormat.of(dataset), ct.CrossEntropy(), input_statistics(dataset)))
            plain_epochs(net, dataset, 1, device, log)  # as ours, without the first
            found["plain"].append(seconds(partial(plain_epochs, net, dataset, epochs, device, log), device) / epochs)
            for variant in variants:
                options = variant.split("+")
                found[variant].append(
                    our_epochs(name, dataset, epochs, device, "bf16" in options, "compile" in options)
                )
    plain = statistics.median(found["plain"])
    return [
        {"net": name, "loop": loop, "images_per_second": round(images / statistics.median(times)),
         "ratio": round(plain / statistics.median(times), 2)}
        for loop, times in found.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--nets", default="cnn4,cnn8")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", default="ours,ours+bf16", help="of ours: ours, +bf16, +compile")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("results/speed/training-loop.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(hardware(options.device), versions(), f"{options.threads} threads")
    rows = []
    for name in options.nets.split(","):
        rows += measure(name, options.images, options.epochs, options.rounds, device, options.variants.split(","))
        for row in rows[-1 - len(options.variants.split(",")) :]:
            print(f"{row['net']:10} {row['loop']:20} {row['images_per_second']:8} images/s {row['ratio']:6.2f} x")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, csv_text(rows))


if __name__ == "__main__":
    main()
