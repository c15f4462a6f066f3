"""Displacement: which border moves? A structure can have the right area by moving the wrong one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate import names
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.scores import Row
from segcft.grid import Grid
from segcft.measures.measure import MEASURES
from segcft.measures.measurements import Measurements
from segcft.measures.slope import slopes

PLACES = ("top", "bottom", "left", "right", "x", "y")
"""The measures that say where a structure is: its borders and its centre."""

BATCH = 256
"""Masks that are read at once."""

MOST = 2000
"""The most training samples of which it is learnt how borders go with a variable."""


class Displacement(Metric):
    r"""How far a place of the structure intervened on moves for one standard deviation more of the variable.

    The least-squares slope through the origin of the displacement that the judge reads, on the change asked for in
    standard deviations of the judged samples. Right is what the truth has; of real people, what training people show.

    Args:
        place: one of :data:`PLACES`.
    """

    better = "as true"
    brief = False

    def __init__(self, place: str) -> None:
        self.place, self.measure = place, MEASURES[place]
        self.name = f"displacement of {place}"

    def words(self, study: Study) -> Words:
        return Words(self.place, self.measure.unit(Grid.of(study.image)))

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        asked, study = answer.asked, answer.asked.factual.study
        if answer.method == names.NO_CHANGE or asked.variable not in study.measured:
            return
        target = study.measured.index(asked.variable)
        measurements = asked.factual.judge.measurements

        def where(masks: Tensor) -> Tensor:
            return self.measure.estimate(measurements.shown(masks)[:, [target]], measurements.grid)[:, 0]

        change = (asked.wanted - asked.factual.known)[:, target] / spread(asked.factual.cohort, asked.variable)
        values, weights = slopes(where(answer.masks) - where(asked.factual.masks), change)
        yield Result(values, list(study.structures)[target], weights)


def spread(cohort: Cohort, variable: str) -> float:
    """The standard deviation of a variable among the judged samples; 1 of a single one."""
    values = cohort.values[:, cohort.column(variable)]
    return float(values.std()) if len(values) > 1 and values.std() > 0 else 1.0


def places_of_people(cohort: Cohort, training: Store, variables: Sequence[str]) -> list[Row]:
    """What training people show: by how much each place lies elsewhere in those with one standard deviation more.

    Least squares of the place, in the experts' masks, on the variable and its parents, with its 95 % interval by
    Student's t. It says what goes together in people; it is the effect of an intervention as far as the graph is right.
    """
    study, rows = cohort.study, training.indices("train", complete=True)
    rows = np.sort(np.random.default_rng(study.evaluation.seed).permutation(rows)[:MOST])
    values = training.values()[rows].astype(float)
    where, found = _places(training, rows, Measurements.of(study)), []
    for variable in (name for name in variables if name in study.measured):
        target, scale = study.measured.index(variable), spread(cohort, variable)
        explaining = _explaining(study, values, variable)
        for place in PLACES:
            slope, margin, n = _regressed(where[place][:, target], explaining)
            row = {
                "method": names.PEOPLE,
                "intervention": variable,
                "structure": list(study.structures)[target],
                "metric": f"displacement of {place}",
            }
            ends = {"value": slope, "ci_low": slope - margin, "ci_high": slope + margin}
            numbers = {name: scale * end if np.isfinite(end) else None for name, end in ends.items()}
            found.append(row | {"intervened": True} | numbers | {"n": n})
    return found


def _places(store: Store, rows: np.ndarray, measurements: Measurements) -> dict[str, np.ndarray]:
    """Where every structure of samples is, by their masks in one pass: place -> (N, M)."""
    found: dict[str, list[Tensor]] = {place: [] for place in PLACES}
    for part in np.split(rows, range(BATCH, len(rows), BATCH)):
        shown = measurements.shown(torch.from_numpy(np.asarray(store.masks[part])).float() / 255)
        for place, parts in found.items():
            parts.append(MEASURES[place].estimate(shown, measurements.grid))
    return {place: torch.cat(parts).double().numpy() for place, parts in found.items()}


def _explaining(study: Study, values: np.ndarray, variable: str) -> np.ndarray:
    """The variable, a constant and the variable's parents, (N, K)."""
    columns = list(study.variables)
    found = [values[:, columns.index(variable)], np.ones(len(values))]
    for parent in study.variables[variable].parents:
        value, categories = values[:, columns.index(parent)], study.variables[parent].categories
        found += [value == k for k in range(1, len(categories))] if categories else [value]
    return np.stack(found, axis=1).astype(float)


def _regressed(where: np.ndarray, explaining: np.ndarray) -> tuple[float, float, int]:
    """The slope of places (N,) on the first of what explains them (N, K), half its interval, and how many count."""
    known = np.isfinite(where)
    y, x = where[known], explaining[known]
    free = len(y) - np.linalg.matrix_rank(x) if len(y) else 0
    if free < 1:
        return np.nan, np.nan, len(y)
    inverse = np.linalg.pinv(x.T @ x)
    weights = inverse @ x.T @ y
    noise = float(np.square(y - x @ weights).sum()) / free
    margin = float(student.ppf(0.975, free)) * np.sqrt(noise * inverse[0, 0])
    return float(weights[0]), float(margin), len(y)


for _place in PLACES:
    METRICS.add(f"displacement of {_place}", Displacement(_place))
