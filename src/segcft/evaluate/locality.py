"""Locality: does the image change where the structure is, and only there?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def radius(dilation: float, size: tuple[int, ...]) -> int:
    """A share of the image's longer side in pixels, at least 1."""
    return max(1, round(dilation * max(size)))


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Every pixel within ``radius`` pixels of masks (B, H, W), bool."""
    steps = torch.arange(-radius, radius + 1, device=mask.device)
    disk = (steps[:, None] ** 2 + steps[None] ** 2 <= radius**2).float()
    return F.conv2d(mask[:, None].float(), disk[None, None], padding=radius)[:, 0] > 0.5


def share_inside(difference: Tensor, region: Tensor) -> Tensor:
    """Share of the absolute difference (B, C, H, W) inside the region (B, H, W), (B,); NaN without any."""
    size = difference.abs().sum(dim=1)
    return (size * region).sum(dim=(1, 2)) / size.sum(dim=(1, 2))  # 0 / 0 is NaN


def share_near(difference: Tensor, before: Tensor, after: Tensor, radius: int) -> Tensor:
    """Share of the absolute difference (B, C, H, W) within ``radius`` of a structure where it was or is, (B, H, W) bool
    each, (B,); NaN without a difference, and where there was and is no structure, as nothing is near that."""
    region = before | after
    share = share_inside(difference, dilate(region, radius))
    return torch.where(region.any(dim=2).any(dim=1), share, torch.nan)


def mean_inside(difference: Tensor, region: Tensor) -> Tensor:
    """Mean of the absolute difference (B, C, H, W) inside the region (B, H, W), (B,); NaN if empty."""
    size = difference.abs().mean(dim=1)
    return (size * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2))


def changed_region(before: Tensor, after: Tensor, radius: int) -> Tensor:
    """Where masks (B, S, H, W), bool, of structures that changed were or are, dilated, (B, H, W)."""
    changed = (before != after).any(dim=(2, 3), keepdim=True)
    return dilate(((before | after) & changed).any(dim=1), radius)
