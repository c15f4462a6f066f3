"""A pendulum, a light and the shadow: the field's small benchmark, with true counterfactuals.

Graph: the pendulum's angle and the light's cause how long the shadow is and where it lies; all four cause the image. No
structure is masked, and the image has no noise of its own: it follows from the four variables.

Lengths are in units of a scene that is seen from -1 to 21 along both axes, x to the right and y up, with the ground at
y = -0.5. Ranges, sizes and the shadow are those of Pendulum (Yang et al., 2021). There the shadow follows from its
causes without noise. Such a variable has no density: the likelihood of its flow has no bound, and the noise that it
abducts is its own error. So both numbers of the shadow have an additive noise here, a normal of 0.1 units that is drawn
in the image, as in the data of An et al. (2023). The image is grey: the luminance of the colours of Yang et al.

References:
    | CausalVAE: Disentangled Representation Learning via Neural Structural Causal Models (Yang et al., 2021),
      https://arxiv.org/abs/2004.08697
    | Causally Disentangled Generative Variational AutoEncoder (An et al., 2023), https://arxiv.org/abs/2302.11737
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from segcft.errors import Code
from segcft.simulate.noise import Stream, UndrawableError, check_number
from segcft.simulate.raster import Floats, Grid

Attributes = dict[str, float | str]
Bytes = NDArray[np.uint8]

LOW, EXTENT = -1.0, 22.0
"""Where the scene that is seen begins along both axes, and how far it goes."""
PIVOT = (10.0, 10.5)
GROUND = -0.5
SUN_HEIGHT, SUN_RADIUS = 20.5, 3.0
ROD, BALL_RADIUS = 8.0, 1.5
"""From the pivot to the middle of the ball, and the radius of the ball, which casts the shadow too."""
THICKNESS = 1.0
"""Of the rod and of the shadow as they are drawn."""
SHORTEST = 3.0
"""No shadow is shorter, but for its noise."""
NOISE = 0.1
"""Standard deviation of both noises of the shadow."""

DEGREES = 180 / 200
"""Of a step of the published ranges, which are of pi / 200."""
ANGLES = (-40 * DEGREES, 43 * DEGREES)
LIGHTS = (60 * DEGREES, 147 * DEGREES)
"""From which the angles of samples are drawn, uniformly."""
LIMITS = {
    "angle": (-90.0, 90.0),
    "light": (45.0, 135.0),
    "shadow_length": (0.0, EXTENT),
    "shadow_position": (LOW, LOW + EXTENT),
}
"""What can be drawn."""

BACKGROUND, SUN, BALL, BLACK = 1.0, 0.68, 0.30, 0.0
"""Grey values: white, the luminance of orange and of a brick's red (ITU-R BT.601), black."""


class Noise(Stream):
    """One random stream a variable."""

    ANGLE = 0
    LIGHT = 1
    SHADOW_LENGTH = 2
    SHADOW_POSITION = 3


class Shadow(NamedTuple):
    """A shadow on the ground: how long it is and where its middle lies."""

    length: float
    position: float


def cast(angle: float, light: float) -> Shadow:
    r"""The shadow of a pendulum, without noise.

    Rays are parallel. At the light's angle :math:`\varphi` against the ground, a point (x, y) has its shadow at
    :math:`x - (y - y_0) \cot \varphi`, with the ground at :math:`y_0`. The shadow goes from that of the pivot to that
    of the ball's far side.

    Args:
        angle: of the pendulum against the plumb line, in degrees; to the right where it is positive.
        light: of the light's rays against the ground, in degrees, more than 0 and less than 180; 90 is from above.
    """
    theta, slope = math.radians(angle), 1 / math.tan(math.radians(light))
    reach = ROD + BALL_RADIUS
    start = PIVOT[0] - (PIVOT[1] - GROUND) * slope
    across = reach * (math.sin(theta) + math.cos(theta) * slope)
    return Shadow(max(SHORTEST, abs(across)), start + across / 2)


class PendulumSimulator:
    """Draws pendulums on a grid of ``size`` = (height, width) pixels.

    What other simulators call a person is a sample here. Angles are in degrees and lengths in units of the scene,
    whatever the grid. On grids that are not square the scene fills the largest centred square, and its background is
    around it.

    >>> simulator = PendulumSimulator((64, 64))
    >>> sample = simulator.attributes(7)
    >>> image, _ = simulator.render(7, sample)
    >>> swung, image_cf, _ = simulator.counterfactual(7, {"angle": 30})

    Args:
        size: (H, W), at least 16 pixels each.
        pixel_area: of no matter, as no variable is an area.

    Raises:
        ValueError: the grid is too small.
    """

    variables = ("angle", "light", "shadow_length", "shadow_position")
    structures: tuple[str, ...] = ()
    quantity = "area"
    channels = 1

    def __init__(self, size: tuple[int, int], pixel_area: float = 1.0) -> None:
        if min(size) < 16:
            raise ValueError(f"a pendulum needs at least 16 pixels a side, not {size[0]} x {size[1]}")
        self.grid = Grid(*size)
        self.pixel = EXTENT / self.grid.side

    def attributes(self, person: int, do: Mapping[str, float | str] | None = None) -> Attributes:
        """The sample's variables under ``do``, which replaces mechanisms and so moves descendants alone.

        Raises:
            UndrawableError: a variable is unknown, or is set to what cannot be drawn.
        """
        do = dict(do or {})
        for name in do:
            if name not in self.variables:
                raise UndrawableError(Code.UNKNOWN, name, f"not a variable ({', '.join(self.variables)})")
        angle = _check("angle", do.get("angle", _uniform(Noise.ANGLE, person, ANGLES)))
        light = _check("light", do.get("light", _uniform(Noise.LIGHT, person, LIGHTS)))
        shadow = cast(angle, light)
        length = do.get("shadow_length", shadow.length + _normal(Noise.SHADOW_LENGTH, person))
        position = do.get("shadow_position", shadow.position + _normal(Noise.SHADOW_POSITION, person))
        return {
            "angle": angle,
            "light": light,
            "shadow_length": _check("shadow_length", length),
            "shadow_position": _check("shadow_position", position),
        }

    def render(self, person: int, attributes: Mapping[str, float | str]) -> tuple[Bytes, Bytes]:
        """The image (H, W), and masks of no structures (0, H, W). It is the same for every sample of these attributes.

        Raises:
            UndrawableError: an attribute cannot be drawn.
        """
        angle, light, length, position = (_check(name, attributes[name]) for name in self.variables)
        across, down = self.grid.centres()
        x, y = LOW + EXTENT * across, LOW + EXTENT * (1 - down)
        theta, slope = math.radians(angle), 1 / math.tan(math.radians(light))
        ball = (PIVOT[0] + ROD * math.sin(theta), PIVOT[1] - ROD * math.cos(theta))
        sun = (PIVOT[0] + (SUN_HEIGHT - PIVOT[1]) * slope, SUN_HEIGHT)
        image = np.full((self.grid.height, self.grid.width), BACKGROUND)
        for cover, grey in (
            (self._inside(_to_segment(x, y, PIVOT, ball) - THICKNESS / 2), BLACK),
            (self._inside(np.hypot(x - ball[0], y - ball[1]) - BALL_RADIUS), BALL),
            (self._inside(np.hypot(x - sun[0], y - sun[1]) - SUN_RADIUS), SUN),
            (self._overlap(x, position, length) * self._overlap(y, GROUND, THICKNESS), BLACK),
        ):
            image = image + cover * (grey - image)
        none = np.zeros((0, self.grid.height, self.grid.width), dtype=np.uint8)
        return np.rint(255 * image).astype(np.uint8), none

    def counterfactual(self, person: int, do: Mapping[str, float | str]) -> tuple[Attributes, Bytes, Bytes]:
        """What would have been under ``do``: same sample, same noise. Attributes, image and masks of nothing.

        Raises:
            UndrawableError: a variable is unknown, or is set to what cannot be drawn.
        """
        attributes = self.attributes(person, do)
        return (attributes, *self.render(person, attributes))

    def _inside(self, distance: Floats) -> Floats:
        """The share of pixels that lies inside of an outline, of how far outside their middles are."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def _overlap(self, centres: Floats, middle: float, length: float) -> Floats:
        """The share of pixels, along one axis, that an interval covers: exact, so that its sum is the interval."""
        half = self.pixel / 2
        low, high = np.maximum(centres - half, middle - length / 2), np.minimum(centres + half, middle + length / 2)
        return np.clip(high - low, 0, None) / self.pixel


def _to_segment(x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float]) -> Floats:
    """How far points are from the line between two points."""
    along = (end[0] - start[0], end[1] - start[1])
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2)
    share = np.clip(share, 0, 1)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])


def _uniform(noise: Noise, person: int, ends: tuple[float, float]) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(noise.stream(person).random())


def _normal(noise: Noise, person: int) -> float:
    return NOISE * float(ndtri(noise.stream(person).random()))


def _check(name: str, value: float | str) -> float:
    number, (low, high) = check_number(name, value), LIMITS[name]
    if not low <= number <= high:
        raise UndrawableError(Code.OUT_OF_RANGE, name, f"must be {low:g} to {high:g}, not {number:g}")
    return number
