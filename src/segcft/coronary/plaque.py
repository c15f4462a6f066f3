"""The vessel's wall told apart: calcified plaque is brighter than the lumen, the rest is non-calcified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from segcft.coronary.defaults import CALCIUM_DEVIATIONS, CALCIUM_FLOOR
from segcft.io.reject import Excluded

STRUCTURES = ("lumen", "calcified", "noncalcified")
"""What a straightened image shows."""

NO_LUMEN = "no lumen in the image"


@dataclass(frozen=True)
class Threshold:
    """Above how many HU the wall is calcified: ``deviations`` above what the contrast agent makes of the lumen, and
    never below ``floor``, in HU.

    A fixed threshold would call a well enhanced vessel's wall calcified, by partial volume alone. The lumen's level is
    the median and its spread the scaled median absolute deviation of its inner pixels, which calcium that blooms into
    the lumen hardly moves.
    """

    floor: float = CALCIUM_FLOOR
    deviations: float = CALCIUM_DEVIATIONS

    def of(self, hu: NDArray[np.floating], lumen: NDArray[np.floating]) -> float:
        """The threshold in HU for an image (H, W) with this ``lumen`` (coverage, (H, W)).

        Raises:
            Excluded: no pixel is mostly lumen.
        """
        whole = lumen >= 0.5
        if not whole.any():
            raise Excluded(NO_LUMEN, "no pixel of the image is lumen; does the mesh belong to this centreline?")
        inner = binary_erosion(whole)
        values = hu[inner if inner.any() else whole]
        level = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - level)))
        return max(self.floor, level + self.deviations * spread)


def split(
    hu: NDArray[np.floating], lumen: NDArray[np.floating], wall: NDArray[np.floating], threshold: float
) -> NDArray[np.float64]:
    """Coverage (3, H, W) of lumen, calcified and non-calcified plaque, in the order of :data:`STRUCTURES`.

    Args:
        hu: the image, (H, W), in HU.
        lumen: coverage by the lumen, (H, W), in 0 to 1.
        wall: coverage by what the outer wall encloses, lumen included, (H, W).
        threshold: HU above which plaque is calcified, see :class:`Threshold`.
    """
    plaque = np.clip(wall - lumen, 0, 1)
    calcified = plaque * (hu > threshold)
    return np.stack([lumen, calcified, plaque - calcified])
