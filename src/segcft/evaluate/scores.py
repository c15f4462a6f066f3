"""Per-sample results, collected batch by batch, and the rows that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from segcft.errors import Code, SegcftError
from segcft.evaluate.bootstrap import bootstrap_means
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
        """Results of one batch, (B,); NaN where a sample does not count. ``weights`` (B,): what each counts (1)."""
        key = Key(method, intervention, structure, metric, intervened)
        weights = torch.ones_like(values) if weights is None else weights
        for kept, numbers in ((self._parts, values), (self._weights, weights)):
            kept.setdefault(key, []).append(numbers.detach().cpu().double().numpy())

    def add_differences(self, name: str, method: str, other: str) -> None:
        """Differences between ``method`` and ``other``, sample by sample, as results of a method called ``name``: of
        the metrics that compare methods pair by pair."""
        for key in [key for key in self._parts if key.method == method]:
            pairs = zip(self._parts[key], self._parts.get(key._replace(method=other), []), strict=False)
            found = [METRICS[key.metric].difference(*pair) for pair in pairs]
            batches = [batch for batch in found if batch is not None]
            if batches:
                self._parts[key._replace(method=name)] = batches
                self._weights[key._replace(method=name)] = self._weights[key]

    def rows(self, patients: Sequence[str], draws: int, seed: int) -> list[Row]:
        """A row a key: the (weighted) mean over samples with its 95 % bootstrap interval over patients.

        Of some metrics it is the largest value instead, without an interval (:attr:`Metric.worst`).

        Raises:
            SegcftError: a metric has no results of some samples.
        """
        values, weights = (_columns(parts, len(patients)) for parts in (self._parts, self._weights))
        means = bootstrap_means(values, patients, draws, seed=seed, weights=weights)
        rows = []
        for column, key in enumerate(self._parts):
            value, low, high = (float(field[column]) for field in means[:3])
            if METRICS[key.metric].worst:
                value, low, high = float(values[:, column].max()), np.nan, np.nan
            rows.append(
                key._asdict()
                | {"value": _finite(value), "ci_low": _finite(low), "ci_high": _finite(high)}
                | {"n": int(means.n[column])}
            )
        return rows

    def by_sample(self, ids: Sequence[str], patients: Sequence[str]) -> pd.DataFrame:
        """A row a sample and key: ``id`` and ``patient``, the key's fields, the ``value`` and what it counts."""
        values, weights = (_columns(parts, len(patients)) for parts in (self._parts, self._weights))
        keys = pd.DataFrame(list(self._parts), columns=list(Key._fields))
        table = keys.loc[np.repeat(keys.index, len(ids))].reset_index(drop=True)
        table["id"], table["patient"] = list(ids) * len(keys), list(patients) * len(keys)
        table["value"], table["weight"] = values.T.ravel(), weights.T.ravel()
        return table


def _columns(parts: Mapping[Key, list[np.ndarray]], samples: int) -> np.ndarray:
    """(N, K): a row for each of N ``samples``, a column a key."""
    columns = {key: np.concatenate(batches) for key, batches in parts.items()}
    for key, column in columns.items():
        if len(column) != samples:
            why = (
                f"has {len(column)} results of {samples} samples (method {key.method!r}); expected one of each in all "
                "batches, NaN where a sample does not count"
            )
            raise SegcftError(Code.INVALID, f"metric {key.metric!r}", why)
    return np.stack(list(columns.values()), axis=1)


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return number if np.isfinite(number) else None
