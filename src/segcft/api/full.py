r"""A counterfactual in the pixels of the user's own image, and not of the thumbnail that the model sees.

With g the image in its own pixels, x and x' image and counterfactual on the model's grid,

.. math:: g' = g + (x' - x),

the change brought to g's pixels. So g' has the detail of g that the grid does not show; where nothing changes, it is g.
Detail stays where it is. To have it move along with what moves was tried: it draws whirls where the frame is stretched,
and on simulated radiographs of four times the grid's side it is further from the truth than an enlarged counterfactual,
while this is nearer (``python -m benchmarks.full``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segcft.config.image import Image
from segcft.data.crop import Crop
from segcft.data.resize import Pixel, frame_of

Array = NDArray[np.float64]


def full_resolution(
    grey: Array, pixel: Pixel, grid: Image, before: NDArray[np.uint8], after: NDArray[np.uint8]
) -> Array:
    """The counterfactual in the pixels of an image, (C, H, W) in [0, 1].

    Args:
        grey: the image, (C, H, W) in [0, 1].
        pixel: the size of its pixels.
        grid: the model's.
        before, after: image and counterfactual on the grid, uint8 (C, h, w).
    """
    shape = (grey.shape[1], grey.shape[2])
    start, extent = frame_of(shape, grid, pixel)
    change = Crop(start, extent, shape).smooth((after.astype(np.float64) - before) / 255)
    full: Array = np.clip(grey + change, 0, 1)
    return full
