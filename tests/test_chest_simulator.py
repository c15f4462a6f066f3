"""The chest simulator: exact areas, a true causal model, local changes and no intensity shortcut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from refused import refused
from segcft.errors import Code, InterventionError
from segcft.simulate import ChestSimulator
from segcft.simulate.noise import UndrawableError

AREAS = ("left_lung_area", "right_lung_area", "heart_area")
PEOPLE = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def simulator() -> ChestSimulator:
    return ChestSimulator((64, 64))


@pytest.fixture(scope="module")
def table(simulator: ChestSimulator) -> NDArray[np.float64]:
    """Age, male, and the three areas as shares of the image, of 2000 people."""
    people = [simulator.attributes(person) for person in range(2000)]
    return np.array(
        [[p["age"], p["sex"] == "M", *(float(p[name]) / 64**2 for name in AREAS)] for p in people],
        dtype=float,
    )


def drawn_areas(masks: NDArray[np.uint8], pixel_area: float = 1.0) -> NDArray[np.float64]:
    return masks.sum(axis=(1, 2), dtype=float) / 255 * pixel_area


@settings(max_examples=60)
@given(
    person=PEOPLE,
    size=st.tuples(st.integers(48, 144), st.integers(48, 144)),
    pixel_area=st.sampled_from([1.0, 0.37, 12.5]),
    name=st.sampled_from(AREAS),
    factor=st.floats(0.7, 1.3),
)
def test_masks_have_exactly_the_areas(
    person: int, size: tuple[int, int], pixel_area: float, name: str, factor: float
) -> None:
    simulator = ChestSimulator(size, pixel_area)
    factual = simulator.attributes(person)
    attributes, image, masks = simulator.counterfactual(person, {name: factor * float(factual[name])})
    assert image.shape == size
    assert masks.shape == (3, *size)
    assert image.dtype == masks.dtype == np.uint8
    np.testing.assert_allclose(drawn_areas(masks, pixel_area), [attributes[a] for a in AREAS], rtol=0.003)


@settings(max_examples=100)
@given(person=PEOPLE, sex=st.sampled_from("FM"), age=st.floats(18, 100), data=st.data())
def test_every_area_of_the_marginals_can_be_drawn_for_anybody(
    person: int, sex: str, age: float, data: st.DataObject
) -> None:
    simulator = ChestSimulator((48, 48))
    # Ends of the marginals of many thousand people, times 0.7 and 1.3.
    shares = {
        "left_lung_area": (0.0505, 0.261),
        "right_lung_area": (0.070, 0.308),
        "heart_area": (0.041, 0.160),
    }
    do: dict[str, float | str] = {"sex": sex, "age": age}
    do |= {name: data.draw(st.floats(low, high)) * 48**2 for name, (low, high) in shares.items()}
    _, _, masks = simulator.counterfactual(person, do)
    np.testing.assert_allclose(drawn_areas(masks), [do[name] for name in AREAS], rtol=0.003)


def test_same_person_same_bytes(simulator: ChestSimulator) -> None:
    again = ChestSimulator((64, 64))
    for person in (0, 1, 2**63 - 1):
        image, masks = simulator.render(person, simulator.attributes(person))
        image_again, masks_again = again.render(person, again.attributes(person))
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(masks, masks_again)


def test_people_differ(simulator: ChestSimulator) -> None:
    attributes = simulator.attributes(0)
    images = [simulator.render(person, attributes)[0].astype(float) for person in range(6)]
    distances = [np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]]
    assert min(distances) > 5


def test_a_person_looks_the_same_on_every_grid() -> None:
    coarse, fine = ChestSimulator((64, 64)), ChestSimulator((256, 256))
    for person in range(5):
        image, masks = coarse.render(person, coarse.attributes(person))
        image_fine, masks_fine = fine.render(person, fine.attributes(person))
        average = image_fine.reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert np.corrcoef(image.ravel(), average.ravel())[0, 1] > 0.98
        np.testing.assert_allclose(masks_fine.reshape(3, 64, 4, 64, 4).mean(axis=(2, 4)), masks, atol=1.5)


def test_the_left_lung_is_on_the_right_of_the_image_and_the_heart_between(simulator: ChestSimulator) -> None:
    for person in range(20):
        _, masks = simulator.render(person, simulator.attributes(person))
        left, right, heart = (ndimage.center_of_mass(mask)[1] / 64 for mask in masks)
        assert right < 0.42 < 0.5 < heart < 0.65 < left


@given(person=PEOPLE)
def test_null_do_is_the_factual(person: int) -> None:
    simulator = ChestSimulator((48, 48))
    factual = simulator.attributes(person)
    image, masks = simulator.render(person, factual)
    for do in ({}, factual, {"heart_area": factual["heart_area"]}, {"age": factual["age"]}):
        attributes, image_cf, masks_cf = simulator.counterfactual(person, do)
        assert attributes == factual
        np.testing.assert_array_equal(image, image_cf)
        np.testing.assert_array_equal(masks, masks_cf)


@given(person=PEOPLE)
def test_do_moves_descendants_only(person: int) -> None:
    simulator = ChestSimulator((64, 64))
    factual = simulator.attributes(person)
    for name in AREAS:
        changed = simulator.attributes(person, {name: 400.0})
        assert {key for key in factual if factual[key] != changed[key]} <= {name}
    swapped = simulator.attributes(person, {"sex": "F" if factual["sex"] == "M" else "M"})
    assert {key for key in factual if factual[key] != swapped[key]} == {"sex", *AREAS}
    older, younger = (simulator.attributes(person, {"age": age}) for age in (80.0, 30.0))
    assert older["sex"] == younger["sex"] == factual["sex"]
    assert older["left_lung_area"] < younger["left_lung_area"]  # type: ignore[operator]
    assert older["heart_area"] > younger["heart_area"]  # type: ignore[operator]
    fixed = simulator.attributes(person, {"age": 80.0, "heart_area": 300.0})
    assert fixed["heart_area"] == 300.0
    assert fixed["left_lung_area"] == older["left_lung_area"]


@pytest.mark.parametrize("structure", range(3))
@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_a_change_is_local(structure: int, factor: float) -> None:
    simulator = ChestSimulator((128, 128))
    for person in range(8):
        factual = simulator.attributes(person)
        image, masks = simulator.render(person, factual)
        name = AREAS[structure]
        _, image_cf, masks_cf = simulator.counterfactual(person, {name: factor * float(factual[name])})
        others = [k for k in range(3) if k != structure]
        np.testing.assert_array_equal(masks[others], masks_cf[others])
        near = ndimage.binary_dilation((masks[structure] > 0) | (masks_cf[structure] > 0), iterations=6)
        change = np.abs(image.astype(float) - image_cf)
        assert change[~near].max() == 0
        assert change.max() > 10
        deep_inside = ndimage.binary_erosion((masks[structure] == 255) & (masks_cf[structure] == 255), iterations=6)
        assert change[deep_inside].max(initial=0) <= 1


def test_grown_structures_contain_the_smaller_ones_mostly(simulator: ChestSimulator) -> None:
    for person in range(10):
        factual = simulator.attributes(person)
        _, masks = simulator.render(person, factual)
        for k, name in enumerate(AREAS):
            _, _, larger = simulator.counterfactual(person, {name: 1.2 * float(factual[name])})
            assert np.minimum(masks[k], larger[k]).sum() > 0.97 * masks[k].sum()


def test_marginals_and_correlations(table: NDArray[np.float64]) -> None:
    age, male, areas = table[:, 0], table[:, 1], table[:, 2:]
    assert age.min() >= 20
    assert age.max() <= 90
    assert 0.45 < male.mean() < 0.55
    np.testing.assert_allclose(areas.mean(axis=0), [0.137, 0.169, 0.091], rtol=0.04)
    np.testing.assert_allclose(areas.std(axis=0), [0.026, 0.028, 0.0135], rtol=0.10)
    correlations = np.corrcoef(table.T)
    np.testing.assert_allclose(correlations[0, 2:], [-0.30, -0.30, 0.18], atol=0.07)
    np.testing.assert_allclose(correlations[1, 2:], [0.50, 0.50, 0.35], atol=0.07)


def test_areas_are_independent_given_sex_and_age(table: NDArray[np.float64]) -> None:
    correlations = np.corrcoef(residuals(table[:, :2], table[:, 2:]).T)
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.08


def test_brightness_and_contrast_do_not_tell_an_area(simulator: ChestSimulator, table: NDArray[np.float64]) -> None:
    people = range(500)
    images = np.stack([simulator.render(person, simulator.attributes(person))[0] for person in people])
    look = np.stack([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)
    areas, causes = table[:500, 2:], table[:500, :2]
    for target in (areas, residuals(causes, areas)):
        explained = 1 - residuals(look, target).var(axis=0) / target.var(axis=0)
        assert explained.max() < 0.1


def residuals(inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    design = np.column_stack([np.ones(len(inputs)), inputs])
    return targets - design @ np.linalg.lstsq(design, targets, rcond=None)[0]


@pytest.mark.parametrize(
    ("do", "code"),
    [
        ({"heart_area": 0.0}, Code.OUT_OF_RANGE),
        ({"left_lung_area": -5.0}, Code.OUT_OF_RANGE),
        ({"right_lung_area": 3000.0}, Code.OUT_OF_RANGE),
        ({"heart_area": float("nan")}, Code.INVALID),
        ({"heart_area": "big"}, Code.INVALID),
        ({"age": 300.0}, Code.OUT_OF_RANGE),
        ({"sex": "X"}, Code.INVALID),
        ({"spleen_area": 3.0}, Code.UNKNOWN),
    ],
)
def test_errors_name_the_variable(simulator: ChestSimulator, do: dict[str, float | str], code: Code) -> None:
    assert issubclass(UndrawableError, (InterventionError, ValueError))
    with refused(UndrawableError, code, *do):
        simulator.counterfactual(3, do)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (48, 200)])
def test_oblong_grids(size: tuple[int, int]) -> None:
    simulator = ChestSimulator(size)
    attributes = simulator.attributes(5)
    image, masks = simulator.render(5, attributes)
    assert image.shape == size
    np.testing.assert_allclose(drawn_areas(masks), [attributes[name] for name in AREAS], rtol=0.003)
    assert attributes["left_lung_area"] == pytest.approx(
        ChestSimulator((64, 64)).attributes(5)["left_lung_area"] * (min(size) / 64) ** 2  # type: ignore[operator]
    )
