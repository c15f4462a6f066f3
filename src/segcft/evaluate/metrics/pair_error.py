"""Error against the truth: how far is the answer from the subject's own other image?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import PairedAnswer
from segcft.evaluate.locality import mean_inside
from segcft.evaluate.metrics.metric import GREY, METRICS, PairMetric, Result, Words
from segcft.evaluate.names import TRUTH
from segcft.grey import GREY_LEVELS


class PairError(PairMetric):
    """Distance from the subject's own other image, near the structures of either image."""

    name = "pair error"
    near = True

    def words(self, study: Study) -> Words:
        text = """\
distance from the subject's own other image, near the structures, where they are in the one image or the
  other; then away from them."""
        return Words("true error, near", GREY, text)

    def of_pair(self, answer: PairedAnswer) -> Iterator[Result]:
        if answer.method != TRUTH:
            region = answer.asked.near if self.near else ~answer.asked.near
            yield Result(mean_inside((answer.image - answer.asked.truth.image) * GREY_LEVELS, region))


class AwayPairError(PairError):
    """Distance from the subject's own other image, away from the structures."""

    name = "pair error, away"
    near = False

    def words(self, study: Study) -> Words:
        return Words("true error, away", GREY)


METRICS.add(PairError.name, PairError())
METRICS.add(AwayPairError.name, AwayPairError())
