"""The stress test, whole: who is asked, what is set, what is found, and the files that say so."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import segcft
from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.errors import Code, DataError, RunError
from segcft.readers.classifier import Audited
from segcft.stress.doses import EXPOSURE, Doses, doses_of
from segcft.stress.effects import LEAST, LEVEL, SPECIFIC, Curve, Effect, beside, curves, effects, slopes
from segcft.stress.gaps import Gap, gaps, groups_of
from segcft.stress.responses import Responses, among, respond
from segcft.stress.source import Source
from segcft.stress.table import render_audit
from segcft.utils.atomic import write_bytes, write_text
from segcft.utils.progress import Progress

RECORD = "stress.json"
"""The file by which the folder of a stress test is known."""
DRAWS = 2000
"""Resamples of the patients."""
VARIABLE = ("kind", "categories", "unit")
"""What is the same of a variable in all models."""
GRID = ("size", "channels", "field_of_view", "length_unit", "fit")
"""The same of the image: areas are in its pixels."""


@dataclass(frozen=True)
class Settings:
    """What is asked.

    Attributes:
        variables: that are set, each by itself; empty: all of the study, and how the image was taken.
        doses: of each number, on a grid.
        held: whether what a variable causes stays as it is.
        groups: of subjects, by variables or columns; empty: by what is known of them beside measures.
        seed: of resamples and of tests.
    """

    variables: tuple[str, ...] = ()
    doses: int = 5
    held: bool = False
    groups: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Audit:
    """What is found.

    Attributes:
        study: of the model.
        origin: which ``model`` answered by which ``method``, which ``classifier`` was asked, and whether people are
            ``simulated``.
        settings: what was asked.
        responses: what the classifier said.
        effects: of every variable on every output.
        curves: dose-responses.
        gaps: between groups of subjects.
        moved: variable -> what it causes, and changes with it; nothing where that is held.
        also: which other models answered, each as :attr:`segcft.stress.source.Source.told`.
        common: images that all models answered about; ranges over models are of these.
    """

    study: Study
    origin: Mapping[str, Any]
    settings: Settings
    responses: Responses
    effects: Sequence[Effect]
    curves: Sequence[Curve]
    gaps: Sequence[Gap]
    moved: Mapping[str, Sequence[str]]
    also: Sequence[Mapping[str, str]]
    common: int

    @property
    def reconstruction(self) -> dict[str, float]:
        """Output -> by how much the answer to no question at all changes it, in its standard deviations."""
        apart = np.abs(self.responses.null - self.responses.plain).mean(axis=0)
        sd = self.responses.plain.std(axis=0)
        return {name: float(a / s) if s else 0.0 for name, a, s in zip(self.responses.outputs, apart, sd, strict=True)}

    def record(self) -> dict[str, Any]:
        """All numbers, as JSON has them."""
        found = self.responses
        return _plain(
            {
                "segcft": segcft.__version__,
                "study": self.study.name,
                **self.origin,
                "also": [dict(one) for one in self.also],
                "images of all models": self.common,
                "settings": asdict(self.settings)
                | {"least": LEAST, "specific": SPECIFIC, "level": LEVEL, "resamples": DRAWS},
                "images": len(found.ids),
                "patients": len(set(found.patients.tolist())),
                "taught the model": found.taught,
                "left out": [one._asdict() for one in found.left_out],
                "reconstruction": self.reconstruction,
                "moved": {name: list(names) for name, names in self.moved.items()},
                "effects": [asdict(one) | {"found": one.found, "verdict": one.verdict} for one in self.effects],
                "curves": [_curve(one) for one in self.curves],
                "gaps": [asdict(one) | {"found": one.found} for one in self.gaps],
            }
        )

    def answers(self) -> pd.DataFrame:
        """A row a subject, variable, dose and output: what the classifier said of the answer, on average of its shams
        that are kept (NaN of none), and of the answer to no question. Values are categories, or numbers in ``unit``."""
        found, rows = self.responses, list[dict[str, Any]]()
        for name, response in found.of.items():
            of, doses = response.doses, response.doses.values
            shams = np.where(response.kept[..., None], response.sham, np.nan)
            for i, d, k in np.ndindex(response.output.shape):
                rows.append(
                    {
                        "id": found.ids[i],
                        "variable": name,
                        "own": of.cell(float(response.own[i])),
                        "dose": of.cell(doses[d]),
                        "unit": of.unit,
                        "supported": bool(response.supported[i, d]),
                        "output": found.outputs[k],
                        "before": found.null[i, k],
                        "after": response.output[i, d, k],
                        "shams": _mean(shams[i, d, :, k]),
                        "obtained": response.obtained[i, d],
                    }
                )
        return pd.DataFrame(rows)

    def subjects(self) -> pd.DataFrame:
        """A row a subject, variable and output, the strongest slopes of each variable and output first."""
        found, rows = self.responses, list[dict[str, Any]]()
        for response in found.of.values():
            for contrast, category in response.doses.contrasts():
                for k, output in enumerate(found.outputs):
                    own = slopes(response, found.null, k, category)
                    of = {"variable": response.doses.variable, "contrast": contrast, "output": output}
                    for i in np.argsort(-np.abs(own.slope), kind="stable"):  # NaN comes last
                        if own.weight[i] > 0:
                            who = {"id": found.ids[i], "patient": found.patients[i], "before": found.null[i, k]}
                            rows.append(who | of | {"slope": own.slope[i], "answers": int(own.used[i].sum())})
        return pd.DataFrame(rows)

    def write(self, folder: Path) -> None:
        """Write :data:`RECORD`, ``stress.md``, ``effects.csv``, ``subjects.csv`` and ``answers.csv`` to ``folder``."""
        of_effects = pd.DataFrame(asdict(one) for one in self.effects)
        for name, table in (("effects", of_effects), ("subjects", self.subjects()), ("answers", self.answers())):
            write_bytes(folder / f"{name}.csv", table.to_csv(index=False).encode())
        write_text(folder / "stress.md", render_audit(self))
        write_text(folder / RECORD, json.dumps(self.record(), indent=1, allow_nan=False) + "\n")


def stress(
    source: Source,
    audited: Audited,
    settings: Settings | None = None,
    also: Sequence[Source] = (),
    origin: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Try a classifier, regressor or segmentor on the answers about everybody.

    Args:
        source: who is asked about, and who answers.
        audited: what is tried.
        settings: what is asked.
        also: the same people, answered about by other models of the same variables and grid: how far effects depend
            on the model, over the images that all answer about.
        origin: see :class:`Audit`.
        progress: shows how many subjects are done.

    Raises:
        InterventionError: a variable is none.
        RunError: the classifier cannot read the images, or another model is of other variables or another grid.
        DataError: nobody is left, or nobody whom all models answer about.
    """
    settings = settings or Settings()
    study = source.study
    for other in also:
        _check_alike(study, other.study)
    names = settings.variables or (*study.variables, EXPOSURE)
    doses = doses_of(study.variables, source.people.cpu().numpy(), names, settings.doses)
    found = respond(source, audited, doses, progress)
    if not found.ids:
        why = f"nobody is left of {len(source)}" + (
            f"; the first: {found.left_out[0].reason}" if found.left_out else ""
        )
        raise DataError(Code.EMPTY, "--data", why)
    models = [found, *(respond(one, audited, doses, progress) for one in also)]
    common = set(found.ids).intersection(*(one.ids for one in models))
    if not common:
        why = f"of {len(found.ids)} images that {study.name!r} answers about none is left by all other models"
        raise DataError(Code.EMPTY, "--also", why)
    return Audit(
        study,
        dict(origin or {}),
        settings,
        found,
        beside(effects(found, DRAWS, settings.seed), [among(one, common) for one in models]),
        list(curves(found, DRAWS, settings.seed)),
        gaps(found, _groups(study, found, settings), settings.seed),
        dict(_moved(study, doses, settings.held)),
        [one.told for one in also],
        len(common),
    )


def _check_alike(study: Study, other: Study) -> None:
    """See that values and images of another study mean the same.

    Raises:
        RunError: they do not.
    """
    if list(other.variables) != list(study.variables):
        why = f"{other.name!r} has other variables than {study.name!r}"
        raise RunError(Code.OTHER, "--also: variables", why)
    parts: list[tuple[str, object, object, Sequence[str]]] = [("image", study.image, other.image, GRID)]
    parts += [(f"variables.{name}", one, other.variables[name], VARIABLE) for name, one in study.variables.items()]
    for where, own, theirs, keys in parts:
        for key in keys:
            first, second = getattr(own, key), getattr(theirs, key)
            if first != second:
                why = f"{second!r} in {other.name!r}, and {first!r} in {study.name!r}: answers are not comparable"
                raise RunError(Code.OTHER, f"--also: {where}.{key}", why)


def _groups(study: Study, found: Responses, settings: Settings) -> dict[str, Any]:
    units = {name: one.unit for name, one in study.variables.items() if not one.categories}
    groups = groups_of(found, units)
    return {name: labels for name, labels in groups.items() if not settings.groups or name in settings.groups}


def _moved(study: Study, doses: Sequence[Doses], held: bool) -> Iterator[tuple[str, list[str]]]:
    """What changes with each variable: what it causes, or the variable that a derived one is solved for with that."""
    graph = Graph.of(study.variables)
    for one in doses:
        if one.acquired:
            yield one.variable, []
            continue
        solved = study.variables[one.variable].solve_for
        below = set() if held else graph.descendants([solved or one.variable])
        yield one.variable, [name for name in study.variables if name in below | {solved} and name != one.variable]


def _curve(curve: Curve) -> dict[str, Any]:
    doses = [curve.doses.categories[int(v)] if curve.doses.categories else v for v in curve.doses.values]
    rows = zip(doses, *(one.tolist() for one in (curve.value, curve.low, curve.high, curve.n)), strict=True)
    names = ("dose", "response", "low", "high", "patients")
    return {"variable": curve.doses.variable, "output": curve.output} | {
        "points": [dict(zip(names, row, strict=True)) for row in rows]
    }


def _mean(values: NDArray[np.float64]) -> float:
    """Of what is known; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _plain(value: Any) -> Any:
    """As JSON has it, which has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
