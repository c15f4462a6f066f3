"""How large an image is, by its header."""

from __future__ import annotations


def extent_of(shape: tuple[int, int], spacing: tuple[float, float], unit: float = 1.0) -> tuple[float, float] | None:
    """Height and width of an image in mm, by its header; None where that says nothing.

    Args:
        shape: (H, W) in pixels.
        spacing: height and width of a pixel. Of exactly 1 they are what programs write that know none.
        unit: of ``spacing``, in mm.
    """
    return None if spacing == (1.0, 1.0) else (shape[0] * spacing[0] * unit, shape[1] * spacing[1] * unit)
