"""Control: what the guides themselves read of the answers, so that it is seen whom each of them favours.

A method has learnt to please its own guide, and not the other one's. So where Reg-CFT wins by the regressor and Seg-CFT
by the segmentor, neither says which is better, and the judge, who is kin to one of them in kind, favours that one too.
"""

from __future__ import annotations

from collections.abc import Iterator

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch, GuideBatch
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.measures.measurements import Measurements


class ReadByGuide(Metric):
    """Error of the structure intervened on, as one of the guides reads it."""

    digits = 1
    brief = False

    def __init__(self, guide: str) -> None:
        self.guide, self.name = guide, f"error read by the {guide}"

    def applies(self, study: Study) -> bool:
        return bool(study.structures) and self.guide in study.finetune.guides

    def words(self, study: Study) -> Words:
        error, word = error_of(study), Measurements.of(study).word
        label = f"error of the {word} as the {self.guide} reads it"
        text = f"""\
A control: the {self.guide} reads the answers in the judge's place. It has guided one of the methods, which has learnt
to please it, so this does not say how good that is; it says whom a reader of this kind favours."""
        return Words(label, error.unit(study), text, f"Read by the {self.guide}: {label}, in {error.unit(study)}")

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        factual, study = answer.asked.factual, answer.asked.factual.study
        guide = factual.guides.get(self.guide)
        if guide is None or answer.asked.variable not in study.measured:
            return
        errors = error_of(study).error(GuideBatch(factual, guide, answer.image).read, answer.asked.wanted)
        for s, (structure, variable) in enumerate(zip(study.structures, study.measured, strict=True)):
            if variable == answer.asked.variable:
                yield Result(errors[:, s], structure)


for _guide in ("regressor", "segmentor"):
    METRICS.add(f"error read by the {_guide}", ReadByGuide(_guide))
