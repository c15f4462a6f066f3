"""The energy of patterns: chequers, dots and stripes are told from anatomy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segcft.evaluate.metrics.pattern import PERIODS, pattern_energy


def anatomy(*size: int) -> Tensor:
    """Smooth blobs (1, 1, *size) in [-1, 1]."""
    places = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    distance = torch.stack(places).square().sum(dim=0).sqrt()
    return torch.tanh((0.5 - distance) / 0.3)[None, None]


def dots(period: int, *size: int) -> Tensor:
    """One in so many pixels along each axis is 1, (1, 1, *size)."""
    made = torch.zeros(1, 1, *size)
    made[(..., *(slice(None, None, period) for _ in size))] = 1
    return made


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (16, 32, 32)])
@pytest.mark.parametrize("period", PERIODS)
def test_dots_and_stripes_have_it_and_smooth_shapes_have_not(size: tuple[int, ...], period: int) -> None:
    smooth = anatomy(*size)
    stripes = dots(period, size[-1]).reshape(1, 1, *(1,) * (len(size) - 1), -1).expand(1, 1, *size)
    for pattern in (dots(period, *size), stripes):
        assert pattern_energy(smooth + 0.3 * pattern) > 10 * pattern_energy(smooth)


@pytest.mark.parametrize("period", [3, 5, 7])
def test_what_repeats_at_other_distances_counts_little(period: int) -> None:
    def energy(of: int) -> Tensor:
        return pattern_energy(torch.cos(2 * math.pi * torch.arange(210) / of).expand(1, 1, 210, 210))

    assert energy(period) < 0.01 * energy(4)


def test_it_grows_with_the_square_of_the_pattern_and_not_with_brightness() -> None:
    pattern = dots(4, 32, 32)
    once = pattern_energy(pattern)
    assert torch.allclose(pattern_energy(2 * pattern + 5), 4 * once, rtol=1e-4)
    # Each image of a batch by itself.
    assert torch.equal(pattern_energy(torch.cat([pattern, 3 * pattern]))[:1], once)
