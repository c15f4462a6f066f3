"""Overlap with the truth: is the structure where it would truly be, where a simulator knows that?"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.readers.segmentor import dice


class TrueDice(Metric):
    """Overlap of the judge's mask of an answer with the true counterfactual mask, of the structure intervened on."""

    name = "true dice"
    better = "higher"
    digits = 3

    def words(self, study: Study) -> Words:
        text = """\
Of the structure intervened on, where the simulator draws it. Truth is the judge on the true counterfactual: the most
that an answer can have."""
        return Words("Dice with the true counterfactual mask", "", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        asked, study = answer.asked, answer.asked.factual.study
        if not asked.truth or asked.variable not in study.measured:
            return
        target = study.measured.index(asked.variable)
        shown = asked.factual.judge.measurements.shown
        now, true = ((shown(masks)[:, [target]] > 0.5).float() for masks in (answer.masks, asked.truth.mask))
        overlap = dice(now, true)[:, 0]
        drawn = asked.truth.mask.isfinite().flatten(1).all(dim=1)
        yield Result(overlap.where(drawn, overlap.new_tensor(float("nan"))), list(study.structures)[target])


METRICS.add(TrueDice.name, TrueDice())
