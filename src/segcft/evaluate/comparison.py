"""Runs that were judged on the same samples, side by side: a row a run and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from segcft.config.stages import EvaluationSpec
from segcft.config.study import Study
from segcft.evaluate.bootstrap import bootstrap_means
from segcft.evaluate.metrics.attributes import AttributeReading
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import Metric, metrics_of
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.scores import Row
from segcft.evaluate.table import grid
from segcft.measures.measurements import Measurements

SAMPLE = ["intervention", "structure", "id"]
"""What makes results of two runs a pair."""


class Judged(NamedTuple):
    """A run: its ``scores``, see :meth:`Scores.by_sample`, and how many seconds training each method took."""

    name: str
    scores: pd.DataFrame
    seconds: Mapping[str, float]


class Column(NamedTuple):
    """A column of the table: its name in the rows, its head, decimals, and what a value is multiplied with there."""

    name: str
    head: str
    digits: int = 1
    factor: float = 1.0


WORST = "worst unintervened"
SECONDS = "training seconds"


def pooled(study: Study) -> list[Metric]:
    """Metrics of whole images, which are pooled over all interventions."""
    return [metric for metric in metrics_of(study) if metric.brief]


def compare(runs: Sequence[Judged], study: Study) -> list[Row]:
    """A row a run, fine-tuned method and column of the table.

    Columns are the error of each structure under the intervention on it (named by the structure); the largest mean
    error of a structure under an intervention on something else; metrics of whole images, each pooled over all
    interventions; seconds of training. Where there is nothing to show there is no row.

    Args:
        runs: judged on the same samples with the same questions.
        study: its ``evaluation`` says what the error is and how the bootstrap is drawn.

    Returns:
        rows of variant, method, column, value, ci_low, ci_high and n, as in an evaluation's table; and difference,
        difference_low, difference_high: the value less that of the first run, sample by sample, None where it is not
        compared.
    """
    rows: list[Row] = []
    for run in runs:
        for method, seconds in run.seconds.items():
            first = dict(_columns(_of(runs[0], method), study)) if run is not runs[0] else {}
            for column, values in _columns(_of(run, method), study):
                pairs = values - first[column] if column in first and column != WORST else None
                label = {"variant": run.name, "method": method, "column": column}
                rows.append(label | _mean(values, study.evaluation) | _difference(pairs, study.evaluation))
            nothing = dict.fromkeys(("ci_low", "ci_high", *_difference(None, study.evaluation)))
            rows.append({"variant": run.name, "method": method, "column": SECONDS, "value": seconds, "n": 1} | nothing)
    return rows


def _of(run: Judged, method: str) -> pd.DataFrame:
    return run.scores[run.scores["method"] == method]


def _columns(scores: pd.DataFrame, study: Study) -> Iterator[tuple[str, pd.Series]]:
    """Column -> the results behind it, indexed by :data:`SAMPLE` and patient."""
    errors = scores[scores["metric"] == study.evaluation.metric]
    elsewhere = errors[~errors["intervened"]].groupby(SAMPLE[:2])
    chosen = {name: errors[errors["intervened"] & (errors["structure"] == name)] for name in study.structures}
    read = scores[scores["metric"] == AttributeReading.name]
    for name in _predicted(study):
        chosen[name] = read[(read["intervention"] == name) & (read["structure"] == name)]
    if len(elsewhere):
        chosen[WORST] = elsewhere.get_group(elsewhere["value"].mean().idxmax())
    whole = scores[scores["structure"] == ""]
    chosen |= {metric.name: whole[whole["metric"] == metric.name] for metric in pooled(study)}
    for column, found in chosen.items():
        if found["value"].notna().any():
            yield column, found.set_index([*SAMPLE, "patient"])["value"]


def _mean(values: pd.Series, spec: EvaluationSpec) -> Row:
    patients = values.index.get_level_values("patient")
    means = bootstrap_means(values.to_numpy()[:, None], patients, spec.bootstrap, seed=spec.seed)
    value, low, high = (None if np.isnan(field[0]) else float(field[0]) for field in means[:3])
    return {"value": value, "ci_low": low, "ci_high": high, "n": int(means.n[0])}


def _difference(pairs: pd.Series | None, spec: EvaluationSpec) -> Row:
    found = _mean(pairs, spec) if pairs is not None else {}
    fields = {"difference": "value", "difference_low": "ci_low", "difference_high": "ci_high"}
    return {name: found.get(field) for name, field in fields.items()}


def render_comparison(rows: Sequence[Row], study: Study, title: str, runs: Mapping[str, str]) -> str:
    """The rows of :func:`compare` as Markdown; ``runs`` are all runs, and of each what is to be said about it."""
    columns = [
        *(Column(name, plain(name)) for name in (*study.structures, *_predicted(study))),
        Column(WORST, "elsewhere, worst"),
        *(Column(m.name, m.words(study).title, m.digits, m.factor) for m in pooled(study)),
        Column(SECONDS, "training, s", digits=0),
    ]
    found = {(row["variant"], row["method"], row["column"]): row for row in rows}
    used = [column for column in columns if any(row["column"] == column.name for row in rows)]
    lines = dict.fromkeys((row["variant"], row["method"]) for row in rows)
    body = [
        [run, method_name(method), *(_cell(found.get((run, method, column.name)), column) for column in used)]
        for run, method in lines
    ]
    first = next(iter(runs))
    about = {*study.structures, *_predicted(study)}
    samples = max((row["n"] for row in rows if row["column"] in about), default=0)
    shown = {column.name for column in used}
    explained = "\n".join(filter(None, (metric.line(study) for metric in pooled(study) if metric.name in shown)))
    said = "\n".join(f"- {run}: {text}" if text else f"- {run}" for run, text in runs.items())
    return f"""\
# {title}: {len(runs)} variants of {study.name}, judged on {samples} validation people

{grid(["variant", "method", *(column.head for column in used)], body, labels=2)}

{_errors_in_words(study)}
{explained}
- training: seconds of all parts that the method needs, as recorded when they were trained.

Differences between images are in grey levels (0 to 255), and lower is better where nothing else is said.
± is half the width of the 95 % bootstrap interval over people. ↓ and ↑: lower and higher than {first}, same method;
the 95 % interval of the difference, person by person, does not contain 0. Of twenty comparisons in which nothing
differs one is marked by chance, and another seed of training may differ as well.

{said}
"""


def _predicted(study: Study) -> tuple[str, ...]:
    """The attributes that somebody judges."""
    return study.attributes if study.predictor_judge is not None else ()


def _errors_in_words(study: Study) -> str:
    """What the columns of structures and attributes are, a line each."""
    lines = []
    if study.structures:
        error, word = error_of(study), Measurements.of(study).word
        names = ", ".join(plain(name) for name in study.structures)
        lines += [
            f"- {names}: error ({error.name.upper()}) of that structure's {word} in {error.unit(study)},\n"
            "  when it is the one intervened on; lower is better.",
            "- elsewhere, worst: the largest error of a structure under an intervention on something else.",
        ]
    if _predicted(study):
        names = ", ".join(plain(name) for name in _predicted(study))
        lines += [
            f"- {names}: error of what an independent predictor reads, when it is intervened on; lower is better."
        ]
    return "\n".join(lines)


def _cell(row: Row | None, column: Column) -> str:
    """Value, half-width of its interval, and an arrow where it differs from the first run's."""
    if row is None or row["value"] is None:
        return ""
    digits, factor = column.digits, column.factor
    text = f"{factor * row['value']:.{digits}f}"
    if row["ci_low"] is not None:
        text += f" ±{factor * (row['ci_high'] - row['ci_low']) / 2:.{digits}f}"
    if row["difference_low"] is not None and row["difference_low"] > 0:
        text += " ↑"
    if row["difference_high"] is not None and row["difference_high"] < 0:
        text += " ↓"
    return text
