"""Balancing by design: who gets which value, so that a variable and a label become independent.

Every label gets every training subject's value of the variable equally often, so that the variable has the marginal
distribution of the whole training set whatever the label is. An original image counts where its own value is due to its
own label, and the rest are counterfactuals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Request(NamedTuple):
    """A subject with this ``label`` is to get the value of the subject ``donor``; ``tries``: how many failed."""

    label: int
    donor: int
    tries: int = 0


def requests(labels: NDArray[np.int64], draws: int = 1, originals: bool = True) -> list[Request]:
    """The counterfactuals that balance subjects with ``labels`` (N,).

    With ``originals`` the images themselves are in the balanced set too, each once, and need no counterfactual: then
    there are ``draws`` * N * L - N requests for L labels that occur, else N more.
    """
    return [
        Request(int(label), donor)
        for draw in range(draws)
        for label in np.unique(labels)
        for donor, own in enumerate(labels)
        if not (originals and draw == 0 and own == label)
    ]


class SubjectSampler:
    """Draws subjects of a label without replacement, and all of them anew once there are none left."""

    def __init__(self, labels: NDArray[np.int64], seed: int) -> None:
        self._orders = {int(label): _permutations(np.flatnonzero(labels == label), seed) for label in np.unique(labels)}

    def next(self, label: int) -> int:
        """The next subject, an index into the labels."""
        return next(self._orders[label])


def _permutations(subjects: NDArray[np.int64], seed: int) -> Iterator[int]:
    random = np.random.default_rng([seed, int(subjects[0])])  # a stream of its own for each label
    while True:
        yield from random.permutation(subjects).tolist()


def correlation_ratio(labels: ArrayLike, values: ArrayLike) -> float:
    """The share of the variance of ``values`` (N,) that ``labels`` (N,) explain, eta squared: 0 (equal means) to 1.

    Reference: Fisher 1925. NaN where values do not vary.
    """
    values = np.asarray(values, dtype=np.float64)
    _, label, size = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    means = np.bincount(label, values) / size
    total = float(values.var())
    return float(np.average((means - values.mean()) ** 2, weights=size)) / total if total > 0 else float("nan")
