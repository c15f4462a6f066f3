"""Pixel noise that moves with the anatomy, and grain that stays in the frame.

What the latents leave unexplained is of two kinds: texture of the anatomy, which moves with an outline, and grain of
the detector, which stays where it is whatever moves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segcft.grid import Grid

REACH = 4
"""Standard deviations at which a Gaussian is cut off."""


def moved_noise(noise: Tensor, displacement: Tensor) -> Tensor:
    r"""Noise (B, C, *size) at every pixel's displaced place, with the variance that it had.

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


def texture_and_grain(noise: Tensor, displacement: Tensor, width: float) -> tuple[Tensor, Tensor]:
    r"""Noise u (B, C, *size) as two parts: texture at every pixel's displaced place, and grain, which stays.

    Texture is u blurred by a Gaussian with a standard deviation of ``width`` pixels; grain g is the rest. The two
    correlate, the less so the further texture has moved, and so their sum loses variance. With :math:`c(|d|)` their
    covariance at a distance, grain is made stronger by b, with which the sum keeps its variance:

    .. math:: b = \frac{\sqrt{c(|d|)^2 + v\,(v + 2 c(0))} - c(|d|)}{v}, \qquad v = E[g^2].

    Where nothing moves b is 1 and the sum is u. The covariance is that of the noise itself, of each channel by itself,
    and taken to be the same in all directions. Texture keeps its contrast. White noise is not quite white any more: it
    lacks some of what is about as fine as the Gaussian, and has the more of what is finer.
    """
    with torch.autocast(noise.device.type, enabled=False):
        maps = noise.float().flatten(0, 1)[:, None]  # each channel by itself
        displacement = displacement.float().repeat_interleave(noise.shape[1], dim=0)
        texture = blurred(maps, width)
        grain = maps - texture
        with torch.no_grad():
            covariance = _covariance(texture, grain, math.ceil(REACH * width))
            most = covariance[:, :1].clamp(min=0)
            here = _at(covariance.clamp(-most, most), _elements(displacement))
            own, most = (Grid.like(maps).over_space(one) for one in (grain.square().flatten(1).mean(1, True), most))
            stronger = ((here.square() + own * (own + 2 * most)).sqrt() - here) / own
            stronger = torch.where(own > 0, stronger, 1)
        parts = moved_noise(texture, displacement), grain * stronger
        moved, stays = (part.reshape(noise.shape) for part in parts)
    return moved, stays


def _elements(displacement: Tensor) -> Tensor:
    """How far a displacement (B, axes, *size) leads, in elements, (B, 1, *size)."""
    grid = Grid.like(displacement)
    halves = torch.tensor([n / 2 for n in reversed(grid.size)], device=displacement.device, dtype=displacement.dtype)
    steps = displacement[:, : grid.dimensions] * grid.over_space(halves)
    return steps.square().sum(dim=1, keepdim=True).sqrt()


def _covariance(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """Of two maps (B, 1, *size), the second of mean 0, so many elements apart, 0 to ``reach``, the mean over axes and
    directions, (B, reach + 1). What is beyond the frame counts as 0."""
    grid, found = Grid.like(first), []
    for lag in range(min(reach + 1, *grid.size)):
        ends = [
            (maps.narrow(axis, lag, n - lag) * other.narrow(axis, 0, n - lag)).flatten(1).sum(dim=1)
            for maps, other in ((first, second), (second, first))
            for axis, n in zip(grid.axes, grid.size, strict=True)
        ]
        found.append(torch.stack(ends).mean(dim=0) / grid.elements)
    return torch.stack(found, dim=1)


def _at(table: Tensor, places: Tensor) -> Tensor:
    """The values of tables (B, K) at places (B, 1, *size) from 0 on, linear in between; beyond the last, the last."""
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


@torch.no_grad()
def _alike(noise: Tensor, axis: int) -> Tensor:
    """The correlation of neighbours along an axis in noise (B, C, *size), (B,)."""
    count = noise.shape[axis]
    first, second = noise.narrow(axis, 0, count - 1).flatten(1), noise.narrow(axis, 1, count - 1).flatten(1)
    square = (first.square().mean(dim=1) * second.square().mean(dim=1)).sqrt()
    return torch.nan_to_num((first * second).mean(dim=1) / square).clamp(0, 1)
