"""Whether an image is as large as its study says: the size of its pixels against ``image.field_of_view``."""

from __future__ import annotations

import math

from segcft.config.image import Image
from segcft.data.resize import Pixel, window_of
from segcft.io.reject import Remark

TOLERANCE = 0.05
"""How far the length of an image's side may be from the field of view's: headers are rounded, and so are studies."""

_MILLIMETRES = {"µm": 0.001, "um": 0.001, "mm": 1.0, "cm": 10.0, "m": 1000.0}


def contradiction(shape: tuple[int, ...], pixel: Pixel, grid: Image, name: str) -> Remark | None:
    """What to tell where an image's pixels and the study's field of view contradict each other; None where they do not.

    Args:
        shape: (H, W) of the image, or (D, H, W) of the volume.
        pixel: its pixels.
        grid: of the study. Images that are shown as large as they are contradict none.
        name: of the image's file.
    """
    unit = _MILLIMETRES.get(grid.length_unit)
    if pixel.millimetres is None or grid.field_of_view is None or unit is None or grid.fit == "physical":
        return None
    _, extent = window_of(shape, grid, pixel)  # what of the image, or beyond it, spans the field of view
    shown = [length * mm for length, mm in zip(extent, pixel.millimetres, strict=True)]
    said = [unit * length for length in grid.field_of_view]
    shares = [mine / theirs for mine, theirs in zip(shown, said, strict=True)]
    if all(abs(share - 1) <= TOLERANCE for share in shares):
        return None
    mine, theirs = (" x ".join(f"{length:.4g}" for length in lengths) for lengths in (shown, said))
    axes, what = ("height x width", "areas") if len(shape) == 2 else ("depth x height x width", "volumes")
    text = (
        f"{name}: its header says that the grid shows {mine} mm of it ({axes}), and "
        f"image.field_of_view {theirs} mm: {what} would be {1 / math.prod(shares):.3g} times "
        "what they are. Bring images to one size, show them as large as they are (image.fit: physical), or leave "
        f"field_of_view out, so that {what} are in elements of the grid; if the headers are wrong, set "
        "data.ignore_spacing"
    )
    return Remark("pixel spacing contradicts image.field_of_view", text)
