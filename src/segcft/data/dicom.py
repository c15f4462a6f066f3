"""Reading one DICOM file: its grey values as they are meant to be seen, and what the header says of the person.

Of DICOM's objects those are read that are a single grey image, like a radiograph (CR, DX) or a slice. Whatever is
wrong with a file is an :class:`~segcft.data.convert.Excluded`, which names its kind.
"""

from __future__ import annotations

import io
import re
import zlib
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_modality_lut, apply_voi, get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian

from segcft.data.attributes import OLDEST
from segcft.data.convert import PERCENTILES, Excluded, Unreadable
from segcft.data.reject import Rejected
from segcft.data.source import Source, check_size

NO_BIRTH = ("19000101", "18991230", "18991231")
"""Dates of birth that stand for none: where the calendars of spreadsheets and databases begin."""

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_VIEWS = {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP", "LATERAL": "LATERAL", "LEFTLATERAL": "LL"}
_VIEWS |= {"RIGHTLATERAL": "RL"}

HEADER = (
    *(
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesDescription",
        "PatientID",
        "PatientSex",
        "PatientAge",
        "PatientBirthDate",
        "StudyDate",
    ),
    *("SeriesDate", "AcquisitionDate", "Modality", "BodyPartExamined", "ViewPosition", "PixelSpacing"),
    *("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "Rows", "Columns"),
)
"""The elements that are read beside those of the pixels."""

MOST_BYTES = 1 << 28
"""Of a file that is compressed as a whole ('deflated'), when unpacked."""

MOST_ASPECT = 10.0
"""Pixels of a radiograph are about square; of a shape beyond this the header is wrong."""


def read_dicom(
    path: Source, grey_range: tuple[float, float] | None = None, window: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Grey values of a DICOM file, (H, W) in [0, 1]: :func:`shown` of :func:`open_dicom`.

    Raises:
        Excluded: see there.
    """
    return shown(path, open_dicom(path), grey_range, window)


def open_dicom(path: Source, pixels: bool = True) -> FileDataset:
    """A DICOM file.

    Args:
        path: the file.
        pixels: read them too, not the header alone.

    Raises:
        Excluded: it is no DICOM file or is damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                raise Unreadable("not a DICOM file", f"{path}: not a DICOM file: no 'DICM' at byte 128")
            _check_deflated(path, file)
            file.seek(0)
            dataset = dcmread(file, stop_before_pixels=not pixels)
        for name in HEADER:  # pydicom decodes an element when it is asked for first, which may fail
            dataset.get(name)
        for code in dataset.get("ViewCodeSequence") or ():
            code.get("CodeMeaning")
        return dataset
    except Excluded:
        raise
    except Exception as error:  # pydicom's readers raise almost anything over a broken file
        raise broken(path, error) from None


def _check_deflated(path: Source, file: Any) -> None:
    """Check what a file that is compressed as a whole unpacks to, which pydicom does before it looks at anything."""
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group > 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MOST_BYTES + 1)
        if len(unpacked) > MOST_BYTES:
            raise Unreadable("damaged file", f"{path}: unpacks to more than the {MOST_BYTES >> 20} MiB that are read")


def shown(
    path: Source,
    dataset: Dataset,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """The image of ``dataset`` as it is meant to be seen, with air dark: (H, W) in [0, 1].

    Stored values become the modality's (slope and intercept, or a table). Of these the first VOI table or window of
    the file says what is black and white, else :data:`PERCENTILES`. MONOCHROME1 is turned round. Padding is black
    and counts in no percentile. Pixels keep their shape: see :func:`aspect`.

    Args:
        path: of the file, for messages.
        dataset: from :func:`open_dicom`.
        grey_range: values of the modality that become black and white, instead of the file's own window.
        window: percentiles of the image that do.

    Raises:
        Excluded: it is not one grey image of 8 to 16 bits, cannot be decoded, is cut off, or shows one single value.
    """
    try:
        inverted = check_object(path, dataset)
        stored = decode(path, dataset)
        padding = _padding(dataset, stored)
        values = apply_modality_lut(stored, dataset).astype(np.float32)
        inside = values if padding is None else values[~padding]
        if not np.isfinite(values).all():
            raise Excluded("values not finite", f"{path}: holds values that are not finite numbers (RescaleSlope?)")
        if inside.size == 0 or inside.min() == inside.max():
            raise Excluded("constant image", f"{path}: constant image")
        own = _as_file_says(dataset, values) if grey_range is None and window is None else None
        if own is not None:
            grey = own
        else:
            grey = _linear(values, *(grey_range or np.percentile(inside, window or PERCENTILES)))
    except Rejected:
        raise
    except Exception as error:
        raise broken(path, error) from None
    grey = np.clip(1 - grey if inverted else grey, 0, 1).astype(np.float32)
    if padding is not None:
        grey[padding] = 0
        inside = grey[~padding]
    else:
        inside = grey
    if inside.min() == inside.max():
        raise Excluded("constant image", f"{path}: constant image between the grey values that are shown")
    return grey


def aspect(dataset: Dataset) -> float:
    """Height of a pixel divided by its width; 1 where the header does not say.

    Raises:
        Excluded: it is more than :data:`MOST_ASPECT`, or less than 1 of that: such an image would be a line.
    """
    spacing = _spacing(dataset) or dataset.get("PixelAspectRatio")
    try:
        height, width = (float(number) for number in spacing or ())
    except (TypeError, ValueError):
        return 1.0
    if not height > 0 or not width > 0:
        return 1.0
    if not 1 / MOST_ASPECT <= height / width <= MOST_ASPECT:
        name = getattr(dataset, "filename", None) or "the image"
        raise Excluded(
            "implausible pixel shape", f"{name}: pixels of {height:g} x {width:g} (height x width) cannot be"
        )
    return height / width


def field_of_view(dataset: Dataset) -> tuple[float, float] | None:
    """Height and width of the image in mm, in the detector's plane where nothing better is known."""
    spacing = _spacing(dataset)
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if spacing is None or not isinstance(rows, int) or not isinstance(columns, int):
        return None
    return rows * spacing[0], columns * spacing[1]


def person(dataset: Dataset) -> dict[str, float | str | None]:
    """Age in years and sex, F or M, where the header says them.

    The age is the Patient's Age, else the one between birth and study. An age of 0, as ``000Y``, is what many files say
    where nobody knows it, so it is believed of whom the dates say that they were less than a year old.
    """
    sex = str(dataset.get("PatientSex") or "").strip().upper()
    dates = (str(dataset.get(name) or "") for name in ("StudyDate", "SeriesDate", "AcquisitionDate"))
    day = next((text for text in dates if text), "")
    born = str(dataset.get("PatientBirthDate") or "")
    age = parse_age(str(dataset.get("PatientAge") or "")) or age_between(born, day)
    return {"age": age, "sex": sex if sex in ("F", "M") else None}


def view(dataset: Dataset) -> str | None:
    """Projection, e.g. ``PA`` or ``AP``, in capitals; spelt-out ones become their abbreviation."""
    codes = dataset.get("ViewCodeSequence") or [Dataset()]
    names = (view_name(str(text or "")) for text in (dataset.get("ViewPosition"), codes[0].get("CodeMeaning")))
    return next((name for name in names if name), None)


def view_name(text: str) -> str:
    """A projection as :func:`view` gives it, e.g. ``PA`` for ``Postero-anterior``; "" for nothing."""
    name = re.sub(r"[^A-Z0-9]", "", text.upper())
    return _VIEWS.get(name, name)


def text_of(dataset: Dataset, name: str) -> str | None:
    """An element of a header as text; several values are parted by a backslash, as in the file."""
    value = dataset.get(name)
    if value is None or isinstance(value, str):
        return value
    return "\\".join(map(str, value)) if hasattr(value, "__iter__") else str(value)


def parse_age(text: str) -> float | None:
    """Years that an Age String gives: ``063Y``, ``018M``, ``006W``, ``010D``; a bare number is years.

    None where it is something else or more than :data:`~segcft.data.attributes.OLDEST`.
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY]?)\s*", text.upper(), re.ASCII)
    if match is None:
        return None
    age = int(match[1]) * _YEARS[match[2] or "Y"]
    return age if age <= OLDEST else None


def age_between(birth: str, day: str) -> float | None:
    """Completed years between two dates, ``19500321``; None where one is no date, the first stands for none
    (:data:`NO_BIRTH`), they are not in order, or are further apart than :data:`~segcft.data.attributes.OLDEST`."""
    if birth.strip() in NO_BIRTH:
        return None
    try:
        born, seen = (date.fromisoformat(f"{t[:4]}-{t[4:6]}-{t[6:]}") for t in (birth.strip(), day.strip()))
    except ValueError:
        return None
    age = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return float(age) if 0 <= age <= OLDEST else None


def check_object(path: Source, dataset: Dataset) -> bool:
    """Whether black and white are exchanged.

    Raises:
        Excluded: it is not one grey image.
    """
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        modality = dataset.get("Modality") or "unknown"
        raise Excluded("no image", f"{path}: holds no image that can be read (modality {modality})")
    check_size(path, (dataset.Columns, dataset.Rows))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise Excluded("several frames", f"{path}: holds {frames} frames, not one")
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if dataset.get("SamplesPerPixel", 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Excluded("not grey", f"{path}: {photometric or 'unknown colours'}, expected MONOCHROME1 or MONOCHROME2")
    bits, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored")
    if bits not in (8, 16) or not 8 <= (stored or bits) <= bits:
        raise Excluded("not 8 to 16 bits", f"{path}: {stored} bits in {bits}, expected 8 to 16 in 8 or 16")
    return photometric == "MONOCHROME1"


def decode(path: Source, dataset: Dataset) -> NDArray[np.integer[Any]]:
    """Stored values (H, W).

    Raises:
        Excluded: they are compressed and there is no decoder, or the file is damaged.
    """
    try:
        syntax = dataset.file_meta.TransferSyntaxUID
        encapsulated = syntax.is_encapsulated
    except (AttributeError, ValueError) as error:  # there is none, or it is none
        raise broken(path, error) from None
    needs = ""
    if encapsulated:
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            raise Unreadable("no decoder", f"{path}: {syntax.name} cannot be decoded") from None
        # Not its GDCM: the package of that name on PyPI is another one.
        other = [text.partition(" - requires ")[2] for text in decoder.missing_dependencies if "gdcm" not in text]
        needs = f": to decode it, pip install 'segcft[dicom]' (or {'; or '.join(other)})" if other else ""
        if not decoder.is_available:
            raise Unreadable("no decoder", f"{path}: {syntax.name}{needs}")
    if encapsulated:
        _check_frame(path, dataset)
    try:
        pixels = dataset.pixel_array
    except Exception as error:
        kind = "no decoder" if needs else "damaged file"
        raise Unreadable(kind, f"{path}: cannot decode {syntax.name} ({_line(error)}){needs}") from None
    if pixels.ndim != 2:
        raise Excluded("no image", f"{path}: pixels of shape {pixels.shape}, expected one grey image")
    return pixels


def _check_frame(path: Source, dataset: Dataset) -> None:
    """Check what a compressed image says of itself, which need not be what the header of the file says."""
    try:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    except Exception as error:
        raise broken(path, error) from None
    # pydicom walks through the boxes of JPEG 2000 forever where one has no length.
    at = 12  # the first box
    while frame.startswith(b"\0\0\0\x0cjP  ") and at < len(frame) and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4], "big")
        if length < 8:
            raise Unreadable("damaged file", f"{path}: a box of its JPEG 2000 image has {length} bytes")
        at += length
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            size = picture.size
    except Exception:  # of another kind, or damaged, which the decoder will say
        return
    if size != (dataset.Columns, dataset.Rows):
        found = f"{size[0]} x {size[1]}, not {dataset.Columns} x {dataset.Rows}"
        raise Unreadable("damaged file", f"{path}: its compressed image has {found} pixels")


def _padding(dataset: Dataset, stored: NDArray[np.integer[Any]]) -> NDArray[np.bool_] | None:
    """Where the image is filled up: bool (H, W), or None."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    padding = (stored >= low) & (stored <= high)
    return padding if padding.any() else None


def _as_file_says(dataset: Dataset, values: NDArray[np.float32]) -> NDArray[np.floating[Any]] | None:
    """Modality's values through the file's first VOI table or window, or None where it has none."""
    if dataset.get("VOILUTSequence"):
        entries, first, _ = (int(number) for number in dataset.VOILUTSequence[0].LUTDescriptor)
        entries = entries or 2**16  # as the standard writes it
        if not 0 < entries <= 2**16:
            raise ValueError(f"a VOI table of {entries} entries")
        table = apply_voi(np.arange(first, first + entries), dataset).astype(np.float32)
        full = 2 ** int(table.max()).bit_length() - 1  # many descriptors say 16 bits of a table of 12
        places = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
        return table[places] / np.float32(full)
    centre, width = _number(dataset.get("WindowCenter")), _number(dataset.get("WindowWidth"))
    if centre is None or width is None or width <= 0:
        return None
    match str(dataset.get("VOILUTFunction") or "LINEAR").upper():
        case "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
        case "LINEAR_EXACT":
            return (values - centre) / width + 0.5
        case _ if width > 1:  # the standard's formula: the first and last of `width` whole numbers are black and white
            return (values - (centre - 0.5)) / (width - 1) + 0.5
        case _:
            return (values > centre - 0.5).astype(np.float32)


def _linear(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.floating[Any]]:
    return (values - low) / (high - low) if low < high else np.zeros_like(values)


def _number(value: Any) -> float | None:
    """The first of a header's numbers, or None."""
    if isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, str)):
        value = next(iter(value), None)
    try:
        return None if value is None or not np.isfinite(float(value)) else float(value)
    except (TypeError, ValueError):
        return None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Distance in mm between rows and between columns."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            rows, columns = (float(number) for number in dataset.get(name) or ())
        except (TypeError, ValueError):
            continue
        if rows > 0 and columns > 0:
            return rows, columns
    return None


def broken(path: Source, error: Exception) -> Unreadable:
    return Unreadable("damaged file", f"{path}: cannot read this DICOM file ({_line(error)})")


def _line(error: Exception) -> str:
    """An error's message in one line, or its type."""
    return " ".join(str(error).split()) or type(error).__name__
