"""From the stored values of a DICOM image to grey: the modality's values, what of them is shown, and which way round.

The order is that of the standard (PS3.4, section N.2): modality (PS3.3, C.11.1), values of interest (C.11.2), and the
presentation, of which an image says whether it is inverted (C.7.6.3.1.2, C.8.11.3.1.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset

from segcft.io.dicomfile import term_of, text_of
from segcft.io.reject import Excluded, Remark, Unreadable

NARROW = 16.0
"""A window of fewer units than this, over values that are no whole ones, is no window of whole numbers."""

Table = tuple[NDArray[np.float32], int]
"""Entries, and the value that the first of them is for."""


def modality_values(dataset: FileDataset, stored: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """The modality's values (H, W), through its table, or by slope and intercept, of which each may be absent.

    Raises:
        Excluded: the values are not finite, or the table is damaged.
    """
    if dataset.get("ModalityLUTSequence"):
        return _through(_table(dataset, "ModalityLUTSequence", stored), stored)
    slope, intercept = (_finite(dataset, name) for name in ("RescaleSlope", "RescaleIntercept"))
    values = (stored * (1.0 if slope is None else slope) + (intercept or 0.0)).astype(np.float32)
    if not np.isfinite(values).all():
        raise Excluded("values not finite", "holds values that are not finite numbers (RescaleSlope?)")
    return values


def as_file_says(
    dataset: FileDataset, values: NDArray[np.float32], remarks: list[Remark]
) -> NDArray[np.floating[Any]] | None:
    """Modality's values through the file's first VOI table or window, or None where it has none.

    Args:
        dataset: its elements.
        values: (H, W), see :func:`modality_values`.
        remarks: gets what is odd about the window.

    Returns:
        0 is black and 1 white; values beyond are to be clipped.

    Raises:
        Excluded: the table is damaged.
    """
    if dataset.get("VOILUTSequence"):
        table, first = _table(dataset, "VOILUTSequence", values)
        full = 2 ** int(table.max()).bit_length() - 1  # many descriptors say 16 bits of a table of 12
        return _through((table / np.float32(max(full, 1)), first), values)
    centre, width = number(dataset.get("WindowCenter")), number(dataset.get("WindowWidth"))
    if centre is None or width is None:
        return None
    if width <= 0:
        text = f"WindowWidth is {width:g}, expected more than 0: the file's window is not used"
        remarks.append(Remark("window that cannot be", text))
        return None
    function = term_of(dataset, "VOILUTFunction")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    whole = np.array_equal(values, np.rint(values))
    if width < 1 or (not whole and (width == 1 or (not function and width < NARROW))):
        text = (
            f"its window is {width:g} wide, and linear windows are of whole numbers: taken as if "
            "VOILUTFunction said LINEAR_EXACT"
        )
        remarks.append(Remark("window taken as exact", text))
        return (values - centre) / width + 0.5
    if width == 1:
        return (values > centre - 0.5).astype(np.float32)
    # The standard's formula: the first and the last of `width` whole numbers are black and white.
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def is_inverted(dataset: Dataset, remarks: list[Remark]) -> bool:
    """Whether black and white are exchanged after the values of interest.

    They are where the Photometric Interpretation is MONOCHROME1 or the Presentation LUT Shape is INVERSE. One goes with
    the other: the standard wants INVERSE of an image of MONOCHROME1, and IDENTITY of one of MONOCHROME2 (PS3.3,
    C.8.11.3), so that both together invert once. Either alone is told.
    """
    photometric = text_of(dataset, "PhotometricInterpretation")
    shape = term_of(dataset, "PresentationLUTShape")
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        reason = f"PhotometricInterpretation is {photometric} and PresentationLUTShape {shape}"
        text = f"{reason}, which do not go together: grey values are turned round; look whether air is dark"
        remarks.append(Remark("polarity is doubtful", text))
    return photometric == "MONOCHROME1" or shape == "INVERSE"


def remark_on_polarity(
    dataset: Dataset, stored: NDArray[Any], grey: NDArray[np.floating[Any]], remarks: list[Remark]
) -> None:
    """Tell where a header says of X-rays that the image shows much radiation, hence air, as bright.

    Args:
        dataset: its elements; Pixel Intensity Relationship Sign is 1 where larger values are of more radiation.
        stored: values of pixels.
        grey: of the same pixels, as they are shown.
        remarks: gets it.
    """
    sign = number(dataset.get("PixelIntensityRelationshipSign"))
    brighter = float(grey.flat[stored.argmax()]) - float(grey.flat[stored.argmin()])
    if sign is not None and sign * brighter > 0:
        reason = f"PixelIntensityRelationshipSign is {sign:g}, by which bright pixels saw more X-rays"
        text = f"{reason}: it is shown as it says to be, with air bright; leave out what is a negative"
        remarks.append(Remark("air may be bright", text))


def number(value: Any) -> float | None:
    """The first of a header's numbers, or None."""
    if isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, str)):
        value = next(iter(value), None)
    try:
        return None if value is None or not np.isfinite(float(value)) else float(value)
    except (TypeError, ValueError):
        return None


def _finite(dataset: FileDataset, name: str) -> float | None:
    """A number of the header, or None where there is none.

    Raises:
        Excluded: it is not finite, or is none.
    """
    said = dataset.get(name)
    found = number(said)
    if found is None and said not in (None, ""):
        raise Excluded("values not finite", f"holds values that are not finite numbers: {name} is {said}")
    return found


def _through(table: Table, values: NDArray[Any]) -> NDArray[np.float32]:
    """Values through a table; those before its first and after its last entry become these."""
    entries, first = table
    places = np.rint(values).astype(np.int64) - first
    return entries[np.clip(places, 0, len(entries) - 1)]


def _table(dataset: FileDataset, name: str, values: NDArray[Any]) -> Table:
    """The first table of the sequence ``name``, which ``values`` will go through.

    Raises:
        Unreadable: it is damaged.
    """
    item = dataset[name].value[0]
    try:
        entries, first, bits = (int(part) for part in item.LUTDescriptor)
    except (AttributeError, TypeError, ValueError):
        raise Unreadable("damaged file", f"{name} has no LUTDescriptor of three numbers") from None
    entries = entries % 2**16 or 2**16  # 2^16 is written as 0, and others above 2^15 as negative ones where signed
    data = item.get("LUTData")
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    if isinstance(data, bytes):
        packed = len(data) < 2 * entries  # of 8 bits, two in a word
        numbers = np.frombuffer(data[: len(data) // 2 * 2], "u1" if packed else f"{order}u2")
    else:
        numbers = np.atleast_1d(np.asarray(() if data is None else data, dtype=np.int64)) % 2**16
        if len(numbers) < entries <= 2 * len(numbers) and bits == 8:
            numbers = numbers.astype(f"{order}u2").view("u1")
    if len(numbers) < entries:
        found = f"has {len(numbers)} entries, expected the {entries} of its LUTDescriptor"
        raise Unreadable("damaged file", f"{name} {found}")
    span = float(values.min()), float(values.max())
    return numbers[:entries].astype(np.float32), _nearest(first, entries, span)


def _nearest(first: int, entries: int, span: tuple[float, float]) -> int:
    """The value that a table of ``entries`` begins with: written with a sign or without, and near what it is for.

    Which it is ought to follow from the sign of the pixels, but that of the modality's values may be another.

    Args:
        first: as the file has it, of 16 bits.
        entries: of the table.
        span: least and largest of the values that go through the table.
    """

    def shared(start: int) -> float:
        return min(span[1], start + entries - 1) - max(span[0], start)

    return max((first, first - 2**16 if first >= 2**15 else first + 2**16 if first < 0 else first), key=shared)
