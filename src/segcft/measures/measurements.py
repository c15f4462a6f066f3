"""The measurements of a study: which variable is what measure of which structure. All read masks through this."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.structure import Zone
from segcft.config.study import Study
from segcft.errors import Code, SegcftError, StudyError
from segcft.grey import to_unit
from segcft.grid import Grid
from segcft.measures.measure import FULL, MEASURES, ImageMeasure, Measure
from segcft.measures.zone import inside


class Measurement(NamedTuple):
    """The ``variable`` is the ``measure`` of the ``structure``, which the ``channels`` of masks show together;
    ``may_be_absent``: some have no such structure. No element is in two of them where they are ``disjoint``. Of a
    ``zone`` only what lies in it counts. Of what is read from images that of the ``reference``, another channel, is
    taken off."""

    variable: str
    structure: str
    measure: Measure
    may_be_absent: bool
    channels: tuple[int, ...]
    disjoint: bool = False
    zone: Zone | None = None
    reference: int | None = None

    @property
    def moves(self) -> bool:
        """Whether its number changes where the image is shifted or turned."""
        return self.measure.placed or self.zone is not None

    def bounds(self, grid: Grid) -> tuple[float, float]:
        """The smallest and the largest number that it can be."""
        least, most = self.measure.bounds(grid)
        return (least, most) if self.reference is None else (least - most, most - least)


@dataclass(frozen=True)
class Measurements:
    """Reads measured variables from masks.

    Args:
        grid: on which masks lie.
        all: of each variable, in the order in which numbers are.
        masks: the structures that have masks of their own, in the order of the masks' channels.
    """

    grid: Grid
    all: tuple[Measurement, ...]
    masks: tuple[str, ...]

    @classmethod
    def of(cls, study: Study) -> Measurements:
        """Those of a study, in the order of ``study.measured``.

        Raises:
            StudyError: the study names a measure that there is not, or has keys that do not go with one.
        """
        found = []
        for name, one in study.structures.items():
            try:
                measure = MEASURES.find(one.measure)
            except SegcftError as error:
                raise StudyError(error.code, f"structures.{name}.measure", error.text) from None
            if one.quantile is not None:
                try:
                    measure = measure.with_quantile(one.quantile)
                except ValueError as error:
                    raise StudyError(Code.CONFLICT, f"structures.{name}.quantile", str(error)) from None
            _check(study, name, measure)
            absent = study.variables[one.variable].zero_inflated
            disjoint = all(study.masked[other].label for other in one.of)
            reference = list(study.masked).index(one.reference) if one.reference else None
            channels = study.channels(name)
            found.append(Measurement(one.variable, name, measure, absent, channels, disjoint, one.zone, reference))
        return cls(Grid.of(study.image), tuple(found), tuple(study.masked))

    def __len__(self) -> int:
        return len(self.all)

    @property
    def word(self) -> str:
        """What a number is called, e.g. "area", with an "s" for several; "measure" where there are several measures."""
        return _one_of(self.words, "measure")

    @property
    def words(self) -> list[str]:
        """What each number is called."""
        return [one.measure.called(self.grid) for one in self.all]

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

    @property
    def of_image(self) -> bool:
        """Whether a number is read from the image too, and not from masks alone."""
        return any(isinstance(one.measure, ImageMeasure) for one in self.all)

    def estimate(self, masks: Tensor, image: Tensor | None = None) -> Tensor:
        """The numbers of soft masks (B, S, *size), (B, M): what training follows. Nothing is ever quite absent.

        ``image`` (B, C, *size) in [-1, 1] is what they are of; it is needed where :attr:`of_image` says so.

        Raises:
            ValueError: the masks are not of the study's grid, whose places the numbers are of.
        """
        if masks.shape[2:] != self.grid.size:
            raise ValueError(f"masks of {tuple(masks.shape[2:])}, where the grid has {tuple(self.grid.size)}")
        shown = self.shown(masks)
        if not self.all:
            return masks.new_zeros(len(masks), 0)
        first = self.all[0].measure
        if all(one.measure is first for one in self.all) and not self.of_image:
            return first.estimate(shown, self.grid)
        numbers: list[Tensor] = [shown] * len(self)
        for measure in {id(one.measure): one.measure for one in self.all}.values():  # each is asked once
            places = [place for place, one in enumerate(self.all) if one.measure is measure]
            found = self._read(measure, shown[:, places], image)
            for place, number in zip(places, found.unbind(1), strict=True):
                numbers[place] = number
        for place, one in enumerate(self.all):
            if one.reference is not None:
                beside = self._read(one.measure, masks[:, [one.reference]], image)
                numbers[place] = numbers[place] - beside[:, 0]
        return torch.stack(numbers, dim=1)

    def _read(self, measure: Measure, shown: Tensor, image: Tensor | None) -> Tensor:
        if isinstance(measure, ImageMeasure) and image is not None:
            return measure.inside(shown, image, self.grid)
        return measure.estimate(shown, self.grid)

    def shown(self, masks: Tensor) -> Tensor:
        r"""What each number is read from, (B, M, *size), of masks (B, S, *size): a mask, or the union of several, which
        is :math:`1 - \prod (1 - m)`, or their sum where no element is in two of them; of it what lies in a zone."""
        if [(one.channels, one.zone) for one in self.all] == [((k,), None) for k in range(len(self.masks))]:
            return masks
        return torch.stack([self._shown(masks, one) for one in self.all], dim=1)

    def _shown(self, masks: Tensor, one: Measurement) -> Tensor:
        whole = _union(masks[:, list(one.channels)], one.disjoint)
        return whole if one.zone is None else inside(whole, self.grid, one.zone)

    def read(self, masks: Tensor, image: Tensor | None = None) -> Tensor:
        """The numbers of soft masks (B, S, *size), (B, M), as they are reported; ``image`` as of :meth:`estimate`.

        A structure that may be absent is so where no element is likelier inside than not: a sum of probabilities never
        is 0, and no training subject had a structure that cannot be seen.
        """
        found = self.estimate(masks, image)
        if not any(one.may_be_absent for one in self.all):
            return found
        may_be_absent = torch.tensor([one.may_be_absent for one in self.all], device=masks.device)
        nothing = torch.tensor([one.measure.absent for one in self.all], device=masks.device, dtype=found.dtype)
        absent = may_be_absent & (self.shown(masks) <= 0.5).flatten(2).all(dim=2)  # of which NaN says nothing
        return torch.where(absent, nothing, found)

    def exact(self, coverage: NDArray[np.uint8], pixels: NDArray[np.uint8] | None = None) -> dict[str, float]:
        """Variable -> its number in masks that experts drew, coverage (S, *size). Where :attr:`of_image` says so it
        needs the image's ``pixels`` (C, *size)."""
        image = to_unit(torch.from_numpy(pixels.copy())[None]) if self.of_image and pixels is not None else None
        found = {}
        for one in self.all:
            chosen = coverage[list(one.channels)]
            if len(chosen) == 1 and one.zone is None and not isinstance(one.measure, ImageMeasure):
                found[one.variable] = float(one.measure.exact(chosen, self.grid)[0])
            else:
                soft = torch.from_numpy(coverage).to(torch.float64)[None] / FULL
                alone = Measurements(self.grid, (one,), self.masks)
                found[one.variable] = float(alone.estimate(soft, image))
        return found


def _check(study: Study, name: str, measure: Measure) -> None:
    """Check that a study's keys go with the measure of the structure ``name``."""
    of, view = f"the {measure.word} of {name!r}", study.finetune.view
    variable = study.structures[name].variable
    if study.evaluation.metric == "mape" and not measure.ratio:
        why = f"of {of} there is no percentage, as 0 is not nothing there; use 'mae'"
        raise StudyError(Code.CONFLICT, "evaluation.metric", why)
    if (measure.placed or study.structures[name].zone) and (view.rotate or view.shift):
        why = f"views that turn or shift change {of}; leave out 'rotate' and 'shift'"
        raise StudyError(Code.CONFLICT, "finetune.view", why)
    if isinstance(measure, ImageMeasure) and (view.contrast or view.brightness or view.gamma):
        why = f"views of other greys change {of}; leave out 'contrast', 'brightness' and 'gamma'"
        raise StudyError(Code.CONFLICT, "finetune.view", why)
    if study.structures[name].reference and not isinstance(measure, ImageMeasure):
        why = f"{of} is read from a mask, so there is nothing to take off"
        raise StudyError(Code.CONFLICT, f"structures.{name}.reference", why)
    if math.isnan(measure.absent) and study.variables[variable].zero_inflated:
        why = f"{of} is never 0: where the structure is absent, it has none"
        raise StudyError(Code.CONFLICT, f"variables.{variable}.zero_inflated", why)


def _union(masks: Tensor, disjoint: bool) -> Tensor:
    """Of masks (B, S, *size), (B, *size)."""
    if masks.shape[1] == 1:
        return masks[:, 0]
    return masks.sum(dim=1).clamp(max=1) if disjoint else 1 - (1 - masks).prod(dim=1)


def _one_of(words: list[str], several: str) -> str:
    """The word, if all are the same; else, or without any, another that holds for ``several``."""
    return words[0] if len(set(words)) == 1 else several
