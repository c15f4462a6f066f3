"""Overlap with the truth: are the structures where they are in the subject's own other image?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import PairedAnswer
from segcft.evaluate.metrics.metric import METRICS, PairMetric, Result, Words
from segcft.readers.segmentor import dice


class PairDice(PairMetric):
    """Overlap of the judge's masks of the answer with the true masks of the other image, thresholded at one half."""

    name = "pair dice"
    better = "higher"
    digits = 3

    def words(self, study: Study) -> Words:
        text = """\
The judge's masks of the answer on the true masks of the subject's own other image. Truth is the judge on that image:
its own error."""
        return Words(
            "Dice with the true masks", "", text, "Are the structures where they truly are? Dice; higher is better"
        )

    def of_pair(self, answer: PairedAnswer) -> Iterator[Result]:
        overlap = dice((answer.masks > 0.5).float(), (answer.asked.truth.mask > 0.5).float())
        structures = answer.asked.factual.study.own
        return (Result(overlap[:, s], structure) for s, structure in enumerate(structures))


METRICS.add(PairDice.name, PairDice())
