"""Locality: the share of the change that is near the structure intervened on."""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.locality import share_near
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.names import NO_CHANGE


class Locality(Metric):
    """Share of the change within the structure intervened on, where it was or is now, and its surroundings."""

    name = "locality"
    better = "higher"
    digits = 1
    factor = 100.0

    def words(self, study: Study) -> Words:
        text = f"""\
share of all change that is near the structure intervened on, where it was or is now
  (within {100 * study.evaluation.dilation:g} % of the image's longer side)."""
        return Words("locality", "%", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        asked, samples = answer.asked, answer.asked.factual.samples
        measured = asked.factual.study.measured
        if answer.method == NO_CHANGE or asked.variable not in measured:
            return
        target = measured.index(asked.variable)
        now = asked.truth.mask if asked.truth else answer.masks
        shown = asked.factual.judge.measurements.shown
        before, after = shown(samples.mask)[:, target] > 0.5, shown(now)[:, target] > 0.5
        yield Result(share_near(answer.image - samples.image, before, after, asked.factual.radius))


METRICS.add(Locality.name, Locality())
