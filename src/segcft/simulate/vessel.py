"""A coronary artery around its centreline: lumen, non-calcified and calcified plaque, in layers.

In a cross-section, from the inside out: lumen, non-calcified plaque, calcified plaque in its midst, non-calcified
plaque again. Layers are given by their radii, functions of the arc length s (mm) and of the angle about the centreline.
The plane of the image meets each cross-section at the angles 0 and pi, so an area in the image is the integral over s
of the thickness at 0 plus that at pi, and every layer is scaled until that is what was asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from segcft.errors import Code
from segcft.simulate.noise import UndrawableError

Array = NDArray[np.floating]

TRACE = 1e-4
"""Of plaque where there is no lesion, over that in the largest one: seen only when lesions have grown together."""
STEP = 0.0625
"""Distance in mm of the stations at which areas are measured, at most."""
BLEND = 0.5
"""mm over which a part of the lumen that is wider goes over into the next one, by a logistic curve."""
NARROWEST = 0.1
"""Of its own width the lumen has at least so much."""


class Radii(NamedTuple):
    """Of the layers' outer borders in mm: lumen, inner non-calcified, calcified plaque, outer wall."""

    lumen: Array
    inner: Array
    calcified: Array
    wall: Array


@dataclass(frozen=True)
class Bumps:
    """Places along the vessel, in mm, each with a half-length in mm, a weight, and where about it it is thickest.

    ``eccentricity`` is 0 for a ring of even thickness and 1 for one that vanishes opposite of ``angle`` (radians).
    ``power`` 2 makes a Gaussian bell, more a plateau with steep ends.
    """

    place: Array
    length: Array
    weight: Array
    angle: Array
    eccentricity: Array
    power: float

    def with_trace(self, length: float) -> Bumps:
        """With a trace of the same all along a vessel ``length`` mm long, so that it can grow to any size."""
        return Bumps(
            np.append(self.place, length / 2),
            np.append(self.length, length),
            np.append(self.weight, TRACE),
            np.append(self.angle, 0.0),
            np.append(self.eccentricity, 0.0),
            self.power,
        )

    def profile(self, s: Array) -> Array:
        """Terms a, b, c (3, N) of the height a + b cos(angle) + c sin(angle), which is never negative."""
        away = np.abs(s[:, None] - self.place) / self.length
        height = self.weight * np.exp(-(away**self.power))
        cosine, sine = self.eccentricity * np.cos(self.angle), self.eccentricity * np.sin(self.angle)
        return np.stack([height.sum(1), (height * cosine).sum(1), (height * sine).sum(1)])


@dataclass(frozen=True)
class Plaque:
    """Plaque that grows: thickness = limit * (1 - exp(-growth * height / limit)), thicker first and then longer."""

    bumps: Bumps
    limit: float  # mm on either side

    def thickness(self, s: Array, angle: Array | float, growth: float) -> Array:
        """In mm, at arc lengths ``s`` (N,) and angles of a shape that broadcasts with it."""
        even, cosine, sine = self.bumps.profile(s)
        height = even + cosine * np.cos(angle) + sine * np.sin(angle)
        return self.limit * -np.expm1(-growth * np.maximum(height, 0) / self.limit)

    def growth(self, name: str, area: float, s: Array, step: float) -> float:
        """The growth at which the image, whose stations are ``s``, shows ``area`` mm^2 of it.

        Raises:
            UndrawableError: so much would not fit; the message names the variable.
        """
        if area == 0:
            return 0.0
        even, cosine, _ = self.bumps.profile(s)
        sides = np.maximum(np.stack([even + cosine, even - cosine]), 0)

        def missing(log_growth: float) -> float:
            thickness = self.limit * -np.expm1(-np.exp(log_growth) * sides / self.limit)
            return float(thickness.sum()) * step - area

        least, most = -20.0, 30.0  # of the logarithm: from nothing to the limit everywhere
        if missing(most) < 0:
            why = f"{area:.6g} mm\N{SUPERSCRIPT TWO} is more than this vessel's plaque can grow to"
            raise UndrawableError(Code.OUT_OF_RANGE, name, why)
        if missing(least) > 0:  # less than can be told from none
            return float(np.exp(least)) * area / (area + missing(least))
        return float(np.exp(brentq(missing, least, most, xtol=1e-13, rtol=1e-14)))


@dataclass(frozen=True)
class VesselNoise:
    """What a person's vessel is like, whatever its areas.

    ``taper``: lumen radius at the end of the image over that at its begin. ``ovality`` (relative) and ``oval_angle``
    of the lumen's cross-section. ``waves``: amplitude (relative), wavelength in mm and phase of its ups and downs.
    ``narrowings`` of the lumen, relative. ``depth``: share of the non-calcified plaque that is inside of the calcified.
    """

    taper: float
    ovality: float
    oval_angle: float
    waves: tuple[tuple[float, float, float], ...]
    narrowings: Bumps
    noncalcified: Plaque
    calcified: Plaque
    depth: float

    @classmethod
    def draw(cls, random: np.random.Generator, plaque: np.random.Generator, length: float) -> VesselNoise:
        """From random streams for the lumen and the plaque, of an image ``length`` mm long."""
        waves = tuple(
            (random.uniform(0.01, 0.04), random.uniform(8, 40), random.uniform(0, 2 * np.pi)) for _ in range(3)
        )
        taper, ovality, turn = random.uniform(0.6, 0.85), random.uniform(0, 0.06), random.uniform(0, np.pi)
        count = 2 + int(plaque.integers(0, 4))
        place = plaque.uniform(0.06, 0.94, count) * length
        extent = plaque.uniform(0.04, 0.13, count) * length
        angle, eccentricity = plaque.uniform(0, 2 * np.pi, count), plaque.uniform(0.1, 0.9, count)
        weight = plaque.uniform(0.6, 1.0, count)
        # With shoulders: what tapers off slowly is thinner than any scanner sees.
        soft = Bumps(place, extent, weight, angle, eccentricity, 4.0)
        # A lesion narrows the lumen somewhat less than it thickens the wall: the rest is remodelling.
        narrow = Bumps(place, extent, plaque.uniform(0.0, 0.6, count) * weight, angle, 0 * angle, 2.0)
        # Calcium lies within lesions and is shorter, steeper and more to one side.
        spots = 3 + int(plaque.integers(0, 4))
        host = plaque.integers(0, count, spots)
        hard = Bumps(
            np.clip(place[host] + plaque.normal(0, 0.5, spots) * extent[host], 0.03 * length, 0.97 * length),
            plaque.uniform(0.016, 0.04, spots) * length,
            plaque.uniform(0.3, 1.0, spots),
            angle[host] + plaque.normal(0, 0.8, spots),
            plaque.uniform(0.5, 0.98, spots),
            2.5,
        )
        growing = Plaque(soft.with_trace(length), 1.5), Plaque(hard.with_trace(length), 1.1)
        return cls(taper, ovality, turn, waves, narrow, *growing, depth=plaque.uniform(0.25, 0.75))

    def lumen_profile(self, s: Array, angle: Array | float, length: float) -> Array:
        """Radius of the lumen but for its scale."""
        along = 1 + (self.taper - 1) * s / length
        along = along * (1 + sum(a * np.sin(2 * np.pi * s / wavelength + phase) for a, wavelength, phase in self.waves))
        along = along * np.exp(-self.narrowings.profile(s)[0])
        return along * (1 + self.ovality * np.cos(2 * (angle - self.oval_angle)))


class Part(NamedTuple):
    """What is asked of the lumen between ``begin`` and ``end``, in mm of the image: its ``area`` there, in mm^2."""

    begin: float
    end: float
    area: float


@dataclass(frozen=True)
class Widening:
    """By how much the lumen is wider in the parts between ``edges`` (K - 1,), in mm; ``factors`` (K,)."""

    edges: Array
    factors: Array

    @staticmethod
    def blended(edges: Array, s: Array) -> Array:
        """By how much the factor of each part counts at ``s`` (N,), (K, N): parts go over into each other."""
        behind = expit((s - edges[:, None]) / BLEND)
        whole = np.vstack([np.ones_like(s), behind, np.zeros_like(s)])
        return np.asarray(whole[:-1] - whole[1:])

    @classmethod
    def to(cls, parts: Sequence[Part], profile: Array, s: Array, step: float) -> Widening:
        """That at which ``parts`` have their areas, and what is between them has the area that it had.

        Areas are linear in the factors, so these solve a system of equations.

        Args:
            parts: which do not overlap.
            profile: the width (N,) of the lumen in mm as it is, at the stations ``s`` (N,), which are a ``step`` apart.

        Raises:
            UndrawableError: the lumen would close.
            ValueError: parts overlap.
        """
        ordered = sorted(parts)
        if any(one.end > following.begin for one, following in itertools.pairwise(ordered)):
            raise ValueError("parts of the vessel overlap")
        inner = {edge for part in parts for edge in part[:2] if step / 2 < edge < s[-1]}
        edges = np.array(sorted(inner))
        ends = np.concatenate([[0.0], edges, [s[-1] + step / 2]])
        within = np.stack([_covered(s, step, begin, end) for begin, end in itertools.pairwise(ends)])
        areas = (within * profile).sum(axis=1) * step
        for part in ordered:
            areas[int(np.argmin(np.abs(ends[:-1] - part.begin)))] = part.area
        factors = np.linalg.solve((within * profile) @ cls.blended(edges, s).T * step, areas)
        if factors.min() < NARROWEST:
            why = "so small in a part that the lumen would close"
            raise UndrawableError(Code.OUT_OF_RANGE, "lumen_area", why)
        return cls(edges, factors)

    def at(self, s: Array) -> Array:
        """Relative width (N,) at arc lengths ``s`` (N,)."""
        return np.asarray(self.factors @ self.blended(self.edges, s))


def _covered(s: Array, step: float, begin: float, end: float) -> Array:
    """How much (N,) of each station lies from ``begin`` to ``end``."""
    return np.asarray(np.clip(np.minimum(s + step / 2, end) - np.maximum(s - step / 2, begin), 0, step) / step)


@dataclass(frozen=True)
class Vessel:
    """A vessel with given areas in an image ``length`` mm long, of pixels ``spacing`` mm wide."""

    noise: VesselNoise
    length: float
    scale: float
    noncalcified: float
    calcified: float
    widening: Widening | None = None

    @classmethod
    def with_areas(
        cls,
        noise: VesselNoise,
        length: float,
        spacing: float,
        lumen: float,
        noncalcified: float,
        calcified: float,
        parts: Sequence[Part] = (),
    ) -> Vessel:
        """The vessel whose areas in the image are these, in mm^2, as its stations measure them.

        With ``parts`` of the lumen it is then made wider or narrower in these, and all of it has another area.

        Raises:
            UndrawableError: an area does not fit.
            ValueError: parts overlap.
        """
        s, step = stations(length, spacing)
        profile = noise.lumen_profile(s, 0.0, length) + noise.lumen_profile(s, np.pi, length)
        scale = lumen / (float(profile.sum()) * step)
        return cls(
            noise,
            length,
            scale,
            noise.noncalcified.growth("noncalcified_plaque_area", noncalcified, s, step),
            noise.calcified.growth("calcified_plaque_area", calcified, s, step),
            Widening.to(parts, scale * profile, s, step) if parts else None,
        )

    def radii(self, s: Array, angle: Array | float) -> Radii:
        """Of the layers at arc lengths ``s`` (N,) from the image's begin, and angles that broadcast with it."""
        lumen = self.scale * self.noise.lumen_profile(s, angle, self.length)
        if self.widening is not None:
            lumen = lumen * self.widening.at(s)
        soft = self.noise.noncalcified.thickness(s, angle, self.noncalcified)
        hard = self.noise.calcified.thickness(s, angle, self.calcified)
        inner = lumen + self.noise.depth * soft
        return Radii(lumen, inner, inner + hard, lumen + soft + hard)


def stations(length: float, spacing: float) -> tuple[Array, float]:
    """Arc lengths (N,) in the middles of equal steps that pixels of ``spacing`` mm are whole numbers of; the step."""
    fine = int(np.ceil(spacing / STEP - 1e-9))
    count = round(length / spacing) * fine
    step = length / count
    return (np.arange(count) + 0.5) * step, step
