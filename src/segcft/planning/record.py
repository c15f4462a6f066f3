"""A plan on disk: a whole study file that says of each key why it is so, made once for a run and then used by it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segcft.config.loader import load_study, read_yaml
from segcft.config.outline import Outline
from segcft.config.study import Study
from segcft.errors import Code, StudyError
from segcft.pipeline.pool import default_jobs
from segcft.planning import budget, timing
from segcft.planning.fingerprint import facts, take_fingerprint
from segcft.planning.plan import Plan, make_plan, usual_study
from segcft.training.loop import make_fabric
from segcft.utils.atomic import write_text
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress

RECORD = "plan.yaml"
"""Of a run's folder."""
MADE_FROM = "_made_from"
"""The key of a plan's file that says what it was made from. Studies do not read it."""
WIDTH = 120
"""Characters of a line in a plan's file, reasons included."""


@dataclass(frozen=True)
class Request:
    """What is to be planned, and with what.

    Args:
        outline: what is given.
        data: folder of images, masks and table, where the study reads one.
        device: auto, cpu, cuda or mps.
        hours: for all stages together; None: as planned before, or :data:`segcft.planning.budget.HOURS`.
        jobs: trainings at the same time; None: as `segcft run` has it by itself.
    """

    outline: Outline
    data: Path | None = None
    device: str = "auto"
    hours: float | None = None
    jobs: int | None = None


def plan_text(request: Request, progress: Progress) -> str:
    """Plan, and the plan as a file.

    Raises:
        StudyError: what is given is wrong, or contradicts itself.
        DataError: the data cannot be read.
    """
    outline, hours = request.outline, request.hours or budget.HOURS
    device = make_fabric(request.device).device
    machine = timing.machine_of(device.type, request.jobs or default_jobs(device))
    fingerprint = take_fingerprint(usual_study(outline), outline, request.data, progress)
    plan = make_plan(outline, fingerprint, machine, hours, lambda study: timing.measure(study, machine, progress))
    for note in plan.notes:
        progress.note(f"plan: {note}")
    head = [f"{outline.source}, planned for {hours:g} hours on {machine}", *facts(fingerprint), *plan.notes]
    return write_plan(plan, head, {"study": outline.given, "hours": hours})


def planned_study(request: Request, folder: Path, progress: Progress, again: bool = False) -> Study:
    """The planned study of a run: that of its plan, which is made if there is none.

    Args:
        request: what is to be planned.
        folder: of the run.
        progress: what the user sees.
        again: plan though there is a plan.

    Raises:
        StudyError: the plan was made from another study file or for other hours; or as of :func:`plan_text`.
        DataError: the data cannot be read.
        RunError: another process works in the folder.
    """
    path = folder / RECORD
    if again or not path.is_file():
        with Lock(folder):
            text = plan_text(request, progress)
            write_text(path, text)
        progress.note(f"plan: {path} says what was planned, and why")
    _check_made_from(path, request)
    return load_study(path)


def _check_made_from(path: Path, request: Request) -> None:
    made_from = read_yaml(path, "plan").get(MADE_FROM)
    before, hours = (made_from.get("study"), made_from.get("hours")) if isinstance(made_from, dict) else (None, None)
    if not isinstance(before, dict) or not isinstance(hours, int | float):
        text = f"it does not say from which study file it was planned ({MADE_FROM}); `--again plan` plans anew"
        raise StudyError(Code.DAMAGED, path, text)
    now = request.outline.given
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        raise StudyError(
            Code.OTHER,
            f"{request.outline.source}: {', '.join(changed)}",
            f"changed since {path} was planned; `segcft run ... --again plan` plans anew, another --out begins "
            f"another run, and what is to change in this plan alone can be changed in {path.name} itself",
        )
    if request.hours is not None and request.hours != hours:
        text = f"{path} was planned for {hours:g}; `--again plan` plans for {request.hours:g}"
        raise StudyError(Code.CONFLICT, "--hours", text)


def write_plan(plan: Plan, head: Sequence[str], made_from: dict[str, Any]) -> str:
    """A plan as a study file: every key, and why it is so."""
    lines = [f"# {line}" for text in head for line in textwrap.wrap(text, WIDTH - 2)]
    lines += ["# Keys without a remark have their default.", ""]
    for section, keys in plan.study.model_dump(mode="json").items():
        if not isinstance(keys, dict):
            lines += [f"{section}: {_inline(keys)}"]
            continue
        lines += ["", f"{section}:"]
        for key, value in keys.items():
            lines += _key(plan, section, key, value)
    record = yaml.safe_dump({MADE_FROM: made_from}, sort_keys=False, allow_unicode=True, width=WIDTH)
    return "\n".join([*lines, "", "# What this was planned from: a change of the study file is noticed.", record])


def _key(plan: Plan, section: str, key: str, value: Any) -> list[str]:
    """The lines of a key: its reason is behind it, or above where that would be too long."""
    if section == "variables":
        whys = {inner: plan.reasons.get(f"{section}.{key}.{inner}", "") for inner in value}
        reason = "; ".join(f"{inner}: {why}" for inner, why in whys.items() if why)
    else:
        reason = plan.reasons.get(f"{section}.{key}", "")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        found = [f"  {key}:", *(f"    - {_inline(one)}" for one in value)]
    else:
        found = [f"  {key}: {_inline(value)}"]
    if not reason:
        return found
    if len(found) == 1 and len(found[0]) + len(reason) + 4 <= WIDTH:
        return [f"{found[0]}  # {reason}"]
    return [*(f"  # {line}" for line in textwrap.wrap(reason, WIDTH - 4)), *found]


def _inline(value: Any) -> str:
    """A value as YAML in a line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
