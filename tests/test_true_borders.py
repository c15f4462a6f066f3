"""True counterfactuals of borders and widths: the simulator draws a structure taller or lower, at the same area."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate.truth import Truth
from segcft.importers.simulated import import_simulated
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.simulate.chest import ChestSimulator
from segcft.training.loop import make_fabric
from tests.conftest import MakeStudy

NUMBER = {"kind": "continuous"}
CHANGES: dict[str, Any] = {
    "image.size": [64, 64],
    "variables.base": NUMBER | {"parents": ["left_lung_area"]},
    "variables.reach": NUMBER | {"parents": ["left_lung_area"]},
    "variables.across": NUMBER | {"parents": ["heart_area"]},
    "variables.thorax": NUMBER,
    "variables.density": NUMBER,
    "structures.base": {"variable": "base", "of": ["left_lung"], "measure": "bottom"},
    "structures.reach": {"variable": "reach", "of": ["left_lung"], "measure": "height"},
    "structures.across": {"variable": "across", "of": ["heart"], "measure": "width"},
    "structures.thorax": {"variable": "thorax", "of": ["left_lung", "right_lung"], "measure": "width"},
    "structures.density": {"variable": "density", "of": ["heart"], "measure": "grey"},
    "evaluation.metric": "mae",
}


@pytest.fixture(scope="module")
def study(make_small_study: MakeStudy) -> Study:
    return make_small_study(CHANGES)


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return import_simulated(study, tmp_path_factory.mktemp("borders") / "store", people=24)


def column(study: Study, name: str) -> int:
    return list(study.variables).index(name)


@pytest.mark.parametrize("name", ["base", "reach", "across"])
@pytest.mark.parametrize("change", [-1.5, 1.0])
def test_the_measure_is_as_asked_and_all_areas_stay(study: Study, store: Store, name: str, change: float) -> None:
    values = torch.from_numpy(store.values())
    wanted = values[:, column(study, name)] + change
    drawn = Truth(study, store).counterfactuals(torch.arange(24), {name: wanted})
    assert drawn is not None
    known = drawn.image.flatten(1).isfinite().all(dim=1)
    assert known.sum() >= 18  # some would leave the frame, or be too narrow
    read = Measurements.of(study).estimate(drawn.mask[known], drawn.image[known])
    places = [column(study, f"{one}_area") for one in ("left_lung", "right_lung", "heart")]
    torch.testing.assert_close(read[:, study.measured.index(name)], wanted[known], atol=5e-3, rtol=0)
    torch.testing.assert_close(read[:, :3], values[known][:, places], atol=0.1, rtol=0)


def test_with_an_area_it_is_set_at_that_area(study: Study, store: Store) -> None:
    values = torch.from_numpy(store.values())
    do = {"heart_area": 1.1 * values[:, column(study, "heart_area")], "across": values[:, column(study, "across")]}
    drawn = Truth(study, store).counterfactuals(torch.arange(24), do)
    assert drawn is not None
    known = drawn.image.flatten(1).isfinite().all(dim=1)
    assert known.sum() >= 18
    read = Measurements.of(study).estimate(drawn.mask[known], drawn.image[known])
    for name, wanted in do.items():
        torch.testing.assert_close(read[:, study.measured.index(name)], wanted[known], atol=0.1, rtol=0)


def test_what_nobody_could_draw_is_not_drawn(study: Study, store: Store) -> None:
    truth, values = Truth(study, store), torch.from_numpy(store.values())[:2]
    rows, base, reach = torch.arange(2), values[:, column(study, "base")], values[:, column(study, "reach")]
    far = truth.counterfactuals(rows, {"base": base + 40})
    several = truth.counterfactuals(rows, {"base": base + 1, "reach": reach - 1})
    for drawn in (far, several):
        assert drawn is not None
        assert drawn.image.isnan().all()
    for name in ("thorax", "density"):  # of two lungs, and of greys
        assert truth.counterfactuals(rows, {name: values[:, column(study, name)]}) is None


def test_a_simulator_draws_as_ever_where_nothing_is_stretched() -> None:
    simulator = ChestSimulator((64, 64))
    attributes = simulator.attributes(7)
    (plain, masks), (same, again) = simulator.render(7, attributes), simulator.render(7, attributes, {"heart": 1.0})
    assert (plain == same).all()
    assert (masks == again).all()
    assert (simulator.cover(7, attributes, "heart", 1.0) == masks[2]).all()
    taller = simulator.cover(7, attributes, "left_lung", 1.05)
    assert taller.sum() == pytest.approx(masks[0].sum(), rel=1e-3)
    assert np.flatnonzero(taller.any(axis=1)).max() > np.flatnonzero(masks[0].any(axis=1)).max()


@pytest.mark.slow
def test_an_evaluation_has_the_truth_about_them(make_small_study: MakeStudy, small_run: Run, tmp_path: Path) -> None:
    kept = {key: value for key, value in CHANGES.items() if not key.endswith(("thorax", "density", "reach"))}
    study = make_small_study(kept | {"image.size": [32, 32], "finetune.guides": ["segmentor"], "evaluation.people": 8})
    run = Run(tmp_path / "run", study)
    Pipeline(run, make_fabric("cpu")).run_all()
    rows = json.loads((run.evaluation / "table.json").read_text(encoding="utf-8"))
    found = {(row["metric"], row["intervention"]) for row in rows if row["method"] == "truth"}
    for asked in ("base", "across", "left_lung_area"):
        assert {("slope", asked), ("true dice", asked)} <= found
    assert any(row["metric"] == "direct effect" and row["value"] is not None for row in rows)
