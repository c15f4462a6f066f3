"""An uploaded file, read in memory alone: nothing of it is written or kept, its name is never asked for.

The bytes are a stranger's: a small file can unpack to a huge image. Readers bound what they unpack, see
:mod:`segcft.io.source`.
"""

from __future__ import annotations

from segcft.errors import Code, DataError
from segcft.io.dicomhead import HEAD, begins_as_dicom
from segcft.io.source import MemoryFile
from segcft.io.volumefile import GZIP

TITLE = "the uploaded file"
"""What errors call it."""

_NIFTI, _NIFTI_2 = slice(344, 348), slice(4, 8)


def received(data: bytes) -> MemoryFile:
    """The bytes of an image file, under a name that says of which kind they are.

    Raises:
        DataError: there are none.
    """
    if not data:
        raise DataError(Code.EMPTY, TITLE, "it has no bytes")
    if begins_as_dicom(data[:HEAD], len(data)):
        return MemoryFile("upload.dcm", data, TITLE)
    if data[_NIFTI] == b"n+1\0" or data[_NIFTI_2] == b"n+2\0" or data.startswith(GZIP):
        return MemoryFile("upload.nii", data, TITLE)
    return MemoryFile("upload", data, TITLE)
