"""Coronary CT angiographies as a folder of straightened vessels with masks of lumen and plaque.

A table names, for each vessel, the volume and what was traced in it: a centreline and meshes of the lumen and of the
outer wall. Each becomes one image or several, longitudinal cross-sections at different angles about the centreline.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcft.coronary.plaque import STRUCTURES, Threshold, split
from segcft.coronary.vessel import LINE_COLUMN, MESH_COLUMN, Crop, Files, Traced
from segcft.data import attributes
from segcft.data.splits import PARTS
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted, Value
from segcft.importers.shared import Shared
from segcft.io.nifti import NIFTI
from segcft.io.reject import Excluded, about
from segcft.io.space import Frame, parse_frame
from segcft.io.volume import Volume
from segcft.io.volumefile import read_volume
from segcft.utils.extra import extra
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.ccta import CCTA

BITS = {"lumen": 1, "noncalcified": 2, "calcified": 4}
"""Flags of the masks; no pixel has two of them."""

FILES = {"volume": "CT volume", "centreline": "centreline", "lumen": "mesh of the lumen", "wall": "mesh of the wall"}
"""Columns of the table that name files."""

WRITTEN = ("vessel_id", "angle_deg", "lumen_hu", "calcium_hu")
"""Columns of the result beside the table's own."""


@dataclass(frozen=True)
class Vessel:
    """A row of the table.

    Attributes:
        id: of the vessel, unique.
        patient: whose it is.
        split: its part, or None.
        files: place of each of :data:`FILES`, or why there is none.
        frames: in which coordinates the centreline's file and those of the meshes are, as far as the table says.
        attributes: further columns; None is an empty cell.
        stamp: changes when the row or one of its files does.
    """

    id: str
    patient: str
    split: str | None
    files: Mapping[str, Path | Excluded]
    frames: tuple[Frame, Frame]
    attributes: Mapping[str, str | None]
    stamp: str


def convert_ccta(options: CCTA, out: Path, progress: Progress | None = None) -> Summary:
    """See :class:`~segcft.importers.formats.ccta.CCTA`. Each thread may hold a volume, and as many more are kept."""
    vessels = read_vessels(options.table)
    sweep = [180 * step / options.sweep for step in range(options.sweep)] if options.sweep else options.angles
    labels = label_angles(sweep)
    _check_packages(vessels)
    # Vessels of one volume come one after another, wherever they are in the table, so that it is read once.
    place = {vessel.files["volume"]: number for number, vessel in reversed([*enumerate(vessels)])}
    vessels.sort(key=lambda vessel: place[vessel.files["volume"]])
    items = [_Item(vessel, label, angle) for vessel in vessels for label, angle in labels.items()]
    return convert(
        items,
        len(items),
        _Reader(options).read,
        out,
        settings=options.settings,
        splits=options.splits,
        workers=options.workers,
        progress=progress,
    )


def read_vessels(table: Path) -> list[Vessel]:
    """The rows of a table of vessels.

    Raises:
        DataError: it cannot be read, lacks a column, has one that the result needs, has a row without an id or two of
            one, puts a patient into two parts, or names coordinates that there are not.
    """
    rows, ragged = attributes.read_table(table, {"id": "name of the vessel"} | FILES)
    if ragged:
        raise DataError(Code.INVALID, f"{table}: line {ragged[0][0]}", ragged[0][1])
    for name in WRITTEN:
        if name in rows[0].cells:
            why = "the result has a column of this name itself; call it otherwise"
            raise DataError(Code.DUPLICATE, f"{table}: column {name!r}", why)
    vessels: dict[str, Vessel] = {}
    parts: dict[str, str | None] = {}
    for row in rows:
        cells = dict(row.cells)
        id, part = cells.pop("id"), cells.pop("split", "") or None
        where = f"{table}: line {row.line}"
        if not id:
            raise DataError(Code.MISSING, f"{where}: id", "the cell is empty")
        if id in vessels:
            raise DataError(Code.DUPLICATE, f"{where}: id", f"{id!r} is there before")
        if part is not None and part not in PARTS:
            why = f"{part!r}, expected one of {', '.join(PARTS)}, or nothing to draw it"
            raise DataError(Code.INVALID, f"{where}: split", why)
        patient = cells.pop("patient", "") or id
        if parts.setdefault(patient, part) != part:
            one, other = (name or "to be drawn" for name in (parts[patient], part))
            raise DataError(Code.CONFLICT, f"{where}: split", f"one patient is in two parts: {one}, and here {other}")
        frames = (_frame(where, LINE_COLUMN, cells), _frame(where, MESH_COLUMN, cells))
        files = {column: _place(table.parent, column, cells.pop(column)) for column in FILES}
        further = {name: text or None for name, text in cells.items()}
        vessels[id] = Vessel(id, patient, part, files, frames, further, _stamp(row.cells, files))
    return list(vessels.values())


def label_angles(angles: Sequence[float]) -> dict[str, float]:
    """Names of images, ``a000``, and the angle in [0, 360) degrees, to a tenth, of each.

    Raises:
        DataError: there is none, or two of the same name.
    """
    labels: dict[str, float] = {}
    for angle in angles:
        if not np.isfinite(angle):
            raise DataError(Code.OUT_OF_RANGE, "--angles", f"{angle:g} is no angle in degrees")
        turned = round(float(angle) % 360, 1) % 360  # again, since 359.97 is rounded to 360
        label = f"a{turned:03.0f}" if turned.is_integer() else f"a{turned:05.1f}"
        if label in labels:
            raise DataError(Code.DUPLICATE, "--angles", f"two angles are {labels[label]:g} degrees, to a tenth")
        labels[label] = turned
    if not labels:
        raise DataError(Code.MISSING, "--angles", "no angle is given")
    return labels


def to_bits(coverage: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Coverage (3, H, W) of :data:`~segcft.coronary.plaque.STRUCTURES` as flags (H, W): a pixel is what covers most of
    it, and nothing where the background does.
    """
    classes = np.concatenate([coverage, 1 - coverage.sum(axis=0, keepdims=True)])
    flags = np.array([*(BITS[name] for name in STRUCTURES), 0], dtype=np.uint8)
    return flags[classes.argmax(axis=0)]


@dataclass(frozen=True)
class _Item:
    vessel: Vessel
    label: str
    angle: float

    @property
    def id(self) -> str:
        return f"{self.vessel.id}_{self.label}"

    @property
    def stamp(self) -> str:
        return self.vessel.stamp


class _Reader:
    """Makes a sample of a vessel and an angle."""

    def __init__(self, options: CCTA) -> None:
        threshold = Threshold(options.calcium_floor, options.calcium_deviations)
        self.crop = Crop(options.size, options.spacing, options.start, threshold)
        self.window = options.window
        self._volumes = Shared(_read_volume, options.workers)
        self._traced: Shared[Files, Traced] = Shared(
            lambda files: Traced.read(files, options.smooth, options.ras), options.workers
        )

    def read(self, item: _Item) -> Converted:
        vessel = item.vessel
        volume_path, centreline, lumen, wall = (_there(column, place) for column, place in vessel.files.items())
        files = Files(volume_path, centreline, lumen, wall, *vessel.frames)
        volume = partial(self._volumes, volume_path)
        seen = self.crop.see(self._traced(files), volume, float(np.radians(item.angle)))
        low, high = self.window
        image = np.rint(np.clip((seen.hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        coverage = split(seen.hu, seen.lumen, seen.wall, seen.calcium)
        found = (vessel.id, item.angle, round(seen.mean, 1), round(seen.calcium, 1))
        known: dict[str, Value] = {**vessel.attributes, **dict(zip(WRITTEN, found, strict=True))}
        remarks = volume().remarks
        return Converted(item.id, vessel.patient, image, to_bits(coverage), known, vessel.split, remarks=remarks)


def _read_volume(path: Path) -> Volume:
    with about(path, "volume unreadable"):
        return read_volume(path)


def _check_packages(vessels: Sequence[Vessel]) -> None:
    """Check that what files need is installed, as far as their names tell: a mesh may hold polygons.

    Raises:
        DataError: it is not.
    """
    for vessel in vessels:
        for column, place in vessel.files.items():
            name = place.name.lower() if isinstance(place, Path) else ""
            if column == "volume" and name.endswith(NIFTI):
                extra("nibabel", place)
            elif name.endswith(".vtp") or (column in ("lumen", "wall") and name.endswith((".ply", ".vtk"))):
                extra("pyvista", place)


def _frame(where: str, column: str, cells: dict[str, str]) -> Frame:
    try:
        return parse_frame(cells.pop(column, ""))
    except ValueError as error:
        raise DataError(Code.INVALID, f"{where}: {column}", f"{error}") from None


def _place(folder: Path, column: str, text: str) -> Path | Excluded:
    """The file that a cell names; a relative path stays below the folder, so that this can be moved as a whole."""
    if not text:
        return Excluded("file missing", f"no file in column {column!r}")
    path = Path(text)
    if ".." in path.parts:
        return Excluded(
            "unusable path", f"{column} is {text!r}, which leads out of the table's folder: make it absolute"
        )
    return folder / path


def _there(column: str, place: Path | Excluded) -> Path:
    if isinstance(place, Excluded):
        raise place
    if not os.path.exists(place):  # which, unlike Path.exists, is False if the name is too long
        raise Excluded("file missing", f"{place}: no such file ({column})")
    return place


def _stamp(cells: Mapping[str, str], files: Mapping[str, Path | Excluded]) -> str:
    """A digest of a row and of the sizes and times of its files."""
    digest = hashlib.sha256(repr(sorted(cells.items())).encode())
    for place in files.values():
        if isinstance(place, Excluded):
            continue
        with suppress(OSError, ValueError):  # whoever reads the file says what is wrong
            for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                about = path.stat()
                digest.update(f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
