"""Reading one NIfTI file that holds a single image: its pixels as they are to be seen, and their shape."""

from __future__ import annotations

import gzip
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.data.reject import Rejected
from segcft.data.source import Source, check_size
from segcft.errors import DataError

NIFTI = (".nii", ".nii.gz")

MOST_BYTES = 1 << 28
"""Of an uncompressed file that holds one image; a compressed one that is longer is not read on."""


def is_nifti(path: Source) -> bool:
    """Whether a file is called like NIfTI."""
    return path.name.lower().endswith(NIFTI)


def read_nifti(path: Source) -> tuple[NDArray[Any], float]:
    """The image (H, W) in the file's units, and the height of a pixel divided by its width.

    The array is turned as radiologists look at it: up is the patient's head (or front, in an axial image), the
    patient's left is on the right of the picture; in a sagittal image the front is on the left.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: the file cannot be read, or holds more than one image.
    """
    try:
        import nibabel
    except ImportError as error:
        raise DataError(f"{path}: this needs nibabel ({error}): pip install 'segcft[nifti]'") from None
    try:
        content = _content(path)
        image = nibabel.Nifti1Image.from_bytes(content)
        shape, affine = tuple(image.shape), np.asarray(image.affine, dtype=np.float64)
        volume = (*shape, 1, 1)[:3]
        if 0 in shape or any(length != 1 for length in shape[3:]) or 1 not in volume:
            raise Rejected(f"{path}: holds {'x'.join(map(str, shape))} values, expected one image")
        check_size(path, shape)
        if image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize > len(content):
            raise Rejected(
                f"{path}: cut off: {len(content)} bytes do not hold the {math.prod(shape)} values of its header"
            )
        values = np.asanyarray(image.dataobj).reshape(volume)
        if values.dtype.kind not in "biuf":
            raise Rejected(f"{path}: holds values of type {values.dtype}, expected grey values")
        return _as_seen(values, affine, np.linalg.norm(affine[:3, :3], axis=0))
    except Rejected:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise Rejected(f"{path}: cannot read this NIfTI file ({' '.join(str(error).split())})") from None


def _content(path: Source) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if raw[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(raw)) as file:
            raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise Rejected(f"{path}: more than {MOST_BYTES >> 20} MiB, which is no single image")
    return raw


def _as_seen(
    values: NDArray[Any], affine: NDArray[np.float64], spacing: NDArray[np.float64]
) -> tuple[NDArray[Any], float]:
    """Values (I, J, K), one of these lengths being 1, whose affine leads to RAS coordinates in mm."""
    from nibabel.orientations import apply_orientation, io_orientation

    orientation = io_orientation(affine)
    if np.isnan(orientation).any():  # a header that does not say: as stored
        orientation = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    values = apply_orientation(values, orientation)  # indices now rise to the right, to the front and to the head
    spacing = spacing[np.argsort(orientation[:, 0])]
    through = max(axis for axis, length in enumerate(values.shape) if length == 1)
    across, down = (axis for axis in range(3) if axis != through)
    picture = values.take(0, axis=through).T[::-1, ::-1]
    known = np.isfinite(spacing).all() and (spacing > 0).all()
    return np.ascontiguousarray(picture), float(spacing[down] / spacing[across]) if known else 1.0
