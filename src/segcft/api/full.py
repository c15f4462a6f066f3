r"""A counterfactual in the pixels of the user's own image, and not of the thumbnail that the model sees.

With g the image in its own pixels, x and x' image and counterfactual on the model's grid,

.. math:: g' = g + (x' - x),

the change brought to g's pixels. So g' has the detail of g that the grid does not show; where nothing changes, it is g.
Detail stays where it is. To have it move along with what moves was tried: it draws whirls where the frame is stretched,
and on simulated radiographs of four times the grid's side it is further from the truth than an enlarged counterfactual,
while this is nearer (``python -m benchmarks.full``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.config.image import Image
from segcft.data.crop import Crop
from segcft.data.resize import Pixel, frame_of

Array = NDArray[np.float64]


def full_resolution(
    grey: Array, pixel: Pixel, grid: Image, before: NDArray[np.uint8], after: NDArray[np.uint8]
) -> Array:
    """The counterfactual in the pixels of an image, (C, H, W) in [0, 1], or in the voxels of a volume.

    Args:
        grey: the image, (C, H, W) in [0, 1], or the volume, (C, D, H, W).
        pixel: the size of its pixels.
        grid: the model's.
        before, after: image and counterfactual on the grid, uint8 (C, *size).
    """
    full: Array = np.clip(grey + change_of(grey.shape[1:], pixel, grid, before, after), 0, 1)
    return full


def change_of(
    shape: tuple[int, ...], pixel: Pixel, grid: Image, before: NDArray[np.uint8], after: NDArray[np.uint8]
) -> Array:
    """x' - x in the pixels of an image of this ``shape``, (C, *shape) in [-1, 1]; see :func:`full_resolution`."""
    start, extent = frame_of(shape, grid, pixel)
    return Crop(start, extent, shape).smooth((after.astype(np.float64) - before) / 255)


def own_values(stored: NDArray[Any], change: Array, ranges: Sequence[tuple[float, float]]) -> NDArray[Any]:
    """A volume's values in its file's own units, changed: (C, D, H, W), of the file's type.

    Args:
        stored: values (C, D, H, W).
        change: see :func:`change_of`.
        ranges: of each channel the values that are 0 and 1 to the model.
    """
    scale = np.array([high - low for low, high in ranges]).reshape(-1, 1, 1, 1)
    changed = stored + change * scale
    if stored.dtype.kind == "f":
        return changed.astype(np.float32)
    least, most = np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max
    return np.clip(np.rint(changed), least, most).astype(stored.dtype)
