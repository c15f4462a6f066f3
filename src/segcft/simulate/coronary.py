"""A simulator of coronary CT angiography: straightened images with exact plaque, and true counterfactuals.

Graph: non-calcified plaque, calcified plaque and lumen, as areas in mm^2 of the image, are independent; all three cause
the image. Everything else is exogenous noise of the *person*, a number. A person is a :class:`Scene` in space, which
is seen straightened (here) or written as a CT volume with its centreline and meshes (:mod:`segcft.simulate.ccta`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from segcft.coronary.centreline import Centreline
from segcft.coronary.defaults import WINDOW
from segcft.coronary.reformation import Reformation
from segcft.errors import Code
from segcft.simulate.heart import Course, Heart, Texture, Tissues
from segcft.simulate.noise import Stream, UndrawableError, check_number, cut_normal
from segcft.simulate.vessel import Part, Radii, Vessel, VesselNoise, stations

Array = NDArray[np.floating]
Bytes = NDArray[np.uint8]
Attributes = dict[str, float | str]
Ends = tuple[float, float]

VOXEL = 0.25
"""Largest distance in mm of the points at which a scene is looked at; it is averaged to the image's pixels."""
MARGIN = 4.0
"""mm of the vessel before and after the image."""
NOTHING: Mapping[Ends, float] = {}


class Noise(Stream):
    """One random stream a purpose."""

    NONCALCIFIED = 0
    CALCIFIED = 1
    LUMEN = 2
    COURSE = 3
    VESSEL = 4
    PLAQUE = 5
    TISSUES = 6
    TEXTURE = 7
    SCANNER = 8
    GRAIN = 9


@dataclass(frozen=True)
class PlaqueMechanism:
    """area = 0 with probability ``absent``, else median * exp(spread * u) mm^2 per mm of the image."""

    median: float
    spread: float
    absent: float
    noise: Noise

    def area(self, person: int) -> float:
        random = self.noise.stream(person)
        present, size = random.random() >= self.absent, random.random()
        return self.median * math.exp(self.spread * cut_normal(size)) if present else 0.0


@dataclass(frozen=True)
class LumenMechanism:
    """area = mean * (1 + spread * u) mm^2 per mm of the image."""

    mean: float
    spread: float
    noise: Noise

    def area(self, person: int) -> float:
        return self.mean * (1 + self.spread * cut_normal(self.noise.stream(person).random()))


MECHANISMS: Mapping[str, PlaqueMechanism | LumenMechanism] = {
    "noncalcified_plaque_area": PlaqueMechanism(0.8, 0.5, 0.08, Noise.NONCALCIFIED),
    "calcified_plaque_area": PlaqueMechanism(0.18, 0.65, 0.35, Noise.CALCIFIED),
    "lumen_area": LumenMechanism(2.7, 0.17, Noise.LUMEN),
}


@dataclass(frozen=True)
class Scanner:
    """``blur``: standard deviation of the point spread in mm. ``noise`` in Hounsfield units, of ``grain`` mm."""

    blur: float
    noise: float
    grain: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Scanner:
        return cls(random.uniform(0.26, 0.36), random.uniform(14, 32), random.uniform(0.2, 0.3))


@dataclass(frozen=True)
class Scene:
    """A vessel in its heart, before a scanner sees it. ``start``: where on the centreline the image begins, in mm."""

    centreline: Centreline
    start: float
    vessel: Vessel
    heart: Heart
    scanner: Scanner

    def hounsfield(self, points: Array, s: Array, distance: Array, angle: Array, soft: float) -> Array:
        """Of positions (..., N, 3), at ``s`` (N,) mm along the image, ``distance`` mm from the centreline at ``angle``.

        Borders are ``soft`` mm wide.
        """
        tissues = self.heart.tissues
        lumen = tissues.lumen - tissues.drop * s / self.vessel.length
        levels: tuple[Any, ...] = (lumen, tissues.noncalcified, tissues.calcified, tissues.noncalcified)
        value, taken = np.zeros_like(distance), np.zeros_like(distance)
        radii = self.vessel.radii(s, angle)
        for level, radius in zip(levels, (radii.lumen, radii.inner, radii.calcified, radii.wall), strict=True):
            within = np.clip((radius - distance) / soft + 0.5, 0, 1)
            value += (within - taken) * level
            taken = within
        return value + (1 - taken) * self.heart.hounsfield(points, soft)


class CoronarySimulator:
    """Draws people's straightened coronary arteries on a grid of ``size`` = (height, width) pixels.

    Args:
        size: height across the vessel, width along it.
        pixel_area: of one square pixel, in mm^2.

    >>> simulator = CoronarySimulator((64, 384), 0.0625)
    >>> person = simulator.attributes(7)
    >>> image, masks = simulator.render(7, person)
    >>> grown, image_cf, masks_cf = simulator.counterfactual(7, {"noncalcified_plaque_area": 120})
    """

    variables = ("noncalcified_plaque_area", "calcified_plaque_area", "lumen_area")
    structures = ("noncalcified_plaque", "calcified_plaque", "lumen")
    quantity = "area"
    channels = 1
    zoned = ("lumen",)
    """Those that can be drawn wider in a part of the image."""

    def __init__(self, size: tuple[int, int], pixel_area: float) -> None:
        self.size, self.spacing = size, math.sqrt(pixel_area)
        self.length = size[1] * self.spacing
        if self.spacing > 1 or size[0] * self.spacing < 10 or not 20 <= self.length <= 120:
            raise ValueError(
                "a coronary image is at least 10 mm high and 20 to 120 mm long, of pixels of 1 mm "
                f"at most; this one is {size[0] * self.spacing:g} x {self.length:g} mm, of {self.spacing:g} mm"
            )

    def attributes(self, person: int, do: Mapping[str, float | str] | None = None) -> Attributes:
        """The person's variables under ``do``, in mm^2; no variable causes another."""
        do = dict(do or {})
        for name in do:
            if name not in self.variables:
                raise UndrawableError(Code.UNKNOWN, name, f"not a variable ({', '.join(self.variables)})")
        return {
            name: check_number(name, do[name]) if name in do else mechanism.area(person) * self.length
            for name, mechanism in MECHANISMS.items()
        }

    def scene(self, person: int, attributes: Mapping[str, float | str], zones: Mapping[Ends, float] = NOTHING) -> Scene:
        """The person in space; ``zones`` as of :meth:`render`.

        Raises:
            UndrawableError: an area is negative or does not fit; the message names the variable.
        """
        areas = {name: check_number(name, attributes[name]) for name in self.variables}
        for name, area in areas.items():
            if area < 0 or (area == 0 and name == "lumen_area"):
                raise UndrawableError(Code.OUT_OF_RANGE, name, f"must be positive, or 0 for plaque, not {area:g}")
        noise = VesselNoise.draw(Noise.VESSEL.stream(person), Noise.PLAQUE.stream(person), self.length)
        vessel = Vessel.with_areas(
            noise,
            self.length,
            self.spacing,
            areas["lumen_area"],
            areas["noncalcified_plaque_area"],
            areas["calcified_plaque_area"],
            [Part(begin * self.length, end * self.length, area) for (begin, end), area in zones.items()],
        )
        widest = float(np.max(vessel.radii(stations(self.length, self.spacing)[0], 0.0).wall))
        if widest > 0.45 * self.size[0] * self.spacing:
            largest = max(areas, key=lambda name: areas[name])
            why = f"{areas[largest]:.6g} makes the vessel wider than the image"
            raise UndrawableError(Code.OUT_OF_RANGE, largest, why)
        texture = Noise.TEXTURE.stream(person)
        heart = Heart(
            Course.draw(Noise.COURSE.stream(person)),
            Tissues.draw(Noise.TISSUES.stream(person)),
            Texture.draw(texture, 9.0),
            Texture.draw(texture, 3.0),
        )
        scanner = Scanner.draw(Noise.SCANNER.stream(person))
        return Scene(heart.course.centreline(self.length, MARGIN), MARGIN, vessel, heart, scanner)

    def render(
        self, person: int, attributes: Mapping[str, float | str], zones: Mapping[Ends, float] = NOTHING
    ) -> tuple[Bytes, Bytes]:
        """The image (H, W) and the structures' coverage (3, H, W); 255: a pixel is wholly inside.

        ``zones`` are the lumen's areas in mm^2 in parts of the image, (begin, end) as shares of its length: it is wider
        or narrower there, elsewhere as it would be, and the plaque is as thick as it was.

        Raises:
            UndrawableError: an area is negative or does not fit; the message names the variable.
            ValueError: zones overlap.
        """
        scene = self.scene(person, attributes, zones)
        low, high = WINDOW
        grey = np.clip((self._scan(scene, person) - low) / (high - low), 0, 1)
        covers = coverage(scene.vessel, self.size, self.spacing)
        return np.rint(255 * grey).astype(np.uint8), np.rint(255 * covers).astype(np.uint8)

    def counterfactual(self, person: int, do: Mapping[str, float | str]) -> tuple[Attributes, Bytes, Bytes]:
        """What would have been under ``do``: same person, same noise. Attributes, image and masks."""
        attributes = self.attributes(person, do)
        return (attributes, *self.render(person, attributes))

    def _scan(self, scene: Scene, person: int) -> Array:
        """Hounsfield units (H, W): a slab about the image's plane, blurred as a scanner does, and noise.

        The blur acts in the straightened slab and not in space. Near the vessel, whose radius of curvature is many
        times the blur, both are the same.
        """
        fine = math.ceil(self.spacing / VOXEL - 1e-9)
        step, scanner = self.spacing / fine, scene.scanner
        edge = math.ceil(3 * scanner.blur / step)
        rows, columns = self.size[0] * fine + 2 * edge, self.size[1] * fine + 2 * edge
        plane = Reformation.of(scene.centreline, (rows, columns), step, start=scene.start - edge * step)
        s = (np.arange(columns) - edge + 0.5) * step
        depth = np.arange(-edge, edge + 1) * step
        out = np.cross(plane.along, plane.across)  # across the plane
        points = (plane.points + depth[:, None, None, None] * out).astype(np.float32)
        across = plane.offsets[:, None] + 0 * s
        distance = np.sqrt(across**2 + depth[:, None, None] ** 2)
        angle = np.arctan2(depth[:, None, None] + 0 * across, across)
        slab = scene.hounsfield(points, s, distance, angle, step)
        weights = np.exp(-0.5 * (depth / scanner.blur) ** 2)
        seen = np.tensordot(weights / weights.sum(), slab, axes=1)
        seen = gaussian_filter(seen, scanner.blur / step, mode="nearest", truncate=3.0)[edge:-edge, edge:-edge]
        seen = seen.reshape(self.size[0], fine, self.size[1], fine).mean(axis=(1, 3))
        return seen + self._grain(scanner, person)

    def _grain(self, scanner: Scanner, person: int) -> Array:
        white = Noise.GRAIN.stream(person).standard_normal(self.size)
        grain = gaussian_filter(white, scanner.grain / self.spacing, mode="wrap")
        return np.asarray(grain * (scanner.noise / grain.std()))


def coverage(vessel: Vessel, size: tuple[int, int], spacing: float) -> Array:
    """Share of each pixel that is non-calcified plaque, calcified plaque and lumen, (3, H, W).

    Exact across the vessel and summed over stations along it, so that areas are what the vessel was scaled to.
    """
    s, _ = stations(size[1] * spacing, spacing)
    edges = (np.arange(size[0] + 1) - size[0] / 2) * spacing

    def filled(radius: Array, sign: int) -> Array:
        """Shares of pixels (H, N) between the centreline and ``radius`` on one side of it."""
        inside = np.clip(sign * edges[:, None], 0, radius)
        return np.abs(np.diff(inside, axis=0)) / spacing

    def of(radii: Radii, sign: int) -> Array:
        lumen, inner, calcified, wall = (filled(radius, sign) for radius in radii)
        return np.stack([wall - calcified + inner - lumen, calcified - inner, lumen])

    shares = of(vessel.radii(s, 0.0), 1) + of(vessel.radii(s, np.pi), -1)
    return shares.reshape(3, size[0], size[1], -1).mean(axis=3)
