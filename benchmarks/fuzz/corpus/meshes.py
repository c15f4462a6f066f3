"""Centrelines and surfaces of vessels, in the formats of VTK and as tables of points."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.fuzz.corpus.common import lazily, written
from benchmarks.fuzz.work import Reader

_ROTTERDAM = b"1.0 2.0 3.0 1.5 0.1\n1.5 2.5 3.5 1.4 0.1\n2.0 3.0 4.5 1.3 0.2\n"
_POINTS = [b"# SPACE=RAS\nx,y,z\n1,2,3\n2,3,4\n3,4,6\n", b"x (mm);y;z\n1,5;2;3\n2,5;3;4\n", b"1\t2\t3\n2\t3\t5\n"]


def readers() -> list[Reader]:
    centreline = lazily("segcft.io.vesselfile", "read_centreline")
    surface = lazily("segcft.io.vesselfile", "read_surface")
    lines = [Reader(f"centreline {s[1:]}", s, partial(_lines, s), centreline, "text") for s in (".vtp", ".vtk")]
    kinds = (".stl", ".ply", ".vtp", ".vtk")
    return [
        *lines,
        Reader("centreline csv", ".csv", lambda: _POINTS, centreline, "csv"),
        Reader("centreline txt", ".txt", lambda: [_ROTTERDAM], centreline, "text"),
        *(Reader(f"mesh {s[1:]}", s, partial(_meshes, s), surface, "text") for s in kinds),
    ]


def _lines(suffix: str) -> list[bytes]:
    import pyvista

    points = np.cumsum(np.random.default_rng(0).random((12, 3)), axis=0)
    mesh = pyvista.lines_from_points(points)
    whole = pyvista.PolyData(points, lines=np.array([12, *range(12)]))
    whole.field_data["SPACE"] = ["RAS"]  # as 3D Slicer says it
    return [
        written(f"a{suffix}", partial(one.save, binary=binary)) for one in (mesh, whole) for binary in (True, False)
    ]


def _meshes(suffix: str) -> list[bytes]:
    import pyvista

    ball = pyvista.Sphere(radius=3, theta_resolution=6, phi_resolution=6)
    ball.field_data["SPACE"] = ["LPS"]
    meshes = [ball] if suffix in (".stl", ".ply") else [ball, pyvista.Cube().strip()]
    return [written(f"a{suffix}", partial(mesh.save, binary=binary)) for mesh in meshes for binary in (True, False)]
