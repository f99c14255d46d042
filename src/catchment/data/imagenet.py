"""ILSVRC-2012 (ImageNet-1k), and its first 50 classes, those of mini-WebVision."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import Dataset, Splits
from catchment.data.image_files import ImageFiles
from catchment.data.known import DataInfo, KnownSet
from catchment.data.labels import shorten

FOLDERS = ("imagenet", "ILSVRC2012")
DEVKIT = "ILSVRC2012_devkit_t12"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
_EXTENSIONS = (".jpeg", ".jpg", ".png")

# The first 50 WordNet ids in order, which are the labels 0..49 of WebVision.
FIRST_50 = {
    "n01440764": "tench",
    "n01443537": "goldfish",
    "n01484850": "great white shark",
    "n01491361": "tiger shark",
    "n01494475": "hammerhead",
    "n01496331": "electric ray",
    "n01498041": "stingray",
    "n01514668": "cock",
    "n01514859": "hen",
    "n01518878": "ostrich",
    "n01530575": "brambling",
    "n01531178": "goldfinch",
    "n01532829": "house finch",
    "n01534433": "junco",
    "n01537544": "indigo bunting",
    "n01558993": "robin",
    "n01560419": "bulbul",
    "n01580077": "jay",
    "n01582220": "magpie",
    "n01592084": "chickadee",
    "n01601694": "water ouzel",
    "n01608432": "kite",
    "n01614925": "bald eagle",
    "n01616318": "vulture",
    "n01622779": "great grey owl",
    "n01629819": "European fire salamander",
    "n01630670": "common newt",
    "n01631663": "eft",
    "n01632458": "spotted salamander",
    "n01632777": "axolotl",
    "n01641577": "bullfrog",
    "n01644373": "tree frog",
    "n01644900": "tailed frog",
    "n01664065": "loggerhead",
    "n01665541": "leatherback turtle",
    "n01667114": "mud turtle",
    "n01667778": "terrapin",
    "n01669191": "box turtle",
    "n01675722": "banded gecko",
    "n01677366": "common iguana",
    "n01682714": "American chameleon",
    "n01685808": "whiptail",
    "n01687978": "agama",
    "n01688243": "frilled lizard",
    "n01689811": "alligator lizard",
    "n01692333": "Gila monster",
    "n01693334": "green lizard",
    "n01694178": "African chameleon",
    "n01695060": "Komodo dragon",
    "n01697457": "African crocodile",
}


def read_imagenet(root: Path) -> Splits:
    """All classes of ``train/<wnid>/`` and ``val``, in the order of their WordNet ids; images stay on disk.

    The test part is ILSVRC's validation part; its own test part has no labels.

    Raises:
        FileNotFoundError: a folder or the devkit is missing.
        ValueError: they don't fit each other.
    """
    wnids = _folders(root / "train")
    names = first_names(root)
    class_names = distinct_names(wnids, [names.get(wnid, wnid) for wnid in wnids])
    return _splits("imagenet", root, wnids, class_names)


def read_imagenet_50(root: Path) -> Splits:
    """The 50 classes of mini-WebVision, from the same files.

    Raises:
        FileNotFoundError: the folder of a class, or the devkit, is missing.
        ValueError: they don't fit each other.
    """
    return _splits("imagenet-50", root, tuple(FIRST_50), tuple(FIRST_50.values()))


def find_imagenet(folder: Path) -> Path | None:
    """The folder with ``train`` and ``val``, named ``imagenet`` or ``ILSVRC2012``."""
    roots = (folder / name for name in FOLDERS)
    return next((root for root in roots if (root / "train").is_dir() and (root / "val").is_dir()), None)


def validation_part(name: str, root: Path, wnids: Sequence[str], class_names: tuple[str, ...]) -> Dataset:
    """The validation images of these classes.

    They lie in ``val/<wnid>/``, in ``val/<class number>/``, or flat in ``val/`` beside the devkit, whose ground truth
    is in the order of their names and counts classes in an order of its own.

    Raises:
        FileNotFoundError: a folder or the devkit is missing.
        ValueError: the files don't fit each other.
    """
    folder = root / "val"
    folders = _subfolders(folder)
    if not folders:
        rows = _flat_validation(root, wnids)
    else:
        numbered = all(entry.isdecimal() for entry in folders)
        by_class = {int(entry): entry for entry in folders} if numbered else dict(enumerate(wnids))
        wanted = [str(k) for k in range(len(wnids))] if numbered else list(wnids)
        absent = sorted(set(wanted) - ({str(k) for k in by_class} if numbered else set(folders)))
        if absent:
            raise FileNotFoundError(
                f"{folder}: there is no folder for class {shorten(absent)}: unpack all of {PAGE}, or remove val/"
            )
        rows = [(f"val/{by_class[k]}/{file}", k) for k in range(len(wnids)) for file in _images(folder / by_class[k])]
    return _dataset(name, root, rows, class_names)


def first_names(root: Path) -> dict[str, str]:
    """WordNet id -> the first of its names in the devkit's ``meta.mat``; empty without a devkit."""
    path = _devkit(root) / "meta.mat"
    return {wnid: words.split(", ")[0] for wnid, words in _synsets(path).values()} if path.is_file() else {}


def distinct_names(wnids: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; those that two classes share (as the two cranes do) carry their WordNet id."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({wnid})" for wnid, name in zip(wnids, names, strict=True))


def unpack_imagenet(tar: Path, target: Path) -> int:
    """Unpacks one of ILSVRC's archives into ``target``, and returns how many files that gave.

    Files go straight into ``target``; a tar within the tar, as each class of the training part is, into the folder
    of its name. Give ``imagenet/train`` for ``ILSVRC2012_img_train.tar``, ``imagenet/val`` for
    ``ILSVRC2012_img_val.tar`` and ``imagenet`` for the devkit. Files that are there already are kept, so that an
    unpacking that was stopped can be done again.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: it is no tar, ends too early, or holds a link or a path that leads out of ``target``; what came
            before that is unpacked.
    """
    if not tar.is_file():
        raise FileNotFoundError(f"{tar}: there is no such file: get it from {PAGE}")
    try:
        with tarfile.open(tar) as archive:
            return _unpack(archive, target, tar.name)
    except (tarfile.TarError, EOFError) as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise ValueError(f"{tar}: not a whole tar archive ({reason}): get it again from {PAGE}") from error


def _unpack(archive: tarfile.TarFile, target: Path, name: str) -> int:
    count = 0
    for member in archive:
        if member.isdir():
            continue
        inside = PurePosixPath(member.name)
        destination = target / inside
        # resolve() follows links that lie in the target already
        leaves = inside.is_absolute() or ".." in inside.parts or "\\" in member.name
        if leaves or not destination.resolve().is_relative_to(target.resolve()) or not member.isfile():
            what = "is a link or a device" if not member.isfile() else "leads out of the folder"
            raise ValueError(f"{name}: {member.name!r} {what}: this is not ILSVRC's archive, get it from {PAGE}")
        content = archive.extractfile(member)
        assert content is not None  # it is a regular file
        if inside.suffix == ".tar":
            with tarfile.open(fileobj=content, mode="r:") as inner:
                count += _unpack(inner, destination.with_suffix(""), f"{name}: {member.name}")
        else:
            _write(content, destination, member.size)
            count += 1
    return count


def _write(content: IO[bytes], destination: Path, size: int) -> None:
    if destination.is_file() and destination.stat().st_size == size:
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    with part.open("wb") as file:
        shutil.copyfileobj(content, file)
    part.replace(destination)


def _splits(name: str, root: Path, wnids: Sequence[str], class_names: tuple[str, ...]) -> Splits:
    rows = []
    for label, wnid in enumerate(wnids):
        folder = root / "train" / wnid
        files = _images(folder) if folder.is_dir() else []
        if not files:
            raise FileNotFoundError(f"{folder}: there are no images of the class in it: unpack all of {PAGE}")
        rows += [(f"train/{wnid}/{file}", label) for file in files]
    train = _dataset(name, root, rows, class_names)
    return Splits(train, validation_part(name, root, wnids, class_names))


def _dataset(name: str, root: Path, rows: list[tuple[str, int]], class_names: tuple[str, ...]) -> Dataset:
    paths = tuple(path for path, _ in rows)
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return Dataset(
        name=name,
        inputs=image_files(root, paths),
        labels=labels,
        class_names=class_names,
        clean_labels=labels,
        ids=paths,
        augmentation=("random-resized-crop", "flip"),
    )


def image_files(root: Path, paths: Iterable[str]) -> ImageFiles:
    """Images as ImageNet's protocol has them: 224 pixels from the middle of 256."""
    encoded = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
    return ImageFiles(root, encoded, 224, resize=256, mean=MEAN, std=STD)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _folders(folder: Path) -> tuple[str, ...]:
    """The WordNet ids that have a folder, in order."""
    names = _subfolders(folder)
    if not names:
        packed = any(folder.glob("n*.tar"))
        remedy = "unpack its tars" if packed else "unpack ILSVRC2012_img_train.tar into it"
        raise FileNotFoundError(f"{folder}: there are no class folders in it: {remedy}, with unpack_imagenet")
    odd = [name for name in names if not re.fullmatch(r"n\d{8}", name)]
    if odd:
        raise ValueError(f"{folder}: {shorten(odd)} is no WordNet id (n and 8 digits): remove it")
    return tuple(names)


def _images(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(_EXTENSIONS))


def _devkit(root: Path) -> Path:
    """Where the devkit's data should be: beside train and val, or a level up."""
    places = [root / DEVKIT / "data", root.parent / DEVKIT / "data"]
    return next((place for place in places if place.is_dir()), places[0])


def _synsets(path: Path) -> dict[int, tuple[str, str]]:
    """ILSVRC2012_ID -> WordNet id and names, of the classes (not of the groups of them)."""
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        classes = synsets[synsets["num_children"].astype(int) == 0]
        return {int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"])) for row in classes}
    # scipy raises whatever a broken file makes it stumble over
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: not the devkit's meta.mat ({reason}): get the devkit from {PAGE}") from error


def _flat_validation(root: Path, wnids: Sequence[str]) -> list[tuple[str, int]]:
    devkit = _devkit(root)
    truth = devkit / "ILSVRC2012_validation_ground_truth.txt"
    for path in (truth, devkit / "meta.mat"):
        if not path.is_file():
            raise FileNotFoundError(
                f"{root / 'val'}: its images lie in no class folders, and {path} is not there to tell their classes: "
                f"unpack the devkit of {PAGE} into {root}"
            )
    files = _images(root / "val")
    numbers = _ground_truth(truth)
    if len(numbers) != len(files):
        raise ValueError(f"{truth}: {len(numbers)} lines for {len(files)} images in val/: unpack both whole")
    wnid_of = {number: wnid for number, (wnid, _) in _synsets(devkit / "meta.mat").items()}
    unknown = sorted(set(numbers.tolist()) - wnid_of.keys())
    if unknown:
        raise ValueError(f"{truth}: {unknown[0]} is no class of meta.mat: get both from the devkit of {PAGE}")
    position = {wnid: label for label, wnid in enumerate(wnids)}
    labels = [position.get(wnid_of[number], -1) for number in numbers.tolist()]
    # by class, as folders give them
    return sorted(
        ((f"val/{file}", label) for file, label in zip(files, labels, strict=True) if label >= 0),
        key=lambda row: row[1],
    )


def _ground_truth(path: Path) -> NDArray[np.int64]:
    lines = path.read_text(encoding="utf-8").split()
    wrong = [line for line in lines if not line.isdecimal()]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]!r} is no class number: get the devkit from {PAGE}")
    return np.array(lines, dtype=np.int64)


_LAYOUT = (
    "imagenet/ or ILSVRC2012/ with train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or val/*.JPEG beside "
    f"{DEVKIT}/data/; see catchment.data.imagenet.unpack_imagenet"
)
_TERMS = "non-commercial research and education, no redistribution"

SETS = (
    KnownSet(
        info=DataInfo(
            name="imagenet",
            kind="images",
            classes=1000,
            train=1_281_167,
            test=50_000,
            noise="none stated; labels are human",
            licence=_TERMS,
            where=PAGE,
            layout=_LAYOUT,
        ),
        read=lambda folder, variant: read_imagenet(found(folder)),
        find=find_imagenet,
    ),
    KnownSet(
        info=DataInfo(
            name="imagenet-50",
            kind="images",
            classes=50,
            train=65_000,  # at most: 732 to 1,300 a class
            test=2_500,
            noise="none stated; labels are human",
            licence=_TERMS,
            where=PAGE,
            layout=_LAYOUT,
        ),
        read=lambda folder, variant: read_imagenet_50(found(folder)),
        find=find_imagenet,
    ),
)


def found(folder: Path) -> Path:
    """As :func:`find_imagenet`, which must find it.

    Raises:
        FileNotFoundError: it isn't there.
    """
    root = find_imagenet(folder)
    if root is None:
        raise FileNotFoundError(f"imagenet is not in {folder}: get it from {PAGE}; expected there: {_LAYOUT}")
    return root
