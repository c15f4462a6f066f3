"""Where a structure begins and ends along an axis of the image, and how far it reaches."""

from __future__ import annotations

from torch import Tensor

from segcft.grid import Grid
from segcft.measures.measure import MEASURES, Measure, X, Y, sharpened

QUANTILE = 0.02
"""The share of a structure that is beyond its border, unless a study says otherwise: single elements far off, which a
segmentor may see anywhere, do not move it."""


def position(masks: Tensor, grid: Grid, axis: int, quantile: float) -> Tensor:
    r"""Where along an axis a share of masks (..., *size) lies before it, in lengths from where the frame begins, (...).

    With :math:`p_i` the sum of a mask over row i and :math:`C_i` that over all rows before, it is the place

    .. math:: \left(i + \frac{q \, C_n - C_i}{p_i}\right) h, \qquad C_i \le q \, C_n < C_{i + 1},

    h being the size of an element: the inverse of the cumulative profile, which is linear within a row. It is
    continuous in the mask, and NaN of a mask that is empty.
    """
    rows = masks.movedim(axis, -1).flatten(masks.dim() - grid.dimensions, -2).sum(dim=-2)
    after = rows.cumsum(dim=-1)
    goal = quantile * after[..., -1:]
    place = (after < goal).sum(dim=-1, keepdim=True).clamp(max=grid.size[axis] - 1)
    here = rows.gather(-1, place)
    within = (goal - (after.gather(-1, place) - here)) / here  # 0 / 0 is NaN: nothing is there
    return (place + within).squeeze(-1) * grid.pitch[axis]


class _Length(Measure):
    """In the unit of lengths; a structure that is not there has none."""

    absent, placed = float("nan"), True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def unit(self, grid: Grid) -> str:
        return grid.length_unit

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return 0.0, grid.length(self.axis)


class Border(_Length):
    """The place along an axis beyond which there is a share ``quantile`` of the structure.

    Args:
        word: what it is called.
        axis: of the image.
        last: where the structure ends, and not where it begins.
        quantile: above 0 and below 0.5.
    """

    ratio = False

    def __init__(self, word: str, axis: int, last: bool, quantile: float = QUANTILE) -> None:
        super().__init__(axis)
        self.word, self.last, self.quantile = word, last, quantile

    def with_quantile(self, quantile: float) -> Border:
        return Border(self.word, self.axis, self.last, quantile)

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        return position(sharpened(masks), grid, self.axis, 1 - self.quantile if self.last else self.quantile)


class Reach(_Length):
    """The distance of the two borders along an axis."""

    def __init__(self, word: str, axis: int, quantile: float = QUANTILE) -> None:
        super().__init__(axis)
        self.word, self.quantile = word, quantile

    def with_quantile(self, quantile: float) -> Reach:
        return Reach(self.word, self.axis, quantile)

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        sharp = sharpened(masks)
        first, last = (position(sharp, grid, self.axis, share) for share in (self.quantile, 1 - self.quantile))
        return last - first


for _name, _axis, _last in (("top", Y, False), ("bottom", Y, True), ("left", X, False), ("right", X, True)):
    MEASURES.add(_name, Border(_name, _axis, _last))
MEASURES.add("height", Reach("height", Y))
MEASURES.add("width", Reach("width", X))
