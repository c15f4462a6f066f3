"""Failure cases: the samples with a method's largest errors, how they differ from the rest, and their pictures."""

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
from segcft.errors import Code, RunError
from segcft.evaluate import names
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import asked_values
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import metrics_of
from segcft.evaluate.planes import Planes
from segcft.evaluate.truth import Truth
from segcft.grey import BLACK, rounded
from segcft.grid import Grid
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader

WORST = 0.1
"""Share of the samples that counts as failures."""
SHOWN = 4
"""Failures of a structure whose pictures are shown."""
AGREES = 0.01
"""Relative, and in the metric's unit: how far an error computed anew may be from the recorded one."""


@dataclass(frozen=True)
class Case:
    """One failure, computed anew. Images (C, H, W) are in [-1, 1], measures in their unit. Of volumes images and
    outlines are what is seen in three planes (:class:`segcft.evaluate.planes.Planes`)."""

    id: str
    values: Tensor
    """As known of the sample, (V,)."""
    before: float
    """The measure known of the image."""
    asked: float
    obtained: float
    """What the judge reads from the counterfactual."""
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
    """The worst tenth of one structure, under interventions on its own measure."""

    structure: str
    word: str
    """What its measure is called."""
    unit: str
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
        RunError: it cannot be read, or is not of the samples of ``cohort``.
    """
    try:
        scores = pd.read_parquet(path, columns=["method", "intervention", "structure", "metric", "id", "value"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            Code.INVALID, path, f"not the results of an evaluation ({error}); see `segcft evaluate`"
        ) from None
    if set(scores["id"]) != set(cohort.named("id")):
        raise RunError(Code.OTHER, path, "not of the samples that the run's study chooses; see `segcft evaluate`")
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
    """The failures of ``method`` for every structure whose measure the evaluation has intervened on.

    Args:
        cohort: the samples of the evaluation.
        model, judge: of the evaluation.
        method: whose results these are in ``scores``.
        scores: see :func:`read_scores`.
        training_values: (N, V); who is asked for a measure outside their range is counted.
        shown: how many are computed anew, of each structure.

    Raises:
        RunError: an error computed anew is not the recorded one, so that the evaluation is of other models; or the
            study asks for other interventions now.
    """
    study, metric = cohort.study, cohort.study.evaluation.metric
    own = scores[(scores["method"] == method) & (scores["metric"] == metric) & (scores["intervention"] != "")]
    batches = list(asked_values(cohort, model.scm))
    measurements = Measurements.of(study)
    for structure, measured, unit in zip(study.structures, measurements.all, measurements.units, strict=True):
        variable = measured.variable
        chosen = own[(own["structure"] == structure) & (own["intervention"] == variable)]
        errors = chosen.set_index("id")["value"].reindex(cohort.named("id")).to_numpy()
        judged = int(np.isfinite(errors).sum())
        if judged == 0:
            continue
        if variable not in batches[0]:
            raise RunError(
                Code.OTHER,
                f"{cohort.store.folder.parent}: evaluation.interventions",
                f"the evaluation intervened on {variable}, and the study does not any more; see `segcft evaluate`",
            )
        count = math.ceil(WORST * judged)
        worst = np.argsort(-np.nan_to_num(errors, nan=-np.inf), kind="stable")[:count]
        after = torch.cat([asked[variable] for asked in batches])
        cases = _cases(cohort, model, judge, structure, after, errors, worst[:shown])
        off = [abs(case.error - errors[place]) for case, place in zip(cases, worst, strict=False)]
        table = _quantities(cohort, scores, method, structure, after[:, cohort.column(variable)], training_values)
        yield Failures(
            structure,
            measured.measure.word,
            unit,
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
    """The samples at ``places`` of the cohort, whose values become ``after`` (N, V), computed anew."""
    study = cohort.study
    s = list(study.structures).index(structure)
    column, variable = cohort.measured_columns[s], study.measured[s]
    here = torch.from_numpy(places.copy()).to(cohort.device)
    samples, asked = cohort.samples(here), after[here]
    answers = rounded(model.abduct(samples.image, samples.values).predict(asked))
    masks = judge.masks(answers)
    read = judge.measurements.read(masks, answers)[:, s]
    mask_before, mask_after = (judge.measurements.shown(one)[:, s] for one in (judge.masks(samples.image), masks))
    again = error_of(study).error(read[:, None], asked[:, [column]])[:, 0].double().cpu().numpy()
    ids = [cohort.named("id")[place] for place in places]
    for id, new, recorded in zip(ids, again, errors[places], strict=True):
        if not np.isclose(new, recorded, rtol=AGREES, atol=AGREES):
            raise RunError(
                Code.OTHER,
                cohort.store.folder.parent,
                f"the evaluation has an error of {recorded:.4g} for {structure} of {id!r}, and the run's models give "
                f"{new:.4g}: they are not those that were judged; see `segcft evaluate`",
            )
    truth = Truth.of(study, cohort.store)
    drawn = truth.counterfactuals(samples.rows, {variable: asked[:, column]}) if truth else None
    grid = Grid.of(study.image)
    planes = [Planes(grid, torch.stack(pair)) for pair in zip(mask_before, mask_after, strict=True)]
    return [
        Case(
            id,
            samples.values[k],
            float(samples.values[k, column]),
            float(asked[k, column]),
            float(read[k]),
            float(again[k]),
            planes[k](samples.image[k], BLACK),
            planes[k](answers[k], BLACK),
            None if drawn is None or drawn.image[k].isnan().any() else planes[k](drawn.image[k], BLACK),
            planes[k](mask_before[k]).cpu().numpy(),
            planes[k](mask_after[k]).cpu().numpy(),
        )
        for k, id in enumerate(ids)
    ]


def _quantities(
    cohort: Cohort, scores: pd.DataFrame, method: str, structure: str, asked: Tensor, training_values: Tensor
) -> pd.DataFrame:
    """What may set failures apart, a row a sample: what is known and asked, and how well they are read and drawn."""
    study, values = cohort.study, cohort.values.cpu().numpy()
    measurements, s = Measurements.of(study), list(study.structures).index(structure)
    found: dict[str, np.ndarray] = {}
    for k, (name, variable) in enumerate(study.variables.items()):
        if variable.categories:
            for index, category in enumerate(variable.categories):
                if index > 0 or len(variable.categories) > 2:  # of two categories one says it all
                    found[f"{names.plain(name)} is {category}, %"] = 100.0 * (values[:, k] == index)
        else:
            found[f"{names.plain(name)}{_unit(variable.unit)}"] = values[:, k]
    name, measure = study.structures[structure].variable, measurements.words[s]
    known, wanted = values[:, cohort.column(name)], asked.cpu().numpy()
    low, high = limits(study.variables[name], training_values[:, cohort.column(name)].cpu().numpy())
    change, unit = wanted - known, _unit(measurements.units[s])
    outside = (wanted < low) | (wanted > high)
    found |= {
        f"{measure} asked for{unit}": wanted,
        f"change asked for{unit}": change,
        f"size of the change asked for{unit}": np.abs(change),
        f"asked for {names.with_article(measure)} that is not in the training range, %": 100.0 * outside,
    }
    if study.variables[name].zero_inflated:
        found["does not have the structure, %"] = 100.0 * (known == 0)
        found["is asked to lose it, %"] = 100.0 * ((known > 0) & (wanted == 0))
    of_image = scores[
        (scores["intervention"] == "")
        & scores["method"].isin([names.JUDGE, method])
        & scores["structure"].isin([structure, ""])
    ]
    for metric in metrics_of(study):
        words, results = metric.words(study), of_image[of_image["metric"] == metric.name].groupby("id")["value"].mean()
        if words.of_image and len(results):
            found[f"{words.of_image}{_unit(words.unit)}"] = results.reindex(cohort.named("id")).to_numpy()
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
