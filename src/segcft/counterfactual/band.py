r"""A band around the pixels of an answer: how far the true counterfactual may be, with a stated probability.

An answer errs where it changes something: an outline that moves too far, or not far enough, is off beside where it is.
So the half-width at a pixel p follows what the answer :math:`\tilde x` of an image x changes around it,

.. math:: b(p) = q \, s(p), \qquad s(p) = s_0 + \sqrt{\operatorname{mean}_{p'} (\tilde x(p') - x(p'))^2},

the mean being over a cube around p that reaches as far as *near* does in the evaluation. The factor q is learnt from
people on whom no step was trained, of whose image the counterfactual is known: the smallest one with which

.. math:: \frac{n \hat R(q) + 1}{n + 1} \le 0.1,

where R is the mean share of the truly changed pixels that lie outside, of each of n people the mean of the answers
about them (conformal risk control: Angelopoulos et al., ICLR 2024). Of a new person of the same kind 90 % of the truly
changed pixels then lie within, on average over people. There is a factor for small, middling and large changes, as in
:mod:`segcft.counterfactual.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor

from segcft.config.section import Fraction
from segcft.counterfactual.intervals import LEVEL, ROUNDING, HalfWidths, in_bins, of_people, smallest_with, widest
from segcft.grey import GREY_LEVELS
from segcft.grid import Grid

FLOOR = 1 / GREY_LEVELS
"""The scale where nothing changes near: one grey level."""

CHANGED = 4 / GREY_LEVELS
"""From this difference on, four grey levels, a pixel has truly changed: less is not seen."""


class Band(BaseModel):
    """Of one method.

    Attributes:
        level: the share of the truly changed pixels that lie within.
        of: where the counterfactuals were known from: a ``simulator``, or ``deformations`` of people's own images.
        radius: how far around a pixel changes count, in pixels.
        spread: standard deviation of every variable that may be asked about, 1 of categories; changes are in these.
        factors: variable that is set -> q by the size of the change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Fraction = LEVEL
    of: Literal["simulator", "deformations"]
    radius: PositiveInt
    spread: dict[str, PositiveFloat]
    factors: dict[str, HalfWidths]

    def half_width(self, image: Tensor, answer: Tensor, changes: Mapping[str, float]) -> Tensor | None:
        """The half-width at every pixel of an ``answer`` (B, C, *size) about ``image``, both in [-1, 1], where the
        sizes of the changes of the variables that are set are these; None where nobody knows."""
        factor = self.factor(changes)
        return None if factor is None else around(image, answer, self.radius, factor)

    def factor(self, changes: Mapping[str, float]) -> float | None:
        """q of the changes, the largest of several; None where one of them is not known."""
        return widest(self.factors, self.spread, changes)


def around(image: Tensor, answer: Tensor, radius: int, factor: float | Tensor) -> Tensor:
    """b of an ``answer`` (B, C, *size) about ``image`` with q, or with one each, (B, 1, ...); at most all that grey
    levels can differ by."""
    return (factor * scale(image, answer, radius)).clamp(max=2.0)


def scale(image: Tensor, answer: Tensor, radius: int) -> Tensor:
    """s of an ``answer`` (B, C, *size) about ``image``."""
    grid, squares = Grid.like(image), (answer - image).square()
    for axis in range(grid.dimensions):
        squares = grid.extend(squares, axis, radius)
    return FLOOR + grid.running_mean(squares, 2 * radius + 1).clamp(min=0).sqrt()


def truly_changed(image: Tensor, truth: Tensor) -> Tensor:
    """The pixels in which the true counterfactual differs from the image, bool; none where there is no truth (NaN)."""
    return (truth - image).abs() >= CHANGED


def misses(image: Tensor, answer: Tensor, truth: Tensor, radius: int) -> list[NDArray[np.float32]]:
    """Of each answer (B, C, *size), how far its truly changed pixels are from the ``truth``, in s."""
    error = (answer - truth).abs() / scale(image, answer, radius)
    changed = truly_changed(image, truth)
    return [one[where].cpu().numpy() for one, where in zip(error, changed, strict=True)]


def factors(
    found: Sequence[NDArray[np.floating]], changes: NDArray[np.floating], patients: NDArray[np.str_]
) -> HalfWidths | None:
    """q by the size of the change, or None where too few people were asked.

    Args:
        found: of N answers what :func:`misses` gives; one in which no pixel has truly changed does not count.
        changes: (N,), sizes of the changes.
        patients: (N,).
    """
    counts = np.array([len(one) for one in found])
    some = np.flatnonzero((counts > 0) & (changes > 0))

    def fit(chosen: NDArray[np.bool_]) -> tuple[float | None, int]:
        answers = some[chosen]
        people = len(set(patients[answers].tolist()))
        allowed = ((1 - LEVEL) * (people + 1) - 1) / max(1, people)
        if allowed < -ROUNDING:
            return None, len(answers)
        each = np.concatenate([found[k] for k in answers])
        weights = np.repeat(of_people(patients[answers]) / counts[answers], counts[answers])
        factor = smallest_with(each, weights, 1 - allowed)
        return factor if math.isfinite(factor) else None, len(answers)

    return in_bins(changes[some], fit)
