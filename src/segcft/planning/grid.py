"""The grids that a study could have, from the smallest to the largest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from segcft.planning import recipe
from segcft.planning.fingerprint import Fingerprint

MULTIPLE = 16
"""Grids have sides of a multiple of so many pixels; which of them fit is the image mechanism's to say."""
SMALLEST_SIDE, LARGEST_SIDE = 64, 256
"""Pixels of a side (the root of the frame's area): the range in which the networks' sizes were tried."""
RESOLVED = 4
"""Pixels across that a structure needs where it is thickest: below, its outline is noise."""
ROUNDED = 1.05
"""Images may be enlarged by so much where the next multiple is near."""
FILLED = 0.15
"""Share of the grid that may be filled up because its aspect is not that of the images, if there is a choice."""


class Bounds(NamedTuple):
    """Least and most pixels of a side, and why."""

    low: float
    high: float
    why_low: str
    why_high: str


def bounds(fingerprint: Fingerprint) -> Bounds:
    """Between which sides a grid is of use."""
    high, why_high = min(fingerprint.side, LARGEST_SIDE), "more than the images have is not to be seen"
    if fingerprint.side > LARGEST_SIDE:
        why_high = f"networks of this size were tried up to {LARGEST_SIDE} x {LARGEST_SIDE} pixels"
    high = max(high, SMALLEST_SIDE)
    low, why_low = float(SMALLEST_SIDE), "the networks need that many"
    thin = {name: one.thickness for name, one in fingerprint.structures.items() if one.thickness > 0}
    if thin:
        name = min(thin, key=thin.__getitem__)
        needed = RESOLVED / thin[name]
        if needed > low:
            low, why_low = min(needed, high), f"{name} is {RESOLVED} pixels across then"
    return Bounds(low, high, why_low, why_high)


def grids(fingerprint: Fingerprint, fits: Callable[[tuple[int, int]], bool]) -> list[tuple[int, int]]:
    """Grids (height, width) of the images' aspect from the smallest of use to the largest; those that ``fits`` lets.

    At least one, where one of any size fits; [] else.
    """
    limits = bounds(fingerprint)
    fitting = sorted({grid for grid in _near(fingerprint.aspect) if fits(grid)}, key=lambda grid: (_side(grid), grid))
    shaped = [grid for grid in fitting if _filled(grid, fingerprint.aspect) <= FILLED] or fitting
    low = min(limits.low, limits.high) / ROUNDED
    chosen = [grid for grid in shaped if low <= _side(grid) <= limits.high * ROUNDED]
    return chosen or sorted(shaped, key=lambda grid: abs(_side(grid) - limits.high))[:1]


def levels_of(size: tuple[int, ...], patch: int) -> int:
    """Levels of an image mechanism that works on patches: each is half of the one before."""
    sides = [max(1, side // patch) for side in size]
    wanted = 1 + round(math.log2(math.pow(math.prod(sides), 1 / len(sides)) / recipe.SMALLEST_LEVEL))
    possible = 1 + int(math.log2(max(1, min(sides) / 2)))  # two pixels a side at least
    return max(2, min(wanted, possible))


def _near(aspect: float) -> Iterable[tuple[int, int]]:
    """Grids around the line of this aspect, the shorter side from one multiple on."""
    longest = math.ceil(2 * LARGEST_SIDE * max(math.sqrt(aspect), math.sqrt(1 / aspect)))
    for short in range(MULTIPLE, 2 * LARGEST_SIDE + 1, MULTIPLE):
        long = short * max(aspect, 1 / aspect)
        for near in (math.floor(long / MULTIPLE), math.ceil(long / MULTIPLE)):
            other = max(1, near) * MULTIPLE
            if other <= longest:
                yield (short, other) if aspect >= 1 else (other, short)


def _side(grid: tuple[int, int]) -> float:
    return math.sqrt(math.prod(grid))


def _filled(grid: tuple[int, int], aspect: float) -> float:
    """The share of the grid that images of this aspect do not cover."""
    ratio = grid[1] / grid[0] / aspect
    return 1 - min(ratio, 1 / ratio)
