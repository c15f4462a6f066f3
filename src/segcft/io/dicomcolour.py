"""The colours of a DICOM image: red, green and blue, luminance and chrominance (YBR), or a palette.

What a file says of black and white (windows, tables of the modality) is of grey images and is not looked at; nor is a
colour profile (ICC).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.pixels import apply_color_lut

from segcft.io.dicomfile import text_of, transfer_syntax
from segcft.io.dicompixels import check_decoder, check_frame, check_image, first_bytes, whole
from segcft.io.picture import Pixels
from segcft.io.reject import Excluded, Remark, Unreadable

PALETTE = "PALETTE COLOR"
SAMPLES = {"RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3, PALETTE: 1}
"""Photometric interpretation -> samples of a pixel, of what is read (PS3.3, section C.7.6.3.1.2)."""

HALVED = 2 / 3
"""Bytes of YBR_FULL_422 where it is not compressed, a share of those of three samples a pixel: chrominance is that of
every other pixel."""


def is_coloured(dataset: Dataset) -> bool:
    """Whether a header says that the image is in colour."""
    return text_of(dataset, "PhotometricInterpretation") in SAMPLES


def decode_colours(dataset: FileDataset, remarks: list[Remark]) -> Pixels:
    """The pixels of a file that holds one image in colour, (H, W, 3), as they are stored.

    Args:
        dataset: from :func:`segcft.io.dicomfile.open_dicom`; of which :func:`is_coloured`.
        remarks: gets remarks on the pixels.

    Raises:
        Excluded: it holds something else, is compressed and there is no decoder, or is damaged.
    """
    check_image(dataset)
    photometric = str(text_of(dataset, "PhotometricInterpretation"))
    samples, allocated = whole(dataset, "SamplesPerPixel", 1), whole(dataset, "BitsAllocated")
    bits = whole(dataset, "BitsStored", allocated)
    if samples != SAMPLES[photometric]:
        raise Unreadable("damaged file", f"{photometric} with {samples} samples a pixel cannot be")
    if (allocated, bits) not in ((8, 8), (16, 16)):
        raise Excluded("not 8 or 16 bits", f"{photometric} of {bits} bits in {allocated}, expected 8 in 8 or 16 in 16")
    syntax = transfer_syntax(dataset, remarks)
    if syntax.is_encapsulated:
        check_decoder(syntax)
        check_frame(dataset)
    else:
        share = HALVED if photometric == "YBR_FULL_422" else 1
        expected = dataset.Rows * dataset.Columns * samples * allocated // 8
        dataset.PixelData = first_bytes(dataset, round(share * expected), remarks)
    try:
        stored = np.asarray(dataset.pixel_array)  # of YBR it makes red, green and blue
        values = apply_color_lut(stored, dataset) if photometric == PALETTE else stored
    except Exception:  # decoders raise almost anything
        why = "damaged, cut off, or of another kind than its header says"
        raise Unreadable("damaged file", f"its image ({photometric}, {syntax.name}) is {why}") from None
    if values.shape != (dataset.Rows, dataset.Columns, 3) or values.dtype.kind != "u":
        raise Excluded("no image", f"pixels of shape {values.shape}, expected one image in colour")
    return Pixels(values, _largest(values, dataset, photometric))


def _largest(values: NDArray[Any], dataset: Dataset, photometric: str) -> float:
    """The largest value that a colour can have: of a palette that of its entries, which may have 8 bits in words."""
    if photometric == PALETTE and (entries := dataset.get("RedPaletteColorLookupTableDescriptor")) is not None:
        return float(2 ** int(entries[2]) - 1)
    return float(np.iinfo(values.dtype).max)
