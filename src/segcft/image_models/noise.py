"""Pixel noise that moves with the anatomy, and grain that stays in the frame.

What the latents leave unexplained is of two kinds: texture of the anatomy, which moves with an outline, and grain of
the detector, which does not know of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segcft.grid import Grid

REACH = 4
"""Standard deviations at which a Gaussian is cut off."""


def moved_noise(noise: Tensor, displacement: Tensor, grain: float = 0) -> Tensor:
    r"""Noise u (B, C, *size) under a ``displacement`` d (B, axes, *size), with the variance that it had.

    Without ``grain`` all of it is taken from every pixel's displaced place. With it the noise is separated into
    texture, which is u blurred by a Gaussian G of ``grain`` pixels, and the rest, which stays:

    .. math:: u'(p) = (G u)(p + d) + (u - G u)(p),

    as a Wiener filter would do it of white grain and coarser texture. Both parts correlate at one place, and the less
    the further one of them has moved. With :math:`c(|d|)` their covariance in the noise itself, the variance becomes

    .. math:: \sigma^2 - 2 \, (c(0) - c(|d|)),

    and u' is divided by the root of what that is of :math:`\sigma^2`. Where nothing moves noise stays what it is.
    """
    if not grain:
        return _moved(noise, displacement)
    texture = blurred(noise, grain)
    found = noise + (_moved(texture, displacement) - texture)  # in this order it is exact where nothing moves
    with torch.no_grad():
        covariance = _covariance(texture, noise - texture, math.ceil(REACH * grain))
        lost = covariance[:, [0]] - covariance
        share = torch.nan_to_num(lost / noise.square().flatten(1).mean(dim=1, keepdim=True))
        kept = 1 - 2 * _at(share, _elements(displacement))
    return found * kept.rsqrt()


def _elements(displacement: Tensor) -> Tensor:
    """How far a displacement (B, axes, *size) leads, in elements, (B, 1, *size)."""
    grid = Grid.like(displacement)
    halves = torch.tensor([n / 2 for n in reversed(grid.size)], device=displacement.device, dtype=displacement.dtype)
    steps = displacement[:, : grid.dimensions] * grid.over_space(halves)
    return steps.square().sum(dim=1, keepdim=True).sqrt()


def _covariance(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """Of two maps (B, C, *size) so many elements apart, 0 to ``reach``, the mean over axes and directions,
    (B, reach + 1)."""
    grid, found = Grid.like(first), []
    for lag in range(min(reach + 1, *grid.size)):
        ends = [
            (maps.narrow(axis, lag, n - lag), other.narrow(axis, 0, n - lag))
            for maps, other in ((first, second), (second, first))
            for axis, n in zip(grid.axes, grid.size, strict=True)
        ]
        found.append(torch.stack([(one * two).flatten(1).mean(dim=1) for one, two in ends]).mean(dim=0))
    return torch.stack(found, dim=1)


def _at(table: Tensor, places: Tensor) -> Tensor:
    """The values of tables (B, K) at places (B, 1, *size) from 0 on, linear in between; beyond the last it goes on."""
    flat = places.flatten(1).clamp(max=table.shape[1] - 1)
    before = flat.floor().long()
    behind = (before + 1).clamp(max=table.shape[1] - 1)
    low, high = table.gather(1, before), table.gather(1, behind)
    return (low + (flat - before) * (high - low)).reshape(places.shape)


def blurred(maps: Tensor, width: float) -> Tensor:
    """Maps (B, C, *size) by a Gaussian with a standard deviation of ``width`` elements; their edges go on."""
    grid, radius = Grid.like(maps), math.ceil(REACH * width)
    at = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    weights = torch.exp(-0.5 * (at / width).square())
    weights = weights / weights.sum()
    found = maps.flatten(0, 1)[:, None]
    for axis in range(grid.dimensions):
        kernel = weights.reshape([-1 if k == axis else 1 for k in range(grid.dimensions)])
        found = grid.convolve(grid.extend(found, axis, radius), kernel[None, None])
    return found.reshape(maps.shape)


def _moved(noise: Tensor, displacement: Tensor) -> Tensor:
    r"""Noise at every pixel's displaced place, with the variance that it had.

    Between pixels linear interpolation averages, and so weakens noise. With f how far the place is from the pixel
    before it, along an axis along which neighbours correlate by :math:`\rho`, the variance is

    .. math:: (1 - f)^2 + f^2 + 2 f (1 - f) \rho

    of what it was: noise is divided by the root of the product of these over the axes. Where nothing moves f is 0, and
    noise stays what it is. :math:`\rho` is that of the noise itself, over the frame.
    """
    grid = Grid.like(noise)
    places = grid.places(displacement) + displacement[:, : grid.dimensions]
    kept = torch.ones_like(displacement[:, :1])
    for number, axis in enumerate(reversed(grid.axes)):  # x is the last axis
        n = grid.size[axis]
        at = ((places[:, [number]] + 1) * (n / 2) - 0.5).clamp(0, n - 1)
        share = at - at.floor()
        apart = 2 * share * (1 - share)
        kept = kept * (1 - apart * (1 - grid.over_space(_alike(noise, axis)[:, None])))
    return grid.sample(noise, places) * kept.detach().rsqrt()  # nothing is to move in order to be sharper


@torch.no_grad()
def _alike(noise: Tensor, axis: int) -> Tensor:
    """The correlation of neighbours along an axis in noise (B, C, *size), (B,)."""
    count = noise.shape[axis]
    first, second = noise.narrow(axis, 0, count - 1).flatten(1), noise.narrow(axis, 1, count - 1).flatten(1)
    square = (first.square().mean(dim=1) * second.square().mean(dim=1)).sqrt()
    return torch.nan_to_num((first * second).mean(dim=1) / square).clamp(0, 1)
