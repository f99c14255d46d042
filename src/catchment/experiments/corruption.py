"""Corrupted copies of images: a data set under one corruption, or the published layout of all of them on disk."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from catchment.data import Dataset, ImageFiles, InputFormat, load_data, load_inputs
from catchment.disturb.corruptions import BENCHMARK_CORRUPTIONS, CORRUPTIONS, SEVERITIES, corrupt, size_of
from catchment.files import atomic_write, folder_lock, read_json, write_bytes, write_json
from catchment.nearest import did_you_mean

LABELS, RECORD = "labels.npy", "record.json"
NOTE = "made anew from the published constants, not the published arrays"


def parse_corruption(text: str) -> tuple[str, int]:
    """Name and severity of ``gaussian_noise:3``.

    >>> parse_corruption("gaussian_noise:3")
    ('gaussian_noise', 3)
    """
    name, _, severity = text.partition(":")
    _check_name(name)
    if severity not in map(str, range(1, SEVERITIES + 1)):
        raise ValueError(f"{text!r} names no severity from 1 to {SEVERITIES}: write {name}:3")
    return name, int(severity)


def parse_corruptions(text: str) -> tuple[str, ...]:
    """The names in ``fog,snow``; ``all`` are 19, ``benchmark`` the 15 that the mean corruption error is over.

    >>> parse_corruptions("fog,snow")
    ('fog', 'snow')
    """
    if text in ("all", "benchmark"):
        return CORRUPTIONS if text == "all" else BENCHMARK_CORRUPTIONS
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name.partition(":")[0] in CORRUPTIONS and ":" in name:
            raise ValueError(f"{name!r} names a severity, and a file holds all {SEVERITIES}: leave it out")
        _check_name(name)
    return names


def _check_name(name: str) -> None:
    if name not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {name!r}: {did_you_mean(name, CORRUPTIONS, 'choose one of')}")


def corrupt_dataset(
    dataset: Dataset, corruption: str, *, seed: int = 0, size: str | None = None, device: str = "cpu"
) -> Dataset:
    """The data set with its images corrupted, ``gaussian_noise:3`` for example, and a note that says so.

    Image k is drawn for as index k.

    Args:
        dataset: images in memory.
        corruption: a name and a severity.
        seed: of the draws.
        size: whose constants; None: by the images' side.
        device: where to compute.

    Raises:
        ValueError: for a table, images on disk, or what ``corrupt`` does not take.
    """
    name, severity = parse_corruption(corruption)
    images = _images(dataset)
    size = size or size_of(images.shape[1])
    note = f"corrupted by {corruption} with the constants of {size}, seed {seed}: {NOTE}"
    inputs = corrupt(images, name, severity, size, seed, device=device)
    return replace(dataset, inputs=inputs, notes=(*dataset.notes, note))


def _images(dataset: Dataset) -> NDArray[np.uint8]:
    if not dataset.is_image:
        raise ValueError(f"{dataset.name} is a table, and only images can be corrupted: leave --corruption out")
    if isinstance(dataset.inputs, ImageFiles):
        raise ValueError(
            f"{dataset.name} stays on disk, it is too large to corrupt at once: take a part of its images, as a folder"
        )
    images: NDArray[np.uint8] = dataset.inputs
    return images


def write_corruptions(
    data: str,
    names: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    size: str | None = None,
    label_column: str = "label",
    image_size: int | None = None,
    data_dir: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    listen: Callable[[str, int], None] = lambda name, severity: None,
) -> dict[str, Any]:
    """Write images under corruptions to a folder in the layout of CIFAR-10-C, which its reader reads.

    Of a known data set these are the test images, of one's own all. ``NAME.npy`` is uint8 ``(5 N, H, W, C)``: the N
    images of severity 1 in their order, then those of severity 2, and so on; ``labels.npy`` the labels five times;
    ``record.json`` what was done. A file bears its name only when it is whole, and is not made again.

    Args:
        data: a known name, or where the images are.
        names: of the corruptions.
        out: the folder: new, empty, or of the same call before, with these corruptions or others.
        seed: of the draws.
        size: whose constants; None: by the images' side.
        label_column: of a table.
        image_size: to which images are resized first.
        data_dir: where known data sets lie.
        device: where to compute.
        overwrite: make files again that are there.
        listen: called after each severity of a corruption; of one that is kept, once with the last severity.

    Returns:
        The record: data, seed, size, samples, side, images (their SHA-256), corruptions (all in the folder), note.

    Raises:
        ValueError: the images can't be corrupted, or the folder holds something else.
    """
    like = InputFormat.of(load_data(data, label_column=label_column, image_size=image_size, data_dir=data_dir).test)
    dataset = load_inputs(data, like, label_column=label_column, data_dir=data_dir)
    images = _images(dataset)
    record = {
        "data": data,
        "seed": seed,
        "size": size or size_of(images.shape[1]),
        "samples": len(dataset),
        "side": images.shape[1],
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "note": NOTE,
    }
    _check_folder(out, record)
    for name in names:  # what can't be done is said before anything is written
        for severity in range(1, SEVERITIES + 1):
            corrupt(images[:1], name, severity, record["size"], seed)
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        write_json(out / RECORD, record)
        write_bytes(out / LABELS, _npy(np.concatenate([_published_labels(dataset.labels)] * SEVERITIES)))
        for name in names:
            path = out / f"{name}.npy"
            if path.exists() and not overwrite:
                listen(name, SEVERITIES)
                continue

            def write(file: IO[bytes], name: str = name) -> None:
                shape = (SEVERITIES * len(images), *images.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for severity in range(1, SEVERITIES + 1):
                    file.write(corrupt(images, name, severity, record["size"], seed, device=device).tobytes())
                    listen(name, severity)

            atomic_write(path, write)
    return {**record, "corruptions": [name for name in CORRUPTIONS if (out / f"{name}.npy").exists()]}


def _check_folder(out: Path, record: dict[str, Any]) -> None:
    if (out / RECORD).exists():
        before = read_json(out / RECORD)
        changed = [key for key in record if before.get(key) != record[key] and key != "data"]
        if changed:
            key = changed[0]
            raise ValueError(f"{out} was made with {key} {before.get(key)}, not {record[key]}: choose another --out")
    elif out.exists() and any(path.name != ".lock" for path in out.iterdir()):
        raise ValueError(f"{out} holds other files, and no {RECORD} of ours: choose a new folder")


def _published_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """In uint8 as published, where they fit."""
    return labels.astype(np.uint8) if labels.size == 0 or 0 <= labels.min() <= labels.max() < 256 else labels


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class CorruptionProgress:
    """Shows severities as they are made: a bar on a terminal, a line for each corruption elsewhere; on stderr.

    Args:
        names: of the corruptions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("corrupting", total=SEVERITIES * len(names))

    def __enter__(self) -> CorruptionProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, name: str, severity: int) -> None:
        """Show that a severity of a corruption is there."""
        place = self.names.index(name)
        if self._bar is not None:
            self._bar.update(self._task, completed=SEVERITIES * place + severity, description=f"{name}:{severity}")
        elif severity == SEVERITIES:
            print(f"[{place + 1}/{len(self.names)}] {name}", file=sys.stderr, flush=True)  # noqa: T201
