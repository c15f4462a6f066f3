"""The stored values of a DICOM image, as numbers: its bits brought into their place, and where it is filled up.

Messages are about the file: what an element says, and what it would have to.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit, RLELossless

from segcft.io.dicomfile import term_of, text_of, transfer_syntax
from segcft.io.reject import Excluded, Remark, Unreadable
from segcft.io.source import check_size

GREY = ("MONOCHROME1", "MONOCHROME2")
"""Photometric interpretations of grey images."""
OVERLAYS = range(0x6000, 0x6020, 2)
"""Groups of elements that describe overlays. Old files keep an overlay in bits of the pixels that are not used."""


class Stored(NamedTuple):
    """What :func:`decode` answers."""

    stored: NDArray[np.integer[Any]]
    """(H, W), signed where the file's values are."""
    padding: NDArray[np.bool_] | None
    """Where the image is filled up, (H, W); None where it is nowhere."""


class Layout(NamedTuple):
    """Where the bits of a stored value are (PS3.5, section 8.1.1)."""

    allocated: int
    stored: int
    high: int
    """The most significant one, counted from 0."""
    signed: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the words that values are kept in."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def usual(self) -> bool:
        """Whether values are in the lowest bits."""
        return self.high == self.stored - 1

    def values(self, words: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """The values in ``words`` of :attr:`dtype`, whatever else is in their other bits."""
        return (words << (self.allocated - 1 - self.high)) >> (self.allocated - self.stored)

    def holds(self, value: int) -> bool:
        """Whether ``value`` can be a stored one."""
        low, high = (-(1 << self.stored - 1), 1 << self.stored - 1) if self.signed else (0, 1 << self.stored)
        return low <= value < high

    def in_words(self, value: int) -> int:
        """A number that was written with a sign or without, as the words have one or not."""
        value %= 1 << self.allocated
        return value - (1 << self.allocated) if self.signed and value >> self.allocated - 1 else value


def decode(dataset: FileDataset, remarks: list[Remark]) -> Stored:
    """The pixels of a file that holds one grey image of 8 to 16 bits.

    Args:
        dataset: from :func:`segcft.io.dicomfile.open_dicom`.
        remarks: gets remarks on the pixels.

    Raises:
        Excluded: it holds something else, is compressed and there is no decoder, or is damaged.
    """
    layout = _check_object(dataset)
    syntax = transfer_syntax(dataset, remarks)
    if syntax.is_encapsulated:
        words = _decompress(dataset, syntax, layout)
    else:
        words = _native(dataset, syntax, layout, remarks)
    if words.shape != (dataset.Rows, dataset.Columns):
        raise Excluded("no image", f"pixels of shape {words.shape}, expected one grey image")
    # The decoders of all but RLE answer values, not words.
    stored = layout.values(words) if not syntax.is_encapsulated or syntax == RLELossless else words
    padding = _padding(dataset, layout, words, stored)
    if stored is not words and not _overlaid(dataset):
        _remark_on_other_bits(layout, words, stored, padding, remarks)
    return Stored(stored, padding)


def check_image(dataset: Dataset) -> None:
    """See that a file holds one image that is meant to be seen.

    Raises:
        Excluded: it does not.
    """
    if not dataset.get("PixelData"):
        floats = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
        found = "floating-point pixels" if floats else "no image that can be read"
        raise Excluded("no image", f"holds {found} (modality {text_of(dataset, 'Modality') or 'unknown'})")
    check_size((whole(dataset, "Columns"), whole(dataset, "Rows")))
    frames = whole(dataset, "NumberOfFrames", 1, positive=False)
    if frames > 1:
        raise Excluded("several frames", f"holds {frames} frames, not one")
    if term_of(dataset, "PresentationIntentType") == "FOR PROCESSING":
        why = (
            "PresentationIntentType is FOR PROCESSING: values of a detector, of which nobody says how they "
            "are to look; take the image FOR PRESENTATION that was made of it"
        )
        raise Excluded("for processing", why)


def _check_object(dataset: Dataset) -> Layout:
    """Where the bits of the one grey image of ``dataset`` are.

    Raises:
        Excluded: it is not one, is not meant to be seen, or elements that say how to read it are missing.
    """
    check_image(dataset)
    photometric = text_of(dataset, "PhotometricInterpretation") or "no PhotometricInterpretation"
    if whole(dataset, "SamplesPerPixel", 1) != 1 or photometric not in GREY:
        raise Excluded("not grey", f"{photometric}, expected {' or '.join(GREY)}")
    allocated = whole(dataset, "BitsAllocated")
    stored = whole(dataset, "BitsStored")
    if allocated not in (8, 16) or not 8 <= stored <= allocated:
        raise Excluded("not 8 to 16 bits", f"{stored} bits in {allocated}, expected 8 to 16 in 8 or 16")
    high = whole(dataset, "HighBit", stored - 1, positive=False)
    if not stored - 1 <= high < allocated:
        expected = f"{stored - 1} to {allocated - 1}, since {stored} of {allocated} bits are stored"
        raise Unreadable("bits that cannot be", f"HighBit is {high}, expected {expected}")
    signed = whole(dataset, "PixelRepresentation", positive=False)
    if signed not in (0, 1):
        raise Unreadable("damaged file", f"PixelRepresentation is {signed}, expected 0 or 1")
    return Layout(allocated, stored, high, bool(signed))


def whole(dataset: Dataset, name: str, default: int | None = None, positive: bool = True) -> int:
    """An element that is a whole number, above 0 where it has to be."""
    wanted = f"a whole number{' above 0' if positive else ''}"
    if name not in dataset or dataset.get_item(name).value in (None, "", b""):
        if default is None:
            raise Unreadable("damaged file", f"has no {name}, without which its pixels cannot be read")
        return default
    try:
        number = int(dataset.get(name))
    except (TypeError, ValueError):
        raise Unreadable("damaged file", f"{name} is no number, expected {wanted}") from None
    if number < positive:
        raise Unreadable("damaged file", f"{name} is {number}, expected {wanted}")
    return number


def _native(dataset: FileDataset, syntax: UID, layout: Layout, remarks: list[Remark]) -> NDArray[np.integer[Any]]:
    """Words (H, W) that are not compressed."""
    shape = int(dataset.Rows), int(dataset.Columns)
    data = first_bytes(dataset, shape[0] * shape[1] * layout.allocated // 8, remarks)
    if layout.allocated == 8 and not syntax.is_little_endian and dataset["PixelData"].VR == "OW":
        data = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()  # bytes that were written as words
    dtype = layout.dtype.newbyteorder("<" if syntax.is_little_endian else ">")
    words = np.frombuffer(data, dtype, shape[0] * shape[1])
    return words.reshape(shape).astype(layout.dtype)


def first_bytes(dataset: Dataset, expected: int, remarks: list[Remark]) -> bytes:
    """The bytes of pixels that are not compressed, as many as are ``expected``, and one that makes them even;
    ``remarks`` tells of others.

    Raises:
        Unreadable: there are fewer.
    """
    data = bytes(dataset.PixelData)
    if len(data) < expected:
        found = f"holds {len(data)} bytes of pixels, expected {expected}"
        raise Unreadable("damaged file", f"cut off, or of another size than its header says: {found}")
    if len(data) > expected + expected % 2:
        text = f"holds {len(data)} bytes of pixels, expected {expected}: those after them are not read"
        remarks.append(Remark("more pixels than its header says", text))
    return data[: expected + expected % 2]


def _decompress(dataset: FileDataset, syntax: UID, layout: Layout) -> NDArray[np.integer[Any]]:
    """Values (H, W) of a compressed image; of RLE its words."""
    if syntax != RLELossless and not layout.usual:
        where = f"bit {layout.high} of {layout.stored} stored ones"
        raise Unreadable("bits that cannot be", f"HighBit is {where}, which {syntax.name} does not know")
    needs = check_decoder(syntax)
    if syntax == JPEGExtended12Bit and layout.stored > 8 and needs:
        raise Unreadable("no decoder", f"{syntax.name} with {layout.stored} bits{needs}")
    check_frame(dataset)
    dataset.SamplesPerPixel = 1
    dataset.pixel_array_options(correct_unused_bits=syntax != RLELossless)
    try:
        return np.asarray(dataset.pixel_array)
    except Exception:  # decoders raise almost anything
        why = "damaged, or of another kind than its header says"
        raise Unreadable("damaged file", f"its compressed image ({syntax.name}) is {why}") from None


def check_decoder(syntax: UID) -> str:
    """See that what is compressed so can be decoded here; returns what to install for all of its kinds, in words.

    Raises:
        Unreadable: it cannot.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        why = f"{syntax.name} cannot be decoded: convert the file to Explicit VR Little Endian"
        raise Unreadable("no decoder", why) from None
    # Not its GDCM: the package of that name on PyPI is another one.
    other = [text.partition(" - requires ")[2] for text in decoder.missing_dependencies if "gdcm" not in text]
    needs = f": to decode it, pip install 'segcft[dicom]' (or {'; or '.join(other)})" if other else ""
    if not decoder.is_available:
        raise Unreadable("no decoder", f"{syntax.name}{needs}")
    return needs


def check_frame(dataset: Dataset) -> None:
    """Check what a compressed image says of itself, which need not be what the header of the file says."""
    try:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    except Exception:
        raise Unreadable("damaged file", "holds no compressed image though its header says so") from None
    # pydicom walks through the boxes of JPEG 2000 forever where one has no length.
    at = 12  # the first box
    while frame.startswith(b"\0\0\0\x0cjP  ") and at < len(frame) and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4], "big")
        if length < 8:
            raise Unreadable("damaged file", f"a box of its JPEG 2000 image has {length} bytes")
        at += length
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            size = picture.size
    except Exception:  # of another kind, or damaged, which the decoder will say
        return
    if size != (dataset.Columns, dataset.Rows):
        found = f"{size[0]} x {size[1]}, not {dataset.Columns} x {dataset.Rows}"
        raise Unreadable("damaged file", f"its compressed image has {found} pixels")


def _padding(
    dataset: Dataset, layout: Layout, words: NDArray[np.integer[Any]], stored: NDArray[np.integer[Any]]
) -> NDArray[np.bool_] | None:
    """Where the image is filled up: bool (H, W), or None.

    The value may be written without a sign though pixels have one, or the other way round; and it may need more bits
    than values have, and is then compared with whole words.
    """
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted(layout.in_words(one) for one in (value, limit if isinstance(limit, int) else value))
    numbers = stored if layout.holds(low) and layout.holds(high) else words
    padding = (numbers >= low) & (numbers <= high)
    return padding if padding.any() else None


def _overlaid(dataset: Dataset) -> bool:
    """Whether the header tells of an overlay in the pixels' unused bits (PS3.5, section 8.1.2)."""
    positions = (dataset.get((group, 0x0102)) for group in OVERLAYS)
    return any(element is not None and element.value for element in positions)


def _remark_on_other_bits(
    layout: Layout,
    words: NDArray[np.integer[Any]],
    stored: NDArray[np.integer[Any]],
    padding: NDArray[np.bool_] | None,
    remarks: list[Remark],
) -> None:
    """Tell of pixels with something in the bits that are not used, where it is no sign either."""
    unsigned = f"u{layout.allocated // 8}"
    shift = layout.high + 1 - layout.stored
    unused = np.array(~(((1 << layout.stored) - 1) << shift) & (1 << layout.allocated) - 1, unsigned)
    found, signs = words.view(unsigned) & unused, (stored << shift).view(unsigned) & unused
    odd = (found != 0) & (found != signs)
    count = int(np.count_nonzero(odd if padding is None else odd & ~padding))
    if count:
        text = (
            f"{count} pixels have more than the {layout.stored} bits up to bit {layout.high} that its "
            "header says: the others are left out; if the image is noise, correct BitsStored and HighBit"
        )
        remarks.append(Remark("bits that are not stored", text))
