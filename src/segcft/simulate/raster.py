"""From continuous coordinates to pixels: exact coverage of outlines, thin curves, smooth random fields.

Everything is defined in *frame* coordinates: x to the right and y down, with the largest centred square of
the grid being [0, 1] x [0, 1], so a scene looks the same on every grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Grid:
    """``height`` x ``width`` pixels around the unit frame."""

    height: int
    width: int

    @property
    def side(self) -> int:
        """Pixels per unit of length in the frame."""
        return min(self.height, self.width)

    def centres(self) -> tuple[Floats, Floats]:
        """Frame coordinates x (1, W) and y (H, 1) of the pixels' centres."""
        x = (np.arange(self.width) + 0.5 - self.width / 2) / self.side + 0.5
        y = (np.arange(self.height) + 0.5 - self.height / 2) / self.side + 0.5
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)

    def pixels(self, points: Floats) -> Floats:
        """Frame points (..., 2) in pixel units, where pixel (row, column) spans [column, column + 1) etc."""
        return (points - 0.5) * self.side + np.array([self.width / 2, self.height / 2])


def polygon_area(points: Floats) -> float:
    """Signed area of a closed polygon (N, 2), by the shoelace formula."""
    x, y = points[:, 0], points[:, 1]
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))


def coverage(points: Floats, grid: Grid) -> Floats:
    """Share of every pixel that lies inside a closed polygon (N, 2) of frame points: (H, W) in [0, 1].

    Exact, not sampled, so its sum is the polygon's area in pixels: the outline is cut where it crosses a
    pixel border, each piece adds the area to its right within its own pixel and its whole height to all
    pixels further right (Green's theorem, as font rasterisers do). The polygon must lie inside the grid.
    """
    pieces = _cut_at_pixel_borders(grid.pixels(points))
    start, end = pieces[:-1], pieces[1:]
    middle = (start + end) / 2
    column = np.clip(np.floor(middle[:, 0]).astype(np.intp), 0, grid.width - 1)
    row = np.clip(np.floor(middle[:, 1]).astype(np.intp), 0, grid.height - 1)
    rise = end[:, 1] - start[:, 1]
    right = rise * (middle[:, 0] - column)  # goes to the neighbour on the right
    stride = grid.width + 1
    where = row * stride + column
    steps = np.bincount(where, rise - right, minlength=grid.height * stride)
    steps += np.bincount(where + 1, right, minlength=grid.height * stride)
    area = np.cumsum(steps.reshape(grid.height, stride), axis=1)[:, :-1]
    return np.clip(np.abs(area), 0.0, 1.0)


def _cut_at_pixel_borders(points: Floats) -> Floats:
    """The closed polygon as points (M, 2) such that no piece between two of them leaves its pixel."""
    closed = np.concatenate([points, points[:1]])
    times = [np.arange(len(closed), dtype=float)]
    for axis in (0, 1):
        start, end = closed[:-1, axis], closed[1:, axis]
        first = np.floor(np.minimum(start, end)) + 1
        count = np.maximum(np.ceil(np.maximum(start, end)) - first, 0).astype(np.intp)
        edge = np.repeat(np.arange(len(points)), count)
        rank = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        border = first[edge] + rank
        times.append(edge + (border - start[edge]) / (end - start)[edge])
    time = np.sort(np.concatenate(times))
    knots = np.arange(len(closed))
    return np.stack([np.interp(time, knots, closed[:, axis]) for axis in (0, 1)], axis=1)


def splat(points: Floats, mass: Floats, grid: Grid) -> Floats:
    """Spread masses (N,) at frame points (N, 2) bilinearly over the pixels: (H, W), mass per unit area."""
    position = grid.pixels(points) - 0.5
    corner = np.floor(position).astype(np.intp)
    part = position - corner
    inside = np.all((corner >= 0) & (corner < (grid.width - 1, grid.height - 1)), axis=1)
    corner, part, mass = corner[inside], part[inside], mass[inside]
    where = corner[:, 1] * grid.width + corner[:, 0]
    total = np.zeros(grid.height * grid.width)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - right - part[:, 0]) * np.abs(1 - down - part[:, 1])
            total += np.bincount(where + down * grid.width + right, mass * share, minlength=total.size)
    return (total.reshape(grid.height, grid.width) * grid.side**2).astype(np.float32)


def blur(field: Floats, sigma: float, grid: Grid) -> Floats:
    """Gaussian blur by ``sigma`` frame units, cut off at 3 sigma, so that it stays local."""
    pixels = sigma * grid.side
    if pixels < 0.2:  # a blur well within a pixel changes nothing
        return field
    return ndimage.gaussian_filter(field, pixels, mode="nearest", truncate=3.0)


def smooth_noise(random: np.random.Generator, nodes: int, grid: Grid) -> Floats:
    """A smooth Gaussian field (H, W) of unit variance with ``nodes`` independent values per unit of length.

    Cubic B-splines through a lattice of noise: the draw depends on the lattice and not on the pixels.
    """
    down = _spline_basis(grid.height, grid.side, nodes)
    right = _spline_basis(grid.width, grid.side, nodes)
    lattice = random.standard_normal((down.shape[1], right.shape[1]), dtype=np.float32)
    return down @ lattice @ right.T


@lru_cache(maxsize=64)
def _spline_basis(pixels: int, side: int, nodes: int) -> Floats:
    """Cubic B-spline weights (pixels, lattice) of the pixels' centres, scaled for unit variance."""
    position = (np.arange(pixels) + 0.5) / side * nodes
    cell = np.floor(position).astype(np.intp)
    t = position - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    basis = np.zeros((pixels, int(cell[-1]) + 4), dtype=np.float32)
    np.put_along_axis(basis, cell[:, None] + np.arange(4), weights.astype(np.float32), axis=1)
    return basis / np.sqrt(np.mean(np.sum(weights**2, axis=1)))
