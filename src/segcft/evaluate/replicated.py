r"""An evaluation of several trainings of one study: intervals over people *and* trainings.

Trainings and people are crossed: every training is judged on the same people. With the mean :math:`m_s` of training s
of S, and :math:`v_p` the variance that the mean of them has as other people might have been judged, the interval is

.. math:: \bar m \pm t_{\nu} \sqrt{v_p + v_s}, \qquad v_s = \frac1S \frac{1}{S - 1} \sum_s (m_s - \bar m)^2,

with the degrees of freedom of Welch and Satterthwaite, :math:`\nu = (v_p + v_s)^2 / (v_p^2 / (P - 1) + v_s^2 / (S -
1))`. v_p is that of the linearised ratio of sums over P people, each of whom has one difference from the mean of all
trainings. A bootstrap of few trainings would be too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from segcft.config.study import Study
from segcft.evaluate.folded import Fold, row_key
from segcft.evaluate.metrics.metric import METRICS, metrics_of
from segcft.evaluate.names import SEG_LESS_REG, plain
from segcft.evaluate.scores import Key, Row
from segcft.evaluate.table import grid

LEVEL = 0.95
"""Coverage that intervals aim at."""
INTERVAL = f"the {100 * LEVEL:g} % interval over people and trainings"
"""What they are, in a table."""

Floats = NDArray[np.float64]


class Mean(NamedTuple):
    """The mean of all trainings and its interval; NaN where there is none."""

    value: float
    low: float
    high: float


def mean_of_trainings(sums: Floats, weights: Floats) -> Mean:
    """The mean of the trainings' means, with its interval.

    Args:
        sums: of weighted values of each of P people in each of S trainings, (S, P).
        weights: their sums of weights, (S, P); a person of weight 0 does not count.
    """
    total = weights.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        return Mean(math.nan, math.nan, math.nan)
    means = sums.sum(axis=1, keepdims=True) / total
    trainings, people = len(means), int((weights > 0).any(axis=0).sum())
    value = float(means.mean())
    if trainings < 2 or people < 2:
        return Mean(value, math.nan, math.nan)
    of_people = ((sums - means * weights) / total).mean(axis=0)  # what each adds to the mean
    among_people = people / (people - 1) * float(np.square(of_people).sum())
    among_trainings = float(means.var(ddof=1)) / trainings
    variance = among_people + among_trainings
    if variance == 0:
        return Mean(value, value, value)
    freedom = variance**2 / (among_people**2 / (people - 1) + among_trainings**2 / (trainings - 1))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    return Mean(value, value - half, value + half)


def replicated_rows(trainings: Sequence[Fold]) -> list[Row]:
    """The rows of all trainings together, as one evaluation has them: means over trainings, with their intervals.

    A row that is of no single samples (a correlation, the worst of all) is the mean of the trainings', without an
    interval over people.
    """
    patients = sorted({patient for one in trainings for patient in one.scores["patient"]})
    place = {patient: k for k, patient in enumerate(patients)}
    tables = [
        {Key._make(key): part for key, part in one.scores.groupby(list(Key._fields), sort=False)} for one in trainings
    ]
    values = [{row_key(row): row["value"] for row in one.rows} for one in trainings]
    rows = []
    for row in trainings[0].rows:
        key = Key(*(row[field] for field in Key._fields))
        if any(row_key(row) not in one for one in values):
            continue  # of what some trainings do not have there is no mean of all
        found = [one[row_key(row)] for one in values]
        if METRICS.get(row["metric"]) is None or METRICS[row["metric"]].worst or any(key not in one for one in tables):
            known = None if None in found else float(np.mean(found))
            rows.append({**row, "value": known, "ci_low": None, "ci_high": None})
            continue
        sums, weights = np.zeros((2, len(trainings), len(patients)))
        for s, one in enumerate(tables):
            part = one[key].dropna(subset="value")
            where = part["patient"].map(place).to_numpy(dtype=int)
            np.add.at(sums[s], where, (part["value"] * part["weight"]).to_numpy())
            np.add.at(weights[s], where, part["weight"].to_numpy())
        ends = (None if math.isnan(number) else number for number in mean_of_trainings(sums, weights))
        rows.append({**row, **dict(zip(("value", "ci_low", "ci_high"), ends, strict=True))})
    return rows


def render_signs(trainings: Sequence[Fold], rows: Sequence[Row], study: Study) -> str:
    """In how many trainings Seg-CFT differs from Reg-CFT as in the mean of all, Markdown; "" where one is not there."""
    body = list(_signs(trainings, rows, study))
    if not body:
        return ""
    structures = [plain(name) for name in study.structures]
    return f"""
## In how many of {len(trainings)} trainings Seg-CFT differs from Reg-CFT to the side that the mean does

{grid(["metric", *structures, "whole image"], body)}

Each is of the intervention on the structure; of the whole image the least of all interventions.
"""


def _signs(trainings: Sequence[Fold], rows: Sequence[Row], study: Study) -> Iterator[list[str]]:
    each = [{row_key(row): row["value"] for row in one.rows} for one in trainings]
    mean: Mapping[tuple[object, ...], float | None] = {row_key(row): row["value"] for row in rows}
    for metric in metrics_of(study):
        cells = []
        for structure, variable in zip(study.structures, study.measured, strict=True):
            counted = _agreeing(mean, each, (SEG_LESS_REG, metric.name, variable, structure))
            cells.append("" if counted is None else str(counted))
        whole = [_agreeing(mean, each, (SEG_LESS_REG, metric.name, variable, "")) for variable in study.asked]
        known = [one for one in whole if one is not None]
        if known or any(cells):
            yield [metric.words(study).label, *cells, str(min(known)) if known else ""]


def _agreeing(
    mean: Mapping[tuple[object, ...], float | None],
    each: Sequence[Mapping[tuple[object, ...], float | None]],
    key: tuple[object, ...],
) -> int | None:
    value = mean.get(key)
    if not value:
        return None
    return sum((one.get(key) or 0.0) * value > 0 for one in each)
