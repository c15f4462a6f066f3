r"""How far what the judge reads of an answer may be from what was asked for, with a stated probability.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): of people on whom no step was trained, the errors of
answers whose right value is known are sorted, and the one that a share of 90 % does not exceed is the half-width of the
interval of a new answer. It holds for new people of the same kind, on average over them, whatever the model is. Answers
to large changes err more, so errors are sorted in bins of the size of the change (Mondrian: Vovk et al. 2003).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveFloat
from torch import Tensor

from segcft.config.section import Fraction
from segcft.config.variable import Variable

LEVEL = 0.9
"""The probability."""
BINS = 3
FEWEST = 30
"""Answers in a bin; with fewer, bins are wider."""
ROUNDING = 1e-9
"""Of shares that are summed up."""


class HalfWidths(BaseModel):
    """Half-widths of the intervals of a measure, under changes of one variable.

    Attributes:
        upto: sizes of the change at which bins end, but for the last.
        widths: one a bin: in the unit of the measure, or as a share of what is read.
        relative: whether it is a share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    upto: tuple[FiniteFloat, ...]
    widths: tuple[FiniteFloat, ...]
    relative: bool

    def around(self, read: float, change: float) -> float:
        """The half-width around what is ``read`` of an answer to a ``change`` of this size."""
        width = self.widths[int(np.searchsorted(self.upto, change))]
        return width * abs(read) if self.relative else width


class Intervals(BaseModel):
    """Of one method.

    Attributes:
        level: the probability.
        spread: standard deviation of every variable that may be asked about, 1 of categories; changes are in these.
        widths: variable that is set -> measure -> half-widths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Fraction = LEVEL
    spread: dict[str, PositiveFloat]
    widths: dict[str, dict[str, HalfWidths]]

    def around(self, measure: str, read: float, changes: Mapping[str, float]) -> float | None:
        """The half-width around what is ``read`` of a measure, where the sizes of the ``changes`` of the variables that
        are set are these (:func:`size_of`); None where nobody knows."""
        of_measure = {name: widths[measure] for name, widths in self.widths.items() if measure in widths}
        return widest(of_measure, self.spread, changes, read)


def widest(
    widths: Mapping[str, HalfWidths], spread: Mapping[str, float], changes: Mapping[str, float], read: float = 1.0
) -> float | None:
    """Of the half-widths around what is ``read``, by the variable that is set, the widest of several ``changes`` at
    once; None where nobody knows what one of them spoils."""
    known = [widths[name].around(read, size / spread[name]) for name, size in changes.items() if name in widths]
    return max(known) if known and len(known) == len(changes) else None


def size_of(variable: Variable, before: Tensor, after: Tensor) -> Tensor:
    """How large a change is: of a number in its unit, of a category 1 where it is another one, else 0."""
    return (after != before).to(after.dtype) if variable.categories else (after - before).abs()


def half_widths(
    errors: NDArray[np.floating], changes: NDArray[np.floating], patients: NDArray[np.str_], relative: bool
) -> HalfWidths | None:
    r"""Half-widths that cover a new patient's error with a probability of :data:`LEVEL`, or, of few patients, rather
    more; None of too few.

    Answers about one patient are not independent. All patients count alike, however many answers are about them, and
    the correction for a finite sample, the quantile :math:`\lceil (n + 1) 0.9 \rceil / n`, is that of patients. Where
    nothing was changed there is no error to learn from.

    Args:
        errors: (N,), NaN where an answer does not count, infinite where it fails.
        changes: (N,), sizes of the changes.
        patients: (N,).
        relative: whether errors are shares.
    """
    known = ~np.isnan(errors) & (changes > 0)
    errors, changes = errors[known], changes[known]
    own = patients[known]
    return in_bins(changes, lambda chosen: _quantile(errors[chosen], own[chosen]), relative)


def in_bins(
    changes: NDArray[np.floating],
    fit: Callable[[NDArray[np.bool_]], tuple[float | None, int]],
    relative: bool = False,
) -> HalfWidths | None:
    """Half-widths in as many bins of the size of the change as there are answers for, None of too few.

    Args:
        changes: (N,), sizes of the changes.
        fit: of which answers (N,) -> their half-width, if there is one, and how many answers it is of.
        relative: whether half-widths are shares.
    """
    for bins in range(BINS, 0, -1):
        upto = np.unique(np.quantile(changes, np.arange(1, bins) / bins)) if len(changes) else changes
        upto = upto[upto < changes.max(initial=0)]  # where many changes are of one size, a bin would have none
        places = np.searchsorted(upto, changes)
        found = [fit(places == k) for k in range(len(upto) + 1)]
        if all(width is not None and (bins == 1 or count >= FEWEST) for width, count in found):
            widths = tuple(float(width) for width, _ in found if width is not None)
            return HalfWidths(upto=tuple(upto.tolist()), widths=widths, relative=relative)
    return None


def _quantile(errors: NDArray[np.floating], patients: NDArray[np.str_]) -> tuple[float | None, int]:
    """The error that so many do not exceed, None of too few patients or where so many fail; and of how many answers it
    is."""
    people = len(set(patients.tolist()))
    rank = math.ceil((people + 1) * LEVEL)
    if people == 0 or rank > people:
        return None, len(errors)
    width = smallest_with(errors, of_people(patients), rank / people)
    return width if math.isfinite(width) else None, len(errors)


def of_people(patients: NDArray[np.str_]) -> NDArray[np.float64]:
    """Weights of answers about ``patients`` (N,) that add up to 1, all patients counting alike."""
    _, whose, counts = np.unique(patients, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[whose])


def smallest_with(errors: NDArray[np.floating], weights: NDArray[np.floating], share: float) -> float:
    """The smallest of ``errors`` (N,) that those of so large a ``share`` of the ``weights`` do not exceed."""
    order = np.argsort(errors, kind="stable")
    enough = np.flatnonzero(np.cumsum(weights[order]) >= share - ROUNDING)
    return float(errors[order[enough[0] if len(enough) else -1]])
