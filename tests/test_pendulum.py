"""The pendulum: its shadow by another construction, what is drawn, true counterfactuals, and every stage."""

from __future__ import annotations

import json
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

from refused import refused
from segcft.cli.entry import main
from segcft.config.loader import load_study, parse_study
from segcft.data.store import Store
from segcft.errors import Code
from segcft.evaluate.truth import Truth
from segcft.grey import to_unit
from segcft.importers.simulated import import_simulated
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.simulate.noise import UndrawableError
from segcft.simulate.pendulum import ANGLES, EXTENT, GROUND, LIGHTS, LOW, SHORTEST, PendulumSimulator, cast
from segcft.training.loop import make_fabric
from tests.conftest import changed

CONFIG = Path(__file__).parents[1] / "configs" / "pendulum.yaml"
SIMULATOR = PendulumSimulator((88, 88))
UNIT = 88 / EXTENT
"""Pixels of a unit of the scene."""

people = st.integers(0, 2**40)
angles = st.floats(*ANGLES)
lights = st.floats(*LIGHTS)


def drawn(**attributes: float) -> NDArray[np.float64]:
    """How dark each pixel is, 0 to 1."""
    return 1 - SIMULATOR.render(0, attributes)[0].astype(float) / 255


def middle(dark: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of what is dark, (x, y) in the scene."""
    down, across = (float((np.indices(dark.shape)[k] * dark).sum() / dark.sum()) + 0.5 for k in (0, 1))
    return np.array([LOW + across / UNIT, LOW + EXTENT - down / UNIT])


# --- the shadow ---------------------------------------------------------------------------------------------


def hits(point: NDArray[np.float64], light: float) -> float:
    """Where on the ground the ray through a point ends, by solving for where two lines meet."""
    ray = np.array([math.cos(math.radians(light)), math.sin(math.radians(light))])
    steps = np.linalg.solve(np.array([[ray[0], -1.0], [ray[1], 0.0]]), np.array([-point[0], GROUND - point[1]]))
    return float(steps[1])


@given(angles, lights)
def test_the_shadow_is_where_rays_through_the_pendulum_end(angle: float, light: float) -> None:
    theta = math.radians(angle)
    turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    pendulum = [np.array([10, 10.5]) + turn @ np.array([0.0, -reach]) for reach in np.linspace(0, 9.5, 7)]
    ends = [hits(point, light) for point in pendulum]
    shadow = cast(angle, light)
    assert shadow.length == pytest.approx(max(SHORTEST, max(ends) - min(ends)))
    assert shadow.position == pytest.approx((max(ends) + min(ends)) / 2)


@given(angles, lights)
def test_the_mirrored_scene_has_the_mirrored_shadow(angle: float, light: float) -> None:
    shadow, mirrored = cast(angle, light), cast(-angle, 180 - light)
    assert mirrored.length == pytest.approx(shadow.length)
    assert mirrored.position == pytest.approx(20 - shadow.position)


@given(angles)
def test_a_light_from_above_throws_it_straight_down(angle: float) -> None:
    width = 9.5 * math.sin(math.radians(angle))
    shadow = cast(angle, 90)
    assert shadow.length == pytest.approx(max(SHORTEST, abs(width)))
    assert shadow.position == pytest.approx(10 + width / 2)


# --- what is drawn ------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(angles, lights, st.floats(1, 12), st.floats(7, 13))
def test_the_drawn_shadow_is_as_long_and_where_it_is_said_to_be(
    angle: float, light: float, length: float, position: float
) -> None:
    dark = drawn(angle=angle, light=light, shadow_length=length, shadow_position=position)
    ground = dark * (np.arange(88) >= 88 - UNIT)[:, None]  # the ball and the light are above
    assert ground.sum() / UNIT**2 == pytest.approx(length, abs=0.05)
    assert middle(ground)[0] == pytest.approx(position, abs=0.05)


@settings(max_examples=25)
@given(angles, st.floats(55, 125))  # beyond, the border cuts the light
def test_light_pivot_and_ball_lie_on_their_lines(angle: float, light: float) -> None:
    dark = drawn(angle=angle, light=light, shadow_length=0, shadow_position=10)
    rows = LOW + EXTENT - (np.arange(88) + 0.5) / UNIT
    sun = middle(dark * (rows > 17)[:, None])
    assert sun[0] == pytest.approx(10 + 10 / math.tan(math.radians(light)), abs=0.1)
    pendulum = middle(dark * (rows < 15)[:, None]) - np.array([10, 10.5])
    assert math.degrees(math.atan2(pendulum[0], -pendulum[1])) == pytest.approx(angle, abs=1)


def test_the_scene_is_the_same_on_every_grid() -> None:
    fine, sample = PendulumSimulator((176, 176)), SIMULATOR.attributes(5)
    halved = fine.render(5, sample)[0].reshape(88, 2, 88, 2).mean(axis=(1, 3))
    image, masks = SIMULATOR.render(5, sample)
    # A grey of the border of round things is that of how far its middle is: off by some percent of a pixel.
    assert np.abs(halved - image).max() < 30
    assert np.abs(halved - image).mean() < 0.3
    assert masks.shape == (0, 88, 88)
    wide = PendulumSimulator((88, 120)).render(5, sample)[0]
    np.testing.assert_array_equal(wide[:, 16:-16], image)


# --- counterfactuals ----------------------------------------------------------------------------------------


@given(people)
def test_nothing_set_and_all_set_as_it_is_change_nothing(person: int) -> None:
    before = SIMULATOR.attributes(person)
    image, _ = SIMULATOR.render(person, before)
    for do in ({}, before, *({name: before[name]} for name in before)):
        after, same, _ = SIMULATOR.counterfactual(person, do)
        assert after == before
        np.testing.assert_array_equal(same, image)


@given(people, angles, lights)
def test_causes_move_the_shadow_which_keeps_its_noise(person: int, angle: float, light: float) -> None:
    before = SIMULATOR.attributes(person)
    old = cast(float(before["angle"]), float(before["light"]))
    after = SIMULATOR.attributes(person, {"angle": angle, "light": light})
    new = cast(angle, light)
    for name, was, now in zip(("shadow_length", "shadow_position"), old, new, strict=True):
        assert float(after[name]) - now == pytest.approx(float(before[name]) - was, abs=1e-9)
    alone = SIMULATOR.attributes(person, {"shadow_length": 7.0})
    assert alone == before | {"shadow_length": 7.0}


def test_noises_are_independent_and_as_large_as_they_are_said_to_be() -> None:
    found = [SIMULATOR.attributes(person) for person in range(4000)]
    table = np.array([[float(v) for v in one.values()] for one in found])
    noise = table[:, 2:] - [cast(angle, light) for angle, light in table[:, :2]]
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.01)
    together = np.corrcoef(np.hstack([table[:, :2], noise]), rowvar=False)
    assert np.abs(together - np.eye(4)).max() < 0.06


@pytest.mark.parametrize(
    ("do", "code", "field"),
    [
        ({"angle": 91.0}, Code.OUT_OF_RANGE, "angle"),
        ({"light": 10.0}, Code.OUT_OF_RANGE, "light"),
        ({"shadow_length": -1.0}, Code.OUT_OF_RANGE, "shadow_length"),
        ({"shadow_position": 30.0}, Code.OUT_OF_RANGE, "shadow_position"),
        ({"angle": math.nan}, Code.INVALID, "angle"),
        ({"light": "left"}, Code.INVALID, "light"),
        ({"length": 3.0}, Code.UNKNOWN, "length"),
    ],
)
def test_what_cannot_be_drawn_is_refused(do: dict[str, Any], code: Code, field: str) -> None:
    with refused(UndrawableError, code, field):
        SIMULATOR.counterfactual(1, do)


def test_frames_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        PendulumSimulator((12, 64))


# --- in a study ---------------------------------------------------------------------------------------------


def tiny(**changes: Any) -> dict[str, Any]:
    """The study in some steps."""
    raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    short = {"steps": 4, "batch_size": 8, "warmup_steps": 1}
    for part in ("predictor", "predictor_judge", "scm", "hvae", "finetune"):
        raw[part] |= short
    raw["finetune"]["bound_batches"] = 1
    raw["image"]["size"] = [32, 32]
    small = {"data.people": 60, "evaluation": {"people": 12, "bootstrap": 40, "figure_people": 1}}
    return changed(raw, small | changes)


def test_the_study_has_the_graph_and_asks_about_every_variable() -> None:
    study = load_study(CONFIG)
    assert study.asked == study.attributes == PendulumSimulator.variables
    for name in ("shadow_length", "shadow_position"):
        assert study.variables[name].parents == ("angle", "light")


def test_the_truth_is_the_simulators(tmp_path: Path) -> None:
    study = parse_study(tiny())
    store = import_simulated(study, tmp_path / "store")
    truth, rows = Truth(study, store), np.array([3, 8])
    sought = {"angle": np.array([20.0, 95.0])}
    found = truth.counterfactuals(torch.from_numpy(rows), {k: torch.from_numpy(v) for k, v in sought.items()})
    assert found is not None
    person = int(store.table["person"][3])
    own = truth.simulator.attributes(person, {"angle": 20.0})
    image = to_unit(torch.from_numpy(truth.simulator.render(person, own)[0]))
    assert torch.equal(found.image[0, 0], image)
    assert found.image[1].isnan().all()  # cannot be drawn


@pytest.mark.slow
def test_every_stage_runs(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", parse_study(tiny()))
    Pipeline(run, make_fabric("cpu")).run_all()
    assert run.methods() == {"none": "hvae", "predictor": "cft-predictor"}
    rows = json.loads((run.evaluation / "table.json").read_text(encoding="utf-8"))
    found = {(row["metric"], row["method"], row["intervention"]) for row in rows}
    for method in ("none", "predictor"):
        for asked in PendulumSimulator.variables:
            assert {
                ("attribute error", method, asked),
                ("true counterfactual error, whole image", method, asked),
            } <= found


def test_files_are_read_as_they_were_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "files"
    assert main(["simulate", "pendulum", str(folder), "--people", "40", "--seed", "4", "--size", "32"]) == 0
    lines = yaml.safe_load(capsys.readouterr().err.partition("\n\n")[2].partition("\n\n")[0])
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tiny(**lines)), encoding="utf-8")
    assert main(["import", str(study), "--out", str(tmp_path / "run"), "--data", str(folder)]) == 0
    store, table = Store(tmp_path / "run" / "store"), pd.read_csv(folder / "metadata.csv")
    assert sorted(store.table["light"]) == pytest.approx(sorted(table["light"]))
    simulator = PendulumSimulator((32, 32))
    person = int(table.set_index("id").loc[store.table["id"][0], "person"])
    np.testing.assert_array_equal(store.images[0][0], simulator.render(person, simulator.attributes(person))[0])
