"""Points, lines and polygons of VTK's XML files of poly data (``.vtp``).

VTK's own reader takes the memory that a damaged file asks for, and ends whatever calls it where there is none. So these
files are read here, with every size checked against what the file can hold. Format: "VTK XML Formats",
https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html.
"""

from __future__ import annotations

import base64
import lzma
import re
import zlib
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from segcft.io.mesh import Cells, MeshFile
from segcft.io.reject import Rejected

MOST_BYTES = 1 << 28
"""Of one of a file's arrays."""

_TYPES = {f"{name}{8 * size}": f"{kind}{size}" for name, kind in (("Int", "i"), ("UInt", "u")) for size in (1, 2, 4, 8)}
_TYPES |= {"Float32": "f4", "Float64": "f8"}
_PARTS = {"Lines": "lines", "Polys": "polygons", "Strips": "strips"}


def parse_vtp(content: bytes) -> MeshFile:
    """A VTK XML file of poly data: as text or binary, inline or appended, plain or compressed by zlib or LZMA.

    Raises:
        Rejected: it is cut off, damaged, or something else.
        ValueError: a number is none.
    """
    appended = re.search(rb'<AppendedData\s+encoding="(raw|base64)"\s*>\s*_', content)
    head = content if appended is None else content[: appended.start()] + b"</VTKFile>"
    if re.search(rb"<!(?!--)|\0", head):
        raise Rejected("declares a type or entities, which no VTK file does")
    try:
        root = ElementTree.fromstring(head)
    except ElementTree.ParseError as error:
        raise Rejected(f"damaged, or no VTK file of poly data ({error})") from None
    if root.tag != "VTKFile" or root.get("type") != "PolyData":
        raise Rejected("damaged, or no VTK file of poly data")
    after = None if appended is None else _Stream(content[appended.end() :], appended[1] == b"base64")
    reader = _Reader(
        "<" if root.get("byte_order", "LittleEndian") == "LittleEndian" else ">",
        _TYPES.get(root.get("header_type", "UInt32"), "u4"),
        root.get("compressor"),
        after,
    )
    pieces = [reader.piece(piece) for piece in root.findall("PolyData/Piece")]
    if not any(len(piece.points) for piece in pieces):
        raise Rejected("holds no points")
    starts = np.cumsum([0, *(len(piece.points) for piece in pieces)])
    joined: dict[str, Any] = {
        name: _joined([getattr(piece, name) for piece in pieces], starts) for name in ("lines", "polygons", "strips")
    }
    space = root.find("PolyData/FieldData/*[@Name='SPACE']")
    said = "" if space is None else reader.text(space)
    return MeshFile(np.concatenate([piece.points for piece in pieces]), **joined, space=said)


def _joined(parts: list[Cells], starts: NDArray[np.int64]) -> Cells:
    """The cells of several pieces, whose points follow each other."""
    points = np.concatenate([part.points + start for part, start in zip(parts, starts, strict=False)])
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    return Cells(points, np.concatenate([[0], np.cumsum(sizes)]))


@dataclass
class _Stream:
    """Bytes, perhaps written as base64, which begins anew with each :meth:`read`."""

    data: bytes
    encoded: bool
    at: int = 0

    def read(self, size: int) -> bytes:
        length = 4 * ((size + 2) // 3) if self.encoded else size
        if not size >= 0 or self.at + length > len(self.data):
            raise Rejected(f"cut off or damaged: {size} bytes expected")
        found = self.data[self.at : self.at + length]
        self.at += length
        return base64.b64decode(found, validate=True)[:size] if self.encoded else found


@dataclass(frozen=True)
class _Reader:
    """Reads arrays of a file.

    Attributes:
        order: of the bytes of a number, ``<`` or ``>``.
        header: NumPy type of the sizes before binary numbers.
        compressor: VTK's name of it, or None.
        appended: what is behind the XML, if anything.
    """

    order: str
    header: str
    compressor: str | None
    appended: _Stream | None

    def piece(self, element: ElementTree.Element) -> MeshFile:
        count = int(element.get("NumberOfPoints", "0"))
        points = element.find("Points/DataArray")
        if count < 0 or (points is None and count):
            raise Rejected("holds no points")
        places = np.zeros((0, 3)) if points is None else self.values(points, 3 * count).reshape(-1, 3)
        cells: dict[str, Any] = {}
        for tag, name in _PARTS.items():
            number = int(element.get(f"NumberOf{tag}", "0"))
            arrays = {array.get("Name"): array for array in element.findall(f"{tag}/DataArray")}
            if number:
                if not {"connectivity", "offsets"} <= arrays.keys():
                    raise Rejected(f"{tag} lack connectivity or offsets")
                ends = self.values(arrays["offsets"], number).astype(np.int64)
                corners = self.values(arrays["connectivity"], int(ends[-1])).astype(np.int64)
                cells[name] = Cells(corners, np.concatenate([[0], ends]))
        return MeshFile(places.astype(np.float64), **cells)

    def text(self, array: ElementTree.Element) -> str:
        """The name of a space: three letters and a 0, as numbers."""
        return bytes(self.values(array, 4, "u1").astype(np.uint8)).rstrip(b"\0").decode("ascii", "replace")

    def values(self, array: ElementTree.Element, count: int, kind: str | None = None) -> NDArray[Any]:
        """The ``count`` numbers of an array, of NumPy's ``kind`` or of the one that it says."""
        kind = kind or _TYPES.get(array.get("type", ""))
        if kind is None:
            raise Rejected(f"an array is of type {array.get('type')!r}")
        dtype = np.dtype(self.order + kind)
        if not 0 <= count * dtype.itemsize <= MOST_BYTES:
            raise Rejected(f"damaged: an array of {count} numbers")
        if count == 0:
            return np.zeros(0, dtype)
        text = array.text or ""
        match array.get("format"):
            case "ascii":
                words = text.split()
                if len(words) != count:
                    raise Rejected(f"cut off or damaged: {len(words)} numbers, expected {count}")
                return np.array(words, dtype="S32").astype(np.float64 if kind[0] == "f" else np.int64)
            case "binary":
                stream = _Stream("".join(text.split()).encode(), True)
            case "appended" if self.appended is not None:
                stream = _Stream(self.appended.data, self.appended.encoded, int(array.get("offset", "0")))
            case form:
                raise Rejected(f"an array has the format {form!r}")
        if stream.at < 0:
            raise Rejected("an array begins before the file")
        size = count * dtype.itemsize
        return np.frombuffer(
            self._plain(stream, size) if self.compressor is None else self._packed(stream, size), dtype
        )

    def _sizes(self, stream: _Stream, count: int) -> list[int]:
        """The sizes before binary numbers."""
        header = np.dtype(self.order + self.header)
        return [int(size) for size in np.frombuffer(stream.read(count * header.itemsize), header)]

    def _plain(self, stream: _Stream, size: int) -> bytes:
        start = stream.at
        (found,) = self._sizes(stream, 1)
        if found != size:
            raise Rejected(f"cut off or damaged: an array of {found} bytes, expected {size}")
        stream.at = start  # size and numbers are written as one
        before = np.dtype(self.header).itemsize
        return stream.read(before + size)[before:]

    def _packed(self, stream: _Stream, size: int) -> bytes:
        start = stream.at
        (blocks,) = self._sizes(stream, 1)
        stream.at = start
        _, full, last, *lengths = self._sizes(stream, 3 + blocks)
        wanted = [full] * (blocks - 1) + [last or full] if blocks else []
        if sum(wanted) != size:
            raise Rejected(f"cut off or damaged: an array of {sum(wanted)} bytes, expected {size}")
        packed, at = stream.read(sum(lengths)), 0
        found = bytearray()
        for length, most in zip(lengths, wanted, strict=True):
            found += self._unpacked(packed[at : at + length], most)
            at += length
        if len(found) != size:
            raise Rejected(f"cut off or damaged: an array of {len(found)} bytes, expected {size}")
        return bytes(found)

    def _unpacked(self, block: bytes, most: int) -> bytes:
        try:
            match self.compressor:
                case "vtkZLibDataCompressor":
                    return zlib.decompressobj().decompress(block, most)
                case "vtkLZMADataCompressor":
                    return lzma.LZMADecompressor().decompress(block, most)
        except (zlib.error, lzma.LZMAError, EOFError) as error:
            raise Rejected(f"damaged: numbers cannot be unpacked ({error})") from None
        raise Rejected(f"compressed by {self.compressor}; expected zlib or LZMA")
