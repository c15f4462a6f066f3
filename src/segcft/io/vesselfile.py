"""Files with a centreline or a mesh: what other programs write, as arrays in LPS coordinates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.io.mesh import MeshFile
from segcft.io.meshfile import read_mesh
from segcft.io.reject import Rejected, about
from segcft.io.space import AS_SAID, Frame, said_in

CENTRELINES = (".vtp", ".vtk", ".csv", ".txt")
SURFACES = (".stl", ".ply", ".vtp", ".vtk")

_TOLD = 8  # lines of which a message gives the length


class Line(NamedTuple):
    """A centreline."""

    points: NDArray[np.float64]
    """(N, 3) in mm, in LPS, in the order in which they follow each other."""
    frame: Frame
    """In which coordinates the file has them."""


class Mesh(NamedTuple):
    """The surface of a body."""

    vertices: NDArray[np.float64]
    """(V, 3) in mm, in LPS."""
    faces: NDArray[np.int64]
    """Its triangles (F, 3), as numbers of vertices."""
    frame: Frame
    """In which coordinates the file has them."""


def read_centreline(path: Path, ras: bool = False, frame: Frame = AS_SAID) -> Line:
    """A centreline, and how its file has it.

    Args:
        path: ``.vtp`` or ``.vtk`` with one line; ``.csv`` with columns x, y, z, or with these three and no header;
            ``.txt`` as in the Rotterdam Coronary Artery Algorithm Evaluation: x, y, z and whatever follows (radius,
            variability between observers), a point a line.
        ras: coordinates are RAS where neither ``frame`` nor the file says what they are; else LPS.
        frame: what the user says of the file's coordinates.

    Raises:
        Rejected: it cannot be read, or does not hold one line.
    """
    with about(path):
        match path.suffix.lower():
            case ".vtp" | ".vtk":
                mesh = read_mesh(path)
                points, said = _the_line(mesh), mesh.space
            case (".csv" | ".txt") as suffix:
                text = _read_text(path)
                points = (parse_csv if suffix == ".csv" else parse_rotterdam)(text)
                said = next(filter(None, (said_in(line) for line in text.splitlines() if line.startswith("#"))), "")
            case _:
                raise Rejected(f"expected a centreline in a file that ends in {', '.join(CENTRELINES)}")
        return Line(*_placed(points, said, ras, frame))


def read_surface(path: Path, ras: bool = False, frame: Frame = AS_SAID) -> Mesh:
    """A mesh as triangles, and how its file has it.

    Polygons and strips become triangles. Vertices at exactly the same place are one, since STL repeats them in every
    triangle; triangles that have two of their corners there are dropped.

    Args:
        path: ``.stl``, ``.ply``, ``.vtp`` or ``.vtk``.
        ras: see :func:`read_centreline`.
        frame: see :func:`read_centreline`.

    Raises:
        Rejected: it cannot be read, or holds no triangle.
    """
    with about(path):
        if path.suffix.lower() not in SURFACES:
            raise Rejected(f"expected a mesh in a file that ends in {', '.join(SURFACES)}")
        mesh = read_mesh(path)
        faces = mesh.triangles()
        if not len(faces):
            raise Rejected(f"the mesh is empty: {len(mesh.points)} points and no polygon")
        points, frame = _placed(mesh.points, mesh.space, ras, frame)
        vertices, place = np.unique(points[faces].reshape(-1, 3), axis=0, return_inverse=True)
        faces = place.reshape(-1, 3)
        collapsed = (faces == np.roll(faces, 1, axis=1)).any(axis=1)
        if collapsed.all():
            raise Rejected(f"the mesh is empty: all of its {len(faces)} triangles are collapsed")
        return Mesh(vertices, faces[~collapsed], frame)


def parse_csv(text: str) -> NDArray[np.float64]:
    """Points (N, 3) from a table, with a header that has x, y and z, in any order among others, or without one.

    Cells are parted by commas, semicolons, tabs or blanks; between semicolons, numbers may have decimal commas. Empty
    lines and those that begin with ``#`` are skipped.

    Args:
        text: the table.

    Raises:
        Rejected: a line is not understood.
    """
    lines = _lines(text)
    first = lines[0][1]
    separator = next((mark for mark in ";,\t" if mark in first), None)

    def cells(line: str) -> list[str]:
        found = [cell.strip().strip('"') for cell in line.split(separator)]
        return [cell.replace(",", ".") for cell in found] if separator == ";" else found

    header = [_axis(cell.lower()) for cell in cells(first)]
    if not any(_is_number(cell) for cell in header):
        if not {"x", "y", "z"} <= {*header}:
            raise Rejected(f"line {lines[0][0]}: the header is {first!r}, expected columns x, y and z")
        places, lines, width = [header.index(axis) for axis in "xyz"], lines[1:], len(header)
        if not lines:
            raise Rejected("holds a header and no points")
    else:
        places, width = [0, 1, 2], 3
    points = []
    for number, line in lines:
        found = cells(line)
        if len(found) != width:
            raise Rejected(f"line {number}: {len(found)} cells, expected {width}")
        points.append(_numbers([found[place] for place in places], number))
    return np.array(points)


def _axis(name: str) -> str:
    """The name of a column, of the coordinates without their unit."""
    # Of the whole name: searching it for its end takes the square of its length.
    found = re.fullmatch(r"([xyz])(?:\W*mm\W*|_mm)", name)
    return found[1] if found else name


def parse_rotterdam(text: str) -> NDArray[np.float64]:
    """Points (N, 3) from lines of x, y, z and perhaps more numbers, parted by blanks.

    Args:
        text: the lines.

    Raises:
        Rejected: a line is not understood, or has not as many numbers as the first.
    """
    rows = [(number, line.split()) for number, line in _lines(text)]
    width = len(rows[0][1])
    for number, cells in rows:
        if len(cells) < 3 or len(cells) != width:
            expected = f"{width}, as before" if width >= 3 else "x, y, z and perhaps more"
            raise Rejected(f"line {number}: {len(cells)} numbers, expected {expected}")
    return np.array([_numbers(cells, number)[:3] for number, cells in rows])


def chain(lines: Sequence[NDArray[np.int64]], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one line that many short ones are pieces of: points (N, 3) in order.

    Pieces are joined where their ends are at exactly the same place. The line goes the way of the file's first piece.

    Args:
        lines: the numbers of each piece's points.
        points: (P, 3).

    Raises:
        Rejected: they make several lines, a branch or a ring.
    """
    places, index = np.unique(points, axis=0, return_inverse=True)
    steps = np.concatenate([np.column_stack([index[line[:-1]], index[line[1:]]]) for line in lines])
    steps = steps[steps[:, 0] != steps[:, 1]]
    neighbours: dict[int, list[int]] = {}
    for one, other in steps.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    ends = [place for place, beside in neighbours.items() if len(beside) == 1]
    order: list[int] = []
    at = ends[0] if len(ends) == 2 else None
    while at is not None:
        before = order[-1] if order else None
        order.append(at)
        at = next((place for place in neighbours[at] if place != before), None) if len(order) <= len(places) else None
    if not order or len(order) != len(neighbours) or any(len(beside) > 2 for beside in neighbours.values()):
        raise Rejected(f"{len(lines)} lines with {len(ends)} loose ends, expected one line{_lengths(lines, points)}")
    if order.index(steps[0, 0]) > order.index(steps[0, 1]):
        order.reverse()
    return places[order]


def _lengths(lines: Sequence[NDArray[np.int64]], points: NDArray[np.float64]) -> str:
    """The end of a message: how long the first lines are."""
    if len(lines) > _TOLD:
        return ""
    lengths = (float(np.linalg.norm(np.diff(points[line], axis=0), axis=1).sum()) for line in lines)
    return f" (they are {', '.join(f'{length:.4g}' for length in lengths)} long): give one vessel a file"


def _the_line(mesh: MeshFile) -> NDArray[np.float64]:
    """The points of the one line in a VTK file."""
    lines = [line for line in map(mesh.lines.__getitem__, range(len(mesh.lines))) if len(line) > 1]
    if not lines:
        raise Rejected(f"holds no line: {len(mesh.points)} points, {len(mesh.polygons)} polygons")
    return mesh.points[lines[0]] if len(lines) == 1 else chain(lines, mesh.points)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Rejected(f"cannot read this file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Rejected("is no text file") from None


def _lines(text: str) -> list[tuple[int, str]]:
    """Lines that say something, with their numbers from 1."""
    stripped = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    found = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    if not found:
        raise Rejected("holds no points")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], line: int) -> list[float]:
    for cell in cells:
        if not _is_number(cell):
            raise Rejected(f"line {line}: {cell!r} is no number")
    return [float(cell) for cell in cells]


def _placed(points: NDArray[Any], said: str, ras: bool, frame: Frame) -> tuple[NDArray[np.float64], Frame]:
    """Points as mm in LPS, and in which coordinates they were."""
    points = np.asarray(points, dtype=np.float64)
    if not np.isfinite(points).all():
        raise Rejected("holds coordinates that are not finite numbers")
    frame = frame.of_file(said, ras)
    return points * frame.vector + 0.0, frame  # + 0.0: -0.0 becomes 0.0, so that both are one place
