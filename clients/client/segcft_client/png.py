"""A grey picture as a PNG file, https://www.w3.org/TR/png-3/: what the server is sent of an image in a viewer."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH, _GREY = 8, 0


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """The file of pixels (H, W)."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, _DEPTH, _GREY, 0, 0, 0)
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels])  # a row begins with its filter, and there is none
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes())) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
