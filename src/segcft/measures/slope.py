"""Slope of obtained on asked changes: how much of a change that is asked for is obtained?"""

from __future__ import annotations

import torch
from torch import Tensor


def slopes(obtained: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Of obtained on asked changes, both (B,): each sample's own slope (NaN if nothing was asked), and its weight.

    Their weighted mean is the least-squares slope through the origin, sum(obtained * asked) / sum(asked ** 2). It has
    no intercept: changes are between two readings of one reader, so its bias cancels, and where nothing is asked for
    nothing changes. The reader's noise is in the obtained changes only, so it does not flatten the slope.
    """
    return torch.where(asked == 0, torch.nan, obtained / asked), asked.square()


def slope(obtained: Tensor, asked: Tensor) -> float:
    """That least-squares slope, of changes (B,); NaN if nothing was asked of any sample."""
    return float((obtained * asked).sum() / asked.square().sum())
