"""What a photograph of the back of a right eye shows: optic disc and cup, vessels, pigments, and the light on it.

Everything is in the coordinates of the unit frame (:mod:`segcft.simulate.raster`), which is :data:`FIELD` mm of the
retina across. The nose is to the right, as in a photograph of a right eye.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcft.simulate.raster import Floats, Grid, smooth_noise

FIELD = 9.0
"""mm of the retina across the frame: a camera of some 30 degrees."""
APERTURE = 0.485
"""Radius of the round field that a camera sees; around it all is black."""
CORNERS = 256
"""Of the polygon that stands for an ellipse, which has the ellipse's area."""
KNOTS = 24
"""Of a vessel's path, whatever the grid."""
TAPER = 0.55
"""By which share of its width a vessel narrows along its path."""
STEPS = 1.5
"""Points of a vessel a pixel of its length."""


def ellipse(centre: Floats, across: float, down: float, tilt: float) -> Floats:
    """A polygon (N, 2) with the area of the ellipse of these semi-axes, turned by ``tilt`` radians.

    A regular polygon in a circle is smaller than it by :math:`\\sin(2 \\pi / N) / (2 \\pi / N)`, so it is drawn larger.
    """
    step = 2 * math.pi / CORNERS
    angle = np.arange(CORNERS) * step
    grown = math.sqrt(step / math.sin(step))
    points = grown * np.stack([across * np.cos(angle), down * np.sin(angle)], axis=1)
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    return np.asarray(centre + points @ turn)


@dataclass(frozen=True)
class Nerve:
    """Where the optic disc lies, how much taller than wide it and its cup are, and how far the cup is off its middle.

    ``lean`` (2,), shorter than 1, is the cup's place as a share of the room that it has in the disc.
    """

    centre: Floats
    aspect: float
    tilt: float
    cup_aspect: float
    lean: Floats

    @classmethod
    def draw(cls, random: np.random.Generator) -> Nerve:
        centre = np.array([0.70, 0.50]) + random.uniform(-0.03, 0.03, 2)
        away, toward = random.uniform(0, 0.45), random.normal(math.pi, 0.8)  # most lean away from the nose
        lean = away * np.array([math.cos(toward), math.sin(toward)])
        return cls(centre, random.uniform(1.0, 1.16), random.normal(0, 0.12), random.uniform(1.0, 1.1), lean)

    def disc(self, area: float) -> Floats:
        """The outline of a disc of this ``area`` (N, 2)."""
        across = math.sqrt(area / (math.pi * self.aspect))
        return ellipse(self.centre, across, across * self.aspect, self.tilt)

    def cup(self, area: float, disc: float) -> Floats:
        """The outline of a cup in a disc, of these areas: in the frame in which the disc is a circle of radius 1, an
        ellipse that is within it.

        Raises:
            ValueError: it would not be within.
        """
        mean = math.sqrt(area / disc)
        across, down = mean / math.sqrt(self.cup_aspect), mean * math.sqrt(self.cup_aspect)
        if down > LARGEST_CUP:
            raise ValueError(f"more than a disc of {disc / area:.3g} times that holds")
        inside = ellipse(self.lean * (1 - down / LARGEST_CUP), across, down, 0.0)
        wide = math.sqrt(disc / (math.pi * self.aspect))
        turn = np.array([[math.cos(self.tilt), math.sin(self.tilt)], [-math.sin(self.tilt), math.cos(self.tilt)]])
        return np.asarray(self.centre + (inside * (wide, wide * self.aspect)) @ turn)


LARGEST_CUP = 0.98
"""Largest semi-axis of a cup, that of the disc being 1: some rim is always left."""


@dataclass(frozen=True)
class Vessels:
    """Paths (N, K, 2) of vessels, how wide they are along them (N, K), and how dark their blood is (N,), as shares of
    the widest vein at the disc."""

    paths: Floats
    widths: Floats
    blood: Floats

    @classmethod
    def draw(cls, random: np.random.Generator, origin: Floats) -> Vessels:
        """Eight trunks from the disc, an artery and a vein to each quarter, that branch twice and thin out."""
        vein = np.tile([0.0, 1.0], 4)
        temporal = np.repeat([1.0, 1.0, 0.0, 0.0], 2)
        up = np.repeat([1.0, -1.0, 1.0, -1.0], 2)
        # Temporal ones rise, or fall, and bend around the macula; nasal ones go straight on.
        angle = np.where(temporal, 1.75, 0.95) + 0.16 * (vein - 0.5) + random.normal(0, 0.10, 8)
        bend = np.where(temporal, 1.35, 0.0) + random.normal(0, 0.15, 8)
        length = np.where(temporal, 0.78, 0.48) * random.uniform(0.9, 1.1, 8)
        width = np.where(vein, 1.0, 0.75) * np.where(temporal, 1.0, 0.75) * random.uniform(0.9, 1.0, 8)
        start: Floats = origin + random.normal(0, 0.006, (8, 2))
        every: list[tuple[Floats, Floats, Floats]] = []
        for children in (4, 2, 0):
            path, heading = _paths(random, start, up * angle, up * bend, length)
            along = np.linspace(0, 1, KNOTS)
            every.append((path, width[:, None] * (1 - TAPER * along), vein))
            if children:
                parent = np.repeat(np.arange(len(start)), children)
                knot = (random.uniform(0.2, 0.9, len(parent)) * KNOTS).astype(np.intp)
                turn = random.choice((-1, 1), len(parent)) * random.uniform(0.4, 0.9, len(parent))
                start, up, vein = path[parent, knot], np.ones(len(parent)), vein[parent]
                angle, bend = heading[parent, knot] + turn, random.normal(0, 0.5, len(parent)) - 0.5 * turn
                length = length[parent] * random.uniform(0.3, 0.55, len(parent))
                width = width[parent] * (1 - TAPER * knot / KNOTS) * random.uniform(0.45, 0.65, len(parent))
        paths, widths, veins = (np.concatenate(part) for part in zip(*every, strict=True))
        return cls(paths, widths, np.where(veins, 1.0, 0.62))

    def depth(self, widest: float, grid: Grid) -> Floats:
        """How much blood is in front of each pixel (H, W), 0 to 1, where the widest vein is ``widest`` across."""
        lengths = np.linalg.norm(np.diff(self.paths, axis=1), axis=2).sum(axis=1)
        counts = np.maximum(2, np.ceil(STEPS * grid.side * lengths).astype(np.intp))
        # Where the points are among the knots of all vessels, one after the other.
        place = np.concatenate([k * KNOTS + np.linspace(0, KNOTS - 1, count) for k, count in enumerate(counts)])
        knots = np.arange(self.widths.size)
        columns = (*self.paths.reshape(-1, 2).T, self.widths.reshape(-1))
        x, y, width = (np.interp(place, knots, column) for column in columns)
        return _stroke(np.stack([x, y], axis=1), width * widest / 2, np.repeat(self.blood, counts), grid)


def _paths(
    random: np.random.Generator, start: Floats, angle: Floats, bend: Floats, length: Floats
) -> tuple[Floats, Floats]:
    """Curved paths (N, K, 2) and their heading (N, K): radians from the right, upwards."""
    t = np.linspace(0, 1, KNOTS)
    wave = random.normal(0, 0.12, (len(start), 1)) * np.sin(4 * np.pi * t + random.uniform(0, 6.3, (len(start), 1)))
    heading = angle[:, None] + bend[:, None] * t + wave
    moves = np.stack([np.cos(heading), -np.sin(heading)], axis=2) * (length / (KNOTS - 1))[:, None, None]
    moves[:, 0] = 0
    return start[:, None] + np.cumsum(moves, axis=1), heading


def _stroke(points: Floats, radius: Floats, darkness: Floats, grid: Grid) -> Floats:
    """How dark a pen leaves each pixel (H, W) that is put on points (N, 2): the largest over the points of the share of
    the pixel, about, that a round tip covers, times its darkness."""
    position, radius = grid.pixels(points), radius * grid.side
    reach = math.ceil(float(radius.max()) + 1)
    offset = np.arange(-reach, reach + 1)
    corner = np.floor(position).astype(np.intp)
    columns, rows = corner[:, 0, None] + offset, corner[:, 1, None] + offset
    across, down = columns + 0.5 - position[:, 0, None], rows + 0.5 - position[:, 1, None]
    distance = np.hypot(across[:, None, :], down[:, :, None])
    reached = np.minimum(1, 2 * radius)  # a vessel thinner than a pixel darkens a part of it
    cover = np.clip(radius[:, None, None] + 0.5 - distance, 0, reached[:, None, None]) * darkness[:, None, None]
    seen = ((columns >= 0) & (columns < grid.width))[:, None, :] & ((rows >= 0) & (rows < grid.height))[:, :, None]
    seen &= cover > 0
    where = rows[:, :, None] * grid.width + columns[:, None, :]
    field = np.zeros(grid.height * grid.width)
    np.maximum.at(field, where[seen], cover[seen])
    return field.reshape(grid.height, grid.width)


RETINA, RIM, CUP = (np.array(colour) for colour in ((0.96, 0.62, 0.42), (0.97, 0.70, 0.46), (1.0, 0.90, 0.72)))
"""Red, green and blue of what light comes back from, 0 to 1: a retina without pigment, the nerve's rim, its cup."""
MELANIN, BLOOD, XANTHOPHYLL, LENS = (
    np.array(colour) for colour in ((0.30, 0.75, 0.95), (0.35, 1.05, 0.80), (0.02, 0.15, 0.60), (0.02, 0.25, 0.95))
)
"""How much of red, green and blue the pigments take, as exponents: of the eye's ground, of vessels, of the macula, and
of a lens of 90 years."""


@dataclass(frozen=True)
class Pigments:
    """How much melanin there is on the whole and how unevenly, and how much the macula has; of a person."""

    melanin: float
    uneven: float
    macula: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Pigments:
        return cls(math.exp(random.uniform(-0.9, 0.6)), random.uniform(0.10, 0.22), random.uniform(0.5, 1.0))


@dataclass(frozen=True)
class Light:
    """How bright a photograph is, how much darker at the border and to one side, how blurred and how noisy."""

    gain: float
    falloff: float
    slope: Floats
    blur: float
    noise: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Light:
        return cls(
            random.uniform(0.75, 1.0),
            random.uniform(0.15, 0.5),
            random.uniform(-0.25, 0.25, 2),
            random.uniform(0.002, 0.005),
            random.uniform(0.008, 0.02),
        )

    def field(self, x: Floats, y: Floats) -> Floats:
        """The light at positions (H, W)."""
        right, down = (x - 0.5) / APERTURE, (y - 0.5) / APERTURE
        tilted = 1 + self.slope[0] * right + self.slope[1] * down
        return np.asarray(self.gain * tilted * (1 - self.falloff * np.minimum(1, right**2 + down**2)))


def ground(
    pigments: Pigments, texture: np.random.Generator, fovea: Floats, x: Floats, y: Floats, grid: Grid
) -> NDArray[np.float64]:
    """What light comes back from a retina (3, H, W), 0 to 1, without disc and vessels; its macula is at ``fovea``."""
    rough = 0.7 * smooth_noise(texture, 6, grid) + 0.5 * smooth_noise(texture, 14, grid)
    distance = np.hypot(x - fovea[0], y - fovea[1])
    macula = pigments.macula * np.exp(-((distance / 0.085) ** 2))
    melanin = pigments.melanin * np.maximum(0.2, 1 + pigments.uneven * rough) + 0.6 * macula
    taken = MELANIN[:, None, None] * melanin + XANTHOPHYLL[:, None, None] * macula
    return np.asarray(RETINA[:, None, None] * np.exp(-taken), dtype=np.float64)
