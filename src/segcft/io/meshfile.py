"""Points, lines and triangles of STL, PLY and VTK files.

VTK's own readers do not notice that a file is cut off, or crash over it, and with them whatever calls them. Files are
therefore read here, with every count checked against what the file holds; XML files in :mod:`segcft.io.vtpfile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.io.mesh import Cells, MeshFile
from segcft.io.reject import Rejected, about
from segcft.io.space import said_in
from segcft.io.vtpfile import parse_vtp


def read_mesh(path: Path) -> MeshFile:
    """What an ``.stl``, ``.ply``, ``.vtk`` or ``.vtp`` file holds.

    Raises:
        Rejected: it cannot be read, is cut off, or has lines and polygons of points that it does not have.
    """
    parsers = {".stl": parse_stl, ".ply": parse_ply, ".vtk": parse_vtk, ".vtp": parse_vtp}
    kind = path.suffix.lower()
    with about(path):
        try:
            mesh = parsers[kind](path.read_bytes())
        except OSError as error:
            raise Rejected(f"cannot read this file ({error.strerror})") from None
        except (ValueError, LookupError, OverflowError) as error:  # what numbers in the wrong place lead to
            raise Rejected(f"damaged {kind} file ({' '.join(str(error).split())})") from None
        for cells in (mesh.lines, mesh.polygons, mesh.strips):
            if len(cells.points) and not 0 <= cells.points.min() <= cells.points.max() < len(mesh.points):
                raise Rejected(f"lines or polygons have points that are not among the {len(mesh.points)} of the file")
            if (np.diff(cells.offsets) < 0).any() or cells.offsets[0] != 0 or cells.offsets[-1] != len(cells.points):
                raise Rejected("lines or polygons are damaged")
        return mesh


def parse_stl(content: bytes) -> MeshFile:
    """An STL file, binary or text; corners of different triangles are different points.

    Raises:
        Rejected: it is cut off, or neither.
    """
    count = int.from_bytes(content[80:84], "little")
    title = content[:80]
    if len(content) >= 84 and len(content) == 84 + 50 * count:  # first: some binary files begin with "solid" too
        layout = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        points = np.frombuffer(content, layout, count, 84)["corners"].reshape(-1, 3)
    elif content[:5].lower() == b"solid":
        title = content.partition(b"\n")[0]
        text = content.decode("ascii", errors="replace").lower()
        numbers = re.findall(r"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", text)
        facets, ends, solids = (
            len(re.findall(rf"^[ \t]*{word}\b", text, re.M)) for word in ("facet", "endfacet", "endsolid")
        )
        if not solids or facets != ends or len(numbers) != 3 * facets:
            raise Rejected(f"cut off or damaged: {facets} facets begin, {ends} end, with {len(numbers)} corners")
        points = np.array(numbers, dtype=np.float64).reshape(-1, 3)
    else:
        raise Rejected(f"cut off, or no STL file: {len(content)} bytes, and {count} triangles take {84 + 50 * count}")
    triangles = Cells(np.arange(len(points)), np.arange(0, len(points) + 1, 3))
    return MeshFile(points.astype(np.float64), polygons=triangles, space=said_in(title.decode("ascii", "replace")))


class _Cursor:
    """Goes through the bytes of a file that mixes lines of text with numbers, as text or in binary.

    Args:
        content: the file.
        order: of the bytes of binary numbers, ``<`` or ``>``, or "" for text.
    """

    def __init__(self, content: bytes, order: str = "") -> None:
        self.content, self.order, self.at = content, order, 0

    def line(self) -> str | None:
        """The next line of text; None at the end of the file."""
        if self.at >= len(self.content):
            return None
        end = self.content.find(b"\n", self.at)
        end = len(self.content) if end < 0 else end
        line, self.at = self.content[self.at : end], end + 1
        return line.decode("ascii", errors="replace").strip()

    def words(self) -> list[str]:
        """Those of the next line that is not blank; none at the end of the file."""
        while (line := self.line()) is not None:
            if line:
                return line.split()
        return []

    def numbers(self, kind: str, count: int) -> NDArray[Any]:
        """The next ``count`` numbers of a NumPy type, e.g. ``f4``.

        Raises:
            Rejected: the file ends before.
        """
        if count < 0:
            raise Rejected(f"a number of values is {count}")
        if not self.order:
            return self._words(kind, count)
        dtype = np.dtype(self.order + kind)
        if self.at + count * dtype.itemsize > len(self.content):
            raise Rejected(f"cut off: {count} numbers of {dtype.itemsize} bytes expected at byte {self.at}")
        found = np.frombuffer(self.content, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def texts(self, count: int) -> list[str]:
        """The next ``count`` texts of a VTK file: a line each, or in binary each after its length.

        The first two bits of a length say of how many bytes it is, 8, 4, 2 or 1 (``vtkDataReader::ReadArray``).

        Raises:
            Rejected: the file ends before.
        """
        found: list[str] = []
        while len(found) < count:
            if self.at >= len(self.content):
                raise Rejected(f"cut off: {count} texts expected, {len(found)} found")
            if not self.order:
                found.append(self.line() or "")
                continue
            bytes_of_length = 8 >> (self.content[self.at] >> 6)
            length = int.from_bytes(self.content[self.at : self.at + bytes_of_length])
            length &= (1 << (8 * bytes_of_length - 2)) - 1
            self.at += bytes_of_length + length
            found.append(self.content[max(self.at - length, 0) : self.at].decode("utf-8", "replace"))
        return found

    def _words(self, kind: str, count: int) -> NDArray[Any]:
        found: list[bytes] = []
        while len(found) < count:
            if self.at >= len(self.content):
                raise Rejected(f"cut off: {count} numbers expected, {len(found)} found")
            end = self.content.find(b"\n", self.at)
            end = len(self.content) if end < 0 else end
            found += self.content[self.at : end].split()
            self.at = end + 1
        if len(found) > count:
            raise Rejected(f"{len(found)} numbers where {count} were expected")
        return np.array(found, dtype="S32").astype(np.float64 if kind[0] == "f" else np.int64)


_PLY = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
_PLY |= {"double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
_PLY |= {"float32": "f4", "float64": "f8"}


@dataclass(frozen=True)
class _Element:
    """One of the tables of a PLY file: how many rows, and the columns: name -> type, or types of a length and items."""

    name: str
    count: int
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)


def parse_ply(content: bytes) -> MeshFile:
    """A PLY file, text or binary: vertices with x, y, z and faces with a list of vertices; the rest is passed over.

    Raises:
        Rejected: it is cut off or is something else.
    """
    cursor = _Cursor(content)
    if cursor.line() != "ply":
        raise Rejected("no PLY file: it does not begin with 'ply'")
    elements: list[_Element] = []
    space = ""
    while (line := cursor.line()) != "end_header":
        match (line or "").split():
            case ["format", ("ascii" | "binary_little_endian" | "binary_big_endian") as kind, _]:
                cursor.order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
            case ["element", name, count] if count.isdecimal():
                elements.append(_Element(name, int(count)))
            case ["property", "list", length, item, name] if elements and length in _PLY and item in _PLY:
                elements[-1].columns[name] = (_PLY[length], _PLY[item])
            case ["property", kind, name] if elements and kind in _PLY:
                elements[-1].columns[name] = (_PLY[kind],)
            case ["comment" | "obj_info", *_]:
                space = space or said_in(line or "")
            case _:
                raise Rejected("the header is cut off" if line is None else f"the header has {line!r}")
    points, polygons = np.zeros((0, 3)), Cells()
    for element in elements:
        rows = _ply_rows(cursor, element)
        if element.name == "vertex":
            if not {"x", "y", "z"} <= rows.keys():
                raise Rejected("vertices lack x, y or z")
            points = np.column_stack([rows[axis] for axis in "xyz"]).astype(np.float64)
        elif element.name == "face":
            cells = rows.get("vertex_indices", rows.get("vertex_index"))
            if not isinstance(cells, Cells):
                raise Rejected("faces lack vertex_indices")
            polygons = cells
    return MeshFile(points, polygons=polygons, space=space)


def _ply_rows(cursor: _Cursor, element: _Element) -> Mapping[str, Any]:
    """The columns of a table: arrays, and :class:`Cells` of lists."""
    columns = element.columns
    if all(len(kinds) == 1 for kinds in columns.values()):  # numbers alone: all at once
        if not cursor.order:
            table = cursor.numbers("f8", element.count * len(columns)).reshape(element.count, len(columns))
            return dict(zip(columns, table.T, strict=True))
        layout = np.dtype([(name, cursor.order + kinds[0]) for name, kinds in columns.items()])
        raw = cursor.numbers("u1", element.count * layout.itemsize)
        table = raw.view(layout)
        return {name: table[name] for name in columns}
    found: dict[str, list[Any]] = {name: [] for name in columns}
    for _ in range(element.count):
        words = cursor if cursor.order else _Cursor("\n".join(cursor.words()).encode())
        for name, kinds in columns.items():
            (number,) = words.numbers(kinds[0], 1)
            found[name].append(words.numbers(kinds[1], int(number)) if len(kinds) == 2 else number)
    return {name: _cells(rows) if len(columns[name]) == 2 else np.array(rows) for name, rows in found.items()}


def _cells(rows: list[NDArray[Any]]) -> Cells:
    if not rows:
        return Cells()
    return Cells(np.concatenate(rows).astype(np.int64), np.cumsum([0, *map(len, rows)]))


_VTK = {"char": "i1", "unsigned_char": "u1", "short": "i2", "unsigned_short": "u2", "int": "i4", "unsigned_int": "u4"}
_VTK |= {"long": "i8", "unsigned_long": "u8", "float": "f4", "double": "f8", "vtkidtype": "i4", "vtktypeint64": "i8"}
_VTK |= {"vtktypeint32": "i4", "vtktypeuint8": "u1", "bit": "u1"}
_GEOMETRY = {"LINES": "lines", "POLYGONS": "polygons", "TRIANGLE_STRIPS": "strips", "VERTICES": ""}


def parse_vtk(content: bytes) -> MeshFile:
    """A legacy VTK file of poly data, text or binary, up to version 5.1.

    Raises:
        Rejected: it is cut off, or holds something else.
    """
    cursor = _Cursor(content)
    version = re.fullmatch(r"# vtk DataFile Version (\d+)\.\d+", cursor.line() or "")
    if version is None:
        raise Rejected("no VTK file: it does not begin with '# vtk DataFile Version'")
    space = said_in(cursor.line() or "")  # in the title
    kind, dataset = (cursor.line() or "").upper(), (cursor.line() or "").upper()
    if kind not in ("ASCII", "BINARY"):
        raise Rejected(f"{kind!r}, expected ASCII or BINARY")
    if dataset.split() != ["DATASET", "POLYDATA"]:
        raise Rejected(f"{dataset!r}, expected DATASET POLYDATA")
    cursor.order = ">" if kind == "BINARY" else ""
    points: NDArray[np.float64] | None = None
    cells: dict[str, Cells] = {}
    while (line := cursor.line()) is not None:
        match line.split():
            case []:
                pass
            case ["POINTS", count, kind]:
                points = cursor.numbers(_VTK[kind.lower()], 3 * int(count)).reshape(-1, 3).astype(np.float64)
            case [("LINES" | "POLYGONS" | "TRIANGLE_STRIPS" | "VERTICES") as name, one, other]:
                if int(version[1]) >= 5:
                    cells[_GEOMETRY[name]] = _offsets_and_connectivity(cursor, int(one), int(other))
                else:
                    cells[_GEOMETRY[name]] = Cells.unpack(cursor.numbers("i4", int(other)).astype(np.int64), int(one))
            case ["METADATA"]:
                while cursor.line():
                    pass
            case ["FIELD", _, count]:
                for _ in range(int(count)):
                    field_name, components, tuples, kind = (cursor.line() or cursor.line() or "").split()
                    if kind.lower() == "string":
                        texts = cursor.texts(int(components) * int(tuples))
                        space = texts[0] if field_name == "SPACE" and texts else space
                    else:
                        cursor.numbers(_VTK[kind.lower()], int(components) * int(tuples))
            case ["POINT_DATA" | "CELL_DATA", _]:  # nothing but values at points and cells follows
                break
            case _:
                raise Rejected(f"{line[:60]!r} where a section was expected")
    if points is None:
        raise Rejected("cut off, or empty: no POINTS")
    cells.pop("", None)
    return MeshFile(points, **cells, space=space)


def _offsets_and_connectivity(cursor: _Cursor, offsets: int, connectivity: int) -> Cells:
    """Version 5's cells."""
    found = []
    for name, count in (("OFFSETS", offsets), ("CONNECTIVITY", connectivity)):
        match (cursor.line() or cursor.line() or "").split():  # after binary numbers the line ends first
            case [word, kind] if word == name and kind.lower() in _VTK:
                found.append(cursor.numbers(_VTK[kind.lower()], count).astype(np.int64))
            case _:
                raise Rejected(f"cut off or damaged: {name} expected")
    return Cells(found[1], found[0])
