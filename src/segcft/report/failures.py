"""Failure cases: the people whom a method served worst, how they differ from the rest, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.support import limits
from segcft.errors import RunError
from segcft.evaluate import names
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.effectiveness import area_error, saved
from segcft.evaluate.evaluation import asked_values
from segcft.evaluate.truth import Truth
from segcft.readers.reader import MaskReader

WORST = 0.1
"""Share of the people that counts as failures."""
SHOWN = 4
"""Failures of a structure whose pictures are shown."""
AGREES = 0.01
"""Relative, and in the metric's unit: how far an error computed anew may be from the recorded one."""


@dataclass(frozen=True)
class Case:
    """One failure, computed anew. Images (C, H, W) are in [-1, 1], areas in the study's unit."""

    id: str
    values: Tensor
    """As known of the person, (V,)."""
    before: float
    """The area known of the image."""
    asked: float
    obtained: float
    """The area that the judge reads from the counterfactual."""
    error: float
    image: Tensor
    counterfactual: Tensor
    truth: Tensor | None
    """The simulator's own counterfactual, where it can be drawn."""
    outline_before: np.ndarray
    """The judge's mask of the structure in the image, (H, W) in 0..1."""
    outline_after: np.ndarray


@dataclass(frozen=True)
class Contrast:
    """Of one quantity: mean of the failures, mean of the rest, and their difference by the standard deviation of all
    (NaN where all are alike)."""

    quantity: str
    worst: float
    rest: float
    standardised: float


@dataclass(frozen=True)
class Failures:
    """The worst tenth of one structure, under interventions on its own area."""

    structure: str
    judged: int
    threshold: float
    """The smallest error among them."""
    ids: tuple[str, ...]
    """The worst first."""
    contrasts: tuple[Contrast, ...]
    """The largest difference first."""
    cases: tuple[Case, ...]
    largest_disagreement: float
    """Between errors recorded and computed anew, in the metric's unit."""


def read_scores(path: Path, cohort: Cohort) -> pd.DataFrame:
    """The per-sample results of an evaluation, see :meth:`segcft.evaluate.scores.Scores.by_sample`.

    Raises:
        RunError: it cannot be read, or is not of the people of ``cohort``.
    """
    try:
        scores = pd.read_parquet(path, columns=["method", "intervention", "structure", "metric", "id", "value"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: not the results of an evaluation ({error}); see `segcft evaluate`") from None
    if set(scores["id"]) != set(cohort.named("id")):
        raise RunError(f"{path}: is of other people than the run's samples and study say; see `segcft evaluate`")
    return scores


def find_failures(
    cohort: Cohort,
    model: CounterfactualModel,
    judge: MaskReader,
    method: str,
    scores: pd.DataFrame,
    training_values: Tensor,
    shown: int = SHOWN,
) -> Iterator[Failures]:
    """The failures of ``method`` for every structure whose area the evaluation has intervened on.

    Args:
        cohort: the people of the evaluation.
        model, judge: of the evaluation.
        method: whose results these are in ``scores``.
        scores: see :func:`read_scores`.
        training_values: (N, V); who is asked for an area outside their range is counted.
        shown: how many are computed anew, of each structure.

    Raises:
        RunError: an error computed anew is not the recorded one, so that the evaluation is of other models; or the
            study asks for other interventions now.
    """
    study, metric = cohort.study, cohort.study.evaluation.metric
    own = scores[(scores["method"] == method) & (scores["metric"] == metric) & (scores["intervention"] != "")]
    batches = list(asked_values(cohort, model.scm))
    for structure, variable in zip(study.structures, study.measured, strict=True):
        chosen = own[(own["structure"] == structure) & (own["intervention"] == variable)]
        errors = chosen.set_index("id")["value"].reindex(cohort.named("id")).to_numpy()
        judged = int(np.isfinite(errors).sum())
        if judged == 0:
            continue
        if variable not in batches[0]:
            raise RunError(
                f"{cohort.store.folder.parent}: the evaluation has intervened on {variable}, and the study does not "
                "any more (evaluation.interventions); see `segcft evaluate`"
            )
        count = math.ceil(WORST * judged)
        worst = np.argsort(-np.nan_to_num(errors, nan=-np.inf), kind="stable")[:count]
        after = torch.cat([asked[variable] for asked in batches])
        cases = _cases(cohort, model, judge, structure, after, errors, worst[:shown])
        off = [abs(case.error - errors[place]) for case, place in zip(cases, worst, strict=False)]
        table = _quantities(cohort, scores, method, structure, after[:, cohort.column(variable)], training_values)
        yield Failures(
            structure,
            judged,
            float(errors[worst[-1]]),
            tuple(cohort.named("id")[place] for place in worst),
            tuple(_contrasts(table[np.isfinite(errors)], np.isin(np.flatnonzero(np.isfinite(errors)), worst))),
            tuple(cases),
            max(off),
        )


@torch.no_grad()
def _cases(
    cohort: Cohort,
    model: CounterfactualModel,
    judge: MaskReader,
    structure: str,
    after: Tensor,
    errors: np.ndarray,
    places: np.ndarray,
) -> list[Case]:
    """The people at ``places`` of the cohort, whose values become ``after`` (N, V), computed anew."""
    study = cohort.study
    s = list(study.structures).index(structure)
    column, variable = cohort.measured_columns[s], study.measured[s]
    here = torch.from_numpy(places.copy()).to(cohort.device)
    people, asked = cohort.people(here), after[here]
    answers = saved(model.abduct(people.image, people.values).predict(asked))
    before, masks = judge.masks(people.image)[:, s], judge.masks(answers)[:, s]
    read = masks.sum(dim=(1, 2)) * study.image.cell_size
    again = area_error(read[:, None], asked[:, [column]], study.evaluation.metric)[:, 0].double().cpu().numpy()
    ids = [cohort.named("id")[place] for place in places]
    for id, new, recorded in zip(ids, again, errors[places], strict=True):
        if not np.isclose(new, recorded, rtol=AGREES, atol=AGREES):
            raise RunError(
                f"{cohort.store.folder.parent}: {id!r}: the evaluation has an error of {recorded:.4g} for {structure}, "
                f"and the run's models give {new:.4g}: they are not those that were judged; see `segcft evaluate`"
            )
    truth = Truth.of(study, cohort.store)
    drawn = truth.counterfactuals(people.rows, {variable: asked[:, column]}).image if truth else None
    return [
        Case(
            id,
            people.values[k],
            float(people.values[k, column]),
            float(asked[k, column]),
            float(read[k]),
            float(again[k]),
            people.image[k],
            answers[k],
            None if drawn is None or drawn[k].isnan().any() else drawn[k],
            before[k].cpu().numpy(),
            masks[k].cpu().numpy(),
        )
        for k, id in enumerate(ids)
    ]


def _quantities(
    cohort: Cohort, scores: pd.DataFrame, method: str, structure: str, asked: Tensor, training_values: Tensor
) -> pd.DataFrame:
    """What may set failures apart, a row a person: what is known and asked, and how well they are read and drawn."""
    study, values = cohort.study, cohort.values.cpu().numpy()
    found: dict[str, np.ndarray] = {}
    for k, (name, variable) in enumerate(study.variables.items()):
        if variable.categories:
            for index, category in enumerate(variable.categories):
                if index > 0 or len(variable.categories) > 2:  # of two categories one says it all
                    found[f"{names.plain(name)} is {category}, %"] = 100.0 * (values[:, k] == index)
        else:
            found[f"{names.plain(name)}{_unit(variable.unit)}"] = values[:, k]
    area = study.structures[structure].variable
    known, wanted = values[:, cohort.column(area)], asked.cpu().numpy()
    low, high = limits(study.variables[area], training_values[:, cohort.column(area)].cpu().numpy())
    unit, change = _unit(study.image.cell_unit), wanted - known
    outside = (wanted < low) | (wanted > high)
    found |= {
        f"area asked for{unit}": wanted,
        f"change asked for{unit}": change,
        f"size of the change asked for{unit}": np.abs(change),
        "asked for an area that no training person has, %": 100.0 * outside,
    }
    if study.variables[area].zero_inflated:
        found["does not have the structure, %"] = 100.0 * (known == 0)
        found["is asked to lose it, %"] = 100.0 * ((known > 0) & (wanted == 0))
    metric = study.evaluation.metric
    for label, who, what, of in (
        (f"judge's error on the image{', %' if metric == 'mape' else unit}", names.JUDGE, metric, structure),
        ("reconstruction error, grey levels", method, names.RECONSTRUCTION, ""),
    ):
        rows = scores[(scores["method"] == who) & (scores["metric"] == what) & (scores["structure"] == of)]
        results = rows[rows["intervention"] == ""].set_index("id")["value"]
        if len(results):
            found[label] = results.reindex(cohort.named("id")).to_numpy()
    return pd.DataFrame(found)


def _contrasts(table: pd.DataFrame, worst: np.ndarray) -> list[Contrast]:
    """Failures against the rest, quantity by quantity; ``worst`` (N,) says who is one."""
    means: Mapping[bool, pd.Series] = {which: table[worst == which].mean() for which in (True, False)}
    spread = table.std(ddof=0)
    rows = [
        Contrast(
            str(name),
            float(means[True][name]),
            float(means[False][name]),
            float((means[True][name] - means[False][name]) / spread[name]) if spread[name] > 0 else math.nan,
        )
        for name in table.columns
    ]
    return sorted(rows, key=lambda row: -np.nan_to_num(abs(row.standardised), nan=-1.0))


def _unit(unit: str) -> str:
    return f", {unit}" if unit else ""
