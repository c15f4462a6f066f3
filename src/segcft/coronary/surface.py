"""Closed surfaces of vessels, and which part of a reformation's pixels they enclose."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from segcft.coronary.reformation import Reformation
from segcft.io.reject import Excluded

UNUSABLE = "mesh unusable"
OPEN = "mesh not closed"
CROSSED = "mesh crosses itself"

_CHUNK = 64  # columns at once: vertices and faces times this many are in memory
_CROSSED = 1e-3  # mm of a column that may be enclosed twice or inside out, from rounding


class Surface:
    """A closed triangle mesh; what it encloses is the inside, whichever way its faces are turned.

    Args:
        vertices: (V, 3) in mm.
        faces: (F, 3), which vertices each triangle has.

    Raises:
        Excluded: vertices are not finite, an edge is not shared by exactly two faces (the mesh is open, or its sheets
            branch), or neighbouring faces are turned different ways.
    """

    def __init__(self, vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> None:
        vertices, faces = np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(f"vertices and faces must be (V, 3) and (F, 3), not {vertices.shape} and {faces.shape}")
        if not np.isfinite(vertices).all():
            raise Excluded(UNUSABLE, "the mesh has coordinates that are not finite numbers")
        if len(faces) == 0 or faces.min() < 0 or faces.max() >= len(vertices):
            raise Excluded(UNUSABLE, "the mesh has no faces, or faces of vertices that it does not have")
        _check_closed(faces, len(vertices))
        # By six times the signed volume; relative to the centre, where it is the least in danger of rounding.
        corners = (vertices - vertices.mean(axis=0))[faces]
        volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
        self.vertices, self.faces = vertices, faces if volume >= 0 else faces[:, ::-1]

    def scaled(self, vector: NDArray[np.float64]) -> Surface:
        """With coordinates multiplied by ``vector`` (3,), of which none or two are negative: nothing is mirrored."""
        other = copy(self)
        other.vertices = self.vertices * vector
        return other

    def coverage(self, reformation: Reformation) -> NDArray[np.float64]:
        """The enclosed share of each pixel, (H, W) in 0 to 1: exact across the vessel, along the column's middle.

        Raises:
            Excluded: some of a column is enclosed twice or inside out, so the mesh crosses itself there.
        """
        height, width = reformation.size
        edges = (np.arange(height + 1) - height / 2) * reformation.spacing
        inside = np.zeros((width, height + 1))  # of each column, mm enclosed up to each edge between pixels
        for left in range(0, width, _CHUNK):
            columns = slice(left, min(left + _CHUNK, width))
            column, offset, sign = self._crossings(
                reformation.centre[columns], reformation.along[columns], reformation.across[columns]
            )
            _check_simple(column, offset, sign, (edges[0], edges[-1]))
            # What lies between an entry and an exit counts: each crossing adds or takes away all that is beyond it.
            beyond = sign[:, None] * np.maximum(edges - offset[:, None], 0)
            np.add.at(inside, left + column, beyond)
        return np.clip(np.diff(inside, axis=1).T / reformation.spacing, 0, 1)

    def _crossings(
        self, centre: NDArray[np.float64], along: NDArray[np.float64], across: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Where the lines through ``centre`` (L, 3) in direction ``across`` pierce the surface.

        First the plane across the vessel that holds the line cuts the mesh: a triangle gives a piece between two of
        its edges, and pieces join to closed outlines. Then the line cuts the outlines. Vertices, and the ends of
        pieces, are told apart by on which side they are, ties included, and each is looked at once: so a line enters
        as often as it leaves, however it meets edges and corners.

        Returns:
            of every crossing: its line, its distance from the centre in mm, and +1 where the line enters, -1 where it
            leaves.
        """
        heights = self.vertices @ along.T - np.einsum("li,li->l", centre, along)  # (V, L)
        above = heights >= 0
        corner = above[self.faces]  # (F, 3, L)
        face, line = np.nonzero(corner.any(axis=1) & ~corner.all(axis=1))
        vertices = self.faces[face]  # (P, 3): around each triangle that is cut
        side = corner[face, :, line]
        rising = ~side & np.roll(side, -1, axis=1)  # the edge from this corner to the next goes up through the plane
        falling = side & ~np.roll(side, -1, axis=1)
        ends = []
        for edge in (rising, falling):
            first = np.argmax(edge, axis=1)
            rows = np.arange(len(face))
            a, b = vertices[rows, first], vertices[rows, (first + 1) % 3]
            a, b = np.minimum(a, b), np.maximum(a, b)  # the same numbers from both triangles of an edge
            share = heights[a, line] / (heights[a, line] - heights[b, line])
            point = self.vertices[a] + share[:, None] * (self.vertices[b] - self.vertices[a]) - centre[line]
            ends.append(
                (
                    np.einsum("pi,pi->p", point, across[line]),
                    np.einsum("pi,pi->p", point, np.cross(along, across)[line]),
                )
            )
        (from_x, from_y), (to_x, to_y) = ends
        sign = (to_y >= 0).astype(np.int64) - (from_y >= 0)
        cut = sign != 0
        share = from_y[cut] / (from_y[cut] - to_y[cut])
        return line[cut], from_x[cut] + share * (to_x[cut] - from_x[cut]), sign[cut]


def _check_closed(faces: NDArray[np.int64], count: int) -> None:
    start, end = faces, np.roll(faces, -1, axis=1)
    forth, back = (start * count + end).ravel(), (end * count + start).ravel()
    undirected = np.unique(np.minimum(forth, back), return_counts=True)[1]
    if (undirected != 2).any():
        loose, branching = int((undirected == 1).sum()), int((undirected > 2).sum())
        why = (
            f"the mesh is not a closed surface: of {len(undirected)} edges {loose} have one face alone and "
            f"{branching} more than two; close its ends"
        )
        raise Excluded(OPEN, why)
    if len(np.unique(forth)) != len(forth):
        raise Excluded(UNUSABLE, "faces of the mesh are turned different ways; orient them consistently")


def _check_simple(
    line: NDArray[np.int64], offset: NDArray[np.float64], sign: NDArray[np.int64], limits: tuple[float, float]
) -> None:
    """Raise :class:`Excluded` if along a line, within ``limits``, the surface is entered again before it is left."""
    order = np.lexsort((offset, line))
    line, offset, sign = line[order], np.clip(offset[order], *limits), sign[order]
    winding = np.cumsum(sign)  # as each line enters as often as it leaves, the sum begins at 0 on the next one
    length = np.where(line[1:] == line[:-1], np.diff(offset), 0)
    wrong = ((winding[:-1] < 0) | (winding[:-1] > 1)) & (length > _CROSSED)
    if wrong.any():
        why = f"the mesh crosses itself: {int(wrong.sum())} stretches of the image are enclosed twice or not at all"
        raise Excluded(CROSSED, why)
