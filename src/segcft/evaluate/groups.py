"""How well answers are in groups of subjects, such as those of one hospital, of women, or of the older half.

A mean over all hides a hospital where nothing works. Groups are of the values of a variable (of a number, those up to
its median and those above it) or of a further column of the table, as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate import names
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import Metric
from segcft.evaluate.metrics.slope import Slope
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.scores import Row, Scores
from segcft.evaluate.table import cell, grid
from segcft.utils.atomic import write_text

FEWEST = 5
"""Patients of a group about which a mean says something."""

Groups = Mapping[str, Mapping[str, NDArray[np.str_]]]
"""By variable or column and by what its subjects have in common: the ids of samples."""


def groups_of(study: Study, store: Store, rows: NDArray[np.int64]) -> Groups:
    """The groups among ``rows`` of the store that ``evaluation.groups`` names, those of too few patients left out."""
    table = store.table.iloc[rows]
    ids, patients = table["id"].to_numpy(dtype=str), table["patient"].to_numpy(dtype=str)
    found: dict[str, dict[str, NDArray[np.str_]]] = {}
    for name in study.evaluation.groups:
        labels = _labels(study, store, rows, name)
        members = {label: labels == label for label in sorted(set(labels) - {""})}
        found[name] = {label: ids[among] for label, among in members.items() if len(set(patients[among])) >= FEWEST}
    return found


def _labels(study: Study, store: Store, rows: NDArray[np.int64], name: str) -> NDArray[np.str_]:
    """What each of the rows has, in words; "" where nobody knows. What was inferred of a sample is not known of it."""
    column = store.table[name].iloc[rows]
    if name not in study.variables or study.variables[name].categories:
        return column.astype(object).where(column.notna(), "").to_numpy(dtype=str)
    return halves(column.to_numpy(dtype=float), study.variables[name].unit)


def halves(values: NDArray[np.floating], unit: str) -> NDArray[np.str_]:
    """In words whether each of the values (N,) is up to their median or above it; "" where it is NaN."""
    known = ~np.isnan(values)
    middle = float(np.median(values[known])) if known.any() else np.nan
    shown = f"{middle:.6g} {unit}".strip()
    said = np.where(values <= middle, f"up to {shown}", f"above {shown}")
    return np.where(known, said, "")


def write_groups(scores: pd.DataFrame, groups: Groups, study: Study, folder: Path) -> str:
    """Write ``groups.json``, the rows of every group, and return them as a part of the table; "" without groups.

    Args:
        scores: the results of all samples (:meth:`Scores.by_sample`).
        groups: see :func:`groups_of`.
        study: of the samples.
        folder: of the table.
    """
    path = folder / "groups.json"
    if not any(groups.values()):
        path.unlink(missing_ok=True)
        return ""
    metrics: list[Metric] = [error_of(study), Slope()]
    wanted = scores["metric"].isin([metric.name for metric in metrics])
    scores = scores[wanted & (scores["intervened"] | (scores["method"] == names.JUDGE))]
    rows = list(_rows(scores, groups, study))
    write_text(path, json.dumps(rows, indent=1, allow_nan=False) + "\n")
    return "\n\n".join(["", *(_section(rows, metric, study) for metric in metrics)])


def _rows(scores: pd.DataFrame, groups: Groups, study: Study) -> Iterator[Row]:
    for name, members in groups.items():
        for label, ids in members.items():
            own = scores[scores["id"].isin(ids)]
            if own.empty:
                continue
            samples = own.drop_duplicates("id")
            patients = samples["patient"].tolist()
            for row in Scores.joined([own]).rows(patients, study.evaluation.bootstrap, study.evaluation.seed):
                yield {"group": name, "of": label, "samples": len(samples)} | row


def _section(rows: list[Row], metric: Metric, study: Study) -> str:
    """A metric of every group, of the structure intervened on, in Markdown."""
    body = []
    index = {(r["group"], r["of"], r["method"], r["metric"], r["structure"]): r for r in rows}
    methods = names.in_order(row["method"] for row in rows)
    for group, of, samples in dict.fromkeys((row["group"], row["of"], row["samples"]) for row in rows):
        for method in methods:
            found = [index.get((group, of, method, metric.name, structure)) for structure in study.structures]
            if any(found):
                cells = (cell(row and row | {"intervened": False}, metric) for row in found)  # bold would be all
                body.append([f"{plain(group)}: {of}", str(samples), method_name(method), *cells])
    head = ["group", "samples", "method", *map(plain, study.structures)]
    return f"""\
## By group: {metric.words(study).label}, of the structure intervened on

{grid(head, body, labels=1)}"""
