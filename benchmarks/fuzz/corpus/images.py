"""Pictures: those that questions are asked about, outlines, scans of JSRT, and those that segcft made."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz.corpus.common import RECORD, chest, lazily, pixels
from benchmarks.fuzz.work import Reader


def readers() -> list[Reader]:
    image = lambda: read  # noqa: E731
    return [
        Reader("png", ".png", lambda: pictures("png"), image, "png", weight=1.5),
        Reader("tiff", ".tif", tiffs, image, weight=1.5),
        Reader("jpeg", ".jpg", lambda: pictures("jpeg"), image),
        Reader("bmp", ".bmp", lambda: pictures("bmp"), image),
        Reader("jsrt raw", ".IMG", _raws, lazily("segcft.data.jsrt", "read_raw"), weight=0.1),
        Reader("outline", ".gif", _outlines, lazily("segcft.data.jsrt", "read_outline")),
        Reader("inspect png", ".png", _answers, lazily("segcft", "inspect"), "png"),
        Reader("inspect gif", ".gif", _animations, lazily("segcft", "inspect")),
    ]


def read(path: Path) -> None:
    """Read an image in each of the ways in which segcft does."""
    from segcft.data.imagefile import read_image
    from segcft.data.maskfile import read_labels
    from segcft.question import read_pixels

    read_image(path, 3)
    read_pixels(chest(), path)
    read_labels(path)


def pictures(kind: str, **options: Any) -> list[bytes]:
    """Files in each of the modes of a format."""
    grey = Image.fromarray(pixels())
    modes = [grey, grey.convert("RGB")]
    if kind in ("png", "tiff"):
        modes += [Image.fromarray(pixels().astype(np.uint16) * 200), grey.convert("1")]
    if kind in ("png", "gif", "bmp"):
        modes.append(grey.convert("P"))
    return [_encoded(picture, kind, **options) for picture in modes]


def tiffs() -> list[bytes]:
    return pictures("tiff") + [
        file for c in ("tiff_lzw", "packbits", "tiff_deflate") for file in pictures("tiff", compression=c)
    ]


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _raws() -> list[bytes]:
    from segcft.data.jsrt import BLACK, SIDE

    return [np.random.default_rng(0).integers(0, BLACK, (SIDE, SIDE)).astype(">u2").tobytes()]


def _outlines() -> list[bytes]:
    return [_encoded(Image.fromarray(np.where(pixels() > 80, 255, 0).astype(np.uint8)), "gif")]


def _answers() -> list[bytes]:
    from segcft.provenance import png_bytes

    return [png_bytes(pixels()[None], RECORD), png_bytes(pixels()[None])]


def _animations() -> list[bytes]:
    from segcft.provenance import gif_bytes, picture

    shown = pixels()[None]
    return [gif_bytes([picture(shown), picture(255 - shown)], RECORD, 100)]
