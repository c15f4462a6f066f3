"""An image or a volume in a viewer: its values, and how its grid lies in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = (-1.0, -1.0, 1.0)
"""The patient's left and back are RAS's other way."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Values on a grid.

    Raises:
        ValueError: the array has not two or three axes, or the matrix is none.
    """

    values: NDArray[Any]
    """An image (J, I), or a volume (K, J, I)."""
    ijk_to_ras: NDArray[np.float64] = field(default_factory=lambda: np.diag([*LPS_TO_RAS, 1.0]))
    """(4, 4), from indices (i, j, k) to mm in RAS, as NIfTI and 3D Slicer have it. By default voxels are of 1 mm, and
    the array goes to the head, the back and the left: so an image's first row is at the top. Of an image only the
    directions matter."""
    window: tuple[float, float] | None = None
    """Of an image: which values are shown black and white; by default its least and largest."""
    millimetres: tuple[float, float] | None = None
    """Of an image: height and width of a pixel, if they are known."""

    def __post_init__(self) -> None:
        if self.values.ndim not in (2, 3):
            raise ValueError(f"expected an image (J, I) or a volume (K, J, I), not an array {self.values.shape}")
        if np.shape(self.ijk_to_ras) != (4, 4) or not np.isfinite(self.ijk_to_ras).all():
            raise ValueError("expected a matrix of 4 x 4 finite numbers")

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume and not an image."""
        return self.values.ndim == 3

    @property
    def shown(self) -> tuple[float, float]:
        """:attr:`window`, of which the second value is the larger one."""
        low, high = self.window or (float(self.values.min()), float(self.values.max()))
        return (low, high) if high > low else (low, low + 1.0)

    def seen(self) -> NDArray[np.uint8]:
        """An image in the grey levels in which it is shown and as it is looked at, uint8 (H, W)."""
        low, high = self.shown
        levels = np.clip((self.values.astype(np.float64) - low) / (high - low), 0, 1)
        return self.turned(np.rint(levels * 255).astype(np.uint8))

    def turned(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image (J, I) as it is looked at, or back: down is to the back or the feet, right to the left or the back.

        An axis that goes the other way, to RAS's positive side, is turned.
        """
        across, down = (self._goes_up(axis) for axis in (0, 1))
        return image[:: -1 if down else 1, :: -1 if across else 1]

    def _goes_up(self, axis: int) -> bool:
        direction = self.ijk_to_ras[:3, axis]
        return bool(direction[np.abs(direction).argmax()] > 0)


def straight(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """The matrix of a volume of voxels of a size (D, H, W) in mm that goes to the head, the back and the left."""
    return np.diag([*(sign * mm for sign, mm in zip(LPS_TO_RAS, spacing[::-1])), 1.0])
