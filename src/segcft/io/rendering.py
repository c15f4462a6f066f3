"""Pictures of answers without a plotting library: signed differences in colour, outlines, strips, HTML."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

Pixels = NDArray[np.uint8]

_COLOURS = ("#35d0ff", "#ffd23f", "#ff5d73", "#7ee081", "#c792ea", "#ff9f5a")

_NEGATIVE, _ZERO, _POSITIVE = (
    np.array(colour, dtype=float) for colour in ((33, 102, 172), (247, 247, 247), (178, 24, 43))
)
FULL = 64.0
"""Grey levels at which a difference has its full colour."""


def is_wide(height: float, width: float) -> bool:
    """Whether images are so wide that they are stacked and not set side by side."""
    return width >= 2 * height


def structure_colours(number: int) -> list[str]:
    """The colours of the outlines of so many structures, as hexadecimal numbers; after six they begin again."""
    return list(itertools.islice(itertools.cycle(_COLOURS), number))


def difference_colours(difference: NDArray[np.int16], full: float = FULL) -> Pixels:
    """A signed difference (C, H, W) in grey levels as colour (3, H, W): blue darker, white unchanged, red brighter.

    Of several channels that which changes most is shown, or a change of hue alone would be white.
    """
    most = np.abs(difference).argmax(axis=0)[None]
    share = np.clip(np.take_along_axis(difference, most, axis=0)[0] / full, -1, 1)[..., None]
    end = np.where(share < 0, _NEGATIVE, _POSITIVE)
    return np.moveaxis(np.rint(_ZERO + np.abs(share) * (end - _ZERO)).astype(np.uint8), -1, 0)


def outlined(pixels: Pixels, masks: NDArray[np.bool_], enlarge: int = 1) -> Pixels:
    """An image (C, H, W) in colour with the outlines of masks (S, H, W), each in its colour: (3, H, W).

    ``enlarge`` repeats pixels first, so that outlines are thin.
    """
    shown = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels.copy()
    shown = shown.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    masks = masks.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    for mask, colour in zip(masks, structure_colours(len(masks)), strict=True):
        shown[:, mask & ~binary_erosion(mask)] = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)[:, None]
    return shown


def strip(pictures: Sequence[Pixels], gap: int = 2) -> Pixels:
    """Images (C, H, W) of one size beside each other; wide ones below each other."""
    channels, height, width = pictures[0].shape
    axis = 1 if is_wide(height, width) else 2
    space = np.full((channels, gap, width) if axis == 1 else (channels, height, gap), 255, dtype=np.uint8)
    parts = [part for one in pictures for part in (space, one)][1:]
    return np.concatenate(parts, axis=axis)


def to_html(
    panels: Sequence[tuple[str, bytes]], wide: bool, rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    """Labelled PNG files, a table whose first row is its head, and notes, as HTML that needs nothing else."""
    figures = "".join(
        f'<figure style="display:inline-block;margin:0 .5em .5em 0"><img alt="{html.escape(label)}" '
        f'style="{"width:480px" if wide else "height:224px"};image-rendering:auto" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f'<figcaption style="font-size:85%;text-align:center">{html.escape(label)}</figcaption></figure>'
        + ("<br>" if wide else "")
        for label, png in panels
    )
    head, *body = ["".join(f"<{{0}}>{html.escape(cell)}</{{0}}>" for cell in row) for row in rows]
    table = f"<table><thead><tr>{head.format('th')}</tr></thead><tbody>"
    table += "".join(f"<tr>{row.format('td')}</tr>" for row in body) + "</tbody></table>"
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<div>{figures}{table}{said}</div>"
