"""Grey levels 0 to 255 as a network reads them, and back."""

from __future__ import annotations

import torch
from torch import Tensor

BLACK = -1.0
"""Of images in [-1, 1]."""
GREY_LEVELS = 255 / 2
"""Grey levels per unit of an image in [-1, 1]."""


def to_unit(image: Tensor) -> Tensor:
    """Grey levels 0..255 (uint8) to float32 in [-1, 1]."""
    return image.float().mul_(2 / 255).sub_(1)


def to_grey_levels(image: Tensor) -> Tensor:
    """[-1, 1] to the nearest grey level 0..255 (uint8)."""
    return image.clamp(-1, 1).add(1).mul(255 / 2).round().to(torch.uint8)


def rounded(image: Tensor) -> Tensor:
    """The image in [-1, 1] as its file shows it: at the nearest grey levels."""
    return to_unit(to_grey_levels(image))


def largest_change(change: Tensor, dim: int) -> Tensor:
    """Of changes whose axis ``dim`` is of channels, at each pixel that of the channel that changes most, with its sign.

    A change of hue alone, which may leave the mean over channels as it was, is seen. NaN stays NaN.
    """
    return change.gather(dim, change.abs().argmax(dim, keepdim=True)).squeeze(dim)
