"""Attributes that no mask tells, as a predictor sees them: does the image show what was asked for, and no more?

The predictor that judges guided nothing. It is asked by how much its reading changes, beside how much readings differ
between people whose values differ so (:meth:`segcft.readers.predictor.Predictor.expected`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch, FactualBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.names import NO_CHANGE


class AttributeMetric(Metric):
    """A metric of attributes, of which its table has a column each."""

    of_causes = of_direct = True
    brief = False

    def applies(self, study: Study) -> bool:
        return study.predictor_judge is not None

    def about(self, study: Study) -> tuple[str, ...]:
        return study.attributes


class AttributeReading(AttributeMetric):
    """Distance of what the predictor says from what the attribute should be."""

    name = "attribute error"

    def words(self, study: Study) -> Words:
        label = "error of attributes, as the predictor reads them"
        text = """\
Distance of what an independent predictor says of the counterfactual image from the value that the attribute should
have: of numbers in their unit, of categories the probability that it gives to the wrong ones. Judge: of images as they
are. Readings of numbers are drawn to the mean, so this error never gets to nothing."""
        return Words(label, "", text, "Do images show their attributes? Error of an independent predictor's reading")

    def of_judge(self, batch: FactualBatch) -> Iterator[Result]:
        assert batch.predictor is not None
        for output, error in batch.predictor.misread(batch.said, batch.samples.values):
            yield Result(error, output.name)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        predictor = answer.asked.factual.predictor
        assert predictor is not None
        for output, error in predictor.misread(answer.said, answer.asked.after):
            yield Result(error, output.name)


class AttributeSlope(AttributeMetric):
    """Of the change that the predictor reads on the change that people show, where an attribute is set or follows."""

    name, better = "attribute slope", "near 1"

    def words(self, study: Study) -> Words:
        text = """\
The change of what an independent predictor says, from the image to its counterfactual, on how much it says of
validation people whose values differ so, by a linear fit; "-" where they are too few for one. 1 is right, more is
amplified. The fit's own error is not in ±. Least squares through the origin."""
        if study.measured:
            text += """
*Measures held*: the attribute is set and every measure stays, so that what is left is what it shows by itself."""
        heading = "Do attributes show as far as they do in people? Slope of what a predictor reads; 1 is right"
        return Words("slope of attributes", "", text, heading)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        asked = answer.asked
        factual, study = asked.factual, asked.factual.study
        if answer.method == NO_CHANGE:
            return
        assert factual.predictor is not None
        graph = Graph.of(study.variables)
        moved = {asked.variable} | graph.descendants([asked.variable])
        obtained, before = answer.said - factual.said, factual.samples.values
        wanted = factual.predictor.expected(before, asked.after)
        for output in factual.predictor.outputs:
            if output.name in moved:
                # Of those alone whose attribute is another one: that of others is not asked to show.
                changes = (asked.after != before)[:, [output.column]]
                sought = torch.where(changes, wanted[:, output.columns], 0)
                values, weights = _slopes(obtained[:, output.columns], sought)
                yield Result(values, output.name, weights)


def _slopes(obtained: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`segcft.measures.slope.slopes`, of changes of several numbers, (B, K)."""
    size = wanted.square().sum(dim=1)
    return torch.where(size == 0, torch.nan, (obtained * wanted).sum(dim=1) / size), size


METRICS.add(AttributeReading.name, AttributeReading())
METRICS.add(AttributeSlope.name, AttributeSlope())
