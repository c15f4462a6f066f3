"""The pixel likelihood: a distribution over grey levels, and an invertible map from pixel noise to pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segcft.grey import to_grey_levels, to_unit
from segcft.image_models.likelihood import HALF_LEVEL, DiscretisedGaussian, PixelNoise

GREYS = torch.arange(256, dtype=torch.uint8)
LEVELS = to_unit(GREYS)
# What an HVAE can say: its scale is bounded below by e^-6, its location by nothing.
locations = st.one_of(st.floats(-1.2, 1.2), st.floats(-100, 100), st.sampled_from([-1.0, 0.0, 1.0]))
log_scales = st.one_of(st.floats(-6, 1), st.floats(-6, 12))


def gaussian(loc: float, log_scale: float, gradient: bool = False) -> DiscretisedGaussian:
    """The same Gaussian for each of the 256 grey levels."""
    return DiscretisedGaussian(
        torch.full((256,), loc, requires_grad=gradient), torch.full((256,), log_scale, requires_grad=gradient)
    )


def mass(likelihood: DiscretisedGaussian) -> Tensor:
    return likelihood.log_prob(LEVELS).double().exp()


def test_every_grey_level_survives_the_round_trip() -> None:
    assert torch.equal(to_grey_levels(LEVELS), GREYS)
    assert (LEVELS[0], LEVELS[255]) == (-1, 1)
    assert torch.diff(LEVELS).tolist() == pytest.approx([2 * HALF_LEVEL] * 255, rel=1e-4)


def test_values_outside_the_range_become_black_and_white() -> None:
    assert to_grey_levels(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


@settings(max_examples=300)
@given(locations, log_scales)
def test_probabilities_of_all_grey_levels_sum_to_one(loc: float, log_scale: float) -> None:
    assert float(mass(gaussian(loc, log_scale)).sum()) == pytest.approx(1, abs=1e-3)


@settings(max_examples=300)
@given(locations, log_scales)
def test_log_prob_and_its_gradients_are_finite(loc: float, log_scale: float) -> None:
    likelihood = gaussian(loc, log_scale, gradient=True)
    log_prob = likelihood.log_prob(LEVELS)
    log_prob.sum().backward()
    for tensor in (log_prob, likelihood.loc.grad, likelihood.log_scale.grad):
        assert tensor is not None
        assert tensor.isfinite().all()
    assert (log_prob <= 1e-6).all()


@pytest.mark.parametrize("loc", [-30.0, -3.0, -0.7, 0.2, 1.0, 4.0])
@pytest.mark.parametrize("log_scale", [-6.0, -4.0, -1.0, 3.0])
def test_log_prob_is_that_of_double_precision(loc: float, log_scale: float) -> None:
    """Wherever a level has a noticeable probability; below that only its slope matters."""
    scale = math.exp(log_scale)
    levels = 2 * GREYS.double() / 255 - 1
    upper = torch.special.ndtr((levels + HALF_LEVEL - loc) / scale)
    lower = torch.special.ndtr((levels - HALF_LEVEL - loc) / scale)
    upper[-1], lower[0] = 1, 0
    torch.testing.assert_close(mass(gaussian(loc, log_scale)), upper - lower, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("distance", [10.0, 100.0, 1000.0, 1e4, 1e5])
@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_a_location_far_outside_is_pulled_back_by_its_distance(distance: float, end: float) -> None:
    """An end level's tail: d log p / d loc grows as the distance in scales, and never breaks down."""
    scale = math.exp(-6)
    loc = torch.tensor([-end * (distance * scale - 1)], requires_grad=True)
    likelihood = DiscretisedGaussian(loc, torch.full((1,), -6.0))
    likelihood.log_prob(torch.tensor([end])).sum().backward()
    assert loc.grad is not None
    gap = abs(end - float(loc.detach())) - HALF_LEVEL
    assert float(loc.grad) * end == pytest.approx(gap / scale**2, rel=0.03)


def test_an_image_is_likelier_where_it_is_expected() -> None:
    log_prob = gaussian(0.3, -3).log_prob(LEVELS)
    best = int(log_prob.argmax())
    assert abs(float(LEVELS[best]) - 0.3) <= HALF_LEVEL + 1e-6
    assert (torch.diff(log_prob)[:best] >= 0).all()  # rises up to there
    assert (torch.diff(log_prob)[best:254] <= 0).all()  # and falls after it


@settings(max_examples=100)
@given(st.floats(-1.5, 1.5), st.floats(-6, 2))
def test_pixel_noise_and_pixels_determine_each_other(loc: float, log_scale: float) -> None:
    likelihood = gaussian(loc, log_scale)
    noise = likelihood.residual(LEVELS)
    torch.testing.assert_close(likelihood.with_residual(noise), LEVELS, rtol=0, atol=1e-5)


def test_a_prediction_stays_in_the_range_of_images() -> None:
    likelihood = gaussian(0.5, 1.0)
    predicted = likelihood.with_residual(PixelNoise(torch.linspace(-5, 5, 256), None))
    assert (predicted.min(), predicted.max()) == (-1, 1)


def test_chunks_are_the_parts_of_the_batch() -> None:
    loc, log_scale = torch.rand(4, 1, 2, 3), torch.rand(4, 1, 2, 3)
    first, second = DiscretisedGaussian(loc, log_scale).chunk(2)
    assert torch.equal(first.loc, loc[:2])
    assert torch.equal(second.log_scale, log_scale[2:])
    assert first.displacement is second.displacement is None
    displacement = torch.rand(4, 2, 2, 3)
    parts = DiscretisedGaussian(loc, log_scale, displacement).chunk(2)
    assert torch.equal(torch.cat([part.displacement for part in parts]), displacement)


def test_pixel_noise_rides_with_the_displacement() -> None:
    noise, flat = torch.randn(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    nowhere = torch.zeros(1, 2, 8, 8)
    two_pixels = torch.tensor([2 * 2 / 8, 0.0])[None, :, None, None].expand_as(nowhere)  # x, in halves of the frame
    before = DiscretisedGaussian(flat, flat - 2, nowhere)
    x = before.with_residual(PixelNoise(noise, nowhere))
    moved = DiscretisedGaussian(flat, flat - 2, two_pixels).with_residual(before.residual(x))
    torch.testing.assert_close(moved[..., :-2], x[..., 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(before.with_residual(before.residual(x)), x, rtol=0, atol=1e-5)


@settings(max_examples=100)
@given(st.floats(-4, 0), st.floats(-4, 0), st.floats(0, 1))
def test_noise_grows_by_a_power_of_the_scale_and_shrinks_with_it(before: float, after: float, growth: float) -> None:
    x = 0.1 * LEVELS
    residual = gaussian(0.0, before).residual(x)
    found = gaussian(0.0, after).with_residual(residual, growth)
    by = math.exp((growth if after > before else 1) * (after - before))
    torch.testing.assert_close(found, (by * x).clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_of_what_is_drawn_the_noise_has_the_scale_whatever_its_growth() -> None:
    noise = PixelNoise(torch.linspace(-1, 1, 256))
    assert torch.equal(gaussian(0.0, -1).with_residual(noise, 0.0), gaussian(0.0, -1).with_residual(noise))


def test_the_scale_that_noise_had_rides_with_it() -> None:
    flat, nowhere = torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8)
    two_pixels = torch.tensor([2 * 2 / 8, 0.0])[None, :, None, None].expand_as(nowhere)  # x, in halves of the frame
    own = torch.full_like(flat, -4.0)
    own[..., 5] = -1.0  # one column was uncertain
    before = DiscretisedGaussian(flat, own, nowhere)
    residual = before.residual(0.1 * torch.ones_like(flat))
    found = DiscretisedGaussian(flat, flat - 1, two_pixels).with_residual(residual, 0.0)
    torch.testing.assert_close(found, 0.1 * torch.ones_like(found), rtol=1e-4, atol=1e-5)  # no column has grown
