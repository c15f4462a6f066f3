"""Points, lines and triangles of a file, and how their cells are packed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segcft.io.reject import Rejected
from segcft.utils.extra import extra


@dataclass(frozen=True)
class Cells:
    """Lists of points of any length, one after another: cell i is ``points[offsets[i] : offsets[i + 1]]``."""

    points: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        return self.points[self.offsets[number] : self.offsets[number + 1]]

    @classmethod
    def unpack(cls, packed: NDArray[np.int64], count: int) -> Cells:
        """From VTK's old layout, in which each cell's points follow their number.

        Raises:
            Rejected: there are not ``count`` cells.
        """
        starts: list[int] = []
        at = 0
        while at < len(packed) and len(starts) < count:
            starts.append(at)
            at += 1 + max(int(packed[at]), 0)
        if len(starts) != count or at != len(packed):
            raise Rejected(f"{count} lines or polygons are not what their {len(packed)} numbers hold")
        lengths = packed[starts]
        return cls(np.delete(packed, starts), np.concatenate([[0], np.cumsum(lengths)]))

    def at_least(self, size: int) -> Cells:
        """The cells that have so many points."""
        sizes = np.diff(self.offsets)
        kept = sizes >= size
        return Cells(self.points[np.repeat(kept, sizes)], np.concatenate([[0], np.cumsum(sizes[kept])]))

    def packed(self) -> NDArray[np.int64]:
        """VTK's old layout."""
        return np.insert(self.points, self.offsets[:-1], np.diff(self.offsets))


@dataclass(frozen=True)
class MeshFile:
    """What a file holds.

    Attributes:
        points: (P, 3).
        lines: of points.
        polygons: of points; their corners in order.
        strips: of triangles; each point beyond the second makes one with the two before it.
        space: what the file says its coordinates are, e.g. RAS; "" where it does not.
    """

    points: NDArray[np.float64]
    lines: Cells = field(default_factory=Cells)
    polygons: Cells = field(default_factory=Cells)
    strips: Cells = field(default_factory=Cells)
    space: str = ""

    def triangles(self) -> NDArray[np.int64]:
        """Polygons and strips as triangles (F, 3); those of one or two corners, which enclose nothing, are none."""
        polygons, strips = self.polygons.at_least(3), self.strips.at_least(3)
        if len(polygons.points) == 3 * len(polygons) and not len(strips):
            return polygons.points.reshape(-1, 3)
        pyvista = extra("pyvista", "a mesh with polygons of more than three corners")
        mesh = pyvista.PolyData(self.points, faces=polygons.packed(), strips=strips.packed())
        return np.asarray(mesh.triangulate().faces, dtype=np.int64).reshape(-1, 4)[:, 1:]
