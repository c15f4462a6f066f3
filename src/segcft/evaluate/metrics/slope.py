"""Slope: how much of a change that is asked for is obtained?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.names import NO_CHANGE
from segcft.measures.measurements import Measurements
from segcft.measures.slope import slopes


class Slope(Metric):
    """Of the change that the judge reads on the change asked for, where a measure is set or follows a cause."""

    name = "slope"
    better = "near 1"
    of_causes = of_known = True

    def words(self, study: Study) -> Words:
        label = "slope of obtained on asked change"
        text = """\
The change that the judge reads, from the image to its counterfactual, on the change asked for: of the structure
intervened on, or of all that follow a cause as the attributes' mechanisms say. Least squares through the origin."""
        words = Measurements.of(study).word + "s"
        heading = f"Do {words} move as far as they should? {label.capitalize()}; 1 is right"
        return Words(label, "", text, heading)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        asked, study = answer.asked, answer.asked.factual.study
        if answer.method == NO_CHANGE:
            return
        obtained, wanted = answer.read - asked.factual.read, asked.wanted - asked.factual.known
        for s, (structure, variable) in enumerate(zip(study.structures, study.measured, strict=True)):
            if asked.variable == variable or asked.variable not in study.measured:
                values, weights = slopes(obtained[:, s], wanted[:, s])
                yield Result(values, structure, weights)


METRICS.add(Slope.name, Slope())
