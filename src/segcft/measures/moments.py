"""Where the middle of a structure is, how it lies and how long it is: its first and second moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segcft.grid import Grid
from segcft.measures.measure import MEASURES, Measure, X, Y, sharpened

THIN = 1 / 12
"""Variance of an element along each side, in squares of its size: without it a line of pixels has no width."""


def centroid(masks: Tensor, grid: Grid, axis: int) -> Tensor:
    """The middle of masks (..., *size) along an axis, in lengths from where the frame begins, (...); NaN of nothing."""
    return _mean(grid.middles(axis, masks), masks, grid)


def second_moments(masks: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Variances of masks (..., H, W) along rows and columns and their covariance, in squares of lengths, (...) each."""
    y, x = grid.middles(Y, masks), grid.middles(X, masks)
    from_middle = (at - grid.over_space(centroid(masks, grid, axis)) for at, axis in ((y, Y), (x, X)))
    dy, dx = from_middle
    yy, xx, yx = (_mean(product, masks, grid) for product in (dy * dy, dx * dx, dy * dx))
    return yy + THIN * grid.pitch[Y] ** 2, xx + THIN * grid.pitch[X] ** 2, yx


def _mean(values: Tensor, masks: Tensor, grid: Grid) -> Tensor:
    return (values * masks).sum(dim=grid.axes) / masks.sum(dim=grid.axes)  # 0 / 0 is NaN


class Centroid(Measure):
    """The middle of a structure along an axis of the image."""

    absent, placed, ratio = float("nan"), True, False

    def __init__(self, word: str, axis: int) -> None:
        self.word, self.axis = word, axis

    def unit(self, grid: Grid) -> str:
        return grid.length_unit

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return 0.0, grid.length(self.axis)

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        return centroid(sharpened(masks), grid, self.axis)


class Orientation(Measure):
    r"""The angle of the long axis of a structure with the vertical, in degrees, -90 to 90; positive where its upper end
    is to the right.

    .. math:: \tfrac12 \operatorname{atan2}(-2 \sigma_{yx}, \sigma_{yy} - \sigma_{xx})

    It jumps from 90 to -90, so it is a variable for structures that are nowhere near horizontal; and a disc has none.
    """

    word, absent, placed, ratio = "orientation", float("nan"), True, False

    def unit(self, grid: Grid) -> str:
        return "degrees"

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return -90.0, 90.0

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        yy, xx, yx = second_moments(sharpened(masks), grid)
        return torch.atan2(-2 * yx, yy - xx) * (90 / math.pi)


class Elongation(Measure):
    r"""The longest over the shortest axis of the ellipse with the second moments of a structure, 1 for a disc:

    .. math:: \sqrt{\frac{m + d}{m - d}}, \quad m = \frac{\sigma_{yy} + \sigma_{xx}}2, \quad
       d = \sqrt{\left(\frac{\sigma_{yy} - \sigma_{xx}}2\right)^2 + \sigma_{yx}^2}
    """

    word, absent = "elongation", float("nan")

    def unit(self, grid: Grid) -> str:
        return ""

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return 1.0, max(grid.length(Y) / grid.pitch[X], grid.length(X) / grid.pitch[Y], 1.0)

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        yy, xx, yx = second_moments(sharpened(masks), grid)
        middle = (yy + xx) / 2
        # Rounded at the bottom: of a disc the slope of the root has no direction.
        least = (ROUND * middle).square()
        half = (((yy - xx) / 2).square() + yx.square() + least).sqrt() - ROUND * middle
        return ((middle + half) / (middle - half)).sqrt()


ROUND = 1e-6
"""Below this share of the mean variance a difference of the axes is rounded off."""

MEASURES.add("x", Centroid("x", X))
MEASURES.add("y", Centroid("y", Y))
MEASURES.add("orientation", Orientation())
MEASURES.add("elongation", Elongation())
