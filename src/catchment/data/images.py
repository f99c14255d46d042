"""Decoding image files, and bringing images to one size and number of channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


class UnreadableImageError(ValueError):
    """A file that can't be read as an image; says why."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file; whatever goes wrong with it, here or in the body, is an UnreadableImageError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Of a file given by name, Pillow maps uncompressed TIFF into memory, and garbles those that lie sideways.
            with path.open("rb") as file, Image.open(file) as image:
                yield image
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError("too many pixels") from error
    # Pillow's decoders raise whatever a broken file makes them stumble over: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UnreadableImageError(reason) from error


def look_at(path: Path) -> tuple[int, int, bool]:
    """Height and width of an image as it is shown, and whether it has a single channel.

    Raises:
        UnreadableImageError: the file isn't an image that can be read.
    """
    with opened(path) as image:
        sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
        if sideways and image.format == "TIFF":
            # Pillow turns TIFF by itself, and tells its size as turned on opening or only on decoding.
            image.load()
            sideways = False
        width, height = image.size[::-1] if sideways else image.size
        return height, width, image.mode in ("1", "L") or image.mode.startswith("I")


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An image file as uint8 ``(H, W, C)`` of that shape, upright.

    Raises:
        UnreadableImageError: the file isn't an image that can be read whole.
    """
    from PIL import ImageOps

    with opened(path) as image:
        # Pillow turns TIFF by itself on decoding; turning it again would be once too often in versions before 10.1.
        upright = eight_bits(image.copy() if image.format == "TIFF" else ImageOps.exif_transpose(image))
    return _fit(upright, shape)


def fit_images(images: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Images ``(N, H, W, 1 or 3)`` in another size and number of channels; the same array where nothing changes."""
    from PIL import Image

    if images.shape[1:] == shape:
        return images
    fitted = np.empty((len(images), *shape), dtype=np.uint8)
    for row, image in enumerate(images):
        fitted[row] = _fit(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), shape)
    return fitted


def eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel, 16 scaled down to that."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        sixteen_bits = np.clip(np.asarray(image), 0, 65535)
        return Image.fromarray((sixteen_bits // 256).astype(np.uint8))
    return image


def _fit(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    height, width, channels = shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels: NDArray[Any] = np.asarray(image, dtype=np.uint8)
    return pixels.reshape(shape)
