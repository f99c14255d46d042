"""A data set on the training device, and its batches: whole on the device, augmented there, in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catchment.data import Dataset, ImageFiles
from catchment.training.config import parse_augmentation, parse_step

Column = Tensor | Callable[[Tensor, Tensor], Tensor]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator for one epoch: what it draws depends on seed and epoch alone, not on what ran before."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def check_augmentation(steps: tuple[str, ...], dataset: Dataset) -> None:
    """Raise a ValueError if the data can't take the steps, or what a step needs is not installed."""
    if steps and not dataset.is_image:
        raise ValueError(f"augmentation is {', '.join(steps)}, and {dataset.name} is a table: leave it out")
    kinds = {parse_step(step)[0] for step in steps}
    if "random-crop" in kinds and not isinstance(dataset.inputs, ImageFiles):
        raise ValueError(
            f"augmentation is random-crop, and the images of {dataset.name} have no more than their "
            f"{dataset.inputs.shape[1]} pixels to cut from: use crop:P"
        )
    if "color-jitter" in kinds:
        try:
            import torchvision.transforms.v2  # noqa: F401
        except ImportError:
            raise ValueError('color-jitter needs torchvision: pip install "catchment[vision]"') from None


def inputs_on_device(dataset: Dataset, device: torch.device) -> Tensor:
    """Images as uint8 ``(N, C, H, W)``, tables as they are."""
    inputs = torch.from_numpy(dataset.inputs)
    if dataset.is_image:
        inputs = inputs.permute(0, 3, 1, 2).contiguous()
    return inputs.to(device)


@dataclass(frozen=True)
class Augmentation:
    """Random crops after padding, and flips, decided for every sample of an epoch at once.

    A sample's crop and flip depend on seed, epoch and its index, not on its batch or on how many processes share it.
    """

    shifts: Tensor | None  # (N, 2) of 0..2 * padding
    padding: int
    flips: Tensor | None  # (N,) of bool

    @classmethod
    def draw(
        cls, steps: tuple[str, ...], num_samples: int, generator: torch.Generator, device: torch.device
    ) -> Augmentation:
        """The decisions for one epoch."""
        padding = max((parse_augmentation(step) for step in steps), default=0)
        shifts = flips = None
        if padding:
            shifts = torch.randint(0, 2 * padding + 1, (num_samples, 2), generator=generator).to(device)
        if "flip" in steps:
            flips = (torch.rand(num_samples, generator=generator) < 0.5).to(device)
        return cls(shifts, padding, flips)

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Augment ``images`` ``(B, C, H, W)`` of the samples ``index``."""
        if self.shifts is not None:
            height, width = images.shape[-2:]
            padded = F.pad(images, [self.padding] * 4)
            rows = self.shifts[index, 0, None] + torch.arange(height, device=images.device)
            columns = self.shifts[index, 1, None] + torch.arange(width, device=images.device)
            sample = torch.arange(len(images), device=images.device)[:, None, None]
            images = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if self.flips is not None:
            images = torch.where(self.flips[index, None, None, None], images.flip(-1), images)
        return images


class TrainingBatches:
    """The batches of a training set, epoch by epoch.

    Args:
        dataset: the training set; it is moved to the device whole.
        batch_size: over all processes together.
        device: where batches are made.
        seed: of order and augmentation.
        augmentation: steps such as "crop:4" and "flip".
        columns: what else each batch carries: an array with a row per sample, or a function of the (augmented)
            inputs and their index, called without gradient.
        rank: of this process.
        world_size: number of processes; each takes an equal share of every batch, and up to ``world_size - 1``
            samples of an epoch's last batch are left out to make the shares equal.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        augmentation: tuple[str, ...] = (),
        columns: Mapping[str, Column] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_augmentation(augmentation, dataset)
        self.inputs = inputs_on_device(dataset, device)
        self.target = torch.from_numpy(dataset.labels).to(device)
        self.device, self.seed, self.augmentation = device, seed, augmentation
        self.rank, self.world_size = rank, world_size
        self.columns = columns_on_device(columns, len(dataset), device)
        self.bounds = batch_bounds(len(dataset), batch_size, world_size)

    def __len__(self) -> int:
        return len(self.bounds)

    def epoch(self, epoch: int, num_epochs: int) -> Iterator[dict[str, Tensor]]:
        """This process's share of every batch of one epoch."""
        generator = epoch_generator(self.seed, epoch)
        order = torch.randperm(len(self.inputs), generator=generator).to(self.device)
        augment = Augmentation.draw(self.augmentation, len(self.inputs), generator, self.device)
        for step, (start, stop) in enumerate(self.bounds):
            index = order[start:stop][self.rank :: self.world_size]
            inputs = augment(self.inputs[index], index)
            progress = (epoch + step / len(self)) / num_epochs
            yield full_batch(inputs, self.target[index], index, progress, self.columns)


def columns_on_device(
    columns: Mapping[str, Column] | None, num_samples: int, device: torch.device
) -> dict[str, Column]:
    """Columns that are arrays, moved to the device; functions as they are."""
    placed = dict(columns or {})
    for name, column in placed.items():
        if not callable(column):
            if len(column) != num_samples:
                raise ValueError(f"column {name!r} has {len(column)} rows for {num_samples} samples: give one each")
            placed[name] = torch.as_tensor(column).to(device)
    return placed


def full_batch(
    inputs: Tensor, target: Tensor, index: Tensor, progress: float, columns: Mapping[str, Column]
) -> dict[str, Tensor]:
    """A batch as the loop takes it, with its rows of the columns."""
    batch = {
        "inputs": inputs,
        "target": target,
        "index": index,
        "progress": torch.tensor(progress, device=inputs.device),
    }
    for name, column in columns.items():
        if isinstance(column, Tensor):
            batch[name] = column[index]
        else:
            with torch.no_grad():
                batch[name] = column(inputs, index)
    return batch


def batch_bounds(num_samples: int, batch_size: int, world_size: int) -> list[tuple[int, int]]:
    """Where each batch starts and stops, so that each of ``world_size`` equal shares has at least 2 samples.

    Batch statistics need two samples: a last batch with less joins the one before it.

    >>> batch_bounds(9, 4, 1)
    [(0, 4), (4, 9)]
    """
    num_samples -= num_samples % world_size
    batch_size -= batch_size % world_size
    if min(num_samples, batch_size) < 2 * world_size:
        raise ValueError(
            f"a batch of {batch_size} from {num_samples} samples gives {world_size} processes less than 2 each: "
            "use fewer processes, a larger batch or more data"
        )
    starts = list(range(0, num_samples, batch_size))
    if num_samples - starts[-1] < 2 * world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_samples], strict=True))
