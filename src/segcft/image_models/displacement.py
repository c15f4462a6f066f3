"""Smooth displacements of the frame, by which the image mechanism moves outlines.

A displacement d (B, axes, *size) takes pixel p to the place p + d(p); x, y (and z) are in halves of the frame, as in
:func:`torch.nn.functional.grid_sample`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.grid import Grid

ITERATIONS = 3
"""Of the inversion of a displacement. Each divides the error by the inverse of the displacement's steepness."""


class Displacement(nn.Module):
    """Reads a displacement from features (B, width, *any). It begins as no displacement at all.

    Args:
        grid: of the images.
        width: channels of the features.
        spacing: pixels between the nodes of the displacement, which is smooth in between.
        reach: the largest displacement, as a share of the frame.
    """

    def __init__(self, grid: Grid, width: int, spacing: int, reach: float) -> None:
        super().__init__()
        self.grid, self.reach = grid, reach
        self.nodes = tuple(max(2, -(-pixels // spacing)) for pixels in grid.size)
        self.narrow = grid.conv(width, width, 3)
        self.displace = grid.conv(width, grid.dimensions, 3)
        nn.init.zeros_(self.displace.weight)
        nn.init.zeros_(self.displace.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """The displacement of every pixel, (B, axes, *size)."""
        pooled = self.grid.pool(F.silu(features), self.nodes)
        at_nodes = 2 * self.reach * torch.tanh(self.displace(F.silu(self.narrow(pooled))))
        return self.grid.smooth(at_nodes, self.grid.size)


def displaced(maps: Tensor, displacement: Tensor) -> Tensor:
    """``maps`` (B, C, *size) at every pixel's displaced place; beyond the frame its edge goes on."""
    grid = Grid.like(maps)
    return grid.sample(maps, grid.places(displacement) + displacement)


def between(before: Tensor, after: Tensor) -> Tensor:
    """The displacement from each pixel of the frame ``after`` to the pixel of ``before`` with the same place.

    It is 0 where both displacements are equal, and found by fixed-point iteration elsewhere.
    """
    grid = Grid.like(before)
    pixels = grid.places(before)
    places = pixels + after
    found = places - before
    for _ in range(ITERATIONS - 1):
        found = places - grid.sample(before, found)
    return found - pixels
