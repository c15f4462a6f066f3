"""Grids of two and three axes, measures of masks on them, and the registry that knows the measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from refused import refused
from segcft.config.study import Study
from segcft.errors import Code, SegcftError, StudyError
from segcft.grid import Grid
from segcft.measures.area import Area
from segcft.measures.measure import MEASURES, Measure
from segcft.measures.measurements import Measurement, Measurements
from segcft.utils.registry import Registry
from tests.conftest import MakeStudy

SIZES = [(6, 5), (4, 6, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_a_grid_sums_and_spreads_over_all_of_space(size: tuple[int, ...]) -> None:
    grid = Grid(size, cell_size=0.5)
    maps = torch.rand(2, 3, *size)
    torch.testing.assert_close(grid.total(maps), maps.flatten(2).sum(dim=2) / 2)
    assert (maps * grid.over_space(torch.zeros(2, 3))).sum() == 0
    assert grid.extent == math.prod(size) / 2


@pytest.mark.parametrize("size", SIZES)
def test_padding_is_taken_away_again(size: tuple[int, ...]) -> None:
    grid = Grid(size)
    maps = torch.rand(2, 1, *size)
    padded = grid.pad(maps, 4)
    assert all(n % 4 == 0 for n in padded.shape[2:])
    assert torch.equal(grid.crop(padded, maps), maps)
    assert torch.equal(padded[..., -1], padded[..., size[-1] - 1])  # the edge goes on


@pytest.mark.parametrize("size", SIZES)
def test_maps_sampled_at_their_own_places_are_themselves(size: tuple[int, ...]) -> None:
    grid = Grid(size)
    maps = torch.rand(2, 3, *size)
    places = grid.places(maps).expand(2, *(-1,) * (len(size) + 1))
    torch.testing.assert_close(grid.sample(maps, places), maps)


@pytest.mark.parametrize("size", SIZES)
def test_convolutions_keep_the_size_and_balls_are_round(size: tuple[int, ...]) -> None:
    grid = Grid(size)
    maps = torch.rand(2, 3, *size)
    assert grid.conv(3, 4, 3)(maps).shape == (2, 4, *size)
    assert grid.pool(maps, (2,) * len(size)).shape == (2, 3, *(2,) * len(size))
    assert grid.smooth(maps, tuple(2 * n for n in size)).shape[2:] == tuple(2 * n for n in size)
    ball = grid.ball(2, maps)
    assert ball.sum() == {2: 13, 3: 33}[len(size)]
    assert grid.convolve(maps[:, :1], ball, padding=2).shape == (2, 1, *size)


@given(
    st.sampled_from(SIZES).flatmap(lambda size: arrays.arrays(np.uint8, (2, *size))),
    st.floats(0.01, 100, allow_nan=False),
)
def test_an_area_is_the_same_from_soft_masks_and_from_exact_ones(coverage: np.ndarray, cell: float) -> None:
    grid = Grid(coverage.shape[1:], cell)
    exact = Area().exact(coverage, grid)
    soft = Area().estimate(torch.from_numpy(coverage)[None].double() / 255, grid)[0]
    np.testing.assert_allclose(soft, exact, rtol=1e-9)
    low, high = Area().bounds(grid)
    assert (exact >= low).all()
    assert (exact <= high * (1 + 1e-9)).all()


def two(may_be_absent: bool = True) -> Measurements:
    all = (Measurement("a", "one", Area(), False, (0,)), Measurement("b", "two", Area(), may_be_absent, (1,)))
    return Measurements(Grid((4, 4), 2.0), all, ("one", "two"))


def test_only_what_may_be_absent_is_read_as_absent() -> None:
    masks = torch.full((1, 2, 4, 4), 0.25)  # nowhere likelier inside than not
    assert two().read(masks).tolist() == [[8.0, 0.0]]
    assert two(may_be_absent=False).read(masks).tolist() == [[8.0, 8.0]]
    assert two().estimate(masks).tolist() == [[8.0, 8.0]]  # what training follows is never cut off
    masks[0, 1, 0, 0] = 0.75
    assert two().read(masks).tolist() == [[8.0, 9.0]]


def test_masks_that_cannot_be_known_are_not_read_as_absent() -> None:
    masks = torch.full((1, 2, 4, 4), torch.nan)
    assert two().read(masks).isnan().all()
    masks = torch.full((1, 2, 4, 4), 0.25)
    masks[..., 0, 0] = torch.nan
    assert two().read(masks).isnan().all()


def test_gradients_reach_the_masks_of_what_is_estimated() -> None:
    masks = torch.full((1, 2, 4, 4), 0.25, requires_grad=True)
    two().estimate(masks).sum().backward()
    assert masks.grad is not None
    assert (masks.grad == 2).all()


class Width(Measure):
    """A measure of another kind: columns that a structure reaches."""

    word = "width"

    def unit(self, grid: Grid) -> str:
        return "px"

    def bounds(self, grid: Grid) -> tuple[float, float]:
        return 0.0, float(grid.size[-1])

    def estimate(self, masks: Tensor, grid: Grid) -> Tensor:
        return masks.amax(dim=grid.axes[:-1]).sum(dim=-1)

    def exact(self, coverage: np.ndarray, grid: Grid) -> np.ndarray:
        return np.asarray((coverage.max(axis=grid.axes[:-1]) > 127).sum(axis=-1), dtype=float)


def test_different_measures_are_read_side_by_side() -> None:
    all = (Measurement("a", "one", Area(), False, (0,)), Measurement("w", "two", Width(), False, (1,)))
    both = Measurements(Grid((4, 4)), all, ("one", "two"))
    coverage = np.zeros((2, 4, 4), np.uint8)
    coverage[:, :2, 1:4] = 255
    assert both.exact(coverage) == {"a": 6.0, "w": 3.0}
    assert both.read(torch.from_numpy(coverage)[None] / 255).tolist() == [[6.0, 3.0]]


def test_structures_share_masks() -> None:
    """A second measure of one structure, and measures of two structures together."""
    area, width = Area(), Width()
    all = (
        Measurement("a", "one", area, False, (0,)),
        Measurement("w", "wide", width, False, (0,)),
        Measurement("b", "two", area, False, (1,)),
        Measurement("both", "both", area, True, (0, 1)),
        Measurement("reach", "reach", width, False, (1, 0)),
    )
    shared = Measurements(Grid((4, 6)), all, ("one", "two"))
    coverage = np.zeros((2, 4, 6), np.uint8)
    coverage[0, :2, 1:4] = coverage[1, 1:3, 2:6] = 255  # two pixels are in both
    assert shared.exact(coverage) == {"a": 6.0, "w": 3.0, "b": 8.0, "both": 12.0, "reach": 5.0}
    masks = (torch.from_numpy(coverage)[None] / 255).requires_grad_()
    assert shared.read(masks).tolist() == [[6.0, 3.0, 8.0, 12.0, 5.0]]
    shared.estimate(masks).sum().backward()
    assert masks.grad is not None
    assert shared.shown(masks).shape == (1, 5, 4, 6)
    empty = torch.full((1, 2, 4, 6), 0.4)  # each nowhere likelier inside than not, and yet together they are
    assert shared.read(empty)[0, 3] == pytest.approx(24 * (1 - 0.6**2))


def test_structures_that_touch_fill_their_common_border() -> None:
    """Of two labels, an element that is half of the one and half of the other is in their union altogether."""
    masks = torch.full((1, 2, 2, 2), 0.5)
    for disjoint, share in ((True, 1.0), (False, 0.75)):
        both = (Measurement("both", "both", Area(), False, (0, 1), disjoint),)
        assert Measurements(Grid((2, 2)), both, ("one", "two")).read(masks).tolist() == [[4 * share]]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"of": ["nothing"]}, "structures.heart.of"),
        ({"of": ["heart"]}, "structures.heart.of"),
        ({"of": ["left_lung", "left_lung"]}, "structures.heart.of"),
        ({"of": ["left_lung"], "bit": 2}, "structures.heart"),
    ],
)
def test_who_shares_a_mask_says_whose(make_small_study: MakeStudy, changes: dict[str, object], field: str) -> None:
    with refused(StudyError, Code.INVALID, field):
        make_small_study({f"structures.heart.{key}": value for key, value in changes.items()})


def test_a_study_reads_its_structures_in_order(small_study: Study) -> None:
    found = Measurements.of(small_study)
    assert [one.variable for one in found.all] == list(small_study.measured)
    assert {type(one.measure) for one in found.all} == {Area}


def test_a_measure_that_there_is_not_is_named(make_small_study: MakeStudy) -> None:
    study = make_small_study({"structures.heart.measure": "aera"})
    with refused(StudyError, Code.UNKNOWN, "structures.heart.measure"):
        Measurements.of(study)


def test_the_measure_is_written_only_where_it_is_not_the_area(make_small_study: MakeStudy) -> None:
    """So that studies of version 0.1.0 keep their digests."""
    written = make_small_study().model_dump()["structures"]["heart"]
    assert "measure" not in written
    assert make_small_study({"structures.heart.measure": "x"}).model_dump()["structures"]["heart"]["measure"] == "x"


def test_a_registry_keeps_names_apart() -> None:
    registry: Registry[Measure] = Registry("thing", "segcft.measures", "data.thing")
    one = Width()
    assert registry.add("one", one) is one
    assert registry.add("one", one) is one  # a module that is imported again
    with refused(SegcftError, Code.DUPLICATE, "'one'"):
        registry.add("one", Width())
    with refused(SegcftError, Code.UNKNOWN, "data.thing"):
        registry.find("two")
    assert registry.find("one") is one
    assert "area" in MEASURES
