"""Accuracies with intervals, from what every classifier of every arm got right of every person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Correct = NDArray[np.bool_]
"""(seeds, people)"""


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


class Resamples:
    """Percentile bootstrap (Efron 1979) of the mean over seeds and people, both resampled, the same for all arms.

    Args:
        seeds, people: how many.
        draws: resamples.
    """

    def __init__(self, seeds: int, people: int, draws: int = 2000) -> None:
        random = np.random.default_rng(0)
        self.seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
        self.people = random.multinomial(people, np.full(people, 1 / people), size=draws)

    def mean(self, values: NDArray[np.floating], who: NDArray[np.bool_]) -> Interval:
        """The mean of 100 * ``values`` (seeds, people) over the people ``who`` (people,), with a 95 % interval."""
        weights = self.people * who
        drawn = np.einsum("ds,sp,dp->d", self.seeds, values.astype(np.float64), weights, optimize=True)
        drawn = drawn / (self.seeds.sum(axis=1) * weights.sum(axis=1))
        low, high = np.percentile(100 * drawn, [2.5, 97.5])
        return Interval(100 * float(values[:, who].mean()), float(low), float(high))


def accuracies(
    correct: Mapping[str, Correct], groups: Mapping[str, NDArray[np.bool_]], differences: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, Interval]]:
    """Row -> column -> per cent.

    A row is an arm or one of ``differences``, (minuend, subtrahend); a column is one of the ``groups`` of people
    (people,).
    """
    first = next(iter(correct.values()))
    resamples = Resamples(*first.shape)
    values = {name: one.astype(np.float64) for name, one in correct.items()}
    values |= {name: values[a] - values[b] for name, (a, b) in differences.items()}
    return {name: {group: resamples.mean(one, who) for group, who in groups.items()} for name, one in values.items()}


def markdown(rows: Mapping[str, Mapping[str, Interval]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| trained on | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(map(str, row.values()))} |" for name, row in rows.items())])
