"""Whether an image is as large as its study says: the size of its pixels against ``image.field_of_view``."""

from __future__ import annotations

from segcft.config.image import Image
from segcft.data.resize import Pixel, window_of
from segcft.io.reject import Remark

TOLERANCE = 0.05
"""How far the length of an image's side may be from the field of view's: headers are rounded, and so are studies."""

_MILLIMETRES = {"µm": 0.001, "um": 0.001, "mm": 1.0, "cm": 10.0, "m": 1000.0}


def contradiction(shape: tuple[int, int], pixel: Pixel, grid: Image, name: str) -> Remark | None:
    """What to tell where an image's pixels and the study's field of view contradict each other; None where they do not.

    Args:
        shape: (H, W) of the image.
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
    text = (
        f"{name}: its header says that the grid shows {shown[0]:.4g} x {shown[1]:.4g} mm of it (height x width), and "
        f"image.field_of_view {said[0]:.4g} x {said[1]:.4g} mm: areas would be {1 / (shares[0] * shares[1]):.3g} times "
        "what they are. Bring images to one size, show them as large as they are (image.fit: physical), or leave "
        "field_of_view out, so that areas are in pixels; if the headers are wrong, set data.ignore_spacing"
    )
    return Remark("pixel spacing contradicts image.field_of_view", text)
