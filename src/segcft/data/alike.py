"""The same picture in two sources of a study, whatever was done to its greys and size.

Public sets share images, with other names and other windows. One picture in training and in test makes every figure too
good, and a comparison of pixels does not find it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from segcft.data.resize import average
from segcft.data.store import SOURCE, Store
from segcft.io.reject import Remark

SIDE = 24
"""Pixels a side of what is compared."""

COPY = 0.93
"""Correlation from which two pictures are called one. Of radiographs of three hospitals no two of different hospitals
reach 0.84; copies of one with other greys or another height 0.93 to 1, and half of those that lost a border of 2 %."""

BLOCK = 1024
"""Pictures that are compared with those of another source at once."""


def copies(store: Store) -> Iterator[tuple[int, int]]:
    """Rows of the store whose pictures are of different sources and look like one, each the other's likest."""
    if SOURCE not in store.table:
        return
    names, codes = np.unique(store.table[SOURCE].to_numpy(dtype=str), return_inverse=True)
    rows = [np.flatnonzero(codes == code) for code in range(len(names))]
    looks = [_ranks(store, own) for own in rows] if len(names) > 1 else []
    for one, other in itertools.combinations(range(len(looks)), 2):
        for mine, theirs in _pairs(looks[one], looks[other]):
            yield int(rows[one][mine]), int(rows[other][theirs])


def check_copies(store: Store) -> list[Remark]:
    """A remark on pictures that are in two sources, if there are some."""
    found = list(copies(store))
    if not found:
        return []
    ids = store.table["id"].astype(str)
    one, two = found[0]
    text = (
        f"{store.folder}: {len(found)} pictures are in two sources, as it looks; the first: {ids.iloc[one]} and "
        f"{ids.iloc[two]}. One may train while the other is tested. Look at them, and leave one of each out"
    )
    return [Remark("pictures are in two sources", text)]


def _pairs(one: NDArray[np.float32], other: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Places in two sources' pictures (N, D) and (M, D) that look like one, each the other's likest.

    They do in what sets each apart from the mean of these two sources: what both have in common is no picture's own.
    """
    middle = (one.mean(axis=0) + other.mean(axis=0)) / 2
    mine, theirs = _directions(one - middle), _directions(other - middle)
    likest = np.full(len(other), -np.inf, dtype=np.float32)  # of each of the others, and which one that is
    which = np.zeros(len(other), dtype=np.int64)
    found: list[tuple[int, int]] = []
    for first in range(0, len(one), BLOCK):
        alike = mine[first : first + BLOCK] @ theirs.T
        found += [(first + int(k), int(alike[k].argmax())) for k in np.flatnonzero(alike.max(axis=1) >= COPY)]
        here = alike.max(axis=0)
        which = np.where(here > likest, first + alike.argmax(axis=0), which)
        likest = np.maximum(here, likest)
    yield from ((a, b) for a, b in found if which[b] == a)


def _ranks(store: Store, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pictures as the ranks of their pixels, (N, SIDE * SIDE), so that no curve of greys matters."""
    small = np.stack([average(store.images[row].mean(axis=0), (SIDE, SIDE)).ravel() for row in rows])
    ranks: NDArray[np.float32] = rankdata(small, axis=1).astype(np.float32)
    return ranks


def _directions(looks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of length 1 and mean 0."""
    looks = looks - looks.mean(axis=1, keepdims=True)
    directions: NDArray[np.float32] = looks / np.linalg.norm(looks, axis=1, keepdims=True).clip(min=1)
    return directions
