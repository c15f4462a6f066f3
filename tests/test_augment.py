"""Deformation of image and masks together, and of grey values alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segcft.config.section import Augment, LocalDeformation
from segcft.data.augment import Augmenter

STRONG = Augment(
    rotate=20,
    shift=0.1,
    scale=0.2,
    stretch=0.1,
    elastic=0.03,
    gamma=0.2,
    contrast=0.2,
    brightness=0.1,
    noise=0.02,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(height: int, width: int, radius: float, batch: int = 1, blur: float = 1.0) -> Tensor:
    """Coverage of a disc in the middle, with an edge ``blur`` pixels wide: (batch, 1, height, width)."""
    y = torch.arange(height).float() - (height - 1) / 2
    x = torch.arange(width).float() - (width - 1) / 2
    distance = torch.sqrt(y[:, None] ** 2 + x**2)
    return ((radius - distance) / blur + 0.5).clamp(0, 1).expand(batch, 1, height, width)


def moments(mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre (x, y) and standard deviations (x, y) in pixels of each mask of (B, 1, H, W)."""
    height, width = mask.shape[-2:]
    weight = mask[:, 0] / mask[:, 0].sum((1, 2), keepdim=True)
    y, x = torch.arange(height).float()[:, None], torch.arange(width).float()
    mx, my = (weight * x).sum((1, 2)), (weight * y).sum((1, 2))
    vx = (weight * (x - mx[:, None, None]) ** 2).sum((1, 2))
    vy = (weight * (y - my[:, None, None]) ** 2).sum((1, 2))
    return mx, my, vx.sqrt(), vy.sqrt()


def test_nothing_to_do_returns_the_inputs() -> None:
    image, mask = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    same_image, same_mask = Augmenter(Augment())(image, mask)
    assert same_image is image
    assert same_mask is mask


@given(
    st.builds(
        Augment,
        rotate=st.floats(0, 180),
        shift=st.floats(0, 0.5),
        scale=st.floats(0, 0.5),
        stretch=st.floats(0, 0.5),
        elastic=st.floats(0, 0.1),
        elastic_nodes=st.integers(1, 6),
        gamma=st.floats(0, 1.5),
        contrast=st.floats(0, 1),
        brightness=st.floats(0, 1),
        noise=st.floats(0, 0.5),
        deform=st.builds(LocalDeformation, share=st.floats(0, 1), spread=st.floats(0, 0.4)),
    ),
    st.integers(1, 3),
    st.sampled_from([(8, 8), (6, 11), (16, 4)]),
)
def test_shapes_ranges_and_determinism(spec: Augment, batch: int, size: tuple[int, int]) -> None:
    image, mask = torch.rand(batch, 1, *size) * 2 - 1, torch.rand(batch, 2, *size)
    kept = image.clone(), mask.clone()
    new_image, new_mask = Augmenter(spec)(image, mask, seeded())
    assert new_image.shape == image.shape
    assert new_mask.shape == mask.shape
    assert -1 <= new_image.min() <= new_image.max() <= 1
    assert -1e-6 <= new_mask.min() <= new_mask.max() <= 1 + 1e-6
    again = Augmenter(spec)(image, mask, seeded())
    assert torch.equal(again[0], new_image)
    assert torch.equal(again[1], new_mask)
    assert torch.equal(image, kept[0])  # the inputs are left alone
    assert torch.equal(mask, kept[1])


def test_image_and_mask_deform_together() -> None:
    mask = disc(48, 64, 12, batch=16)
    deforming = STRONG.model_copy(update={"gamma": 0, "contrast": 0, "brightness": 0, "noise": 0})
    image, moved = Augmenter(deforming)(mask * 2 - 1, mask, seeded())
    assert (moved - mask).abs().amax(dim=(1, 2, 3)).min() > 0.5  # every sample did move
    torch.testing.assert_close((image + 1) / 2, moved)


def test_samples_of_a_batch_are_deformed_differently() -> None:
    mask = disc(32, 32, 8, batch=2)
    _, moved = Augmenter(STRONG)(mask, mask, seeded())
    assert (moved[0] - moved[1]).abs().max() > 0.1


@pytest.mark.parametrize("size", [(48, 64), (24, 32, 32)])
def test_one_structure_alone_becomes_larger_or_smaller(size: tuple[int, ...]) -> None:
    mask = torch.zeros(40, 2, *size)
    mask[:, 0, ..., 10:16, 3:9] = mask[:, 1, ..., 10:16, -9:-3] = 1
    spec = Augment(deform=LocalDeformation(share=0.5))
    assert spec.deforms
    assert not spec.warps
    image, after = Augmenter(spec)(mask[:, :1] - mask[:, 1:], mask, seeded())
    ratio = after.flatten(2).sum(2) / mask.flatten(2).sum(2)
    changed = (ratio - 1).abs() > 0.01
    assert 8 < changed.any(dim=1).sum() < 32
    assert not changed.all(dim=1).any()
    assert changed.any(dim=0).all()  # now the one, now the other
    torch.testing.assert_close(image, after[:, :1] - after[:, 1:])


def test_grey_values_change_the_image_alone() -> None:
    image, mask = torch.rand(2, 1, 16, 16) * 2 - 1, torch.rand(2, 1, 16, 16)
    for part in ("gamma", "contrast", "brightness", "noise"):
        changed, same = Augmenter(Augment(**{part: 0.3}))(image, mask, seeded())
        assert same is mask
        assert not torch.equal(changed, image)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
def test_rotation_is_rigid_on_any_grid(size: tuple[int, int]) -> None:
    mask = disc(*size, 15, batch=32, blur=5)
    _, turned = Augmenter(Augment(rotate=180))(mask, mask, seeded())
    torch.testing.assert_close(turned, mask, atol=0.05, rtol=0)  # a disc stays the same disc


def test_rotation_turns_by_the_angle_it_says() -> None:
    bar = torch.zeros(64, 1, 40, 80)
    bar[:, :, 19:21, 25:55] = 1
    _, turned = Augmenter(Augment(rotate=30))(bar, bar, seeded())
    y = torch.arange(40).float()[:, None] - 19.5
    x = torch.arange(80).float() - 39.5
    weight = turned[:, 0] / turned[:, 0].sum((1, 2), keepdim=True)
    xx, yy, xy = ((weight * q).sum((1, 2)) for q in (x * x, y * y, x * y))
    angles = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)
    assert 27 < angles.abs().max() < 31
    assert angles.min() < -15
    assert angles.max() > 15


def test_shift_is_a_share_of_each_side() -> None:
    mask = disc(50, 100, 6, batch=500)
    _, moved = Augmenter(Augment(shift=0.2))(mask, mask, seeded())
    x, y, _, _ = moments(moved)
    assert 19 < (x - 49.5).abs().max() <= 20.1
    assert 9.5 < (y - 24.5).abs().max() <= 10.1
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 0.15


def test_scale_multiplies_areas_by_its_square() -> None:
    mask = disc(64, 64, 12, batch=300)
    _, scaled = Augmenter(Augment(scale=0.3))(mask, mask, seeded())
    factors = torch.sqrt(scaled.sum((2, 3)) / mask.sum((2, 3)))
    assert 0.69 < factors.min() < 0.72
    assert 1.28 < factors.max() < 1.31
    _, _, across, down = moments(scaled)
    torch.testing.assert_close(across, down, rtol=0.02, atol=0)


def test_stretch_changes_one_axis() -> None:
    mask = disc(64, 64, 12, batch=100)
    _, stretched = Augmenter(Augment(stretch=0.3))(mask, mask, seeded())
    _, _, across, down = moments(stretched)
    _, _, before, _ = moments(mask)
    torch.testing.assert_close(down, before, rtol=0.02, atol=0)
    assert (across / before).max() > 1.25
    assert (across / before).min() < 0.75


def test_elastic_displacement_is_smooth_and_has_its_amplitude() -> None:
    ramp = torch.linspace(-1, 1, 65)[:64] + 1 / 64
    image = ramp.expand(400, 1, 64, 64)  # its value is its x coordinate
    bent, _ = Augmenter(Augment(elastic=0.02))(image, image, seeded())
    moved = (bent - image)[:, 0, 8:-8, 8:-8] / 2  # as a share of the width
    assert 0.01 < moved.std() < 0.025
    slope = moved.diff(dim=-1).abs().max() * 64  # change of displacement per length
    assert slope < 0.6  # under 1: nothing folds over


def test_what_comes_into_view_is_the_edge_and_no_structure() -> None:
    image, mask = torch.full((8, 1, 16, 16), 0.25), torch.ones(8, 1, 16, 16)
    moved, uncovered = Augmenter(Augment(shift=0.4))(image, mask, seeded())
    torch.testing.assert_close(moved, image)
    assert uncovered.amin(dim=(1, 2, 3)).max() == 0


def test_gamma_keeps_black_and_white() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    changed, _ = Augmenter(Augment(gamma=0.5))(image, image, seeded())
    black, middle, white = changed.flatten().tolist()
    assert (black, white) == (-1, 1)
    assert middle != 0


def test_contrast_keeps_the_mean() -> None:
    image = torch.rand(4, 1, 16, 16) - 0.5
    changed, _ = Augmenter(Augment(contrast=0.4))(image, image, seeded())
    torch.testing.assert_close(changed.mean((1, 2, 3)), image.mean((1, 2, 3)))
    assert math.isclose(float(changed.std()), float(image.std()), rel_tol=0.5)


def test_noise_has_its_standard_deviation() -> None:
    image = torch.zeros(4, 1, 64, 64)
    noisy, _ = Augmenter(Augment(noise=0.1))(image, image, seeded())
    assert 0.098 < noisy.std() < 0.102


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (16, 24, 32)])
def test_a_rectangle_of_each_image_is_hidden_in_all_its_channels(size: tuple[int, ...]) -> None:
    image = torch.rand(40, 2, *size, generator=seeded()) * 2 - 1
    mask = torch.rand(40, 3, *size)
    seen, same = Augmenter(Augment(hide=0.5))(image, mask, seeded())
    assert same is mask
    hidden = seen != image
    assert (hidden[:, 0] == hidden[:, 1]).all()
    mean = image.mean(dim=tuple(range(2, image.dim())), keepdim=True)
    torch.testing.assert_close(torch.where(hidden, seen, mean), mean.expand_as(image))
    for axis, count in enumerate(size):
        others = tuple(other for other in range(1, hidden.dim()) if other != axis + 2)
        along = hidden.any(dim=others)  # a run of elements of every image, of up to half of the side
        assert along.sum(dim=1).max() <= count / 2 + 1
        assert ((along[:, 1:] != along[:, :-1]).sum(dim=1) <= 2).all()
        assert along.any(dim=0)[count // 4 : -count // 4].all()  # no place is spared
    places = hidden.flatten(1).float().mean(dim=1)
    assert places.unique().numel() > 20
