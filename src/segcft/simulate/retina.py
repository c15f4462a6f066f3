"""A simulator of colour photographs of the retina: a known causal model with exact masks and true counterfactuals.

Graph: sex causes the area of the disc, the disc's area and age cause the cup's, and age causes the calibre of vessels.
All but sex cause the image: nothing else in it tells men from women. Age itself is in the colours: an old lens is
yellow, so less blue comes back (:data:`~segcft.simulate.fundus.LENS`). How much pigment there is, and the light, are
noise of the *person*, an integer, as is all else, from random streams of their own; so a counterfactual is the same
person drawn again with other attributes.

Light goes through pigments twice and comes back from what is behind them. Of each colour c,

.. math:: x_c = g \\, b_c \\exp\\left(-\\sum_k a_{kc} \\, d_k\\right),

with the light g, what sends it back b (retina, rim or cup), and how much of each pigment k there is, d (Beer and
Lambert's law). Sizes are those that textbooks give; nothing is fitted to data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit

from segcft.errors import Code
from segcft.simulate.fundus import (
    APERTURE,
    BLOOD,
    CUP,
    FIELD,
    LENS,
    RIM,
    Light,
    Nerve,
    Pigments,
    Vessels,
    ellipse,
    ground,
)
from segcft.simulate.noise import Stream, UndrawableError, check_number, cut_normal
from segcft.simulate.raster import Floats, Grid, blur, coverage

Attributes = dict[str, float | str]
Bytes = NDArray[np.uint8]


class Noise(Stream):
    """One random stream a purpose."""

    AGE = 0
    DISC = 1
    CUP = 2
    CALIBRE = 3
    NERVE = 4
    VESSELS = 5
    MACULA = 6
    PIGMENTS = 7
    TEXTURE = 8
    LIGHT = 9
    GRAIN = 10
    SEX = 11


AGES = (18.0, 100.0)
"""Years that can be drawn; people are 20 to 90."""
DISC, DISC_SPREAD, DISC_MALE = 2.1 / FIELD**2, 0.2, 0.25
"""Mean of the disc's area as a share of the frame, 2.1 mm^2, its standard deviation as a share of that, and how many of
these men are above the mean and women below."""
CALIBRE, CALIBRE_SPREAD = 200.0, 0.18
"""The same of the widest vein, in micrometres."""
CALIBRES = (60.0, 500.0)
"""That can be drawn."""
LARGEST_DISC = 0.08
"""As a share of the frame: the disc stays within what the camera sees."""


class RetinaSimulator:
    """Draws people's right eyes in colour on a grid of ``size`` = (height, width) pixels.

    Areas are in the unit of ``pixel_area``, the area of one pixel; ``vessel_calibre`` is that of the widest vein at the
    disc in micrometres, the largest centred square of the grid being 9 mm across. The disc is that with its cup.

    >>> simulator = RetinaSimulator((96, 96))
    >>> person = simulator.attributes(7)
    >>> image, masks = simulator.render(7, person)  # (3, 96, 96) and (2, 96, 96)
    >>> deeper, image_cf, masks_cf = simulator.counterfactual(7, {"cup_area": 1.3 * person["cup_area"]})

    Args:
        size: (H, W), at least 32 pixels each.
        pixel_area: of one pixel, in the unit of areas.

    Raises:
        ValueError: the grid is too small.
    """

    variables = ("sex", "age", "disc_area", "cup_area", "vessel_calibre")
    structures = ("disc", "cup")
    quantity = "area"
    channels = 3

    def __init__(self, size: tuple[int, int], pixel_area: float = 1.0) -> None:
        if min(size) < 32:
            raise ValueError(f"a retina needs at least 32 pixels a side, not {size[0]} x {size[1]}")
        self.grid = Grid(*size)
        self.frame_area = self.grid.side**2 * pixel_area

    def attributes(self, person: int, do: Mapping[str, float | str] | None = None) -> Attributes:
        """The person's variables under ``do``, which replaces mechanisms and so moves descendants alone.

        Raises:
            UndrawableError: a variable is unknown, or sex, age or calibre is set to what cannot be drawn.
        """
        do = dict(do or {})
        for name in do:
            if name not in self.variables:
                raise UndrawableError(Code.UNKNOWN, name, f"not a variable ({', '.join(self.variables)})")
        sex, age = _check_sex(do.get("sex", _sex(person))), _check("age", do.get("age", _age(person)), AGES)
        usual = DISC * self.frame_area
        disc = check_number("disc_area", do.get("disc_area", usual * _disc(sex, _normal(Noise.DISC, person))))
        cup = do.get("cup_area", disc * _share(age, (disc / usual - 1) / DISC_SPREAD, _normal(Noise.CUP, person)))
        calibre = do.get("vessel_calibre", _calibre(age, _normal(Noise.CALIBRE, person)))
        return {
            "sex": sex,
            "age": age,
            "disc_area": disc,
            "cup_area": check_number("cup_area", cup),
            "vessel_calibre": _check("vessel_calibre", calibre, CALIBRES),
        }

    def render(self, person: int, attributes: Mapping[str, float | str]) -> tuple[Bytes, Bytes]:
        """The photograph (3, H, W), red, green and blue, and the structures' coverage (2, H, W); 255: a pixel is wholly
        inside. The cup is within the disc.

        Raises:
            UndrawableError: an attribute cannot be drawn; the message names it.
        """
        age = _check("age", attributes["age"], AGES)
        calibre = _check("vessel_calibre", attributes["vessel_calibre"], CALIBRES)
        nerve = Nerve.draw(Noise.NERVE.stream(person))
        covers = self._covers(nerve, attributes)
        image = self._image(person, age, calibre / (1000 * FIELD), nerve, covers)
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), np.rint(255 * covers).astype(np.uint8)

    def counterfactual(self, person: int, do: Mapping[str, float | str]) -> tuple[Attributes, Bytes, Bytes]:
        """What would have been under ``do``: same person, same noise. Attributes, image and masks.

        Raises:
            UndrawableError: a variable is unknown, or is set to what cannot be drawn.
        """
        attributes = self.attributes(person, do)
        return (attributes, *self.render(person, attributes))

    def _covers(self, nerve: Nerve, attributes: Mapping[str, float | str]) -> Floats:
        """The share of each pixel that is disc and cup (2, H, W)."""
        areas = {name: check_number(name, attributes[name]) for name in ("disc_area", "cup_area")}
        for name, area in areas.items():
            if area <= 0:
                raise UndrawableError(Code.OUT_OF_RANGE, name, f"an area must be positive, not {area:g}")
        disc, cup = (area / self.frame_area for area in areas.values())
        if disc > LARGEST_DISC:
            raise UndrawableError(
                Code.OUT_OF_RANGE, "disc_area", f"{areas['disc_area']:.6g} is too large for the field"
            )
        try:
            inner = nerve.cup(cup, disc)
        except ValueError as error:
            raise UndrawableError(Code.OUT_OF_RANGE, "cup_area", f"{areas['cup_area']:.6g} is {error}") from None
        return np.stack([coverage(nerve.disc(disc), self.grid), coverage(inner, self.grid)])

    def _image(self, person: int, age: float, widest: float, nerve: Nerve, covers: Floats) -> Floats:
        """Red, green and blue (3, H, W), about 0 to 1."""
        grid, (disc, cup) = self.grid, covers
        x, y = grid.centres()
        fovea = nerve.centre + np.array([-0.43, 0.05]) + Noise.MACULA.stream(person).uniform(-0.02, 0.02, 2)
        pigments = Pigments.draw(Noise.PIGMENTS.stream(person))
        image = ground(pigments, Noise.TEXTURE.stream(person), fovea, x, y, grid)
        for cover, colour in ((disc, RIM), (cup, CUP)):
            image = image + cover * (colour[:, None, None] - image)
        blood = Vessels.draw(Noise.VESSELS.stream(person), nerve.centre).depth(widest, grid)
        yellow = (age - AGES[0]) / (90 - AGES[0])
        image = image * np.exp(-BLOOD[:, None, None] * blood - LENS[:, None, None] * yellow)
        light = Light.draw(Noise.LIGHT.stream(person))
        image = np.stack([blur(channel, light.blur, grid) for channel in image * light.field(x, y)])
        grain = Noise.GRAIN.stream(person).standard_normal(image.shape)
        return (image + light.noise * grain) * _aperture(grid)


@lru_cache(maxsize=8)
def _aperture(grid: Grid) -> Floats:
    """The share of each pixel that a camera sees (H, W)."""
    return coverage(ellipse(np.array([0.5, 0.5]), APERTURE, APERTURE, 0.0), grid)


def _normal(noise: Noise, person: int) -> float:
    return cut_normal(noise.stream(person).random())


def _age(person: int) -> float:
    """20 to 90 years, left-skewed as in a clinic: 20 + 70 * Beta(2.6, 2.2)."""
    return 20 + 70 * float(betaincinv(2.6, 2.2, Noise.AGE.stream(person).random()))


def _ageing(age: float) -> float:
    """About of unit variance, and level at both ends of adult life."""
    return math.tanh((age - 55) / 20) / 0.59


def _sex(person: int) -> str:
    return "M" if Noise.SEX.stream(person).random() < 0.5 else "F"


def _check_sex(value: float | str) -> str:
    if value not in ("F", "M"):
        raise UndrawableError(Code.INVALID, "sex", f"must be 'F' or 'M', not {value!r}")
    return str(value)


def _disc(sex: str, noise: float) -> float:
    """A disc's area as a share of the mean of all people."""
    male = DISC_MALE if sex == "M" else -DISC_MALE
    return 1 + DISC_SPREAD * (male + math.sqrt(1 - DISC_MALE**2) * noise)


def _share(age: float, disc: float, noise: float) -> float:
    """What share of a disc is cup, less than 1: the older one is and the larger the disc, the more.

    ``disc`` is how many standard deviations its area is from the mean.
    """
    return float(expit(-1.1 + 0.3 * _ageing(age) + 0.25 * math.tanh(disc) + 0.45 * noise))


def _calibre(age: float, noise: float) -> float:
    """Of the widest vein in micrometres: the older, the narrower."""
    return CALIBRE * (1 + CALIBRE_SPREAD * (-0.35 * _ageing(age) + math.sqrt(1 - 0.35**2) * noise))


def _check(name: str, value: float | str, limits: tuple[float, float]) -> float:
    number, (low, high) = check_number(name, value), limits
    if not low <= number <= high:
        raise UndrawableError(Code.OUT_OF_RANGE, name, f"must be {low:g} to {high:g}, not {number:g}")
    return number
