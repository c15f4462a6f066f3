r"""A counterfactual in the pixels of the user's own image, and not of the thumbnail that the model sees.

With g the image in its own pixels, x and x' image and counterfactual on the model's grid, and d the displacement from
each place of x' to the place in x where it comes from, each brought to g's pixels,

.. math:: g'(p) = g(p + d(p)) + (x' - x \circ (\mathrm{id} + d))(p).

So what the image has and the grid has not moves along with the anatomy, and what the model changes beside is added.
Where it changes nothing, g' is g.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from segcft.config.study import Image
from segcft.data.resize import frame_of
from segcft.importers.crop import Crop

Array = NDArray[np.float64]


def full_resolution(
    grey: Array,
    aspect: float,
    grid: Image,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    displacement: NDArray[np.float32] | None,
) -> Array:
    """The counterfactual in the pixels of an image.

    Args:
        grey: the image, (C, H, W) in [0, 1].
        aspect: height of a pixel divided by its width.
        grid: the model's.
        before, after: image and counterfactual on the grid, uint8 (C, h, w).
        displacement: x, y (2, h, w) in halves of the grid's frame; None: nothing is moved.

    Returns:
        (C, H, W) in [0, 1].
    """
    shape = (grey.shape[1], grey.shape[2])
    start, extent = frame_of(shape, grid, aspect)
    crop = Crop(start, extent, shape)
    x, changed = before / 255, after / 255
    if displacement is not None and displacement.any():
        rows, columns = displacement[1] * grid.size[0] / 2, displacement[0] * grid.size[1] / 2
        moved = _moved(x, rows, columns, order=1)
        # On the grid in its pixels; in the image one of these has this many.
        down, across = (n / length for n, length in zip(shape, extent, strict=True))
        own = crop.smooth(np.stack([rows, columns]))
        grey = _moved(grey, own[0] * down, own[1] * across, order=3)
    else:
        moved = x
    full: Array = np.clip(grey + crop.smooth(changed - moved), 0, 1)
    return full


def _moved(maps: Array, rows: NDArray[np.floating], columns: NDArray[np.floating], order: int) -> Array:
    """Maps (C, H, W) at every pixel's place displaced by ``rows`` and ``columns`` (H, W); beyond the frame its edge
    goes on. What is not displaced stays exactly what it is."""
    here = np.indices(rows.shape, dtype=np.float64)
    places = [here[0] + rows, here[1] + columns]
    still = (rows == 0) & (columns == 0)
    found = [np.where(still, one, map_coordinates(one, places, order=order, mode="nearest")) for one in maps]
    return np.stack(found)
