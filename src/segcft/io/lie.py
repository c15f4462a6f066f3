"""How the array of a volume lies in the patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.io.reject import Rejected

CANONICAL: tuple[tuple[int, ...], tuple[bool, ...]] = ((2, 1, 0), (False, True, True))
"""As :class:`Lie` has order and direction of an array that goes to the right, to the front and to the head (RAS)."""
UNSAID: tuple[tuple[int, ...], tuple[bool, ...]] = ((2, 1, 0), (False, True, False))
"""The same of one that goes to the left, as NIfTI's default is where a header does not say it."""
APART = 0.1
"""How many mm the corners of a mask may be from those of its image: headers are rounded."""


@dataclass(frozen=True)
class Lie:
    """How the array of a volume lies in the patient, and how it was turned to be seen.

    Attributes:
        affine: (4, 4), from indices of the array as it is seen to mm in LPS, DICOM's patient coordinates.
        order: the stored axis along each axis that is seen.
        flipped: whether each axis that is seen is the stored one backwards.
        said: the file says how it lies.
    """

    affine: NDArray[np.float64]
    order: tuple[int, ...] = (0, 1, 2)
    flipped: tuple[bool, ...] = (False, False, False)
    said: bool = True

    @classmethod
    def straight(cls, spacing: tuple[float, ...], said: bool = False) -> Lie:
        """Of voxels of a size (D, H, W) in mm whose axes are those of the patient; by default nobody has said so."""
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = spacing
        affine[3, 3] = 1
        return cls(affine, *(CANONICAL if said else UNSAID), said=said)

    def sized(self, spacing: tuple[float, ...]) -> Lie:
        """The same with voxels of another size (D, H, W) in mm."""
        affine = self.affine.copy()
        affine[:3, :3] *= np.array(spacing) / self.spacing
        return replace(self, affine=affine)

    def turn(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The stored array (I, J, K, ...) as it is seen, (D, H, W, ...)."""
        turned = np.moveaxis(stored, self.order, (0, 1, 2))
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def back(self, seen: NDArray[Any]) -> NDArray[Any]:
        """The array as it is seen, (D, H, W, ...), as it is stored."""
        straight = seen[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        return np.moveaxis(straight, (0, 1, 2), self.order)

    def stored_affine(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """(4, 4), from indices of the stored array to mm in LPS; ``shape`` (D, H, W) is of the one that is seen."""
        seen = np.zeros((4, 4))  # from indices of the stored array to those of the one that is seen
        seen[3, 3] = 1
        for axis, (stored, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            seen[axis, stored], seen[axis, 3] = (-1, shape[axis] - 1) if flip else (1, 0)
        found: NDArray[np.float64] = self.affine @ seen
        return found

    def within(self, start: tuple[float, ...], extent: tuple[float, ...], size: tuple[int, ...]) -> Lie:
        """How a grid of ``size`` voxels lies over a part of this one (:func:`~segcft.data.resize.window_of`), stored
        in :data:`CANONICAL` order."""
        step = np.array(extent) / size
        inner = np.diag([*step, 1.0])
        inner[:3, 3] = np.array(start) + step / 2 - 0.5
        return Lie(self.affine @ inner, *(CANONICAL if self.said else UNSAID), said=self.said)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis that is seen, in mm."""
        depth, height, width = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return depth, height, width

    def apart(self, other: Lie, shape: tuple[int, ...]) -> float:
        """How far corners of an array (D, H, W) of this ``shape`` are from where they lie by another one, in mm."""
        corners = np.array(np.meshgrid(*([-0.5, length - 0.5] for length in shape))).reshape(3, -1)
        moved = (self.affine - other.affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
        return float(np.linalg.norm(moved, axis=0).max())


def check_lie(mask: Lie, image: Lie, shape: tuple[int, ...]) -> None:
    """Check that a mask lies where its image does; ``shape`` (D, H, W) is that of both.

    Raises:
        Rejected: it lies elsewhere, or only one of the two says where.
    """
    if mask.said != image.said:
        raise Rejected("of this mask and its image only one says in its header how it lies in the patient")
    apart = mask.apart(image, shape)
    if apart > APART:
        raise Rejected(f"by their headers this mask lies up to {apart:.3g} mm from where its image does")
