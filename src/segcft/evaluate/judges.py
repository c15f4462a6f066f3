"""Several judges of one run's answers: what each reads of them, and how far they are from each other.

A judge that errs as a guide does flatters the method of that guide. What several judges say alike does not hang on one
of them; where they differ by more than the methods do, nobody knows which method is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segcft.config.study import Study
from segcft.evaluate import names
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import METRICS, Metric
from segcft.evaluate.metrics.slope import Slope
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.scores import Row
from segcft.evaluate.table import grid


def compare(study: Study, tables: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """What judges say of the structure intervened on, a row for each method, intervention and metric.

    Args:
        study: of the run.
        tables: judge -> the rows of the evaluation by it, of the same samples and questions.

    Returns:
        rows with method, intervention, structure, metric, ``judges`` (judge -> value, None where it says nothing),
        ``mean`` and ``range``, the largest less the smallest value; both are None unless all judges say something.
    """
    found: dict[tuple[str, str, str, str], dict[str, float | None]] = {}
    shown = {metric.name for metric in _metrics(study)}
    for judge, rows in tables.items():
        for row in rows:
            if row["intervened"] and row["metric"] in shown:
                key = (row["metric"], row["intervention"], row["structure"], row["method"])
                found.setdefault(key, dict.fromkeys(tables))[judge] = row["value"]
    compared = []
    for (metric, intervention, structure, method), said in found.items():
        known = [value for value in said.values() if value is not None]
        all_of_them = len(known) == len(tables)
        compared.append(
            {"method": method, "intervention": intervention, "structure": structure, "metric": metric, "judges": said}
            | {"mean": sum(known) / len(known) if all_of_them else None}
            | {"range": max(known) - min(known) if all_of_them else None}
        )
    return compared


def render_judges(study: Study, compared: Sequence[Mapping[str, Any]]) -> str:
    """The comparison in Markdown: a table a metric."""
    return "\n\n".join(
        [
            f"# {study.name}: the same answers, read by several judges",
            "Of the structure intervened on. The range is the largest value less the smallest.",
            *filter(None, (_section(study, metric, compared) for metric in _metrics(study))),
        ]
    )


def _metrics(study: Study) -> list[Metric]:
    """What hangs on who reads the answers."""
    return [error_of(study), METRICS[Slope.name]]


def _section(study: Study, metric: Metric, compared: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for row in compared if row["metric"] == metric.name]
    if not rows:
        return ""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{metric.factor * value:.{metric.digits}f}"

    body = [
        [plain(variable), method_name(method), *map(cell, [*row["judges"].values(), row["mean"], row["range"]])]
        for variable in dict.fromkeys(row["intervention"] for row in rows)
        for method in names.in_order(row["method"] for row in rows)
        for row in rows
        if (row["intervention"], row["method"]) == (variable, method)
    ]
    head = ["do", "method", *rows[0]["judges"], "mean", "range"]
    return f"## {metric.heading(study)}\n\n{grid(head, body, labels=2)}\n"
