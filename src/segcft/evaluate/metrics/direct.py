"""Direct effects: what an attribute does to the image while every measure is held, beside what it truly does.

Of a change e and the true one t of a simulator, over the whole image: ``e.t / |t|**2`` is how much of it is obtained,
and ``|e - (e.t / |t|**2) t| / |t|`` how much else is changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.metrics.pair_change import along
from segcft.evaluate.names import TRUTH


class _Direct(Metric):
    of_direct = True
    brief = False

    def applies(self, study: Study) -> bool:
        return isinstance(study.data, SimulatedData) and bool(study.attributes)

    @staticmethod
    def _along(answer: AnsweredBatch) -> tuple[Tensor, Tensor, Tensor] | None:
        """The share that is obtained, all else, and what both count: by how much truly changes, or those for whom next
        to nothing does would have the largest shares. (B,) each; None where this is no question of a direct effect."""
        asked = answer.asked
        direct = asked.held or not asked.factual.study.measured  # which hold themselves where there are none
        if not direct or asked.truth is None or answer.method == TRUTH:
            return None
        before = asked.factual.samples.image
        true = asked.truth.image - before
        return *along(answer.image - before, true), true.cpu().double().square().flatten(1).mean(dim=1)


class DirectEffect(_Direct):
    """Share of the true direct effect that the answer has."""

    name, better = "direct effect", "near 1"

    def words(self, study: Study) -> Words:
        text = """\
share of what an attribute truly does to the image, while every measure is held, that is obtained: e.t / |t|² of the
  answer's change e and the true one t."""
        return Words("direct effect", "", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if found := self._along(answer):
            yield Result(found[0], weights=found[2])


class DirectAmplification(_Direct):
    """Size of what the answer changes otherwise, over that of the true direct effect."""

    name = "direct amplification"

    def words(self, study: Study) -> Words:
        text = """\
size of what else is changed then, |e - (e.t / |t|²) t| / |t|: change that is not along the true one."""
        return Words("amplification of direct effects", "", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if found := self._along(answer):
            yield Result(found[1], weights=found[2])


METRICS.add(DirectEffect.name, DirectEffect())
METRICS.add(DirectAmplification.name, DirectAmplification())
