"""Coverage: is what was asked for in the interval that an answer gives as often as the interval says?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.intervals import LEVEL, Intervals, size_of
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Better, Metric, Result, Words
from segcft.measures.measurements import Measurements


class Coverage(Metric):
    """Share of the answers whose interval holds what was asked for."""

    name = "coverage"
    better: Better = "as true"
    digits, factor = 1, 100.0
    of_causes = True
    brief = False

    def difference(self, mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
        """Neither of two methods is better for covering more."""

    def words(self, study: Study) -> Words:
        label, share = f"coverage of intervals of {LEVEL:.0%}", f"{100 * LEVEL:g}"
        text = f"""\
Answers have intervals around what the judge reads. In {share} % of the answers to a change the interval should hold
what was asked for. Intervals were calibrated on the validation people."""
        return Words(label, "%", text, f"Do error bars hold? {label}, %; {share} is right")

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.intervals is None:
            return
        off = (answer.read - answer.asked.wanted).abs()
        for s, structure in enumerate(answer.asked.factual.study.structures):
            width = _half_widths(answer, answer.intervals, s)
            yield Result(torch.where(width.isnan(), torch.nan, (off[:, s] <= width).to(width)), structure)


class HalfWidth(Metric):
    """How wide the intervals are."""

    name = "interval half-width"
    digits = 1
    of_causes = True
    brief = False

    def words(self, study: Study) -> Words:
        unit = Measurements.of(study).unit
        label = f"half-width of intervals of {LEVEL:.0%}"
        return Words(label, unit, "", f"How wide are they? {label[0].upper()}{label[1:]}, in {unit}; lower is better")

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.intervals is None:
            return
        for s, structure in enumerate(answer.asked.factual.study.structures):
            yield Result(_half_widths(answer, answer.intervals, s), structure)


def _half_widths(answer: AnsweredBatch, intervals: Intervals, s: int) -> Tensor:
    """Of measure ``s`` of every answer, (B,), NaN where nobody knows."""
    asked, study = answer.asked, answer.asked.factual.study
    column = list(study.variables).index(asked.variable)
    before, after = asked.factual.samples.values[:, column], asked.after[:, column]
    changes = size_of(study.variables[asked.variable], before, after).tolist()
    widths = [
        intervals.around(study.measured[s], read, {asked.variable: change}) if change > 0 else None
        for read, change in zip(answer.read[:, s].tolist(), changes, strict=True)
    ]
    return torch.tensor([float("nan") if width is None else width for width in widths], device=answer.read.device)


METRICS.add(Coverage.name, Coverage())
METRICS.add(HalfWidth.name, HalfWidth())
