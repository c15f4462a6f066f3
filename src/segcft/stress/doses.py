"""What each variable is set to: a grid over the training range, or every category; and the film's exposure besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segcft.causal.intervention import unknown_variable
from segcft.config.variable import Variable
from segcft.grey import rounded

RANGE = (0.05, 0.95)
"""Quantiles of the training subjects at which a grid begins and ends."""

EXPOSURE = "exposure of the film"
"""No variable of the graph: the greys of the image as it is, as a film that was exposed otherwise would have them."""
BRIGHTER = 0.2
"""One dose of it: the logarithm of the exponent by which grey levels fall, those of 0.5 by a seventh."""
MOST_BRIGHTER = 2.0
"""Doses of it, at most."""


@dataclass(frozen=True)
class Doses:
    """What a variable is set to, one after the other.

    Attributes:
        variable: its name, or :data:`EXPOSURE`.
        values: numbers in its unit, or the places of its categories.
        spread: a standard deviation of the training subjects in its unit, 1 of categories: the unit of changes.
        categories: their names, if it has some.
        unit: of the values.
    """

    variable: str
    values: tuple[float, ...]
    spread: float
    categories: tuple[str, ...] = ()
    unit: str = ""

    @property
    def acquired(self) -> bool:
        """Whether it is how the image was taken, and no cause in the graph."""
        return self.variable == EXPOSURE

    def shown(self, value: float) -> str:
        """A value in words."""
        return self.categories[int(value)] if self.categories else f"{value:.4g} {self.unit}".rstrip()

    def cell(self, value: float) -> float | str:
        """A value for a table: the name of a category, or the number as it is."""
        return self.categories[int(value)] if self.categories else value

    def contrasts(self) -> list[tuple[str, int]]:
        """What effects are of, in words, and the category that it is a change to, -1 of numbers and of two categories,
        which have one direction. Of more categories there is one each: everybody else becomes it."""
        if not self.categories:
            return [("per dose" if self.acquired else "per sd", -1)]
        names = [self.categories[int(value)] for value in self.values]
        if len(self.categories) == 2:
            return [(f"{self.categories[1]} against {self.categories[0]}", -1)]
        return [(f"to {name}", int(value)) for name, value in zip(names, self.values, strict=True)]


def doses_of(
    variables: Mapping[str, Variable], people: NDArray[np.floating], names: Sequence[str], count: int
) -> list[Doses]:
    """The doses of some variables: ``count`` numbers at equal distances, or every category that somebody has.

    Args:
        variables: of the study.
        people: values of the training subjects, (N, V).
        names: of the variables to be set.
        count: numbers on a grid, two or more.

    Raises:
        InterventionError: a name is no variable.
    """
    found = []
    for name in names:
        if name == EXPOSURE:
            ends = MOST_BRIGHTER * BRIGHTER
            found.append(Doses(EXPOSURE, tuple(np.linspace(-ends, ends, count).tolist()), BRIGHTER))
            continue
        if name not in variables:
            raise unknown_variable(name, variables)
        variable, column = variables[name], people[:, list(variables).index(name)]
        known = column[~np.isnan(column)].astype(np.float64)
        if variable.categories:
            found.append(Doses(name, tuple(np.unique(known).tolist()), 1.0, variable.categories))
            continue
        low, high = np.quantile(known, RANGE)
        grid = tuple(np.linspace(low, high, count).tolist())
        found.append(Doses(name, grid, float(known.std()), unit=variable.unit))
    return [doses for doses in found if len(doses.values) > 1 and doses.spread > 0]


def exposed(image: Tensor, dose: float) -> Tensor:
    """Images (B, C, *size) in [-1, 1] as if their films had been exposed otherwise: grey levels in [0, 1] to the power
    of exp(-``dose``), so that above 0 all but black and white become brighter."""
    return rounded(((image + 1) / 2).clamp(0, 1) ** math.exp(-dose) * 2 - 1)
