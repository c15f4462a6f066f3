"""Effectiveness: does the image show the measures that were asked for?

For do(s := v), with v from the test marginal, an independent judge reads the measures of the counterfactual image, of
the structure intervened on and of the others, and they are compared with the counterfactual's own.
References: Monteiro et al. 2023 (the axiom); Xia et al. (measures read by a segmentor).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch, FactualBatch, GuideBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.measures.measurements import Measurements


class AbsoluteError(Metric):
    """Mean absolute error of the measures, in their unit."""

    name = "mae"
    digits = 1

    def applies(self, study: Study) -> bool:
        return study.evaluation.metric == self.name

    def unit(self, study: Study) -> str:
        return Measurements.of(study).unit

    def error(self, read: Tensor, asked: Tensor) -> Tensor:
        """Of numbers read (B, M) against those asked for (B, M), in :meth:`unit`."""
        return (read - asked).abs()

    def words(self, study: Study) -> Words:
        word, unit = Measurements.of(study).word, self.unit(study)
        label = f"mean absolute error ({self.name.upper()}) of the {word} in {unit}"
        text = f"""\
Each person's variable is set to another person's value; an independent judge reads the {word}s of the
counterfactual image and they are compared with those asked for. **Bold**: the structure intervened on.
The other structures should keep their {word}s, or follow their causes."""
        heading = f"Effectiveness: {label}, lower is better"
        return Words(label, unit, text, heading, "judge's error on the image")

    def of_judge(self, batch: FactualBatch) -> Iterator[Result]:
        return self._results(batch, batch.read, batch.known)

    def of_guide(self, batch: GuideBatch) -> Iterator[Result]:
        return self._results(batch.factual, batch.read, batch.factual.known)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        return self._results(answer.asked.factual, answer.read, answer.asked.wanted)

    def _results(self, batch: FactualBatch, read: Tensor, asked: Tensor) -> Iterator[Result]:
        errors = self.error(read, asked)
        return (Result(errors[:, s], structure) for s, structure in enumerate(batch.study.structures))


class PercentageError(AbsoluteError):
    """Mean absolute error of the measures, in % of those asked for."""

    name = "mape"

    def unit(self, study: Study) -> str:
        return "%"

    def error(self, read: Tensor, asked: Tensor) -> Tensor:
        """As above; a percentage of what is not positive is NaN."""
        return torch.where(asked > 0, 100 * (read - asked).abs() / asked, torch.nan)


def error_of(study: Study) -> AbsoluteError:
    """The metric of effectiveness that ``study`` names.

    Raises:
        SegcftError: there is none of this name.
    """
    metric = METRICS.find(study.evaluation.metric)
    assert isinstance(metric, AbsoluteError)
    return metric


METRICS.add(PercentageError.name, PercentageError())
METRICS.add(AbsoluteError.name, AbsoluteError())
