"""True error: how far is the answer from the true counterfactual, where a simulator knows it?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.locality import changed_region, mean_inside
from segcft.evaluate.metrics.metric import GREY, METRICS, Metric, Result, Words
from segcft.evaluate.names import TRUTH
from segcft.grey import GREY_LEVELS


class TrueError(Metric):
    """Distance from the simulator's true counterfactual, near the structures that truly changed."""

    name = "true counterfactual error"

    def words(self, study: Study) -> Words:
        text = """\
distance from the simulator's true counterfactual, near the structures that truly changed; then
  over the whole image."""
        return Words("true error", GREY, text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        asked, before = answer.asked, answer.asked.factual.samples.mask
        if answer.method != TRUTH and asked.truth and asked.factual.study.structures:
            region = changed_region(before > 0.5, asked.truth.mask > 0.5, asked.factual.radius)
            yield Result(mean_inside((answer.image - asked.truth.image) * GREY_LEVELS, region))


class WholeTrueError(Metric):
    """Distance from the simulator's true counterfactual over the whole image."""

    name = "true counterfactual error, whole image"
    brief = False

    def words(self, study: Study) -> Words:
        return Words("true error, whole image", GREY)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.method != TRUTH and answer.asked.truth:
            miss = (answer.image - answer.asked.truth.image) * GREY_LEVELS
            yield Result(miss.abs().flatten(1).mean(dim=1))


METRICS.add(TrueError.name, TrueError())
METRICS.add(WholeTrueError.name, WholeTrueError())
