"""Small pictures as data addresses, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Up to this size pixels are shown as squares and kept exactly; larger pictures may be compressed with loss.
PIXEL_ART = 32


def data_address(image: NDArray[np.uint8]) -> str:
    """An image ``(h, w, 1 or 3)`` as the shorter of PNG and, above 32 pixels a side, JPEG."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    encoded = {"png": _encode(picture, "PNG")}
    if max(picture.size) > PIXEL_ART:
        encoded["jpeg"] = _encode(picture, "JPEG", quality=85)
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def _encode(picture: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
