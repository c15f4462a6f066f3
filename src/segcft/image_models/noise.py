"""Pixel noise that moves with the anatomy, and noise that stays in the frame.

What the latents leave unexplained is of several kinds: an outline that is not quite where it is expected, which moves
with it; what lies beside it, which need not; and grain of the detector, which stays where it is whatever moves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segcft.grid import Grid

REACH = 4
"""Standard deviations at which a Gaussian is cut off."""

FAR = 8
"""Elements, beyond which noise is taken to be as alike as at that distance."""

SENSE = 4
"""Half of the noise moves where what is expected changes by the scale of the noise divided by this. By the truth of
simulated chests 2 to 6 do as well."""

OUTLYING = 4
"""Scales beyond which noise is no noise, as of pixels that are black in all images: there it may be a hundred."""

LEAST_LOG_SCALE = -20
"""The logarithm of a scale below which images in [-1, 1] have no noise."""


def moved_noise(noise: Tensor, displacement: Tensor, like: Tensor | None = None) -> Tensor:
    r"""Noise (B, C, *size) at every pixel's displaced place, with the variance that it had.

    Between pixels linear interpolation averages, and so weakens noise. With f how far the place is from the pixel
    before it, along an axis along which neighbours correlate by :math:`\rho`, the variance is

    .. math:: (1 - f)^2 + f^2 + 2 f (1 - f) \rho

    of what it was: noise is divided by the root of the product of these over the axes. Where nothing moves f is 0, and
    noise stays what it is. :math:`\rho` is that of noise ``like`` it over the frame (None: of the noise itself).
    """
    grid = Grid.like(noise)
    places = grid.places(displacement) + displacement[:, : grid.dimensions]
    # Nothing is to move in order to be sharper.
    return grid.sample(noise, places) * _kept(noise if like is None else like, displacement).rsqrt()


@torch.no_grad()
def _kept(noise: Tensor, displacement: Tensor) -> Tensor:
    """The share of its variance that noise (B, C, *size) keeps between pixels, (B, 1, *size)."""
    grid = Grid.like(noise)
    places = grid.places(displacement) + displacement[:, : grid.dimensions]
    kept = torch.ones_like(displacement[:, :1])
    for number, axis in enumerate(reversed(grid.axes)):  # x is the last axis
        n = grid.size[axis]
        at = ((places[:, [number]] + 1) * (n / 2) - 0.5).clamp(0, n - 1)
        share = at - at.floor()
        apart = 2 * share * (1 - share)
        kept = kept * (1 - apart * (1 - grid.over_space(_alike(noise, axis)[:, None])))
    return kept


def texture_and_grain(
    noise: Tensor, displacement: Tensor, width: float, share: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Noise u (B, C, *size) as two parts: what moves, at every pixel's displaced place, and what stays.

    Texture t is u blurred by a Gaussian with a standard deviation of ``width`` pixels (0: all of u); grain g is the
    rest, which stays. Of texture the ``share`` w in 0..1, (B, 1, *size), is that of the displaced place, and the rest
    that of the pixel itself (None: w = 1). With r(d) the correlation of the two, 0 where it is negative, they are
    divided by

    .. math:: k = \sqrt{w^2 + (1 - w)^2 + 2 w (1 - w)\, r(d)},

    and so have the variance of t. With grain the sum still loses variance, the more the further texture has moved. With
    :math:`c(|d|)` the covariance of texture and grain at a distance, grain is made stronger by b, with which the sum
    keeps it:

    .. math::

        a = \frac{w\, c(|d|) + (1 - w)\, c(0)}{k}, \qquad
        b = \frac{\sqrt{a^2 + v\,(v + 2 c(0))} - a}{v}, \qquad v = E[g^2].

    Where nothing moves k and b are 1 and the sum is u. Correlations are those of the noise itself, of each channel by
    itself, without what is :data:`OUTLYING`; c is taken to be the same in all directions, r to be the product of those
    along the axes. White noise is not quite white any more: it lacks some of what is about as fine as the Gaussian, and
    has the more of what is finer; and where 0 < w < 1 it is there twice, and so is like itself at the distance that it
    moved. Gradients are those of noise at its places alone: nothing is to move in order to be sharper.
    """
    channels = noise.shape[1]
    with torch.autocast(noise.device.type, enabled=False):
        maps = noise.float().flatten(0, 1)[:, None]  # each channel by itself
        displacement = _within(displacement.float()).repeat_interleave(channels, dim=0)
        texture = blurred(maps, width) if width else maps
        usual = _usual(texture)
        moves, rests = torch.ones_like(maps), torch.zeros_like(maps)
        if share is not None:
            with torch.no_grad():
                moves = share.float().repeat_interleave(channels, dim=0)
                alike = _correlation(usual, displacement)
                loses = moves.square() + (1 - moves).square() + 2 * moves * (1 - moves) * alike
                moves, rests = moves / loses.sqrt(), (1 - moves) / loses.sqrt()
        moved, stays = moves * moved_noise(texture, displacement, usual), rests * texture
        if width:
            grain = maps - texture
            stays = stays + grain * _stronger(usual, _usual(grain), displacement, width, moves, rests)
        moved, stays = (part.reshape(noise.shape) for part in (moved, stays))
    return moved, stays


@torch.no_grad()
def _stronger(
    texture: Tensor, grain: Tensor, displacement: Tensor, width: float, moves: Tensor, rests: Tensor
) -> Tensor:
    """b of :func:`texture_and_grain`, (B, 1, *size), of texture that counts ``moves`` at the displaced place and
    ``rests`` at its own."""
    grid = Grid.like(grain)
    covariance = _covariance(texture, grain, math.ceil(REACH * width))
    most = covariance[:, :1].clamp(min=0)
    there = _at(covariance.clamp(-most, most), _elements(displacement))
    own, most = (grid.over_space(one) for one in (grain.square().flatten(1).mean(1, True), most))
    both = moves * there + rests * most
    return torch.where(own > 0, ((both.square() + own * (own + 2 * most)).sqrt() - both) / own, 1)


@torch.no_grad()
def share_that_moves(before: Tensor, after: Tensor, log_scale: Tensor) -> Tensor:
    r"""How much of each pixel's noise is that of its displaced place, 0..1, (B, 1, *size): as much as is new there.

    With h the change of what is expected of the image, from ``before`` to ``after``, and s the scale of noise, of which
    the logarithm is given, (B, C, *size) each,

    .. math:: w = \frac{q}{1 + q}, \qquad q = \sum_c \frac{n^2 h_c^2}{s_c^2}, \qquad n = \mathtt{SENSE}.

    Where an outline leaves or arrives much changes, and noise comes with the outline, which is not quite where it is
    expected. Beside it, and within an organ that grows, what is expected stays what it was, and so does noise: what
    lies there is not dragged along.
    """
    plain = SENSE * (after - before) * torch.exp(-log_scale.clamp(min=LEAST_LOG_SCALE))
    square = plain.square().sum(dim=1, keepdim=True)
    return square / (1 + square)


def _within(displacement: Tensor) -> Tensor:
    """A displacement (B, axes or more, *size) that leads to no place beyond the middle of the frame's last pixels, as
    :func:`~segcft.image_models.displacement.displaced` reads it."""
    grid = Grid.like(displacement)
    places = grid.places(displacement)
    last = torch.tensor([1 - 1 / n for n in reversed(grid.size)], device=places.device, dtype=places.dtype)
    last = grid.over_space(last[None])
    return (places + displacement[:, : grid.dimensions]).clamp(-last, last) - places


def _usual(noise: Tensor) -> Tensor:
    """Noise of which correlations are taken: 0 in place of what is no noise."""
    return torch.where(noise.detach().abs() < OUTLYING, noise.detach(), 0)


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


def _correlation(maps: Tensor, displacement: Tensor) -> Tensor:
    """Of noise (B, 1, *size) with :func:`moved_noise` of it, (B, 1, *size), 0 where it is negative; of noise that is 0
    everywhere 1."""
    grid, found = Grid.like(maps), _kept(maps, displacement).rsqrt()
    for number, axis in enumerate(reversed(grid.axes)):  # x is the last axis
        n = grid.size[axis]
        lags = range(min(FAR + 1, n))
        pairs = ((maps.narrow(axis, lag, n - lag), maps.narrow(axis, 0, n - lag)) for lag in lags)
        covariance = torch.stack([(one * other).flatten(1).mean(dim=1) for one, other in pairs], dim=1)
        table = torch.where(covariance[:, :1] > 0, covariance / covariance[:, :1], 1)
        found = found * _at(table.clamp(0, 1), (displacement[:, [number]] * (n / 2)).abs())
    return found.clamp(max=1)


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
