"""A study with several measures of one mask and one of two masks together, from files to the page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import yaml

import segcft
from segcft.app.catalogue import Catalogue
from segcft.cli import main
from segcft.pipeline.run import Run
from tests.conftest import small_mapping

STRUCTURES: dict[str, dict[str, Any]] = {
    "heart": {"variable": "heart_area", "file": "{id}_heart.png"},
    "left_lung": {"variable": "left_lung_area", "file": "{id}_left_lung.png"},
    "right_lung": {"variable": "right_lung_area", "file": "{id}_right_lung.png"},
    "heart_base": {"variable": "heart_base", "of": ["heart"], "measure": "bottom"},
    "lungs": {"variable": "lungs_width", "of": ["left_lung", "right_lung"], "measure": "width"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("shared")
    assert main(["simulate", "chest", str(folder / "data"), "--people", "90", "--size", "32"]) == 0
    raw = small_mapping()
    raw |= {"structures": STRUCTURES, "data": {"source": "folder"}}
    raw["variables"] = {"sex": {"kind": "categorical", "categories": ["F", "M"]}} | {
        one["variable"]: {"kind": "continuous", "parents": ["sex"]} for one in STRUCTURES.values()
    }
    raw["evaluation"] |= {"metric": "mae"}
    (folder / "shared.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    words = ["run", str(folder / "shared.yaml"), "--data", str(folder / "data"), "--out", str(folder / "run")]
    assert main([*words, "--device", "cpu"]) == 0
    return Run(folder / "run")


@pytest.mark.slow
def test_masks_are_stored_once_and_measured_often(run: Run) -> None:
    store = run.store()
    assert store.masks.shape[1] == 3
    reached = (store.masks[:, 1:3].max(axis=1) > 127).any(axis=1)
    wide = [np.ptp(np.flatnonzero(row)) + 1 for row in reached]
    np.testing.assert_allclose(store.table["lungs_width"], wide, rtol=0.15)
    lowest = [np.flatnonzero(row)[-1] + 1 for row in (store.masks[:, 0] > 127).any(axis=2)]
    np.testing.assert_allclose(store.table["heart_base"], lowest, atol=2)


@pytest.mark.slow
def test_all_are_judged_and_only_masks_overlap(run: Run) -> None:
    rows = json.loads((run.evaluation / "table.json").read_text())
    judged = {row["structure"] for row in rows if row["metric"] == "mae" and row["method"] == "segmentor"}
    assert judged == set(STRUCTURES)
    assert {row["structure"] for row in rows if row["metric"] == "dice"} == {"heart", "left_lung", "right_lung"}
    local = {row["intervention"] for row in rows if row["metric"] == "locality" and row["method"] == "segmentor"}
    assert local == {one["variable"] for one in STRUCTURES.values()}
    assert main(["report", str(run.folder)]) == 0
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "heart base" in report
    for name in STRUCTURES:
        assert (run.evaluation / "figures" / f"differences-{name}.png").is_file()


@pytest.mark.slow
def test_all_can_be_asked_for(run: Run) -> None:
    page = Catalogue([run.folder]).describe("run")
    assert [one["name"] for one in page["structures"]] == ["heart", "left_lung", "right_lung"]
    assert {one["name"] for one in page["variables"] if one["isMeasured"]} == {
        one["variable"] for one in STRUCTURES.values()
    }
    model = segcft.load(run.folder)
    store = run.store()
    row = int(store.indices("test", complete=True)[0])
    wide = float(store.table["lungs_width"][row])
    answer = model.counterfactual(np.asarray(store.images[row, 0]), do={"lungs_width": wide})
    assert answer.masks_before.shape[0] == 3
    assert set(answer.areas) == {one["variable"] for one in STRUCTURES.values()}
