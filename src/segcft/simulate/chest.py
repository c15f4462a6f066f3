"""A chest radiograph simulator: a known structural causal model with exact masks and true counterfactuals.

Graph: sex and age cause the areas of left lung, right lung and heart; all five cause the image. Every number
that is not a variable is exogenous noise of the *person*, an integer, from a random stream of its own, so a
counterfactual is the same person drawn again with other attributes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from segcft.errors import Code
from segcft.simulate.anatomy import MIDLINE, Anatomy, UsualAreas, draw_anatomy
from segcft.simulate.noise import Stream, UndrawableError, check_number, cut_normal
from segcft.simulate.radiograph import (
    Body,
    Bones,
    Breasts,
    Exposure,
    Framing,
    Pose,
    Stomach,
    Tissue,
    octaves,
    organ_profile,
    vessels,
)
from segcft.simulate.raster import Floats, Grid, blur, coverage, smooth_noise
from segcft.simulate.shortcut import Quality, Shortcut

Attributes = dict[str, float | str]
Q = TypeVar("Q", Body, Exposure)
Bytes = NDArray[np.uint8]


class Noise(Stream):
    """One random stream a purpose."""

    SEX = 0
    AGE = 1
    LEFT_LUNG = 2
    RIGHT_LUNG = 3
    HEART = 4
    ANATOMY = 5
    POSE = 6
    BODY = 7
    BONES = 8
    BREASTS = 9
    STOMACH = 10
    VESSELS = 11
    TISSUE = 12
    TEXTURE = 13
    EXPOSURE = 14
    FRAMING = 15
    GRAIN = 16


@dataclass(frozen=True)
class AreaMechanism:
    """area = mean * (1 + spread * (male * m + ageing * a + residual * u)), a share of the unit frame.

    m is +1 for men and -1 for women. a = tanh((age - 55) / 20) / 0.59 has about unit variance and levels off
    at both ends of adult life. u is a standard normal cut off as by :func:`cut_normal`.
    Monotone in u, hence invertible.
    """

    mean: float
    spread: float
    male: float
    ageing: float
    noise: Noise

    def deviation(self, sex: str, age: float, person: int) -> float:
        """How far the person is from the mean, in standard deviations."""
        m = 1.0 if sex == "M" else -1.0
        a = math.tanh((age - 55) / 20) / 0.59
        residual = math.sqrt(1 - self.male**2 - self.ageing**2)
        return self.male * m + self.ageing * a + residual * cut_normal(self.noise.stream(person).random())

    def area(self, sex: str, age: float, person: int) -> float:
        return self.mean * (1 + self.spread * self.deviation(sex, age, person))


_USUAL = UsualAreas()
MECHANISMS = {
    "left_lung_area": AreaMechanism(_USUAL.left_lung, 0.19, 0.50, -0.30, Noise.LEFT_LUNG),
    "right_lung_area": AreaMechanism(_USUAL.right_lung, 0.163, 0.50, -0.30, Noise.RIGHT_LUNG),
    "heart_area": AreaMechanism(_USUAL.heart, 0.15, 0.35, 0.18, Noise.HEART),
}
AGES = (18.0, 100.0)  # years that can be drawn; people are 20 to 90


class ChestSimulator:
    """Draws people on a grid of ``size`` = (height, width) pixels.

    Areas are in the unit of ``pixel_area``, the area of one pixel. On grids that are not square the chest
    fills the largest centred square. With a ``shortcut`` how people look goes with one of their areas.

    >>> simulator = ChestSimulator((64, 64))
    >>> person = simulator.attributes(7)
    >>> image, masks = simulator.render(7, person)
    >>> larger, image_cf, masks_cf = simulator.counterfactual(7, {"heart_area": 1.2 * person["heart_area"]})
    """

    variables: tuple[str, ...] = ("sex", "age", "left_lung_area", "right_lung_area", "heart_area")
    structures: tuple[str, ...] = ("left_lung", "right_lung", "heart")
    quantity = "area"
    channels = 1
    stretches = structures
    """Those that can be drawn taller at the same area, and so narrower."""

    def __init__(self, size: tuple[int, int], pixel_area: float = 1.0, shortcut: Shortcut | None = None) -> None:
        if min(size) < 16:
            raise ValueError(f"a chest needs at least 16 pixels a side, not {size[0]} x {size[1]}")
        self.grid = Grid(*size)
        self.frame_area = self.grid.side**2 * pixel_area
        if shortcut is not None and shortcut.variable not in MECHANISMS:
            raise ValueError(f"a shortcut is to one of {', '.join(MECHANISMS)}, not to {shortcut.variable!r}")
        self.shortcut = shortcut

    def attributes(self, person: int, do: Mapping[str, float | str] | None = None) -> Attributes:
        """The person's variables under ``do``, which replaces mechanisms and so moves descendants alone."""
        do = dict(do or {})
        for name in do:
            if name not in self.variables:
                raise UndrawableError(Code.UNKNOWN, name, f"not a variable ({', '.join(self.variables)})")
        sex = _check_sex(do["sex"] if "sex" in do else _sex(person))
        age = _check_age(do["age"] if "age" in do else _age(person))
        values: Attributes = {"sex": sex, "age": age}
        for name, mechanism in MECHANISMS.items():
            if name in do:
                values[name] = check_number(name, do[name])
            else:
                values[name] = mechanism.area(sex, age, person) * self.frame_area
        return values

    def render(
        self,
        person: int,
        attributes: Mapping[str, float | str],
        stretch: Mapping[str, float] | None = None,
        unseen: int | None = None,
    ) -> tuple[Bytes, Bytes]:
        """The radiograph (H, W) and the structures' coverage (3, H, W); 255: a pixel is wholly inside.

        ``stretch`` says how many times as tall as follows from their areas structures are. ``unseen`` is another
        person, whose noise draws what no image of a man shows: how his breasts would be.
        """
        sex, age = _check_sex(attributes["sex"]), _check_age(attributes["age"])
        pose = Pose.draw(Noise.POSE.stream(person))
        covers = self._covers(person, attributes, pose, stretch or {})
        image = self._image(person, sex, age, pose, covers, person if unseen is None else unseen)
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), np.rint(255 * covers).astype(np.uint8)

    def cover(self, person: int, attributes: Mapping[str, float | str], structure: str, stretch: float) -> Bytes:
        """The coverage (H, W) of one structure alone, as :meth:`render` draws it."""
        pose = Pose.draw(Noise.POSE.stream(person))
        anatomy = draw_anatomy(Noise.ANATOMY.stream(person))
        return np.rint(255 * self._cover(anatomy, structure, attributes, pose, stretch)).astype(np.uint8)

    def counterfactual(self, person: int, do: Mapping[str, float | str]) -> tuple[Attributes, Bytes, Bytes]:
        """What would have been under ``do``: same person, same noise. Attributes, image and masks."""
        attributes = self.attributes(person, do)
        return (attributes, *self.render(person, attributes))

    def _covers(
        self, person: int, attributes: Mapping[str, float | str], pose: Pose, stretch: Mapping[str, float]
    ) -> Floats:
        anatomy = draw_anatomy(Noise.ANATOMY.stream(person))
        covers = [self._cover(anatomy, name, attributes, pose, stretch.get(name, 1.0)) for name in self.structures]
        return np.stack(covers).astype(np.float32)

    def _cover(
        self, anatomy: Anatomy, structure: str, attributes: Mapping[str, float | str], pose: Pose, stretch: float
    ) -> Floats:
        name = f"{structure}_area"
        area = check_number(name, attributes[name])
        if area <= 0:
            raise UndrawableError(Code.OUT_OF_RANGE, name, f"an area must be positive, not {area:g}")
        try:
            outline = getattr(anatomy, structure).outline(area / self.frame_area / pose.scale**2, stretch)
        except ValueError as error:
            raise UndrawableError(Code.OUT_OF_RANGE, name, f"{area:.6g} is {error}") from None
        outline = pose.to_frame(outline)
        if outline.min() < 0 or outline.max() > 1:
            raise UndrawableError(Code.OUT_OF_RANGE, name, f"{area:.6g} is too large for the thorax")
        return coverage(outline, self.grid)

    def _image(self, person: int, sex: str, age: float, pose: Pose, covers: Floats, unseen: int) -> Floats:
        """Grey values (H, W) in [0, 1]; ``unseen`` is the person whose noise draws breasts."""
        grid = self.grid
        x, y = pose.body_coordinates(grid)
        texture = Noise.TEXTURE.stream(person)
        wobble, muscle = smooth_noise(texture, 5, grid), octaves(texture, grid, (3, 7, 15), 0.6)
        parenchyma = octaves(texture, grid, (9, 18, 36, 72, 144), 0.85)
        tissue = Tissue.draw(Noise.TISSUE.stream(person))

        trunk = self._by_shortcut(person, "body", Body.draw(Noise.BODY.stream(person)))
        body = trunk.attenuation(x, y, age) * (1 + 0.04 * muscle)
        left, right, heart = covers
        gas_free = (1 - left) * (1 - right) * (1 - heart)
        body = body + Stomach.draw(Noise.STOMACH.stream(person)).attenuation(x, y) * gas_free

        aerated = tissue.lung + tissue.base * (y - 0.45) + 0.5 * tissue.lung_texture * parenchyma
        medial = tissue.medial * np.exp(-(((np.abs(x - MIDLINE) - 0.05) / 0.12) ** 2))
        hilum = tissue.hilum * np.exp(-(((np.abs(x - MIDLINE) - 0.09) / 0.035) ** 2) - ((y - 0.42) / 0.07) ** 2)
        aerated = aerated + medial + hilum + vessels(Noise.VESSELS.stream(person), pose, grid)
        heart_depth = organ_profile(heart, grid, 0.2)
        air = organ_profile(np.maximum(left, right), grid, 0.55)
        # Against the lung the heart's border is sharp; within the mediastinum it is all but lost.
        air = air * (1 - (1 - tissue.retrocardiac) * (0.5 * heart + 0.5 * heart_depth))
        attenuation = body + air * (aerated - body) + tissue.heart * heart_depth

        attenuation = attenuation + Bones.draw(Noise.BONES.stream(person)).attenuation(x, y, age, wobble)
        if sex == "F":
            attenuation = attenuation + Breasts.draw(Noise.BREASTS.stream(unseen)).attenuation(x, y)
        exposure = self._by_shortcut(person, "exposure", Exposure.draw(Noise.EXPOSURE.stream(person)))
        image = exposure.develop(blur(attenuation, exposure.blur, grid), *grid.centres())
        grain = Noise.GRAIN.stream(person).standard_normal(image.shape, dtype=np.float32)
        image = image + np.float32(exposure.noise * grid.side / 256) * grain
        return Framing.draw(Noise.FRAMING.stream(person)).apply(image, grid)

    def _by_shortcut(self, person: int, quality: Quality, drawn: Q) -> Q:
        """What is ``drawn`` of a quality, as it goes with the area that the person has when nothing is set."""
        shortcut = self.shortcut
        if shortcut is None or shortcut.quality != quality:
            return drawn
        deviation = MECHANISMS[shortcut.variable].deviation(_sex(person), _age(person), person)
        return drawn.moved(lambda own: shortcut.quantile(own, deviation))


def _sex(person: int) -> str:
    return "M" if Noise.SEX.stream(person).random() < 0.5 else "F"


def _age(person: int) -> float:
    """20 to 90 years, left-skewed as in a hospital: 20 + 70 * Beta(2.6, 2.2)."""
    return 20 + 70 * float(betaincinv(2.6, 2.2, Noise.AGE.stream(person).random()))


def _check_sex(value: float | str) -> str:
    if value not in ("F", "M"):
        raise UndrawableError(Code.INVALID, "sex", f"must be 'F' or 'M', not {value!r}")
    return str(value)


def _check_age(value: float | str) -> float:
    age = check_number("age", value)
    if not AGES[0] <= age <= AGES[1]:
        raise UndrawableError(Code.OUT_OF_RANGE, "age", f"must be {AGES[0]:g} to {AGES[1]:g} years, not {age:g}")
    return age
