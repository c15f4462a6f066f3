"""Reading one picture file (PNG, JPEG, TIFF, BMP, GIF): its pixels as they are stored, the right way up.

What a file says of its pixels beside their values comes along: which one is white, whether 0 is, and transparency. Who
reads an image uses all of it, see :mod:`segcft.io.imagefile`; who reads a mask has rules of their own, see
:mod:`segcft.io.maskfile`.
"""

from __future__ import annotations

import re
import warnings
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from segcft.io.reject import Rejected, Remark, reading
from segcft.io.source import MOST_PIXELS, Source, check_size
from segcft.io.turn import AS_STORED, Turn

PICTURES = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
"""Pillow's kinds of files that are read. It knows others, some of which run programs."""

_EXIF = {
    2: Turn(mirrored=True),
    3: Turn(upside_down=True, mirrored=True),
    4: Turn(upside_down=True),
    5: Turn(exchanged=True),
    6: Turn(exchanged=True, mirrored=True),
    7: Turn(True, True, True),
    8: Turn(exchanged=True, upside_down=True),
}
"""EXIF's orientation -> what turns the stored picture upright. 1 is upright."""

MOST_PAGES = 64
"""Of a TIFF file among which the one that is no preview is looked for."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how it begins; with the plus BigTIFF

# Pillow's modes whose pixels are used as they are; the others are converted to grey or colour first.
_NATIVE = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "F", "RGB"})
_WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation
_SUBFILE, _REDUCED, _TRANSPARENCY = 254, 1, 4  # TIFF's NewSubfileType and two of its flags
_DESCRIPTION, _STACK = 270, re.compile(r"ImageJ=[^\n]*\n(?:[^\n]*\n)*?images=(\d{1,9})\b")
_SAMPLE_FORMAT, _SIGNED = 339, 2  # TIFF's element for whole numbers with a sign, and its value for them


class Pixels(NamedTuple):
    """What a picture file holds."""

    values: NDArray[Any]
    """As they are stored, the right way up: (H, W), or (H, W, 3) in colour."""
    full: float | None
    """The largest value that the file's type has; None where it has none of its own."""
    inverted: bool = False
    """The file says that 0 is white (TIFF's WhiteIsZero)."""
    alpha: NDArray[np.float64] | None = None
    """Opacity (H, W) in [0, 1]; None where the file has none, or the same everywhere."""
    remarks: tuple[Remark, ...] = ()
    """Remarks on the file."""


def read_picture(path: Source, labels: bool = False) -> Pixels:
    """The pixels of a picture file.

    EXIF's orientation is applied, as every viewer does. Of a JPEG with further pictures inside (MPO, of phones) the
    first is taken; of a TIFF file with previews the one page that is none.

    Args:
        path: the file.
        labels: keep a palette's indices, not its colours, and the numbers of files of 2 and 4 bits, not grey levels.

    Raises:
        Rejected: the file cannot be read or holds several images.
    """
    with reading(path, "image"), path.open("rb") as opened:
        try:
            file = open_picture(opened)
        except UnidentifiedImageError:
            raise Rejected(f"cannot read this image: {_unknown(path)}") from None
        with file:
            remarks = _choose_page(file)
            halved = ";16" in _raw_mode(file) and file.mode[:1] != "I"  # of which Pillow reads the upper 8 bits
            pixels = pixels_of(file, labels)
            if labels and halved and pixels.alpha is None and not pixels.values.any():
                raise Rejected(
                    "holds several channels of 16 bits, of which the upper 8 are read, and they are all 0; "
                    "save masks with one channel"
                )
            return pixels._replace(remarks=tuple(one.at(path) for one in (*remarks, *pixels.remarks)))


def _unknown(path: Source) -> str:
    """Why Pillow may not know a file."""
    with path.open("rb") as file:
        tiff = file.read(4) in _TIFF
    if tiff:  # NumPy's own numbers have 64 bits, and libraries write them as they are
        return (
            "damaged, or a TIFF file of numbers that are not read here (real ones of 16 or 64 bits, whole ones of 64); "
            "save it with 8 or 16 bits, or as float32"
        )
    return f"damaged, or none of {', '.join(PICTURES)}, DICOM, NIfTI"


def open_picture(opened: IO[bytes]) -> Image.Image:
    """The file ``opened`` as Pillow opens it, without its pixels.

    Args:
        opened: the file.

    Raises:
        Rejected: it has too many pixels. Whatever else is wrong, Pillow says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is a stricter one
        try:
            file = Image.open(opened, formats=PICTURES)
        except Image.DecompressionBombError:
            raise Rejected(f"has more than the {MOST_PIXELS // 10**6} million pixels that are read") from None
    check_size(file.size)
    return file


def pixels_of(picture: Image.Image, labels: bool = False) -> Pixels:
    """The pixels of a Pillow image; ``labels`` as of :func:`read_picture`."""
    raw = _raw_mode(picture)  # Pillow forgets both once it has read the pixels
    tiff = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    inverted = tiff.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO
    picture.load()
    turn = AS_STORED if isinstance(picture, TiffImageFile) else _exif_turn(picture)  # of TIFF Pillow has applied it
    values, alpha = _values(picture, labels), _alpha(picture)
    if re.fullmatch(r"I;32[BN]?", raw):  # numbers without a sign, which Pillow gives one
        values = values.view(np.uint32)
    full = _full_value(values, raw)
    if inverted and values.dtype in (bool, np.uint8):  # which Pillow has inverted
        values = ~values
    if values.dtype == np.uint8 and set(tiff.get(_SAMPLE_FORMAT, ())) == {_SIGNED}:  # which Pillow does not look at
        values, full = values.view(np.int8), None
    if labels and (bits := re.match(r"L;([24])", raw)):  # which Pillow has stretched to 0..255
        values = values // (255 // (2 ** int(bits[1]) - 1))
    remarks: list[Remark] = []
    if turn != AS_STORED:
        remarks.append(Remark("turned by EXIF", f"by its EXIF record it is {turn}; its mask has to fit that"))
        values = np.moveaxis(turn(np.moveaxis(values, (0, 1), (-2, -1))), (-2, -1), (0, 1))  # colours are the last axis
        alpha = None if alpha is None else turn(alpha)
    return Pixels(np.ascontiguousarray(values), full, inverted, alpha, tuple(remarks))


def _choose_page(file: Image.Image) -> tuple[Remark, ...]:
    """Go to the page that is the image."""
    pages = getattr(file, "n_frames", 1)
    if pages == 1 and isinstance(file, TiffImageFile):
        said = _STACK.match(str(file.tag_v2.get(_DESCRIPTION, "")))
        pages = int(said[1]) if said else 1
        if pages > 1:  # whose pages but the first are behind it, where only ImageJ looks
            raise Rejected(f"holds {pages} images by its description (ImageJ), not one")
    if pages == 1:
        return ()
    if file.format == "MPO":  # of which the first is the picture itself
        return (Remark("several pictures", f"holds {pages} pictures; the first was read"),)
    if isinstance(file, TiffImageFile) and pages <= MOST_PAGES:
        images = []
        for page in range(pages):
            file.seek(page)
            if not int(file.tag_v2.get(_SUBFILE, 0)) & (_REDUCED | _TRANSPARENCY):
                images.append(page)
        if len(images) == 1:
            file.seek(images[0])
            check_size(file.size)
            return (Remark("several pictures", f"holds {pages} pages; the one that is no preview was read"),)
    raise Rejected(f"holds {pages} images, not one")


def _raw_mode(picture: Image.Image) -> str:
    """Pillow's name of how pixels are stored, e.g. ``L;4`` or ``I;16S``; "" of an image that is no file."""
    for tile in getattr(picture, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        return str(arguments[0]) if arguments else ""
    return ""


def _exif_turn(picture: Image.Image) -> Turn:
    try:
        return _EXIF.get(picture.getexif().get(ExifTags.Base.Orientation, 1), AS_STORED)
    except Exception:  # a damaged record, which raises almost anything, says nothing
        return AS_STORED


def _values(picture: Image.Image, labels: bool) -> NDArray[Any]:
    if labels and picture.mode in ("P", "PA"):
        return np.asarray(picture.getchannel(0) if picture.mode == "PA" else picture)
    if picture.mode in _NATIVE:
        return np.asarray(picture)
    return np.asarray(picture.convert("L" if picture.mode in ("LA", "La") else "RGB"))


def _alpha(picture: Image.Image) -> NDArray[np.float64] | None:
    if not picture.has_transparency_data or picture.mode[:1] in ("I", "F"):
        return None
    alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    return None if alpha.min() == alpha.max() else alpha / 255


def _full_value(values: NDArray[Any], raw: str) -> float | None:
    if raw.startswith("I;12"):
        return 4095
    signed = re.fullmatch(r"I;(16|32)B?S", raw)
    return None if signed else largest(values)


def largest(values: NDArray[Any]) -> float | None:
    """The largest value of the type of ``values``, for types whose smallest is black; None for others."""
    if values.dtype == bool:
        return 1
    if values.dtype == np.uint8:
        return 255
    # Pillow reads some 16-bit files as int32.
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= 65535:
        return 65535
    return None
