"""Intervals of answers: they hold as often as they say, know how large a change was, and are of what is there."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import segcft
from refused import refused
from segcft.api.record import add_obtained
from segcft.causal.scm import StructuralCausalModel
from segcft.config.loader import parse_study
from segcft.counterfactual.intervals import BINS, FEWEST, LEVEL, HalfWidths, Intervals, half_widths
from segcft.errors import Code, RunError
from segcft.evaluate.calibration import calibrated
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.coverage import Coverage, HalfWidth
from segcft.pipeline.calibration import read_calibration, write_calibration
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress
from tests.conftest import small_mapping


def people(n: int, each: int = 1) -> np.ndarray:
    return np.array([f"p{k % n}" for k in range(n * each)])


def test_intervals_hold_for_new_people() -> None:
    """Errors that grow with the change: in every bin 90 % of new errors are within, on average over calibrations."""
    random = np.random.default_rng(0)
    held = []
    for _ in range(200):
        changes = random.uniform(0, 3, 200)
        found = half_widths(changes * random.exponential(1, 200), changes, people(200), relative=False)
        assert found is not None
        new = random.uniform(0, 3, 400)
        widths = np.array([found.around(1.0, change) for change in new])
        errors = new * random.exponential(1, 400)
        held.append([(errors <= widths)[(new > k) & (new <= k + 1)].mean() for k in range(3)])
    assert np.mean(held, axis=0) == pytest.approx([LEVEL] * 3, abs=0.03)  # 200 calibrations: sd of the mean 0.003


def test_larger_changes_have_wider_intervals() -> None:
    changes = np.linspace(0, 3, 300)
    found = half_widths(changes, changes, people(300), relative=False)
    assert found is not None
    assert len(found.widths) == BINS
    assert list(found.widths) == sorted(found.widths)
    assert found.around(50.0, 2.9) == found.around(1.0, 2.9) == found.widths[-1]


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 2**31))
def test_of_few_people_there_is_no_interval(n: int, each: int, seed: int) -> None:
    """Of nine people it is the largest error, and eight are too few for 90 %."""
    random = np.random.default_rng(seed)
    errors, changes = random.random(n * each), 0.1 + random.random(n * each)
    found = half_widths(errors, changes, people(n, each), relative=False)
    assert (found is None) == (n < 9)
    if found is not None:
        assert len(found.widths) == len(found.upto) + 1
        assert len(found.widths) == 1 or n * each >= FEWEST
        assert all(0 <= width <= errors.max() for width in found.widths)
        assert n > 9 or found.widths == (errors.max(),)


def test_many_answers_about_few_people_are_no_many_people() -> None:
    errors = np.tile(np.arange(12.0), 100)
    found = half_widths(errors, np.ones(1200), people(12, 100), relative=False)
    assert found is not None
    assert found.widths == (11.0,)  # of 12 people the largest but none; of 1200 it would be 10


def test_answers_that_do_not_count_are_left_out() -> None:
    errors = np.where(np.arange(100) % 2, np.nan, 1.0)
    found = half_widths(errors, np.linspace(0, 1, 100), people(100), relative=False)
    assert found is not None
    assert set(found.widths) == {1.0}
    assert half_widths(np.full(50, np.nan), np.ones(50), people(50), relative=False) is None
    # Where nothing was changed nothing can be missed; where nobody knows the change, it is in no bin.
    for idle in (0.0, np.nan):
        changes = np.where(np.arange(100) % 2, idle, 1.0)
        found = half_widths(np.where(np.arange(100) % 2, 0.0, 1.0), changes, people(100), relative=False)
        assert found == HalfWidths(upto=(), widths=(1.0,), relative=False)


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_changes_of_one_size_have_a_bin_of_their_own(share: float) -> None:
    """As those of a category, or of a structure that appears, are; whatever share of the people is asked for one."""
    random = np.random.default_rng(1)
    changes = (random.random(2000) < share).astype(float)
    errors = changes * random.exponential(1, 2000)
    found = half_widths(errors, changes, people(2000), relative=False)
    assert found is not None
    assert len(found.widths) == 1
    assert (errors[changes > 0] <= found.around(1.0, 1.0)).mean() == pytest.approx(LEVEL, abs=0.01)


def test_where_too_many_fail_there_is_no_interval() -> None:
    errors = np.where(np.arange(100) % 5, 1.0, np.inf)  # as of an area that is read as none
    assert half_widths(errors, np.ones(100), people(100), relative=True) is None
    few = np.where(np.arange(100) % 50, 1.0, np.inf)
    found = half_widths(few, np.ones(100), people(100), relative=True)
    assert found is not None
    assert found.widths == (1.0,)


def test_of_a_derived_variable_its_own_change_counts_and_not_what_it_moves() -> None:
    raw = small_mapping()
    raw["variables"]["ratio"] = {
        "kind": "continuous",
        "formula": "heart_area / left_lung_area",
        "solve_for": "heart_area",
    }
    study = parse_study(raw)
    wide = {name: HalfWidths(upto=(), widths=(3.0,), relative=False) for name in study.measured}
    known = Intervals(spread={"ratio": 0.1, "sex": 1.0}, widths={"ratio": wide, "sex": wide})
    for name, before, after in (("ratio", 0.4, 0.5), ("sex", "F", "M"), ("age", None, 60.0)):
        moved = {name, study.variables[name].solve_for}
        rows = {one: {"before": 1.0, "after": 2.0, "intervened": one in moved} for one in study.variables}
        rows[name] |= {"before": before, "after": after}
        record: dict[str, Any] = {"variables": rows}
        values = torch.ones(1, len(study.variables))
        add_obtained(
            record, study, StructuralCausalModel(study.variables, study.scm), values, torch.full((3,), 7.0), None, known
        )
        shown = {n: (row["interval_low"], row["interval_high"]) for n, row in rows.items() if "interval_low" in row}
        assert shown == ({} if name == "age" else dict.fromkeys(study.measured, (4.0, 10.0)))


def test_of_several_changes_the_widest_counts_and_of_an_unknown_one_none() -> None:
    def wide(width: float, relative: bool = False) -> HalfWidths:
        return HalfWidths(upto=(1.0,), widths=(width, 2 * width), relative=relative)

    both = Intervals(
        spread={"age": 10.0, "area": 100.0},
        widths={"age": {"area": wide(5.0)}, "area": {"area": wide(0.1, relative=True)}},
    )
    assert both.around("area", 200.0, {"area": 50.0}) == pytest.approx(20)
    assert both.around("area", 200.0, {"area": 150.0}) == pytest.approx(40)
    assert both.around("area", 200.0, {"age": 1.0}) == 5.0
    assert both.around("area", 200.0, {"age": 30.0, "area": 50.0}) == pytest.approx(20)
    assert both.around("area", 20.0, {"age": 30.0, "area": 50.0}) == 10.0
    assert both.around("area", 200.0, {"age": 1.0, "sex": 1.0}) is None
    assert both.around("width", 200.0, {"age": 1.0}) is None
    assert both.around("area", 200.0, {}) is None


# --- of a run ---


def test_an_evaluation_calibrates_and_judges_the_intervals(small_run: Run) -> None:
    found = read_calibration(small_run)
    assert set(found) == set(small_run.methods())
    study = small_run.study
    for method in found:
        widths = found[method].intervals.widths
        assert set(study.measured) <= set(widths)
        for variable in study.measured:
            assert set(widths[variable]) == set(study.measured)
    rows = json.loads((small_run.evaluation / "table.json").read_text())
    shown = {(row["method"], row["intervention"], row["structure"]) for row in rows if row["metric"] == Coverage.name}
    for method in found:
        for variable in study.measured:
            assert {(method, variable, structure) for structure in study.structures} <= shown
    assert {row["method"] for row in rows if row["metric"] == HalfWidth.name} >= set(found)
    scores = pd.read_parquet(small_run.evaluation / "scores.parquet")
    held = scores[scores["metric"] == Coverage.name]["value"].dropna()
    assert set(held.unique()) <= {0.0, 1.0}


def test_an_answer_has_the_interval_of_its_change(small_run: Run) -> None:
    model = segcft.load(small_run.folder)
    image = small_run.store().images[int(small_run.store().indices("test")[0])]
    one = small_run.study.measured[0]
    method = "segmentor"
    answer = model.counterfactual(image[0], do={one: "+10%"}, method=method)
    known = read_calibration(small_run)[method].intervals
    row = answer.record["variables"][one]
    for name, area in answer.areas.items():
        width = known.around(name, area, {one: abs(row["after"] - row["before"])})
        assert width is not None
        assert answer.intervals[name] == pytest.approx((area - width, area + width))
    assert "90 %" in answer.summary()
    assert model.counterfactual(image[0], do={one: "+10%"}, method=method, exact=True).intervals == {}


def test_intervals_are_of_the_parts_that_are_there(small_run: Run, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    copied = Run(tmp_path / "run")
    path = copied.folder / "calibration.json"
    kept = json.loads(path.read_text())
    kept["none"]["of"]["hvae"] = "of another training"
    path.write_text(json.dumps(kept))
    assert set(read_calibration(copied)) == set(read_calibration(small_run)) - {"none"}
    path.write_text(json.dumps({"none": {"of": {}, "intervals": {}}}))
    with refused(RunError, Code.DAMAGED):
        read_calibration(copied)
    path.write_text("{")
    with refused(RunError, Code.DAMAGED):
        read_calibration(copied)
    path.unlink()
    assert read_calibration(copied) == {}


def test_a_published_model_keeps_the_intervals_of_its_methods(small_run: Run, tmp_path: Path) -> None:
    publish(small_run, tmp_path / "model", ["segmentor"])
    model = Run(tmp_path / "model")
    assert read_calibration(model) == {"segmentor": read_calibration(small_run)["segmentor"]}
    write_calibration(model, {})
    assert read_calibration(model) == {}


def test_of_what_never_varies_nothing_is_learnt(small_run: Run) -> None:
    store, study = small_run.store(), small_run.study
    cohort = Cohort(study, store, store.indices("validation", complete=True), torch.device("cpu"))
    models = {"none": small_run.model("none")}
    for nothing in (0.0, math.nan):
        spread = torch.ones(len(study.variables))
        spread[list(study.variables).index(study.measured[0])] = nothing
        found = calibrated(cohort, models, small_run.judge(), spread, Progress())["none"]
        assert set(found.widths) == set(found.spread)
        assert study.measured[0] not in found.spread
        assert study.measured[1] in found.spread
