"""Locality: does the image change where the structure is, and only there?"""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.grid import Grid


def share_inside(difference: Tensor, region: Tensor) -> Tensor:
    """Share of the absolute difference (B, C, *size) inside the region (B, *size), (B,); NaN without any."""
    change = difference.abs().sum(dim=1)
    return (change * region).flatten(1).sum(dim=1) / change.flatten(1).sum(dim=1)  # 0 / 0 is NaN


def share_near(difference: Tensor, before: Tensor, after: Tensor, radius: int) -> Tensor:
    """Share of the absolute difference (B, C, *size) within ``radius`` of a structure where it was or is, (B, *size)
    bool each, (B,); NaN without a difference, and where there was and is no structure, as nothing is near that."""
    region = before | after
    share = share_inside(difference, Grid(tuple(region.shape[1:])).dilate(region, radius))
    return torch.where(region.flatten(1).any(dim=1), share, torch.nan)


def mean_inside(difference: Tensor, region: Tensor) -> Tensor:
    """Mean of the absolute difference (B, C, *size) inside the region (B, *size), (B,); NaN if empty."""
    change = difference.abs().mean(dim=1)
    return (change * region).flatten(1).sum(dim=1) / region.flatten(1).sum(dim=1)


def changed_region(before: Tensor, after: Tensor, radius: int) -> Tensor:
    """Where masks (B, S, *size), bool, of structures that changed were or are, dilated, (B, *size)."""
    grid = Grid.like(before)
    changed = grid.over_space((before != after).flatten(2).any(dim=2))
    return grid.dilate(((before | after) & changed).any(dim=1), radius)
