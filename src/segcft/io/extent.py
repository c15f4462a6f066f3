"""Whether an image is as large as its study says: its header's pixel spacing against ``image.field_of_view``."""

from __future__ import annotations

from segcft.config.image import Image
from segcft.io.reject import Remark

TOLERANCE = 0.05
"""How far the length of an image's side may be from the field of view's: headers are rounded, and so are studies."""

_MILLIMETRES = {"µm": 0.001, "um": 0.001, "mm": 1.0, "cm": 10.0, "m": 1000.0}


def extent_of(shape: tuple[int, int], spacing: tuple[float, float], unit: float = 1.0) -> tuple[float, float] | None:
    """Height and width of an image in mm, by its header; None where that says nothing.

    Args:
        shape: (H, W) in pixels.
        spacing: height and width of a pixel. Of exactly 1 they are what programs write that know none.
        unit: of ``spacing``, in mm.
    """
    return None if spacing == (1.0, 1.0) else (shape[0] * spacing[0] * unit, shape[1] * spacing[1] * unit)


def contradiction(extent: tuple[float, float] | None, grid: Image, name: str) -> Remark | None:
    """What to tell where an image's header and the study's field of view contradict each other; None where they do not.

    Args:
        extent: height and width of the image in mm, as its header says; None: it does not.
        grid: of the study; an image of another shape than its field of view is filled up to it. Images that are shown
            as large as they are contradict none.
        name: of the image's file.
    """
    millimetres = _MILLIMETRES.get(grid.length_unit)
    if extent is None or grid.field_of_view is None or millimetres is None or grid.fit == "physical":
        return None
    height, width = (millimetres * length for length in grid.field_of_view)
    share = max(extent[0] / height, extent[1] / width)  # what the image has of the canvas that spans the field of view
    if abs(share - 1) <= TOLERANCE:
        return None
    text = (
        f"{name}: its header says {extent[0]:.4g} x {extent[1]:.4g} mm (height x width), image.field_of_view "
        f"{height:.4g} x {width:.4g} mm: areas would be {share**-2:.3g} times what they are. Bring images to one size, "
        "or leave field_of_view out, so that areas are in pixels; if the headers are wrong, set data.ignore_spacing"
    )
    return Remark("pixel spacing contradicts image.field_of_view", text)
