"""Displacements of the frame: where they lead, and back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from segcft.grid import Grid
from segcft.image_models.displacement import (
    Diffeomorphism,
    Displacement,
    between,
    displaced,
    stretch,
)
from segcft.image_models.likelihood import DiscretisedGaussian, PixelNoise
from segcft.image_models.noise import blurred, moved_noise, share_that_moves, texture_and_grain


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


# --- displacements that cannot fold --------------------------------------------------------------------------


def steep(
    seed: int, size: tuple[int, ...] = (64, 80), strength: float = 30.0, spacing: int = 8, steepest: float = 0.5
) -> Tensor:
    """Of a diffeomorphism whose velocity jumps from its largest to its smallest between neighbouring nodes."""
    torch.manual_seed(seed)
    network = Diffeomorphism(Grid(size), width=6, spacing=spacing, reach=0.2, steepest=steepest)
    torch.nn.init.normal_(network.displace.weight, std=strength)
    with torch.no_grad():
        return network(3 * torch.randn(4, 6, *(pixels // 4 for pixels in size)))


@pytest.mark.parametrize("size", [(64, 80), (48, 96), (128, 128)])
@pytest.mark.parametrize("spacing", [4, 8, 16])
@pytest.mark.parametrize("steepest", [0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_a_diffeomorphism_does_not_fold_however_steep_it_is(
    seed: int, steepest: float, spacing: int, size: tuple[int, int]
) -> None:
    found = steep(seed, size, spacing=spacing, steepest=steepest)
    assert found.shape == (4, 4, *size)
    forward, inverse = found.chunk(2, dim=1)
    assert forward.abs().max() > 0.01  # it does move
    for one in (forward, inverse, between(found, steep(seed + 100, size, spacing=spacing, steepest=steepest))):
        assert float(stretch(one).min()) > 0


@pytest.mark.parametrize("size", [(64, 128), (48, 64, 80)])
def test_a_velocity_is_flattened_where_it_is_too_steep_and_stays_elsewhere(size: tuple[int, ...]) -> None:
    network = Diffeomorphism(Grid(size), width=6, spacing=8, reach=0.2)
    velocity = torch.zeros(1, len(size), *network.nodes)
    velocity[..., 3:5, 2] = 0.4
    velocity[..., 3:5, -4:] = 0.02
    found = network.flattened(velocity)
    assert network.steepness(velocity) > 2 * network.steepest
    assert network.steepness(found) <= 1.01 * network.steepest
    torch.testing.assert_close(found[..., -4:], velocity[..., -4:], atol=1e-6, rtol=0)
    # Made smaller everywhere it would be less.
    assert found.max() > 0.4 * network.steepest / float(network.steepness(velocity))
    torch.testing.assert_close(found.sum(), velocity.sum())  # what is taken from a node goes to its neighbours


def test_axes_are_alike_and_what_is_not_too_steep_stays() -> None:
    network = Diffeomorphism(Grid((64, 64)), width=6, spacing=8, reach=0.2)
    torch.manual_seed(0)
    velocity = 0.2 * torch.tanh(torch.randn(3, 2, *network.nodes))
    turned = velocity.transpose(2, 3).flip(1)
    torch.testing.assert_close(network.flattened(turned), network.flattened(velocity).transpose(2, 3).flip(1))
    ramp = torch.zeros(1, 2, *network.nodes)  # as a base that moves down while the apex stays
    ramp[0, 1] = 0.98 * network.steepest * torch.linspace(-1, 1, network.nodes[0] + 1)[1:, None]
    assert torch.equal(network.flattened(ramp), ramp)


@pytest.mark.parametrize("seed", range(4))
def test_its_inverse_leads_back(seed: int) -> None:
    found = steep(seed, strength=1.0)
    grid = Grid((64, 80))
    forward, inverse = found.chunk(2, dim=1)
    back = forward + displaced(inverse, forward)  # from a pixel to its place and back
    inner = (grid.places(forward) + forward).abs().amax(dim=1) < 0.95
    pixels = back * torch.tensor([40.0, 32.0]).reshape(1, 2, 1, 1)
    assert pixels.norm(dim=1)[inner].quantile(0.99) < 0.25
    assert float((forward * torch.tensor([40.0, 32.0]).reshape(1, 2, 1, 1)).norm(dim=1).max()) > 2


def test_nothing_moves_between_equal_diffeomorphisms() -> None:
    found = steep(0)
    assert not between(found, found).any()
    noise = torch.randn(4, 1, 64, 80)
    assert torch.allclose(moved_noise(noise, between(found, found)), noise, atol=1e-4)
    for width in (0.5, 2):
        assert torch.allclose(sum(texture_and_grain(noise, between(found, found), width)), noise, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 80), (24, 32, 28)])
@pytest.mark.parametrize("steepest", [0.5, 0.8])
def test_the_way_from_one_diffeomorphism_to_another_is_exact(size: tuple[int, ...], steepest: float) -> None:
    """By the inverse alone it is a pixel off where it is steep."""
    before, after = (steep(seed, size, steepest=steepest) for seed in (0, 1))
    grid, axes = Grid(size), len(size)
    pixels = grid.places(before)
    there = pixels + between(before, after)
    reached, wanted = there + grid.sample(before[:, :axes], there), pixels + after[:, :axes]
    by_inverse = wanted + grid.sample(before[:, axes:], wanted)
    misses = [
        ((one - wanted) * max(size) / 2).norm(dim=1)
        for one in (reached, by_inverse + grid.sample(before[:, :axes], by_inverse))
    ]
    inner = there.abs().amax(dim=1) < 0.95  # beyond the frame nothing is known
    assert float(misses[0][inner].quantile(0.999)) < 0.05
    assert float(misses[0][inner].mean()) < 0.1 * float(misses[1][inner].mean())


def test_the_gradient_of_the_way_is_that_of_the_implicit_function() -> None:
    before, after = (steep(seed, (32, 40), strength=0.5) for seed in (0, 1))
    before, after = before[:1].double(), after[:1].double()
    weights = torch.randn(1, 2, 32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[..., :4], weights[..., -4:], weights[:, :, :4], weights[:, :, -4:] = 0, 0, 0, 0
    ahead = torch.randn(after.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ahead[:, 2:] = 0  # the way does not ask for the inverse of where it leads
    after.requires_grad_()
    (between(before, after) * weights).sum().backward()
    assert after.grad is not None
    step = 1e-6
    with torch.no_grad():
        moved = [(between(before, after + sign * step * ahead) * weights).sum() for sign in (1, -1)]
    # The place is piecewise linear in what it is asked for; the Jacobian is that of the middle of a pixel.
    assert float((after.grad * ahead).sum()) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=0.1)


def test_it_begins_as_no_displacement_and_trains() -> None:
    network = Diffeomorphism(Grid((32, 40)), width=6, spacing=8, reach=0.1)
    features = torch.randn(2, 6, 8, 10)
    assert not network(features).any()
    displaced(torch.randn(2, 1, 32, 40), network(features)).square().sum().backward()
    gradient = network.displace.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.any()


def test_the_jacobian_of_what_is_known() -> None:
    grid = Grid((20, 30))
    places = grid.places(torch.empty(1, 1, 20, 30))
    # By a quarter, and half as wide.
    turned = torch.stack([0.5 * places[:, 1] * 20 / 30, -places[:, 0] * 30 / 20], dim=1)
    for wanted, place in (
        (1.0, places),
        (0.25, 0.5 * places),
        (0.5, turned),
        (-1.0, places * torch.tensor([-1, 1]).reshape(1, 2, 1, 1)),
    ):
        assert torch.allclose(stretch(place - places), torch.tensor(wanted), atol=1e-4)


@pytest.mark.parametrize("width", [0, 0.5, 1, 2])
@pytest.mark.parametrize("smoothing", [0, 1, 2])
def test_what_is_moved_keeps_the_variance_of_its_noise(smoothing: int, width: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 1, 96, 96, generator=generator)
    for _ in range(smoothing):  # noise whose neighbours are alike
        noise = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    by = torch.tensor([0.5, 0.3]).reshape(1, 2, 1, 1) * (2 / 96)
    for displacement in (by.expand(4, 2, 96, 96), smooth(1, 2, (96, 96), 4, 0.05).repeat(2, 1, 1, 1)):
        moved = sum(texture_and_grain(noise, displacement, width)) if width else moved_noise(noise, displacement)
        moved = moved[..., 8:-8, 8:-8]
        assert 0.9 < float(moved.var() / noise[..., 8:-8, 8:-8].var()) < 1.1
        plain = displaced(noise, displacement)[..., 8:-8, 8:-8]
        assert smoothing or float(plain.var() / noise.var()) < 0.7


@pytest.mark.parametrize("size", [(64, 64), (24, 24, 24)])
def test_grain_stays_and_texture_moves(size: tuple[int, ...]) -> None:
    """A dot is grain, a wide blob is texture; both are moved by four elements."""
    dot = torch.zeros(1, 1, *size)
    dot[(0, 0, *(n // 2 for n in size))] = 1
    blob = blurred(dot, 4) / blurred(dot, 4).max()
    by = torch.zeros(1, len(size), *size)
    by[:, 0] = 4 * 2 / size[-1]  # along x, the last axis
    texture, grain = texture_and_grain(dot, by, 1)
    assert grain.argmax() == dot.argmax()
    assert grain.max() > 3 * texture.max()
    texture, grain = texture_and_grain(blob, by, 1)
    assert texture.argmax() == blob.argmax() - 4
    assert texture.max() == pytest.approx(1, abs=0.1)  # what is coarse keeps its contrast
    assert texture.max() > 3 * grain.max()


def test_each_channel_has_grain_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(2, 1, 64, 64, generator=generator)
    smooth_one = blurred(torch.randn(2, 1, 64, 64, generator=generator), 2)
    by = torch.full((2, 2, 64, 64), 3 * 2 / 64)
    both = texture_and_grain(torch.cat([white, smooth_one], dim=1), by, 0.7)
    for channel, alone in enumerate((white, smooth_one)):
        for part, one in zip(both, texture_and_grain(alone, by, 0.7), strict=True):
            torch.testing.assert_close(part[:, [channel]], one)


@pytest.mark.parametrize("width", [0, 0.5, 2])
@pytest.mark.parametrize("smoothing", [0, 1, 2])
def test_what_is_moved_in_part_keeps_the_variance_of_its_noise(smoothing: int, width: float) -> None:
    """Whatever the share and the distance, and though a corner of the frame is black in all images."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 1, 128, 128, generator=generator)
    noise = blurred(noise, smoothing) if smoothing else noise
    noise = noise / noise.std()
    noise[..., :32, :32] = 100
    inner = (..., slice(48, -8), slice(48, -8))
    for pixels in (0.5, 3.0):
        by = torch.full((8, 2, 128, 128), pixels * 2 / 128)
        for share in (0.0, 0.3, 0.5, 1.0):
            found = sum(texture_and_grain(noise, by, width, torch.full_like(noise, share)))
            assert 0.85 < float(found[inner].var() / noise[inner].var()) < 1.15


@pytest.mark.parametrize("size", [(96, 96), (24, 32, 28)])
def test_what_moves_over_the_rim_of_the_frame_keeps_the_variance_of_its_noise(size: tuple[int, ...]) -> None:
    """There the last pixels go on, which are quite like themselves."""
    noise = torch.randn(64, 1, *size, generator=torch.Generator().manual_seed(0))
    by = torch.zeros(64, len(size), *size)
    by[:, 0] = 3 * 2 / size[-1]
    for width, share in ((0, 0.5), (0.5, 0.5), (0.5, 1.0)):
        found = sum(texture_and_grain(noise, by, width, torch.full_like(noise, share)))
        assert 0.85 < float(found[..., -1].var()) < 1.15


def test_noise_moves_where_what_is_expected_changes() -> None:
    """In any channel. Of one half of the frame nothing changes: what lies there is where it was."""
    noise = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    before, after = torch.zeros_like(noise), torch.zeros_like(noise)
    after[:, 1, :, 32:] = 0.5
    share = share_that_moves(before, after, torch.full_like(noise, math.log(0.1)))
    assert not share[..., :32].any()
    assert share[..., 32:].min() > 0.99
    by = torch.full((1, 2, 64, 64), 3 * 2 / 64)
    for width in (0, 0.7):
        found = sum(texture_and_grain(noise, by, width, share))
        torch.testing.assert_close(found[..., :32], noise[..., :32])
        everywhere = sum(texture_and_grain(noise, by, width))
        torch.testing.assert_close(found[..., 32:], everywhere[..., 32:], atol=0.1, rtol=0)
    little = share_that_moves(before, 0.02 * after, torch.full_like(noise, math.log(0.1)))
    assert 0 < float(little[..., 32:].max()) < 0.2  # much less than noise, so little is new
    still = share_that_moves(before, before, torch.full_like(noise, -100))
    assert torch.equal(still, torch.zeros_like(still))


@pytest.mark.parametrize("noise", ["none", "constant", "rim", "chequer"])
@pytest.mark.parametrize("width", [0.5, 8])
def test_noise_of_any_kind_has_finite_parts(noise: str, width: float) -> None:
    """And slopes, in images that are hardly larger than what is blurred."""
    u = torch.zeros(1, 1, 32, 32)
    if noise == "constant":
        u += 3
    elif noise == "rim":
        u += torch.randn(u.shape, generator=torch.Generator().manual_seed(0))
        u[..., :2] += 4
        u[..., -2:] -= 4
    elif noise == "chequer":
        at = torch.arange(32) * (2 * math.pi / 8)
        u += torch.sin(at)[:, None] * torch.sin(at)
    for x, y in ((0, 0), (4, 0), (4, 4), (30.4, 0)):
        asked = u.clone().requires_grad_()
        by = (torch.tensor([x, y]) * 2 / 32).reshape(1, 2, 1, 1).expand(1, 2, 32, 32)
        found = sum(texture_and_grain(asked, by, width))
        found.square().sum().backward()
        assert found.isfinite().all()
        assert asked.grad is not None
        assert asked.grad.isfinite().all()
        assert found.abs().max() < 4 * u.abs().max() + 1e-6


@pytest.mark.parametrize("growth", [0.0, 1.0])
def test_grain_that_stays_keeps_the_scale_that_it_was_abducted_with(growth: float) -> None:
    """Where the scale grows noise may not (``growth`` 0): of grain it is the scale of where it is."""
    size = (32, 64)
    step = torch.full((1, 1, *size), math.log(0.01))
    step[..., 32:] = math.log(0.2)
    noise = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    still, by = torch.zeros(1, 4, *size), torch.zeros(1, 4, *size)
    by[:, 0], by[:, 2] = 8 * 2 / 64, -8 * 2 / 64  # along x, and the inverse behind it
    after = DiscretisedGaussian(torch.zeros_like(noise), torch.full_like(step, math.log(0.2)), by)
    found = after.with_residual(PixelNoise(noise, still, step), growth, grain=2)
    texture, grain = texture_and_grain(noise, between(still, by), 2)
    left = (..., slice(2, 22))  # whose texture comes from where the scale is small, too
    own = 0.01 if growth == 0 else 0.2
    torch.testing.assert_close(found[left], (own * (texture + grain))[left].clamp(-1, 1))
    near = (..., slice(25, 31))  # whose texture comes from where it is large
    torch.testing.assert_close(found[near], (0.2 * texture + own * grain)[near].clamp(-1, 1))


@pytest.mark.parametrize("size", [(9, 7), (5, 6, 7)])
@pytest.mark.parametrize("width", [0.5, 1.5])
def test_blurring_is_that_of_scipy(size: tuple[int, ...], width: float) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    wanted = gaussian_filter(maps.numpy(), (0, 0, *(width,) * len(size)), mode="nearest", radius=math.ceil(4 * width))
    assert torch.allclose(blurred(maps, width), torch.from_numpy(wanted), atol=1e-5)
