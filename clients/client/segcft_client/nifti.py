"""A volume as a NIfTI-1 file in memory, https://nifti.nimh.nih.gov/nifti-1: to the server, and back from it.

Only what the two say to each other: a volume of one channel, whose place its sform says. For others take NiBabel.
"""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}
"""Types of values -> as what a header has them."""

_HEADER, _FIRST = 348, 352  # bytes of the header, and before the first voxel where nothing stands between
_DIM, _TYPE, _PIXDIM, _OFFSET, _UNITS, _SFORM, _ROWS, _MAGIC = 40, 70, 76, 108, 123, 254, 280, 344
_SLOPE = 112
_MILLIMETRES, _SCANNER = 2, 1
_COMMENT, _KEY = 6, "segcft"
_FAST = 1  # gzip's level: on one machine its time is longer than that of sending


def nifti_bytes(values: NDArray[Any], ijk_to_ras: NDArray[np.float64]) -> bytes:
    """A compressed file of a volume (K, J, I); see :class:`segcft_client.scan.Scan`.

    Raises:
        ValueError: NIfTI has no such values.
    """
    values = np.ascontiguousarray(_storable(values))
    header = bytearray(_FIRST)
    struct.pack_into("<i", header, 0, _HEADER)
    struct.pack_into("<8h", header, _DIM, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, _TYPE, CODES[values.dtype.str[1:]], 8 * values.dtype.itemsize)
    edges = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    struct.pack_into("<8f", header, _PIXDIM, 1, *edges, 1, 1, 1, 1)
    struct.pack_into("<f", header, _OFFSET, _FIRST)
    struct.pack_into("<2f", header, _SLOPE, 1, 0)
    header[_UNITS] = _MILLIMETRES
    struct.pack_into("<h", header, _SFORM, _SCANNER)
    struct.pack_into("<12f", header, _ROWS, *np.asarray(ijk_to_ras)[:3].ravel())
    header[_MAGIC : _MAGIC + 4] = b"n+1\0"
    return gzip.compress(bytes(header) + values.tobytes(), _FAST, mtime=0)


def read_nifti(content: bytes) -> tuple[NDArray[Any], NDArray[np.float64], dict[str, Any]]:
    """The values (K, J, I) of the server's file, the matrix from their indices to RAS, and its record.

    Raises:
        ValueError: it is no such file.
    """
    try:
        data = gzip.decompress(content)
        dim = struct.unpack_from("<8h", data, _DIM)
        if data[_MAGIC : _MAGIC + 4] != b"n+1\0" or any(length != 1 for length in dim[4 : dim[0] + 1]) or dim[0] < 3:
            raise ValueError("expected a NIfTI-1 file of one volume")
        kinds = {code: kind for kind, code in CODES.items()}
        dtype = np.dtype(f"<{kinds[struct.unpack_from('<h', data, _TYPE)[0]]}")
        first = int(struct.unpack_from("<f", data, _OFFSET)[0])
        shape = dim[3:0:-1]
        values = np.frombuffer(data, dtype, int(np.prod(shape)), first).reshape(shape)
        slope, intercept = struct.unpack_from("<2f", data, _SLOPE)
        if np.isfinite(slope) and slope != 0 and (slope, intercept) != (1, 0):
            values = values * slope + intercept
        matrix = np.eye(4)
        matrix[:3] = np.array(struct.unpack_from("<12f", data, _ROWS)).reshape(3, 4)
        return values, matrix, _record(data, first)
    except (OSError, EOFError, KeyError, struct.error) as error:
        raise ValueError(f"no NIfTI file of the server's ({error})") from None


def _storable(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` in a type that NIfTI has."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
        if values.size and (values.min() < least or values.max() > most):
            raise ValueError("whole numbers of more than 32 bits")
        return values.astype("<i4")
    if values.dtype.kind not in "iuf" or values.dtype.newbyteorder("<").str[1:] not in CODES:
        raise ValueError(f"values of type {values.dtype}")
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _record(data: bytes, first: int) -> dict[str, Any]:
    """What a file says of its origin, in a comment between header and voxels."""
    place = _FIRST
    while place + 8 <= first:
        size, code = struct.unpack_from("<2i", data, place)
        text = data[place + 8 : place + size].rstrip(b"\0")
        if code == _COMMENT and _KEY.encode() in text:
            found: dict[str, Any] = json.loads(text)[_KEY]
            return found
        place += max(size, 8)
    return {}
