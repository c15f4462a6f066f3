"""The record of an answer: what was asked, known and inferred, variable by variable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segcft.api.question import Question
from segcft.api.subject import Subject
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.counterfactual.intervals import Intervals


def record_of(
    study: Study, question: Question, subject: Subject, asked: Tensor, after: Tensor, draws: int
) -> dict[str, Any]:
    """What an answer's record says before the counterfactual is read; ``asked`` and ``after`` are (V,)."""
    digest = hashlib.sha256(question.pixels.tobytes()).hexdigest()
    record: dict[str, Any] = {"image": question.name, "pixels_sha256": digest}
    record |= {"do": list(question.asked), "draws": draws, "variables": {}}
    set_by = {variable.solve_for for k, variable in enumerate(study.variables.values()) if not asked[k].isnan()}
    for k, (name, variable) in enumerate(study.variables.items()):
        row: dict[str, Any] = {
            "before": value_of(variable, subject.values[0, k]),
            "after": value_of(variable, after[k]),
            "intervened": not bool(asked[k].isnan()) or name in set_by,
            "source": subject.source[name],
            "unit": variable.unit,
        }
        if name in subject.certainty:
            row["probability" if variable.categories else "sd"] = subject.certainty[name]
        record["variables"][name] = row
    return record


def add_obtained(
    record: dict[str, Any],
    study: Study,
    scm: StructuralCausalModel,
    after: Tensor,
    read: Tensor,
    spread: Tensor | None,
    intervals: Intervals | None,
) -> None:
    """Add to an answer's record what the judge has read from the counterfactual: ``read`` (M,), its ``spread`` over
    draws, (M,), and how far that may be off. Of derived variables it is what follows from what is read; ``after`` are
    the values asked for, (1, V)."""
    seen = after.clone()
    seen[0, study.measured_columns] = read
    seen = scm.derive(seen)
    for k, (name, variable) in enumerate(study.variables.items()):
        if name in study.measured or variable.derived:
            record["variables"][name]["obtained"] = value_of(variable, seen[0, k])
    if spread is not None:
        for name, sd in zip(study.measured, spread.tolist(), strict=True):
            record["variables"][name]["obtained_sd"] = sd
    if intervals is not None:
        changes = changes_of(record, study)
        for name, value in zip(study.measured, read.tolist(), strict=True):
            width = intervals.around(name, value, changes)
            if width is not None:
                record["variables"][name] |= {"interval_low": value - width, "interval_high": value + width}


def changes_of(record: Mapping[str, Any], study: Study) -> dict[str, float]:
    """How much the variables that were set have changed (:func:`~segcft.counterfactual.intervals.size_of`), of a
    derived one itself and not what it moves; none where one of them is not known."""
    rows = {name: row for name, row in record["variables"].items() if row["intervened"]}
    moved = {study.variables[name].solve_for for name in rows}
    found = {}
    for name in rows.keys() - moved:
        before, after, variable = rows[name]["before"], rows[name]["after"], study.variables[name]
        if before is None or after is None:
            return {}
        found[name] = float(before != after) if variable.categories else abs(after - before)
    return found


def value_of(variable: Variable, value: Tensor) -> float | str | None:
    """A value () as it is shown: a number, or the name of a category; None if it is missing."""
    if value.isnan():
        return None
    return variable.categories[int(value)] if variable.categories else float(value)
