"""NUS-WIDE: Flickr photographs with 81 concepts that may each be there or not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catchment.data.coco import stays_below
from catchment.data.dataset import Dataset, Splits
from catchment.data.image_files import ImageFiles, files_there
from catchment.data.known import DataInfo, KnownSet
from catchment.data.labels import shorten

PAGE = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
SIZE = 224


def read_nus_wide(
    folder: Path,
    *,
    size: int = SIZE,
    keep_unlabelled: bool = False,
    train_list: Path | None = None,
    test_list: Path | None = None,
) -> Splits:
    """Reads NUS-WIDE in its official split, or in one's own.

    Classes are in the order of ``Concepts81.txt``, rows in that of the lists. Images that are listed but not on disk
    are left out and counted in ``Dataset.skipped``, because Flickr's pictures vanish.

    Args:
        folder: the data folder; the set lies in ``NUS-WIDE/``, ``nus-wide/`` or ``nuswide/``.
        size: side of the square that images are resized and cropped to, in pixels.
        keep_unlabelled: images with none of the concepts stay. The published tables leave them out.
        train_list: a file that lists the training images, one ``FOLDER/NAME.jpg`` a line, instead of the official one;
            a backslash may stand for the slash.
        test_list: the same for the test part; give both or none.

    Returns:
        Both parts: inputs :class:`~catchment.data.image_files.ImageFiles`, labels uint8 ``(N, K)``, ids the paths with
        slashes. Notes give the counts before and after.

    Raises:
        FileNotFoundError: a file of the set, or every image, isn't there.
        ValueError: a list and its labels don't fit together, or an own list names an unknown image.
    """
    root = _find_nus_wide(folder)
    if root is None:
        raise FileNotFoundError(
            f"{folder}: nus-wide isn't there: get it from {PAGE} and put it in {folder / 'NUS-WIDE'}"
        )
    if (train_list is None) != (test_list is None):
        raise ValueError("only one of train_list and test_list is given: give both, or none for the official split")
    concepts = _read_concepts(root)
    if train_list is not None and test_list is not None:
        known_paths, known_labels = _read_part(root, concepts, "")
        parts = [_chosen(_read_list(path), path, known_paths, known_labels) for path in (train_list, test_list)]
    else:
        parts = [_read_part(root, concepts, part) for part in ("Train", "Test")]
    return Splits(*(_dataset(root, concepts, *part, size, keep_unlabelled) for part in parts))


def _find_nus_wide(folder: Path) -> Path | None:
    for name in ("NUS-WIDE", "nus-wide", "NUS_WIDE", "nuswide"):
        if (folder / name / "Groundtruth").is_dir():
            return folder / name
    return None


def _read_concepts(root: Path) -> tuple[str, ...]:
    places = (root / "ConceptsList" / "Concepts81.txt", root / "Concepts81.txt")
    path = next((place for place in places if place.is_file()), places[0])
    concepts = tuple(_read_lines(path))
    if not concepts or len(set(concepts)) < len(concepts):
        raise ValueError(f"{path}: it is empty or names a concept twice: get it again from {PAGE}")
    for concept in concepts:
        if not stays_below(concept) or "/" in concept or "\\" in concept:
            raise ValueError(
                f"{path}: {concept!r} is no concept, which is a part of file names: get it again from {PAGE}"
            )
    return concepts


def _read_part(root: Path, concepts: tuple[str, ...], part: str) -> tuple[list[str], NDArray[np.uint8]]:
    """Paths and labels ``(N, K)`` of "Train", "Test" or, as "", of all images."""
    images = root / "ImageList" / f"{part}Imagelist.txt"
    labels = root / "Groundtruth" / ("TrainTestLabels" if part else "AllLabels")
    paths = _read_list(images)
    if not paths:
        raise ValueError(f"{images}: it lists no images: get it again from {PAGE}")
    columns = [_read_labels(labels / f"Labels_{concept}{f'_{part}' if part else ''}.txt") for concept in concepts]
    for concept, column in zip(concepts, columns, strict=True):
        if len(column) != len(paths):
            raise ValueError(
                f"{labels}: {len(column)} labels for {concept!r}, but {images.name} lists {len(paths)} images: "
                f"get both again from {PAGE}"
            )
    return paths, np.stack(columns, axis=1)


def _read_lines(path: Path) -> list[str]:
    """Lines without blanks at their ends, without empty ones."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: get it from {PAGE}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it isn't UTF-8 text ({error.reason}): get it again, or save it as UTF-8") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def _read_list(path: Path) -> list[str]:
    paths = [line.replace("\\", "/") for line in _read_lines(path)]
    for image in paths:
        if not stays_below(image):
            raise ValueError(f"{path}: {image!r} leads out of the folder of images: give FOLDER/NAME.jpg")
    return paths


def _read_labels(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: get it from {PAGE}")
    content = path.read_bytes()
    digits = content.translate(None, b" \t\r\n")
    values = np.frombuffer(digits, dtype=np.uint8) - ord("0")
    # As many words as characters: each word is one character.
    if len(content.split()) != len(digits) or (values > 1).any():
        raise ValueError(f"{path}: a line is neither 0 nor 1: get it again from {PAGE}")
    return values


def _chosen(
    paths: list[str], source: Path, known_paths: list[str], known_labels: NDArray[np.uint8]
) -> tuple[list[str], NDArray[np.uint8]]:
    """The labels of the images in one's own list."""
    row = {path: place for place, path in enumerate(known_paths)}
    unknown = [path for path in paths if path not in row]
    if unknown or not paths:
        what = f"{len(unknown)} images aren't in Imagelist.txt, {shorten(unknown, 3)}" if unknown else "it is empty"
        raise ValueError(f"{source}: {what}: list images of NUS-WIDE as FOLDER/NAME.jpg, one a line")
    return paths, known_labels[[row[path] for path in paths]]


def _dataset(
    root: Path,
    concepts: tuple[str, ...],
    paths: Sequence[str],
    labels: NDArray[np.uint8],
    size: int,
    keep_unlabelled: bool,
) -> Dataset:
    has_label = labels.any(axis=1)
    kept = np.ones_like(has_label) if keep_unlabelled else has_label
    notes = [f"{len(paths)} images are listed, {int((~has_label).sum())} of them without any label"]
    notes.append("those are kept" if keep_unlabelled else f"{int(kept.sum())} remain after leaving those out")
    images = next((root / name for name in ("Flickr", "images") if (root / name).is_dir()), root / "Flickr")
    there = files_there(images, paths)
    skipped = int((kept & ~there).sum())
    if skipped:
        notes.append(f"{skipped} more are left out because their files aren't in {images.name}")
    rows = np.flatnonzero(kept & there)
    if not rows.size:
        raise FileNotFoundError(
            f"{images}: none of the {int(kept.sum())} images to read is there, {paths[0]!r}: "
            f"ask its authors for them ({PAGE})"
        )
    kept_paths = [paths[row] for row in rows.tolist()]
    return Dataset(
        name="nus-wide",
        inputs=ImageFiles(images, np.array([os.fsencode(path) for path in kept_paths], dtype=np.bytes_), size),
        labels=labels[rows],
        class_names=concepts,
        ids=tuple(kept_paths),
        augmentation=("flip",),
        skipped=skipped,
        notes=("; ".join(notes),),
    )


SETS = (
    KnownSet(
        info=DataInfo(
            name="nus-wide",
            kind="multi-label images",
            classes=81,
            train=125449,
            test=83898,
            noise="concepts that annotators missed; none measured",
            licence="research only, by agreement with the authors",
            where=PAGE,
            layout="NUS-WIDE/ with Groundtruth/, ImageList/, ConceptsList/Concepts81.txt and the images in Flickr/",
        ),
        read=lambda folder, variant: read_nus_wide(folder),
        find=_find_nus_wide,
    ),
)
