"""The ways to lay an image or a volume down."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Turn(NamedTuple):
    """One of the eight ways to lay an image down: rows and columns are exchanged first, then either is reversed."""

    exchanged: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def __call__(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Pixels (..., H, W), turned."""
        pixels = np.swapaxes(pixels, -1, -2) if self.exchanged else pixels
        return pixels[..., :: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]

    @property
    def inverse(self) -> Turn:
        """What lays an image down again as it was before."""
        return Turn(True, self.mirrored, self.upside_down) if self.exchanged else self

    def aspect(self, aspect: float) -> float:
        """Height divided by width of a pixel that has this ``aspect`` before it is turned."""
        return 1 / aspect if self.exchanged else aspect

    def __str__(self) -> str:
        names = ("rows and columns exchanged", "turned upside down", "mirrored left to right")
        return ", ".join(name for name, done in zip(names, self, strict=True) if done) or "as stored"


class Flip(NamedTuple):
    """One of the eight ways to lay a volume down without exchanging its axes."""

    upside_down: bool = False
    back_to_front: bool = False
    mirrored: bool = False

    def __call__(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Voxels (..., D, H, W), turned."""
        return np.flip(voxels, tuple(axis for axis, flip in zip((-3, -2, -1), self, strict=True) if flip))

    def __str__(self) -> str:
        names = ("turned upside down", "turned back to front", "mirrored left to right")
        return ", ".join(name for name, done in zip(names, self, strict=True) if done) or "as stored"


AS_STORED = Turn()
"""Nothing is turned."""
