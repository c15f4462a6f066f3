"""An evaluation in folds: one table of the samples of all of them, each judged by the parts of its own fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from segcft.config.study import Study
from segcft.evaluate.metrics.metric import Metric, metrics_of
from segcft.evaluate.names import METHODS, method_name, plain
from segcft.evaluate.scores import Row, Scores
from segcft.evaluate.table import grid

KEY = ("method", "metric", "intervention", "structure")
"""What tells the rows of a table apart."""


class Fold(NamedTuple):
    """The evaluation of a fold: its ``name``, the results of its samples (:meth:`Scores.by_sample`) and its rows."""

    name: str
    scores: pd.DataFrame
    rows: Sequence[Row]


def all_scores(folds: Sequence[Fold], what: str = "fold") -> pd.DataFrame:
    """The results of all samples; the column ``fold``, or ``what`` else was judged, names who has judged them."""
    return pd.concat([fold.scores.assign(**{what: fold.name}) for fold in folds], ignore_index=True)


def all_rows(folds: Sequence[Fold], study: Study) -> list[Row]:
    """The rows of all samples together, as one evaluation has them: means over all samples, intervals over patients.

    A row that is of no single samples (a correlation, say) is the mean of the folds', each by its number of samples,
    without an interval.
    """
    samples = [fold.scores.drop_duplicates("id") for fold in folds]
    patients = [patient for one in samples for patient in one["patient"]]
    scores = Scores.joined([fold.scores for fold in folds])
    rows = scores.rows(patients, study.evaluation.bootstrap, study.evaluation.seed)
    known = {row_key(row) for row in rows}
    others = dict.fromkeys(row_key(row) for fold in folds for row in fold.rows if row_key(row) not in known)
    return rows + [_mean([row for fold in folds for row in fold.rows if row_key(row) == key]) for key in others]


def row_key(row: Mapping[str, object]) -> tuple[object, ...]:
    """By which a row of one table is found in another."""
    return tuple(row[name] for name in KEY)


def _mean(rows: Sequence[Row]) -> Row:
    counted = [row for row in rows if row["value"] is not None]
    n = sum(row["n"] for row in counted)
    value = sum(row["value"] * row["n"] for row in counted) / n if n else None
    return {**rows[0], "value": value, "ci_low": None, "ci_high": None, "n": n}


def render_spread(folds: Sequence[Fold], study: Study, what: str = "folds") -> str:
    """How far folds, or ``what`` else there are several of, differ: of every structure intervened on, the least and the
    largest value of each metric of single structures; Markdown."""
    found: dict[tuple[object, ...], list[float]] = {}
    for row in (row for fold in folds for row in fold.rows if row["intervened"] and row["value"] is not None):
        found.setdefault(row_key(row), []).append(row["value"])
    metrics = [metric for metric in metrics_of(study) if any(key[1] == metric.name for key in found)]
    names = [metric.words(study).label for metric in metrics]
    body = list(_spread(found, metrics, study))
    return f"""
## The {len(folds)} {what}: the least and the largest of their values, of the structure intervened on

{grid(["do", "method", *names], body, labels=2)}
"""


def _spread(
    found: Mapping[tuple[object, ...], Sequence[float]], metrics: Sequence[Metric], study: Study
) -> Iterator[list[str]]:
    for structure, variable in zip(study.structures, study.measured, strict=True):
        for method in METHODS:
            cells = [_ends(found.get((method, m.name, variable, structure), ()), m) for m in metrics]
            if any(cells):
                yield [plain(variable), method_name(method), *cells]


def _ends(values: Sequence[float], metric: Metric) -> str:
    if not values:
        return ""
    # No minus before a zero.
    low, high = (round(metric.factor * end, metric.digits) + 0.0 for end in (min(values), max(values)))
    return f"{low:.{metric.digits}f} to {high:.{metric.digits}f}"
