"""Centrelines and meshes as other programs write them: read as they were written, or refused with a reason."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvista
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segcft.coronary.surface import Surface
from segcft.io.meshfile import parse_stl, read_mesh
from segcft.io.reject import Rejected
from segcft.io.vesselfile import chain, parse_csv, parse_rotterdam, read_centreline, read_surface

Array = NDArray[np.float64]

NUMBERS = st.floats(-500, 500).map(lambda number: round(number, 4) + 0.0)
CURVES = st.integers(2, 30).flatmap(lambda n: arrays(np.float64, (n, 3), elements=NUMBERS, unique=True))


def polyline(points: Array, order: NDArray[np.int64]) -> pyvista.PolyData:
    """A line whose points are stored in another order than they follow each other."""
    mesh = pyvista.PolyData(points[order])
    mesh.verts = np.zeros(0, np.int64)
    mesh.lines = np.concatenate([[len(points)], np.argsort(order)])
    return mesh


def pieces(points: Array, order: NDArray[np.int64]) -> pyvista.PolyData:
    """A line in pieces of two points each, in any order."""
    place = np.argsort(order)
    steps = np.column_stack([np.full(len(points) - 1, 2), place[:-1], place[1:]])
    mesh = pyvista.PolyData(points[order])
    mesh.verts = np.zeros(0, np.int64)
    mesh.lines = np.random.default_rng(0).permutation(steps).ravel()
    return mesh


@settings(max_examples=40)
@given(
    points=CURVES,
    seed=st.integers(0, 99),
    kind=st.sampled_from([polyline, pieces]),
    suffix=st.sampled_from([".vtp", ".vtk"]),
    binary=st.booleans(),
)
def test_a_line_is_followed_whatever_the_order_of_its_points(
    tmp_path_factory: pytest.TempPathFactory,
    points: Array,
    seed: int,
    kind: Callable[[Array, NDArray[np.int64]], pyvista.PolyData],
    suffix: str,
    binary: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"line{suffix}"
    kind(points, np.random.default_rng(seed).permutation(len(points))).save(path, binary=binary)
    # VTK writes six digits of text
    assert read_centreline(path).points == pytest.approx(points, abs=0 if binary else 1e-3)
    assert read_centreline(path, ras=True).points == pytest.approx(points * [-1, -1, 1], abs=0 if binary else 1e-3)


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        ([[0, 1], [2, 1]], [10, 5, 0]),
        ([[2, 1], [0, 1]], [0, 5, 10]),
        ([[1, 0], [1, 2]], [0, 5, 10]),
        ([[1, 1], [1, 2], [0, 1]], [10, 5, 0]),
    ],
)
def test_a_line_in_pieces_goes_the_way_of_the_first(lines: list[list[int]], x: list[float]) -> None:
    points = np.array([[10.0, 0, 0], [5, 0, 0], [0, 0, 0]])
    assert chain([np.array(line) for line in lines], points)[:, 0].tolist() == x


def test_what_is_not_one_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.vtp"

    def refused(mesh: pyvista.PolyData) -> str:
        mesh.save(path)
        with pytest.raises(Rejected, match=r"lines\.vt.: ") as told:
            read_centreline(path)
        return str(told.value)

    points = np.random.default_rng(0).uniform(0, 9, (12, 3))
    two = pyvista.PolyData(points, lines=[6, *range(6), 6, *range(6, 12)])
    assert "2 lines with 4 loose ends, expected one line" in refused(two)
    branch = pyvista.PolyData(points, lines=[6, *range(6), 3, 3, 6, 7])
    assert "2 lines with 3 loose ends" in refused(branch)
    ring = pyvista.PolyData(points, lines=[4, 0, 1, 2, 3, 2, 3, 0])
    assert "2 lines with 0 loose ends" in refused(ring)
    ring_and_line = pyvista.PolyData(points, lines=[2, 0, 1, 4, 4, 5, 6, 4])
    assert "2 lines with 2 loose ends" in refused(ring_and_line)
    assert "2 lines with 0 loose ends" in refused(pyvista.PolyData(points, lines=[2, 0, 0, 2, 1, 1]))
    assert "holds no line: 12 points, 0 polygons" in refused(pyvista.PolyData(points))
    assert "holds no line" in refused(pyvista.Sphere())
    path = tmp_path / "lines.vtk"
    assert "not finite" in refused(pyvista.lines_from_points(np.full((3, 3), np.nan)))


@given(
    points=CURVES,
    separator=st.sampled_from([",", ";", "\t", " ", ", ", "   "]),
    order=st.permutations(["x", "y", "z", "radius"]),
    style=st.sampled_from(["{}", "{}_mm", "{} [mm]", '"{}"', "header none"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    after=st.sampled_from(["", "\n", "\n\n"]),
    comma=st.booleans(),
)
def test_a_table_of_points_is_read_as_it_was_written(
    points: Array, separator: str, order: list[str], style: str, ending: str, after: str, comma: bool
) -> None:
    columns = {"x": points[:, 0], "y": points[:, 1], "z": points[:, 2], "radius": np.ones(len(points))}
    names = ["x", "y", "z"] if style == "header none" else order
    if separator.isspace() and "mm]" in style:
        style = "{}"
    lines = [] if style == "header none" else [separator.join(style.format(name.upper()) for name in names)]
    rows = zip(*(columns[name] for name in names), strict=True)
    cells = [[repr(float(number)) for number in row] for row in rows]
    if separator == ";" and comma:
        cells = [[cell.replace(".", ",") for cell in row] for row in cells]
    text = ending.join(["# exported", *lines, *map(separator.join, cells)]) + after
    assert np.array_equal(parse_csv(text), points)


@given(points=CURVES, more=st.integers(0, 3), gap=st.sampled_from([" ", "\t", "   "]))
def test_points_of_the_rotterdam_evaluation_are_read_as_they_were_written(points: Array, more: int, gap: str) -> None:
    rows = np.column_stack([points, np.full((len(points), more), 1.5)])
    text = "\n".join(gap.join(map(repr, row)) for row in rows.tolist())
    assert np.array_equal(parse_rotterdam(text), points)


@given(st.text(st.sampled_from('xyz012.,;- \t\n#e"nan'), max_size=60))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (parse_csv, parse_rotterdam):
        try:
            points = parse(text)
        except Rejected:
            continue
        assert points.shape[1:] == (3,)
        assert len(points)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "", "holds no points"),
        ("a.csv", "x,y,z\n", "holds a header and no points"),
        ("a.csv", "a,b,c\n1,2,3\n", "line 1: the header is 'a,b,c', expected columns x, y and z"),
        ("a.csv", "x,y,z\n1,2,3\n\n4,5\n", "line 4: 2 cells, expected 3"),
        ("a.csv", "1,2,3,4\n", "line 1: 4 cells, expected 3"),
        ("a.csv", "x,y,z\n1,two,3\n", "line 2: 'two' is no number"),
        ("a.csv", "x,y,z\n1,nan,3\n", "not finite"),
        ("a.txt", "1 2 3 4 5\n1 2 3 4\n", "line 2: 4 numbers, expected 5, as before"),
        ("a.txt", "1 2\n", "line 1: 2 numbers, expected x, y, z and perhaps more"),
        ("a.txt", "1,2,3\n", "line 1: 1 numbers"),
        ("a.txt", "1 2 z\n", "line 1: 'z' is no number"),
    ],
)
def test_a_text_that_is_not_understood_names_the_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Rejected, match=rf"{name}: .*{reason}"):
        read_centreline(tmp_path / name)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(Rejected, match=r"a\.csv: is no text file"):
        read_centreline(tmp_path / "a.csv")
    with pytest.raises(Rejected, match=r"none\.txt: cannot read this file"):
        read_centreline(tmp_path / "none.txt")


MESHES = [(suffix, binary) for suffix in (".stl", ".ply", ".vtk", ".vtp") for binary in (True, False)]


def volume_of(vertices: Array, faces: NDArray[np.int64]) -> float:
    return float(np.linalg.det(vertices[faces]).sum() / 6)


@pytest.mark.parametrize(("suffix", "binary"), MESHES)
def test_a_mesh_is_read_as_it_was_written(tmp_path: Path, suffix: str, binary: bool) -> None:
    ball = pyvista.Sphere(radius=3, center=(40, -60, 20), theta_resolution=20, phi_resolution=14)
    path = tmp_path / f"ball{suffix.upper()}"
    ball.save(tmp_path / f"ball{suffix}", binary=binary)
    (tmp_path / f"ball{suffix}").rename(path)
    vertices, faces = read_surface(path)[:2]
    assert (len(vertices), len(faces)) == (ball.n_points, ball.n_cells)
    assert vertices.mean(axis=0) == pytest.approx(ball.points.mean(axis=0), abs=1e-3)
    assert volume_of(vertices, faces) == pytest.approx(ball.volume, rel=1e-4)
    Surface(vertices, faces)  # closed, although STL writes corners again and again
    assert read_surface(path, ras=True)[0].mean(axis=0) == pytest.approx(ball.points.mean(0) * [-1, -1, 1], abs=1e-3)


@pytest.mark.parametrize("suffix", [".ply", ".vtk", ".vtp"])
def test_polygons_and_strips_become_triangles(tmp_path: Path, suffix: str) -> None:
    cube = pyvista.Cube(x_length=2, y_length=3, z_length=4).clean()  # of squares
    cube.save(tmp_path / f"cube{suffix}", binary=False)
    vertices, faces = read_surface(tmp_path / f"cube{suffix}")[:2]
    assert (vertices.shape, faces.shape) == ((8, 3), (12, 3))
    assert abs(volume_of(vertices, faces)) == pytest.approx(24)
    if suffix != ".ply":
        ball = pyvista.Sphere(theta_resolution=9, phi_resolution=9)
        ball.strip().save(tmp_path / f"ball{suffix}")
        assert volume_of(*read_surface(tmp_path / f"ball{suffix}")[:2]) == pytest.approx(ball.volume, rel=1e-4)


@pytest.mark.parametrize("suffix", [".ply", ".vtk", ".vtp"])
@pytest.mark.parametrize("squares", [False, True])
def test_polygons_of_two_corners_are_passed_over(tmp_path: Path, suffix: str, squares: bool) -> None:
    cube = pyvista.Cube().clean()
    cube = cube if squares else cube.triangulate()
    pyvista.PolyData(cube.points, np.concatenate([[2, 0, 1], cube.faces, [2, 5, 4]])).save(tmp_path / f"cube{suffix}")
    vertices, faces = read_surface(tmp_path / f"cube{suffix}")[:2]
    assert (vertices.shape, faces.shape) == ((8, 3), (12, 3))
    assert abs(volume_of(vertices, faces)) == pytest.approx(1)


def test_older_vtk_files_and_ply_files_with_more_in_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "old.vtk").write_text(
        "# vtk DataFile Version 3.0\nby hand\nASCII\nDATASET POLYDATA\n"
        "POINTS 4 float\n0 0 0 1 0 0\n0 1 0 0 0 1\nPOLYGONS 4 16\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 2 0 3\n"
        "POINT_DATA 4\nSCALARS a float\nLOOKUP_TABLE default\n0 0 0 0\n"
    )
    (tmp_path / "more.ply").write_text(
        "ply\nformat ascii 1.0\ncomment by hand\nelement camera 1\nproperty float f\n"
        "element vertex 5\nproperty double x\nproperty double y\nproperty double z\nproperty uchar red\n"
        "element face 5\nproperty uchar flag\nproperty list uchar int vertex_index\nend_header\n"
        "0.5\n0 0 0 9\n1 0 0 9\n0 1 0 9\n0 0 1 9\n0 0 0 9\n1 3 0 2 1\n1 3 0 1 3\n1 3 1 2 3\n1 3 2 0 3\n1 3 0 4 1\n"
    )
    for name in ("old.vtk", "more.ply"):
        vertices, faces = read_surface(tmp_path / name)[:2]
        assert (len(vertices), len(faces)) == (4, 4), name  # the fifth triangle has two corners at one place
        assert volume_of(vertices, faces) == pytest.approx(1 / 6)


def test_blanks_and_blank_lines_in_texts_are_free(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 4\nproperty list uchar int vertex_indices\nend_header\n"
    points, faces = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n", "3 0 2 1\n3 0 1 3\n3 1 2 3\n3 2 0 3\n"
    for name, text in {
        "tabs": (points + faces).replace(" ", "\t"),
        "gaps": (points + faces).replace(" ", "  \t "),
        "lines": f"\n{points}\n{faces}".replace("3 1 2 3\n", "\n \t\n3 1 2 3 \n"),
        "windows": (points + faces).replace("\n", "\r\n"),
    }.items():
        (tmp_path / f"{name}.ply").write_text(header + text, newline="")
        assert volume_of(*read_surface(tmp_path / f"{name}.ply")[:2]) == pytest.approx(1 / 6), name


def test_blank_lines_of_an_stl_file_take_no_time() -> None:
    facet = b"facet normal 0 0 1\n outer loop\n\tvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\n\t endfacet\n"
    begin = time.process_time()
    mesh = parse_stl(b"solid a\n" + b"\n" * 100_000 + facet + b"endsolid\n")
    assert time.process_time() - begin < 2
    assert len(mesh.polygons) == 1


def test_empty_and_impossible_meshes_are_refused(tmp_path: Path) -> None:
    def refused(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        with pytest.raises(Rejected, match=rf"{name}: ") as told:
            read_surface(tmp_path / name)
        return str(told.value)

    vtk = "# vtk DataFile Version 3.0\n?\nASCII\nDATASET POLYDATA\nPOINTS 3 float\n0 0 0 1 0 0 0 1 0\n"
    assert "the mesh is empty: 0 points and no polygon" in refused("a.stl", "solid\nendsolid\n")
    assert "0 facets begin" in refused("a.stl", "solid\n")
    assert "no STL file: 12 bytes" in refused("a.stl", "hello, world")
    assert "no PLY file" in refused("a.ply", "hello, world")
    assert "the header is cut off" in refused("a.ply", "ply\nformat ascii 1.0\n")
    assert "no VTK file" in refused("a.vtk", "hello, world")
    assert "damaged, or no VTK file of poly data" in refused("a.vtp", "hello, world")
    assert "expected DATASET POLYDATA" in refused("a.vtk", vtk.replace("POLYDATA", "UNSTRUCTURED_GRID"))
    assert "the mesh is empty: 3 points" in refused("a.vtk", vtk)
    assert "not among the 3 of the file" in refused("a.vtk", vtk + "POLYGONS 1 4\n3 0 1 7\n")
    assert "all of its 1 triangles are collapsed" in refused("a.vtk", vtk + "POLYGONS 1 4\n3 0 1 1\n")
    assert "cut off: 400 numbers expected" in refused("a.vtk", vtk + "POLYGONS 100 400\n3 0 1 2\n")
    assert "cut off: 3000000000 numbers" in refused("a.vtk", vtk.replace("POINTS 3", "POINTS 1000000000"))
    assert "not finite" in refused("a.vtk", vtk.replace("1 0 0", "nan 0 0") + "POLYGONS 1 4\n3 0 1 2\n")


@settings(max_examples=150)
@given(
    kind=st.sampled_from(MESHES),
    keep=st.floats(0, 1),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5),
    header=st.booleans(),
)
def test_no_damage_does_more_than_refuse_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    kind: tuple[str, bool],
    keep: float,
    damage: list[tuple[float, int]],
    header: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{kind[0]}"
    pyvista.Sphere(theta_resolution=8, phi_resolution=8).save(path, binary=kind[1])
    content = bytearray(path.read_bytes())
    for place, byte in damage:
        content[int(place * (min(400, len(content)) if header else len(content)))] = byte
    path.write_bytes(content[: int(keep * len(content))] if keep < 0.5 else content)
    try:
        vertices, faces = read_surface(path)[:2]
    except Rejected as reason:
        told = str(reason)
    else:
        told = f"{path}: has {len(vertices)} vertices"
        assert 0 <= faces.min() <= faces.max() < len(vertices)
        assert kind[0] != ".vtp" or keep >= 0.5
    assert told.startswith(f"{path}: ")


def test_nothing_but_the_error_tells_of_a_damaged_file(tmp_path: Path) -> None:
    pyvista.Sphere().save(tmp_path / "cut.vtp")
    (tmp_path / "cut.vtp").write_bytes((tmp_path / "cut.vtp").read_bytes()[:5000])
    code = (
        "import sys, pathlib; from segcft.io.vesselfile import read_surface\n"
        "try: read_surface(pathlib.Path(sys.argv[1]))\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "cut.vtp")], capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "cut.vtp: damaged, or no VTK file of poly data (unclosed token" in done.stdout


@pytest.mark.parametrize("mode", ["Ascii", "Binary", "Appended"])
@pytest.mark.parametrize("compressor", ["None", "ZLib", "LZMA"])
@pytest.mark.parametrize(("encoded", "order", "header"), [(True, 1, 32), (False, 1, 64), (False, 0, 32)])
def test_vtp_in_every_form(tmp_path: Path, mode: str, compressor: str, encoded: bool, order: int, header: int) -> None:
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    ball, path = pyvista.Sphere(theta_resolution=30, phi_resolution=30), tmp_path / "ball.vtp"
    writer = vtkXMLPolyDataWriter()
    writer.SetInputData(ball)
    writer.SetFileName(str(path))
    getattr(writer, f"SetDataModeTo{mode}")()
    getattr(writer, f"SetCompressorTypeTo{compressor}")()
    writer.SetBlockSize(1024)  # so that there are several
    writer.SetEncodeAppendedData(encoded)
    writer.SetByteOrder(order)
    writer.SetHeaderType(header)
    writer.Write()
    mesh = read_mesh(path)
    assert mesh.points == pytest.approx(ball.points, abs=1e-6 if mode == "Ascii" else 0)
    assert (mesh.triangles() == ball.faces.reshape(-1, 4)[:, 1:]).all()


def test_vtp_in_pieces(tmp_path: Path) -> None:
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    ball, path = pyvista.Sphere(), tmp_path / "ball.vtp"
    writer = vtkXMLPolyDataWriter()
    writer.SetInputData(ball)
    writer.SetFileName(str(path))
    writer.SetNumberOfPieces(1)
    writer.SetDataModeToAscii()
    writer.Write()
    text = path.read_text()
    piece = text[text.index("<Piece") : text.index("</Piece>") + len("</Piece>")]
    path.write_text(text.replace(piece, piece * 2))
    mesh = read_mesh(path)
    assert len(mesh.points) == 2 * ball.n_points
    assert (mesh.triangles()[ball.n_cells :] == mesh.triangles()[: ball.n_cells] + ball.n_points).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'NumberOfPoints="', b'NumberOfPoints="9', "cut off or damaged"),
        (b'NumberOfPoints="', b'NumberOfPoints="99999999999', "an array of"),
        (b'NumberOfPolys="', b'NumberOfPolys="-', "damaged"),
        (b'type="Float32"', b'type="Float33"', "of type 'Float33'"),
        (b'type="PolyData"', b'type="ImageData"', "no VTK file of poly data"),
        (b'Name="offsets"', b'Name="starts"', "lack connectivity or offsets"),
        (b"vtkZLibDataCompressor", b"vtkLZ4DataCompressor", "expected zlib or LZMA"),
        (b'<?xml version="1.0"?>', b'<!DOCTYPE a [<!ENTITY b "c">]>', "declares a type or entities"),
        (b'format="binary"', b'format="appended"', "format 'appended'"),
        (b"AQAAAA", b"/////w", "cut off or damaged"),  # the number of compressed blocks
    ],
)
def test_damaged_vtp_files_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / "ball.vtp"
    pyvista.Sphere().save(path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(Rejected, match=f"ball.vtp: .*{message}"):
        read_surface(path)
