"""Effectiveness: does the image show the areas that were asked for?

For do(s := v), with v from the test marginal, an independent judge reads the areas of the counterfactual
image, of the structure intervened on and of the others, and they are compared with the counterfactual's own.
References: Monteiro et al. 2023 (the axiom); Xia et al. (areas read by a segmentor).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segcft.data.grey import to_grey_levels, to_unit
from segcft.readers.reader import MaskReader
from segcft.readers.segmentor import dice


def saved(image: Tensor) -> Tensor:
    """The image in [-1, 1] as its file would show it: rounded to grey levels."""
    return to_unit(to_grey_levels(image))


def from_marginal(values: Tensor, seed: int, column: int) -> Tensor:
    """A value for each of N people from their own marginal: column ``column`` of (N, V), shuffled, (N,).

    The shuffle depends on the seed and the column alone, not on which interventions were made before.
    """
    order = np.random.default_rng([seed, column]).permutation(len(values))
    return values[torch.from_numpy(order).to(values.device), column]


def area_error(read: Tensor, asked: Tensor, metric: Literal["mape", "mae"]) -> Tensor:
    """Error of areas read (B, S) against those asked for (B, S): in % of these (mape) or in their unit (mae).

    A percentage of an area that is not positive is NaN.
    """
    error = (read - asked).abs()
    if metric == "mae":
        return error
    return torch.where(asked > 0, 100 * error / asked, torch.nan)


def slope(obtained: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Of obtained on asked changes, both (B,): each sample's own slope (NaN if nothing was asked), and its weight.

    Their weighted mean is the least-squares slope through the origin, sum(obtained * asked) / sum(asked ** 2). It has
    no intercept: changes are between two readings of one judge, so its bias cancels, and where nothing is asked for
    nothing changes. The judge's noise is in the obtained changes only, so it does not flatten the slope.
    """
    return torch.where(asked == 0, torch.nan, obtained / asked), asked.square()


def overlap(judge: MaskReader, image: Tensor, mask: Tensor) -> Tensor:
    """Dice of the masks of ``image`` with the true ones (B, S, H, W), in 0..1, thresholded at 0.5; NaN for whoever
    lacks the structure."""
    return dice((judge.masks(image) > 0.5).float(), (mask > 0.5).float())
