"""Batches of images that are decoded, cut and coloured by worker processes while the network trains."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from catchment.data import IGNORE_INDEX, Dataset, ImageFiles
from catchment.data.image_files import cut
from catchment.data.images import UnreadableImageError
from catchment.training.batches import (
    ON_DEVICE,
    Column,
    TrainingBatches,
    batch_bounds,
    check_augmentation,
    columns_on_device,
    epoch_generator,
    full_batch,
)
from catchment.training.config import parse_step

if TYPE_CHECKING:
    from PIL import Image

MOST_WORKERS = 8
# Batches that each worker prepares ahead: enough to hide a slow file, few enough for a container's shared memory.
PREFETCH = 2
# Images of evaluation at once, where they are as large as those on disk.
EVALUATION_BATCH = 128

Key = tuple[int, NDArray[np.int64]]  # epoch, samples


class Views(NamedTuple):
    """What a worker hands over for a batch.

    Args:
        pixels: uint8 ``(B, C, H, W)``; black where a file can't be read.
        unreadable: position in the batch, sample, and reason.
        truncated: how many files end too early and were read as far as they go.
    """

    pixels: Tensor
    unreadable: list[tuple[int, int, str]]
    truncated: int


class StreamedBatches:
    """The batches of a training set that is not held in memory, epoch by epoch, as ``TrainingBatches`` gives them.

    The order of an epoch depends on seed and epoch alone, and is that of ``TrainingBatches``; what augmentation does to
    a sample depends on seed, epoch and the sample. So neither the number of workers nor that of processes matters.

    Args:
        dataset: the training set, with images on disk or in memory.
        batch_size: over all processes together.
        device: where batches go; from pinned memory if it is a GPU.
        seed: of order and augmentation.
        augmentation: steps, done in their order: see ``TrainingConfig.augmentation``.
        columns: as in ``TrainingBatches``.
        rank: of this process.
        world_size: number of processes, as in ``TrainingBatches``.
        workers: processes that prepare batches; 0 prepares them in this one.

    Raises:
        ValueError: the augmentation isn't possible here; in an epoch: a file can't be read, and ``on_error`` is
            "raise".
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
        workers: int = 0,
    ) -> None:
        check_augmentation(augmentation, dataset)
        images = dataset.inputs
        if dataset.is_multi_label and isinstance(images, ImageFiles) and images.on_error == "skip":
            raise ValueError(
                f"{dataset.name}: unreadable images can't be skipped where a sample has several labels: "
                "replace or remove the files"
            )
        height, width, channels = images.shape[1:]
        # nothing is held here: it tells shape and number alone
        self.inputs = torch.zeros((1, 1, 1, 1), dtype=torch.uint8, device=device).expand(
            len(dataset), channels, height, width
        )
        self.target = torch.from_numpy(dataset.labels).to(device)
        self.device, self.seed, self.images = device, seed, images
        self.rank, self.world_size = rank, world_size
        self.columns = columns_on_device(columns, len(dataset), device)
        self.bounds = batch_bounds(len(dataset), batch_size, world_size)
        self._keys: list[Key] = []
        preparation = _Preparation(images, seed, augmentation, _fill_color(dataset, augmentation))
        self._loader = _loader(preparation, self._keys, workers, device, persistent=True)

    def __len__(self) -> int:
        return len(self.bounds)

    def epoch(self, epoch: int, num_epochs: int) -> Iterator[dict[str, Tensor]]:
        """This process's share of every batch of one epoch; warns once of images that couldn't be read."""
        order = torch.randperm(len(self.inputs), generator=epoch_generator(self.seed, epoch)).numpy()
        keys = [(epoch, order[start:stop][self.rank :: self.world_size]) for start, stop in self.bounds]
        self._keys[:] = keys  # the loader goes through this list
        report = _Report(self.images, f"epoch {epoch + 1}", "left out of the loss")
        for step, ((_, rows), views) in enumerate(zip(keys, self._loader, strict=True)):
            report.add(views)
            index = torch.from_numpy(rows).to(self.device)
            target = self.target[index]
            if views.unreadable:
                target[[position for position, _, _ in views.unreadable]] = IGNORE_INDEX
            yield full_batch(
                views.pixels.to(self.device, non_blocking=True),
                target,
                index,
                (epoch + step / len(self)) / num_epochs,
                self.columns,
            )
        report.warn()


def make_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
    augmentation: tuple[str, ...] = (),
    columns: Mapping[str, Column] | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
) -> TrainingBatches | StreamedBatches:
    """Batches of a training set: streamed if it is on disk or an augmentation step works image by image.

    Arguments are those of ``StreamedBatches``, but for ``workers``, where 0 chooses.
    """
    image_by_image = any(parse_step(step)[0] not in ON_DEVICE for step in augmentation)
    if not (isinstance(dataset.inputs, ImageFiles) or (dataset.is_image and image_by_image)):
        return TrainingBatches(
            dataset,
            batch_size=batch_size,
            device=device,
            seed=seed,
            augmentation=augmentation,
            columns=columns,
            rank=rank,
            world_size=world_size,
        )
    return StreamedBatches(
        dataset,
        batch_size=batch_size,
        device=device,
        seed=seed,
        augmentation=augmentation,
        columns=columns,
        rank=rank,
        world_size=world_size,
        workers=workers or choose_workers(),
    )


def choose_workers() -> int:
    """One for each processor that this process may use, 8 at most; none where there is only one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MOST_WORKERS, share) if share > 1 else 0


def stream_in_order(
    images: ImageFiles, device: torch.device, *, batch_size: int = EVALUATION_BATCH, workers: int = 0
) -> Iterator[Tensor]:
    """All images as evaluation sees them, in order, as uint8 ``(B, C, H, W)`` on the device.

    Args:
        images: on disk.
        device: where batches go.
        batch_size: images at once, ``EVALUATION_BATCH`` at most.
        workers: processes that decode; 0 chooses.

    Raises:
        ValueError: a file can't be read, and ``images.on_error`` is "raise".
    """
    size = min(batch_size, EVALUATION_BATCH)
    # an empty set gives one empty batch
    keys = [(0, np.arange(start, min(start + size, len(images)))) for start in range(0, max(len(images), 1), size)]
    chosen = min(workers or choose_workers(), len(keys) - 1)
    loader = _loader(_Preparation(images, 0, None, None), keys, chosen, device, persistent=False)
    report = _Report(images, "evaluation", "judged as if they were black")
    for views in loader:
        report.add(views)
        yield views.pixels.to(device, non_blocking=True)
    report.warn()


class _Report:
    """Counts the files of an epoch that couldn't be read whole, or stops at the first of them."""

    def __init__(self, images: Any, when: str, what_became: str) -> None:
        self.images, self.when, self.what_became = images, when, what_became
        self.unreadable = self.truncated = 0
        self.first = ""

    def add(self, views: Views) -> None:
        self.truncated += views.truncated
        for _, row, reason in views.unreadable:
            if self.images.on_error == "raise":
                raise ValueError(self.images.complaint(row, reason))
            self.first = self.first or f"{self.images.path(row)}: {reason}"
            self.unreadable += 1

    def warn(self) -> None:
        if self.unreadable:
            warnings.warn(
                f"{self.when}: {self.unreadable} of {len(self.images)} images can't be read, and were "
                f"{self.what_became} (first {self.first})",
                stacklevel=3,
            )
        if self.truncated:
            warnings.warn(
                f"{self.when}: {self.truncated} of {len(self.images)} image files end too early, and were read as far "
                "as they go",
                stacklevel=3,
            )


def _loader(
    preparation: _Preparation, keys: list[Key], workers: int, device: torch.device, *, persistent: bool
) -> DataLoader[Views]:
    return DataLoader(
        preparation,
        batch_size=None,  # a key stands for a batch
        sampler=cast(Any, keys),
        collate_fn=cast(Any, _as_it_is),
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        # Otherwise each epoch would draw from the global generator, which dropout draws from.
        generator=torch.Generator(),
    )


def _as_it_is(views: Views) -> Views:
    return views


class _Preparation(TorchDataset[Views]):
    """From an epoch and samples to their pixels: what a worker does.

    Args:
        images: on disk, or uint8 ``(N, H, W, C)``.
        seed: of augmentation.
        steps: of augmentation; None gives what evaluation sees.
        fill: the colour of what "cutout" cuts out.
    """

    def __init__(
        self, images: ImageFiles | NDArray[np.uint8], seed: int, steps: tuple[str, ...] | None, fill: Any
    ) -> None:
        self.images, self.seed, self.fill = images, seed, fill
        self.steps = [parse_step(step) for step in steps or ()]

    def __getitem__(self, key: Key) -> Views:
        epoch, rows = key
        pixels = np.zeros((len(rows), *self.images.shape[1:]), dtype=np.uint8)
        unreadable, truncated = [], 0
        for position, row in enumerate(rows.tolist()):
            try:
                image, is_truncated = self._read(row)
                truncated += is_truncated
                view = self._augmented(image, np.random.default_rng([self.seed, epoch, row]))
            except UnreadableImageError as error:
                unreadable.append((position, row, str(error)))
            else:
                pixels[position] = np.asarray(view).reshape(pixels.shape[1:])
        return Views(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), unreadable, truncated)

    def _read(self, row: int) -> tuple[Image.Image, bool]:
        from PIL import Image

        if isinstance(self.images, ImageFiles):
            return self.images.read(row)
        image = self.images[row]
        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), False

    def _augmented(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        steps = self.steps
        height, width = self.images.shape[1:3]
        first = steps[0][0] if steps else ""
        if first == "random-resized-crop":
            image, steps = _resized_crop(image, (width, height), rng), steps[1:]
        elif first == "random-crop":
            image, steps = _random_crop(image, cast(ImageFiles, self.images), rng), steps[1:]
        elif isinstance(self.images, ImageFiles):
            image = self.images.center(image)
        for kind, numbers in steps:
            if kind == "crop":
                image = _shifted(image, int(numbers[0]), rng)
            elif kind == "flip":
                image = _flipped(image, rng)
            elif kind == "rotate":
                image = image.rotate(rng.uniform(-numbers[0], numbers[0]))
            elif kind == "color-jitter":
                image = jitter(image, numbers, rng)
            elif kind == "augmix":
                image = augmix(image, int(numbers[0]), rng)
            else:
                image = cut_out(image, int(numbers[0]), self.fill, rng)
        return image


def random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of an image: (left, top, right, bottom) in whole pixels.

    As in the usual ImageNet training: 8 to 100 % of the area, and an aspect ratio from 3/4 to 4/3, uniform in its
    logarithm; after ten draws that don't fit it is the middle, with the nearest ratio that does.
    """
    width, height = size
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, low), high)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(image: Image.Image, strengths: tuple[float, ...], rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue changed at random, in random order.

    The first three are multiplied by a factor from ``1 - strength`` (0 at least) to ``1 + strength``; hue is moved by
    ``-strength`` to ``strength`` of the colour circle.
    """
    from torchvision.transforms.v2 import functional

    change = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for which in rng.permutation(4).tolist():
        strength = strengths[which]
        if strength:
            low, high = (-strength, strength) if which == 3 else (max(0.0, 1 - strength), 1 + strength)
            image = change[which](image, rng.uniform(low, high))
    return image


def augmix(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Three chains of one to three random operations, mixed with the image (Hendrycks et al., AugMix, ICLR 2020).

    torchvision's, whose draws are made here from ``rng``.
    """
    from torchvision.transforms.v2 import AugMix

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        mixed: Image.Image = AugMix(severity=severity)(image)
    return mixed


def cut_out(image: Image.Image, side: int, fill: Any, rng: np.random.Generator) -> Image.Image:
    """A square of ``side`` pixels, around any pixel, is filled; at the border a part of it falls outside."""
    column, row = int(rng.integers(image.width)), int(rng.integers(image.height))
    left, top = column - side // 2, row - side // 2
    box = max(left, 0), max(top, 0), min(left + side, image.width), min(top + side, image.height)
    image = image.copy()
    image.paste(fill, box)
    return image


def _resized_crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    from PIL import Image

    # cut before resizing: otherwise the pixels around the box would shine in at its border
    return image.crop(random_box(image.size, rng)).resize(size, Image.Resampling.BILINEAR)


def _random_crop(image: Image.Image, images: ImageFiles, rng: np.random.Generator) -> Image.Image:
    """``size`` pixels from anywhere in the image, whose shorter side is resized to ``resize``."""
    scale = min(image.size) / (images.resize or images.size)
    side = images.size * scale
    # in whole pixels of the resized image
    left, top = (scale * int(rng.integers(round(length / scale) - images.size + 1)) for length in image.size)
    left, top = min(left, image.width - side), min(top, image.height - side)
    return cut(image, (left, top, left + side, top + side), (images.size, images.size))


def _shifted(image: Image.Image, padding: int, rng: np.random.Generator) -> Image.Image:
    # a box beyond the image gives black there
    left, top = (int(shift) - padding for shift in rng.integers(0, 2 * padding + 1, 2))
    return image.crop((left, top, left + image.width, top + image.height))


def _flipped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    from PIL import Image

    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _fill_color(dataset: Dataset, steps: tuple[str, ...]) -> Any:
    """The mean colour of the set, which is 0 to the network; None where nothing is cut out."""
    if not any(parse_step(step)[0] == "cutout" for step in steps):
        return None
    from catchment.nets import input_statistics

    mean = tuple(round(value) for value in input_statistics(dataset)[0].tolist())
    return mean if len(mean) > 1 else mean[0]
