"""Geometry of vessels: curves whose length is known straighten to it, and areas do not depend on where a scene lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from segcft.coronary.centreline import IN_PIECES, UNORDERED, Centreline
from segcft.coronary.plaque import Threshold, split
from segcft.coronary.reformation import JAGGED, TOO_SHORT, Reformation
from segcft.coronary.surface import CROSSED, OPEN, Surface
from segcft.io.reject import Excluded

Array = NDArray[np.float64]
SIZE, SPACING = (64, 192), 0.25
LENGTH = SIZE[1] * SPACING


def line(length: float = 60.0, points: int = 40) -> Array:
    return np.stack([np.zeros(points), np.zeros(points), np.linspace(0, length, points)], axis=1)


def planar_arc(radius: float, length: float, points: int = 200) -> Array:
    turn = np.linspace(0, length / radius, points)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), 0 * turn], axis=1)


def helix(radius: float, pitch: float, length: float, points: int = 400) -> Array:
    turn = np.linspace(0, length / math.hypot(radius, pitch), points)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), pitch * turn], axis=1)


def tube(points: Array, radius: Array | float, rings: int = 400, sectors: int = 48) -> tuple[Array, NDArray[np.int64]]:
    """A closed tube around a curve, (V, 3) and (F, 3); ``radius`` in mm, of each ring or of all."""
    curve = Centreline(points)
    arc = np.linspace(0.5, curve.length - 0.5, rings)
    frames = curve.frames(arc)
    turn = np.arange(sectors) * 2 * np.pi / sectors
    direction = (
        np.cos(turn)[:, None] * frames.normal[:, None] + np.sin(turn)[:, None] * frames.binormal[:, None]
    )  # (rings, sectors, 3)
    ring = frames.position[:, None] + np.broadcast_to(radius, rings)[:, None, None] * direction
    vertices = np.concatenate([ring.reshape(-1, 3), frames.position[[0, -1]]])
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(sectors), indexing="ij")
    a, b = (i * sectors + j).ravel(), (i * sectors + (j + 1) % sectors).ravel()
    sides = np.concatenate([np.stack([a, b, b + sectors], 1), np.stack([a, b + sectors, a + sectors], 1)])
    j = np.arange(sectors)
    first, last = rings * sectors, rings * sectors + 1
    end = (rings - 1) * sectors
    caps = np.concatenate(
        [
            np.stack([np.full(sectors, first), (j + 1) % sectors, j], 1),
            np.stack([np.full(sectors, last), end + j, end + (j + 1) % sectors], 1),
        ]
    )
    return vertices, np.concatenate([sides, caps])


def area(points: Array, radius: Array | float, angle: float = 0.0, **shape: int) -> float:
    """Of the tube in its reformation, in mm^2."""
    reformation = Reformation.of(Centreline(points), SIZE, SPACING, angle, start=3)
    return float(Surface(*tube(points, radius, **shape)).coverage(reformation).sum()) * SPACING**2


@pytest.mark.parametrize(
    ("points", "length"),
    [
        (line(60), 60.0),
        (planar_arc(25, 60), 60.0),
        (helix(6, 4, 60), 60.0),
        (planar_arc(25, 60)[np.repeat(np.arange(200), 2)], 60.0),  # every point twice
    ],
)
def test_a_curve_has_its_length(points: Array, length: float) -> None:
    assert Centreline(points).length == pytest.approx(length, rel=1e-4)


def test_stations_are_evenly_spaced_however_the_points_are() -> None:
    turn = np.concatenate([np.linspace(0, 0.3, 200), np.linspace(0.3, 2.0, 40)[1:]])
    curve = Centreline(np.stack([25 * np.cos(turn), 25 * np.sin(turn), 0 * turn], axis=1))
    steps = np.linalg.norm(np.diff(curve.at(np.arange(0, 50, 0.25)), axis=0), axis=1)
    chord = 50 * math.sin(0.125 / 25)
    np.testing.assert_allclose(steps, chord, rtol=1e-3)


@pytest.mark.parametrize("points", [line(60), planar_arc(25, 60), helix(6, 4, 60)])
def test_frames_are_orthonormal_and_do_not_turn_about_the_curve(points: Array) -> None:
    curve = Centreline(points)
    frames = curve.frames(np.arange(1, 58, 0.25))
    axes = np.stack([frames.tangent, frames.normal, frames.binormal], axis=1)
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.eye(3)[None].repeat(len(axes), 0), atol=1e-9)
    assert (np.linalg.det(axes) > 0).all()
    # The derivative of the normal lies along the tangent.
    turning = np.einsum("ni,ni->n", np.diff(frames.normal, axis=0), frames.binormal[1:]) / 0.25
    assert np.abs(turning).max() < 1e-3


def test_a_smoothed_curve_is_calmer_than_its_points() -> None:
    rng = np.random.default_rng(0)
    points = planar_arc(25, 60, 120) + rng.normal(0, 0.15, (120, 3))
    rough, smooth = Centreline(points), Centreline(points, tolerance=0.25)
    assert rough.length > 62
    assert smooth.length == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize("voxel", [0.25, 0.5, 1.0])
def test_a_curve_through_centres_of_voxels_is_refused_until_it_is_smoothed(voxel: float) -> None:
    along = Rotation.from_rotvec([0.4, 0.5, 0.6]).apply(planar_arc(25, 70, int(70 / voxel)))
    points = np.rint(along / voxel) * voxel
    with pytest.raises(Excluded, match=r"turns by up to \d+ degrees .* smooth it \(--smooth") as caught:
        Reformation.of(Centreline(points), SIZE, SPACING)
    assert caught.value.kind == JAGGED
    curve = Centreline(points, tolerance=voxel / 2)
    assert curve.length == pytest.approx(70, rel=0.02)
    centre = Reformation.of(curve, SIZE, SPACING).centre
    away = np.linalg.norm(centre[:, None] - Centreline(along).at(np.arange(0, 70, 0.1)), axis=-1).min(axis=1)
    assert away.max() < voxel


def test_a_curve_that_turns_back_is_refused() -> None:
    there = np.linspace(0, 36, 19)[:, None] * [0, 0, 1.0]
    beside = there[-2::-1] + np.array([3, 0, 0.9])
    with pytest.raises(Excluded) as told:
        Reformation.of(Centreline(np.concatenate([there, beside])), SIZE, SPACING)
    assert told.value.kind == JAGGED


@pytest.mark.parametrize("points", [line(60), planar_arc(25, 60), helix(8, 6, 60)])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0])
def test_a_tube_straightens_to_its_width_and_area(points: Array, angle: float) -> None:
    reformation = Reformation.of(Centreline(points), SIZE, SPACING, angle, start=3)
    coverage = Surface(*tube(points, 1.5)).coverage(reformation)
    width = coverage.sum(axis=0) * SPACING
    np.testing.assert_allclose(width, 3.0, rtol=0.01)  # the mesh has corners, the tube is round
    assert width.sum() * SPACING == pytest.approx(3.0 * LENGTH, rel=0.005)
    inner = np.abs(reformation.offsets) < 1.2
    assert (coverage[inner] > 0.999).all()
    assert coverage[np.abs(reformation.offsets) > 1.7].max() < 1e-9


def test_a_tapering_tube_has_the_width_of_every_place() -> None:
    radius = np.linspace(2.0, 1.0, 400)
    points = planar_arc(30, 60)
    coverage = Surface(*tube(points, radius)).coverage(Reformation.of(Centreline(points), SIZE, SPACING, start=3))
    arc = 3 + (np.arange(SIZE[1]) + 0.5) * SPACING
    np.testing.assert_allclose(coverage.sum(axis=0) * SPACING, 2 * np.interp(arc, [0.5, 59.5], [2.0, 1.0]), rtol=0.01)


@settings(max_examples=25)
@given(
    turn=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    shift=st.tuples(*[st.floats(-300, 300)] * 3),
    angle=st.floats(0, 3.14),
    swap=st.permutations([0, 1, 2]),
    flip=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
)
def test_areas_do_not_depend_on_where_the_scene_lies(
    turn: tuple[float, ...], shift: tuple[float, ...], angle: float, swap: list[int], flip: tuple[float, ...]
) -> None:
    points = helix(8, 6, 60, 120)
    vertices, faces = tube(points, np.linspace(2, 1, 100), rings=100, sectors=24)
    matrix = Rotation.from_rotvec(turn).as_matrix()

    def seen(points: Array, vertices: Array, angle: float) -> float:
        reformation = Reformation.of(Centreline(points), (64, 96), 0.5, angle, start=3)
        return float(Surface(vertices, faces).coverage(reformation).sum()) * 0.25

    def moved(x: Array) -> Array:
        return (x @ matrix.T + shift)[:, swap] * flip

    mirrored = np.linalg.det(matrix[swap] * np.array(flip)[:, None]) < 0
    before = seen(points, vertices, angle)
    assert seen(moved(points), moved(vertices), -angle if mirrored else angle) == pytest.approx(before, rel=1e-6)


def test_half_a_turn_mirrors_the_image() -> None:
    points = helix(8, 6, 60)
    surface = Surface(*tube(points, np.linspace(2, 1, 400)))
    first, second = (
        surface.coverage(Reformation.of(Centreline(points), SIZE, SPACING, angle, start=3))
        for angle in (0.4, 0.4 + np.pi)
    )
    np.testing.assert_allclose(first, second[::-1], atol=1e-9)


def test_a_line_through_corners_and_edges_is_as_good_as_any() -> None:
    # Vertices lie exactly in the planes of the columns, and edges exactly on their lines.
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1.0, 7.0)])
    faces = np.array(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
         [1, 5, 7], [1, 7, 3]]
    )  # fmt: skip
    surface = Surface(cube, faces)
    for axis in ([1.0, 0, 0], [1.0, 1.0, 0]):
        across = np.array(axis) / np.linalg.norm(axis)
        centre = np.stack([np.zeros(6), np.zeros(6), np.arange(6.0)], axis=1)
        along = np.array([[0, 0, 1.0]]).repeat(6, 0)
        coverage = surface.coverage(Reformation((16, 6), 0.25, centre, along, across[None].repeat(6, 0)))
        np.testing.assert_allclose(coverage.sum(axis=0) * 0.25, 2 * np.linalg.norm(axis), atol=1e-12)


def test_faces_may_be_turned_inside() -> None:
    points = line(60)
    vertices, faces = tube(points, 1.5)
    reformation = Reformation.of(Centreline(points), SIZE, SPACING, start=3)
    np.testing.assert_array_equal(
        Surface(vertices, faces).coverage(reformation), Surface(vertices, faces[:, ::-1]).coverage(reformation)
    )


def test_two_vessels_in_one_mesh_are_both_seen() -> None:
    first, second = tube(line(60), 1.0), tube(line(60) + np.array([4.0, 0, 0]), 1.0)
    vertices, faces = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1] + len(first[0])])
    assert Surface(vertices, faces).coverage(
        Reformation.of(Centreline(line(60)), SIZE, SPACING, start=3)
    ).sum() * SPACING**2 == pytest.approx(4 * LENGTH, rel=0.01)


def test_broken_meshes_are_refused() -> None:
    vertices, faces = tube(line(60), 1.5)
    reformation = Reformation.of(Centreline(line(60)), SIZE, SPACING, start=3)
    with pytest.raises(Excluded, match=r"of \d+ edges 3 have one face alone") as caught:
        Surface(vertices, faces[1:])
    assert caught.value.kind == OPEN
    with pytest.raises(Excluded, match="more than two") as caught:
        Surface(vertices, np.concatenate([faces, [[0, 1, len(vertices) - 1]]]))
    assert caught.value.kind == OPEN
    with pytest.raises(Excluded, match="turned different ways"):
        Surface(vertices, np.concatenate([faces[:1, ::-1], faces[1:]]))
    with pytest.raises(Excluded, match="finite"):
        Surface(np.where(np.arange(len(vertices))[:, None] == 7, np.nan, vertices), faces)
    with pytest.raises(Excluded, match="no faces"):
        Surface(vertices, faces[:0])
    other = tube(line(60) + np.array([1.0, 0, 0]), 1.5)
    crossed = Surface(np.concatenate([vertices, other[0]]), np.concatenate([faces, other[1] + len(vertices)]))
    with pytest.raises(Excluded, match="crosses itself") as caught:
        crossed.coverage(reformation)
    assert caught.value.kind == CROSSED


def some(points: Array, *, every: int = 1, chosen: int = 0) -> Array:
    """Points of a curve: one in ``every``, or so many at random, some of them twice."""
    return points[np.sort(np.random.default_rng(0).integers(0, len(points), chosen))] if chosen else points[::every]


@pytest.mark.parametrize(
    "points",
    [
        line(60, 6),  # sparse
        some(line(60, 200), chosen=60),
        some(planar_arc(25, 60), chosen=150),
        some(helix(8, 6, 60), every=20),
        some(helix(3, 2, 60), every=8),  # turns are 13 mm apart
        line(60, 200) + np.random.default_rng(0).normal(0, 0.5, (200, 3)),  # less sure than they are close
    ],
)
def test_points_by_hand_are_one_course(points: Array) -> None:
    assert Centreline(points, tolerance=0.5).length > 30


@given(
    before=st.integers(3, 60),
    after=st.integers(3, 60),
    leap=st.floats(45, 112),
    step=st.floats(0.3, 5),
    turn=st.integers(0, 99),
)
def test_a_leap_to_another_branch_is_refused(before: int, after: int, leap: float, step: float, turn: int) -> None:
    direction = np.random.default_rng(turn).normal(size=3)
    one, other = (np.arange(count)[:, None] * step * np.array([0, 0.6, 0.8]) for count in (before, after))
    points = np.concatenate([one, one[-1] + leap * direction / np.linalg.norm(direction) + other])
    with pytest.raises(Excluded, match="in 2 pieces") as told:
        Centreline(points)
    assert told.value.kind == IN_PIECES


@pytest.mark.parametrize("count", [12, 40, 200])
@pytest.mark.parametrize("disorder", ["shuffled", "there and back", "twice"])
def test_points_in_no_order_are_refused(count: int, disorder: str) -> None:
    points = some(helix(8, 6, 9), every=200 // count)[:count]
    order = {
        "shuffled": np.random.default_rng(0).permutation(count),
        "there and back": np.r_[0:count, count - 2 : 0 : -1],
        "twice": np.r_[0:count, 0:count],
    }[disorder]
    with pytest.raises(Excluded) as told:
        Centreline(points[order])
    assert told.value.kind == UNORDERED


def test_short_or_empty_centrelines_are_refused() -> None:
    with pytest.raises(Excluded, match=r"60\.0 mm long, and the image needs 96 mm") as caught:
        Reformation.of(Centreline(line(60)), (64, 384), 0.25)
    assert caught.value.kind == TOO_SHORT
    with pytest.raises(Excluded, match="3 different points"):
        Centreline(line(60, 3))
    with pytest.raises(Excluded, match="1 different points"):
        Centreline(np.zeros((10, 3)))
    with pytest.raises(Excluded, match="finite"):
        Centreline(np.full((10, 3), np.nan))


@pytest.mark.parametrize("unit", [1e3, 1e12, 1e200])
def test_a_centreline_beyond_any_patient_is_refused(unit: float) -> None:
    with pytest.raises(Excluded, match=r"coordinates of up to 6e\+\d+ mm, expected 10000 at most: are they in mm\?"):
        Centreline(line(60) * unit)


def test_the_wall_is_split_where_it_is_brighter_than_the_lumen() -> None:
    rng = np.random.default_rng(0)
    lumen, wall = np.zeros((40, 50)), np.zeros((40, 50))
    lumen[15:25], wall[12:28] = 1, 1
    for enhancement, expected in ((300.0, 390.0), (500.0, 590.0), (150.0, 350.0)):
        hu = np.where(lumen > 0, enhancement, 60.0) + rng.normal(0, 30, lumen.shape)
        hu[12:15, 20:30] = 1100
        threshold = Threshold()
        assert threshold.of(hu, lumen) == pytest.approx(expected, abs=15)
        seen, calcified, noncalcified = split(hu, lumen, wall, threshold.of(hu, lumen))
        assert calcified.sum() == 30
        assert noncalcified.sum() == 6 * 50 - 30
        np.testing.assert_array_equal(seen + calcified + noncalcified, wall)
    with pytest.raises(Excluded, match="no pixel"):
        Threshold().of(hu, np.zeros_like(lumen))
