"""Images that stay on disk until they are needed: for data sets that don't fit in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from catchment.data.images import UnreadableImageError, eight_bits, opened
from catchment.data.labels import shorten

if TYPE_CHECKING:
    from PIL import Image

ON_ERROR = ("raise", "skip")
# Beyond this share of missing files something is wrong with the folder, not with single files.
MOST_MISSING = 0.01


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Paths of images, which behaves as the uint8 array ``(N, size, size, 3)`` of them without decoding any.

    An array, mask or slice as index gives fewer files, still on disk; a single position gives that image, decoded.
    Images become RGB; EXIF rotation is left alone, as the published loaders of these sets do.

    Args:
        root: the folder that the paths are relative to.
        paths: of the images: strings, or as bytes, which take a quarter of the memory and are what is kept.
        size: side of the square that they come as, in pixels.
        resize: what the shorter side is resized to before the middle of ``size`` pixels is cut out; None: ``size``.
        on_error: what happens with a file that can't be read: "raise" stops with a line that names it; "skip" gives
            black pixels, and in training the label -100, so that the loss leaves it out.
        truncated: read files that end too early as far as they go.
        mean: published mean of each channel, of pixels in 0..1; None where there is none.
        std: published standard deviation of each channel likewise.

    Raises:
        ValueError: a size or the policy is impossible.

    Example:
        >>> files = ImageFiles(Path("photos"), ["a.jpg", "b.jpg", "c.jpg"], 224, resize=256)
        >>> files.shape, files[[2, 0]].shape
        ((3, 224, 224, 3), (2, 224, 224, 3))
    """

    root: Path
    paths: NDArray[np.bytes_]
    size: int
    resize: int | None = None
    on_error: str = "raise"
    truncated: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)
    ndim: ClassVar[int] = 4

    def __post_init__(self) -> None:
        given: NDArray[Any] | Sequence[str] = self.paths
        if not (isinstance(given, np.ndarray) and given.dtype.kind == "S"):
            names = [os.fsencode(str(path)) for path in given]
            object.__setattr__(self, "paths", np.array(names, dtype=np.bytes_) if names else np.empty(0, dtype="S1"))
        if self.size < 1 or (self.resize is not None and self.resize < self.size):
            raise ValueError(
                f"size is {self.size} and resize {self.resize}: give a size of at least 1, and a resize not below it"
            )
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error is {self.on_error!r}: choose one of {', '.join(ON_ERROR)}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As the array of all images would have it."""
        return len(self), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if np.ndim(index) == 0 and not isinstance(index, slice):
            return self.decode(np.array([range(len(self))[index]]))[0]
        return replace(self, paths=self.paths[index])

    def __array__(self, *arguments: Any, **options: Any) -> NDArray[np.uint8]:
        raise ValueError(
            f"this needs all images in memory, and the {len(self)} of {self.root} stay on disk: "
            "take fewer and decode them, or another data set"
        )

    def resized(self, size: int) -> ImageFiles:
        """The same files in another size, with the same share of each image cut off."""
        resize = None if self.resize is None else max(size, round(self.resize * size / self.size))
        return replace(self, size=size, resize=resize)

    def path(self, row: int) -> Path:
        """Where an image is."""
        return self.root / os.fsdecode(self.paths[row])

    def read(self, row: int) -> tuple[Image.Image, bool]:
        """An image as RGB in its own size, and whether its file ends too early.

        Raises:
            UnreadableImageError: it can't be read.
        """
        try:
            return _read_rgb(self.path(row)), False
        except UnreadableImageError:
            if not self.truncated:
                raise
        with _cut_off_files_are_read():
            return _read_rgb(self.path(row)), True

    def center(self, image: Image.Image) -> Image.Image:
        """What evaluation sees of an image: the shorter side resized to ``resize``, then the middle."""
        width, height = image.size
        side = min(image.size) * self.size / (self.resize or self.size)
        left, top = (width - side) / 2, (height - side) / 2
        return cut(image, (left, top, left + side, top + side), (self.size, self.size))

    def decode(self, index: Any) -> NDArray[np.uint8]:
        """The images at ``index`` (positions, a mask or a slice), ``(len(index), size, size, 3)``.

        Raises:
            ValueError: one can't be read, and the policy is "raise".
        """
        rows = np.arange(len(self))[index]
        images = np.zeros((len(rows), *self.shape[1:]), dtype=np.uint8)
        problems = []
        for position, row in enumerate(rows.tolist()):
            try:
                images[position] = np.asarray(self.center(self.read(row)[0]))
            except UnreadableImageError as error:
                problems.append((row, str(error)))
                if self.on_error == "raise":
                    raise ValueError(self.complaint(row, str(error))) from error
        if problems:
            warnings.warn(f"{len(problems)} images are black: {self.complaint(*problems[0])}", stacklevel=2)
        return images

    def complaint(self, row: int, reason: str) -> str:
        """One line about a file that can't be read."""
        return (
            f"{self.root}: {os.fsdecode(self.paths[row])} can't be read ({reason}): "
            "replace or remove it, or leave such files out with --skip-unreadable"
        )

    def fingerprint(self) -> bytes:
        """What tells these images from others without decoding them: their names, in order, and how they are cut."""
        return b"\n".join([*self.paths.tolist(), repr((self.size, self.resize, self.truncated)).encode()])


def cut(image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
    """The part of an image in ``box`` (left, top, right, bottom), in another size (width, height); antialiased.

    It is what resizing all of the image and then cutting gives, in one step, and for boxes between pixels too.
    """
    from PIL import Image

    return image.resize(size, Image.Resampling.BILINEAR, box=box)


def read_list(path: Path, remedy: str) -> list[str]:
    """The lines of a text file that lists images, without empty ones.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: it isn't text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {remedy}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}): {remedy}") from error


def files_there(root: Path, paths: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the paths below ``root`` are there ``(N,)``.

    Each folder is listed once: asking for every file would take minutes on a network disk.
    """
    by_folder: dict[str, set[str]] = {}
    there = np.empty(len(paths), dtype=bool)
    for row, path in enumerate(paths):
        parent, _, file = path.rpartition("/")
        if parent not in by_folder:
            folder = root / parent
            by_folder[parent] = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208
        there[row] = file in by_folder[parent]
    return there


def existing(name: str, root: Path, paths: list[str], remedy: str) -> tuple[NDArray[np.bool_], int, tuple[str, ...]]:
    """Which listed files are there, how many are missing, and a note on those.

    Raises:
        FileNotFoundError: more than one in a hundred is missing.
    """
    present = files_there(root, paths)
    absent = np.flatnonzero(~present)
    if not absent.size:
        return present, 0, ()
    what = f"{absent.size} of {len(paths)} listed images are not there ({shorten([paths[absent[0]]])} is the first)"
    if absent.size > MOST_MISSING * len(paths):
        raise FileNotFoundError(f"{name}: in {root} {what}: {remedy}")
    return present, int(absent.size), (f"{what}: left out",)


def _read_rgb(path: Path) -> Image.Image:
    with opened(path) as image:
        return eight_bits(image).convert("RGB")


@contextmanager
def _cut_off_files_are_read() -> Iterator[None]:
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
