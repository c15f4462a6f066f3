"""Smooth displacements of the frame, by which the image mechanism moves outlines.

A displacement d (B, axes, *size) takes pixel p to the place p + d(p); x, y (and z) are in halves of the frame, as in
:func:`torch.nn.functional.grid_sample`. One that knows its inverse has that behind it, (B, 2 * axes, *size).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.grid import Grid

ITERATIONS = 3
"""Of the inversion of a displacement. Each divides the error by the inverse of the displacement's steepness."""

SAMPLES = {2: 8, 3: 2}
"""Places between two nodes at which a velocity is followed, along each of two axes or three, no more than there are
elements. It is straight in between. In volumes, where a place costs more, there are few: that rounds off the velocity
at its nodes, and leaves what leads from one displacement to another as exact as it is."""

NEWTON = 2
"""Steps by which the inverse of a displacement that knows it is made exact. Between pixels it is interpolated, and so a
pixel off where it is steep. One step leaves a tenth of a pixel of the worst, two a hundredth."""

ROUNDS = 20
"""In which neighbouring nodes of too steep a velocity are drawn to each other. Where it is still too steep after these,
all of it is made smaller."""

STEP = 0.05
"""The same of a single step of following it: so short that none folds."""


class Displacement(nn.Module):
    """Reads a displacement from features (B, width, *any). It begins as no displacement at all.

    Args:
        grid: of the images.
        width: channels of the features.
        spacing: pixels between the nodes of the displacement, which is smooth in between.
        reach: the largest displacement, as a share of the frame.
    """

    def __init__(self, grid: Grid, width: int, spacing: int, reach: float) -> None:
        super().__init__()
        self.grid, self.reach = grid, reach
        self.nodes = tuple(max(2, -(-pixels // spacing)) for pixels in grid.size)
        self.narrow = grid.conv(width, width, 3)
        self.displace = grid.conv(width, grid.dimensions, 3)
        nn.init.zeros_(self.displace.weight)
        nn.init.zeros_(self.displace.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """The displacement of every pixel, (B, axes, *size)."""
        return self.grid.smooth(self.at_nodes(features), self.grid.size)

    def at_nodes(self, features: Tensor) -> Tensor:
        """What is read at the nodes, (B, axes, *nodes), at most the reach."""
        pooled = self.grid.pool(F.silu(features), self.nodes)
        return 2 * self.reach * torch.tanh(self.displace(F.silu(self.narrow(pooled))))


class Diffeomorphism(Displacement):
    r"""A displacement that cannot fold, with its inverse: a stationary velocity v is followed for a unit of time,

    .. math:: \phi = \exp(v), \qquad \phi^{-1} = \exp(-v),

    by scaling and squaring (Arsigny et al. 2006): a step so short that it cannot fold is taken, and doubled. A velocity
    that is steeper than ``steepest`` is flattened there; where it still is, all of it is made smaller. Other arguments
    are those of :class:`Displacement`; ``reach`` bounds the velocity, and so how far it leads.

    Args:
        steepest: how much a velocity may change over a length, as a share of it. In a unit of time it then stretches
            and squeezes by up to exp(steepest), and what leads from one displacement to another by twice as much in the
            logarithm, which pixels show up to about 0.8.
    """

    def __init__(self, grid: Grid, width: int, spacing: int, reach: float, steepest: float = 0.5) -> None:
        super().__init__(grid, width, spacing, reach)
        self.steepest = steepest
        self.doublings = math.ceil(math.log2(steepest / STEP))
        samples = SAMPLES[grid.dimensions]
        self.followed = tuple(min(n, samples * nodes) for n, nodes in zip(grid.size, self.nodes, strict=True))

    def forward(self, features: Tensor) -> Tensor:
        """The displacement of every pixel and behind it its inverse, (B, 2 * axes, *size)."""
        velocity = self.flattened(self.at_nodes(features))
        velocity = velocity * self.grid.over_space((self.steepest / self.steepness(velocity))[:, None])
        velocity = self.grid.smooth(velocity, self.followed)
        step = torch.cat([velocity, -velocity]) / 2**self.doublings
        step = displaced(step, step / 2)  # as it goes half way, so that there and back is where it was
        for _ in range(self.doublings):
            step = step + displaced(step, step)
        return torch.cat(self.grid.linear(step, self.grid.size).chunk(2), dim=1)

    def flattened(self, velocity: Tensor) -> Tensor:
        """A velocity (B, axes, *nodes) that is less steep where it was too steep: neighbours are drawn to each other
        until what is too much has gone over to others. Elsewhere it stays."""
        axes = self.grid.axes
        for _ in range(ROUNDS):
            too_much = 1 - self.steepest / self._squared(velocity).clamp(min=self.steepest**2).sqrt()
            found = velocity
            for axis in axes:
                # Of two nodes, as much as is too much in the steepest part that has both.
                share = functools.reduce(_around, [other for other in axes if other != axis], too_much)
                drawn = _steps(velocity, axis) * share / (2 * len(axes))  # each node has so many neighbours
                found = found + _padded(drawn, axis, 0, 1) - _padded(drawn, axis, 1, 0)
            velocity = found
        return velocity

    def steepness(self, velocity: Tensor) -> Tensor:
        """The largest change over a length of a velocity (B, axes, *nodes) anywhere, (B,), at least the steepest that
        is left as it is."""
        most = self._squared(velocity).flatten(1).amax(dim=1)
        return most.clamp(min=self.steepest**2).sqrt()  # a root has no slope at 0

    def _squared(self, velocity: Tensor) -> Tensor:
        """The squared change over a length of a velocity (B, axes, *nodes) in each part between nodes, (B, 1, *parts):
        along each axis that of its steepest edge, and of all axes the sum."""
        total = torch.zeros_like(velocity[:, :1, *(slice(1, None),) * self.grid.dimensions])
        for axis in self.grid.axes:
            per_length = _steps(velocity, axis) * (self.nodes[axis] / 2)  # nodes are 2 / n halves of the frame apart
            square = per_length.square().sum(dim=1, keepdim=True)
            total = total + functools.reduce(_larger, [other for other in self.grid.axes if other != axis], square)
        return total


def _steps(maps: Tensor, axis: int) -> Tensor:
    """From each element to the next one along an axis, of which there is one less than elements."""
    count = maps.shape[axis] - 1
    return maps.narrow(axis, 1, count) - maps.narrow(axis, 0, count)


def _slope(maps: Tensor, axis: int) -> Tensor:
    """By how much an element differs from the next along an axis: half of what both its neighbours do; at the edges
    from the one there is. As :func:`torch.gradient`, for which ONNX has no operator."""
    count = maps.shape[axis]
    middle = (maps.narrow(axis, 2, count - 2) - maps.narrow(axis, 0, count - 2)) / 2
    ends = [maps.narrow(axis, k + 1, 1) - maps.narrow(axis, k, 1) for k in (0, count - 2)]
    return torch.cat([ends[0], middle, ends[1]], dim=axis)


def _larger(maps: Tensor, axis: int) -> Tensor:
    """The larger of neighbours along an axis, of which there is one less than elements."""
    count = maps.shape[axis] - 1
    return torch.maximum(maps.narrow(axis, 0, count), maps.narrow(axis, 1, count))


def _around(maps: Tensor, axis: int) -> Tensor:
    """The larger of the parts, none of which is negative, on both sides of every node along an axis."""
    return _larger(_padded(maps, axis, 1, 1), axis)


def _padded(maps: Tensor, axis: int, before: int, behind: int) -> Tensor:
    """With zeros before and behind along an axis, which is counted from the end."""
    return F.pad(maps, [*([0, 0] * (-1 - axis)), before, behind])


def displaced(maps: Tensor, displacement: Tensor) -> Tensor:
    """``maps`` (B, C, *size) at every pixel's displaced place; beyond the frame its edge goes on."""
    grid = Grid.like(maps)
    return grid.sample(maps, grid.places(displacement) + displacement[:, : grid.dimensions])


def between(before: Tensor, after: Tensor) -> Tensor:
    """The displacement from each pixel of the frame ``after`` to the pixel of ``before`` with the same place.

    It is 0 where both displacements are equal. Elsewhere it is found by the inverse of ``before``, from where Newton's
    method leads to the exact place; or, of one that does not know its inverse, by fixed-point iteration.
    """
    grid = Grid.like(before)
    pixels, axes = grid.places(before), grid.dimensions
    places = pixels + after[:, :axes]
    if before.shape[1] > axes:
        inverse, own = before[:, axes:], pixels + before[:, :axes]
        # As a difference it is exactly 0 where nothing moves, however well the inverse is known.
        near = pixels + ((places + grid.sample(inverse, places)) - (own + grid.sample(inverse, own)))
        # Sampled as it is on the way back, so that what does not move is exactly where it was.
        asked = pixels + grid.sample(after[:, :axes], pixels.expand_as(near))
        return _solved(before[:, :axes], asked, near) - pixels
    found = places - before
    for _ in range(ITERATIONS - 1):
        found = places - grid.sample(before, found)
    return found - pixels


def _solved(displacement: Tensor, places: Tensor, near: Tensor) -> Tensor:
    r"""Where a displacement d (B, axes, *size) leads to ``places``, beginning ``near``, all (B, axes, *size): Newton's
    method for q + d(q) = p.

    Only the last step has gradients, which are those of the implicit function: with J the Jacobian of q + d(q),

    .. math:: dq = J^{-1} \bigl(dp - (\partial d)(q)\bigr).
    """
    grid = Grid.like(displacement)
    with torch.no_grad():
        slopes = torch.stack([_slope(displacement, axis) for axis in reversed(grid.axes)], dim=2)  # by x, y (and z)
        per_half = torch.tensor([n / 2 for n in reversed(grid.size)], device=near.device, dtype=near.dtype)
        identity = torch.eye(grid.dimensions, device=near.device, dtype=near.dtype)
        jacobian = slopes * grid.over_space(per_half[None, None]) + grid.over_space(identity[None])
        for step in range(NEWTON):
            here = grid.sample(jacobian.flatten(1, 2), near).unflatten(1, jacobian.shape[1:3])
            if step < NEWTON - 1:
                near = near - _cramer(here, near + grid.sample(displacement, near) - places)
    return near - _cramer(here, near + grid.sample(displacement, near) - places)


def _cramer(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Solve for matrices (B, axes, axes, *size) and vectors (B, axes, *size) by Cramer's rule: of two or three axes and
    many pixels it takes a tenth of the time that elimination takes."""
    columns = matrices.unbind(2)
    found = [_determinant([*columns[:k], vectors, *columns[k + 1 :]]) for k in range(len(columns))]
    return torch.stack(found, dim=1) / _determinant(columns)[:, None]


def _determinant(columns: Sequence[Tensor]) -> Tensor:
    """Of matrices of two or three columns (B, axes, *size), (B, *size)."""
    if len(columns) == 2:
        (a, c), (b, d) = (column.unbind(1) for column in columns)
        return a * d - b * c
    (a, d, g), (b, e, h), (c, f, i) = (column.unbind(1) for column in columns)
    return a * (e * i - f * h) + d * (h * c - i * b) + g * (b * f - e * c)


def stretch(displacement: Tensor) -> Tensor:
    """The determinant of the Jacobian of a displacement (B, axes, *size) between neighbouring pixels, (B, *size), each
    axis one less: by how much an element grows. It folds where that is not above 0."""
    grid = Grid.like(displacement)
    places = grid.places(displacement) + displacement[:, : grid.dimensions]
    pixels = torch.tensor([n / 2 for n in reversed(grid.size)], device=places.device, dtype=places.dtype)
    places = places * grid.over_space(pixels)  # x, y (and z) in elements
    columns = []
    for axis in reversed(grid.axes):  # x, y (and z)
        step = _steps(places, axis)
        for other in grid.axes:
            step = step.narrow(other, 0, grid.size[other] - 1)
        columns.append(step)
    return _determinant(columns)
