"""Values that are unlikely together, each of which is ordinary by itself: two lungs of which nobody has the ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from torch import Tensor

from segcft.causal.dependence import FEWEST, correlations
from segcft.causal.scm import StructuralCausalModel
from segcft.config.variable import Variable

Floats = NDArray[np.float64]

FALSE_ALARMS = 0.01
"""The share of subjects like those of the training whose values may be called unlikely together."""

CLOSEST = 0.999
"""The largest correlation: what all but follows from another is not judged to more digits than it was measured."""


class Surprise(NamedTuple):
    """Two variables whose values are unlikely together: either is at least ``distance`` standard deviations from what
    is usual beside the other."""

    first: str
    second: str
    distance: float


class JointSupport(BaseModel):
    r"""How the noises of training subjects go together.

    Of two variables' noises :math:`u, v` with correlation :math:`r` each is usual beside the other if

    .. math:: d(u, v) = \min(|u - r v|, |v - r u|) / \sqrt{1 - r^2}

    is small. A value that is rare by itself does not make it large. ``limit`` is that of the largest d of all pairs,
    above which are :data:`FALSE_ALARMS` of ``subjects`` whom no training step has seen, where there are enough of them.

    Args:
        variables: continuous ones, without the derived.
        correlation: of their noises as normal numbers, (V, V).
        limit: see above.
        subjects: how many it is taken from.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    variables: Annotated[tuple[str, ...], Field(min_length=2)]
    correlation: tuple[tuple[Annotated[float, Field(ge=-1, le=1)], ...], ...]
    limit: PositiveFloat
    subjects: Annotated[int, Field(ge=FEWEST)]

    @model_validator(mode="after")
    def _square(self) -> Self:
        size = len(self.variables)
        if [len(row) for row in self.correlation] != [size] * size:
            raise ValueError("correlation: not a row and a column a variable")
        return self

    @classmethod
    def learn(cls, scm: StructuralCausalModel, training: Tensor, validation: Tensor) -> JointSupport | None:
        """From values (N, V) of training and of validation subjects; None where there are too few of them, or fewer
        than two continuous variables."""
        names = _numbers(scm.definitions)
        if len(names) < 2 or len(training) < FEWEST:
            return None
        correlation = correlations(_noises(scm, training, names))
        enough = (len(validation) + 1) * FALSE_ALARMS >= 1
        calibration = _noises(scm, validation, names)
        if not enough:  # the rarest hundredth of a few has nobody in it
            calibration = np.concatenate([_noises(scm, training, names), calibration])
        largest = np.array([_distances(one, correlation).max() for one in calibration])
        largest = np.sort(largest[np.isfinite(largest)])  # of those of whom a pair is known
        if len(largest) < FEWEST:
            return None
        rank = min(len(largest), math.ceil((len(largest) + 1) * (1 - FALSE_ALARMS)))
        limit = max(float(largest[rank - 1]), float(np.finfo(np.float32).tiny))
        rows = tuple(tuple(float(one) for one in row) for row in correlation)
        return cls(variables=tuple(names), correlation=rows, limit=limit, subjects=len(largest))

    def surprise(self, scm: StructuralCausalModel, values: Tensor) -> Surprise | None:
        """The pair of ``values`` (V,) that is the least usual together, if it is beyond the limit."""
        noises = _noises(scm, values[None], self.variables)[0]
        distances = _distances(noises, np.array(self.correlation))
        if not distances.max() > self.limit:
            return None
        a, b = np.unravel_index(int(distances.argmax()), distances.shape)
        return Surprise(self.variables[int(a)], self.variables[int(b)], float(distances.max()))

    def unlikely(self, scm: StructuralCausalModel, values: Tensor) -> NDArray[np.bool_]:
        """Which of the ``values`` (N, V) :meth:`surprise`."""
        correlation = np.array(self.correlation)
        largest = [_distances(one, correlation).max() for one in _noises(scm, values, self.variables)]
        return np.array(largest, dtype=float) > self.limit

    def fits(self, variables: Mapping[str, Variable]) -> bool:
        """Whether it is of ``variables``."""
        return [*self.variables] == _numbers(variables)


def _numbers(variables: Mapping[str, Variable]) -> list[str]:
    """The variables that have a number for a noise."""
    return [name for name, variable in variables.items() if not variable.categories and not variable.derived]


def _noises(scm: StructuralCausalModel, values: Tensor, names: Sequence[str]) -> Floats:
    """The noises of values (N, V) of some variables, as normal numbers (N, M): NaN where one is not known, or 0 and so
    any of many."""
    columns = [scm.variables.index(name) for name in names]
    generator = torch.Generator(values.device).manual_seed(0)  # draws for zeros, which do not count
    scores = scm.normal_scores(values, generator, columns)[:, columns].cpu().double().numpy()
    absent = (values[:, columns] == 0).cpu().numpy() & np.array([scm.definitions[name].zero_inflated for name in names])
    return np.where(absent | ~np.isfinite(scores), np.nan, scores)


def _distances(noises: Floats, correlation: Floats) -> Floats:
    """d of every pair of noises (M,), (M, M); -inf where a noise is not known, and of a variable with itself."""
    r = np.clip(correlation, -CLOSEST, CLOSEST)
    beside = np.abs(noises[:, None] - r * noises[None, :]) / np.sqrt(1 - r**2)
    distances = np.minimum(beside, beside.T)
    np.fill_diagonal(distances, -np.inf)
    return np.where(np.isnan(distances), -np.inf, distances)
