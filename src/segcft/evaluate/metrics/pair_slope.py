"""Slope against the truth: do measures move as far as they truly do, from the one image to the other?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import PairedAnswer
from segcft.evaluate.metrics.metric import METRICS, PairMetric, Result, Words
from segcft.evaluate.names import NO_CHANGE
from segcft.measures.measurements import Measurements
from segcft.measures.slope import slopes


class PairSlope(PairMetric):
    """Of the change that the judge reads on the true change, both from the image as it is."""

    name = "pair slope"
    better = "near 1"

    def words(self, study: Study) -> Words:
        text = """\
The change that the judge reads, from the image to the answer, on the true one, from the image to the subject's own
other image. Least squares through the origin. Truth is the judge on real images: what it makes of true changes, and so
of those that a method obtains."""
        heading = f"Do {Measurements.of(study).word}s move as far as they truly do? Slope; 1 is right"
        return Words("slope on the true change", "", text, heading)

    def of_pair(self, answer: PairedAnswer) -> Iterator[Result]:
        if answer.method == NO_CHANGE:
            return
        asked, factual = answer.asked, answer.asked.factual
        obtained = answer.read - factual.read
        true = factual.judge.measurements.read(asked.truth.mask, asked.truth.image) - factual.known
        for s, structure in enumerate(factual.study.structures):
            values, weights = slopes(obtained[:, s], true[:, s])
            yield Result(values, structure, weights)


METRICS.add(PairSlope.name, PairSlope())
