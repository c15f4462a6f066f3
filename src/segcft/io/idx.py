"""IDX files, as those of MNIST: an array of bytes behind a header of its shape."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcft.errors import Code, DataError
from segcft.io.volumefile import GZIP

MOST_BYTES = 1 << 28
"""Of an array; the images of MNIST have 47 million."""
MOST_AXES = 4

_BYTES = 8
"""How the header calls unsigned bytes, the only type that is read."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of unsigned bytes from an IDX file, plain or gzip, whatever it is called.

    The header is two zeros, the type and the number of axes, a byte each, then the length of each axis, big-endian.

    Raises:
        DataError: it cannot be read, is no such file, is too large, or has fewer or more bytes than its header says.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP
        with gzip.open(path) if compressed else path.open("rb") as file:
            return _read(file, path)
    except FileNotFoundError:
        raise DataError(Code.MISSING, path, "no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(Code.UNREADABLE, path, f"cannot read this IDX file ({error})") from None


def _read(file: io.BufferedIOBase, path: Path) -> NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _BYTES or not 1 <= magic[3] <= MOST_AXES:
        raise DataError(Code.INVALID, path, f"no IDX file of unsigned bytes with 1 to {MOST_AXES} axes")
    lengths = file.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise DataError(Code.DAMAGED, path, "it ends within its header")
    shape = struct.unpack(f">{magic[3]}I", lengths)
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise DataError(Code.TOO_LARGE, path, f"its header says {size} bytes; at most {MOST_BYTES} are read")
    content = file.read(size + 1)
    if len(content) != size:
        found = "more" if len(content) > size else len(content)
        raise DataError(Code.DAMAGED, path, f"its header says {size} bytes, and it has {found}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
