"""Derived variables: does what follows from measures become what was asked for?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.names import NO_CHANGE
from segcft.measures.slope import slopes


class _OfDerived(Metric):
    """About interventions on derived variables, which an evaluation must name (``evaluation.interventions``)."""

    def applies(self, study: Study) -> bool:
        return any(study.variables[name].derived for name in study.evaluation.interventions)

    @staticmethod
    def _numbers(answer: AnsweredBatch) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Of the variable that was asked for: as known, as asked for, and as follows from what the judge reads, before
        and after, (B,) each; None where another one was."""
        asked, study = answer.asked, answer.asked.factual.study
        formula = study.variables[asked.variable].derived
        if formula is None:
            return None
        column, names = list(study.variables).index(asked.variable), list(study.variables)

        def follows(read: Tensor, values: Tensor) -> Tensor:
            seen = {name: values[:, k] for k, name in enumerate(names)}
            seen |= {name: read[:, s] for s, name in enumerate(study.measured)}
            found: Tensor = formula.value(seen)
            return found

        before = asked.factual.samples.values
        return (
            before[:, column],
            asked.after[:, column],
            follows(asked.factual.read, before),
            follows(answer.read, asked.after),
        )


class DerivedError(_OfDerived):
    """Distance of what is obtained from what was asked for."""

    name, digits = "derived error", 3

    def words(self, study: Study) -> Words:
        text = "distance of a derived variable, as it follows from what the judge reads, from what was asked for."
        return Words("error of what is derived", "its unit", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if found := self._numbers(answer):
            _, wanted, _, obtained = found
            yield Result((obtained - wanted).abs())


class DerivedSlope(_OfDerived):
    """Of the change obtained on the change asked for."""

    name, better = "derived slope", "near 1"

    def words(self, study: Study) -> Words:
        text = "change of a derived variable, as the judge reads it, on the change asked for. Least squares."
        return Words("slope of what is derived", "", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.method != NO_CHANGE and (found := self._numbers(answer)):
            known, wanted, before, obtained = found
            values, weights = slopes(obtained - before, wanted - known)
            yield Result(values, weights=weights)


METRICS.add(DerivedError.name, DerivedError())
METRICS.add(DerivedSlope.name, DerivedSlope())
