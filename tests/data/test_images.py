import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from catchment.data.images import UnreadableImageError, fit_images, look_at, read_image


def bomb(path):
    """A PNG of a few bytes that claims 20000 x 20000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_colour_and_grey_pixels_are_kept(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    assert look_at(tmp_path / "colour.png") == (2, 3, False)
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png", (2, 3, 3)), pixels)

    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert look_at(tmp_path / "grey.png") == (2, 3, True)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", (2, 3, 1)), pixels[..., :1])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", (2, 3, 3)), pixels[..., [0, 0, 0]])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    pixels = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    assert look_at(tmp_path / "deep.png") == (1, 4, True)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", (1, 4, 1))[..., 0], [[0, 0, 1, 255]])


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert look_at(tmp_path / "bits.png") == (1, 2, True)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png", (1, 2, 1))[..., 0], [[255, 0]])


@pytest.mark.parametrize(("extension", "options"), [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})])
def test_orientation_is_applied(tmp_path, extension, options):
    pixels = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / f"turned.{extension}", exif=exif, **options)
    assert look_at(tmp_path / f"turned.{extension}") == (3, 2, True)
    turned = read_image(tmp_path / f"turned.{extension}", (3, 2, 1))[..., 0]
    np.testing.assert_array_equal(turned, [[40, 10], [50, 20], [60, 30]])


def test_resizing_crops_the_centre_of_the_longer_side():
    wide = np.random.default_rng(0).integers(0, 256, (8, 24), dtype=np.uint8)
    shrunk = np.asarray(Image.fromarray(wide).resize((12, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit_images(wide[None, :, :, None], (4, 4, 1))[0, ..., 0], shrunk[:, 4:8])
    tall = fit_images(wide.T[None, :, :, None], (4, 4, 1))[0, ..., 0]
    np.testing.assert_allclose(tall.astype(int), shrunk[:, 4:8].T, atol=1)


def test_shrinking_averages():
    checks = np.indices((16, 16)).sum(0) % 2 * 200
    small = fit_images(checks[None, :, :, None].astype(np.uint8), (2, 2, 1))
    assert np.abs(small.astype(int) - 100).max() <= 3


def test_channels_are_converted():
    red = np.zeros((1, 1, 1, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert fit_images(red, (1, 1, 1)).item() == 76
    np.testing.assert_array_equal(fit_images(np.full((1, 1, 1, 1), 9, np.uint8), (1, 1, 3)), [[[[9, 9, 9]]]])


def test_images_of_the_right_shape_are_not_copied():
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert fit_images(images, (4, 4, 3)) is images


def test_unreadable_images_say_why(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UnreadableImageError, match="not an image"):
        look_at(tmp_path / "text.png")

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    assert look_at(tmp_path / "half.jpg") == (64, 64, False)
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_image(tmp_path / "half.jpg", (64, 64, 3))

    bomb(tmp_path / "bomb.png")
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        look_at(tmp_path / "bomb.png")

    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match="floating-point"):
        read_image(tmp_path / "float.tif", (2, 2, 1))
