"""Folding: does an answer tear or turn over the frame that it moves?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words


class LeastStretch(Metric):
    """The smallest determinant of the Jacobian of the displacement between the image and its answer."""

    name = "smallest stretch"
    better, worst = "higher", True
    brief, digits = False, 3

    def words(self, study: Study) -> Words:
        text = """\
the smallest Jacobian determinant of the displacement by which an answer moves outlines, of all people and
  pixels: 1 where nothing is stretched, and not above 0 where the frame folds."""
        return Words("smallest stretch", "", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.abduction is not None:
            least = answer.abduction.least_stretch(answer.asked.after)
            if least is not None:
                yield Result(least)


METRICS.add(LeastStretch.name, LeastStretch())
