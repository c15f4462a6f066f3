"""The simulator of volumes: exact volumes whatever the bend, a known graph, and true counterfactuals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refused import refused
from segcft.errors import Code
from segcft.simulate.noise import UndrawableError
from segcft.simulate.volume import MECHANISMS, Part, Shape, VolumeSimulator

SIZE = (28, 36, 56)
SIMULATOR = VolumeSimulator(SIZE)
PARTS = SIMULATOR.structures


def volumes(masks: np.ndarray, voxel: float = 1.0) -> dict[str, float]:
    return {name: float(mask.sum() / 255 * voxel) for name, mask in zip(PARTS, masks, strict=True)}


def middle(mask: np.ndarray) -> np.ndarray:
    return np.array([float((np.indices(mask.shape)[axis] * mask).sum() / mask.sum()) for axis in range(3)])


@settings(max_examples=8, deadline=None)
@given(person=st.integers(0, 10_000), bend=st.floats(0, 90))
def test_masks_have_the_volumes_whatever_the_bend(person: int, bend: float) -> None:
    attributes = SIMULATOR.attributes(person, {"bend": bend})
    found = volumes(SIMULATOR.render(person, attributes)[1])
    for name in PARTS:
        assert found[name] == pytest.approx(attributes[f"{name}_volume"], rel=0.01)


@given(st.integers(0, 10_000), st.floats(-10, 110), st.floats(0.8, 0.95), st.floats(4.2, 4.8), st.floats(0, 10))
def test_what_is_not_near_is_outside(seed: int, bend: float, flat: float, root: float, reach: float) -> None:
    parts = {name: Part.of(name, volume, root, flat) for name, volume in (("anterior", 1700), ("posterior", 1550))}
    shape = Shape(**parts, flat=flat, bend=np.radians(bend))
    points = np.random.default_rng(seed).uniform(-40, 40, (3, 5000))
    assert (shape.signed(points)[0][~shape.near(points, reach)] <= -reach).all()


@given(st.floats(900, 2600), st.floats(4.2, 4.8), st.floats(0.8, 0.95), st.sampled_from(PARTS))
def test_a_part_has_the_volume_that_was_asked_for(volume: float, root: float, flat: float, name: str) -> None:
    part = Part.of(name, volume, root, flat)
    t = np.linspace(0, 1, 4001)
    radius = part.radius(t)
    assert np.pi * flat * part.length * float(np.trapezoid(radius**2, t)) == pytest.approx(volume, rel=1e-4)
    assert radius[0] == pytest.approx(root)
    assert radius[-1] == pytest.approx(0)
    assert bool((radius[:-1] > 0).all())


def test_the_other_part_stays_where_it_is_and_so_does_what_is_far() -> None:
    person = 3
    before = SIMULATOR.attributes(person)
    image, masks = SIMULATOR.render(person, before)
    wanted = 1.2 * float(before["posterior_volume"])
    after, image_after, masks_after = SIMULATOR.counterfactual(person, {"posterior_volume": wanted})
    assert {name for name in before if before[name] != after[name]} == {"posterior_volume"}
    np.testing.assert_array_equal(masks_after[0], masks[0])
    assert volumes(masks_after)["posterior"] == pytest.approx(wanted, rel=0.01)
    far = np.ones(SIZE, dtype=bool)
    far[tuple(slice(max(0, low - 7), high + 8) for low, high in _box(masks_after.max(axis=0) > 0))] = False
    np.testing.assert_array_equal(image_after[far], image[far])
    assert (image_after != image).any()


def _box(mask: np.ndarray) -> list[tuple[int, int]]:
    places = np.argwhere(mask)
    return [(int(low), int(high)) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)]


def test_age_and_sex_cause_volumes_and_nothing_else() -> None:
    for person in range(20):
        before = SIMULATOR.attributes(person, {"sex": "M", "age": 40})
        older, woman = (
            SIMULATOR.attributes(person, {"sex": "M", "age": 40} | do) for do in ({"age": 80}, {"sex": "F"})
        )
        for name in MECHANISMS:
            assert older[name] < before[name]
            assert woman[name] < before[name]
        assert older["bend"] == woman["bend"] == before["bend"]


def test_a_bend_lifts_both_ends() -> None:
    attributes = SIMULATOR.attributes(5, {"bend": 0})
    straight = SIMULATOR.render(5, attributes)[1]
    bent = SIMULATOR.render(5, attributes | {"bend": 80})[1]
    for k in range(2):
        assert middle(bent[k])[1] > middle(straight[k])[1] + 0.5  # towards the bend's centre
    whole = [np.ptp(np.argwhere(masks.max(axis=0) > 127)[:, 2]) for masks in (straight, bent)]
    assert whole[1] < whole[0]


def test_on_another_grid_it_is_the_same_person() -> None:
    """Voxels that are not cubes see the same structure, in mm."""
    flat = VolumeSimulator((14, 36, 56), 2.0, (2.0, 1.0, 1.0))
    attributes = SIMULATOR.attributes(8)
    fine, coarse = SIMULATOR.render(8, attributes)[1], flat.render(8, attributes)[1]
    for name in PARTS:
        assert volumes(coarse, 2.0)[name] == pytest.approx(volumes(fine)[name], rel=0.01)
    for k in range(2):
        apart = (middle(coarse[k]) + 0.5) * np.array([2.0, 1.0, 1.0]) - (middle(fine[k]) + 0.5)
        assert float(np.abs(apart).max()) < 0.1


@pytest.mark.parametrize(
    ("do", "code", "field"),
    [
        ({"posterior_volume": 0.0}, Code.OUT_OF_RANGE, "posterior_volume"),
        ({"anterior_volume": 1e6}, Code.OUT_OF_RANGE, "anterior_volume"),
        ({"bend": 400.0}, Code.OUT_OF_RANGE, "bend"),
        ({"age": 7.0}, Code.OUT_OF_RANGE, "age"),
        ({"sex": "m"}, Code.INVALID, "sex"),
        ({"age": "old"}, Code.INVALID, "age"),
        ({"heart_area": 3.0}, Code.UNKNOWN, "heart_area"),
    ],
)
def test_what_cannot_be_drawn_is_refused(do: dict[str, Any], code: Code, field: str) -> None:
    with refused(UndrawableError, code, field):
        SIMULATOR.counterfactual(1, do)


@pytest.mark.parametrize(
    ("size", "voxel", "spacing"),
    [((64, 64), 1.0, None), ((24, 36, 56), 1.0, None), ((28, 36, 56), 1.0, (2.0, 1.0, 1.0))],
)
def test_frames_that_hold_none_are_refused(size: Any, voxel: float, spacing: Any) -> None:
    with pytest.raises(ValueError, match=r"mm|volumes"):
        VolumeSimulator(size, voxel, spacing)
