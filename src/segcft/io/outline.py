"""The outline of a structure: one way to find it, for pages, reports and figures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outlines(mask: NDArray[np.floating | np.bool_]) -> list[NDArray[np.float64]]:
    """Closed lines (N, 2) of x, y around where a mask (H, W) in 0..1 is above one half, a pixel being 1 x 1 and the
    upper left corner of the image (0, 0). Along the border of the image they are closed as well."""
    from skimage.measure import find_contours  # late: slow to import

    # Of the padded mask, rows and columns at the centres of pixels.
    return [line[:, ::-1] - 0.5 for line in find_contours(np.pad(mask.astype(np.float32), 1), 0.5)]
