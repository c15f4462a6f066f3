"""Do the bands around pixels hold, and how wide are they? Where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.band import around, truly_changed
from segcft.counterfactual.intervals import LEVEL, size_of
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import GREY, METRICS, Better, Metric, Result, Words
from segcft.grey import GREY_LEVELS
from segcft.grid import Grid


class BandCoverage(Metric):
    """Share of the truly changed pixels that lie within the band around the answer."""

    name = "coverage of the band"
    better: Better = "as true"
    digits, factor = 1, 100.0
    brief = False

    def difference(self, mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
        """Neither of two methods is better for covering more."""

    def words(self, study: Study) -> Words:
        text = f"share of the truly changed pixels (by four grey levels or more) in which the true counterfactual lies \
within\n  the band around the answer, which was calibrated on validation people. {100 * LEVEL:g} is right."
        return Words("coverage of the band", "%", text)

    def line(self, study: Study) -> str:
        return f"- {self.words(study).label}: {self.words(study).explanation}"

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        for width, changed in _bands(answer):
            assert answer.asked.truth is not None
            within = (answer.image - answer.asked.truth.image).abs() <= width
            yield Result(_share(within, changed))


class BandWidth(Metric):
    """How wide the band is, where pixels truly change."""

    name = "half-width of the band"
    digits, factor = 1, GREY_LEVELS
    brief = False

    def words(self, study: Study) -> Words:
        return Words("half-width of the band", GREY, "its mean over the same pixels.")

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        for width, changed in _bands(answer):
            yield Result(_share(width, changed))


def _bands(answer: AnsweredBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Half-widths (B, C, *size), and where pixels have truly changed; nothing without a band or the truth."""
    asked, samples = answer.asked, answer.asked.factual.samples
    if answer.band is None or asked.truth is None or asked.variable not in answer.band.factors:
        return
    column = asked.factual.cohort.column(asked.variable)
    variable = asked.factual.study.variables[asked.variable]
    sizes = size_of(variable, samples.values[:, column], asked.after[:, column]).tolist()
    factors = torch.tensor([answer.band.factor({asked.variable: size}) for size in sizes]).to(samples.image)
    each = Grid.like(samples.image).over_space(factors[:, None])
    yield around(samples.image, answer.image, answer.band.radius, each), truly_changed(samples.image, asked.truth.image)


def _share(values: Tensor, where: Tensor) -> Tensor:
    """The mean of values (B, C, *size) over some pixels, (B,), NaN of none."""
    return torch.where(where, values.float(), 0).flatten(1).sum(dim=1) / where.flatten(1).sum(dim=1)


METRICS.add(BandCoverage.name, BandCoverage())
METRICS.add(BandWidth.name, BandWidth())
