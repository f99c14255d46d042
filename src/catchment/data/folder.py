"""Folders of images: one folder per class, or images to predict for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import IGNORE_INDEX, UNKNOWN_CLASS, Dataset
from catchment.data.images import EXTENSIONS, UnreadableImageError, look_at, read_image
from catchment.data.input_format import InputFormat
from catchment.data.labels import encode, note_unseen, shorten, sort_names

DEFAULT_SIZE = 64
_SPLIT_NAMES = ("train", "test", "val", "valid", "validation")


def read_class_folders(
    folder: Path, *, image_size: int | None = None, skip_unreadable: bool = False, like: InputFormat | None = None
) -> Dataset:
    """Reads images that lie in one folder per class, each class's in the order of their paths.

    Images become uint8 ``(N, H, W, C)``; C is 1 if every image has a single channel, 3 otherwise. With ``like``, the
    images and the class names are matched to it.

    Raises:
        ValueError: there are no class folders or only one, a class has no images, or an image is unreadable.
    """
    folders = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    names = sort_names(entry.name for entry in folders)
    _check_folders(folder, names, need_two=like is None)
    by_class = {name: _image_files(folder / name) for name in names}
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        what = f"class folder {shorten(empty)} holds" if len(empty) == 1 else f"class folders {shorten(empty)} hold"
        raise ValueError(f"{folder}: {what} no images ({_extensions()}): add some, or remove the folder")

    files = [file for files in by_class.values() for file in files]
    values = np.repeat(np.array(names, dtype=np.str_), [len(files) for files in by_class.values()])
    inputs, kept, notes = _read_files(folder, files, image_size, skip_unreadable, like)
    values = values[kept]
    lost = sorted(set(names) - set(values.tolist()))
    if lost and like is None:
        raise ValueError(f"{folder}: no image of class {shorten(lost)} can be read: add some, or remove the folder")
    loose = [entry for entry in folder.iterdir() if _is_image_file(entry)]
    if loose:
        notes = (*notes, f"left out {len(loose)} image file{'s'[: len(loose) > 1]} beside the class folders")
    class_names = names if like is None else like.class_names
    return Dataset(
        name=folder.resolve().name,
        inputs=inputs,
        labels=encode(values, class_names),
        class_names=class_names,
        ids=_relative(folder, [files[row] for row in kept]),
        skipped=len(files) - len(kept),
        notes=(*notes, *note_unseen(values, class_names)),
    )


def read_images(folder: Path, like: InputFormat, *, skip_unreadable: bool = False) -> Dataset:
    """Reads all images in a folder and the folders in it, in the order of their paths, to predict for.

    Where any first-level folder is named like a class, folders are labels (-1 for those of other names); images outside
    them, and all images otherwise, have no label (-100).

    Raises:
        ValueError: there are no images, or one is unreadable.
    """
    files = _image_files(folder)
    if not files:
        raise ValueError(f"{folder}: there are no images in it ({_extensions()}): give a folder that holds some")
    inputs, kept, notes = _read_files(folder, files, None, skip_unreadable, like)
    ids = _relative(folder, [files[row] for row in kept])
    position = {name: index for index, name in enumerate(like.class_names)}
    owners = [identity.split("/")[0] if "/" in identity else None for identity in ids]
    folders_are_classes = any(owner in position for owner in owners)
    labels = [
        position.get(owner, UNKNOWN_CLASS) if folders_are_classes and owner is not None else IGNORE_INDEX
        for owner in owners
    ]
    return Dataset(
        name=folder.resolve().name,
        inputs=inputs,
        labels=np.array(labels, dtype=np.int64),
        class_names=like.class_names,
        ids=ids,
        skipped=len(files) - len(kept),
        notes=notes,
    )


def _check_folders(folder: Path, names: tuple[str, ...], *, need_two: bool) -> None:
    if not names:
        raise ValueError(f"{folder}: there are no class folders in it: put the images of each class in a folder")
    splits = {name.lower(): name for name in names}
    if all(name in _SPLIT_NAMES for name in splits):
        train = splits.get("train", "train")
        test = next((splits[name] for name in _SPLIT_NAMES[1:] if name in splits), "test")
        raise ValueError(f"{folder}: this looks like splits: pass --data {folder / train} --test {folder / test}")
    if need_two and len(names) == 1:
        inner = folder / names[0]
        nested = any(entry.is_dir() for entry in inner.iterdir())
        remedy = f"did you mean {inner}?" if nested else "give a folder for each of at least two classes"
        raise ValueError(f"{folder}: there is only one class folder, {names[0]!r}: {remedy}")


def _read_files(
    folder: Path, files: Sequence[Path], image_size: int | None, skip_unreadable: bool, like: InputFormat | None
) -> tuple[NDArray[np.uint8], list[int], tuple[str, ...]]:
    """Images ``(N, H, W, C)``, the positions of the files they are from, and notes."""
    readable = list(range(len(files)))
    notes: tuple[str, ...] = ()
    if like is not None:
        height, width, channels = like.shape
    else:
        seen = {}
        for row, file in enumerate(files):
            try:
                seen[row] = look_at(file)
            except UnreadableImageError as error:
                _refuse_unless(skip_unreadable, folder, file, error)
        readable = list(seen)
        sizes = {(height, width) for height, width, _ in seen.values()}
        channels = 1 if all(single for _, _, single in seen.values()) else 3
        if image_size is not None:
            height = width = image_size
        elif len(sizes) == 1:
            height, width = sizes.pop()
        else:
            height = width = DEFAULT_SIZE
            notes = (
                (
                    f"images have {len(sizes)} different sizes, so all are resized to {height} x {width} "
                    "(choose with --image-size)"
                ),
            )
    # Sizes are settled before anything is decoded, so that only resized images are ever held in memory together.
    inputs = np.empty((len(readable), height, width, channels), dtype=np.uint8)
    kept: list[int] = []
    for row in readable:
        try:
            inputs[len(kept)] = read_image(files[row], (height, width, channels))
        except UnreadableImageError as error:
            _refuse_unless(skip_unreadable, folder, files[row], error)
        else:
            kept.append(row)
    if not kept:
        raise ValueError(f"{folder}: none of its {len(files)} image files can be read: replace them")
    return inputs[: len(kept)], kept, notes


def _refuse_unless(skip_unreadable: bool, folder: Path, file: Path, error: UnreadableImageError) -> None:
    if not skip_unreadable:
        raise ValueError(
            f"{folder}: {file.relative_to(folder).as_posix()} can't be read ({error}): "
            "replace or remove it, or leave such files out with --skip-unreadable"
        ) from error


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _image_files(folder: Path) -> list[Path]:
    visible = (
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return sorted((path for path in visible if _is_image_file(path)), key=lambda path: path.as_posix())


def _relative(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    return tuple(file.relative_to(folder).as_posix() for file in files)


def _extensions() -> str:
    return " ".join(sorted(EXTENSIONS))
