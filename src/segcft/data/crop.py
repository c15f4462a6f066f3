"""A frame cut out of a picture, at the place and of the size that are wanted: no area is invented or lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Callable[[int, float, float, int], Array]


class Crop(NamedTuple):
    """A frame of ``size`` pixels (H, W) over a part of a picture, which it may leave, or of voxels (D, H, W) over a
    part of a volume.

    ``start`` and ``extent`` (down, across) are in pixels of the picture, whose first pixel goes from 0 to 1.
    """

    start: tuple[float, ...]
    extent: tuple[float, ...]
    size: tuple[int, ...]

    @classmethod
    def around(cls, centre: tuple[float, float], extent: tuple[float, float] | None, size: tuple[int, int]) -> Crop:
        """A frame with its middle at ``centre``; without an ``extent`` of the picture's own pixels, uncut."""
        if extent is not None:
            start = (centre[0] - extent[0] / 2, centre[1] - extent[1] / 2)
            return cls(start, extent, size)
        whole = (round(centre[0] - size[0] / 2), round(centre[1] - size[1] / 2))
        return cls(whole, size, size)

    def average(self, picture: NDArray[Any], fill: float = 0.0) -> Array:
        """Means of a picture (..., h, w) over each pixel of the frame, (..., H, W); ``fill`` is beyond its edges."""
        return self._apply(picture, fill, [_overlaps for _ in self.size])

    def smooth(self, picture: NDArray[Any], fill: float = 0.0) -> Array:
        """Like :meth:`average` where an axis shrinks; linear between pixel centres where it grows."""
        ways = [_overlaps if extent >= count else _linear for extent, count in zip(self.extent, self.size, strict=True)]
        return self._apply(picture, fill, ways)

    def _apply(self, picture: NDArray[Any], fill: float, ways: Sequence[Weights]) -> Array:
        axes = range(-len(self.size), 0)
        weights = [
            way(picture.shape[axis], self.start[axis], self.extent[axis], self.size[axis])
            for way, axis in zip(ways, axes, strict=True)
        ]
        *others, rows, columns = weights
        framed: Array = rows @ np.asarray(picture, dtype=np.float64) @ columns.T
        for axis, one in zip(axes, others, strict=False):
            framed = np.moveaxis(np.tensordot(one, framed, (1, axis % framed.ndim)), 0, axis)
        covered: Array = reduce(np.multiply.outer, (one.sum(axis=1) for one in weights))
        return framed + fill * (1 - covered)


def _overlaps(pixels: int, start: float, extent: float, count: int) -> Array:
    """Share of each of ``count`` new pixels that each of the old ones covers, (count, pixels)."""
    edges = start + extent / count * np.arange(count + 1)
    old = np.arange(pixels)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.clip(covered, 0, None) * (count / extent)


def _linear(pixels: int, start: float, extent: float, count: int) -> Array:
    """Weight of each old pixel at the centre of each new one, (count, pixels); none at a centre beyond the edges."""
    centres = start + extent / count * (np.arange(count) + 0.5)
    inside = (centres >= 0) & (centres <= pixels)
    nearest = np.clip(centres - 0.5, 0, pixels - 1)
    return np.clip(1 - np.abs(nearest[:, None] - np.arange(pixels)), 0, None) * inside[:, None]
