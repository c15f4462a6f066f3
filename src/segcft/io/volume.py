"""A CT volume: Hounsfield units on a grid of voxels, anywhere and at any angle in the patient."""

from __future__ import annotations

import gzip
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from segcft.importers.convert import Excluded
from segcft.io.nifti import NIFTI
from segcft.io.reject import Rejected, Remark
from segcft.io.space import FLIP
from segcft.utils.extra import extra

VOXEL = (0.05, 10.0)
"""Edges of a voxel in mm that are believed; beyond, the header is wrong, or in metres."""

OUTSIDE = "outside the volume"

LEAST_RANGE = 200.0
"""HU between the least and the largest value: air and blood, which any chest holds, are some 1000 apart."""

MOST_BYTES = 1 << 30
"""Of the voxels of a volume: 512 x 512 x 2048 of 16 bits."""
_DEFLATE = 1032  # bytes that one byte of gzip can stand for
_MORE = 1 << 20  # bytes after the voxels that are passed over


@dataclass(frozen=True)
class Volume:
    """A CT volume; values stay in the type that they are stored in, which takes 100 MB for 512 x 512 x 200 voxels.

    Attributes:
        values: stored values (I, J, K).
        affine: (4, 4), from a voxel's index, whole numbers at its centre, to mm in LPS, DICOM's patient coordinates.
        slope: Hounsfield units are ``slope * value + intercept``.
        intercept: see ``slope``.
        remarks: what is to be told of its files though they are read.
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
            raise Excluded(
                OUTSIDE, f"{outside.mean():.1%} of the image is outside the volume, by up to {farthest:.1f} mm"
            )
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
            raise Excluded(
                "not Hounsfield units",
                f"values span {low:g} to {high:g} and {negative:.2%} are below 0, where air, lung and fat are: "
                "the intercept (often -1024) is missing, or values are scaled",
            )

    def _voxels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def _beyond(self, voxels: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many voxels a point lies outside along each axis: (..., 3), at most 0 inside."""
        # Rounding may put a point on the very edge a hair outside of it.
        return np.maximum(-0.5 - voxels, voxels - np.array(self.values.shape) + 0.5) - 1e-6


def read_volume(path: Path) -> Volume:
    """A CT volume: a NIfTI file, or a folder that holds the DICOM files of one series.

    Raises:
        Rejected: it cannot be read, lacks what places it in space, or is not in Hounsfield units.
    """
    from segcft.io.series import read_series  # which needs Volume

    if path.is_dir():
        volume = read_series(path)
    elif path.name.lower().endswith(NIFTI):
        volume = read_nifti(path)
    else:
        raise Rejected(f"{path}: expected a NIfTI file ({' or '.join(NIFTI)}) or a folder with a DICOM series")
    check_affine(path, volume.affine)
    try:
        volume.check()
    except Excluded as reason:
        raise Excluded(reason.kind, f"{path}: {reason}") from None
    except Rejected as reason:
        raise Rejected(f"{path}: {reason}") from None
    return volume


def check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    """Check that voxels have a size and a shape.

    Raises:
        Rejected: they have none that can be.
    """
    if not np.isfinite(affine).all():
        raise Rejected(f"{path}: the affine holds values that are not finite numbers")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((edges >= VOXEL[0]) & (edges <= VOXEL[1])).all():
        size = " x ".join(f"{edge:g}" for edge in edges)
        raise Rejected(f"{path}: voxels of {size} mm, expected edges of {VOXEL[0]:g} to {VOXEL[1]:g} mm")
    if abs(np.linalg.det(affine[:3, :3])) < 0.1 * edges.prod():  # a tilted gantry shears voxels, by 30 degrees at most
        raise Rejected(f"{path}: the affine is (nearly) singular: axes of the volume lie in a plane")


def read_nifti(path: Path) -> Volume:
    """A volume from a NIfTI-1 or NIfTI-2 file, plain or gzip; what is on disk is RAS.

    Raises:
        Rejected: it cannot be read, is not three-dimensional, or says nowhere, or in two ways, where it lies.
    """
    nibabel = extra("nibabel", path)
    try:
        kind = type(nibabel.load(path))
        if not issubclass(kind, nibabel.Nifti1Image):
            raise Rejected(f"{path}: not a single NIfTI file")
        with ExitStack() as stack:
            file: Any = stack.enter_context(path.open("rb"))
            if path.suffix.lower() == ".gz":
                file = stack.enter_context(gzip.GzipFile(fileobj=file))
            image = kind.from_stream(file)
            stored = image.dataobj
            _check_bytes(path, image)
            values = np.asanyarray(stored.get_unscaled())
            if len(file.read(_MORE)) == _MORE:  # to the end, where gzip checks that nothing was damaged
                raise Rejected(f"{path}: goes on after the {values.size} voxels of its header")
        values = _three_dimensional(path, values)
        affine = _nifti_affine(path, image)
    except Rejected:
        raise
    except Exception as error:  # nibabel raises almost anything over a broken file
        line = " ".join(str(error).split()) or type(error).__name__
        raise Rejected(f"{path}: cannot read this NIfTI file ({line})") from None
    return Volume(values, np.diag([*FLIP, 1]) @ affine, float(stored.slope), float(stored.inter))


def _check_bytes(path: Path, image: Any) -> None:
    """Check that a file can hold as many voxels as its header says, before there is memory for them."""
    needed, found = math.prod(image.shape) * image.get_data_dtype().itemsize, path.stat().st_size
    if needed > MOST_BYTES:
        size = " x ".join(map(str, image.shape))
        raise Rejected(f"{path}: its header says {size} voxels, more than the {MOST_BYTES >> 20} MiB that are read")
    if needed > found * (_DEFLATE if path.suffix.lower() == ".gz" else 1):
        raise Rejected(f"{path}: cut off: {found} bytes cannot hold the {math.prod(image.shape)} voxels of its header")


def _three_dimensional(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    shape = values.shape
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or min(values.shape) < 2:
        found = " x ".join(map(str, shape))
        raise Rejected(f"{path}: dim is {found}, expected a volume of three dimensions, each of 2 voxels or more")
    if values.dtype.kind not in "iuf":
        raise Rejected(f"{path}: datatype is {values.dtype}, expected whole or real numbers")
    smaller = np.float32 if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    return values.astype(smaller, copy=False)


def _nifti_affine(path: Path, image: Any) -> NDArray[np.float64]:
    """From indices to mm in RAS."""
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise Rejected(f"{path}: xyzt_units is {unit}, expected mm")
    (sform, has_sform), (qform, has_qform) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not has_sform and not has_qform:
        raise Rejected(f"{path}: sform_code and qform_code are 0: it does not say where the volume lies")
    if has_sform and has_qform:
        corners = np.array(np.meshgrid(*([0, length - 1] for length in image.shape[:3]))).reshape(3, -1)
        apart = np.linalg.norm((sform - qform)[:3] @ np.vstack([corners, np.ones(8)]), axis=0).max()
        if not apart <= 0.1:
            raise Rejected(
                f"{path}: sform and qform place the volume differently, by up to {apart:.3g} mm; "
                "remove the one that is wrong"
            )
    return np.asarray(sform if has_sform else qform, dtype=np.float64)
