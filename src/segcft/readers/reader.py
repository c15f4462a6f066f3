"""What every reader of images can do, be it a guide of fine-tuning or the judge of an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from segcft.measures.measurements import Measurements


class Reader(nn.Module, ABC):
    """Reads the measured variables of a study from images (B, C, *size) in [-1, 1]."""

    @abstractmethod
    def estimate(self, x: Tensor) -> Tensor:
        """The numbers of images, (B, M), each in its unit. Gradients flow to the images: what a guide is asked for."""

    def read(self, x: Tensor) -> Tensor:
        """The numbers of images, (B, M), as they are reported: what a judge is asked for."""
        return self.estimate(x)


class MaskReader(Reader):
    """A reader that sees masks and measures them. A judge is one: what it reads can be looked at."""

    measurements: Measurements
    faint: float = 0.0
    """A probability below this counts as none."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, *size) in [-1, 1] to logits (B, S, *size)."""

    def masks(self, x: Tensor) -> Tensor:
        """The soft masks of images (B, C, *size): probabilities (B, S, *size)."""
        soft = torch.sigmoid(self(x))
        return torch.where(soft < self.faint, 0, soft) if self.faint else soft

    def estimate(self, x: Tensor) -> Tensor:
        return self.measurements.estimate(self.masks(x), x)

    def read(self, x: Tensor) -> Tensor:
        return self.measurements.read(self.masks(x), x)


class NoStructures(MaskReader):
    """The judge of a study without structures: there is nothing to see."""

    def __init__(self, measurements: Measurements) -> None:
        super().__init__()
        self.measurements = measurements

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0]
