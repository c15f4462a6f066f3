"""Layers of the published image mechanism, which compute what its code does with less work.

The parents are the same at every pixel, so their share of a convolution is one number a channel (at the border of a
padded one: a number for each way to lie there), and planes of them are never built. Where one pixel makes one pixel a
convolution is a matrix product, and what only multiplies a mean over pixels is applied after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.causal_gen import BlockShape


class BlockKind(NamedTuple):
    """Of the convolutions of a block: which are pointwise whatever the block's kernel, and what precedes each."""

    pointwise: tuple[bool, ...]
    activation: Callable[[Tensor], Tensor]


KINDS = {
    "light": BlockKind((False, False), F.relu),
    "gelu": BlockKind((True, False, False, True), F.gelu),
}


class Convolution(nn.Conv2d):
    """A convolution that keeps the size; its bias starts at zero, as in the published training.

    Where one pixel makes one pixel (a pointwise kernel, or an image of a single pixel, of which any kernel sees
    padding but for its centre) it is a linear map of the channels, which is a matrix product.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        if kernel > 1 and x.shape[-2:] != (1, 1):
            return super().forward(x)
        matrix = self.weight[:, :, kernel // 2, kernel // 2]
        return F.linear(x.permute(0, 2, 3, 1), matrix, self.bias).permute(0, 3, 1, 2)


class Convolutions(nn.Module):
    """Activation and convolution in turns, from ``inputs`` through ``hidden`` to ``outputs`` channels."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, kind: BlockKind):
        super().__init__()
        self.activate = kind.activation
        last = len(kind.pointwise) - 1
        self.layers = nn.ModuleList()
        for index, pointwise in enumerate(kind.pointwise):
            size = 1 if pointwise else kernel
            layer = Convolution(inputs if index == 0 else hidden, outputs if index == last else hidden, size)
            self.layers.append(layer)

    @property
    def first(self) -> Convolution:
        return cast(Convolution, self.layers[0])

    @property
    def last(self) -> Convolution:
        return cast(Convolution, self.layers[-1])

    def forward(self, x: Tensor, pool: int | None = None) -> Tensor:
        """(B, C, H, W) to (B, ``outputs``, H, W), or its means over squares of ``pool`` pixels a side."""
        return self.after_first(self.first(self.activate(x)), pool)

    def after_first(self, hidden: Tensor, pool: int | None = None) -> Tensor:
        """The rest of it, from the outcome of the first convolution."""
        for layer in self.layers[1:-1]:
            hidden = layer(self.activate(hidden))
        hidden = self.activate(hidden)
        if pool is None:
            return self.last(hidden)
        if self.last.kernel_size == (1, 1):  # a pointwise map and a mean commute, and the mean is smaller
            return self.last(F.avg_pool2d(hidden, pool))
        return F.avg_pool2d(self.last(hidden), pool)


class ResidualBlock(nn.Module):
    """A block's input plus its convolutions; it may narrow, and may shrink by a mean over squares of pixels."""

    def __init__(self, shape: BlockShape, hidden: int, kernel: int, kind: BlockKind):
        super().__init__()
        self.down = shape.down
        self.convolutions = Convolutions(shape.inputs, hidden, shape.outputs, kernel, kind)
        self.project = None if shape.inputs == shape.outputs else Convolution(shape.inputs, shape.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.convolutions(x, self.down)
        if self.down is not None:
            x = F.avg_pool2d(x, self.down)
        return out + (x if self.project is None else self.project(x))


class ParentsShare(nn.Module):
    """What constant planes of the parents would contribute to a zero-padded convolution, without the planes.

    Where every tap of the kernel lies on the image it is the sum of the taps, the same at every pixel; at the
    border some taps fall on the padding. So it is the product of the taps' contributions with a map of which taps
    count at which pixel.

    Args:
        parents: number C of the parents' features.
        outputs: number O of channels.
        kernel: odd size K of the kernel.
        size: pixels (H, W).
    """

    counts: Tensor

    def __init__(self, parents: int, outputs: int, kernel: int, size: tuple[int, int]):
        super().__init__()
        self.size = size if kernel > 1 else (1, 1)  # of a pointwise kernel every pixel has the same
        self.weight = nn.Parameter(torch.empty(outputs, parents, kernel, kernel))
        rows, columns = (self._inside(kernel, side) for side in self.size)
        counts = torch.einsum("iy,jx->yxij", rows, columns).flatten(2).flatten(0, 1)  # (H W, K K)
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, parents: Tensor) -> Tensor:
        """(B, C) to (B, O, H, W), or to (B, O, 1, 1) for a pointwise kernel."""
        taps = torch.einsum("bc,ocij->bijo", parents, self.weight).flatten(1, 2)
        planes = torch.matmul(self.counts.to(taps.dtype), taps)  # (B, H W, O): channels last in memory
        return planes.unflatten(1, self.size).permute(0, 3, 1, 2)

    @staticmethod
    def _inside(kernel: int, side: int) -> Tensor:
        """Whether a tap of the kernel reads a pixel and no padding, by tap and pixel of a side, (K, N)."""
        tap = torch.arange(kernel)[:, None] - kernel // 2 + torch.arange(side)
        return ((tap >= 0) & (tap < side)).float()
