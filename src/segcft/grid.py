"""The grid on which the images of a study lie: two axes or three, and what is done along them.

Nothing outside this module counts dimensions: a network asks its grid for a convolution, a loss for a sum over space.
Arrays and tensors have space in their last axes: (..., H, W) or (..., D, H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.image import Image

Convolution = nn.Conv2d | nn.Conv3d
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Grid:
    """Pixels (two axes) or voxels (three) of one size.

    Attributes:
        size: elements along each axis, (H, W) or (D, H, W).
        cell_size: area of a pixel or volume of a voxel, in ``cell_unit``.
        cell_unit: ``px``, or the square or cube of a length.
        spacing: size of an element along each axis, in mm; None if unknown.
        pitch: size of an element along each axis, in ``length_unit``; (1, ...) by default.
        length_unit: ``px`` or a length.
    """

    size: tuple[int, ...]
    cell_size: float = 1.0
    cell_unit: str = "px"
    spacing: tuple[float, ...] | None = None
    pitch: tuple[float, ...] = ()
    length_unit: str = "px"

    def __post_init__(self) -> None:
        if not self.pitch:
            object.__setattr__(self, "pitch", (1.0,) * len(self.size))

    @classmethod
    def of(cls, image: Image) -> Grid:
        """The grid of a study's ``image``."""
        field = image.field_of_view
        pitch = () if field is None else tuple(extent / n for extent, n in zip(field, image.size, strict=True))
        unit = "px" if field is None else image.length_unit
        return cls(image.size, image.cell_size, image.cell_unit, image.spacing, pitch, unit)

    @classmethod
    def like(cls, maps: Tensor) -> Grid:
        """The grid on which maps (B, C, *size) lie, in pixels or voxels."""
        return cls(tuple(maps.shape[2:]))

    @property
    def dimensions(self) -> int:
        return len(self.size)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of space, counted from the end: (-2, -1) or (-3, -2, -1)."""
        return tuple(range(-self.dimensions, 0))

    @property
    def elements(self) -> int:
        """How many pixels or voxels there are."""
        return math.prod(self.size)

    @property
    def extent(self) -> float:
        """Area or volume of the whole frame, in ``cell_unit``."""
        return self.elements * self.cell_size

    def length(self, axis: int) -> float:
        """Of the frame along an axis, in ``length_unit``."""
        return self.size[axis] * self.pitch[axis]

    def middles(self, axis: int, like: Tensor) -> Tensor:
        """How far the middles of elements are from where the frame begins along an axis, in ``length_unit``, with an
        axis of length 1 for every other axis of space."""
        places = (torch.arange(self.size[axis], device=like.device, dtype=like.dtype) + 0.5) * self.pitch[axis]
        return places.reshape([-1 if other == axis % self.dimensions else 1 for other in range(self.dimensions)])

    def total(self, maps: Tensor) -> Tensor:
        """The sum over space, times the size of an element: (..., *size) to (...), in ``cell_unit``."""
        return maps.sum(dim=self.axes) * self.cell_size

    def over_space(self, values: Tensor) -> Tensor:
        """Values (...) with an axis of length 1 for each axis of space, to meet maps (..., *size)."""
        return values.reshape(*values.shape, *(1,) * self.dimensions)

    def conv(
        self, inputs: int, outputs: int, kernel: int | tuple[int, ...], stride: int | tuple[int, ...] = 1
    ) -> Convolution:
        """A convolution; with a stride of 1 and an odd kernel the output is as large as the input."""
        layer: type[Any] = {2: nn.Conv2d, 3: nn.Conv3d}[self.dimensions]
        padding = kernel // 2 if stride == 1 and isinstance(kernel, int) else 0
        made: Convolution = layer(inputs, outputs, kernel, stride, padding)
        return made

    def convolve(self, maps: Tensor, kernel: Tensor, padding: int = 0) -> Tensor:
        """Maps (B, C, *size) convolved with a kernel (K, C, *kernel)."""
        return {2: F.conv2d, 3: F.conv3d}[self.dimensions](maps, kernel, padding=padding)

    def pool(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Averages of maps (B, C, *any) over equal parts of the frame, (B, C, *size)."""
        pooling = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[self.dimensions]
        return pooling(maps, size)  # type: ignore[arg-type]

    def running_mean(self, maps: Tensor, width: int) -> Tensor:
        """Means of maps (B, C, *any) over cubes of ``width`` elements a side, at every place where one fits."""
        pooling: Any = {2: F.avg_pool2d, 3: F.avg_pool3d}[self.dimensions]
        mean: Tensor = pooling(maps, width, stride=1)
        return mean

    def smooth(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Maps (B, C, *any) interpolated to ``size``: cubic in two dimensions, linear in three."""
        return F.interpolate(maps, size=size, mode={2: "bicubic", 3: "trilinear"}[self.dimensions])

    def linear(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Maps (B, C, *any) interpolated to ``size``, linearly; beyond the middles at the edge they go on.

        Of three axes it is done in a quarter of the time that :meth:`sample` takes; of two by that, since models that
        were published are to answer to the last bit as before.
        """
        if self.dimensions == 3:
            return F.interpolate(maps, size=size, mode="trilinear")
        pixels = self.places(maps.new_empty(1, 1, *size))
        return self.sample(maps, pixels.expand(len(maps), *pixels.shape[1:]))

    def repeat(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Maps (B, C, *any) at ``size`` by the nearest neighbour."""
        return F.interpolate(maps, size=size)

    def places(self, like: Tensor) -> Tensor:
        """The places of all elements, (1, dimensions, *size): x, y (and z) in [-1, 1], as
        :func:`torch.nn.functional.grid_sample` has them."""
        axes = [
            (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) * (2 / n) - 1
            for n in like.shape[-self.dimensions :]
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])[None]

    def sample(self, maps: Tensor, places: Tensor) -> Tensor:
        """Maps (B, C, *size) at ``places`` (B, dimensions, *any), linear in between; beyond the frame its edge
        goes on."""
        # A place that is not a number would be read outside the memory of the map (on a CPU, the backward pass).
        return F.grid_sample(maps, places.nan_to_num().movedim(1, -1), padding_mode="border", align_corners=False)

    def unpatch(self, maps: Tensor, patch: int) -> Tensor:
        """Channels (B, C * patch ** dimensions, *any) laid out as pixels (B, C, *size), ``patch`` times as many along
        each axis (Shi et al. 2016)."""
        size = maps.shape[-self.dimensions :]
        maps = maps.unflatten(1, (-1, *(patch,) * self.dimensions))
        # (B, C, p, p, h, w) to (B, C, h, p, w, p)
        turns = [axis for k in range(self.dimensions) for axis in (2 + self.dimensions + k, 2 + k)]
        return maps.permute(0, 1, *turns).reshape(*maps.shape[:2], *(patch * n for n in size))

    def pad(self, maps: Tensor, multiple: int) -> Tensor:
        """Maps (B, C, *size) with their last rows repeated until every axis is a multiple of ``multiple``."""
        missing = [-n % multiple for n in maps.shape[-self.dimensions :]]
        if not any(missing):
            return maps
        return F.pad(maps, [side for n in reversed(missing) for side in (0, n)], mode="replicate")

    def extend(self, maps: Tensor, axis: int, elements: int) -> Tensor:
        """Maps (B, C, *size) with their first and last element along an axis of space repeated so often."""
        sides = [0, 0] * self.dimensions
        before = 2 * (self.dimensions - 1 - axis)  # the last axis comes first
        sides[before : before + 2] = [elements, elements]
        return F.pad(maps, sides, mode="replicate")

    def crop(self, maps: Tensor, like: Tensor) -> Tensor:
        """What :meth:`pad` has added taken away again: (..., *padded) to the size of ``like`` (..., *size)."""
        for axis in self.axes:
            maps = maps.narrow(axis, 0, like.shape[axis])
        return maps

    def radius(self, share: float) -> int:
        """A share of the longest side in elements, at least 1."""
        return max(1, round(share * max(self.size)))

    def dilate(self, masks: Tensor, radius: int) -> Tensor:
        """Every element within ``radius`` elements of masks (B, *size), bool."""
        return self.convolve(masks[:, None].float(), self.ball(radius, masks), padding=radius)[:, 0] > 0.5

    def ball(self, radius: int, like: Tensor) -> Tensor:
        """The elements within ``radius`` elements of the middle, as a kernel (1, 1, *kernel) of zeros and ones."""
        steps = torch.arange(-radius, radius + 1, device=like.device)
        places = torch.stack(torch.meshgrid(*(steps,) * self.dimensions, indexing="ij"))
        return (places.square().sum(dim=0) <= radius**2).float()[None, None]


def channels_last(module: M) -> M:
    """``module`` with its weights in the layout in memory in which convolutions are fast, of two and three axes."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() in layouts:
            tensor.data = tensor.data.to(memory_format=layouts[tensor.dim()])
    return module
