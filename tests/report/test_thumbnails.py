import base64
import io

import numpy as np
import pytest
from PIL import Image

from catchment.report.thumbnails import data_address


def opened(address):
    kind, _, data = address.partition(";base64,")
    return kind.removeprefix("data:image/"), np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 32, 3), (1, 1, 1)])
def test_small_pictures_are_kept_exactly(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    kind, pixels = opened(data_address(image))
    assert kind == "png"
    np.testing.assert_array_equal(pixels.reshape(shape), image)


def test_large_pictures_are_stored_as_what_is_shorter():
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    kind, pixels = opened(data_address(noise))
    assert (kind, pixels.shape) == ("jpeg", (96, 64, 3))
    kind, pixels = opened(data_address(np.zeros((96, 96, 1), dtype=np.uint8)))
    assert (kind, pixels.shape) == ("png", (96, 96))
