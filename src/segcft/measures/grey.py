"""How bright a structure is in the image, by itself or beside another one: its density."""

from __future__ import annotations

from torch import Tensor

from segcft.grey import GREY_LEVELS
from segcft.grid import Grid
from segcft.measures.measure import MEASURES, ImageMeasure, sharpened

BRIGHTEST = 255.0
"""Grey levels."""


class MeanGrey(ImageMeasure):
    r"""The mean grey level inside,

    .. math:: \frac{\sum_p m_p g_p}{\sum_p m_p},

    of channels their mean; with a ``reference`` less that of another structure. Gradients flow to the mask and to the
    image.
    """

    word = "grey level"
    absent, ratio = float("nan"), False

    def unit(self, grid: Grid) -> str:
        return "grey levels"

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return 0.0, BRIGHTEST

    def inside(self, masks: Tensor, image: Tensor, grid: Grid) -> Tensor:
        sharp = sharpened(masks)
        grey = (image.mean(dim=1, keepdim=True) + 1) * GREY_LEVELS
        return (sharp * grey).sum(dim=grid.axes) / sharp.sum(dim=grid.axes)  # 0 / 0 is NaN: nothing is there


MEASURES.add("grey", MeanGrey())
