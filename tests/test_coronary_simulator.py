"""The coronary simulator: exact areas, independent variables, local changes, and one person in two geometries."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import segcft
from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study, parse_study
from segcft.coronary.defaults import WINDOW
from segcft.coronary.plaque import Threshold, split
from segcft.coronary.reformation import Reformation
from segcft.coronary.surface import Surface
from segcft.errors import Code, DataError
from segcft.importers.ccta import BITS
from segcft.importers.formats.ccta import CCTA
from segcft.importers.simulated import make_simulator
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.simulate import CoronarySimulator
from segcft.simulate.ccta import Grid, vessel_mesh, volume, write_ccta
from segcft.simulate.coronary import MARGIN
from segcft.simulate.noise import UndrawableError
from segcft.training.loop import make_fabric

PEOPLE = st.integers(0, 2**63 - 1)
NONCALCIFIED, CALCIFIED, LUMEN = CoronarySimulator.variables
# Ends of the marginals of many thousand people, in mm^2 per mm of the image.
RANGES = {NONCALCIFIED: (0.0, 2.15), CALCIFIED: (0.0, 0.66), LUMEN: (1.75, 3.65)}
CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def simulator() -> CoronarySimulator:
    return CoronarySimulator((48, 192), 0.0625)


def drawn_areas(masks: NDArray[np.uint8], pixel_area: float = 0.0625) -> NDArray[np.float64]:
    return masks.sum(axis=(1, 2), dtype=float) / 255 * pixel_area


@settings(max_examples=60)
@given(
    person=PEOPLE,
    grid=st.sampled_from([((48, 192), 0.0625), ((64, 384), 0.0625), ((24, 96), 0.25), ((64, 160), 0.04)]),
    data=st.data(),
)
def test_every_area_of_the_marginals_can_be_drawn_for_anybody(
    person: int, grid: tuple[tuple[int, int], float], data: st.DataObject
) -> None:
    size, pixel_area = grid
    simulator = CoronarySimulator(size, pixel_area)
    do = {name: data.draw(st.floats(low, high)) * simulator.length for name, (low, high) in RANGES.items()}
    attributes, image, masks = simulator.counterfactual(person, do)
    assert attributes == do
    assert image.shape == size
    assert image.dtype == masks.dtype == np.uint8
    # Rounding of the masks to 255 levels.
    np.testing.assert_allclose(drawn_areas(masks, pixel_area), list(do.values()), rtol=0.01, atol=0.15)


def test_plaque_may_be_absent_and_variables_are_independent(simulator: CoronarySimulator) -> None:
    table = np.array([list(simulator.attributes(person).values()) for person in range(3000)], dtype=float)
    per_mm = table / simulator.length
    for values, (low, high) in zip(per_mm.T, RANGES.values(), strict=True):
        assert low <= values.min()
        assert values.max() <= high
    absent = (table == 0).mean(axis=0)
    np.testing.assert_allclose(absent, [0.08, 0.35, 0], atol=0.03)
    correlation = np.corrcoef(table.T) - np.eye(3)
    assert np.abs(correlation).max() < 0.06


def test_same_person_same_bytes(simulator: CoronarySimulator) -> None:
    again = CoronarySimulator((48, 192), 0.0625)
    for person in (0, 1, 2**63 - 1):
        image, masks = simulator.render(person, simulator.attributes(person))
        image_again, masks_again = again.render(person, again.attributes(person))
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(masks, masks_again)


@settings(max_examples=15)
@given(person=PEOPLE, name=st.sampled_from([NONCALCIFIED, CALCIFIED, LUMEN]), share=st.floats(0.2, 1))
def test_interventions_change_the_vessel_and_nothing_else(person: int, name: str, share: float) -> None:
    simulator = CoronarySimulator((48, 192), 0.0625)
    before = simulator.attributes(person)
    low, high = RANGES[name]
    after, image_after, masks_after = simulator.counterfactual(
        person, {name: (low + share * (high - low)) * simulator.length}
    )
    assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in before.items() if k != name}
    image, masks = simulator.render(person, before)
    changed = image.astype(int) != image_after
    vessel = (masks.max(axis=0) > 0) | (masks_after.max(axis=0) > 0)
    # The scanner's blur ends after three standard deviations of at most 0.36 mm, five pixels.
    near = ndimage.binary_dilation(vessel, iterations=6, structure=np.ones((3, 3)))
    assert not (changed & ~near).any()


def test_growing_plaque_never_shrinks_anywhere(simulator: CoronarySimulator) -> None:
    for person in range(5):
        wall = [
            simulator.counterfactual(person, {NONCALCIFIED: area, CALCIFIED: 8.0})[2].astype(int).sum(axis=0)
            for area in (0.0, 5.0, 20.0, 60.0, 90.0)
        ]
        for small, large in itertools.pairwise(wall):
            assert (large - small).min() >= -2  # the sum of three rounded masks


def test_tissues_are_as_bright_as_they_should_be(simulator: CoronarySimulator) -> None:
    levels: list[list[float]] = []
    for person in range(12):
        _, image, masks = simulator.counterfactual(person, {NONCALCIFIED: 70.0, CALCIFIED: 25.0, LUMEN: 150.0})
        hounsfield = image / 255 * (WINDOW[1] - WINDOW[0]) + WINDOW[0]
        inner = [ndimage.binary_erosion(mask == 255) for mask in masks]
        if all(mask.sum() > 10 for mask in inner):
            levels.append([float(hounsfield[mask].mean()) for mask in inner])
    assert len(levels) >= 6
    noncalcified, calcified, lumen = np.mean(levels, axis=0)
    assert 0 < noncalcified < 200  # beside the lumen, whose blur reaches it
    assert 300 < lumen < 500
    assert calcified > 550


@pytest.mark.parametrize(
    ("do", "code"),
    [
        ({LUMEN: 0.0}, Code.OUT_OF_RANGE),
        ({NONCALCIFIED: -1.0}, Code.OUT_OF_RANGE),
        ({CALCIFIED: 5000.0}, Code.OUT_OF_RANGE),
        ({LUMEN: 1000.0}, Code.OUT_OF_RANGE),
        ({CALCIFIED: "much"}, Code.INVALID),
        ({"age": 60.0}, Code.UNKNOWN),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(
    simulator: CoronarySimulator, do: dict[str, float | str], code: Code
) -> None:
    with refused(UndrawableError, code, *do):
        simulator.counterfactual(3, do)


def test_a_study_without_millimetres_is_refused() -> None:
    study = load_study(CONFIGS / "coronary-quickstart.yaml")
    image = study.image.model_copy(update={"field_of_view": None, "size": (48, 400)})
    with refused(DataError, Code.UNSUPPORTED, "image"):
        make_simulator(study.model_copy(update={"image": image}))


def test_pixels_that_are_not_square_are_refused() -> None:
    study = load_study(CONFIGS / "coronary-quickstart.yaml")
    image = study.image.model_copy(update={"field_of_view": (12, 96)})
    with refused(DataError, Code.UNSUPPORTED, "image.field_of_view"):
        make_simulator(study.model_copy(update={"image": image}))


def test_meshes_and_volume_show_what_the_straightened_image_shows() -> None:
    simulator = CoronarySimulator((48, 192), 0.0625)
    for person in (2, 5):
        attributes = simulator.attributes(person, {CALCIFIED: 12.0, NONCALCIFIED: 35.0})
        scene = simulator.scene(person, attributes)
        image, masks = simulator.render(person, attributes)
        reformation = Reformation.of(scene.centreline, (48, 192), 0.25, start=scene.start)
        lumen, wall = (Surface(*vessel_mesh(scene, layer)).coverage(reformation) for layer in ("lumen", "wall"))
        assert lumen.sum() * 0.0625 == pytest.approx(attributes[LUMEN], rel=0.005)
        assert (wall - lumen).sum() * 0.0625 == pytest.approx(47, rel=0.02)
        np.testing.assert_allclose(lumen, masks[2] / 255, atol=0.1)

        values, affine = volume(scene, Grid.of((160, 160, 160), (80, 80, 80)), np.random.default_rng(0))
        index = (reformation.points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        seen = ndimage.map_coordinates(values.astype(np.float32), np.moveaxis(index, -1, 0), order=1)
        low, high = WINDOW
        grey = 255 * np.clip((seen - low) / (high - low), 0, 1)
        assert np.corrcoef(grey.ravel(), image.ravel())[0, 1] > 0.97
        _, calcified, noncalcified = split(seen, lumen, wall, Threshold().of(seen, lumen))
        # Partial volume hides thin calcium, as in real scans.
        assert 5 < calcified.sum() * 0.0625 < 16
        assert (calcified + noncalcified).sum() * 0.0625 == pytest.approx(47, rel=0.02)


def test_people_that_are_written_are_imported_with_their_areas(tmp_path: Path) -> None:
    size = (48, 128)
    table = write_ccta(tmp_path / "cases", 4, size=size, grid=Grid.of((96, 96, 96), (60, 60, 60)))
    assert not CCTA(table=table, size=size, start=MARGIN).convert(tmp_path / "out").left_out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        with Image.open(tmp_path / "out" / "masks" / f"{row['id']}_a000.png") as image:
            mask = np.asarray(image)
        seen = {name: float((mask == bit).sum()) * 0.0625 for name, bit in BITS.items()}
        lumen, soft, hard = (float(row[f"true_{name}"]) for name in (LUMEN, NONCALCIFIED, CALCIFIED))
        # Pixels are of what covers most of them: 2 mm^2 are a quarter of a pixel in each of the 128 columns.
        assert seen["lumen"] == pytest.approx(lumen, abs=2)
        assert seen["noncalcified"] + seen["calcified"] == pytest.approx(soft + hard, abs=2)
        # Which plaque is calcified is seen in the volume, where thin calcium is dimmed: much is lost, little is added.
        assert 0.5 * hard <= seen["calcified"] <= 1.1 * hard


def test_simulated_files_are_written_by_a_command_and_never_over_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "ccta", str(tmp_path / "cases"), "--vessels", "1", "--voxels", "48", "48", "45"]
    assert main(words) == 0
    table = tmp_path / "cases" / "cases.csv"
    assert capsys.readouterr().out.strip() == str(table)
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert all((table.parent / row[column]).is_file() for column in ("volume", "centreline", "lumen", "wall"))
    table.write_text("my own")
    assert main(words) == 1
    assert "cases: not an empty folder" in capsys.readouterr().err
    assert table.read_text() == "my own"


@pytest.mark.parametrize("package", ["nibabel", "pyvista"])
def test_nothing_is_simulated_without_the_packages_that_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with refused(DataError, Code.NOT_INSTALLED, "cases"):
        write_ccta(tmp_path / "cases", 1)
    assert not (tmp_path / "cases").exists()


def test_an_interrupted_simulation_begins_again(tmp_path: Path) -> None:
    def stop(people: Iterable[int], total: int, description: str) -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ccta(tmp_path / "cases", 2, grid=Grid.of((48, 48, 48)), progress=stop)
    assert not (tmp_path / "cases").exists()
    table = write_ccta(tmp_path / "cases", 2, grid=Grid.of((48, 48, 48)))
    assert len(table.read_text().splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cases"]


@pytest.mark.slow
def test_a_study_runs_through_every_stage_and_answers(tmp_path: Path) -> None:
    mapping = yaml.safe_load((CONFIGS / "coronary-quickstart.yaml").read_text())
    mapping["image"] |= {"size": [48, 96], "field_of_view": [12, 24]}
    mapping["data"]["people"] = 60
    for stage in ("segmentor", "judge", "regressor", "scm", "hvae", "finetune"):
        mapping[stage] |= {"steps": 4, "batch_size": 8}
    mapping["finetune"]["bound_batches"] = 2
    mapping["evaluation"] |= {"people": 8, "bootstrap": 50, "figure_people": 1, "figure_changes": [0.3]}
    run = Run(tmp_path / "run", parse_study(mapping))
    Pipeline(run, make_fabric("cpu")).run_all()
    rows = pd.DataFrame(json.loads((run.evaluation / "table.json").read_text()))
    areas = rows[(rows["metric"] == "mae") & rows["intervened"]]
    assert set(areas["method"]) == {"no change", "none", "regressor", "segmentor", "segmentor - regressor", "truth"}
    assert np.isfinite(areas["value"].astype(float)).all()
    assert "in mm²" in (run.evaluation / "table.md").read_text()
    assert (run.evaluation / "figures" / "progression.png").is_file()
    grown = segcft.load(run.folder).counterfactual(run.store().images[0, 0], do={NONCALCIFIED: "+20"})
    record = grown.record["variables"][NONCALCIFIED]
    assert record["after"] == pytest.approx(record["before"] + 20, abs=1e-3)
