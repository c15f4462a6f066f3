"""An uploaded file, read in memory alone: nothing of it is written or kept, its name is never asked for.

The bytes are a stranger's: a small file can unpack to a huge image. So how large it will be is looked up before
anything is unpacked.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from segcft.data.reject import Rejected
from segcft.data.source import MemoryFile, check_size
from segcft.errors import DataError

_GZIP = b"\x1f\x8b"
_NIFTI_HEADER = 352  # bytes
_NIFTI_MAGIC = slice(344, 348)
_FARTHEST = 1_000_000  # bytes from the header to the pixels that are believed
_DEFLATED = "1.2.840.10008.1.2.1.99"  # DICOM that is compressed as a whole, so that nothing can be looked up before


def received(data: bytes) -> MemoryFile:
    """The bytes of an image file, called ``upload``.

    Raises:
        DataError: it is none of the kinds that are read, damaged, or has too many pixels.
    """
    if not data:
        raise DataError("upload: the file is empty")
    if data[128:132] == b"DICM":
        return _small(MemoryFile("upload.dcm", data), _dicom_shape)
    if data[:2] == _GZIP or data[_NIFTI_MAGIC] == b"n+1\0":
        return _unpacked(_small(MemoryFile("upload.nii", data), lambda file: _nifti_header(file).get_data_shape()))
    return _small(MemoryFile("upload", data), _picture_shape)


def _small(file: MemoryFile, shape_of: Callable[[MemoryFile], Iterable[int]]) -> MemoryFile:
    try:
        check_size(file, shape_of(file))
    except Rejected as error:
        raise DataError(str(error)) from None
    return file


def _picture_shape(file: MemoryFile) -> Iterable[int]:
    from segcft.data.imagefile import open_picture

    try:
        with file.open() as opened, open_picture(file, opened) as picture:
            return picture.size
    except Rejected:
        raise
    except Exception:  # Pillow's readers raise almost anything over a broken file
        raise DataError(f"{file}: no image that can be read; expected PNG, JPEG, TIFF, BMP, DICOM or NIfTI") from None


def _dicom_shape(file: MemoryFile) -> Iterable[int]:
    from pydicom import dcmread
    from pydicom.filereader import read_dataset

    try:
        with io.BytesIO(file.content) as opened:
            opened.seek(132)
            meta = read_dataset(opened, False, True, stop_when=lambda tag, vr, length: tag.group > 2)
            if str(meta.get("TransferSyntaxUID")) == _DEFLATED:
                raise DataError(f"{file}: DICOM that is compressed as a whole ('deflated') is not read")
            opened.seek(0)
            header = dcmread(opened, specific_tags=["Rows", "Columns", "NumberOfFrames"], stop_before_pixels=True)
            return [int(header.get(name) or 1) for name in ("Columns", "Rows", "NumberOfFrames")]
    except DataError:
        raise
    except Exception as error:  # pydicom's readers raise almost anything over a broken file
        raise DataError(f"{file}: cannot read this DICOM file ({type(error).__name__})") from None


def _nifti_header(file: MemoryFile) -> Any:
    try:
        from nibabel import Nifti1Header
    except ImportError as error:
        raise DataError(f"{file}: this needs nibabel ({error}): pip install 'segcft[nifti]'") from None
    try:
        with _opened(file) as opened:
            return Nifti1Header.from_fileobj(io.BytesIO(opened.read(_NIFTI_HEADER)))
    except Exception as error:  # a damaged header may raise anything
        raise DataError(f"{file}: cannot read this NIfTI file ({type(error).__name__})") from None


def _unpacked(file: MemoryFile) -> MemoryFile:
    """A NIfTI file without compression, and without what follows the pixels."""
    header = _nifti_header(file)
    offset = max(_NIFTI_HEADER, min(int(header.get_data_offset()), _FARTHEST))
    length = offset + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    try:
        with _opened(file) as opened:
            return MemoryFile(file.name, opened.read(length))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot unpack this file ({error})") from None


def _opened(file: MemoryFile) -> Any:
    return gzip.GzipFile(fileobj=file.open()) if file.content[:2] == _GZIP else file.open()
