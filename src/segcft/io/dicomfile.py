"""Opening a DICOM file: its elements, whatever it is called, with or without preamble and transfer syntax."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset, FileDataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from segcft.io.dicomhead import HEAD, PREAMBLE, PREFIX, begins_as_dicom
from segcft.io.reject import Rejected, Remark, Unreadable, about
from segcft.io.source import Source

HEADER = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription", "PatientID", "PatientSex"),
    *("PatientAge", "PatientBirthDate", "StudyDate"),
    *("SeriesDate", "AcquisitionDate", "Modality", "BodyPartExamined", "ViewPosition", "PixelSpacing"),
    *("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "Rows", "Columns"),
    *("PatientOrientation", "ImageOrientationPatient", "PresentationIntentType", "PresentationLUTShape"),
)
"""The elements that are read beside those of the pixels."""

FRAME_MACROS = (
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)
"""Where enhanced objects keep, frame by frame, what others have in the header itself."""

MOST_BYTES = 1 << 28
"""Of a file that is compressed as a whole ('deflated'), when unpacked."""

NEWER = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
"""Transfer syntaxes that came into the standard (PS3.6, table A-1) after pydicom's list of them."""


def open_dicom(path: Source, pixels: bool = True) -> FileDataset:
    """A DICOM file.

    Args:
        path: the file.
        pixels: read them too, not the header alone.

    Raises:
        Excluded: it is no DICOM file or is damaged.
    """
    with reading_dicom(path):
        with path.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(0)
            if not begins_as_dicom(file.read(HEAD), length):
                why = "not a DICOM file: no 'DICM' at byte 128, and no elements of a header at its beginning"
                raise Unreadable("not a DICOM file", why)
            _check_deflated(file)
            file.seek(0)
            dataset = dcmread(file, stop_before_pixels=not pixels, force=True)
        for name in HEADER:  # pydicom decodes an element when it is asked for first, which may fail
            dataset.get(name)
        for code in dataset.get("ViewCodeSequence") or ():
            code.get("CodeMeaning")
        _lift_frame(dataset)
        return dataset


@contextmanager
def reading_dicom(path: Source) -> Iterator[None]:
    """Name a file in what is refused. Whatever else is raised, which over a broken file is almost anything, is
    :class:`Unreadable`."""
    with about(path):
        try:
            yield
        except Rejected:
            raise
        except Exception as error:  # pydicom decodes an element when it is asked for, which may fail in any way
            raise _broken(error) from None


def transfer_syntax(dataset: FileDataset, remarks: list[Remark]) -> UID:
    """How the pixels of ``dataset`` are encoded: as the file says, else as its elements are.

    Args:
        dataset: from :func:`open_dicom`, with pixels; it gets the transfer syntax that it lacks.
        remarks: gets that it is a guess.

    Raises:
        Excluded: the file does not say and its pixels are compressed, or nothing here decodes what it says.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        if dataset["PixelData"].is_undefined_length:
            why = "has no TransferSyntaxUID, and its pixels are compressed in a way that only that tells"
            raise Unreadable("no transfer syntax", why)
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
        dataset.file_meta.TransferSyntaxUID = syntax
        text = f"has no TransferSyntaxUID: read as {syntax.name}, as its elements are"
        remarks.append(Remark("no transfer syntax", text))
    if not (isinstance(syntax, UID) and syntax.is_transfer_syntax):
        name = NEWER.get(str(syntax), "")
        why = (
            f"TransferSyntaxUID is {syntax}{f' ({name})' if name else ''}, which nothing here decodes: convert "
            f"the file to {ExplicitVRLittleEndian.name}"
        )
        raise Unreadable("no decoder", why)
    return syntax


def _lift_frame(dataset: Dataset) -> None:
    """Take over what an enhanced object says of all its frames and of its one frame (PS3.3, section C.7.6.16)."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = list(dataset.get(name) or ())
        if len(groups) != 1:
            continue
        for macro in FRAME_MACROS:
            for item in list(groups[0].get(macro) or ())[:1]:
                for element in item:
                    dataset.setdefault(element.tag, element)


def _check_deflated(file: Any) -> None:
    """Check what a file that is compressed as a whole unpacks to, which pydicom does before it looks at anything."""
    file.seek(PREAMBLE)
    if file.read(len(PREFIX)) != PREFIX:
        file.seek(0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group > 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MOST_BYTES + 1)
        if len(unpacked) > MOST_BYTES:
            raise Unreadable("damaged file", f"unpacks to more than the {MOST_BYTES >> 20} MiB that are read")


def _broken(error: Exception) -> Unreadable:
    """What to raise where pydicom, or what reads its elements, gave up: in words that say what of the file is wrong."""
    if isinstance(error, OSError) and error.strerror:
        return Unreadable("damaged file", f"cannot open this file: {error.strerror}")
    tag = re.search(r"\([0-9A-Fa-f]{4}, ?[0-9A-Fa-f]{4}\)", str(error))  # pydicom says where it was, if it knows
    what = f"its element {tag[0]}" if tag else "one of its elements"
    return Unreadable("damaged file", f"damaged or cut off: cannot read {what}")


def text_of(dataset: Dataset, name: str) -> str | None:
    """An element of a header as text; several values are parted by a backslash, as in the file."""
    value = dataset.get(name)
    if value is None or isinstance(value, str):
        return value
    return "\\".join(map(str, value)) if hasattr(value, "__iter__") else str(value)


def term_of(dataset: Dataset, name: str) -> str:
    """An element that has one of the standard's terms, in capitals; "" where there is none."""
    return (text_of(dataset, name) or "").strip().upper()
