"""Simulated retinas: exact areas, a cup in its disc, colours, true counterfactuals, and files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from refused import refused
from segcft.cli.entry import main
from segcft.config.loader import load_study, parse_study
from segcft.data.store import Store
from segcft.errors import Code, DataError
from segcft.evaluate.truth import Truth
from segcft.grey import to_unit
from segcft.importers.simulated import import_simulated
from segcft.simulate.fundus import APERTURE, ellipse
from segcft.simulate.noise import UndrawableError
from segcft.simulate.raster import polygon_area
from segcft.simulate.retina import AGES, CALIBRES, RetinaSimulator
from tests import small_retinas
from tests.conftest import changed

CONFIG = Path(__file__).parents[1] / "configs" / "retina-sim.yaml"
SIZE = 64
SIMULATOR = RetinaSimulator((SIZE, SIZE))
BLURRED = 3
"""Pixels that a blur and the border of a mask reach at this size."""
BLUE, RED = 2, 0

people = st.integers(0, 2**40)
Numbers = NDArray[np.floating]


def drawn(person: int, do: dict[str, Any] | None = None) -> tuple[dict[str, Any], Numbers, Numbers]:
    """Variables, image and masks, of which both are 0 to 255."""
    attributes, image, masks = SIMULATOR.counterfactual(person, do or {})
    return attributes, image.astype(float), masks.astype(float)


def moved(before: Numbers, after: Numbers) -> NDArray[np.bool_]:
    """The pixels (H, W) that differ in any channel."""
    return np.asarray((before != after).any(axis=0))


# --- what is drawn ------------------------------------------------------------------------------------------


@given(st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.floats(-4, 4))
def test_the_polygon_has_the_area_of_its_ellipse(across: float, down: float, tilt: float) -> None:
    outline = ellipse(np.array([0.5, 0.5]), across, down, tilt)
    assert abs(polygon_area(outline)) == pytest.approx(math.pi * across * down)


@settings(max_examples=25)
@given(people)
def test_masks_have_the_areas_that_they_are_said_to_have(person: int) -> None:
    attributes, _, masks = drawn(person)
    for name, mask in zip(SIMULATOR.structures, masks, strict=True):
        # Half a level of each pixel of the border is rounded off.
        assert mask.sum() / 255 == pytest.approx(attributes[f"{name}_area"], abs=0.15)


@settings(max_examples=25)
@given(people, st.floats(0.01, 0.8), st.floats(0.5, 1.5))
def test_the_cup_is_inside_of_the_disc_whatever_is_set(person: int, share: float, grown: float) -> None:
    disc = grown * float(SIMULATOR.attributes(person)["disc_area"])
    _, _, (outer, inner) = drawn(person, {"disc_area": disc, "cup_area": share * disc})
    assert (inner <= outer + 1).all()
    assert inner.sum() < outer.sum()


@settings(max_examples=25)
@given(people)
def test_all_is_in_colour_within_a_round_field_and_black_around_it(person: int) -> None:
    image, masks = SIMULATOR.render(person, SIMULATOR.attributes(person))
    assert image.shape == (3, SIZE, SIZE)
    assert image.dtype == masks.dtype == np.uint8
    assert masks.shape == (2, SIZE, SIZE)
    middle = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    distance = np.hypot(middle, middle[:, None])
    assert (image[:, distance > APERTURE + 1 / SIZE] == 0).all()
    seen = image[:, distance < APERTURE - 1 / SIZE].astype(float).mean(axis=1)
    assert seen[0] > seen[1] > seen[2]  # eyes are red


def test_the_scene_is_the_same_on_every_grid() -> None:
    fine, person = RetinaSimulator((2 * SIZE, 2 * SIZE)), 5
    halved = fine.render(person, fine.attributes(person))[1].reshape(2, SIZE, 2, SIZE, 2).mean(axis=(2, 4))
    image, masks = SIMULATOR.render(person, SIMULATOR.attributes(person))
    assert np.abs(halved - masks).max() <= 1
    # Of the smaller frame around it: the eye is the same, and the grain, which is of pixels, is another.
    wide = RetinaSimulator((SIZE, SIZE + 16)).render(person, SIMULATOR.attributes(person))
    np.testing.assert_array_equal(wide[1][..., 8:-8], masks)
    assert np.abs(wide[0][..., 8:-8].astype(float).mean(axis=(1, 2)) - image.mean(axis=(1, 2))).max() < 3


# --- counterfactuals ----------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(people)
def test_nothing_set_and_all_set_as_it_is_change_nothing(person: int) -> None:
    before, image, masks = drawn(person)
    for do in ({}, before, *({name: before[name]} for name in before)):
        after, same, still = drawn(person, do)
        assert after == before
        np.testing.assert_array_equal(same, image)
        np.testing.assert_array_equal(still, masks)


@settings(max_examples=20)
@given(people, st.floats(0.5, 1.5))
def test_the_cup_changes_within_the_disc_alone(person: int, grown: float) -> None:
    before, image, (disc, cup) = drawn(person)
    after, other, (same, now) = drawn(person, {"cup_area": grown * float(before["cup_area"])})
    assert after == before | {"cup_area": after["cup_area"]}
    np.testing.assert_array_equal(same, disc)
    assert not (moved(image, other) & ~binary_dilation(disc > 0, iterations=BLURRED)).any()
    assert (now >= cup - 1).all() or grown < 1


@settings(max_examples=20)
@given(people, st.floats(0.6, 1.4))
def test_a_disc_takes_its_cup_along_and_nothing_else(person: int, grown: float) -> None:
    before, image, masks = drawn(person)
    after, other, now = drawn(person, {"disc_area": grown * float(before["disc_area"])})
    assert {name for name in after if after[name] != before[name]} <= {"disc_area", "cup_area"}
    assert (after["cup_area"] > before["cup_area"]) == (grown > 1) or grown == pytest.approx(1)
    either = binary_dilation((masks + now).max(axis=0) > 0, iterations=BLURRED)
    assert not (moved(image, other) & ~either).any()


@settings(max_examples=20)
@given(people, st.floats(220, 400))
def test_wider_vessels_are_darker_and_touch_no_mask(person: int, calibre: float) -> None:
    before, image, masks = drawn(person, {"vessel_calibre": 200})
    after, other, same = drawn(person, {"vessel_calibre": calibre})
    assert after == before | {"vessel_calibre": calibre}
    np.testing.assert_array_equal(same, masks)
    assert other.sum() < image.sum()
    assert (other <= image).all()


@settings(max_examples=20)
@given(people)
def test_an_old_lens_takes_blue_and_hardly_red(person: int) -> None:
    before = SIMULATOR.attributes(person)
    held = {name: value for name, value in before.items() if name != "age"}
    _, young, masks = drawn(person, held | {"age": 30})
    _, old, same = drawn(person, held | {"age": 80})
    np.testing.assert_array_equal(same, masks)
    left = old.sum(axis=(1, 2)) / young.sum(axis=(1, 2))
    assert left[BLUE] < 0.75 < 0.95 < left[RED] <= 1


@settings(max_examples=20)
@given(people)
def test_sex_is_seen_by_the_disc_alone(person: int) -> None:
    women, men = (SIMULATOR.attributes(person, {"sex": sex}) for sex in ("F", "M"))
    assert men["disc_area"] > women["disc_area"]
    held = {name: women[name] for name in women if name != "sex"}
    _, image, _ = drawn(person, held | {"sex": "F"})
    np.testing.assert_array_equal(drawn(person, held | {"sex": "M"})[1], image)


@given(people, st.floats(20, 54), st.floats(56, 90))
def test_the_old_have_larger_cups_and_narrower_vessels(person: int, young: float, old: float) -> None:
    first, second = (SIMULATOR.attributes(person, {"age": age}) for age in (young, old))
    assert second["cup_area"] > first["cup_area"]
    assert second["vessel_calibre"] < first["vessel_calibre"]
    assert second["disc_area"] == first["disc_area"]


@given(people)
def test_everybody_can_be_drawn(person: int) -> None:
    attributes = SIMULATOR.attributes(person)
    SIMULATOR.render(person, attributes)
    assert AGES[0] <= attributes["age"] <= AGES[1]
    assert CALIBRES[0] < attributes["vessel_calibre"] < CALIBRES[1]


@pytest.mark.parametrize(
    ("do", "code", "field"),
    [
        ({"age": 10.0}, Code.OUT_OF_RANGE, "age"),
        ({"vessel_calibre": 1000.0}, Code.OUT_OF_RANGE, "vessel_calibre"),
        ({"disc_area": 3000.0}, Code.OUT_OF_RANGE, "disc_area"),
        ({"disc_area": -1.0}, Code.OUT_OF_RANGE, "disc_area"),
        ({"cup_area": 0.0}, Code.OUT_OF_RANGE, "cup_area"),
        ({"cup_area": 2000.0}, Code.OUT_OF_RANGE, "cup_area"),  # than the disc
        ({"cup_area": math.nan}, Code.INVALID, "cup_area"),
        ({"age": "old"}, Code.INVALID, "age"),
        ({"sex": "X"}, Code.INVALID, "sex"),
        ({"height": 180.0}, Code.UNKNOWN, "height"),
    ],
)
def test_what_cannot_be_drawn_is_refused(do: dict[str, Any], code: Code, field: str) -> None:
    with refused(UndrawableError, code, field):
        SIMULATOR.counterfactual(1, do)


def test_frames_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        RetinaSimulator((24, 64))


# --- in a study ---------------------------------------------------------------------------------------------


def test_the_study_is_of_the_simulators_variables_and_their_ratio() -> None:
    study = load_study(CONFIG)
    assert study.image.channels == RetinaSimulator.channels
    assert [name for name, one in study.variables.items() if not one.derived] == list(RetinaSimulator.variables)
    assert [name for name, one in study.variables.items() if one.derived] == ["cup_to_disc"]


@pytest.mark.parametrize(
    "changes",
    [{"image.channels": 1}, {"data.source": "chest-simulator"}],
    ids=["colours in a grey study", "grey in a study of colours"],
)
def test_a_simulator_draws_its_own_channels_only(changes: dict[str, Any], tmp_path: Path) -> None:
    study = parse_study(changed(small_retinas.mapping(), changes))
    with refused(DataError, Code.UNSUPPORTED, "image.channels"):
        import_simulated(study, tmp_path / "store")


def test_the_truth_is_the_simulators(tmp_path: Path) -> None:
    study = parse_study(changed(small_retinas.mapping(), {"data.people": 30}))
    store = import_simulated(study, tmp_path / "store")
    truth, rows = Truth(study, store), torch.tensor([3, 8])
    found = truth.counterfactuals(rows, {"age": torch.tensor([80.0, 5.0])})
    assert found is not None
    image, masks = truth.simulator.counterfactual(int(store.table["person"][3]), {"age": 80.0})[1:]
    assert torch.equal(found.image[0], to_unit(torch.from_numpy(image)))
    assert torch.equal(found.mask[0], torch.from_numpy(masks) / 255)
    assert found.image[1].isnan().all()  # cannot be drawn


def test_files_are_read_as_they_were_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--people", "30", "--seed", "4", "--size", "32"]
    assert main(["simulate", "retina", str(tmp_path / "files"), *command]) == 0
    lines = yaml.safe_load(capsys.readouterr().err.partition("\n\n")[2].rpartition("\n\n")[0])
    study = tmp_path / "study.yaml"
    raw = small_retinas.mapping() | {"data": lines["data"], "structures": lines["structures"]}
    study.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    assert main(["import", str(study), "--out", str(tmp_path / "run"), "--data", str(tmp_path / "files")]) == 0
    store, simulator = Store(tmp_path / "run" / "store"), RetinaSimulator((32, 32))
    table = pd.read_csv(tmp_path / "files" / "metadata.csv").set_index("id")
    person = int(table.loc[store.table["id"][0], "person"])
    image, masks = simulator.render(person, simulator.attributes(person))
    np.testing.assert_array_equal(store.images[0], image)
    np.testing.assert_array_equal(store.masks[0], masks)


def test_true_counterfactuals_are_files_of_the_same_people(tmp_path: Path) -> None:
    command = ["--people", "2", "--size", "32", "--do", "age=80", "--do", "vessel_calibre=300"]
    assert main(["simulate", "retina", str(tmp_path), *command]) == 0
    table = pd.read_csv(tmp_path / "metadata.csv")
    assert set(table["age"]) == {80}
    person, id = int(table["person"][1]), str(table["id"][1])
    image = RetinaSimulator((32, 32)).counterfactual(person, {"age": 80, "vessel_calibre": 300})[1]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / f"{id}.png")), np.moveaxis(image, 0, -1))


@pytest.mark.parametrize("do", ["age=old", "age=5", "sex=1", "height=180"])
def test_what_files_cannot_show_is_refused(do: str, tmp_path: Path) -> None:
    assert main(["simulate", "retina", str(tmp_path / "files"), "--people", "2", "--do", do]) == 1
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("do", ["age", "=3", "age="])
def test_what_is_no_do_is_told_of(do: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "retina", str(tmp_path / "files"), "--do", do])
    assert ended.value.code == 2
