"""Pictures: those that questions are asked about, outlines, scans of JSRT, and those that segcft made."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from benchmarks.fuzz.corpus.common import RECORD, chest, lazily, pixels
from benchmarks.fuzz.work import Reader
from segcft.io.reject import Rejected


def readers() -> list[Reader]:
    image = lambda: read  # noqa: E731
    return [
        Reader("png", ".png", lambda: pictures("png"), image, "png", weight=1.5),
        Reader("tiff", ".tif", tiffs, image, weight=1.5),
        Reader("jpeg", ".jpg", jpegs, image),
        Reader("bmp", ".bmp", lambda: pictures("bmp"), image),
        Reader("jsrt raw", ".IMG", _raws, lazily("segcft.importers.jsrt", "read_raw"), weight=0.1),
        Reader("outline", ".gif", _outlines, lazily("segcft.importers.jsrt", "read_outline")),
        Reader("idx", ".gz", _digits, lazily("segcft.io.idx", "read_idx"), "gzip", weight=0.5),
        Reader("inspect png", ".png", _answers, lazily("segcft", "inspect"), "png"),
        Reader("inspect gif", ".gif", _animations, lazily("segcft", "inspect")),
    ]


def read(path: Path) -> None:
    """Read an image in each of the ways in which segcft does."""
    from segcft.api.question import read_pixels
    from segcft.io.imagefile import read_image
    from segcft.io.maskfile import read_labels

    read_image(path, 3)
    read_pixels(chest(), path)
    with contextlib.suppress(Rejected):  # a picture is no mask; it must not end in any other way
        read_labels(path)


def _digits() -> list[bytes]:
    """Images and labels in IDX, compressed."""
    files = [struct.pack(">HBB3I", 0, 8, 3, 2, 6, 5) + bytes(range(60)), struct.pack(">HBBI", 0, 8, 1, 7) + bytes(7)]
    return [gzip.compress(one, mtime=0) for one in files]


def pictures(kind: str, **options: Any) -> list[bytes]:
    """Files in each of the modes of a format."""
    grey = Image.fromarray(pixels())
    modes = [grey, grey.convert("RGB")]
    if kind in ("png", "tiff"):
        modes += [Image.fromarray(pixels().astype(np.uint16) * 200), grey.convert("1")]
    if kind in ("png", "gif", "bmp"):
        modes.append(grey.convert("P"))
    if kind == "png":  # with transparency
        modes.append(Image.fromarray(np.stack([pixels(), pixels()[::-1]], axis=-1), "LA"))
    return [_encoded(picture, kind, **options) for picture in modes]


def jpegs() -> list[bytes]:
    """Those of :func:`pictures`, one that EXIF turns, and one with a second picture inside (MPO)."""
    grey, small, turned = Image.fromarray(pixels()), Image.fromarray(pixels()[::4, ::4].copy()), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    several = _encoded(grey, "mpo", save_all=True, append_images=[small])
    return [*pictures("jpeg"), _encoded(grey, "jpeg", exif=turned), several]


def tiffs() -> list[bytes]:
    """Those of :func:`pictures` under several compressions, one of two pages, and one whose white is 0."""
    grey = Image.fromarray(pixels())
    white_is_zero = {"tiffinfo": {PHOTOMETRIC_INTERPRETATION: 0}}
    special = [
        _encoded(grey, "tiff", save_all=True, append_images=[grey]),
        _encoded(Image.fromarray(pixels().astype(np.uint16) * 200), "tiff", **white_is_zero),
    ]
    compressed = (pictures("tiff", compression=name) for name in ("tiff_lzw", "packbits", "tiff_deflate"))
    return [*pictures("tiff"), *special, *itertools.chain(*compressed)]


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _raws() -> list[bytes]:
    from segcft.importers.jsrt import BLACK, SIDE

    return [np.random.default_rng(0).integers(0, BLACK, (SIDE, SIDE)).astype(">u2").tobytes()]


def _outlines() -> list[bytes]:
    return [_encoded(Image.fromarray(np.where(pixels() > 80, 255, 0).astype(np.uint8)), "gif")]


def _answers() -> list[bytes]:
    from segcft.io.provenance import png_bytes

    return [png_bytes(pixels()[None], RECORD), png_bytes(pixels()[None])]


def _animations() -> list[bytes]:
    from segcft.io.provenance import gif_bytes, picture

    shown = pixels()[None]
    return [gif_bytes([picture(shown), picture(255 - shown)], RECORD, 100)]
