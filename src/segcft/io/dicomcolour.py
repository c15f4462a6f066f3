"""The colours of a DICOM image: red, green and blue, luminance and chrominance (YBR), or a palette.

What a file says of black and white (windows, tables of the modality) is of grey images and is not looked at; nor is a
colour profile (ICC). Elements that contradict each other are refused: pydicom would take the one or the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from segcft.io.dicomfile import text_of, transfer_syntax
from segcft.io.dicompixels import GREY, check_decoder, check_frame, check_image, first_bytes, whole
from segcft.io.picture import Pixels
from segcft.io.reject import Excluded, Remark, Unreadable

PALETTE, HALVED = "PALETTE COLOR", "YBR_FULL_422"
"""Indices of a table of colours; and a chrominance that is that of two pixels beside each other."""
OF_JPEG_2000 = ("YBR_ICT", "YBR_RCT")
"""What JPEG 2000 itself makes of red, green and blue, and undoes."""
COLOURS = ("RGB", "YBR_FULL", HALVED, *OF_JPEG_2000, PALETTE)
"""Photometric interpretations that are read (PS3.3, section C.7.6.3.1.2)."""


def is_coloured(dataset: Dataset) -> bool:
    """Whether a header says that the image is in colour."""
    return text_of(dataset, "PhotometricInterpretation") not in (None, "", *GREY)


def decode_colours(dataset: FileDataset, remarks: list[Remark]) -> Pixels:
    """The pixels of a file that holds one image in colour, (H, W, 3), as they are stored.

    Args:
        dataset: from :func:`segcft.io.dicomfile.open_dicom`; of which :func:`is_coloured`.
        remarks: gets remarks on the pixels.

    Raises:
        Excluded: it holds something else, is compressed and there is no decoder, is damaged or contradicts itself.
    """
    check_image(dataset)
    photometric = str(text_of(dataset, "PhotometricInterpretation"))
    _check_samples(dataset, photometric)
    syntax = transfer_syntax(dataset, remarks)
    _check_layout(dataset, photometric, syntax, remarks)
    try:
        stored = np.asarray(dataset.pixel_array)  # of YBR it makes red, green and blue
    except Exception:  # decoders raise almost anything
        why = "damaged, cut off, or of another kind than its header says"
        raise Unreadable("damaged file", f"its image ({photometric}, {syntax.name}) is {why}") from None
    expected = (dataset.Rows, dataset.Columns, *(() if photometric == PALETTE else (3,)))
    if stored.shape != expected:
        raise Excluded("no image", f"pixels of shape {stored.shape}, expected one image in colour, {expected}")
    if photometric == PALETTE:
        return _through_palette(stored, dataset, syntax, remarks)
    return Pixels(stored, float(np.iinfo(stored.dtype).max))


def _check_samples(dataset: Dataset, photometric: str) -> None:
    """See that a header says of what bits colours are."""
    if photometric not in COLOURS:
        known = ", ".join((*GREY, *COLOURS))
        raise Excluded("no such colours", f"PhotometricInterpretation is {photometric}, expected one of {known}")
    samples, expected = whole(dataset, "SamplesPerPixel"), 1 if photometric == PALETTE else 3
    if samples != expected:
        why = f"{photometric} has {expected} samples a pixel, and SamplesPerPixel is {samples}"
        raise Unreadable("damaged file", why)
    allocated, bits = whole(dataset, "BitsAllocated"), whole(dataset, "BitsStored")
    most = (8, 16) if photometric in ("RGB", PALETTE) else (8,)
    if bits != allocated or bits not in most:
        wanted = " or ".join(f"{one} in {one}" for one in most)
        raise Excluded("not 8 or 16 bits", f"{photometric} of {bits} bits in {allocated}, expected {wanted}")
    if (signed := whole(dataset, "PixelRepresentation", positive=False)) != 0:
        raise Unreadable("damaged file", f"PixelRepresentation of colours is {signed}, expected 0")


def _check_layout(dataset: FileDataset, photometric: str, syntax: UID, remarks: list[Remark]) -> None:
    """See that pixels are laid out as the header says; what it need not say is set as pydicom wants it."""
    if syntax.is_encapsulated:
        transformed = photometric not in ("RGB", PALETTE)
        if transformed and (syntax in JPEG2000TransferSyntaxes) != (photometric in OF_JPEG_2000):
            raise Unreadable("damaged file", f"{syntax.name} does not hold {photometric}")
        check_decoder(syntax)
        check_frame(dataset)
        if syntax != RLELossless:
            dataset.PlanarConfiguration = 0  # of JPEG it means nothing, and pydicom would obey it
        return
    if photometric in OF_JPEG_2000:
        raise Unreadable("damaged file", f"{photometric} is of JPEG 2000, and its pixels are not compressed")
    full = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
    if photometric == HALVED and len(dataset.PixelData) >= full:
        raise Unreadable("damaged file", f"{photometric} with three samples of every pixel, expected two of three")
    if photometric not in (PALETTE, HALVED) and whole(dataset, "PlanarConfiguration", positive=False) not in (0, 1):
        raise Unreadable("damaged file", f"PlanarConfiguration is {dataset.PlanarConfiguration}, expected 0 or 1")
    dataset.PixelData = first_bytes(dataset, 2 * full // 3 if photometric == HALVED else full, remarks)


def _through_palette(indices: NDArray[Any], dataset: FileDataset, syntax: UID, remarks: list[Remark]) -> Pixels:
    """The colours of indices; those before the first entry of a table and behind its last one become these."""
    columns, bits = [], 0
    for colour in ("Red", "Green", "Blue"):
        entries, first, width = _table(dataset, colour, syntax)
        bits = max(bits, width)
        columns.append(entries[np.clip(indices.astype(np.int64) - first, 0, len(entries) - 1)])
    values = np.stack(columns, axis=-1)
    if bits == 16 and values.max() < 256:
        text = "its palette is of 16 bits, and no entry is above 255: taken for one of 8 bits"
        remarks.append(Remark("palette of fewer bits", text))
        bits = 8
    return Pixels(values, float(2**bits - 1))


def _table(dataset: FileDataset, colour: str, syntax: UID) -> tuple[NDArray[np.uint16], int, int]:
    """The entries of one colour's table, the index of the first one, and the bits that they have.

    Raises:
        Unreadable: it is missing, damaged or segmented.
    """
    name = f"{colour}PaletteColorLookupTable"
    try:
        count, first, bits = (int(part) for part in dataset[f"{name}Descriptor"].value)
        data = bytes(dataset[f"{name}Data"].value)
    except (KeyError, TypeError, ValueError):
        why = f"has no {name}Descriptor of three numbers with {name}Data (segmented palettes are not read)"
        raise Unreadable("damaged file", why) from None
    count = count % 2**16 or 2**16  # 2^16 is written as 0
    packed = len(data) < 2 * count  # of 8 bits, two in a word
    words = "<u2" if syntax.is_little_endian else ">u2"
    entries = np.frombuffer(data if packed else data[: 2 * count], "u1" if packed else words)
    width = min(bits, 8) if packed else bits
    if len(entries) < count or width not in (8, 16) or entries[:count].max() >= 2**width:
        why = f"{name}Data has {len(entries)} entries up to {entries.max(initial=0)}, expected {count} of {bits} bits"
        raise Unreadable("damaged file", why)
    return entries[:count].astype(np.uint16), first, width
