"""A plan: the grid and the steps that the hours allow, and with them every section of the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from segcft.config.image import Image
from segcft.config.loader import parse_study
from segcft.config.outline import Outline
from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.errors import Code, StudyError
from segcft.planning import budget, recipe
from segcft.planning.basis import Basis
from segcft.planning.fingerprint import Fingerprint, expected, volume_size
from segcft.planning.grid import bounds, grids
from segcft.planning.planned import Keys, Machine, Planned
from segcft.planning.sections import SECTIONS, hvae, mechanism, variable

Measure = Callable[[Study], Mapping[str, float]]
"""Seconds of a step of each section that trains."""


@dataclass(frozen=True)
class Plan:
    """Values with their reasons.

    Args:
        study: whole: what was given, what is planned, and the default of all else.
        reasons: dotted key -> why it is so; of given keys, too.
        notes: what the user should know.
    """

    study: Study
    reasons: dict[str, str]
    notes: tuple[str, ...] = ()


def make_plan(outline: Outline, fingerprint: Fingerprint, machine: Machine, hours: float, measure: Measure) -> Plan:
    """Plan what the outline leaves out. The same arguments give the same plan.

    The largest grid is taken at which every section gets the steps that it needs within the hours.

    Args:
        outline: what is given; it wins over what would be planned.
        fingerprint: of the data.
        machine: what trains.
        hours: for all stages together.
        measure: times the steps of a study on the machine.

    Raises:
        StudyError: what is given is wrong, or contradicts itself; the field names the key.
    """
    start = Basis(outline, fingerprint, machine, hours, (0, 0))
    possible = _grids(start)
    size, seconds = _affordable(start, possible, measure)
    limits = bounds(fingerprint)
    if size == possible[-1]:
        why = limits.why_high
    else:
        why = f"the largest at which every stage gets the steps that it needs in {hours:g} hours"
        if size == possible[0] and not budget.suffices(seconds, hours, machine.jobs):
            why = f"the smallest of use: {limits.why_low}"
    basis = replace(start, size=size, why_size=why)
    draft = _complete(basis)[0]
    batches = {section: getattr(draft, section).batch_size for section in seconds}
    each = fingerprint.images / fingerprint.subjects
    images = {name: round(each * (basis.judging if name in recipe.JUDGING else basis.training)) for name in seconds}
    planned = budget.steps(seconds, hours, machine, batches, images)
    basis = replace(basis, steps=planned)
    study, reasons = _complete(basis)
    spent = {section: Planned(getattr(study, section).steps, "") for section in seconds}
    takes = budget.hours_of(spent, seconds, machine.jobs)
    notes = [f"all stages together take about {takes:.1f} hours at most"]
    if takes > 1.1 * hours:
        notes = [f"warning: {hours:g} hours are too few: all stages together take about {takes:.1f}"]
    return Plan(study, reasons, tuple(notes))


def usual_study(outline: Outline) -> Study:
    """The outline as a study for an ordinary set on an ordinary machine, to check it by before anything is read.

    Raises:
        StudyError: what is given is wrong, or contradicts itself.
    """
    machine = Machine("cpu", cores=2, memory=8 * 2**30, jobs=2)
    if outline.given["data"]["source"] in SimulatedData.VOLUMES and volume_size(outline) is None:
        why = "a plan of volumes needs the grid, [depth, height, width]"
        raise StudyError(Code.MISSING, f"{outline.source}: image.size", why)
    start = Basis(outline, expected(outline), machine, budget.HOURS, (0, 0))
    return _complete(replace(start, size=_grids(start)[-1]))[0]


def _affordable(
    start: Basis, possible: list[tuple[int, ...]], measure: Measure
) -> tuple[tuple[int, ...], Mapping[str, float]]:
    """The largest grid for which the hours suffice, else the smallest; and what steps take on it."""

    def timed(size: tuple[int, ...]) -> Mapping[str, float]:
        return measure(_complete(replace(start, size=size))[0])

    def affords(size: tuple[int, ...]) -> bool:
        ratio = math.prod(size) / math.prod(first)
        return budget.suffices({name: one * ratio for name, one in seconds.items()}, start.hours, start.machine.jobs)

    # Measured first where steps are neither long nor unlike those of larger grids.
    first = min(possible, key=lambda size: abs(math.prod(size) - recipe.BETA_PIXELS))
    seconds = timed(first)
    chosen = next((size for size in reversed(possible) if affords(size)), possible[0])
    if chosen == first:
        return first, seconds
    seconds = timed(chosen)
    while chosen != possible[0] and not budget.suffices(seconds, start.hours, start.machine.jobs):
        chosen = possible[possible.index(chosen) - 1]
        seconds = timed(chosen)
    return chosen, seconds


def _grids(start: Basis) -> list[tuple[int, ...]]:
    """The grids that are of use, the smallest first; the given one alone, if there is one."""
    given = start.outline.section("image").get("size")
    if given is not None:
        try:
            return [Image(size=given).size]
        except ValidationError:
            return [(recipe.PATCH * 2**3,) * 2]  # any: the study says what is wrong

    def fits(size: tuple[int, int]) -> bool:
        section = _merged(hvae(replace(start, size=size)), start.outline.section("hvae"))
        kind = mechanism(section)
        try:
            if kind is not None:
                kind.model_validate(section).check_image(size, start.outline.section("image").get("channels", 1))
        except ValidationError:
            return True  # the study says what is wrong
        except ValueError:
            return False
        return True

    aspect = _aspect(start.outline.section("image").get("field_of_view")) or start.fingerprint.aspect
    found: list[tuple[int, ...]] = [*grids(replace(start.fingerprint, aspect=aspect), fits)]
    if not found:
        raise StudyError(
            Code.CONFLICT,
            f"{start.outline.source}: hvae",
            "no grid of 16 to 512 pixels a side fits the levels that are given; give image.size, too",
        )
    return found


def _aspect(field: Any) -> float | None:
    """Width over height of a field of view that is given; None where it is none."""
    try:
        known = Image(size=(1, 1), field_of_view=field).field_of_view
    except ValidationError:
        return None  # the study says what is wrong
    return known[1] / known[0] if known else None


def _merged(planned: Keys, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one.value for key, one in planned.items()} | dict(given)


def _complete(basis: Basis) -> tuple[Study, dict[str, str]]:
    """The study with all that is given and planned, and why each key is so."""
    outline, reasons = basis.outline, dict[str, str]()
    raw: dict[str, Any] = {"name": outline.given["name"], "description": outline.given.get("description", "")}
    for key in ("confounded", "masks", "structures", "data"):
        if key in outline.given:
            raw[key] = outline.given[key]
    raw["variables"] = {}
    for name in outline.given["variables"]:
        planned = variable(basis, name)
        raw["variables"][name] = _merged(planned, outline.variable(name))
        reasons |= {f"variables.{name}.{key}": one.reason for key, one in planned.items()}
    for section, plan in SECTIONS.items():
        given = outline.section(section)
        if section in WANTED and not WANTED[section](outline):
            if given:  # of what is not wanted the study says so
                raw[section] = given
            continue
        planned = plan(basis)
        raw[section] = _merged(planned, given)
        reasons |= {f"{section}.{key}": one.reason for key, one in planned.items()}
        reasons |= {f"{section}.{key}": "given" for key in given}
    return parse_study(raw, outline.source), reasons


def _predicts(outline: Outline) -> bool:
    """Whether attributes are guided: the file names the section, be there something in it or not; or nothing else is
    there to be guided."""
    return "predictor" in outline.given or not outline.structures


def _judges_attributes(outline: Outline) -> bool:
    """Whether attributes are judged: they are guided, or the file names the section."""
    return "predictor_judge" in outline.given or _predicts(outline)


def _regresses(outline: Outline) -> bool:
    """Whether there is a regressor: it is given, or guides."""
    guides = outline.section("finetune").get("guides", ("regressor",) if outline.structures else ())
    return outline.given.get("regressor") is not None or "regressor" in guides


def _has_structures(outline: Outline) -> bool:
    return bool(outline.structures)


WANTED: Mapping[str, Callable[[Outline], bool]] = {
    "segmentor": _has_structures,
    "judge": _has_structures,
    "regressor": _regresses,
    "predictor": _predicts,
    "predictor_judge": _judges_attributes,
}
"""Sections that not every study has -> whether one has it."""
