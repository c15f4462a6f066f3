"""Reading a volume: a NIfTI file, or, of CT, a folder with one series of DICOM files."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.io.nifti import NIFTI, is_nifti
from segcft.io.reject import Rejected, Remark, about, reading
from segcft.io.series import read_series
from segcft.io.source import Source
from segcft.io.space import FLIP
from segcft.io.volume import Volume
from segcft.utils.extra import extra

MOST_BYTES = 1 << 30
"""Of the voxels of a volume: 512 x 512 x 2048 of 16 bits."""
MOST_UPLOADED = 1 << 26
"""The same of one that is in memory, as a stranger sent it to the page: 256 x 256 x 256, each voxel taken for at least
:data:`COMPUTED` bytes."""
COMPUTED = 4
"""Of a voxel, when it is computed with."""

GZIP = b"\x1f\x8b"
"""How a compressed file begins."""

_MOST_HEADER = 1 << 20  # bytes before the voxels
_HEAD, _MAGIC, _MAGIC_2 = 544, slice(344, 348), slice(4, 8)
_SINGLE = (b"n+1\0", b"n+2\0")
"""How NIfTI-1 and NIfTI-2 files say that their voxels are in them."""

_DEFLATE = 1032  # bytes that one byte of gzip can stand for
_MORE = 1 << 20  # bytes after the voxels that are passed over


def read_volume(path: Path) -> Volume:
    """A CT volume: a NIfTI file, or a folder that holds the DICOM files of one series.

    Raises:
        Rejected: it cannot be read, lacks what places it in space, or is not in Hounsfield units.
    """
    with about(path):
        if path.is_dir():
            volume = read_series(path)
        elif is_nifti(path):
            volume = read_nifti(path)
        else:
            raise Rejected(f"expected a NIfTI file ({' or '.join(NIFTI)}) or a folder with a DICOM series")
        check_affine(volume.affine)
        volume.check()
        return volume


def check_affine(affine: NDArray[np.float64]) -> None:
    """Check that voxels have a size and a shape.

    Raises:
        Rejected: they have none that can be.
    """
    if not np.isfinite(affine).all():
        raise Rejected("the affine holds values that are not finite numbers")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((edges >= VOXEL[0]) & (edges <= VOXEL[1])).all():
        size = " x ".join(f"{edge:g}" for edge in edges)
        raise Rejected(f"voxels of {size} mm, expected edges of {VOXEL[0]:g} to {VOXEL[1]:g} mm")
    if abs(np.linalg.det(affine[:3, :3])) < 0.1 * edges.prod():  # a tilted gantry shears voxels, by 30 degrees at most
        raise Rejected("the affine is (nearly) singular: axes of the volume lie in a plane")


class Stored(NamedTuple):
    """A volume as its file has it, which may be of anything."""

    values: NDArray[Any]
    """(I, J, K), or (I, J, K, C) of several channels."""
    affine: NDArray[np.float64]
    """(4, 4), from indices to mm in LPS."""
    scale: tuple[float, float]
    """Slope and intercept of values."""
    said: bool
    """The file says how it lies in the patient."""
    remarks: tuple[Remark, ...] = ()


def read_stored(path: Source, channels: int = 1) -> Stored:
    """A volume from a NIfTI-1 or NIfTI-2 file, plain or gzip; what is on disk is RAS.

    Several channels are its fourth dimension.

    Raises:
        Rejected: it cannot be read, has other dimensions, or says in two ways how it lies.
    """
    with reading(path, "NIfTI file"):
        image, values = _load(path, channels)
        _check_unit(image)
        said = bool(image.header["qform_code"] or image.header["sform_code"])
        remarks = _one_lie(path, image)
        affine = np.asarray(image.affine, dtype=np.float64)
    scale = float(image.dataobj.slope), float(image.dataobj.inter)
    return Stored(values, np.diag([*FLIP, 1]) @ affine, scale, said, remarks)


def read_nifti(path: Path) -> Volume:
    """A volume from a NIfTI-1 or NIfTI-2 file, plain or gzip; what is on disk is RAS.

    Raises:
        Rejected: it cannot be read, is not three-dimensional, or says nowhere, or in two ways, where it lies.
    """
    with reading(path, "NIfTI file"):
        image, values = _load(path)
        affine = _nifti_affine(image)
    return Volume(values, np.diag([*FLIP, 1]) @ affine, float(image.dataobj.slope), float(image.dataobj.inter))


class Stack(NamedTuple):
    """Slices that were scanned one by one: ``values`` (X, Y, Z) in the file's units, Z slices, and the ``spacing`` of
    their pixels along x and y, in mm."""

    values: NDArray[Any]
    spacing: tuple[float, float]


def read_stack(path: Path) -> Stack:
    """Slices from a NIfTI file, as they are stored; where they lie in the patient is not asked.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: it cannot be read, is not three-dimensional, or has pixels of no size that can be.
    """
    with reading(path, "NIfTI file"):
        image, values = _load(path)
        _check_unit(image)
        x, y = (float(edge) for edge in image.header.get_zooms()[:2])
        if not all(VOXEL[0] <= edge <= VOXEL[1] for edge in (x, y)):
            raise Rejected(f"pixels of {x:g} x {y:g} mm, expected edges of {VOXEL[0]:g} to {VOXEL[1]:g} mm")
        scale, offset = float(image.dataobj.slope), float(image.dataobj.inter)
    return Stack(values if (scale, offset) == (1, 0) else values * scale + offset, (x, y))


@contextmanager
def opened_nifti(path: Source) -> Iterator[Any]:
    """The image of a single NIfTI-1 or NIfTI-2 file, plain or gzip whatever it is called, whose voxels are not read
    yet.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: it is none, or says that it is larger than it can be or than what is read.
    """
    nibabel = extra("nibabel", path)
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        compressed = file.read(len(GZIP)) == GZIP
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        if compressed:
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        head = file.read(_HEAD)
        file.seek(0)
        if head[_MAGIC] not in _SINGLE and head[_MAGIC_2] not in _SINGLE:
            raise Rejected("not a single NIfTI file")
        kind = nibabel.Nifti2Image if head[_MAGIC_2] in _SINGLE else nibabel.Nifti1Image
        header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
        if not 0 <= int(header["vox_offset"]) <= _MOST_HEADER:  # NiBabel reads all that is before the voxels
            raise Rejected(f"its voxels begin after {int(header['vox_offset'])} bytes, expected {_MOST_HEADER} at most")
        image = kind.from_stream(file)
        most = MOST_BYTES if isinstance(path, Path) else MOST_UPLOADED
        least = 0 if isinstance(path, Path) else COMPUTED
        _check_bytes(length, compressed, image, most, least)
        image.rest = file
        yield image


def _load(path: Source, channels: int = 1) -> tuple[Any, NDArray[Any]]:
    """The image of a NIfTI-1 or NIfTI-2 file, plain or gzip, and its values as they are stored, (I, J, K), or
    (I, J, K, C) of several channels."""
    with opened_nifti(path) as image:
        values = np.asanyarray(image.dataobj.get_unscaled())
        if len(image.rest.read(_MORE)) == _MORE:  # to the end, where gzip checks that nothing was damaged
            raise Rejected(f"goes on after the {values.size} voxels of its header")
    return image, _checked(values, channels)


def _check_bytes(found: int, compressed: bool, image: Any, most: int, least: int) -> None:
    """Check that a file of so many bytes can hold the voxels of its header, before there is memory for them; of a voxel
    ``least`` bytes count."""
    voxels, itemsize = math.prod(image.shape), image.get_data_dtype().itemsize
    needed = voxels * itemsize
    if voxels * max(itemsize, least) > most:
        size = " x ".join(map(str, image.shape))
        raise Rejected(f"its header says {size} voxels, more than the {most >> 20} MiB that are read")
    if needed > found * (_DEFLATE if compressed else 1):
        raise Rejected(f"cut off: {found} bytes cannot hold the {math.prod(image.shape)} voxels of its header")


def _checked(values: NDArray[Any], channels: int) -> NDArray[Any]:
    shape, axes = values.shape, 3 if channels == 1 else 4
    while values.ndim > axes and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != axes or min(values.shape[:3]) < 2 or (axes == 4 and values.shape[3] != channels):
        found, more = " x ".join(map(str, shape)), "" if channels == 1 else f", and a fourth one of {channels} channels"
        raise Rejected(f"dim is {found}, expected a volume of three dimensions, each of 2 voxels or more{more}")
    if values.dtype.kind not in "iuf":
        raise Rejected(f"datatype is {values.dtype}, expected whole or real numbers")
    smaller = np.float32 if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    return values.astype(smaller, copy=False)


def _check_unit(image: Any) -> None:
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise Rejected(f"xyzt_units is {unit}, expected mm")


def _one_lie(path: Source, image: Any) -> tuple[Remark, ...]:
    """What to tell of a header that has two affines of which one is moved: it lies alike, at another place.

    Raises:
        Rejected: they differ in direction or in the size of voxels.
    """
    (sform, has_sform), (qform, has_qform) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not (has_sform and has_qform):
        return ()
    # From one corner, along one axis after the other: what is moved alike is no difference.
    apart = float(np.linalg.norm((sform - qform)[:3, :3] * image.shape[:3], axis=0).sum())
    if not apart <= AFFINES:
        raise Rejected(
            f"sform and qform are up to {apart:.3g} mm apart across the volume; remove the one that is wrong"
        )
    moved = float(np.linalg.norm((sform - qform)[:3, 3]))
    if moved <= AFFINES:
        return ()
    text = f"{path}: sform and qform lie {moved:.3g} mm apart, in one direction; sform is believed"
    return (Remark("sform and qform differ", text),)


def _nifti_affine(image: Any) -> NDArray[np.float64]:
    """From indices to mm in RAS."""
    _check_unit(image)
    (sform, has_sform), (qform, has_qform) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not has_sform and not has_qform:
        raise Rejected("sform_code and qform_code are 0: it does not say where the volume lies")
    if has_sform and has_qform:
        corners = np.array(np.meshgrid(*([0, length - 1] for length in image.shape[:3]))).reshape(3, -1)
        apart = np.linalg.norm((sform - qform)[:3] @ np.vstack([corners, np.ones(8)]), axis=0).max()
        if not apart <= AFFINES:
            raise Rejected(f"sform and qform are up to {apart:.3g} mm apart; remove the one that is wrong")
    return np.asarray(sform if has_sform else qform, dtype=np.float64)


AFFINES = 0.1
"""How many mm sform and qform may be apart: both are rounded."""

VOXEL = (0.05, 10.0)
"""Edges of a voxel in mm that are believed; beyond, the header is wrong, or in metres."""
