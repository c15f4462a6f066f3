"""A volume as studies read it: a NIfTI file or a folder with a DICOM series, on the axes of the patient.

Whatever the order and direction of its axes in the file, an array of a volume goes from feet to head, then from front
to back, then from the patient's right to the left. So its slices across the first axis are seen as radiologists look at
axial images, the lowest first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.io.dicomhead import DICOMDIR
from segcft.io.greys import PERCENTILES, check_varied, limits, scaled
from segcft.io.imagefile import SUFFIXES, ImageFile, called, check_id, find_file, is_dicom, read_image, strip_suffix
from segcft.io.lie import Lie
from segcft.io.nifti import NIFTI, Axes, is_nifti
from segcft.io.reject import Rejected, Remark, about
from segcft.io.series import read_series
from segcft.io.source import Source
from segcft.io.volumefile import Stored, check_affine, read_stored
from segcft.utils.extra import extra

SHEARED = 0.01
"""Share of a voxel's volume that it may lack beside a box of its edges."""
OBLIQUE = 15.0
"""Degrees between an axis of the array and that of the patient beyond which a remark tells of it."""


def find_scan(folder: Path, id: str) -> Path:
    """The file of the volume ``id`` in ``folder``, or the folder with its DICOM series, which is called ``id``.

    Raises:
        Rejected: there is none or more than one, or ``id`` leads out of the folder.
    """
    check_id(id)
    if not id or not is_series(folder / id):
        return find_file(folder, id, NIFTI)
    beside = [name for suffix in NIFTI if (folder / (name := f"{id}{suffix}")).is_file()]
    if beside:
        raise Rejected(f"{folder / id}: a series, and {beside[0]} beside it; which of them is it?")
    return folder / id


def walked(folder: Path) -> Iterator[Path]:
    """All that is below a folder, in order, but for what is hidden. Links are followed, not to where one has been."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted([*folders, *files]) if not name.startswith("."))


def names_in(folder: Path, pattern: str | None, volumes: bool) -> list[str]:
    """The ids of all images in ``folder`` and below it, in order.

    Args:
        folder: of the images.
        pattern: how they are called, as ``{id}_0000.nii.gz``; None: as the samples.
        volumes: whether they are volumes, of which a folder with a DICOM series is one.
    """
    named, suffixes = None if pattern is None else called(pattern), NIFTI if volumes else SUFFIXES
    whole = pattern is not None and pattern.lower().endswith(SUFFIXES)  # else the suffix is left open
    ids = []
    for path in walked(folder):
        if not (path.is_file() or (volumes and is_series(path))):
            continue
        place = path.relative_to(folder).as_posix()
        image = path.is_dir() or place.lower().endswith(suffixes)
        stem = place if path.is_dir() else strip_suffix(place)
        if named is None:
            ids += [stem] if image else []
        elif (image or whole) and (match := named.fullmatch(place if whole else stem)):
            ids.append(match["id"])
    return sorted(set(ids))  # a file beside another of that name is told of when it is read


def is_series(path: Path) -> bool:
    """Whether it is a folder that holds DICOM files, which are taken for slices of one volume; and no volumes."""
    if not path.is_dir():
        return False
    files = [one for one in path.iterdir() if one.is_file() and not one.name.startswith(".")]
    return any(one.name != DICOMDIR and is_dicom(one) for one in files) and not any(map(is_nifti, files))


def series_below(folder: Path) -> set[Path]:
    """The folders below ``folder``, at any depth, that hold a DICOM series; see :func:`is_series`."""
    return {path for path in folder.rglob("*") if is_series(path)}


def read_seen(
    path: Source,
    dimensions: int,
    channels: int,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
    axes: Axes | None = None,
) -> ImageFile:
    """An image, or a volume where there are three ``dimensions``; see :func:`~segcft.io.imagefile.read_image` and
    :func:`read_scan`."""
    if dimensions == 2:
        return read_image(path, channels, grey_range, window, axes)
    if isinstance(path, Path) and not path.exists():
        raise Rejected(f"{path}: there is no such file")
    return read_scan(path, channels, grey_range, window)


def read_scan(
    path: Source,
    channels: int = 1,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> ImageFile:
    """Grey values of a volume on the axes of the patient, and what its file says.

    Args:
        path: a NIfTI file, or a folder with one DICOM series.
        channels: of the volume. Several are the fourth dimension of a NIfTI file; each has its own percentiles.
        grey_range: values in the file that become 0 and 1.
        window: percentiles that do so. By default it is the whole range of 8 bits without a sign, and of other types,
            as MR and CT have them, the 0.5th and 99.5th percentile.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: it cannot be read, has another number of dimensions or channels, does not say in one way how it lies,
            or shows one single value.
    """
    stored, lie, remarks = read_array(path, channels)
    with about(path):
        values = np.moveaxis(stored, -1, 0)
        check_varied(values)
        ranges = grey_limits(values, grey_range, window)
        each = zip(values, ranges, strict=True)  # one after the other: a volume is large
        grey = np.concatenate([scaled(one[None].astype(np.float64), None, limits) for one, limits in each])
    extent = tuple(length * mm for length, mm in zip(grey.shape[1:], lie.spacing, strict=True))
    return ImageFile(grey, 1.0, {}, remarks, extent=extent, lie=lie)


def grey_limits(
    stored: NDArray[Any], grey_range: tuple[float, float] | None, window: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """Which values of each channel (C, D, H, W) become 0 and 1; see :func:`read_scan`."""
    full = None
    if grey_range is None and window is None:
        if stored.dtype == np.uint8:  # of 16 bits scanners use what they need
            full = float(np.iinfo(stored.dtype).max)
        else:
            window = PERCENTILES
    return [limits(one.astype(np.float64), full, grey_range, window) for one in stored]


def read_array(path: Source, channels: int = 1) -> tuple[NDArray[Any], Lie, tuple[Remark, ...]]:
    """The values of a volume in the file's units, on the axes of the patient, (D, H, W, C); how it lies; remarks.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: see :func:`read_scan`.
    """
    with about(path):
        if isinstance(path, Path) and path.is_dir():
            volume = read_series(path, hounsfield=False)
            found = Stored(volume.values, volume.affine, (volume.slope, volume.intercept), True, volume.remarks)
        elif is_nifti(path):
            found = read_stored(path, channels)
        else:
            raise Rejected(f"expected a NIfTI file ({' or '.join(NIFTI)}) or a folder with a DICOM series")
        check_affine(found.affine)
        _check_right_angles(found.affine)
        lie, degrees = _lie_of(found, path)
        values = found.values if found.values.ndim == 4 else found.values[..., None]
        if values.shape[-1] != channels:
            raise Rejected(f"has {values.shape[-1]} channels, the study {channels}")
        slope, intercept = found.scale
        if (slope, intercept) != (1.0, 0.0):
            values = values * slope + intercept
    remarks = list(found.remarks)
    if not found.said:
        text = "its header does not say how it lies in the patient; it is taken as its axes are"
        remarks.append(Remark("unknown orientation", f"{path}: {text}"))
    if degrees > OBLIQUE:
        text = f"its axes are up to {degrees:.0f} degrees from those of the patient; it is not turned"
        remarks.append(Remark("oblique", f"{path}: {text}"))
    return lie.turn(values), lie, tuple(remarks)


def _check_right_angles(affine: NDArray[np.float64]) -> None:
    """Check that voxels are as large as their edges say: a tilted gantry shears them.

    Raises:
        Rejected: they are not.
    """
    axes = affine[:3, :3]
    lost = 1 - abs(float(np.linalg.det(axes))) / float(np.linalg.norm(axes, axis=0).prod())
    if lost > SHEARED:
        raise Rejected(f"its axes are not at right angles, so volumes would be {lost:.1%} too large; resample it first")


def _lie_of(found: Stored, path: Source) -> tuple[Lie, float]:
    """How a volume lies on the nearest axes of the patient, and how many degrees it is off these."""
    extra("nibabel", path, "nifti")
    from nibabel.orientations import inv_ornt_aff, io_orientation

    orientation = io_orientation(found.affine)  # of each stored axis the axis of LPS, and its direction
    shape = found.values.shape[:3]
    straight = found.affine @ inv_ornt_aff(orientation, shape)
    # Axes go to the left, the back and the head now, and are seen the other way round.
    order = tuple(int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in (2, 1, 0))
    flipped = tuple(bool(orientation[stored, 1] < 0) for stored in order)
    seen = straight[:, [2, 1, 0, 3]]
    steps = seen[:3, :3] / np.linalg.norm(seen[:3, :3], axis=0)
    smallest = min(abs(steps[2, 0]), abs(steps[1, 1]), abs(steps[0, 2]))
    return Lie(seen, order, flipped, found.said), math.degrees(math.acos(min(smallest, 1.0)))
