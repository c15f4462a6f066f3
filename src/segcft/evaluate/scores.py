"""Per-sample results, collected batch by batch, and the rows that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from segcft.errors import Code, SegcftError
from segcft.evaluate.bootstrap import bootstrap_means, bootstrap_of_means
from segcft.evaluate.metrics.metric import METRICS

Row = dict[str, Any]


class Key(NamedTuple):
    """What a result is about; "" where a field does not apply."""

    method: str
    intervention: str
    structure: str
    metric: str
    intervened: bool


class Scores:
    """Results of the same samples under many keys. Batches are added in the order of the samples."""

    def __init__(self) -> None:
        self._parts: dict[Key, list[np.ndarray]] = {}
        self._weights: dict[Key, list[np.ndarray]] = {}
        self._several: dict[Key, list[np.ndarray]] = {}
        """Results of several columns, of metrics that are no means."""

    def add(
        self,
        method: str,
        metric: str,
        values: Tensor,
        *,
        intervention: str = "",
        structure: str = "",
        intervened: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        """Results of one batch, (B,), or (B, M) of a metric that is no mean; NaN where a sample does not count.
        ``weights`` (B,): what each counts (1)."""
        key = Key(method, intervention, structure, metric, intervened)
        if values.dim() > 1:
            self._several.setdefault(key, []).append(values.detach().cpu().double().numpy())
            return
        weights = torch.ones_like(values) if weights is None else weights
        for kept, numbers in ((self._parts, values), (self._weights, weights)):
            kept.setdefault(key, []).append(numbers.detach().cpu().double().numpy())

    def add_differences(self, name: str, method: str, other: str) -> None:
        """Differences between ``method`` and ``other``, sample by sample, as results of a method called ``name``: of
        all metrics that are means (:meth:`Metric.difference`)."""
        for key in [key for key in self._parts if key.method == method]:
            pairs = zip(self._parts[key], self._parts.get(key._replace(method=other), []), strict=False)
            found = [METRICS[key.metric].difference(*pair) for pair in pairs]
            batches = [batch for batch in found if batch is not None]
            if batches:
                self._parts[key._replace(method=name)] = batches
                self._weights[key._replace(method=name)] = self._weights[key]

    def rows(self, patients: Sequence[str], draws: int, seed: int) -> list[Row]:
        """A row a key: the (weighted) mean over samples with its 95 % bootstrap interval over patients.

        Of some metrics it is the worst value instead, without an interval (:attr:`Metric.worst`).

        Raises:
            SegcftError: a metric has no results of some samples.
        """
        values, weights = (_columns(parts, len(patients)) for parts in (self._parts, self._weights))
        means = bootstrap_means(values, patients, draws, seed=seed, weights=weights)
        rows = []
        for column, key in enumerate(self._parts):
            value, low, high = (float(field[column]) for field in means[:3])
            if METRICS[key.metric].worst:
                worst = np.nanmin if METRICS[key.metric].better == "higher" else np.nanmax
                known = values[:, column]
                value, low, high = float(worst(known)) if not np.isnan(known).all() else np.nan, np.nan, np.nan
            rows.append(_row(key, value, low, high, int(means.n[column])))
        for key, batches in self._several.items():
            of_means = METRICS[key.metric].of_means
            one = bootstrap_of_means(_column(key, batches, len(patients)), patients, of_means, draws, seed=seed)
            value, low, high = (float(field[0]) for field in one[:3])
            rows.append(_row(key, value, low, high, int(one.n[0])))
        return rows

    def by_sample(self, ids: Sequence[str], patients: Sequence[str]) -> pd.DataFrame:
        """A row a sample and key: ``id`` and ``patient``, the key's fields, the ``value`` and what it counts. Metrics
        that are no means are not in it."""
        values, weights = (_columns(parts, len(patients)) for parts in (self._parts, self._weights))
        keys = pd.DataFrame(list(self._parts), columns=list(Key._fields))
        table = keys.loc[np.repeat(keys.index, len(ids))].reset_index(drop=True)
        table["id"], table["patient"] = list(ids) * len(keys), list(patients) * len(keys)
        table["value"], table["weight"] = values.T.ravel(), weights.T.ravel()
        return table

    @classmethod
    def joined(cls, tables: Sequence[pd.DataFrame]) -> Scores:
        """The results of several evaluations, each of samples of its own, as :meth:`by_sample` wrote them.

        A result that one evaluation has and another has not does not count for the samples of the latter.
        """
        scores, fields = cls(), list(Key._fields)
        found = [{Key._make(key): part for key, part in table.groupby(fields, sort=False)} for table in tables]
        for key in dict.fromkeys(key for parts in found for key in parts):
            for table, parts in zip(tables, found, strict=True):
                part = parts.get(key)
                nothing = np.full(table["id"].nunique(), np.nan)
                values = nothing if part is None else part["value"].to_numpy()
                weights = np.ones_like(nothing) if part is None else part["weight"].to_numpy()
                own = key._replace(intervened=bool(key.intervened))  # not NumPy's, which JSON does not know
                scores._parts.setdefault(own, []).append(values)
                scores._weights.setdefault(own, []).append(weights)
        return scores


def _columns(parts: Mapping[Key, list[np.ndarray]], samples: int) -> np.ndarray:
    """(N, K): a row for each of N ``samples``, a column a key."""
    return np.stack([_column(key, batches, samples) for key, batches in parts.items()], axis=1)


def _column(key: Key, batches: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """The results of N ``samples``, (N,) or (N, M)."""
    column = np.concatenate(batches)
    if len(column) != samples:
        why = (
            f"has {len(column)} results of {samples} samples (method {key.method!r}); expected one of each in all "
            "batches, NaN where a sample does not count"
        )
        raise SegcftError(Code.INVALID, f"metric {key.metric!r}", why)
    return column


def _row(key: Key, value: float, low: float, high: float, n: int) -> Row:
    """A row of the table."""
    return key._asdict() | {"value": _finite(value), "ci_low": _finite(low), "ci_high": _finite(high), "n": n}


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return number if np.isfinite(number) else None
