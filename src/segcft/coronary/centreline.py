"""The centreline of a vessel and frames that travel along it without turning about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, CubicSpline, splprep
from scipy.spatial import cKDTree

from segcft.io.reject import Excluded

Points = NDArray[np.float64]

UNUSABLE = "centreline unusable"
IN_PIECES = "centreline in pieces"
UNORDERED = "centreline out of order"

LEAP = (5.0, 10.0)
"""A step is a leap from one vessel to another where it is longer than so many times the median step, and than so many
mm: 10 mm are more than a curve through points can bridge within a vessel."""

ASTRAY = (2.0, 0.1)
"""Points are out of order where their nearest one is, by the median, further down the list than so many places and than
this share of all of them. In order it is the next, or the next but some where points lie closer than they are sure."""

FARTHEST = 1e4
"""mm from the origin, 10 m, within which any patient is."""

_STEPS = 32  # between two points, to find the arc length
_LEAD = 0.25  # mm between stations from the curve's begin to the part that is asked for


@dataclass(frozen=True)
class Frames:
    """Right-handed orthonormal frames at N stations along a curve, (N, 3) each; positions in mm."""

    position: Points
    tangent: Points
    normal: Points
    binormal: Points


class Centreline:
    """A smooth curve through points, by its arc length.

    Args:
        points: (N, 3) in mm, in order from the ostium on.
        tolerance: how far the curve may pass by the points, root mean square in mm; 0: it goes through all of them.

    Raises:
        Excluded: there are fewer than four different points, some are not finite or beyond :data:`FARTHEST`, or they
            are in pieces or out of order.
    """

    def __init__(self, points: Points, tolerance: float = 0.0) -> None:
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points: must be (N, 3), not {points.shape}")
        if not np.isfinite(points).all():
            raise Excluded(UNUSABLE, "the centreline has coordinates that are not finite numbers")
        if (farthest := float(np.abs(points).max(initial=0))) > FARTHEST:
            why = (
                f"the centreline has coordinates of up to {farthest:.3g} mm, expected {FARTHEST:g} at most: are they "
                "in mm?"
            )
            raise Excluded(UNUSABLE, why)
        apart = np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-6
        points = points[np.concatenate([[True], apart])]
        if len(points) < 4:
            raise Excluded(UNUSABLE, f"the centreline has {len(points)} different points; four are needed")
        _check_one_course(points)
        chords = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        if tolerance > 0:
            # Not make_splprep, which takes minutes for thousands of points. With full_output it keeps quiet.
            spline = splprep(points.T, u=chords, s=len(points) * tolerance**2, full_output=True, quiet=True)[0][0]
            self._curve = BSpline(spline[0], np.transpose(spline[1]), spline[2])
        else:
            self._curve = CubicSpline(chords, points)
        # The chord length is near the arc length, and this table turns one into the other.
        inner = np.linspace(0, 1, _STEPS, endpoint=False)
        self._u = np.append((chords[:-1, None] + np.diff(chords)[:, None] * inner).ravel(), chords[-1])
        path = self._curve(self._u)
        pieces = np.linalg.norm(np.diff(path, axis=0), axis=1)
        self._s = np.concatenate([[0.0], np.cumsum(pieces)])
        self._centre = np.average((path[1:] + path[:-1]) / 2, axis=0, weights=pieces)

    @property
    def length(self) -> float:
        """Arc length in mm."""
        return float(self._s[-1])

    def at(self, arc: Points) -> Points:
        """Positions (N, 3) at arc lengths (N,), 0 to :attr:`length`."""
        return np.asarray(self._curve(np.interp(arc, self._s, self._u)))

    def frames(self, arc: Points) -> Frames:
        """Rotation-minimising frames at the ascending arc lengths (N,).

        The normal at the curve's begin points to where the curve goes: to its centre, across its tangent. So the frames
        are the curve's own, wherever it lies and whichever part of it is asked for. Along a straight line, where no
        direction is preferred, the normal is across the coordinate axis that is the least along the line.

        Reference: Wang et al., *Computation of rotation minimizing frames*, ACM Transactions on Graphics 27 (2008): the
        double reflection method, whose error is of fourth order.
        """
        lead = np.arange(0, arc[0], _LEAD)
        wanted = slice(len(lead), None)
        arc = np.concatenate([lead, arc])
        position = self.at(arc)
        tangent = self._tangents(arc)
        normal = np.empty_like(position)
        normal[0] = self._first_normal()
        for i in range(len(arc) - 1):
            chord = position[i + 1] - position[i]
            reflected_normal = _reflect(normal[i], chord)
            reflected_tangent = _reflect(tangent[i], chord)
            turned = _reflect(reflected_normal, tangent[i + 1] - reflected_tangent)
            turned = turned - tangent[i + 1] * (turned @ tangent[i + 1])  # rounding must not add up
            normal[i + 1] = turned / np.linalg.norm(turned)
        position, tangent, normal = position[wanted], tangent[wanted], normal[wanted]
        return Frames(position, tangent, normal, np.cross(tangent, normal))

    def _tangents(self, arc: Points) -> Points:
        step = 1e-3 * min(1.0, self.length)
        before, after = np.maximum(arc - step, 0), np.minimum(arc + step, self.length)
        difference = self.at(after) - self.at(before)
        return difference / np.linalg.norm(difference, axis=1, keepdims=True)

    def _first_normal(self) -> Points:
        begin, tangent = self.at(np.zeros(1))[0], self._tangents(np.zeros(1))[0]
        ahead = self._centre - begin
        across = ahead - tangent * (ahead @ tangent)
        if np.linalg.norm(across) < 1e-4 * np.linalg.norm(ahead):
            axis = np.eye(3)[np.argmin(np.abs(tangent))]
            across = axis - tangent * (axis @ tangent)
        return np.asarray(across / np.linalg.norm(across))


def _check_one_course(points: Points) -> None:
    """Check that points follow one vessel.

    Raises:
        Excluded: there is a leap among their steps, see :data:`LEAP`, or they are out of order, see :data:`ASTRAY`.
    """
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    usual = float(np.median(steps))
    if len(leaps := np.nonzero(steps > max(LEAP[0] * usual, LEAP[1]))[0]):
        first = int(leaps[0])
        why = (
            f"the centreline is in {len(leaps) + 1} pieces: {steps[first]:.4g} mm from its point {first + 1} to the "
            f"next, where half of its steps are below {usual:.3g}; give one vessel a file, with points all along it"
        )
        raise Excluded(IN_PIECES, why)
    nearest = cKDTree(points).query(points, k=2)[1]
    numbers = np.arange(len(points))
    other = np.where(nearest[:, 0] == numbers, nearest[:, 1], nearest[:, 0])  # two points may be at one place
    astray = float(np.median(np.abs(other - numbers)))
    if astray > max(ASTRAY[0], ASTRAY[1] * len(points)):
        why = (
            f"the centreline's points are not in order along the vessel, or go along it more than once: the nearest "
            f"one of half of them is {astray:.0f} or more places down the list"
        )
        raise Excluded(UNORDERED, why)


def _reflect(vector: Points, across: Points) -> Points:
    """Mirror a vector in the plane that ``across`` is perpendicular to."""
    square = across @ across
    return vector if square == 0 else vector - across * (2 * (across @ vector) / square)
