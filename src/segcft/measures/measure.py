"""What every measure can do, whatever it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.grid import Grid
from segcft.utils.registry import Registry, instance_of

FULL = 255
"""Coverage of a pixel that is wholly inside of a structure."""

Y, X = -2, -1
"""Axes of the image, counted from the end: rows and columns."""


class Measure(ABC):
    """A number that is read from the mask of one structure."""

    word: str
    """What it is called in tables and messages, e.g. "area"; several with an "s"."""
    verb: str = "have"
    """In tables: "the areas that masks have"."""

    def called(self, grid: Grid) -> str:
        """What it is called on a grid: its :attr:`word`, unless it has another one in volumes."""
        return self.word

    @abstractmethod
    def unit(self, grid: Grid) -> str:
        """The unit of its numbers."""

    @abstractmethod
    def bounds(self, grid: Grid) -> tuple[float, float]:
        """The smallest and the largest number that a mask can have, the whole frame being one."""

    @abstractmethod
    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        """The numbers of soft masks (B, S, *size) in 0..1, (B, S). Gradients flow to the masks."""

    def exact(self, coverage: NDArray[np.uint8], grid: Grid) -> NDArray[np.float64]:
        """The numbers of masks that experts drew, coverage (S, *size) up to :data:`FULL`, (S,)."""
        soft = torch.from_numpy(coverage).to(torch.float64) / FULL
        found: NDArray[np.float64] = self.estimate(soft[None], grid)[0].numpy()
        return found

    def with_quantile(self, quantile: float) -> Measure:
        """The same with another share of the structure beyond its borders.

        Raises:
            ValueError: it is no measure of borders.
        """
        raise ValueError(f"of the {self.word} no share is beyond")

    absent: float = 0.0
    """The number of a structure that is not there; NaN if it has none."""

    placed: bool = False
    """Whether it changes where an image is shifted or turned."""

    adds_up: bool = False
    """Whether more of a mask never makes it smaller, so that of a part it is at most that of the whole; and it is the
    sum of those of parts that have nothing in common."""

    ratio: bool = True
    """Whether 0 is nothing, so that a percentage means something. Of a place it does not."""


class ImageMeasure(Measure):
    """A number that is read from the image where the mask of a structure is."""

    @abstractmethod
    def inside(self, masks: Tensor, image: Tensor, grid: Grid) -> Tensor:
        """The numbers of soft masks (B, S, *size) in 0..1 on images (B, C, *size) in [-1, 1], (B, S). Gradients flow to
        both."""

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        raise ValueError(f"the {self.word} is read from an image, and there is none")


def sharpened(masks: Tensor) -> Tensor:
    r"""Soft masks with odds squared, :math:`m^2 / (m^2 + (1 - m)^2)`; masks of zeros and ones stay as they are.

    A segmentor is a little unsure of every element. Far from a structure such faint probabilities weigh much in where
    it is, and over a frame they add up. Squared they do not, and gradients still flow.
    """
    inside, outside = masks.square(), (1 - masks).square()
    return inside / (inside + outside)


MEASURES: Registry[Measure] = Registry("measure", "segcft.measures", "structures.NAME.measure", instance_of(Measure))
"""Name -> measure, as a study's structures name it."""
