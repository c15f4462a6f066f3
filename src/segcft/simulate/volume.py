r"""A simulator of volumes: a bent structure of two parts in textured tissue, with true counterfactuals.

Graph: age and sex cause the volumes of both parts, in mm^3; all of them, and the angle of the bend, cause the volume.
Everything else is exogenous noise of the *person*, a number.

Both parts lie along one arc, back to back. At a share t of its length from where they meet, 0 to 1, a part has an
ellipse for its section, whose wider half-axis lies in the plane of the arc and is

.. math:: r(t) = \sqrt{1 - t^2} \, (r_0 + A \, (2 t - t^2)),

and the other is :math:`q\,r(t)`. The arc goes through the middle of every section, so that by Pappus's theorem the
volume is that of the straight structure, whatever the bend,

.. math:: V = \pi q L \int_0^1 r(t)^2 \, dt,

a quadratic in A, which is solved for. Length L follows the cube root of the volume. So a larger part is longer and
thicker, and the other stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scipy.special import betaincinv, expit

from segcft.errors import Code
from segcft.simulate.noise import Stream, UndrawableError, check_number, cut_normal

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Attributes = dict[str, float | str]
Spacing = tuple[float, float, float]

AGES = (18.0, 100.0)
"""Years that can be drawn; people are 20 to 90."""
NEEDED = (26.0, 32.0, 52.0)
"""mm of depth, height and width in which people lie, as they are and as others are."""
FINE = 3
"""Points along each axis of a voxel at which it is looked whether they are inside."""

RIM = 3.5
"""mm from the surface beyond which no white matter lies on it."""

_PLAIN, _MIXED, _BUMPED = 2 / 3, 11 / 30, 9 / 35
"""The integrals from 0 to 1 of (1 - t^2) (2 t - t^2)^k for k of 0, 1 and 2: what V is a quadratic of."""


class Noise(Stream):
    """One random stream a purpose."""

    SEX = 0
    AGE = 1
    ANTERIOR = 2
    POSTERIOR = 3
    BEND = 4
    SHAPE = 5
    PLACE = 6
    TISSUE = 7
    TEXTURE = 8
    SCANNER = 9
    GRAIN = 10


@dataclass(frozen=True)
class VolumeMechanism:
    """volume = mean * (1 + male * m - ageing * a) * exp(spread * u) mm^3.

    m is +1 for men and -1 for women, a = tanh((age - 55) / 20), and u a standard normal cut off as by
    :func:`~segcft.simulate.noise.cut_normal`. Monotone in u, hence invertible.
    """

    mean: float
    male: float
    ageing: float
    spread: float
    noise: Noise

    def volume(self, sex: str, age: float, person: int) -> float:
        m, a = (1.0 if sex == "M" else -1.0), math.tanh((age - 55) / 20)
        u = cut_normal(self.noise.stream(person).random())
        return self.mean * (1 + self.male * m - self.ageing * a) * math.exp(self.spread * u)


MECHANISMS = {
    "anterior_volume": VolumeMechanism(1700, 0.05, 0.10, 0.14, Noise.ANTERIOR),
    "posterior_volume": VolumeMechanism(1550, 0.05, 0.07, 0.12, Noise.POSTERIOR),
}
USUAL = {"anterior": (1700.0, 16.0), "posterior": (1550.0, 21.0)}
"""Part -> its usual volume in mm^3 and length in mm."""
USUAL_LENGTH = sum(length for _, length in USUAL.values())
BENDS = (-10.0, 110.0)
"""Degrees that an arc of the usual length can be bent by."""


@dataclass(frozen=True)
class Part:
    """A part along the arc: its ``length`` in mm, half-axis ``root`` where the parts meet, and ``bump`` (A above)."""

    length: float
    root: float
    bump: float

    @classmethod
    def of(cls, name: str, volume: float, root: float, flat: float) -> Part:
        """That with a ``volume``; ``flat`` is the ratio q of the half-axes.

        Raises:
            UndrawableError: there is none, as it would have no thickness somewhere.
        """
        usual, usual_length = USUAL[name]
        if volume <= 0:
            raise UndrawableError(Code.OUT_OF_RANGE, f"{name}_volume", f"must be positive, not {volume:g}")
        length = usual_length * math.cbrt(volume / usual)
        left = root**2 * _PLAIN - volume / (math.pi * flat * length)
        root_of = (root * _MIXED) ** 2 - _BUMPED * left
        bump = (-root * _MIXED + math.sqrt(root_of)) / _BUMPED if root_of >= 0 else -math.inf
        if bump < -0.7 * root or bump > 3 * root:
            raise UndrawableError(Code.OUT_OF_RANGE, f"{name}_volume", f"{volume:.6g} cannot be drawn of this person")
        return cls(length, root, bump)

    def radius(self, t: Array) -> Array:
        """The wider half-axis in mm at shares of the length; 0 beyond its ends."""
        within = np.clip(t, 0, 1)
        radius: Array = np.sqrt(1 - within**2) * (self.root + self.bump * (2 * within - within**2))
        return radius


@dataclass(frozen=True)
class Shape:
    """Both parts, the ``flat`` ratio of the half-axes and the ``bend`` in radians of an arc of the usual length."""

    anterior: Part
    posterior: Part
    flat: float
    bend: float

    def signed(self, points: Array) -> tuple[Array, Array]:
        """Of points (3, ...), in mm from where the parts meet (across the bend, in its plane, along), how deep inside
        they are, in mm, negative outside, and how far along the arc towards the anterior end, in mm."""
        z, y, x = points
        curvature = self.bend / USUAL_LENGTH  # of the person, or a longer part would straighten the other
        if abs(curvature) < 1e-6:
            along, aside = x, y
        else:
            centre = 1 / curvature
            along = np.arctan2(x * np.sign(centre), (centre - y) * np.sign(centre)) * centre
            aside = centre - np.sign(centre) * np.hypot(x, centre - y)
        ahead = along >= 0
        share = np.where(ahead, along / self.anterior.length, -along / self.posterior.length)
        radius = np.where(ahead, self.anterior.radius(share), self.posterior.radius(share))
        # How far from the axis a point is, as a share of how far the surface is there: exact where it is 1.
        distance = np.hypot(aside, z / self.flat)
        length = np.where(ahead, self.anterior.length, self.posterior.length)
        beyond = np.hypot(distance, (share - 1) * length)
        return np.where(share <= 1, radius - distance, -beyond), along

    def near(self, points: Array, reach: float) -> NDArray[np.bool_]:
        """Of points (3, ...): whether :meth:`signed` may say more than ``-reach`` mm, as they are near the arc or the
        rest of its circle. Of all others it says less."""
        curvature = self.bend / USUAL_LENGTH
        z, y, x = points
        aside = y if abs(curvature) < 1e-6 else 1 / abs(curvature) - np.hypot(x, 1 / curvature - y)
        widest = max(part.root + max(part.bump, 0) for part in (self.anterior, self.posterior))
        near: NDArray[np.bool_] = np.hypot(aside, z / self.flat) < widest + reach
        return near


@dataclass(frozen=True)
class Scanner:
    """``blur``: standard deviation of the point spread in mm. ``noise`` as a share of the brightest tissue. ``bias``:
    how far the receiver's sensitivity is from 1, linear and quadratic along each axis, (6,)."""

    blur: float
    noise: float
    bias: tuple[float, ...]

    @classmethod
    def draw(cls, random: np.random.Generator) -> Scanner:
        bias = tuple(float(one) for one in random.uniform(-0.12, 0.12, 6))
        return cls(random.uniform(0.3, 0.5), random.uniform(0.015, 0.035), bias)


class VolumeSimulator:
    """Draws people on a grid of ``size`` = (depth, height, width) voxels.

    Args:
        size: voxels along each axis; the structure's long axis is the last, its bend lies in the last two.
        voxel: volume of a voxel in mm^3.
        spacing: of voxels along each axis in mm; cubes by default.

    >>> simulator = VolumeSimulator((36, 40, 56))
    >>> person = simulator.attributes(7)
    >>> volume, masks = simulator.render(7, person)
    >>> smaller, volume_cf, masks_cf = simulator.counterfactual(7, {"posterior_volume": 1200})
    """

    variables = ("sex", "age", "anterior_volume", "posterior_volume", "bend")
    structures = ("anterior", "posterior")
    quantity = "volume"
    channels = 1
    """What of a structure its variable is."""

    def __init__(self, size: tuple[int, ...], voxel: float = 1.0, spacing: tuple[float, ...] | None = None) -> None:
        if len(size) != 3:
            raise ValueError(f"it draws volumes, (depth, height, width), not {' x '.join(map(str, size))}")
        edges = spacing or (math.cbrt(voxel),) * 3
        if not math.isclose(math.prod(edges), voxel, rel_tol=1e-6):
            raise ValueError(f"voxels of {' x '.join(f'{edge:g}' for edge in edges)} mm are not of {voxel:g} mm3")
        self.size, self.voxel = (size[0], size[1], size[2]), voxel
        self.spacing: Spacing = (edges[0], edges[1], edges[2])
        extent = [n * edge for n, edge in zip(self.size, self.spacing, strict=True)]
        if any(have < need for have, need in zip(extent, NEEDED, strict=True)):
            wanted = " x ".join(f"{need:g}" for need in NEEDED)
            shown = " x ".join(f"{have:.4g}" for have in extent)
            raise ValueError(f"the frame needs {wanted} mm (depth, height, width), not {shown}")

    def attributes(self, person: int, do: Mapping[str, float | str] | None = None) -> Attributes:
        """The person's variables under ``do``, which replaces mechanisms and so moves descendants alone."""
        do = dict(do or {})
        for name in do:
            if name not in self.variables:
                raise UndrawableError(Code.UNKNOWN, name, f"not a variable ({', '.join(self.variables)})")
        sex = do.get("sex", "M" if Noise.SEX.stream(person).random() < 0.5 else "F")
        age = check_number("age", do.get("age", 20 + 70 * float(betaincinv(2, 2, Noise.AGE.stream(person).random()))))
        if sex not in ("F", "M"):
            raise UndrawableError(Code.INVALID, "sex", f"must be 'F' or 'M', not {sex!r}")
        if not AGES[0] <= age <= AGES[1]:
            raise UndrawableError(Code.OUT_OF_RANGE, "age", f"must be {AGES[0]:g} to {AGES[1]:g} years, not {age:g}")
        values: Attributes = {"sex": sex, "age": age}
        for name, mechanism in MECHANISMS.items():
            values[name] = check_number(name, do[name]) if name in do else mechanism.volume(str(sex), age, person)
        usual = 50 + 18 * cut_normal(Noise.BEND.stream(person).random())
        values["bend"] = check_number("bend", do.get("bend", usual))
        return values

    def render(self, person: int, attributes: Mapping[str, float | str]) -> tuple[Bytes, Bytes]:
        """The volume (D, H, W) and the parts' coverage (2, D, H, W); 255: a voxel is wholly inside."""
        shape = self._shape(person, attributes)
        covers, depth = self._covers(person, shape)
        image = self._image(person, covers, depth)
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), np.rint(255 * covers).astype(np.uint8)

    def counterfactual(self, person: int, do: Mapping[str, float | str]) -> tuple[Attributes, Bytes, Bytes]:
        """What would have been under ``do``: same person, same noise. Attributes, volume and masks."""
        attributes = self.attributes(person, do)
        return (attributes, *self.render(person, attributes))

    def _shape(self, person: int, attributes: Mapping[str, float | str]) -> Shape:
        random = Noise.SHAPE.stream(person)
        root, flat = random.uniform(4.2, 4.8), random.uniform(0.8, 0.95)
        bend = check_number("bend", attributes["bend"])
        if not BENDS[0] <= bend <= BENDS[1]:
            raise UndrawableError(Code.OUT_OF_RANGE, "bend", f"{BENDS[0]:g} to {BENDS[1]:g} degrees, not {bend:g}")
        parts = {
            name: Part.of(name, check_number(f"{name}_volume", attributes[f"{name}_volume"]), root, flat)
            for name in self.structures
        }
        return Shape(**parts, flat=flat, bend=math.radians(bend))

    def _axes(self) -> list[Array]:
        """Of every axis, places of points, :data:`FINE` a voxel, (n, FINE), in mm from the middle of the frame."""
        return [
            ((np.arange(FINE * n).reshape(n, FINE) + 0.5) / FINE - n / 2) * edge
            for n, edge in zip(self.size, self.spacing, strict=True)
        ]

    def _covers(self, person: int, shape: Shape) -> tuple[Array, Array]:
        """The coverage of both parts (2, D, H, W), and how deep inside voxels are, in mm: minus infinity further from
        the surface than :data:`RIM`, where nobody asks.

        Raises:
            UndrawableError: the structure leaves the frame.
        """
        random = Noise.PLACE.stream(person)
        # The angle about the second axis counts the other way round.
        turn = Rotation.from_euler("XYZ", random.normal(0, math.radians(4), 3) * (1, -1, 1)).as_matrix()
        # The bend lifts both ends, so the arc's lowest point is below the middle.
        place = random.uniform(-0.8, 0.8, 3) + np.array([0, -3.0, 2.0])
        z, y, x = (points - middle for points, middle in zip(self._axes(), place, strict=True))
        reach = RIM + math.hypot(*self.spacing) / 2 / shape.flat  # no point of a voxel is further from its middle
        middles = _turned(turn, *np.ix_(z.mean(axis=1), y.mean(axis=1), x.mean(axis=1)))
        voxels = d, h, w = np.nonzero(shape.near(middles, reach))
        points = _turned(turn, z[d][:, :, None, None], y[h][:, None, :, None], x[w][:, None, None, :])
        inside, along = shape.signed(points)  # (voxels, FINE, FINE, FINE)
        soft = min(self.spacing) / FINE
        within = np.clip(inside / soft + 0.5, 0, 1)
        covers, depth = np.zeros((2, *self.size)), np.full(self.size, -np.inf)
        for cover, ahead in zip(covers, (along >= 0, along < 0), strict=True):
            cover[voxels] = (within * ahead).mean(axis=(1, 2, 3))
        depth[voxels] = inside.mean(axis=(1, 2, 3))
        edge = np.ones(self.size, dtype=bool)
        edge[1:-1, 1:-1, 1:-1] = False
        for name, cover in zip(self.structures, covers, strict=True):
            if cover[edge].any():
                raise UndrawableError(Code.OUT_OF_RANGE, f"{name}_volume", "the structure would leave the frame")
        return covers, depth

    def _image(self, person: int, covers: Array, depth: Array) -> Array:
        """Grey values (D, H, W) in [0, 1]: tissues by their mean signals, seen by a scanner."""
        random, texture = Noise.TISSUE.stream(person), Noise.TEXTURE.stream(person)
        grey, white, fluid = random.uniform(0.50, 0.58), random.uniform(0.74, 0.82), random.uniform(0.12, 0.20)
        folds, grain = self._smooth(texture, 3.5), self._smooth(texture, 1.6)
        ventricle = self._smooth(texture, 3.0)
        # Around it cortex and white matter in folds, and pockets of fluid; a rim of white matter lies on it.
        around = white + (grey - white) * expit(4 * (folds - 0.3)) + 0.03 * grain
        around = around + (fluid - around) * expit(8 * (ventricle - 1.1))
        rim = np.where(np.abs(depth) < RIM, np.exp(-((depth / 1.2) ** 2)), 0) * (1 - covers.sum(axis=0))
        around = around + rim * (white + 0.05 - around)
        inside = grey + 0.02 * grain
        total = covers.sum(axis=0)
        image = around + total * (inside - around)
        scanner = Scanner.draw(Noise.SCANNER.stream(person))
        image = gaussian_filter(image, [scanner.blur / edge for edge in self.spacing], mode="nearest")
        image = image * self._bias(scanner.bias)
        noise = Noise.GRAIN.stream(person).standard_normal((2, *self.size)) * scanner.noise
        seen: Array = np.hypot(image + noise[0], noise[1])  # the magnitude of a complex signal (Rician)
        return seen

    def _smooth(self, random: np.random.Generator, length: float) -> Array:
        """Noise (D, H, W) of unit variance that is smooth over so many mm, the same in mm on every grid."""
        fine = 1.0  # mm: drawn on one grid for all, of the same extent
        extent = [max(2, math.ceil(n * edge / fine)) for n, edge in zip(self.size, self.spacing, strict=True)]
        drawn = gaussian_filter(random.standard_normal(extent), length / fine, mode="wrap")
        drawn = drawn / drawn.std()
        if tuple(extent) == self.size:
            return drawn
        places = [
            np.clip(np.floor((np.arange(n) + 0.5) * edge / fine).astype(int), 0, most - 1)
            for n, edge, most in zip(self.size, self.spacing, extent, strict=True)
        ]
        return drawn[np.ix_(*places)]

    def _bias(self, coefficients: tuple[float, ...]) -> Array:
        field = np.ones(self.size)
        for axis, n in enumerate(self.size):
            place = np.linspace(-1, 1, n).reshape([-1 if one == axis else 1 for one in range(3)])
            field = field + coefficients[axis] * place + coefficients[3 + axis] * (place**2 - 1 / 3)
        return field


def _turned(turn: Array, z: Array, y: Array, x: Array) -> Array:
    """Points (3, ...) by the rows of a matrix (3, 3)."""
    return np.stack([turn[0, k] * z + turn[1, k] * y + turn[2, k] * x for k in range(3)])
