"""The measurements of a study: which variable is what measure of which structure. All read masks through this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.errors import Code, SegcftError, StudyError
from segcft.grid import Grid
from segcft.measures.measure import MEASURES, Measure


class Measurement(NamedTuple):
    """The ``variable`` is the ``measure`` of the ``structure``; ``may_be_absent``: some have no such structure."""

    variable: str
    structure: str
    measure: Measure
    may_be_absent: bool


@dataclass(frozen=True)
class Measurements:
    """Reads measured variables from masks, whose channels are the structures, in the order of ``all``."""

    grid: Grid
    all: tuple[Measurement, ...]

    @classmethod
    def of(cls, study: Study) -> Measurements:
        """Those of a study, in the order of ``study.measured``.

        Raises:
            StudyError: the study names a measure that there is not, or wants percentages of one that has none.
        """
        found = []
        for name, one in study.structures.items():
            try:
                measure = MEASURES.find(one.measure)
            except SegcftError as error:
                raise StudyError(error.code, f"structures.{name}.measure", error.text) from None
            if study.evaluation.metric == "mape" and not measure.ratio:
                why = f"of the {measure.word} of {name!r} there is no percentage, as 0 is not nothing there; use 'mae'"
                raise StudyError(Code.CONFLICT, "evaluation.metric", why)
            found.append(Measurement(one.variable, name, measure, study.variables[one.variable].zero_inflated))
        return cls(Grid.of(study.image), tuple(found))

    def __len__(self) -> int:
        return len(self.all)

    @property
    def word(self) -> str:
        """What a number is called, e.g. "area", with an "s" for several; "measure" where there are several measures."""
        return _one_of([one.measure.word for one in self.all], "measure")

    @property
    def verb(self) -> str:
        """What masks do to their numbers, e.g. "sum to"."""
        return _one_of([one.measure.verb for one in self.all], "have")

    @property
    def units(self) -> list[str]:
        """The unit of each number."""
        return [one.measure.unit(self.grid) for one in self.all]

    @property
    def unit(self) -> str:
        """The unit of all numbers, or "its unit"."""
        return _one_of(self.units, "its unit")

    def estimate(self, masks: Tensor) -> Tensor:
        """The numbers of soft masks (B, S, *size), (B, M): what training follows. Nothing is ever quite absent."""
        return self._each(lambda measure, chosen: measure.estimate(masks[:, chosen], self.grid))

    def read(self, masks: Tensor) -> Tensor:
        """The numbers of soft masks (B, S, *size), (B, M), as they are reported.

        A structure that may be absent is so where no element is likelier inside than not: a sum of probabilities never
        is 0, and no training subject had a structure that cannot be seen.
        """
        found = self.estimate(masks)
        if not any(one.may_be_absent for one in self.all):
            return found
        may_be_absent = torch.tensor([one.may_be_absent for one in self.all], device=masks.device)
        nothing = torch.tensor([one.measure.absent for one in self.all], device=masks.device, dtype=found.dtype)
        absent = may_be_absent & (masks <= 0.5).flatten(2).all(dim=2)  # of which NaN says nothing
        return torch.where(absent, nothing, found)

    def exact(self, coverage: NDArray[np.uint8]) -> dict[str, float]:
        """Variable -> its number in masks that experts drew, coverage (S, *size)."""
        found = {}
        for place, one in enumerate(self.all):
            found[one.variable] = float(one.measure.exact(coverage[place : place + 1], self.grid)[0])
        return found

    def _each(self, numbers: Callable[[Measure, slice], Tensor]) -> Tensor:
        """The numbers of all measurements, asked of each measure once."""
        first = self.all[0].measure
        if all(one.measure is first for one in self.all):
            return numbers(first, slice(None))
        return torch.cat([numbers(one.measure, slice(place, place + 1)) for place, one in enumerate(self.all)], dim=1)


def _one_of(words: list[str], several: str) -> str:
    """The word, if all are the same; else another that holds for ``several``."""
    return words[0] if len(set(words)) == 1 else several
