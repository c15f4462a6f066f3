"""Straightened curvilinear planar reformation (sCPR): a vessel's longitudinal cross-section, straightened.

Reference: Kanitsar et al., *CPR - curved planar reformation*, IEEE Visualization 2002.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcft.coronary.centreline import Centreline
from segcft.coronary.defaults import SIZE, SPACING
from segcft.io.reject import Excluded

TOO_SHORT = "vessel shorter than the crop"
JAGGED = "centreline too jagged"

MOST_TURN = 25.0
"""Degrees between neighbouring columns. In pixels of 0.25 mm a bend of 3 mm radius turns by 5, and a curve through the
centres of voxels of 0.25 to 1 mm by 28 to 120; it is 10 to 60 % too long as well."""


@dataclass(frozen=True)
class Reformation:
    """A ruled surface through a centreline, as an image of (H, W) pixels: rows across the vessel, columns along it.

    Attributes:
        size: (H, W) in pixels.
        spacing: of pixels, in mm.
        centre: where each column crosses the centreline, (W, 3), in mm.
        along: unit tangents of the centreline there, (W, 3).
        across: unit directions of the columns, from the first row to the last, (W, 3).
    """

    size: tuple[int, int]
    spacing: float
    centre: NDArray[np.float64]
    along: NDArray[np.float64]
    across: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        centreline: Centreline,
        size: tuple[int, int] = SIZE,
        spacing: float = SPACING,
        angle: float = 0.0,
        start: float = 0.0,
    ) -> Reformation:
        """The cross-section of ``centreline`` at ``angle``, from ``start`` on.

        Args:
            centreline: of the vessel.
            size: (H, W) in pixels.
            spacing: of pixels, in mm.
            angle: by which the cross-section is turned about the centreline, in radians. 0 is the direction that the
                whole vessel bends to, see :meth:`Centreline.frames`; half a turn is the mirror image.
            start: where on the centreline the image begins, in mm.

        Raises:
            Excluded: the centreline ends before the image does, or zigzags.
        """
        wanted = start + size[1] * spacing
        if wanted > centreline.length * (1 + 1e-9):
            why = (
                f"the centreline is {centreline.length:.1f} mm long, and the image needs {wanted:g} mm "
                f"({size[1]} pixels of {spacing:g} mm from {start:g} mm on)"
            )
            raise Excluded(TOO_SHORT, why)
        frames = centreline.frames(np.asarray(start + (np.arange(size[1]) + 0.5) * spacing))
        cosine = np.einsum("ni,ni->n", frames.tangent[1:], frames.tangent[:-1])
        turn = float(np.degrees(np.arccos(np.clip(np.nan_to_num(cosine, nan=-1.0), -1, 1))).max(initial=0))
        if turn > MOST_TURN:
            why = (
                f"the centreline turns by up to {turn:.0f} degrees from one column of the image to the next, more than "
                f"{MOST_TURN:g}: smooth it (--smooth; by half a voxel, if its points are centres of voxels)"
            )
            raise Excluded(JAGGED, why)
        across = np.cos(angle) * frames.normal + np.sin(angle) * frames.binormal
        return cls(size, spacing, frames.position, frames.tangent, across)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """Distances of the rows' centres from the centreline, signed, in mm, (H,)."""
        return np.asarray((np.arange(self.size[0]) - (self.size[0] - 1) / 2) * self.spacing)

    @property
    def points(self) -> NDArray[np.float64]:
        """Positions of the pixels' centres in mm, (H, W, 3)."""
        return self.centre + self.offsets[:, None, None] * self.across
