"""True counterfactuals of real subjects: another image of the same thing, under another condition.

A heart at its widest and at its smallest, a knee before and after an operation: had the one image been taken under the
other's condition, it would have been the other.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.data.store import Store
from segcft.grid import Grid

Place = tuple[Any, ...]
"""What is the same in both images of a pair, beside the subject."""


NEAR, FADE = 0.08, 0.03
"""How far around the structures an image becomes the other one, and over what it does on either side of that; shares of
the longest side."""


class Direction(NamedTuple):
    """From one condition to another, e.g. from ED to ES."""

    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.before} to {self.after}"


class Pairs:
    """The pairs among the samples of a store, as ``study.evaluation.pairs`` says."""

    def __init__(self, study: Study, store: Store) -> None:
        assert study.evaluation.pairs is not None
        self.store, spec = store, study.evaluation.pairs
        conditions = study.variables[spec.condition].categories
        self.directions = [Direction(*ends) for ends in itertools.permutations(conditions, 2)]
        table = store.table[["patient", "split", spec.condition, *spec.place]]
        self._known = (table.notna() & (table != "")).all(axis=1).to_numpy()
        # A patient is in one part; whoever made the store otherwise has no pair across parts.
        self._owner = list(zip(table["patient"], table["split"], strict=True))
        self._condition = table[spec.condition].tolist()
        self.places: list[Place] = list(table[list(spec.place)].itertuples(index=False, name=None))
        """Of each sample."""
        self._rows: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for row in np.flatnonzero(self._known).tolist():
            self._rows[self._owner[row], self.places[row], self._condition[row]].append(row)

    def others(self, rows: NDArray[np.int64], direction: Direction) -> NDArray[np.int64]:
        """The other image of each of ``rows`` (B,) of the store, (B,); -1 where the image is not of the condition
        before, its place is not known, or it has no other image under the condition after, or several."""
        return np.array([self._other(row, direction) for row in rows.tolist()], dtype=np.int64)

    def all_others(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of :meth:`others` that are among ``rows`` (B,), in each direction, (B, directions)."""
        found = np.stack([self.others(rows, direction) for direction in self.directions], axis=1)
        return np.where(np.isin(found, rows), found, -1)

    def _other(self, row: int, direction: Direction) -> int:
        if not self._known[row] or self._condition[row] != direction.before:
            return -1
        found = self._rows.get((self._owner[row], self.places[row], direction.after), [])
        return found[0] if len(found) == 1 else -1


def elsewhere_equal(image: Tensor, other: Tensor, masks: Tensor) -> Tensor:
    """The ``other`` image of a pair near the structures and the ``image`` itself elsewhere, both (B, C, *size).

    A counterfactual leaves equal what does not follow from the intervention. The rest of a body moves between two
    images as well, and nothing in the first one tells how.

    Args:
        masks: of structures in both, (B, any, *size).
    """
    grid = Grid.like(image)
    near = grid.dilate((masks > 0.5).any(dim=1), grid.radius(NEAR))[:, None].to(image.dtype)
    half = grid.radius(FADE)
    for axis in range(grid.dimensions):
        near = grid.extend(near, axis, half)
    return image + grid.running_mean(near, 2 * half + 1) * (other - image)
