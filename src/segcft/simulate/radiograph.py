"""From structures to grey values: attenuation along the beam, the film's response, noise and framing.

Attenuation is summed in units in which a chest wall is about 2 and air 0. It is a function of body
coordinates (see :mod:`segcft.simulate.anatomy`), the same whatever lungs and heart are; the lungs replace it
with aerated tissue, and the heart adds to it. So changing a structure changes the picture where the structure
is and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from segcft.simulate.anatomy import MIDLINE, smoothstep
from segcft.simulate.raster import Floats, Grid, blur, smooth_noise, splat
from segcft.simulate.shortcut import moved

SIZES = {"torso": (0.465, 0.53), "wall": (1.5, 2.1), "abdomen": (1.1, 1.9)}
"""Ranges of what makes a body large."""
BEAM, LOG_BEAM, LOG_GAMMA = 0.95, (-0.30, 0.30), (-0.30, 0.30)
"""An exposure's usual beam, and the ranges of the logarithms of its beam, by that, and of its gamma."""


@dataclass(frozen=True)
class Pose:
    """Where the patient stands: a similarity from body to frame coordinates about the frame's centre."""

    scale: float
    angle: float
    shift: Floats

    @classmethod
    def draw(cls, random: np.random.Generator) -> Pose:
        return cls(
            scale=random.uniform(0.97, 1.0),
            angle=math.radians(random.uniform(-1.4, 1.4)),
            shift=random.uniform(-0.005, 0.005, 2),
        )

    def to_frame(self, points: Floats) -> Floats:
        """Body points (..., 2) in frame coordinates."""
        return 0.5 + self.shift + self.scale * (points - 0.5) @ self._rotation().T

    def body_coordinates(self, grid: Grid) -> tuple[Floats, Floats]:
        """Body coordinates x and y, (H, W) each, of the pixels' centres."""
        (a, b), (c, d) = (self._rotation().T / self.scale).astype(np.float32)
        x, y = grid.centres()
        x, y = x - np.float32(0.5 + self.shift[0]), y - np.float32(0.5 + self.shift[1])
        return a * x + b * y + np.float32(0.5), c * x + d * y + np.float32(0.5)

    def _rotation(self) -> Floats:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])


def sigmoid(t: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(0.5 * t)


def bell(distance: Floats, width: float) -> Floats:
    """1 at 0, about 0.37 at ``width``, 0 beyond: the profile of a rounded rod."""
    return np.exp(-((distance / width) ** 2))


@dataclass(frozen=True)
class Body:
    """Soft tissue: wall, mediastinum, abdomen. Lengths in body coordinates, thicknesses in attenuation."""

    torso: float  # half-width of the trunk below the armpits
    armpit_y: float
    shoulder_y: float
    wall: float
    mediastinum: float
    mediastinum_width: float
    abdomen: float
    abdomen_y: float
    knob: float
    knob_y: float
    trachea: float
    trachea_x: float
    carina_y: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Body:
        uniform = random.uniform
        return cls(
            torso=uniform(*SIZES["torso"]),
            armpit_y=uniform(0.30, 0.50),
            shoulder_y=uniform(-0.14, 0.0),
            wall=uniform(*SIZES["wall"]),
            mediastinum=uniform(0.75, 1.25),
            mediastinum_width=uniform(0.075, 0.10),
            abdomen=uniform(*SIZES["abdomen"]),
            abdomen_y=uniform(0.67, 0.75),
            knob=uniform(0.15, 0.4),
            knob_y=uniform(0.235, 0.275),
            trachea=uniform(0.35, 0.7),
            trachea_x=uniform(-0.012, 0.004),
            carina_y=uniform(0.29, 0.34),
        )

    def moved(self, quantile: Callable[[float], float]) -> Body:
        """As wide and as thick as follows from other quantiles of their ranges: a function of its own ones."""
        return replace(self, **{name: moved(getattr(self, name), ends, quantile) for name, ends in SIZES.items()})

    def attenuation(self, x: Floats, y: Floats, age: float) -> Floats:
        off = x - MIDLINE
        far = np.abs(off)
        trunk = self.torso + 0.16 * sigmoid((self.armpit_y - y) / 0.04)
        shoulder = 0.13 + 0.62 * smoothstep((y - self.shoulder_y) / 0.16)
        half_width = np.minimum(trunk, shoulder)
        depth = np.sqrt(np.clip(1 - (far / half_width) ** 4, 0.0, 1.0))  # the trunk is a rounded box
        wall = self.wall * (1 - 0.15 * smoothstep((0.3 - y) / 0.4)) * depth
        width = self.mediastinum_width * (0.8 + 0.6 * smoothstep((y - 0.1) / 0.5))
        mediastinum = self.mediastinum * np.exp(-((far / width) ** 2.5))
        abdomen = self.abdomen * smoothstep((y - self.abdomen_y + 0.1) / 0.2) * depth
        # The aorta unfolds and stiffens with age.
        knob_size = 0.036 + 0.00025 * (age - 55)
        arch = np.exp(-((np.hypot(off - 0.048, y - self.knob_y) / knob_size) ** 4))
        windpipe = bell(off - self.trachea_x, 0.022) * sigmoid((self.carina_y - y) / 0.008)
        bronchi = bell(far - 0.9 * (y - self.carina_y) - 0.006, 0.014)
        bronchi = (
            bronchi * smoothstep((y - self.carina_y + 0.01) / 0.02) * smoothstep((self.carina_y + 0.09 - y) / 0.08)
        )
        airways = np.maximum(windpipe, 0.7 * bronchi)
        return wall + mediastinum + abdomen + self.knob * arch - self.trachea * airways


@dataclass(frozen=True)
class Bones:
    """Ribs, clavicles, shoulder blades and spine."""

    density: float
    spacing: float
    phase: Floats  # (2,) right, left
    drop: float  # how far a posterior rib descends from the spine to the side
    fall: float  # how far its anterior part descends further towards the sternum
    clavicle_y: Floats  # (2,)
    clavicle_rise: float
    blade_x: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Bones:
        uniform = random.uniform
        phase = uniform(0, 1)
        return cls(
            density=uniform(0.6, 1.25),
            spacing=uniform(0.072, 0.084),
            phase=phase + uniform(-0.1, 0.1, 2),
            drop=uniform(0.10, 0.17),
            fall=uniform(0.14, 0.22),
            clavicle_y=uniform(0.14, 0.19) + uniform(-0.008, 0.008, 2),
            clavicle_rise=uniform(0.04, 0.10),
            blade_x=uniform(0.36, 0.42),
        )

    def attenuation(self, x: Floats, y: Floats, age: float, wobble: Floats) -> Floats:
        off = x - MIDLINE
        far = np.abs(off)
        left = off > 0
        thin = 1 - 0.006 * (age - 55)  # bones lose mineral
        cage = 0.43 * np.sqrt(np.clip(1 - ((0.80 - y) / 0.80) ** 2, 0.02, 1.0)) + 0.015
        s = far / cage  # 0 at the spine, 1 at the lateral wall
        phase = np.where(left, self.phase[1], self.phase[0]).astype(np.float32) + 0.07 * wobble
        posterior = self._ribs(y + 0.02 * np.sin(3 * s) - self.drop * s**2.4, phase, 0.40)
        anterior = self._ribs(y + 0.003 - self.drop - self.fall * np.clip(1 - s, 0, 1) ** 1.2, phase, 0.44)
        posterior = posterior * smoothstep((s - 0.08) / 0.1)
        anterior = anterior * smoothstep((s - 0.35) / 0.25)  # cartilage towards the sternum is not seen
        side = smoothstep((1.12 - s) / 0.14) * smoothstep((y - 0.02) / 0.06)
        rim = 0.22 * bell(s - 1.04, 0.09) * smoothstep((y - 0.1) / 0.15) * smoothstep((0.9 - y) / 0.15)
        ribs = rim + (0.14 * posterior + 0.075 * anterior) * side

        start = np.where(left, self.clavicle_y[1], self.clavicle_y[0]).astype(np.float32)
        along = (far - 0.04) / 0.36
        line = start - self.clavicle_rise * along - 0.018 * np.sin(2 * np.pi * np.clip(along, 0, 1))
        across = (y - line) / (0.015 + 0.006 * np.clip(1 - along, 0, 1))
        collar = (np.exp(-(across**4)) + 0.35 * np.exp(-(((np.abs(across) - 0.85) / 0.25) ** 2))) * smoothstep(
            along / 0.06 + 0.5
        )
        blade = sigmoid((far - self.blade_x - 0.05 * (y - 0.3)) / 0.006)
        blade = blade * smoothstep((y - 0.06) / 0.06) * smoothstep((0.50 - y - 0.6 * (far - self.blade_x)) / 0.1)
        spine = bell(far, 0.05) ** 2 * (0.20 + 0.05 * np.cos(2 * np.pi * y / 0.062)) + 0.05 * bell(far - 0.036, 0.006)
        return np.float32(self.density * thin) * (ribs + 0.20 * collar + 0.12 * blade + spine)

    def _ribs(self, height: Floats, phase: Floats, share: float) -> Floats:
        """Bars across the intercostal direction with dense edges; ``share`` of the spacing is bone."""
        t = height / self.spacing - 0.6 * height + phase
        t = np.abs(t - np.round(t)) / (share / 2)
        return np.exp(-(t**4)) * 0.75 + 0.4 * np.exp(-(((t - 0.85) / 0.28) ** 2))


@dataclass(frozen=True)
class Breasts:
    """Breast shadows (women; size 0 and up): discs that thicken towards their lower edge."""

    size: float
    y: float
    x: float
    asymmetry: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Breasts:
        return cls(
            size=max(0.0, random.uniform(-0.3, 1.0)),
            y=random.uniform(0.52, 0.62),
            x=random.uniform(0.22, 0.27),
            asymmetry=random.uniform(-0.02, 0.02),
        )

    def attenuation(self, x: Floats, y: Floats) -> Floats:
        off = x - MIDLINE
        radius = 0.13 + 0.07 * self.size
        down = y - self.y - np.where(off > 0, self.asymmetry, -self.asymmetry).astype(np.float32)
        sphere = np.clip(1 - ((np.abs(off) - self.x) / radius) ** 2 - (down / radius) ** 2, 0, 1)
        return 0.75 * self.size * sphere**0.4 * smoothstep((down / radius + 1.0) / 1.6)


@dataclass(frozen=True)
class Stomach:
    """Gas under the left hemidiaphragm, in some people."""

    gas: float
    centre: Floats
    radius: Floats

    @classmethod
    def draw(cls, random: np.random.Generator) -> Stomach:
        seen = random.uniform() < 0.55
        return cls(
            gas=float(seen) * random.uniform(0.7, 1.8),
            centre=np.array([random.uniform(0.64, 0.74), random.uniform(0.86, 0.93)]),
            radius=np.array([random.uniform(0.035, 0.085), random.uniform(0.025, 0.05)]),
        )

    def attenuation(self, x: Floats, y: Floats) -> Floats:
        right, down = (x - self.centre[0]) / self.radius[0], (y - self.centre[1]) / self.radius[1]
        return -self.gas * np.exp(-((right**2 + down**2) ** 1.5))


def vessels(random: np.random.Generator, pose: Pose, grid: Grid) -> Floats:
    """Pulmonary vessels (H, W): two trees that radiate from the hila, branch three times and thin out."""
    thick: list[tuple[Floats, Floats]] = []
    thin: list[tuple[Floats, Floats]] = []
    for side in (-1, 1):
        hilum = np.array([MIDLINE + side * (0.085 + 0.015 * random.uniform()), 0.40 + 0.03 * random.uniform(-1, 1)])
        count = 13
        start = hilum + random.normal(0, (0.013, 0.028), (count, 2))
        # More and wider vessels run downwards than upwards (gravity); 0 points sideways, pi / 2 down.
        angle = np.linspace(-1.35, 1.60, count) + random.normal(0, 0.14, count)
        length = random.uniform(0.16, 0.30, count) * (1 + 0.45 * np.sin(angle) ** 2)
        width = random.uniform(0.55, 1.0, count) * (1 + 0.3 * np.sin(angle))
        for generation, (children, knots) in enumerate(((3, 40), (3, 20), (0, 12))):
            path, mass, heading = _branches(random, start, angle, length, width, side, knots)
            (thick if generation == 0 else thin).append((path.reshape(-1, 2), mass.reshape(-1)))
            if children:
                parent = np.repeat(np.arange(len(start)), children)
                knot = (random.uniform(0.2, 0.95, len(parent)) * path.shape[1]).astype(np.intp)
                turn = random.choice((-1, 1), len(parent)) * random.uniform(0.3, 0.8, len(parent))
                start, angle = path[parent, knot], heading[parent, knot] + turn
                left_over = 1 - 0.6 * knot / path.shape[1]
                length = length[parent] * random.uniform(0.35, 0.65, len(parent)) * left_over
                width = width[parent] * random.uniform(0.45, 0.7, len(parent)) * left_over
    field = np.zeros((grid.height, grid.width), dtype=np.float32)
    for group, calibre in ((thick, 0.0045), (thin, 0.0026)):
        points = pose.to_frame(np.concatenate([points for points, _ in group]))
        field += blur(splat(points, np.concatenate([mass for _, mass in group]), grid), calibre, grid)
    return field


def _branches(
    random: np.random.Generator,
    start: Floats,
    angle: Floats,
    length: Floats,
    width: Floats,
    side: int,
    knots: int,
) -> tuple[Floats, Floats, Floats]:
    """Curved paths (N, K, 2), the mass of their points (N, K) and their heading (N, K)."""
    t = np.linspace(0, 1, knots)
    bend = random.normal(0, 0.45, (len(start), 1))
    wiggle = random.normal(0, 0.18, (len(start), 1)) * np.sin(2 * np.pi * t + random.uniform(0, 6.3, (len(start), 1)))
    heading = angle[:, None] + bend * t + wiggle
    step = length[:, None] / knots
    moves = np.stack([side * np.cos(heading), np.sin(heading)], axis=2) * step[..., None]
    path: Floats = start[:, None] + np.cumsum(moves, axis=1)
    return path, 0.0027 * step * width[:, None] ** 2 * (1.05 - t) ** 0.7, heading


@dataclass(frozen=True)
class Tissue:
    """How lung and heart absorb."""

    lung: float  # of a lung and the wall around it
    lung_texture: float
    base: float  # extra towards the bases
    medial: float  # extra towards the mediastinum, where the vessels crowd
    heart: float
    retrocardiac: float  # share of the lung's transparency that is left behind the heart
    hilum: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Tissue:
        uniform = random.uniform
        return cls(
            lung=uniform(0.70, 0.95),
            lung_texture=uniform(0.03, 0.06),
            base=uniform(0.0, 0.7),
            medial=uniform(0.15, 0.5),
            heart=uniform(0.55, 0.8),
            retrocardiac=uniform(0.30, 0.45),
            hilum=uniform(0.12, 0.32),
        )


@dataclass(frozen=True)
class Exposure:
    """Beam, film and display: grey = low + (high - low) * (1 - exp(-beam * attenuation)) ** gamma.

    Wide on purpose: brightness and contrast of a picture then say nothing about the size of a structure.
    """

    beam: float
    gamma: float
    low: float
    high: float
    tilt: Floats  # relative change of the beam across the picture (heel effect)
    blur: float  # of focus and screen, in frame units
    noise: float  # of a pixel of 1/256 of the frame

    @classmethod
    def draw(cls, random: np.random.Generator) -> Exposure:
        uniform = random.uniform
        return cls(
            beam=BEAM * math.exp(uniform(*LOG_BEAM)),
            gamma=math.exp(uniform(*LOG_GAMMA)),
            low=uniform(0.0, 0.14),
            high=uniform(0.82, 1.0),
            tilt=uniform(-0.12, 0.12, 2),
            blur=uniform(0.0015, 0.0035),
            noise=uniform(0.005, 0.012),
        )

    def moved(self, quantile: Callable[[float], float]) -> Exposure:
        """As bright as follows from other quantiles: of the beam, and of a gamma that falls with it."""
        log_beam = moved(math.log(self.beam / BEAM), LOG_BEAM, quantile)
        log_gamma = moved(-math.log(self.gamma), LOG_GAMMA, quantile)
        return replace(self, beam=BEAM * math.exp(log_beam), gamma=math.exp(-log_gamma))

    def develop(self, attenuation: Floats, x: Floats, y: Floats) -> Floats:
        beam = self.beam * (1 + self.tilt[0] * (x - 0.5) + self.tilt[1] * (y - 0.5))
        response = np.clip(1 - np.exp(-beam.astype(np.float32) * np.maximum(attenuation, 0.02)), 0.0, 1.0)
        return self.low + (self.high - self.low) * response ** np.float32(self.gamma)


@dataclass(frozen=True)
class Framing:
    """Collimated borders and the film's blacked-out labels, in some pictures."""

    borders: Floats  # (4,) width at the left, right, top, bottom; 0: none
    border_grey: float
    labels: Floats  # (2, 2) width and height at the top left and top right; 0: none

    @classmethod
    def draw(cls, random: np.random.Generator) -> Framing:
        borders = random.uniform(0.004, 0.022, 4) * (random.uniform(size=4) < 0.15)
        labels = random.uniform((0.06, 0.04), (0.16, 0.09), (2, 2)) * (random.uniform(size=(2, 1)) < 0.3)
        return cls(borders, float(random.choice([0.02, 0.97])), labels)

    def apply(self, image: Floats, grid: Grid) -> Floats:
        x, y = grid.centres()
        x, y = np.float32(grid.side) * (x - x[0, 0]), np.float32(grid.side) * (y - y[0, 0])  # from the corner
        last_x, last_y = grid.width - 1 - x, grid.height - 1 - y
        for width, distance in zip(self.borders * grid.side, (x, last_x, y, last_y), strict=True):
            cover = np.clip(width - distance, 0, 1)
            image = image + cover * (self.border_grey - image)
        for (width, height), distance in zip(self.labels * grid.side, (x, last_x), strict=True):
            image = image * (1 - np.clip(width - distance, 0, 1) * np.clip(height - y, 0, 1))
        return image


def organ_profile(cover: Floats, grid: Grid, edge: float) -> Floats:
    """Thickness along the beam of a rounded organ, from its ``cover`` (H, W): ``edge`` at its border to 1."""
    return cover * (edge + (1 - edge) * np.clip(2 * blur(cover, 0.011, grid) - 1, 0, 1))


def octaves(random: np.random.Generator, grid: Grid, nodes: tuple[int, ...], decay: float) -> Floats:
    """Sum of smooth noises, each ``decay`` times as strong as the coarser one, down to pixel size."""
    total = np.zeros((grid.height, grid.width), dtype=np.float32)
    for level, count in enumerate(nodes):
        if count > grid.side:
            break
        total += np.float32(decay**level) * smooth_noise(random, count, grid)
    return total
