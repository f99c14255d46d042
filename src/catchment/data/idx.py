"""MNIST and the sets in its format: Fashion-MNIST, KMNIST and notMNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import Dataset, Splits
from catchment.data.images import UnreadableImageError, read_image
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.labels import hold_out

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_DIMENSIONS = 4
_GZIP_RATIO = 1040  # the most that deflate can save, and a little
_CHUNK = 2**20

_DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_LETTERS = tuple("ABCDEFGHIJ")


def read_idx(path: Path) -> NDArray[Any]:
    """The array in an IDX file, plain or gzipped: of the shape and kind that its header says.

    Raises:
        ValueError: no IDX file, or one that holds less or more than its header says.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                return _read_idx(raw, path, path.stat().st_size)
            with gzip.open(raw) as stream:
                return _read_idx(stream, path, path.stat().st_size * _GZIP_RATIO)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: the file is cut off or damaged ({error}): download it again") from error


def _read_idx(stream: Any, path: Path, most: int) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{path}: it starts with {magic.hex(' ') or 'nothing'}, so it is no IDX file: download it again"
        )
    sizes = stream.read(4 * magic[3])
    shape = tuple(int.from_bytes(sizes[start : start + 4], "big") for start in range(0, len(sizes), 4))
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    # What can't be there is refused before memory is asked for it.
    values = _read_most(stream, expected) if len(shape) == magic[3] and expected <= most else bytearray()
    if len(values) < expected or len(shape) < magic[3]:
        raise ValueError(f"{path}: the file is cut off: its header says {shape}; download it again")
    if stream.read(1):
        raise ValueError(f"{path}: the file holds more than the {shape} that its header says: download it again")
    return np.frombuffer(values, dtype=dtype).reshape(shape)


def _read_most(stream: BinaryIO, count: int) -> bytearray:
    values = bytearray()
    while len(values) < count and (chunk := stream.read(min(_CHUNK, count - len(values)))):
        values += chunk
    return values


def find_idx(folder: Path, part: str, what: str) -> Path | None:
    """The images or labels (``what``) of "train" or "t10k" in a folder, under any of the names in use."""
    ending = "images-idx3-ubyte" if what == "images" else "labels-idx1-ubyte"
    names = (
        f"{part}-{spelled}{zipped}" for spelled in (ending, ending.replace("-idx", ".idx")) for zipped in ("", ".gz")
    )
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx_part(
    folder: Path, part: str, *, name: str, class_names: tuple[str, ...], remedy: str, clean: bool = True
) -> Dataset:
    """A part, "train" or "t10k", of a set in MNIST's format: images uint8 ``(N, H, W, 1)``.

    Args:
        folder: which holds the two files.
        part: "train" or "t10k".
        name: of the set.
        class_names: of the set.
        remedy: where to get the files.
        clean: whether the labels count as the true ones.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a file is broken, or they don't fit one another.
    """
    paths = {}
    for what in ("images", "labels"):
        path = find_idx(folder, part, what)
        if path is None:
            kind = "idx3" if what == "images" else "idx1"
            raise FileNotFoundError(f"{folder}: {part}-{what}-{kind}-ubyte(.gz) is missing: {remedy}")
        paths[what] = path
    images, labels = read_idx(paths["images"]), read_idx(paths["labels"])
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ValueError(f"{paths['images']}: it holds {images.dtype} {images.shape}, not images: {remedy}")
    if labels.ndim != 1 or labels.dtype != np.uint8:
        raise ValueError(f"{paths['labels']}: it holds {labels.dtype} {labels.shape}, not labels: {remedy}")
    if len(images) != len(labels):
        raise ValueError(f"{paths['labels']}: {len(labels)} labels for {len(images)} images: {remedy}")
    outside = np.flatnonzero(labels >= len(class_names))
    if outside.size:
        where = f"label {labels[outside[0]]} at {outside[0]}"
        raise ValueError(f"{paths['labels']}: {where} is none of {len(class_names)} classes: {remedy}")
    labels = labels.astype(np.int64)
    return Dataset(
        name=name,
        inputs=images[..., None],
        labels=labels,
        class_names=class_names,
        clean_labels=labels if clean else None,
        ids=tuple(map(str, range(len(labels)))),
    )


def _read_both(folder: Path, **details: Any) -> Splits:
    # Unpacking takes most of the time, and leaves other threads run.
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(read_idx_part, folder, part, **details) for part in ("train", "t10k")]
        return Splits(*(part.result() for part in parts))


def _first_with_idx(folders: Iterable[Path], part: str) -> Path | None:
    return next((folder for folder in folders if find_idx(folder, part, "images")), None)


# Files of these sets have the same names: where they lie tells them apart.
_FOLDERS = {
    "mnist": ("MNIST", "mnist"),
    "fashion-mnist": ("FashionMNIST", "fashion-mnist", "fashion"),
    "kmnist": ("KMNIST", "kmnist"),
}


def find_mnist_like(name: str, folder: Path) -> Path | None:
    """The folder of "mnist", "fashion-mnist" or "kmnist" files under a data folder, or None."""
    candidates = [folder / named / inner for named in _FOLDERS[name] for inner in ("raw", "")]
    here = folder.absolute()
    owners = [owner for owner, named in _FOLDERS.items() if {here.name, here.parent.name} & set(named)]
    # A folder of nothing but these files is MNIST's, unless its name says otherwise.
    if name in (owners or ["mnist"]):
        candidates += [folder / "raw", folder]
    return _first_with_idx(candidates, "train")


def read_mnist(folder: Path) -> Splits:
    """MNIST from a data folder: images uint8 ``(N, 28, 28, 1)``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or holds another set.
    """
    return _read("mnist", _DIGITS, folder)


def _read(name: str, class_names: tuple[str, ...], folder: Path) -> Splits:
    found, remedy = find_mnist_like(name, folder), f"catchment fetch {name}"
    if found is None:
        raise FileNotFoundError(f"{folder}: no {_FOLDERS[name][0]}/raw/train-images-idx3-ubyte(.gz) in it: {remedy}")
    splits = _read_both(found, name=name, class_names=class_names, remedy=remedy)
    counts = np.bincount(splits.train.labels, minlength=10)
    if counts.sum() == 60_000 and (counts == 6_000).all() == (name == "mnist"):
        held = "Fashion-MNIST or KMNIST" if name == "mnist" else "MNIST"
        raise ValueError(f"{found}: by its class counts this is {held}, not {name}: put it in a folder of its own")
    return splits


_NOTMNIST_FOLDERS = ("notMNIST_small", "notMNIST_small/notMNIST_small")
_NOTMNIST_IDX = ("notMNIST/raw", "notMNIST", "notmnist", "ood/notmnist")


def _find_notmnist(folder: Path) -> Path | None:
    trees = [parent / inner for parent in (folder, folder / "ood", folder / "notMNIST") for inner in _NOTMNIST_FOLDERS]
    tree = next((tree for tree in trees if (tree / "A").is_dir()), None)
    return tree or _first_with_idx((folder / inner for inner in _NOTMNIST_IDX), "t10k")


def _read_notmnist(folder: Path) -> Splits:
    found, remedy = _find_notmnist(folder), "catchment fetch notmnist"
    if found is None:
        raise FileNotFoundError(
            f"{folder}: neither notMNIST_small/A nor notmnist/t10k-images-idx3-ubyte(.gz): {remedy}"
        )
    details: dict[str, Any] = {"name": "notmnist", "class_names": _LETTERS, "remedy": remedy, "clean": False}
    if (found / "A").is_dir():
        return _held_out(_read_letters(found, remedy), "the published tree has one part only")
    if find_idx(found, "train", "images"):
        return _read_both(found, **details)
    return _held_out(read_idx_part(found, "t10k", **details), "there are only the 10,000 test letters")


def _held_out(dataset: Dataset, why: str) -> Splits:
    note = f"{why}: 20 % of each class are held out as test part, always the same"
    train, test = hold_out(replace(dataset, notes=(*dataset.notes, note)), seed=0)
    return Splits(train, replace(test, skipped=0, notes=()))


def _read_letters(tree: Path, remedy: str) -> Dataset:
    files: list[Path] = []
    labels: list[int] = []
    skipped = 0
    for label, letter in enumerate(_LETTERS):
        if not (tree / letter).is_dir():
            raise FileNotFoundError(f"{tree}: the folder {letter} is missing: {remedy}")
        for file in sorted((tree / letter).glob("*.png"), key=lambda path: path.name):
            if file.stat().st_size == 0:
                skipped += 1
                continue
            files.append(file)
            labels.append(label)
    inputs = np.empty((len(files), 28, 28, 1), dtype=np.uint8)
    for row, file in enumerate(files):
        try:
            inputs[row] = read_image(file, (28, 28, 1))
        except UnreadableImageError as error:
            raise ValueError(f"{file}: this can't be read ({error}): {remedy}") from error
    return Dataset(
        name="notmnist",
        inputs=inputs,
        labels=np.array(labels, dtype=np.int64),
        class_names=_LETTERS,
        ids=tuple(file.relative_to(tree).as_posix() for file in files),
        skipped=skipped,
        notes=(f"left out {skipped} empty file{'s'[: skipped != 1]}, as published",) if skipped else (),
    )


def _layout(name: str) -> str:
    files = "{train,t10k}-{images-idx3,labels-idx1}-ubyte, gzipped or not"
    return f"{_FOLDERS[name][0]}/raw/{files}"


def _downloads(name: str, address: str, checksums: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[RemoteFile, ...]:
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        RemoteFile(
            url=f"{address}/{file}-ubyte.gz", to=f"{_FOLDERS[name][0]}/raw/{file}-ubyte.gz", md5=md5, size=size or None
        )
        for file, md5, size in zip(files, checksums, sizes, strict=True)
    )


SETS = (
    KnownSet(
        info=DataInfo(
            name="mnist",
            kind="images",
            classes=10,
            train=60_000,
            test=10_000,
            noise="none published",
            licence="copyright LeCun and Cortes; widely quoted as CC BY-SA 3.0 (from memory, not checked)",
            where="http://yann.lecun.com/exdb/mnist",
            layout=_layout("mnist"),
        ),
        read=lambda folder, variant: read_mnist(folder),
        find=lambda folder: find_mnist_like("mnist", folder),
        downloads=_downloads(
            "mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
            (9_912_422, 28_881, 1_648_877, 4_542),
        ),
    ),
    KnownSet(
        info=DataInfo(
            name="fashion-mnist",
            kind="images",
            classes=10,
            train=60_000,
            test=10_000,
            noise="none published",
            licence="MIT",
            where="https://github.com/zalandoresearch/fashion-mnist",
            layout=_layout("fashion-mnist"),
        ),
        read=lambda folder, variant: _read("fashion-mnist", _CLOTHES, folder),
        find=lambda folder: find_mnist_like("fashion-mnist", folder),
        downloads=_downloads(
            "fashion-mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            (26_421_880, 29_515, 4_422_102, 5_148),
        ),
    ),
    KnownSet(
        info=DataInfo(
            name="kmnist",
            kind="images",
            classes=10,
            train=60_000,
            test=10_000,
            noise="none published",
            licence="CC BY-SA 4.0 (from memory, not checked)",
            where="http://codh.rois.ac.jp/kmnist",
            layout=_layout("kmnist"),
        ),
        read=lambda folder, variant: _read("kmnist", _KANA, folder),
        find=lambda folder: find_mnist_like("kmnist", folder),
        downloads=_downloads(
            "kmnist",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
            (
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
            (0, 0, 0, 0),
        ),
    ),
    KnownSet(
        info=DataInfo(
            name="notmnist",
            kind="images",
            classes=10,
            train=14_979,
            test=3_745,
            noise="about 0.5 % (from memory, not checked)",
            licence="free for research by its author's page, the fonts are their owners' (from memory, not checked)",
            where="https://zenodo.org/record/8274268",
            layout="notMNIST_small/A..J/*.png, or MNIST's files of 10,000 letters in notmnist/ or ood/notmnist/",
        ),
        read=lambda folder, variant: _read_notmnist(folder),
        find=_find_notmnist,
        downloads=(
            RemoteFile(
                url="https://zenodo.org/record/8274268/files/notMNIST_small.zip",
                to=".",
                md5="3de91fb69221d9c2d5c57387101ebc6c",
                unpack=True,
            ),
        ),
    ),
)
