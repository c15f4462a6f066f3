"""A folder with a series in DICOM, one file a slice, as a volume."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from segcft.io.dicomfile import Dataset, open_dicom, reading_dicom, text_of
from segcft.io.dicomhead import DICOMDIR
from segcft.io.dicompixels import decode
from segcft.io.imagefile import is_dicom
from segcft.io.reject import Rejected, Remark, Unreadable, about
from segcft.io.volume import Volume

TOLERANCE = 0.1
"""How far a slice may be from where its number puts it, as a share of the distance between slices."""

MOST_NAMED = 5
"""Files that are no slices and are named in a remark; others are counted."""

ROUNDING = 0.01
"""Headers may round positions to this many mm, which is no reason to refuse thin slices."""


@dataclass(frozen=True)
class Slice:
    """What the header of a slice says of its place.

    Attributes:
        path: its file.
        position: (3,) centre of the first pixel in mm.
        along: (3, 2) steps in mm from one column to the next and from one row to the next.
        shape: rows and columns.
        scale: slope and intercept of Hounsfield units.
    """

    path: Path
    position: NDArray[np.float64]
    along: NDArray[np.float64]
    shape: tuple[int, int]
    scale: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector across the slice."""
        across = np.cross(self.along[:, 0], self.along[:, 1])
        return across / np.linalg.norm(across)


def read_series(folder: Path, hounsfield: bool = True) -> Volume:
    """The volume of the one series in ``folder``, whatever the order and the names of its files.

    If ``hounsfield`` it must be CT, and say how values become Hounsfield units.

    What is no DICOM image is passed over, and told by a remark, unless it is called like the slices.
    Slices of a tilted gantry are each moved sideways; the affine says so, and nothing is resampled.

    Raises:
        Rejected: there is no series or several, a slice is missing, damaged or there twice, or slices do not make a
            regular grid.
    """
    slices, others = _slices(folder, hounsfield)
    first = slices[0]
    with about(folder):
        step = _step(slices)
    # Of other images than CT each slice may have a scale of its own, as of PET it has.
    scaled = any(one.scale != first.scale for one in slices)
    values: NDArray[Any] | None = None
    remarks: dict[str, Remark] = {}  # the first of each kind: what is told of one slice holds for its neighbours
    if others:
        some = ", ".join(others[:MOST_NAMED]) + (", ..." if len(others) > MOST_NAMED else "")
        kind = "files beside the series"
        remarks[kind] = Remark(kind, f"{folder}: {len(others)} files are no slices and passed over: {some}")
    for number, one in enumerate(slices):
        dataset = open_dicom(one.path)
        found: list[Remark] = []
        with reading_dicom(one.path):
            stored, padding = decode(dataset, found)
            if padding is not None and not padding.all():
                stored = np.where(padding, stored[~padding].min(), stored)
            if scaled:
                stored = (stored * one.scale[0] + one.scale[1]).astype(np.float32)
            if values is None:
                values = np.empty((len(slices), *first.shape), stored.dtype)
            if stored.dtype != values.dtype or stored.shape != first.shape:
                raise Rejected(f"{stored.dtype} {stored.shape}, expected {values.dtype} {first.shape}")
            values[number] = stored
        for remark in found:
            remarks.setdefault(remark.kind, remark.at(one.path))
    assert values is not None
    affine = np.eye(4)
    affine[:3] = np.column_stack([first.along, step, first.position])
    scale = (1.0, 0.0) if scaled else first.scale
    return Volume(values.transpose(2, 1, 0), affine, *scale, remarks=tuple(remarks.values()))


def slices_of(folder: Path) -> list[Path]:
    """The files of the one series in ``folder``, in the order of its volume's last axis.

    Raises:
        Rejected: see :func:`read_series`.
    """
    return [one.path for one in _slices(folder, False)[0]]


def _slices(folder: Path, hounsfield: bool) -> tuple[list[Slice], list[str]]:
    """The slices of the one series in ``folder`` in their order, and what else lies there."""
    files, others = _one_series(folder)
    slices = []
    for path, header in files:
        with reading_dicom(path):
            slices.append(_read_header(path, header, hounsfield))
    with about(folder):
        return _in_order(slices, hounsfield), others


def _one_series(folder: Path) -> tuple[list[tuple[Path, Dataset]], list[str]]:
    """Files and headers of the series in ``folder``, and what else lies there.

    Raises:
        Rejected: there is none or several, or a file that must be a slice is none.
    """
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    others: list[str] = []
    foreign: list[Path] = []
    for path in sorted(folder.iterdir()):
        # Some systems keep their notes on a file in a hidden one that is called like it.
        if path.is_file() and not path.name.startswith(".") and path.name != DICOMDIR:
            if not is_dicom(path):
                foreign.append(path)
            elif _is_image(path, header := open_dicom(path, pixels=False)):
                found.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append((path, header))
                continue
        others.append(path.name)
    if not found:
        raise Rejected(f"{folder}: holds no DICOM file")
    names = {_pattern(path) for files in found.values() for path, _ in files}
    for path in foreign:
        if _pattern(path) in names:
            raise Unreadable("damaged file", f"{path}: is called like the slices beside it, and is no DICOM file")
    if len(found) > 1:
        each = "; ".join(
            f"{len(files)} files {text_of(files[0][1], 'SeriesDescription') or uid or 'without SeriesInstanceUID'!r} "
            f"({files[0][0].name}, ...)"
            for uid, files in found.items()
        )
        raise Rejected(f"{folder}: holds {len(found)} series, expected one: {each}")
    return next(iter(found.values())), others


def is_one_series(folder: Path) -> bool:
    """Whether the first DICOM files of a folder are two slices of one series, and not images of several subjects."""
    uids: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != DICOMDIR and is_dicom(path):
            try:
                uids.append(str(open_dicom(path, pixels=False).get("SeriesInstanceUID") or ""))
            except Rejected:  # one that is damaged says nothing of the others
                continue
            if len(uids) > 1:
                return bool(uids[0]) and uids[0] == uids[1]
    return False


def _is_image(path: Path, header: Dataset) -> bool:
    """Whether a DICOM file is one, or a damaged one: reports, presentation states and tables of contents are none."""
    with reading_dicom(path):
        kind = header.get("SOPClassUID") or getattr(header, "file_meta", header).get("MediaStorageSOPClassUID")
        return bool(header.get("Rows")) or kind is None or "Image" in UID(kind).name


def _pattern(path: Path) -> str:
    """What the names of a series' files have in common: all but their numbers, which may be hexadecimal."""
    return re.sub(r"\b[0-9a-f-]{8,}\b|\d+(\.\d+)*", "#", path.name.lower())


def _read_header(path: Path, header: Dataset, hounsfield: bool) -> Slice:
    """The place of a slice."""
    if hounsfield and (modality := text_of(header, "Modality")) != "CT":
        raise Rejected(f"Modality is {modality}, expected CT")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise Rejected(f"NumberOfFrames is {header.NumberOfFrames}, expected one slice a file; use NIfTI")
    (position,), (spacing,) = _numbers(header, "ImagePositionPatient", 3), _numbers(header, "PixelSpacing", 2)
    across, down = _numbers(header, "ImageOrientationPatient", 3, 3)
    if not np.allclose([across @ across, down @ down, across @ down], [1, 1, 0], atol=1e-3):
        raise Rejected("ImageOrientationPatient is no pair of unit vectors at a right angle")
    scaled = hounsfield or "RescaleSlope" in header
    slope, intercept = (
        float(_numbers(header, name, 1)[0][0]) if scaled else default
        for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if not hounsfield and text_of(header, "PhotometricInterpretation") != "MONOCHROME2":
        raise Rejected(
            f"PhotometricInterpretation is {text_of(header, 'PhotometricInterpretation')}, expected MONOCHROME2"
        )
    if hounsfield and (unit := text_of(header, "RescaleType") or "HU") not in ("HU", "US"):  # US: unspecified
        raise Rejected(f"RescaleType is {unit}, expected HU")
    # From one column to the next one goes across, by the second of the spacings.
    along = np.column_stack([across * spacing[1], down * spacing[0]])
    return Slice(path, position, along, (int(header.Rows), int(header.Columns)), (slope, intercept))


def _numbers(header: Dataset, name: str, *lengths: int) -> list[NDArray[np.float64]]:
    """The numbers of an element, in parts of ``lengths``."""
    try:
        numbers = np.atleast_1d(np.asarray(header.get(name), dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != sum(lengths) or not np.isfinite(numbers).all():
        raise Rejected(f"{name} is {text_of(header, name)}, expected {sum(lengths)} numbers")
    return np.split(numbers, np.cumsum(lengths)[:-1])


def _in_order(slices: Sequence[Slice], one_scale: bool) -> list[Slice]:
    """Slices that fit together, along their normal; of ``one_scale`` where they must be.

    Raises:
        Rejected: they are too few, differ in what must be the same, lie at the same place, or one is missing.
    """
    first = slices[0]
    if len(slices) < 2:
        raise Rejected("holds a single slice")
    for other in slices:
        for name, one, two, tolerance in (
            ("rows and columns", first.shape, other.shape, 0.0),
            ("slope and intercept", first.scale, other.scale if one_scale else first.scale, 0.0),
            ("ImageOrientationPatient and PixelSpacing", first.along, other.along, 1e-4),
        ):
            if not np.allclose(one, two, rtol=0, atol=tolerance):
                raise Rejected(f"{first.path.name} and {other.path.name} differ in {name}")
    heights = np.array([one.position @ first.normal for one in slices])
    order = np.argsort(heights, kind="stable")
    ordered, gaps = [slices[number] for number in order], np.diff(heights[order])
    usual = float(np.median(gaps))
    for lower, upper, gap in zip(ordered, ordered[1:], gaps, strict=False):
        if gap < max(TOLERANCE * usual, 1e-3):
            raise Rejected(
                f"{lower.path.name} and {upper.path.name} are at the same place: a copy, or several phases "
                "of the heart in one series"
            )
        if gap > 1.5 * usual:
            raise Rejected(
                f"{max(1, round(gap / usual) - 1)} slices are missing between {lower.path.name} and "
                f"{upper.path.name}, which are {gap:.4g} mm apart; most are {usual:.4g} mm"
            )
    return ordered


def _step(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """(3,) mm from one slice to the next.

    Raises:
        Rejected: slices are not evenly spaced along a line.
    """
    positions = np.stack([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    worst = int(off.argmax())
    if off[worst] > max(TOLERANCE * np.linalg.norm(step), ROUNDING):
        raise Rejected(
            f"slices are not evenly spaced along a line: {slices[worst].path.name} is {off[worst]:.3g} mm "
            f"off, at a distance of {np.linalg.norm(step):.3g} mm between slices"
        )
    return step
