"""An uploaded file, read in memory alone: nothing of it is written or kept, its name is never asked for.

The bytes are a stranger's. Their size is bounded before anything is unpacked: pixels by what the header says, and
what is compressed as a whole (``.nii.gz``) by how much of it is read.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.data.convert import PERCENTILES
from segcft.data.imagefile import grey_values, pixels_of
from segcft.data.reject import Rejected
from segcft.data.resize import fit_image
from segcft.errors import DataError
from segcft.study import FolderData, Study

MOST_PIXELS = 32_000_000
"""The largest mammograms have 28 million."""

NAME = "the upload"
_DEFLATED = "1.2.840.10008.1.2.1.99"  # DICOM whose header, too, is compressed: it would be unpacked unseen
_GZIP = b"\x1f\x8b"


class Upload(NamedTuple):
    """Pixels on the model's grid, uint8 (C, H, W), and what a DICOM header says: ``{"age": 63.0, "sex": "F"}``."""

    pixels: NDArray[np.uint8]
    said: dict[str, float | str]


class _Grey(NamedTuple):
    values: NDArray[np.float64]  # (C, H, W) in [0, 1]
    aspect: float  # height of a pixel over its width
    said: dict[str, float | str]


def read_upload(study: Study, data: bytes) -> Upload:
    """A PNG, JPEG, TIFF, BMP, DICOM or NIfTI file on the study's grid, treated like the study's own images.

    Raises:
        DataError: it is none of these, damaged, too large, not one single image, or shows nothing.
    """
    if not data:
        raise DataError(f"{NAME}: the file is empty")
    try:
        if data[128:132] == b"DICM":
            grey = _read_dicom(study, data)
        elif data[:2] == _GZIP or data[344:348] in (b"n+1\0", b"ni1\0") or data[4:7] == b"n+2":
            grey = _read_nifti(study, data)
        else:
            grey = _read_picture(study, data)
        return Upload(fit_image(grey.values, study.image, grey.aspect), grey.said)
    except Rejected as error:
        raise DataError(str(error)) from None


def _read_picture(study: Study, data: bytes) -> _Grey:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is a stricter one
            file = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "BMP"))
    except Exception:  # Pillow's readers raise almost anything over a broken file
        raise Rejected(f"{NAME}: not an image that can be read; expected PNG, JPEG, TIFF, DICOM or NIfTI") from None
    with file:
        _check_pixels(*file.size)
        return _Grey(grey_values(pixels_of(file, NAME), NAME, study.image.channels, *_scale(study)), 1.0, {})


def _read_dicom(study: Study, data: bytes) -> _Grey:
    from pydicom import dcmread
    from pydicom.filereader import read_dataset

    from segcft.data import dicom

    path = Path(NAME)  # for messages
    try:
        stream = io.BytesIO(data)
        stream.seek(132)
        meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group > 2)
        if meta.get("TransferSyntaxUID") == _DEFLATED:
            raise Rejected(f"{NAME}: a DICOM file with a compressed header is not read")
        dataset = dcmread(io.BytesIO(data))
        _check_pixels(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0))
    except Rejected:
        raise
    except Exception as error:  # pydicom's readers raise almost anything over a broken file
        raise dicom.broken(path, error) from None
    grey = np.repeat(dicom.shown(path, dataset, *_scale(study))[None].astype(np.float64), study.image.channels, axis=0)
    said = {name: value for name, value in dicom.person(dataset).items() if value is not None}
    return _Grey(grey, dicom.aspect(dataset), said)


def _read_nifti(study: Study, data: bytes) -> _Grey:
    from segcft.coronary.extra import extra

    nibabel = extra("nibabel", NAME)
    try:
        if data[:2] == _GZIP:
            most = MOST_PIXELS * 8
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(most + 1)
            if len(data) > most:
                raise Rejected(f"{NAME}: unpacked it is larger than {most // 10**6} MB")
        kind = nibabel.Nifti2Image if data[4:7] == b"n+2" else nibabel.Nifti1Image
        volume = nibabel.as_closest_canonical(kind.from_bytes(data))
        _check_pixels(*volume.shape)
        plane = [axis for axis, length in enumerate(volume.shape) if length > 1]
        if len(plane) != 2 or max(plane) > 2:
            shape = " x ".join(map(str, volume.shape))
            raise Rejected(f"{NAME}: one single slice is expected, this is a volume of {shape}")
        values = np.squeeze(np.asarray(volume.dataobj, dtype=np.float64))
        zooms = volume.header.get_zooms()
    except Rejected:
        raise
    except (Exception, zlib.error) as error:  # nibabel's readers raise almost anything over a broken file
        raise Rejected(f"{NAME}: not a NIfTI file that can be read ({type(error).__name__})") from None
    # Canonical axes grow to the patient's right, front and top. A reader wants the first two to grow to the picture's
    # left, the last upwards.
    pixels = values[::-1, ::-1].T
    grey_range, window = _scale(study)
    if grey_range is None and window is None:
        window = PERCENTILES  # as of a DICOM file that says no window
    across, down = (float(zooms[axis]) for axis in plane)
    aspect = down / across if across > 0 and down > 0 else 1.0
    return _Grey(grey_values(pixels, NAME, study.image.channels, grey_range, window), aspect, {})


def _scale(study: Study) -> tuple[Any, Any]:
    """``grey_range`` and ``window`` of the study's own files."""
    return (study.data.grey_range, study.data.window) if isinstance(study.data, FolderData) else (None, None)


def _check_pixels(*shape: int) -> None:
    pixels = int(np.prod([max(int(length), 1) for length in shape], dtype=object))
    if pixels > MOST_PIXELS:
        raise Rejected(
            f"{NAME}: {' x '.join(map(str, shape))} pixels are more than the {MOST_PIXELS // 10**6} million that are read"
        )
