"""The same picture in two sources of a study, whatever was done to its greys and size.

Public sets share images, with other names and other windows. One picture in training and in test makes every figure too
good, and a comparison of pixels does not find it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from segcft.data.resize import average
from segcft.data.store import SOURCE, Store
from segcft.io.reject import Remark

SIDE = 24
"""Pixels a side of what is compared."""

COPY = 0.93
"""Correlation from which two pictures are called one. Of radiographs of three hospitals no two of different hospitals
reach 0.84; copies of one with other greys or another height 0.93 to 1, and half of those that lost a border of 2 %."""

BLOCK = 4096
"""Pictures that are compared at once."""


def copies(store: Store) -> Iterator[tuple[int, int]]:
    """Rows of the store whose pictures are of different sources and look like one, the smaller row first."""
    if SOURCE not in store.table or len(store) < 2:
        return
    sources = store.table[SOURCE].to_numpy(dtype=str)
    looks = _looks(store)
    for first in range(0, len(store), BLOCK):
        here = slice(first, first + BLOCK)
        for other in range(first, len(store), BLOCK):
            there = slice(other, other + BLOCK)
            alike = looks[here] @ looks[there].T >= COPY
            alike &= sources[here, None] != sources[None, there]
            for one, two in zip(*np.nonzero(alike), strict=True):
                if first + one < other + two:
                    yield first + int(one), other + int(two)


def check_copies(store: Store) -> list[Remark]:
    """A remark on pictures that are in two sources, if there are some."""
    found = list(copies(store))
    if not found:
        return []
    ids, parts = store.table["id"].astype(str), store.table["split"].to_numpy(dtype=str)
    apart = sum((parts[one] == "test") != (parts[two] == "test") for one, two in found)
    one, two = found[0]
    text = (
        f"{store.folder}: {len(found)} pictures are in two sources, as it looks; the first: {ids.iloc[one]} and "
        f"{ids.iloc[two]}. {apart} of them are in the test part and in another. Look at them, and leave one of each "
        "out of its table"
    )
    return [Remark("pictures are in two sources", text)]


def _looks(store: Store) -> NDArray[np.float32]:
    """What is particular to each picture, of length 1: (N, SIDE * SIDE). By ranks, so no curve of greys matters."""
    small = np.stack([average(image.mean(axis=0), (SIDE, SIDE)).ravel() for image in store.images])
    ranks = small.argsort(axis=1).argsort(axis=1).astype(np.float32)
    own = ranks - ranks.mean(axis=0)
    own -= own.mean(axis=1, keepdims=True)
    looks: NDArray[np.float32] = own / np.linalg.norm(own, axis=1, keepdims=True).clip(min=1)
    return looks
