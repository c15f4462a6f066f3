"""Displacements of the frame: where they lead, and back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from segcft.grid import Grid
from segcft.image_models.displacement import Displacement, between, displaced


def smooth(seed: int, channels: int, size: tuple[int, int], nodes: int, largest: float) -> Tensor:
    """Smooth random maps (2, channels, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    at_nodes = 2 * torch.rand(2, channels, nodes, nodes, generator=generator) - 1
    return F.interpolate(largest * at_nodes, size=size, mode="bicubic")


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(24, 70), st.integers(24, 70))
def test_between_leads_from_one_displaced_frame_to_the_other(seed: int, height: int, width: int) -> None:
    size = (height, width)
    maps = smooth(seed, 1, size, 5, 1.0)
    before, after = smooth(seed + 1, 2, size, 4, 0.08), smooth(seed + 2, 2, size, 4, 0.08)
    carried = displaced(displaced(maps, before), between(before, after))
    wanted = displaced(maps, after)
    inner = (..., slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4)))  # what the frame holds
    miss = (carried - wanted)[inner].abs().mean()
    assert miss < 0.1 * (displaced(maps, before) - wanted)[inner].abs().mean() + 0.01


def test_nothing_moves_between_equal_displacements() -> None:
    displacement, maps = smooth(1, 2, (32, 48), 4, 0.2), smooth(2, 3, (32, 48), 9, 1.0)
    assert between(displacement, displacement).abs().max() < 1e-6
    torch.testing.assert_close(displaced(maps, torch.zeros(2, 2, 32, 48)), maps, rtol=0, atol=1e-5)


def test_displaced_maps_come_from_where_the_displacement_points() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    one_to_the_right = torch.zeros(1, 2, 3, 4)
    one_to_the_right[:, 0] = 2 / 4
    moved = displaced(maps, one_to_the_right)
    torch.testing.assert_close(moved[..., :-1], maps[..., 1:])
    torch.testing.assert_close(moved[..., -1], maps[..., -1])  # the edge goes on


def test_a_displacement_begins_at_nothing_and_keeps_within_its_reach() -> None:
    torch.manual_seed(0)
    network = Displacement(Grid((32, 40)), width=6, spacing=8, reach=0.1)
    features = torch.randn(2, 6, 8, 10)
    assert not network(features).any()
    torch.nn.init.normal_(network.displace.weight, std=100.0)
    size = network(features)
    assert size.shape == (2, 2, 32, 40)
    # A share of 0.1 of the frame is 0.2 of its half; cubic interpolation may pass its nodes a little.
    assert 0.1 < size.abs().max() < 0.2 * 1.6
