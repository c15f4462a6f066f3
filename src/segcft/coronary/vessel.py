"""One vessel of a volume, straightened, with what covers each pixel; or why there is no such image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.coronary.centreline import Centreline
from segcft.coronary.plaque import NO_LUMEN, Threshold
from segcft.coronary.reformation import TOO_SHORT, Reformation
from segcft.coronary.surface import Surface
from segcft.io.reject import Excluded, Rejected, about
from segcft.io.space import AS_SAID, FRAMES, Frame
from segcft.io.vesselfile import Line, read_centreline, read_surface
from segcft.io.volume import OUTSIDE, Volume

SHORT_MESH = "mesh shorter than the crop"
APART = "mesh elsewhere"
CROSSING = "lumen outside the wall"
DARK = "lumen without contrast agent"
CONFUSED = "coordinates confused"

MISPLACED = frozenset({TOO_SHORT, SHORT_MESH, APART, CROSSING, DARK, NO_LUMEN, OUTSIDE})
"""Reasons that may come from coordinates that are not what they are taken for."""

LEAST_LENGTH = 0.95
"""Share of the image's columns that the mesh of the wall must be in, and that must lie between the ends of the lumen's:
without a wall plaque is missing, and beyond the lumen all of it is plaque. In between the vessel may be occluded."""

MOST_OUTSIDE = 0.1
"""Share of the lumen that may be outside of the wall, as surfaces drawn one by one cross a little."""

LEAST_LUMEN = 100.0
"""HU: blood without contrast agent has 40, so that a darker lumen than this is none, or the meshes lie elsewhere."""

LINE_COLUMN, MESH_COLUMN = "centreline_in", "meshes_in"
"""Columns of the table that say in which coordinates files are."""


class Files(NamedTuple):
    """Where a vessel is, and in which coordinates, as far as the user says."""

    volume: Path
    centreline: Path
    lumen: Path
    wall: Path
    line_frame: Frame = AS_SAID
    mesh_frame: Frame = AS_SAID


@dataclass(frozen=True)
class Traced:
    """What was traced of a vessel.

    Attributes:
        files: where.
        line: the centreline's points.
        centreline: the curve through them.
        smooth: see :class:`Centreline`.
        lumen, wall: the meshes.
        frames: in which coordinates the files of these two are.
    """

    files: Files
    line: Line
    centreline: Centreline
    smooth: float
    lumen: Surface
    wall: Surface
    frames: tuple[Frame, Frame]

    @classmethod
    def read(cls, files: Files, smooth: float, ras: bool) -> Traced:
        """What ``files`` hold; see :func:`segcft.io.vesselfile.read_centreline`.

        Raises:
            Excluded: a file cannot be read, or what it holds is no course or no surface of a vessel.
        """
        with about(files.centreline, "centreline unreadable"):
            line = read_centreline(files.centreline, ras, files.line_frame)
            centreline = Centreline(line.points, smooth)
        surfaces, frames = [], []
        for path in (files.lumen, files.wall):
            with about(path, "mesh unreadable"):
                vertices, faces, frame = read_surface(path, ras, files.mesh_frame)
                surfaces.append(Surface(vertices, faces))
                frames.append(frame)
        return cls(files, line, centreline, smooth, surfaces[0], surfaces[1], (frames[0], frames[1]))

    def with_line_in(self, frame: Frame) -> Traced:
        """As if the centreline's file were in these coordinates.

        Raises:
            Excluded: it would be beyond any patient.
        """
        points = self.line.points * (frame.vector / self.line.frame.vector)
        return replace(self, line=Line(points, frame), centreline=Centreline(points, self.smooth))

    def with_meshes_in(self, frame: Frame) -> Traced:
        """As if the meshes' files were in these coordinates."""
        lumen, wall = (
            surface.scaled(frame.vector / was.vector)
            for surface, was in zip((self.lumen, self.wall), self.frames, strict=True)
        )
        return replace(self, lumen=lumen, wall=wall, frames=(frame, frame))


class Straightened(NamedTuple):
    """A straightened vessel."""

    hu: NDArray[np.float32]
    """(H, W), in HU."""
    lumen: NDArray[np.float64]
    """Coverage of the pixels, (H, W) in 0 to 1."""
    wall: NDArray[np.float64]
    """Coverage by what the outer wall encloses, lumen included, (H, W)."""
    mean: float
    """Of the lumen, in HU."""
    calcium: float
    """Threshold in HU, see :class:`Threshold`."""


@dataclass(frozen=True)
class Crop:
    """Which part of vessels is seen, and how.

    Attributes:
        size: (H, W) in pixels.
        spacing: of pixels, in mm.
        start: where on the centreline the image begins, in mm.
        threshold: of calcium.
    """

    size: tuple[int, int]
    spacing: float
    start: float
    threshold: Threshold

    def see(self, traced: Traced, volume: Callable[[], Volume], angle: float) -> Straightened:
        """The vessel, straightened.

        Args:
            traced: where it is.
            volume: gives the volume; it is not asked for one where the meshes do not cover the image.
            angle: see :meth:`Reformation.of`.

        Raises:
            Excluded: the image would show something else; if in other coordinates it would not, in which these are.
        """
        try:
            return self._see(traced, volume, angle)
        except Excluded as reason:
            if reason.kind in MISPLACED and (hint := self._elsewhere(traced, volume, angle)):
                raise Excluded(CONFUSED, f"{reason}; {hint}") from None
            raise

    def _see(self, traced: Traced, volume: Callable[[], Volume], angle: float) -> Straightened:
        files = traced.files
        with about(files.centreline):
            reformation = Reformation.of(traced.centreline, self.size, self.spacing, angle, self.start)
        with about(files.lumen):
            lumen = traced.lumen.coverage(reformation)
            _check_lumen(lumen)
        with about(files.wall):
            wall = traced.wall.coverage(reformation)
            _check_wall(lumen, wall)
        with about(files.volume):
            hu = volume().sample(reformation.points)
        with about(files.lumen):
            calcium = self.threshold.of(hu, lumen)
            mean = float((hu * lumen).sum() / lumen.sum())
            if mean < LEAST_LUMEN:
                why = (
                    f"the lumen has {mean:.0f} HU on average, expected {LEAST_LUMEN:g} or more: the mesh may not "
                    "lie where the vessel is in the volume"
                )
                raise Excluded(DARK, why)
        return Straightened(hu, lumen, wall, mean, calcium)

    def _elsewhere(self, traced: Traced, volume: Callable[[], Volume], angle: float) -> str:
        """What to say of a vessel that would be seen in other coordinates; "" of one that would not.

        They are tried: it counts that the image lies in the volume, within the meshes, and that the lumen is bright.
        """
        for line in sorted(FRAMES, key=lambda frame: frame != traced.line.frame):  # rather the meshes alone
            try:
                moved = traced.with_line_in(line)
                surface = Reformation.of(moved.centreline, self.size, self.spacing, angle, self.start)
                volume().sample(surface.points)
            except Rejected:
                continue
            for meshes in (None, *FRAMES):
                try:
                    self._see(moved.with_meshes_in(meshes) if meshes else moved, volume, angle)
                except Rejected:
                    continue
                changed = [("centreline", LINE_COLUMN, traced.line.frame, line)] * (line != traced.line.frame)
                changed += [("meshes", MESH_COLUMN, traced.frames[0], meshes)] if meshes else []
                fitting = " and ".join(f"the {what} in {frame}, not {was}" for what, _, was, frame in changed)
                cells = " and ".join(f"{column} = {frame}" for _, column, _, frame in changed)
                return f"all would fit with {fitting}: if so it is, say it in the table ({cells})"
        return ""


def _check_lumen(lumen: NDArray[np.float64]) -> None:
    """Check that the lumen's mesh is as long as the image; whether there is one at all is for others to tell.

    Raises:
        Excluded: it is not.
    """
    columns = np.nonzero(lumen.max(axis=0) > 0)[0]
    if len(columns) and (length := (columns[-1] - columns[0] + 1) / lumen.shape[1]) < LEAST_LENGTH:
        why = (
            f"from the first to the last that the mesh is in are {length:.0%} of the image's columns, expected "
            f"{LEAST_LENGTH:.0%} (--start, --size)"
        )
        raise Excluded(SHORT_MESH, why)


def _check_wall(lumen: NDArray[np.float64], wall: NDArray[np.float64]) -> None:
    """Check that the wall's mesh is as long as the image and holds the lumen.

    Raises:
        Excluded: it does not.
    """
    seen = float((wall.max(axis=0) > 0).mean())
    if seen == 0:
        raise Excluded(APART, "the mesh is nowhere in the image: it is of another vessel, or in other coordinates")
    if seen < LEAST_LENGTH:
        why = f"the mesh is in {seen:.0%} of the image's columns, expected {LEAST_LENGTH:.0%} (--start, --size)"
        raise Excluded(SHORT_MESH, why)
    outside = float(np.maximum(lumen - wall, 0).sum() / max(lumen.sum(), 1e-9))
    if outside > MOST_OUTSIDE:
        raise Excluded(CROSSING, f"{outside:.0%} of the lumen is outside of this mesh; are they exchanged?")
