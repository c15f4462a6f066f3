"""Outlines of lungs and heart in continuous coordinates, solved for an exact area.

Body coordinates: the unit square that the posteroanterior radiograph shows, x to the right of the image (the
patient's left), y down, midline at x = 0.5. Proportions follow the contours of JSRT (van Ginneken et
al., Medical Image Analysis 2006); what varies between people does so independently of the areas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from segcft.simulate.raster import Floats, polygon_area

MIDLINE = 0.5


def smoothstep(t: Floats) -> Floats:
    """0 below 0, 1 above 1, and a cubic with flat ends in between."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Mediastinum:
    """Medial border of a lung: distance from the midline, as a function of y.

    ``width`` at the great vessels; ``knob``: how far the aortic arch pushes into the lung around ``knob_y``;
    ``bulge``: how far the heart does, from ``bulge_top`` over a length of ``bulge_length``; below it the
    border runs on laterally with ``sweep``.
    """

    width: float
    knob: float
    knob_y: float
    bulge: float
    bulge_top: float
    bulge_length: float
    sweep: float

    def border(self, y: Floats) -> Floats:
        arch = self.knob * np.exp(-(((y - self.knob_y) / 0.04) ** 2))
        heart = self.bulge * smoothstep((y - self.bulge_top) / self.bulge_length)
        below = np.clip(y - self.bulge_top - 0.85 * self.bulge_length, 0.0, 0.16)
        return self.width + arch + heart + self.sweep * below**2


@dataclass(frozen=True)
class LungShape:
    """One lung. ``side`` is +1 for the left lung (right half of the image) and -1 for the right lung.

    Inside the lung u runs from the medial (0) to the lateral border (1) and v from the apex (0) to the
    costophrenic angle (1). ``usual_area`` (share of the frame) is the size at which the proportions hold:
    ``height`` from apex to angle, hinged at ``hinge_y`` just below the apex because the diaphragm moves most.
    ``apex_u``: where the apex is; ``shoulder`` and ``apex_medial``: length in v of the curves to its sides.
    The diaphragm's dome is highest (``dome_v``) at ``dome_u`` and falls by ``dome_medial`` towards the heart;
    ``taper``: how much narrower the rib cage is at the top, ``tuck``: at the costophrenic angle.
    """

    side: int
    usual_area: float
    height: float
    hinge_y: float
    apex_u: float
    apex_medial: float
    shoulder: float
    dome_u: float
    dome_v: float
    dome_medial: float
    taper: float
    tuck: float
    mediastinum: Mediastinum

    def outline(self, area: float, stretch: float = 1.0) -> Floats:
        """Closed outline (N, 2) of exactly this ``area``, or ``ValueError`` saying why there is none.

        Its height follows from the area, and is ``stretch`` times that. Then every x is linear in the lateral extent,
        hence so is the area, and the extent that gives ``area`` follows in closed form.
        """
        growth = math.log(area / self.usual_area)
        # A small lung is mostly a high diaphragm, since ribs give way little; a large one also widens.
        height = min(self.height * math.exp(0.72 * growth if growth < 0 else 0.46 * growth), TALLEST) * stretch
        fullness = max(growth, 0.0)
        u, v = self._template(fullness)
        y = self.hinge_y + height * (v - HINGE_V)
        medial = (1 - u) * self.mediastinum.border(y)
        lateral = u * (1 - self.taper * math.exp(-2 * fullness) * (1 - v) ** 2 - self.tuck * v**8)
        fixed = polygon_area(np.stack([medial, y], axis=1))
        per_extent = polygon_area(np.stack([lateral, y], axis=1))
        extent = (math.copysign(area, per_extent) - fixed) / per_extent
        edge = u == 1
        if np.any(extent * lateral[edge] < self.mediastinum.border(y[edge]) + 0.01):
            raise ValueError("too small to lie beside the heart")
        return np.stack([MIDLINE + self.side * (medial + extent * lateral), y], axis=1)

    def _template(self, fullness: float) -> tuple[Floats, Floats]:
        """The outline in (u, v), starting at the medial end of the diaphragm and passing the apex."""
        # Hyperinflation: the rib cage squares up and the diaphragm flattens.
        shoulder = self.shoulder * math.exp(-1.0 * fullness)
        dome_v = 1 - (1 - self.dome_v) * math.exp(-1.1 * fullness)
        quarter = np.linspace(0, np.pi / 2, 40)
        along = np.linspace(0, 1, 60)[1:-1]
        base = dome_v + self.dome_medial
        medial_v = base + (self.apex_medial - base) * along
        lateral_v = shoulder + (1 - shoulder) * along
        # Close to the angle the diaphragm falls steeply: sample it evenly in the fall.
        base_u = np.linspace(1, 0, 80)
        fall = np.clip((base_u - self.dome_u) / (1 - self.dome_u), 0, 1) ** 2.3
        rise = np.clip((self.dome_u - base_u) / self.dome_u, 0, 1) ** 2
        base_v = dome_v + (1 - dome_v) * fall + self.dome_medial * rise
        u = [
            np.zeros_like(medial_v),
            self.apex_u * (1 - np.cos(quarter)),
            1 - (1 - self.apex_u) * (1 - np.sin(quarter)),
            np.ones_like(lateral_v),
            base_u,
        ]
        v = [
            medial_v,
            self.apex_medial * (1 - np.sin(quarter)),
            shoulder * (1 - np.cos(quarter)),
            lateral_v,
            base_v,
        ]
        return np.concatenate(u), np.concatenate(v)


HINGE_V = 0.2  # v at hinge_y
TALLEST = 0.944  # a lung fills the frame's height and no more

# Heart seen from the front, clockwise from the top: half-widths from the centre of its bounding box.
_HEART_POINTS = np.array(
    [
        (-0.12, -1.00), (0.30, -0.82), (0.66, -0.25), (0.94, 0.32), (0.94, 0.72), (0.62, 0.95),
        (0.05, 1.00), (-0.58, 0.86), (-0.95, 0.42), (-0.92, -0.15), (-0.58, -0.75),
    ]
)  # fmt: skip
# Periodic cubic interpolation is linear in the points, so one matrix (vertices, points) serves every heart.
_HEART_SPLINE = CubicSpline(
    np.arange(len(_HEART_POINTS) + 1), np.eye(len(_HEART_POINTS))[np.r_[:11, 0]], bc_type="periodic"
)(np.linspace(0, len(_HEART_POINTS), 220, endpoint=False))


@dataclass(frozen=True)
class HeartShape:
    """The cardiac silhouette, ``half_height`` tall to either side at ``usual_area`` (share of the frame).

    What stays in place as it grows is a point near the right atrium (``hinge_x``) and the diaphragm
    (``hinge_y``), so a larger heart reaches further to the patient's left and up. ``jitter`` (11, 2)
    displaces the points of the contour, ``tilt`` (radians) turns it.
    """

    usual_area: float
    half_height: float
    hinge_x: float
    hinge_y: float
    tilt: float
    jitter: Floats

    def outline(self, area: float, stretch: float = 1.0) -> Floats:
        """Closed outline (N, 2) of exactly this ``area``, ``stretch`` times as tall as follows from it."""
        shape = _HEART_SPLINE @ (_HEART_POINTS + self.jitter)
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        shape = shape @ np.array([[cos, sin], [-sin, cos]])
        half_height = self.half_height * (area / self.usual_area) ** 0.45 * stretch
        half_width = area / (half_height * abs(polygon_area(shape)))
        shape = (shape - np.array([-0.5, 0.6])) * np.array([half_width, half_height])
        return shape + np.array([self.hinge_x, self.hinge_y])


@dataclass(frozen=True)
class Anatomy:
    """Shapes of one person's structures, in the order of the masks."""

    left_lung: LungShape
    right_lung: LungShape
    heart: HeartShape


@dataclass(frozen=True)
class UsualAreas:
    """Mean areas as shares of the frame: JSRT's means."""

    left_lung: float = 0.137
    right_lung: float = 0.169
    heart: float = 0.091


def draw_anatomy(random: np.random.Generator) -> Anatomy:
    """The shapes of a person, given the areas' means and nothing else of the person."""
    usual = UsualAreas()

    def vary(centre: float, spread: float) -> float:
        return centre + spread * float(random.uniform(-1, 1))

    hinge_y, knob_y = vary(0.212, 0.006), vary(0.255, 0.02)
    right_border = Mediastinum(vary(0.049, 0.007), 0.0, knob_y, vary(0.066, 0.012), vary(0.36, 0.03), 0.24, 0.5)
    left_border = Mediastinum(
        vary(0.048, 0.006),
        vary(0.026, 0.016),
        knob_y,
        vary(0.195, 0.025),
        vary(0.31, 0.03),
        vary(0.44, 0.03),
        vary(1.8, 0.4),
    )
    height = vary(0.755, 0.02)

    def lung(side: int, area: float, dome_v: float, border: Mediastinum) -> LungShape:
        return LungShape(
            side=side,
            usual_area=area,
            height=height + vary(0, 0.012),
            hinge_y=hinge_y + vary(0, 0.006),
            apex_u=vary(0.42, 0.06),
            apex_medial=vary(0.13, 0.03),
            shoulder=vary(0.46, 0.06),
            dome_u=vary(0.30, 0.08),
            dome_v=dome_v,
            dome_medial=vary(0.025, 0.02),
            taper=vary(0.20, 0.06),
            tuck=vary(0.02, 0.02),
            mediastinum=border,
        )

    # The liver lifts the right hemidiaphragm.
    left_lung = lung(+1, usual.left_lung, vary(0.875, 0.03), left_border)
    right_lung = lung(-1, usual.right_lung, vary(0.825, 0.03), right_border)
    heart = HeartShape(
        usual_area=usual.heart,
        half_height=vary(0.152, 0.014),
        hinge_x=vary(0.482, 0.012),
        hinge_y=vary(0.70, 0.015),
        tilt=vary(0.0, 0.12),
        jitter=random.uniform(-0.04, 0.04, _HEART_POINTS.shape),
    )
    return Anatomy(left_lung, right_lung, heart)
