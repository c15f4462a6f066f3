"""The subject of an image: what is known, what is read from the image, and what the SCM infers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from segcft.api.question import Question
from segcft.causal.intervention import CHANGE, Intervention, resolve
from segcft.causal.missing import LogLikelihood, MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.errors import Code, InterventionError
from segcft.evaluate.names import with_article
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
    derived = [name for name in (one.variable for one in interventions) if scm.definitions[name].derived]
    settled = scm.settled(values, do, torch.Generator(values.device).manual_seed(0)) if derived else do
    for name in derived:
        _check_settled(name, scm.definitions[name].solve_for, settled, scm)
    for one in measurements.all:
        least, most = one.bounds(measurements.grid)
        for value in settled[:, scm.variables.index(one.variable)].tolist():
            if value < least:
                hint = f"; this number sets it, and {CHANGE}" if one.variable in numbers else ""
                raise InterventionError(
                    Code.OUT_OF_RANGE,
                    one.variable,
                    f"{with_article(one.measure.word)} cannot be {value:g}, below {least:g}{hint}",
                )
            if value > most:
                unit = one.measure.unit(measurements.grid)
                raise InterventionError(
                    Code.OUT_OF_RANGE, one.variable, f"{value:g} {unit} is larger than the image, {most:g} {unit}"
                )
    return do


def _check_settled(name: str, part: str, settled: Tensor, scm: StructuralCausalModel) -> None:
    """Check that a derived variable can be what is asked for, by the part of it that moves; where that is known."""
    for number in settled[:, scm.variables.index(part)].tolist():
        if math.isinf(number) or (not math.isnan(number) and not scm.definitions[part].allows(number)):
            raise InterventionError(Code.OUT_OF_RANGE, name, f"{part} would have to be {number:g}")


class Subject(NamedTuple):
    """The subject that the image of a question shows."""

    values: Tensor
    """Of every variable, (1, V)."""
    source: dict[str, str]
    """Of every variable: given, read from the header or the image, or inferred."""
    certainty: dict[str, float]
    """Of inferred variables: see :meth:`segcft.causal.missing.MissingValues.likely`."""
    missing: MissingValues


def infer_subject(
    question: Question,
    read: Tensor,
    study: Study,
    measurements: Measurements,
    scm: StructuralCausalModel,
    generator: Generator,
    seen: LogLikelihood | None = None,
) -> Subject:
    """The subject of a question from whose image ``read`` (M,) was read; what is not known is inferred by the SCM.

    ``generator`` draws the samples that this takes, and ``seen`` says what else the image tells of the subject.

    Raises:
        InterventionError: what is known does not fit its variable.
    """
    values = read.new_full((1, len(study.variables)), torch.nan)
    values[0, study.measured_columns] = read
    source = dict.fromkeys(study.variables, "inferred") | dict.fromkeys(study.measured, "read from the image")
    source |= dict.fromkeys(study.derived, "follows from others")
    for fact in question.known:
        source[fact.variable] = "given" if fact.variable in question.given else "read from the header"
    facts = resolve_measured(measurements, question.known, values, scm)
    missing = MissingValues(scm, torch.where(facts.isnan(), values, facts), generator, seen=seen)
    values, certainty = missing.likely()  # with what is derived
    return Subject(values, source, certainty, missing)
