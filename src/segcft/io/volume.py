"""A CT volume: Hounsfield units on a grid of voxels, anywhere and at any angle in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from segcft.io.reject import Excluded, Rejected, Remark

OUTSIDE = "outside the volume"

LEAST_RANGE = 200.0
"""HU between the least and the largest value: air and blood, which any chest holds, are some 1000 apart."""


@dataclass(frozen=True)
class Volume:
    """A CT volume; values stay in the type that they are stored in, which takes 100 MB for 512 x 512 x 200 voxels.

    Attributes:
        values: stored values (I, J, K).
        affine: (4, 4), from a voxel's index, whole numbers at its centre, to mm in LPS, DICOM's patient coordinates.
        slope: Hounsfield units are ``slope * value + intercept``.
        intercept: see ``slope``.
        remarks: remarks on its files.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    remarks: tuple[Remark, ...] = ()

    def sample(self, points: ArrayLike) -> NDArray[np.float32]:
        """Hounsfield units (...) at ``points`` (..., 3) in mm, by linear interpolation between voxels.

        The volume ends where its outermost voxels do, half a voxel beyond their centres.

        Raises:
            Excluded: some points are outside; how many and how far, since a crop that the volume cuts off cannot be
                told from one that is dark there.
        """
        points = np.asarray(points, dtype=np.float64)
        voxels = self._voxels(points)
        beyond = self._beyond(voxels)
        if (outside := beyond.max(axis=-1) > 0).any():
            spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
            farthest = float((beyond * spacing).max())
            why = f"{outside.mean():.1%} of the image is outside the volume, by up to {farthest:.1f} mm"
            raise Excluded(OUTSIDE, why)
        voxels = voxels.reshape(-1, 3).T
        values = map_coordinates(self.values, voxels, np.float64, order=1, mode="nearest", prefilter=False)
        values = values.reshape(points.shape[:-1])
        return (values * self.slope + self.intercept).astype(np.float32)

    def check(self) -> None:
        """Check that these can be Hounsfield units.

        Raises:
            Excluded: they span too little, or lack air.
        """
        low, high = (float(limit) * self.slope + self.intercept for limit in (self.values.min(), self.values.max()))
        if not np.isfinite([low, high]).all():
            raise Rejected("holds values that are not finite numbers")
        if high - low < LEAST_RANGE:
            raise Excluded("not Hounsfield units", f"values span {low:g} to {high:g}, less than a CT of the chest does")
        some = self.values[tuple(slice(None, None, max(1, length // 64)) for length in self.values.shape)]
        negative = np.mean(some * self.slope + self.intercept < 0)
        if negative < 0.001:
            why = (
                f"values span {low:g} to {high:g} and {negative:.2%} are below 0, where air, lung and fat are: "
                "the intercept (often -1024) is missing, or values are scaled"
            )
            raise Excluded("not Hounsfield units", why)

    def _voxels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def _beyond(self, voxels: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many voxels a point lies outside along each axis: (..., 3), at most 0 inside."""
        # Rounding may put a point on the very edge a hair outside of it.
        return np.maximum(-0.5 - voxels, voxels - np.array(self.values.shape) + 0.5) - 1e-6
