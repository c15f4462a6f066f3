"""Overlap: does the judge see the structures where they are?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from segcft.config.study import Study
from segcft.evaluate.answered import FactualBatch, GuideBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.readers.segmentor import dice


class Dice(Metric):
    """Overlap of a reader's masks with the true ones, both thresholded at one half, of those who have it."""

    name = "dice"
    better = "higher"
    digits = 3

    def words(self, study: Study) -> Words:
        return Words("Dice of the mask")

    def of_judge(self, batch: FactualBatch) -> Iterator[Result]:
        return self._results(batch, batch.masks)

    def of_guide(self, batch: GuideBatch) -> Iterator[Result]:
        return iter(()) if batch.masks is None else self._results(batch.factual, batch.masks)

    def _results(self, batch: FactualBatch, masks: Tensor) -> Iterator[Result]:
        overlap = dice((masks > 0.5).float(), (batch.samples.mask > 0.5).float())
        # The first channels are of structures, of which tables have a column each; what has a mask alone has none.
        return (Result(overlap[:, s], structure) for s, structure in enumerate(batch.study.own))


METRICS.add(Dice.name, Dice())
