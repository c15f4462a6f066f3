"""Borders, reaches and moments of shapes whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refused import refused
from segcft.config.image import Image
from segcft.errors import Code, StudyError
from segcft.grid import Grid
from segcft.measures.border import QUANTILE
from segcft.measures.measure import MEASURES
from segcft.measures.measurements import Measurements
from tests.conftest import MakeStudy

SHAPES = ("top", "bottom", "left", "right", "height", "width", "x", "y", "orientation", "elongation")
GRID = Grid((40, 56))


def read(name: str, masks: Tensor, grid: Grid = GRID) -> float:
    return float(MEASURES[name].estimate(masks[None, None].double(), grid)[0, 0])


def box(top: int, bottom: int, left: int, right: int, grid: Grid = GRID) -> Tensor:
    mask = torch.zeros(grid.size, dtype=torch.float64)
    mask[top:bottom, left:right] = 1
    return mask


def ellipse(middle: tuple[float, float], axes: tuple[float, float], degrees: float, grid: Grid) -> Tensor:
    """Its coverage, from 8 x 8 points an element: middle (y, x) and semi-axes in lengths; the first axis is at this
    angle with the vertical, positive where its upper end is to the right."""
    fine = 8
    y, x = (
        ((torch.arange(n * fine, dtype=torch.float64) + 0.5) / fine * pitch - at)
        for n, pitch, at in zip(grid.size, grid.pitch, middle, strict=True)
    )
    up, right = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, across = -y[:, None] * up + x[None] * right, y[:, None] * right + x[None] * up
    inside = ((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1).double()
    return inside.reshape(grid.size[0], fine, grid.size[1], fine).mean(dim=(1, 3))


edges = st.tuples(st.integers(0, 38), st.integers(1, 39), st.integers(0, 54), st.integers(1, 55)).map(
    lambda at: (at[0], max(at[0] + 1, at[1] + 1), at[2], max(at[2] + 1, at[3] + 1))
)


@given(edges)
def test_a_box(at: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = at
    mask, high, wide = box(*at), bottom - top, right - left
    expected = {
        "top": top + QUANTILE * high,
        "bottom": bottom - QUANTILE * high,
        "left": left + QUANTILE * wide,
        "right": right - QUANTILE * wide,
        "height": (1 - 2 * QUANTILE) * high,
        "width": (1 - 2 * QUANTILE) * wide,
        "y": (top + bottom) / 2,
        "x": (left + right) / 2,
    }
    for name, number in expected.items():
        assert read(name, mask) == pytest.approx(number, abs=1e-9), name
    if high != wide:
        assert read("elongation", mask) == pytest.approx(max(high / wide, wide / high), rel=0.01)
        assert abs(read("orientation", mask)) == pytest.approx(0 if high > wide else 90, abs=1e-6)


@given(st.integers(-6, 6), st.integers(-6, 6), st.floats(1.2, 2.0), st.floats(-60, 60))
def test_what_moves_moves_along(down: int, right: int, long: float, degrees: float) -> None:
    mask = ellipse((20, 28), (5 * long, 5), degrees, GRID)
    moved = mask.roll((down, right), dims=(0, 1))
    by = dict.fromkeys(SHAPES, 0.0) | dict.fromkeys(("top", "bottom", "y"), down)
    by |= dict.fromkeys(("left", "right", "x"), right)
    for name in SHAPES:
        assert read(name, moved) == pytest.approx(read(name, mask) + by[name], abs=1e-8), name


@given(st.floats(1.3, 2.5), st.floats(-80, 80))
def test_an_ellipse_lies_as_it_was_laid(long: float, degrees: float) -> None:
    mask = ellipse((20, 28), (6 * long, 6), degrees, GRID)
    assert read("orientation", mask) == pytest.approx(degrees, abs=2)
    assert read("elongation", mask) == pytest.approx(long, rel=0.03)
    turned = torch.rot90(mask)  # to the left
    grid = Grid((56, 40))
    assert read("elongation", turned, grid) == pytest.approx(read("elongation", mask), rel=1e-9)
    assert read("height", turned, grid) == pytest.approx(read("width", mask), abs=1e-9)
    turn = (read("orientation", turned, grid) - read("orientation", mask) + 180) % 180
    assert turn == pytest.approx(90, abs=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_a_finer_grid_of_the_same_frame_reads_the_same(name: str) -> None:
    field = (80.0, 84.0)  # mm; pixels are not square
    coarse, fine = (Grid.of(Image(size=size, field_of_view=field, length_unit="mm")) for size in ((40, 56), (120, 168)))
    numbers = [read(name, ellipse((37, 45), (21, 12), 25, grid), grid) for grid in (coarse, fine)]
    low, high = MEASURES[name].bounds(coarse)
    half_a_pixel = {"orientation": 0.5, "elongation": 0.02}.get(name, 1.0)
    assert numbers[0] == pytest.approx(numbers[1], abs=half_a_pixel)
    assert all(low <= number <= high for number in numbers)
    assert MEASURES[name].unit(coarse) == {"orientation": "degrees", "elongation": ""}.get(name, "mm")


@given(edges, st.floats(1e-6, 0.02))
def test_faint_probabilities_elsewhere_hardly_move_a_number(at: tuple[int, int, int, int], faint: float) -> None:
    mask = box(*at)
    soft = mask.clamp(faint, 1 - faint)
    # Their odds are squared, so all of them together are this share of the structure, wherever they are.
    share = faint**2 / (1 - faint) ** 2 * GRID.elements / float(mask.sum())
    for name in ("y", "x"):
        assert abs(read(name, soft) - read(name, mask)) <= share * max(GRID.size)
    if share < QUANTILE / 4:
        for name in ("top", "bottom", "left", "right"):
            assert read(name, soft) == pytest.approx(read(name, mask), abs=max(GRID.size) * share / QUANTILE + 0.5)


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(1, 2, 6, 7, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda soft: MEASURES[name].estimate(soft, Grid((6, 7))), masks)


@pytest.mark.parametrize("name", SHAPES)
def test_soft_and_exact_masks_read_alike_and_nothing_has_no_number(name: str) -> None:
    coverage = (255 * torch.stack([ellipse((20, 28), (14, 8), 30, GRID), box(3, 9, 20, 50), box(0, 0, 0, 0)])).byte()
    measure = MEASURES[name]
    exact = measure.exact(coverage.numpy(), GRID)
    soft = measure.estimate(coverage[None].float() / 255, GRID)[0].numpy()
    np.testing.assert_allclose(exact[:2], soft[:2], rtol=1e-4)
    assert np.isnan(exact[2])
    assert np.isnan(measure.absent)


def test_a_disc_has_a_gradient_although_it_has_no_long_axis() -> None:
    mask = ellipse((20, 28), (8, 8), 0, GRID)[None, None].requires_grad_()
    MEASURES["elongation"].estimate(mask, GRID).sum().backward()
    assert mask.grad is not None
    assert bool(mask.grad.isfinite().all())
    assert float(MEASURES["elongation"].estimate(mask.detach(), GRID)) == pytest.approx(1, abs=1e-3)


def test_what_a_place_cannot_have_is_refused(make_small_study: MakeStudy) -> None:
    """Percentages, views that move it, and a value where it is not there."""
    changes = {"structures.heart.measure": "bottom"}
    place = changes | {"evaluation.metric": "mae"}
    for view in ({"rotate": 3}, {"shift": 0.1}):
        with refused(StudyError, Code.CONFLICT, "finetune.view"):
            Measurements.of(make_small_study(place | {"finetune.view": view}))
    assert Measurements.of(make_small_study({"finetune.view": {"rotate": 3}}))  # an area stays
    absent = {f"variables.heart_area.{key}": value for key, value in {"zero_inflated": True, "scale": "log"}.items()}
    with refused(StudyError, Code.CONFLICT, "variables.heart_area.zero_inflated"):
        Measurements.of(make_small_study(place | absent))
    with refused(StudyError, Code.CONFLICT, "evaluation.metric"):
        Measurements.of(make_small_study(changes | {"evaluation.metric": "mape"}))
    assert len(Measurements.of(make_small_study(changes | {"evaluation.metric": "mae"})))


@pytest.mark.parametrize("quantile", [0.01, 0.1, 0.25])
def test_a_study_says_how_much_is_beyond_a_border(make_small_study: MakeStudy, quantile: float) -> None:
    reach = {"variable": "reach", "of": ["heart"], "quantile": quantile}
    changes = {"variables.reach": {"kind": "continuous"}, "evaluation.metric": "mae"}
    mask = box(10, 30, 0, 32, Grid((32, 32)))
    found = {}
    for name in ("top", "bottom", "height"):
        study = make_small_study(changes | {"structures.reach": reach | {"measure": name}})
        found[name] = float(Measurements.of(study).estimate(mask.expand(1, 3, 32, 32))[0, -1])
    expected = {"top": 10 + 20 * quantile, "bottom": 30 - 20 * quantile, "height": 20 * (1 - 2 * quantile)}
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_share_beyond_is_of_borders_only(make_small_study: MakeStudy) -> None:
    with refused(StudyError, Code.CONFLICT, "structures.heart.quantile"):
        Measurements.of(make_small_study({"structures.heart.quantile": 0.1}))
