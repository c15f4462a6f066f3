"""The area of a structure in an image, or its volume in a volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segcft.grid import Grid
from segcft.measures.measure import FULL, MEASURES, Measure


class Area(Measure):
    """The sum of a mask over space. Of a soft mask it is the sum of the probabilities (Xia et al.)."""

    word, verb = "area", "sum to"
    adds_up = True

    def called(self, grid: Grid) -> str:
        return "volume" if grid.dimensions == 3 else self.word

    def unit(self, grid: Grid) -> str:
        return grid.cell_unit

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return 0.0, grid.extent

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        return grid.total(masks)

    def exact(self, coverage: NDArray[np.uint8], grid: Grid) -> NDArray[np.float64]:
        covered: NDArray[np.float64] = coverage.sum(axis=grid.axes, dtype=np.int64) / FULL * grid.cell_size
        return covered


MEASURES.add("area", Area())
