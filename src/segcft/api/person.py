"""What an image and the SCM tell of a person whose attributes are not all known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from segcft.api.question import Question
from segcft.causal.intervention import CHANGE, Intervention, resolve
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.errors import InterventionError
from segcft.measures.measurements import Measurements


def resolve_measured(
    measurements: Measurements, interventions: Iterable[Intervention], values: Tensor, scm: StructuralCausalModel
) -> Tensor:
    """:func:`segcft.causal.intervention.resolve`, of which each measured variable is within its measure's bounds.

    Raises:
        InterventionError: see there; or one is not, as a negative area or one larger than the image.
    """
    interventions = tuple(interventions)
    numbers = {one.variable for one in interventions if one.kind == "set"}
    do = resolve(interventions, values, scm)
    for one in measurements.all:
        least, most = one.measure.bounds(measurements.grid)
        for value in do[:, scm.variables.index(one.variable)].tolist():
            if value < least:
                hint = f"; this number sets it, and {CHANGE}" if one.variable in numbers else ""
                raise InterventionError(
                    f"{one.variable}: an {one.measure.word} cannot be {value:g}, below {least:g}{hint}"
                )
            if value > most:
                unit = one.measure.unit(measurements.grid)
                raise InterventionError(f"{one.variable}: {value:g} {unit} is larger than the image, {most:g} {unit}")
    return do


CANDIDATES = 4000
"""People of whom the likely ones are taken."""


class MissingValues:
    """The missing values (NaN) of one person (1, V), given the others: likelihood weighting (Fung and Chang 1990).

    People are drawn from the SCM with the known variables set to what they are, and weighed by how likely these are
    given their parents. So causes tell of their effects by the draw, and effects of their causes by the weight.

    Args:
        scm: of all variables.
        values: (1, V).
        generator: draws the people.

    Raises:
        InterventionError: the other values have no likelihood.
    """

    def __init__(self, scm: StructuralCausalModel, values: Tensor, generator: Generator) -> None:
        self.scm, self.values = scm, values
        self.missing = values[0].isnan()
        if not self.missing.any():
            return
        with torch.no_grad():
            self.candidates = scm.sample(CANDIDATES, generator, values.expand(CANDIDATES, -1))
            self.weights = torch.softmax(scm.log_prob(self.candidates)[:, ~self.missing].sum(dim=1), dim=0)
        if not self.weights.isfinite().all():
            known = ", ".join(
                f"{name}={float(values[0, k]):g}"
                for k, name in enumerate(scm.variables)
                if not self.missing[k] and not scm.definitions[name].categories
            )
            raise InterventionError(f"nobody like this is likely ({known}), so that what is missing cannot be inferred")

    def likely(self) -> tuple[Tensor, dict[str, float]]:
        """The person completed (1, V), and how sure that is.

        A continuous variable becomes the weighted mean, of which the standard deviation is told; a categorical one the
        likeliest category, of which the probability is.
        """
        filled, sure = self.values.clone(), {}
        for k in self.missing.nonzero()[:, 0].tolist():
            name = self.scm.variables[k]
            lent = self.candidates[:, k]
            if self.scm.definitions[name].kind == "continuous":
                filled[0, k] = (self.weights * lent).sum()
                sure[name] = float((self.weights * (lent - filled[0, k]).square()).sum().sqrt())
            else:
                shares = torch.bincount(lent.long(), self.weights)
                filled[0, k] = shares.argmax()
                sure[name] = float(shares.max())
        return filled, sure

    def draw(self, n: int, generator: Generator) -> Tensor:
        """The person completed ``n`` times by draws from what is likely, (n, V)."""
        if not self.missing.any():
            return self.values.expand(n, -1).clone()
        return self.candidates[torch.multinomial(self.weights, n, replacement=True, generator=generator)]


class Person(NamedTuple):
    """Who a question is about."""

    values: Tensor
    """Of every variable, (1, V)."""
    source: dict[str, str]
    """Of every variable: given, read from the header or the image, or inferred."""
    sure: dict[str, float]
    """Of inferred variables: see :meth:`MissingValues.likely`."""
    missing: MissingValues


def who_is_asked(
    question: Question,
    read: Tensor,
    study: Study,
    measurements: Measurements,
    scm: StructuralCausalModel,
    generator: Generator,
) -> Person:
    """The person of a question from whose image ``read`` (M,) was read; ``generator`` draws people who are like that.

    Raises:
        InterventionError: what is known does not fit its variable.
    """
    values = read.new_full((1, len(study.variables)), torch.nan)
    values[0, study.measured_columns] = read
    source = dict.fromkeys(study.variables, "inferred") | dict.fromkeys(study.measured, "read from the image")
    for fact in question.known:
        source[fact.variable] = "given" if fact.variable in question.given else "read from the header"
    facts = resolve_measured(measurements, question.known, values, scm)
    missing = MissingValues(scm, torch.where(facts.isnan(), values, facts), generator)
    values, sure = missing.likely()
    return Person(values, source, sure, missing)
