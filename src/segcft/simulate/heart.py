"""The heart around a coronary artery: the artery's course in space, and what surrounds it, in Hounsfield units.

The left anterior descending artery runs over a round heart from near its base to its apex, in the fat of a groove,
nearer to the muscle here and farther there. Positions are in mm, in the coordinates of DICOM (LPS).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from segcft.coronary.centreline import Centreline

Array = NDArray[np.floating]

WALL = 10.0
"""Thickness of the heart's muscle in mm."""
PERICARDIUM = 1.2
"""Thickness in mm of the soft tissue between fat and lung."""


@dataclass(frozen=True)
class Tissues:
    """Hounsfield units. ``lumen`` falls by ``drop`` along the image."""

    lumen: float
    drop: float
    noncalcified: float
    calcified: float
    fat: float
    muscle: float
    chamber: float
    lung: float
    pericardium: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Tissues:
        lumen = random.uniform(330, 480)
        return cls(
            lumen,
            drop=random.uniform(10, 60),
            noncalcified=random.uniform(30, 90),
            calcified=random.uniform(850, 1150),
            fat=random.uniform(-110, -80),
            muscle=random.uniform(80, 120),
            chamber=lumen - random.uniform(0, 40),
            lung=random.uniform(-880, -820),
            pericardium=random.uniform(0, 50),
        )


@dataclass(frozen=True)
class Course:
    """The artery's path and the depth of the fat it runs in.

    A great circle of ``radius`` mm about ``centre``, ``rotation`` turning it into place, with waves sideways and up and
    down: amplitude in mm, wavelength in mm and phase. ``below`` and ``above``: fat in mm between the heart's muscle and
    the circle, and between the circle and the pericardium.
    """

    centre: Array
    rotation: Array
    radius: float
    sideways: tuple[tuple[float, float, float], ...]
    upwards: tuple[tuple[float, float, float], ...]
    below: float
    above: float
    relief: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(cls, random: np.random.Generator) -> Course:
        def waves(size: float, count: int, shortest: float) -> tuple[tuple[float, float, float], ...]:
            lengths = random.uniform(shortest, 3 * shortest, count)
            # The curvature of a wave goes with its amplitude over the square of its length.
            sizes = size * random.uniform(0.3, 1.0, count) * (lengths / (2 * shortest)) ** 2
            phases = random.uniform(0, 2 * np.pi, count)
            return tuple(zip(sizes.tolist(), lengths.tolist(), phases.tolist(), strict=True))

        return cls(
            random.uniform(-20, 20, 3),
            Rotation.random(rng=random).as_matrix(),
            random.uniform(44, 56),
            waves(1.4, 3, 18.0),
            waves(0.7, 2, 18.0),
            random.uniform(2.6, 4.5),
            random.uniform(4.0, 7.0),
            waves(0.9, 3, 10.0),
        )

    def centreline(self, length: float, margin: float) -> Centreline:
        """The path, ``length`` mm and ``margin`` mm before and after it."""
        turn = np.linspace(-1, 1, 8 * int(length + 2 * margin) + 1) * (length / 2 + margin + 2) / self.radius
        along = turn * self.radius
        side, up = _waves(self.sideways, along), _waves(self.upwards, along)
        distance = self.radius + up
        points = np.stack([distance * np.cos(turn), distance * np.sin(turn), side], axis=1)
        return Centreline(points @ self.rotation.T + self.centre)

    def height(self, points: Array) -> tuple[Array, Array]:
        """Heights in mm of positions (..., 3) above the muscle and below the pericardium."""
        rotation = self.rotation.astype(points.dtype)
        x, y, z = np.moveaxis((points - self.centre.astype(points.dtype)) @ rotation, -1, 0)
        radial = np.sqrt(x * x + y * y + z * z) - self.radius
        along, side = np.arctan2(y, x) * self.radius, z
        relief = _waves(self.relief, along + 0.6 * side)
        return radial + self.below + relief, self.above + 0.5 * relief - radial


@dataclass(frozen=True)
class Texture:
    """A smooth Gaussian field of about unit variance in space: the mean of plane waves. Wave vectors (N, 3) in 1/mm."""

    wave: Array
    phase: Array

    @classmethod
    def draw(cls, random: np.random.Generator, wavelength: float, count: int = 12) -> Texture:
        wave = random.normal(0, 2 * np.pi / wavelength / np.sqrt(3), (count, 3))
        return cls(wave, random.uniform(0, 2 * np.pi, count))

    def at(self, points: Array) -> Array:
        """At positions (..., 3) in mm."""
        total = np.zeros(points.shape[:-1], dtype=points.dtype)
        for wave, phase in zip(self.wave.astype(points.dtype), self.phase.astype(points.dtype), strict=True):
            total += np.cos(points @ wave + phase)
        return total * np.sqrt(2 / len(self.phase)).astype(points.dtype)


@dataclass(frozen=True)
class Heart:
    """Everything around the vessel."""

    course: Course
    tissues: Tissues
    strands: Texture
    grain: Texture

    def hounsfield(self, points: Array, soft: float) -> Array:
        """Of positions (..., 3), with borders ``soft`` mm wide."""
        tissues = self.tissues
        above_muscle, below_pericardium = self.course.height(points)
        fat = tissues.fat + 18 * np.maximum(self.strands.at(points), 0)
        muscle = tissues.muscle + 8 * self.grain.at(points)
        value = mix(muscle, fat, above_muscle, soft)
        value = mix(tissues.chamber, value, above_muscle + WALL, soft)
        value = mix(tissues.pericardium, value, below_pericardium, soft)
        return mix(tissues.lung, value, below_pericardium + PERICARDIUM, soft)


def mix(below: Array | float, above: Array, distance: Array, soft: float) -> Array:
    """``below`` where ``distance`` (mm) is negative, else ``above``; a border ``soft`` mm wide between them."""
    share = np.clip(distance / soft + 0.5, 0, 1)
    return below + (above - below) * share


def _waves(waves: tuple[tuple[float, float, float], ...], along: Array) -> Array:
    total = np.zeros_like(along)
    for size, length, phase in waves:
        total += size * np.sin(2 * np.pi * along / length + phase)
    return total
