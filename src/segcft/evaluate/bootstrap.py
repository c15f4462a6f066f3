"""Percentile bootstrap intervals of many means at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 22  # resampling counts held at once


class Means(NamedTuple):
    """``value``, ``low``, ``high``: (R,), NaN where there is none; ``n`` (R,): samples that count."""

    value: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]


def bootstrap_means(
    values: Floats,
    patients: ArrayLike,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    weights: Floats | None = None,
) -> Means:
    """Means of the columns of ``values`` (N, R), NaN ignored, with percentile intervals (Efron 1979).

    Patients are resampled, not samples: several images of one patient are not independent. All columns see
    the same resamples. The mean of a resample is a ratio, of its sum to its weight, so that a column may have
    gaps. A column that fewer than two patients contribute to has no interval.

    Args:
        values: (N, R), a row a sample, a column a quantity.
        patients: (N,), who each sample is of.
        draws: resamples.
        level: coverage that the interval aims at.
        seed: of the resampling.
        weights: (N, R), not negative, what each value counts; by default all count alike.
    """
    counting = np.where(np.isnan(values), 0.0, 1.0 if weights is None else weights)
    value, drawn, few = _resampled(values, counting, patients, draws, seed)
    low, high = _percentiles(drawn, level)
    return Means(value, np.where(few, np.nan, low), np.where(few, np.nan, high), (counting > 0).sum(axis=0))


def bootstrap_of_means(
    values: Floats,
    patients: ArrayLike,
    of_means: Callable[[Floats], Floats],
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Means:
    """One number that ``of_means`` makes of the means of the columns of ``values`` (N, M), (..., M) to (...): a
    correlation, for instance. Its interval is as in :func:`bootstrap_means`; all fields are (1,).

    A row with NaN is left out whole. A resample of which there is no number does not count.
    """
    counting = np.repeat(~np.isnan(values).any(axis=1, keepdims=True), values.shape[1], axis=1).astype(float)
    value, drawn, few = _resampled(values, counting, patients, draws, seed)
    low, high = _percentiles(of_means(drawn)[:, None], level)
    n = counting[:, :1].sum(axis=0).astype(np.int64)
    return Means(of_means(value[None]), np.where(few[:1], np.nan, low), np.where(few[:1], np.nan, high), n)


def _resampled(
    values: Floats, counting: Floats, patients: ArrayLike, draws: int, seed: int
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of columns (N, R), in which each value counts ``counting``: their means (R,), those of resamples of the patients
    (draws, R), and whether fewer than two patients contribute (R,)."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    subjects = int(owner.max()) + 1
    sums, counts = np.zeros((subjects, values.shape[1])), np.zeros((subjects, values.shape[1]))
    np.add.at(sums, owner, np.where(counting > 0, values * counting, 0.0))
    np.add.at(counts, owner, counting)

    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // subjects)
    means = []
    for first in range(0, draws, block):
        # How often each patient is drawn; the resampled mean is then a product of matrices.
        times = random.multinomial(subjects, np.full(subjects, 1 / subjects), size=min(block, draws - first))
        means.append(_ratio(times @ sums, times @ counts))
    few = (counts > 0).sum(axis=0) < 2
    return _ratio(sums.sum(axis=0), counts.sum(axis=0)), np.concatenate(means), few


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _percentiles(means: Floats, level: float) -> tuple[Floats, Floats]:
    """Of each column, ignoring resamples that no value of the column was drawn into."""
    limits = np.full((2, means.shape[1]), np.nan)
    some = ~np.isnan(means).all(axis=0)
    tail = 50 * (1 - level)
    if some.any():
        limits[:, some] = np.nanpercentile(means[:, some], [tail, 100 - tail], axis=0)
    return limits[0], limits[1]
