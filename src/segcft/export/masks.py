"""The network of a reader as others run it: images in, probabilities of masks out."""

from __future__ import annotations

from torch import Tensor, nn

from segcft.readers.reader import MaskReader


class Masks(nn.Module):
    """Probabilities (B, S, *size) of images (B, C, *size) in [-1, 1]."""

    def __init__(self, reader: MaskReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, image: Tensor) -> Tensor:
        return self.reader.masks(image)
