"""The support of the training samples: the range of each variable that they cover, without a few values far off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from segcft.config.variable import Variable

FAR = 2.0
"""A gap of more than this many interquartile ranges parts a few values from all others: they are mistakes, or else
samples of which a model has learnt nothing. Such a gap is in none of the tables that come with the models."""

FEW = 0.05
"""The most samples, as a share of all, that are left out at one end for such a gap."""

MANY = 0.25
"""From this share of zeros on, 0 means that there is none of something, as of pack years. Quartiles and gaps are then
those of the other values."""


def limits(variable: Variable, values: NDArray[np.floating]) -> tuple[float, float]:
    """The smallest and the largest value in whose neighbourhood there are training samples.

    A few values (:data:`FEW`) that a gap (:data:`FAR`) parts from the others are left out, so that one weight of 999
    among weights in kg does not make 300 an ordinary one. Of a variable on a logarithmic scale the gap is that between
    logarithms of positive values.

    Args:
        variable: continuous, or categorical: then its indices, of which none is left out.
        values: of the samples, (N,); NaN is missing. There is at least one that is not.
    """
    known = np.sort(values[~np.isnan(values)].astype(np.float64))
    low, high = float(known[0]), float(known[-1])
    if variable.categories:
        return low, high
    absent = low == 0 and np.mean(known == 0) >= MANY
    near = known[known > 0] if variable.scale == "log" or absent else known
    if len(near) == 0:
        return low, high
    scaled = np.log(near) if variable.scale == "log" else near
    quartiles = np.quantile(scaled, [0.25, 0.75])
    wide = np.diff(scaled) > FAR * (quartiles[1] - quartiles[0])
    few = int(np.ceil(FEW * len(near)))
    if quartiles[0] < quartiles[1] and len(near) > 2 * few:
        first = int(np.flatnonzero(wide[:few])[-1]) + 1 if wide[:few].any() else 0
        last = len(near) - few + int(np.flatnonzero(wide[-few:])[0]) - 1 if wide[-few:].any() else len(near) - 1
        # A 0 that many have is ordinary, although on a logarithmic scale it is far from everything.
        low, high = float(near[first]) if len(near) == len(known) else low, float(near[last])
    return low, high


def all_limits(
    variables: Mapping[str, Variable], values: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """:func:`limits` of every variable, smallest and largest values (V,), from the samples' values (N, V)."""
    found = [limits(variable, values[:, k]) for k, variable in enumerate(variables.values())]
    low, high = np.array(found, dtype=np.float32).T
    return low, high
