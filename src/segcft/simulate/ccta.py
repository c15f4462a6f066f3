"""Simulated people as files of CT angiography: volume, centreline and meshes, for the same import as real ones.

A folder with ``cases.csv`` (see :mod:`segcft.importers.ccta`), and for each person a NIfTI volume, a centreline (VTP)
and meshes of the lumen and the outer wall (STL). The areas that the simulator gave the image are in the table as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from segcft.coronary.centreline import Frames
from segcft.coronary.defaults import SIZE, SPACING
from segcft.io.space import FLIP
from segcft.simulate.coronary import CoronarySimulator, Noise, Scene
from segcft.simulate.people import person_number
from segcft.utils.atomic import whole_folder, write_rows
from segcft.utils.extra import extra
from segcft.utils.progress import Progress

Array = NDArray[np.floating]

REACH = 7.0
"""mm from the centreline within which a vessel can be."""
_FINE = 0.05  # mm between the stations among which the nearest one to a voxel is looked for
_SLICES = 8  # of the volume that are worked off at once
_RING, _SECTORS = 0.3, 48  # of a mesh: mm between its rings, and corners of one


@dataclass(frozen=True)
class Grid:
    """Voxels of a CT volume: how many, and their size in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, shape: Sequence[int] = (256, 256, 200), extent: Sequence[float] = (128.0, 128.0, 120.0)) -> Grid:
        """So many voxels in so many mm."""
        i, j, k = (length / count for length, count in zip(extent, shape, strict=True))
        return cls((shape[0], shape[1], shape[2]), (i, j, k))


def write_ccta(
    out: Path,
    vessels: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    spacing: float = SPACING,
    grid: Grid | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write people's volumes, centrelines and meshes; returns the table ``out/cases.csv``.

    Args:
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        vessels: how many people.
        seed: of the population, as in a study's ``data.seed``.
        size: (H, W) in pixels of the straightened image whose areas are in the table.
        spacing: of its pixels, in mm.
        grid: of the volumes.
        progress: wraps the loop over people.

    Raises:
        DataError: ``out`` holds something, or a package is missing.
    """
    for package in ("nibabel", "pyvista"):
        extra(package, out)
    simulator, grid = CoronarySimulator(size, spacing**2), grid or Grid.of()
    with whole_folder(out) as partial:
        rows = []
        for index in (progress or Progress())(range(vessels), vessels, "Simulating CT angiographies"):
            person, id = person_number(seed, index), f"{seed}-{index:04d}"
            attributes = simulator.attributes(person)
            scene = simulator.scene(person, attributes)
            (partial / id).mkdir()
            _write_volume(partial / id / "ct.nii.gz", scene, grid, Noise.GRAIN.stream(person))
            line = scene.centreline.at(np.arange(0, scene.centreline.length, 0.5))
            _write_line(partial / id / "centreline.vtp", line)
            for name in ("lumen", "wall"):
                _write_mesh(partial / id / f"{name}.stl", *vessel_mesh(scene, name))
            files = {"volume": "ct.nii.gz", "centreline": "centreline.vtp", "lumen": "lumen.stl", "wall": "wall.stl"}
            rows.append(
                {"id": id}
                | {column: f"{id}/{file}" for column, file in files.items()}
                | {f"true_{name}": f"{value:.4f}" for name, value in attributes.items()}
            )
        write_rows(partial / "cases.csv", rows)
    return out / "cases.csv"


def volume(scene: Scene, grid: Grid, random: np.random.Generator) -> tuple[NDArray[np.int16], Array]:
    """The scene as the scanner shows it: Hounsfield units (I, J, K), and the affine (4, 4) to LPS in mm."""
    spacing = np.array(grid.spacing)
    path = scene.centreline.at(np.arange(0, scene.centreline.length, 1.0))
    first = (path.min(axis=0) + path.max(axis=0)) / 2 - spacing * (np.array(grid.shape) - 1) / 2
    arc = np.arange(0, scene.centreline.length, _FINE)
    frames, coarse = scene.centreline.frames(arc), cKDTree(path)
    fine = cKDTree(frames.position)
    x, y = (first[i] + spacing[i] * np.arange(grid.shape[i]) for i in (0, 1))
    soft = float(spacing.mean())
    seen = np.empty(grid.shape, dtype=np.float32)
    for low in range(0, grid.shape[2], _SLICES):
        z = first[2] + spacing[2] * np.arange(low, min(low + _SLICES, grid.shape[2]))
        points = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).astype(np.float32)
        part = scene.heart.hounsfield(points, soft)
        near = coarse.query(points.reshape(-1, 3), distance_upper_bound=REACH)[0].reshape(part.shape) < REACH
        part[near] = _vessel(scene, points[near].astype(np.float64), arc, frames, fine, soft)
        seen[:, :, low : low + _SLICES] = part
    blurred = gaussian_filter(seen, scene.scanner.blur / spacing, mode="nearest", truncate=3.0)
    for low in range(0, grid.shape[2], _SLICES):
        part = blurred[:, :, low : low + _SLICES]
        part += scene.scanner.noise * random.standard_normal(part.shape, dtype=np.float32)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = first
    return np.rint(np.clip(blurred, -1024, 3071)).astype(np.int16), affine


def vessel_mesh(scene: Scene, layer: str) -> tuple[Array, NDArray[np.int64]]:
    """Closed tube (V, 3) in mm and (F, 3) around ``layer``, "lumen" or "wall"; it is longer than the image."""
    arc = np.arange(1.0, scene.centreline.length - 1.0, _RING)
    frames = scene.centreline.frames(arc)
    turn = np.arange(_SECTORS) * 2 * np.pi / _SECTORS
    radius: Array = getattr(scene.vessel.radii(arc - scene.start, turn[:, None]), layer).T[..., None]
    cosine, sine = np.cos(turn)[:, None], np.sin(turn)[:, None]
    rings = frames.position[:, None] + radius * (cosine * frames.normal[:, None] + sine * frames.binormal[:, None])
    vertices = np.concatenate([rings.reshape(-1, 3), frames.position[[0, -1]]])
    ring, sector = np.meshgrid(np.arange(len(arc) - 1), np.arange(_SECTORS), indexing="ij")
    a, b = (_SECTORS * ring + sector).ravel(), (_SECTORS * ring + (sector + 1) % _SECTORS).ravel()
    first, after, last = np.arange(_SECTORS), (np.arange(_SECTORS) + 1) % _SECTORS, _SECTORS * (len(arc) - 1)
    begin, end = np.full(_SECTORS, len(vertices) - 2), np.full(_SECTORS, len(vertices) - 1)
    faces = [
        (a, b, b + _SECTORS),
        (a, b + _SECTORS, a + _SECTORS),
        (begin, after, first),
        (end, last + first, last + after),
    ]
    return vertices, np.concatenate([np.stack(corners, axis=1) for corners in faces])


def _vessel(scene: Scene, points: Array, arc: Array, frames: Frames, stations: cKDTree, soft: float) -> Array:
    """Hounsfield units (N,) of positions (N, 3) near the centreline."""
    station = stations.query(points)[1]
    away = points - frames.position[station]
    s = arc[station] + np.einsum("ni,ni->n", away, frames.tangent[station]) - scene.start
    across = np.einsum("ni,ni->n", away, frames.normal[station])
    out = np.einsum("ni,ni->n", away, frames.binormal[station])
    return scene.hounsfield(points, s, np.hypot(across, out), np.arctan2(out, across), soft)


def _write_volume(path: Path, scene: Scene, grid: Grid, random: np.random.Generator) -> None:
    import nibabel

    values, affine = volume(scene, grid, random)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*FLIP, 1]) @ affine), path)  # NIfTI's world is RAS


def _write_line(path: Path, points: Array) -> None:
    import pyvista

    pyvista.lines_from_points(points).save(path)


def _write_mesh(path: Path, vertices: Array, faces: NDArray[Any]) -> None:
    import pyvista

    pyvista.PolyData.from_regular_faces(vertices, faces).save(path)
