"""A data set on the training device, and its batches: whole on the device, augmented there, in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catchment.data import Dataset, ImageFiles
from catchment.training.config import MIXING, parse_step

# steps of augmentation that are done on whole batches, for sets in memory
ON_DEVICE = ("crop", "flip", "rotate", *MIXING)
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
    if kinds & set(MIXING) and (isinstance(dataset.inputs, ImageFiles) or kinds - set(ON_DEVICE)):
        raise ValueError(
            f"augmentation is {', '.join(steps)}: mixup and cutmix are for sets in memory, with no other steps than "
            "crop, flip and rotate"
        )
    for kind in sorted(kinds & {"color-jitter", "augmix"}):
        try:
            import torchvision.transforms.v2  # noqa: F401
        except ImportError:
            raise ValueError(f'{kind} needs torchvision: pip install "catchment[vision]"') from None


def inputs_on_device(dataset: Dataset, device: torch.device) -> Tensor:
    """Images as uint8 ``(N, C, H, W)``, tables as they are."""
    inputs = torch.from_numpy(dataset.inputs)
    if dataset.is_image:
        inputs = inputs.permute(0, 3, 1, 2).contiguous()
    return inputs.to(device)


@dataclass(frozen=True)
class Augmentation:
    """Random crops after padding, flips and rotations, decided for every sample of an epoch at once.

    What happens to a sample depends on seed, epoch and its index, not on its batch or on how many processes share it.
    """

    shifts: Tensor | None  # (N, 2) of 0..2 * padding
    padding: int
    flips: Tensor | None  # (N,) of bool
    angles: Tensor | None = None  # (N,) in degrees

    @classmethod
    def draw(
        cls, steps: tuple[str, ...], num_samples: int, generator: torch.Generator, device: torch.device
    ) -> Augmentation:
        """The decisions for one epoch."""
        asked = dict(parse_step(step) for step in steps)
        shifts = flips = angles = None
        padding = int(asked["crop"][0]) if "crop" in asked else 0
        if padding:
            shifts = torch.randint(0, 2 * padding + 1, (num_samples, 2), generator=generator).to(device)
        if "flip" in asked:
            flips = (torch.rand(num_samples, generator=generator) < 0.5).to(device)
        if "rotate" in asked:
            angles = ((2 * torch.rand(num_samples, generator=generator) - 1) * asked["rotate"][0]).to(device)
        return cls(shifts, padding, flips, angles)

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Augment ``images`` ``(B, C, H, W)`` of the samples ``index``."""
        if self.shifts is not None:
            height, width = images.shape[-2:]
            padded = F.pad(images, [self.padding] * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, shifts, shifts, H, W)
            rows, columns = self.shifts[index].unbind(1)
            images = windows[torch.arange(len(images), device=images.device), :, rows, columns]
        if self.flips is not None:
            images = torch.where(self.flips[index, None, None, None], images.flip(-1), images)
        if self.angles is not None:
            images = rotated(images, self.angles[index])
        return images


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """``images`` ``(B, C, H, W)`` turned counterclockwise about their centre by ``degrees`` ``(B,)``.

    Each pixel is the nearest one of the original; what comes from outside is 0.
    """
    height, width = images.shape[-2:]
    cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    zero = torch.zeros_like(sine)
    theta = torch.stack([cosine, -sine * height / width, zero, sine * width / height, cosine, zero], dim=1)
    grid = F.affine_grid(theta.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(images.dtype)


@dataclass(frozen=True)
class Mixing:
    """Each batch mixed with itself in reverse order: its images, and its labels in the same proportion.

    "mixup" (Zhang et al. 2018) averages two images, "cutmix" (Yun et al. 2019) pastes a box of one into the other; the
    first keeps a share drawn from Beta(a, a) for each batch. The targets become class probabilities ``(B, C)``.
    """

    kind: str
    shares: Tensor  # (steps,) of what stays of the first image
    boxes: list[tuple[int, int, int, int]]  # for each step: top, bottom, left, right

    @classmethod
    def draw(cls, step: str, num_steps: int, size: tuple[int, int], seed: int, epoch: int) -> Mixing:
        """The decisions for one epoch."""
        kind, (concentration,) = parse_step(step)
        rng = np.random.default_rng([seed, epoch, 2])
        shares = rng.beta(concentration, concentration, num_steps)
        boxes = [(0, 0, 0, 0)] * num_steps
        if kind == "cutmix":
            sides = np.sqrt(1 - shares)[:, None] * size
            centres = rng.integers(size, size=(num_steps, 2))
            low = np.clip(np.rint(centres - sides / 2), 0, size).astype(int)
            high = np.clip(np.rint(centres + sides / 2), 0, size).astype(int)
            boxes = [
                (top, bottom, left, right)
                for (top, left), (bottom, right) in zip(low.tolist(), high.tolist(), strict=True)
            ]
            shares = 1 - (high - low).prod(axis=1) / np.prod(size)
        return cls(kind, torch.from_numpy(shares).float(), boxes)

    def __call__(self, step: int, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Images and class probabilities of a batch, mixed with those of its partners."""
        share = float(self.shares[step])
        (images, probabilities), (other_images, other_probabilities) = first, second
        if self.kind == "mixup":
            mixed = share * images.float() + (1 - share) * other_images.float()
        else:
            top, bottom, left, right = self.boxes[step]
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = other_images[:, :, top:bottom, left:right]
        return mixed, share * probabilities + (1 - share) * other_probabilities


def class_probabilities(target: Tensor, num_classes: int) -> Tensor:
    """Labels ``(B,)`` as probabilities ``(B, C)``, all 0 where there is no label; multi-hot ones as numbers."""
    if target.ndim == 2:
        return target.float()
    return F.one_hot(target.clamp(min=-1) + 1, num_classes + 1)[:, 1:].float() * (target >= 0)[:, None]


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
        self.num_classes = dataset.num_classes

    def __len__(self) -> int:
        return len(self.bounds)

    def epoch(self, epoch: int, num_epochs: int) -> Iterator[dict[str, Tensor]]:
        """This process's share of every batch of one epoch."""
        generator = epoch_generator(self.seed, epoch)
        order = torch.randperm(len(self.inputs), generator=generator).to(self.device)
        augment = Augmentation.draw(self.augmentation, len(self.inputs), generator, self.device)
        mixing = next((step for step in self.augmentation if parse_step(step)[0] in MIXING), None)
        size = (self.inputs.shape[-2], self.inputs.shape[-1])
        mix = Mixing.draw(mixing, len(self), size, self.seed, epoch) if mixing else None
        for step, (start, stop) in enumerate(self.bounds):
            batch = order[start:stop]
            index = batch[self.rank :: self.world_size]
            inputs, target = augment(self.inputs[index], index), self.target[index]
            if mix is not None:
                other = batch.flip(0)[self.rank :: self.world_size]
                inputs, target = mix(
                    step,
                    (inputs, class_probabilities(target, self.num_classes)),
                    (augment(self.inputs[other], other), class_probabilities(self.target[other], self.num_classes)),
                )
            progress = (epoch + step / len(self)) / num_epochs
            yield full_batch(inputs, target, index, progress, self.columns)


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
        "progress": torch.full((), progress, device=inputs.device),  # a copy from the host would wait for the device
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
