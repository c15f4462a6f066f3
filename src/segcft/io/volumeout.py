"""Writing a volume that says that it is synthetic: as NIfTI, or as a DICOM series of axial slices."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.io.lie import Lie
from segcft.io.provenance import COMMENT, KEY, SYNTHETIC, dicom_of, file_of, png_bytes
from segcft.io.scan import read_array
from segcft.io.source import Source
from segcft.io.space import FLIP
from segcft.io.volumefile import GZIP, opened_nifti
from segcft.utils.extra import extra

PICTURE, VOLUME = ".png", ".nii.gz"
"""Suffixes of images and volumes that are written one a sample, and of their masks."""
VOLUMES = (".nii", VOLUME)
"""Of the files that an answer about a volume can be."""


class Named(NamedTuple):
    """The suffix and the content of a file."""

    suffix: str
    content: bytes


def is_volume_file(path: Path) -> bool:
    """Whether a file is called like one of :data:`VOLUMES`."""
    return path.name.lower().endswith(VOLUMES)


def nifti_bytes(
    values: NDArray[Any],
    lie: Lie,
    record: Mapping[str, Any] | None,
    *,
    compressed: bool = True,
    like: Source | None = None,
) -> bytes:
    """A NIfTI-1 file of a volume (C, D, H, W); with a ``record`` it says that it is synthetic, and why it was made.

    Args:
        values: as they are seen; they are stored as ``lie`` says.
        lie: how the array lies in the patient.
        record: goes into a comment of the header. None: of a real volume.
        compressed: by gzip.
        like: the NIfTI file of the volume, whose header it has but for what that says of values.

    Raises:
        DataError: NiBabel is not installed.
    """
    nibabel = extra("nibabel", "NIfTI", "nifti")
    stored = lie.back(np.moveaxis(values, 0, -1))
    stored = stored[..., 0] if stored.shape[-1] == 1 else stored
    stored = np.ascontiguousarray(stored)
    if like is not None:
        with opened_nifti(like) as original:
            image = nibabel.Nifti1Image(stored, original.affine, original.header, dtype=stored.dtype)
    else:
        affine = np.diag([*FLIP, 1]) @ lie.stored_affine(values.shape[1:])
        image = nibabel.Nifti1Image(stored, affine if lie.said else None, dtype=stored.dtype)
        image.header.set_xyzt_units("mm")
        image.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header.extensions.clear()  # the original's may say who it is, as may these
    for name in ("db_name", "aux_file", "intent_name"):
        if name in image.header:
            image.header[name] = b""
    image.header["descrip"] = b"" if record is None else SYNTHETIC.encode()
    if record is not None:
        comment = json.dumps({KEY: record}, allow_nan=False).encode()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(COMMENT, comment))
    content: bytes = image.to_bytes()
    return gzip.compress(content, mtime=0) if compressed else content


def as_nifti(path: Path, channels: int = 1) -> bytes:
    """A real volume as the content of a compressed NIfTI file: of one its bytes as they are, of a folder with a DICOM
    series its values in its units, at their place.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: a series cannot be read.
    """
    if not path.is_dir():
        content = path.read_bytes()
        return content if content.startswith(GZIP) else gzip.compress(content, mtime=0)
    values, lie, _ = read_array(path, channels)
    values = values.astype(np.float32) if values.dtype.kind == "f" else values  # as which they would be read
    return nifti_bytes(np.moveaxis(values, -1, 0), lie, None)


def grid_file(pixels: NDArray[np.uint8], spacing: tuple[float, ...] | None, record: Mapping[str, Any] | None) -> Named:
    """An image (C, H, W) of a study's grid as a PNG file, or a volume (C, D, H, W) as a NIfTI file, on the axes of the
    patient; with a ``record`` it says that it is synthetic.

    Args:
        pixels: grey levels.
        spacing: of a voxel along each axis, in mm; by default 1.
        record: see :func:`segcft.io.provenance.png_bytes`.
    """
    if pixels.ndim == 3:
        return Named(PICTURE, png_bytes(pixels, record))
    return Named(VOLUME, nifti_bytes(pixels, Lie.straight(spacing or (1.0,) * 3, said=True), record))


def series_bytes(pixels: NDArray[np.uint8], lie: Lie, record: Mapping[str, Any]) -> Iterator[bytes]:
    """The files of a DICOM series, one an axial slice of a volume (C, D, H, W), the lowest first; see
    :func:`segcft.io.provenance.dicom_bytes`."""
    from pydicom.uid import generate_uid

    study, series, frame = (generate_uid(prefix=None) for _ in range(3))
    depth, height, width = (lie.affine[:3, axis] for axis in range(3))
    through, down, across = lie.spacing
    for number in range(pixels.shape[1]):
        dataset = dicom_of(pixels[:, number], record)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PositionReferenceIndicator = ""
        dataset.InstanceNumber = number + 1
        dataset.ImageOrientationPatient = [f"{step:.8g}" for step in (*(width / across), *(height / down))]
        dataset.ImagePositionPatient = [f"{place:.8g}" for place in lie.affine[:3, 3] + number * depth]
        dataset.PixelSpacing = [f"{down:.8g}", f"{across:.8g}"]
        dataset.SliceThickness = f"{through:.8g}"
        yield file_of(dataset)
