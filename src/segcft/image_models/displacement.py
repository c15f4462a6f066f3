"""Smooth displacements of the frame, by which the image mechanism moves outlines.

A displacement d (B, 2, H, W) takes pixel p to the place p + d(p); x and y are in halves of the frame, as in
:func:`torch.nn.functional.grid_sample`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ITERATIONS = 3
"""Of the inversion of a displacement. Each divides the error by the inverse of the displacement's steepness."""


class Displacement(nn.Module):
    """Reads a displacement from features (B, width, h, w). It begins as no displacement at all.

    Args:
        width: channels of the features.
        spacing: pixels between the nodes of the displacement, which is cubic in between.
        reach: the largest displacement, as a share of the frame.
    """

    def __init__(self, width: int, spacing: int, reach: float) -> None:
        super().__init__()
        self.spacing, self.reach = spacing, reach
        self.narrow = nn.Conv2d(width, width, 3, padding=1)
        self.displace = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.displace.weight)
        nn.init.zeros_(self.displace.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The displacement of every pixel of ``size``, (B, 2, H, W)."""
        nodes = (max(2, -(-size[0] // self.spacing)), max(2, -(-size[1] // self.spacing)))
        pooled = F.adaptive_avg_pool2d(F.silu(features), nodes)
        at_nodes = 2 * self.reach * torch.tanh(self.displace(F.silu(self.narrow(pooled))))
        return F.interpolate(at_nodes, size=size, mode="bicubic")


def displaced(maps: Tensor, displacement: Tensor) -> Tensor:
    """``maps`` (B, C, H, W) at every pixel's displaced place; beyond the frame its edge goes on."""
    return _at(maps, _places(displacement) + displacement)


def between(before: Tensor, after: Tensor) -> Tensor:
    """The displacement from each pixel of the frame ``after`` to the pixel of ``before`` with the same place.

    It is 0 where both displacements are equal, and found by fixed-point iteration elsewhere.
    """
    pixels = _places(before)
    places = pixels + after
    found = places - before
    for _ in range(ITERATIONS - 1):
        found = places - _at(before, found)
    return found - pixels


def _at(maps: Tensor, places: Tensor) -> Tensor:
    # A place that is not a number would be read outside the memory of the map (on a CPU, the backward pass).
    places = places.nan_to_num().permute(0, 2, 3, 1)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def _places(like: Tensor) -> Tensor:
    """The pixels' own places, (1, 2, H, W): x and y in [-1, 1]."""
    y, x = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) * (2 / n) - 1 for n in like.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
