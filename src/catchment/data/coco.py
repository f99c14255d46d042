"""Images with any number of labels in the COCO format: MS-COCO itself, and one's own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from catchment.data.dataset import Dataset, Splits
from catchment.data.image_files import ImageFiles, files_there
from catchment.data.imagenet import MEAN, STD
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.labels import shorten

PAGE = "https://cocodataset.org/#download"
SIZE = 448  # of the published multi-label results
TINY_SIZE = 224
SIZE_BANDS = {"all": (0, math.inf), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}
_HOST = "http://images.cocodataset.org"


def read_coco_json(
    json_path: Path,
    image_root: Path | None,
    size: int,
    *,
    include_crowd: bool = True,
    keep_unlabelled: bool = True,
    object_size: str = "all",
) -> Dataset:
    """Reads images and their labels from a JSON file in the COCO format.

    A label is 1 if the image has at least one annotation of that category. Images are in ascending order of their ids,
    classes in that of the categories' ids. Of images ``id`` and ``file_name`` are needed, of annotations ``image_id``
    and ``category_id``, of categories ``id`` and ``name``; ``iscrowd`` is 0 if not given, anything else is ignored.

    Args:
        json_path: the file.
        image_root: the folder that ``file_name`` is relative to; the file's own if None.
        size: side of the square that images are resized and cropped to, in pixels.
        include_crowd: annotations of crowds (``iscrowd`` 1) count as presence too.
        keep_unlabelled: images without any label stay; with "small" and so on, those without a label of that size.
        object_size: "small", "medium" and "large" take only annotations whose area, in pixels of the original image,
            is below 32 x 32, from there to below 96 x 96, or at least that; "all" needs no area.

    Returns:
        Inputs are :class:`~catchment.data.image_files.ImageFiles`, labels uint8 ``(N, K)``, ids the images' ids. Notes
        say what these choices came to.

    Raises:
        FileNotFoundError: the file or images that it lists aren't there.
        ValueError: it isn't in that format, an id is there twice, an annotation is of an unknown image or category, or
            a path leads out of ``image_root``.
    """
    if object_size not in SIZE_BANDS:
        raise ValueError(f"object_size is {object_size!r}: choose one of {', '.join(SIZE_BANDS)}")
    content = _read_json(json_path)
    images = _by_id(json_path, content, "images", "image")
    categories = _by_id(json_path, content, "categories", "category")
    if not categories:
        raise ValueError(f"{json_path}: 'categories' is empty: list the classes there, with id and name")
    if not images:
        raise ValueError(f"{json_path}: 'images' is empty: list the images there, with id and file_name")
    class_names = tuple(_text(json_path, "category", identity, categories[identity], "name") for identity in categories)
    if len(set(class_names)) < len(class_names):
        twice = sorted({name for name in class_names if class_names.count(name) > 1})
        raise ValueError(f"{json_path}: two categories are called {shorten(twice)}: rename one")
    paths = [_path(json_path, identity, image) for identity, image in images.items()]

    labels = np.zeros((len(images), len(categories)), dtype=np.uint8)
    rows, columns = ({identity: place for place, identity in enumerate(group)} for group in (images, categories))
    seen: set[int] = set()
    crowds = other_sizes = 0
    for annotation in _list(json_path, content, "annotations"):
        image, category, is_crowd = _read_annotation(json_path, annotation, seen)
        if image not in rows or category not in columns:
            what, identity = ("image", image) if image not in rows else ("category", category)
            raise ValueError(
                f"{json_path}: {_called(annotation)} is of {what} {identity}, which isn't listed: "
                f"list it, or remove the annotation"
            )
        crowds += is_crowd
        if is_crowd and not include_crowd:
            continue
        if object_size != "all" and not _has_size(json_path, annotation, object_size):
            other_sizes += 1
            continue
        labels[rows[image], columns[category]] = 1

    notes = [f"annotations of crowds {'count as presence' if include_crowd else 'are left out'}: {crowds}"]
    if object_size != "all":
        notes.append(f"annotations left out because they aren't {object_size}: {other_sizes}")
    root = json_path.parent if image_root is None else image_root
    _check_files(json_path, root, paths)
    dataset = Dataset(
        name=json_path.stem,
        inputs=ImageFiles(root, np.array([os.fsencode(path) for path in paths], dtype=np.bytes_), size),
        labels=labels,
        class_names=class_names,
        ids=tuple(str(identity) for identity in images),
        notes=tuple(notes),
    )
    return _settle_unlabelled(dataset, keep_unlabelled)


def read_coco(
    folder: Path,
    year: str = "2014",
    *,
    size: int = SIZE,
    include_crowd: bool = True,
    keep_unlabelled: bool = True,
    object_size: str = "all",
) -> Splits:
    """Reads MS-COCO; its validation part is the test part.

    Args:
        folder: the data folder. The set lies in ``coco/`` or in itself: ``annotations/instances_{train,val}YEAR.json``
            and images in ``{train,val}YEAR/`` or ``images/{train,val}YEAR/``.
        year: "2014" or "2017".
        size: as in :func:`read_coco_json`.
        include_crowd: as there.
        keep_unlabelled: as there.
        object_size: as there.

    Returns:
        Both parts, as from :func:`read_coco_json`.

    Raises:
        FileNotFoundError: files of that year aren't there.
        ValueError: a file isn't in the format.
    """
    root = _find_coco(folder)
    if root is None:
        raise FileNotFoundError(f"{folder}: coco isn't there: run catchment fetch coco, or get it from {PAGE}")
    choices = {"include_crowd": include_crowd, "keep_unlabelled": keep_unlabelled, "object_size": object_size}
    return _read_parts(root, "coco", year, size, choices)


def read_tiny_coco(folder: Path, *, size: int = TINY_SIZE) -> Splits:
    """Reads a few images of COCO 2017 from ``tiny_coco/``, laid out like it; as :func:`read_coco` does.

    Raises:
        FileNotFoundError: files aren't there.
        ValueError: a file isn't in the format.
    """
    return _read_parts(folder / "tiny_coco", "tiny-coco", "2017", size, {})


def stays_below(path: str) -> bool:
    """Whether a path, of whatever system, is one that a file can have, and stays below the folder it is relative to."""
    windows = PureWindowsPath(path)
    if not path or "\0" in path or windows.anchor or ".." in windows.parts:
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _read_parts(root: Path, name: str, year: str, size: int, choices: dict[str, Any]) -> Splits:
    parts = []
    for part in ("train", "val"):
        annotations = root / "annotations" / f"instances_{part}{year}.json"
        if not annotations.is_file():
            raise FileNotFoundError(f"{annotations}: there is no such file: get it from {PAGE}")
        folders = (root / f"{part}{year}", root / "images" / f"{part}{year}")
        images = next((place for place in folders if place.is_dir()), None)
        if images is None:
            raise FileNotFoundError(
                f"{folders[0]}: there is no such folder of images, nor {folders[1]}: get them from {PAGE}"
            )
        dataset = read_coco_json(annotations, images, size, **choices)
        inputs = replace(dataset.inputs, mean=MEAN, std=STD)
        parts.append(replace(dataset, name=name, inputs=inputs, augmentation=("flip",)))
    if parts[0].class_names != parts[1].class_names:
        raise ValueError(f"{root}: the two instances_*{year}.json have other categories: get both from {PAGE}")
    return Splits(*parts)


def _find_coco(folder: Path) -> Path | None:
    for root in (folder / "coco", folder / "COCO", folder):
        if any((root / "annotations" / f"instances_train{year}.json").is_file() for year in ("2014", "2017")):
            return root
    return None


def _find_tiny_coco(folder: Path) -> Path | None:
    root = folder / "tiny_coco"
    return root if (root / "annotations" / "instances_train2017.json").is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: give a JSON file in the COCO format")
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=_without_outlines)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is no complete JSON file ({error}): get it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it holds no object with 'images', 'annotations' and 'categories': give one")
    return content


def _without_outlines(value: dict[str, Any]) -> dict[str, Any]:
    # Of COCO's training part they are nine tenths of the file: dropped as they are read, they never fill the memory.
    value.pop("segmentation", None)
    return value


def _list(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = content.get(key)
    if not isinstance(values, list):
        raise ValueError(f"{path}: it has no list {key!r}: give a file in the COCO format (instances_*.json)")
    for place, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: entry {place} of {key!r} is no object: give a file in the COCO format")
    return values


def _by_id(path: Path, content: dict[str, Any], key: str, what: str) -> dict[int, dict[str, Any]]:
    """The entries by their ids, in ascending order."""
    entries: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(_list(path, content, key)):
        identity = entry.get("id")
        if type(identity) is not int:
            raise ValueError(f"{path}: the id of entry {place} of {key!r} is {identity!r}: give a whole number")
        if identity in entries:
            raise ValueError(f"{path}: {what} id {identity} is there twice: give each {what} its own")
        entries[identity] = entry
    return dict(sorted(entries.items()))


def _text(path: Path, what: str, identity: int, entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}: {key} of {what} {identity} is {value!r}: give it a text")
    return value


def _path(path: Path, identity: int, image: dict[str, Any]) -> str:
    file_name = _text(path, "image", identity, image, "file_name")
    if not stays_below(file_name):
        raise ValueError(
            f"{path}: file_name of image {identity} is {file_name!r}: "
            "give a path relative to the folder of images, without '..'"
        )
    return file_name


def _read_annotation(path: Path, annotation: dict[str, Any], seen: set[int]) -> tuple[int, int, int]:
    """The ids of its image and its category, and whether it is of a crowd."""
    for key in ("image_id", "category_id"):
        if type(annotation.get(key)) is not int:
            value = annotation.get(key)
            raise ValueError(f"{path}: {key} of {_called(annotation)} is {value!r}: give a whole number")
    identity = annotation.get("id")
    if identity is not None:
        if type(identity) is not int:
            raise ValueError(f"{path}: the id of an annotation is {identity!r}: give a whole number")
        if identity in seen:
            raise ValueError(f"{path}: annotation id {identity} is there twice: give each annotation its own")
        seen.add(identity)
    is_crowd = annotation.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise ValueError(f"{path}: iscrowd of {_called(annotation)} is {is_crowd!r}: give 0 or 1")
    return annotation["image_id"], annotation["category_id"], int(is_crowd)


def _has_size(path: Path, annotation: dict[str, Any], object_size: str) -> bool:
    area = annotation.get("area")
    if not isinstance(area, int | float) or not area >= 0:
        raise ValueError(
            f"{path}: area of {_called(annotation)} is {area!r}: give a number, or leave object_size at 'all'"
        )
    low, high = SIZE_BANDS[object_size]
    return low <= area < high


def _called(annotation: dict[str, Any]) -> str:
    if annotation.get("id") is None:
        return f"an annotation of image {annotation.get('image_id')}"
    return f"annotation {annotation['id']}"


def _check_files(json_path: Path, root: Path, paths: Sequence[str]) -> None:
    missing = [path for path, there in zip(paths, files_there(root, paths), strict=True) if not there]
    if missing:
        raise FileNotFoundError(
            f"{root}: {len(missing)} of the {len(paths)} images that {json_path.name} lists aren't there, "
            f"{shorten(missing, 3)}: add them, or remove them from the file"
        )


def _settle_unlabelled(dataset: Dataset, keep: bool) -> Dataset:
    has_label = np.asarray(dataset.labels.any(axis=1))
    unlabelled = int((~has_label).sum())
    if keep:
        note = f"{len(dataset)} images, {unlabelled} of them without any label, which are kept"
        return replace(dataset, notes=(*dataset.notes, note))
    if unlabelled == len(dataset):
        raise ValueError(
            f"{dataset.name}: no image has a label: keep those without (keep_unlabelled), or annotate some"
        )
    note = f"{len(dataset)} images, {len(dataset) - unlabelled} after leaving out those without any label"
    return replace(dataset.select(has_label), notes=(*dataset.notes, note))


def _downloads(year: str) -> Iterable[RemoteFile]:
    for path in (f"annotations/annotations_trainval{year}", f"zips/train{year}", f"zips/val{year}"):
        yield RemoteFile(url=f"{_HOST}/{path}.zip", to="coco", unpack=True)


SETS = (
    KnownSet(
        info=DataInfo(
            name="coco",
            kind="multi-label images",
            classes=80,
            train=82783,
            test=40504,
            noise="objects that annotators missed; none measured",
            licence="annotations CC BY 4.0; each image under its own Flickr licence",
            where=PAGE,
            layout="coco/ with annotations/instances_{train,val}YEAR.json and folders trainYEAR/, valYEAR/",
            variants=("2014", "2017"),
        ),
        read=lambda folder, variant: read_coco(folder, variant or "2014"),
        find=_find_coco,
        # The other variant has the same images, split otherwise: nobody wants both by default.
        downloads=tuple(_downloads("2014")),
    ),
    KnownSet(
        info=DataInfo(
            name="tiny-coco",
            kind="multi-label images",
            classes=80,
            train=32,
            test=6,
            noise="objects that annotators missed; none measured",
            licence="annotations CC BY 4.0; each image under its own Flickr licence",
            where=PAGE,
            layout="tiny_coco/ with annotations/instances_{train,val}2017.json and images/{train,val}2017/",
        ),
        read=lambda folder, variant: read_tiny_coco(folder),
        find=_find_tiny_coco,
    ),
)
