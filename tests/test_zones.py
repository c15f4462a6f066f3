"""What of a structure lies in a part of the frame or of itself, as a variable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segcft
from refused import refused
from segcft.config.loader import parse_study
from segcft.config.structure import Zone
from segcft.config.study import Study
from segcft.counterfactual.contradictions import check_parts
from segcft.errors import Code, DataError, InterventionError, StudyError
from segcft.evaluate.truth import Truth
from segcft.grid import Grid
from segcft.importers.simulated import import_simulated
from segcft.measures.measurements import Measurements
from segcft.measures.zone import inside
from segcft.pipeline.importing import _source
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.report.page import render_report
from segcft.training.loop import make_fabric
from tests.conftest import small_mapping
from tests.test_shapes import GRID, box, edges, ellipse

THIRDS = ((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1))


def zone(begin: float, end: float, axis: str = "x", of: str = "frame") -> Zone:
    return Zone.model_validate({"axis": axis, "begin": begin, "end": end, "of": of})


@given(edges, st.floats(0, 0.9), st.floats(0.05, 1))
def test_of_a_box_a_zone_of_the_frame_keeps_what_is_in_it(
    at: tuple[int, int, int, int], begin: float, length: float
) -> None:
    top, bottom, left, right = at
    end = min(1.0, begin + length)
    kept = inside(box(*at), GRID, zone(begin, end))
    wide = max(0.0, min(right, 56 * end) - max(left, 56 * begin))
    assert float(kept.sum()) == pytest.approx((bottom - top) * wide, abs=1e-6)


@pytest.mark.parametrize("of", ["frame", "structure"])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_zones_without_gaps_add_up_to_the_whole(axis: str, of: str) -> None:
    mask = ellipse((18, 30), (11, 7), 25, GRID)
    parts = [inside(mask, GRID, zone(*third, axis, of)) for third in THIRDS]
    assert torch.allclose(torch.stack(parts).sum(dim=0), mask)
    if of == "structure":
        middle = float(parts[1].sum() / mask.sum())
        assert 1 / 3 < middle < 0.5  # the middle third of an ellipse is its largest
        assert float(parts[0].sum()) == pytest.approx(float(parts[2].sum()), rel=0.05)


@given(st.integers(-6, 6), st.integers(-8, 8))
def test_zones_of_a_structure_move_with_it(down: int, right: int) -> None:
    mask = ellipse((20, 28), (9, 6), 30, GRID)
    own = zone(2 / 3, 1, "y", "structure")
    moved = inside(mask.roll((down, right), dims=(0, 1)), GRID, own)
    assert torch.allclose(moved, inside(mask, GRID, own).roll((down, right), dims=(0, 1)), atol=1e-9)


def test_gradients_are_those_of_finite_differences_and_of_nothing_finite() -> None:
    grid = Grid((8, 10))
    mask = (0.1 + 0.8 * ellipse((4, 5), (3, 2.5), 10, grid)).requires_grad_()
    own = zone(0.2, 0.6, "x", "structure")
    assert torch.autograd.gradcheck(lambda m: inside(m, grid, own).sum(), mask, eps=1e-5, atol=1e-4)
    nothing = torch.zeros(8, 10, dtype=torch.float64, requires_grad=True)
    inside(nothing, grid, own).sum().backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_masks_in_a_batch_have_their_own_ends() -> None:
    first, second = box(4, 12, 0, 12), box(4, 12, 30, 54)
    kept = inside(torch.stack([first, second])[None], GRID, zone(0, 0.5, "x", "structure"))[0]
    assert [float(one.sum()) for one in kept] == pytest.approx([8 * 6, 8 * 12])


# --- as variables of a study --------------------------------------------------------------------------------


def with_zones() -> dict[str, Any]:
    """The lower and the upper half of the left lung, and the whole."""
    raw = small_mapping()
    for name, begin in (("upper", 0.0), ("lower", 0.5)):
        raw["variables"][name] = {"kind": "continuous", "parents": ["age"]}
        raw["structures"][f"left_lung_{name}"] = {
            "variable": name,
            "of": ["left_lung"],
            "zone": {"axis": "y", "begin": begin, "end": begin + 0.5, "of": "structure"},
        }
    return raw


@pytest.fixture(scope="module")
def study() -> Study:
    return parse_study(with_zones())


def test_a_simulated_study_measures_zones_of_what_is_drawn(study: Study, tmp_path: Path) -> None:
    store = import_simulated(study, tmp_path / "store", people=12, split="train")
    table = store.table
    np.testing.assert_allclose(table["upper"] + table["lower"], table["left_lung_area"], rtol=1e-4)
    assert store.masks.shape[1] == len(study.masked) == 3
    read = Measurements.of(study).read(torch.from_numpy(store.masks.copy()).float() / 255)
    np.testing.assert_allclose(read[:, -1], table["lower"], rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"left_lung_area": 100.0, "upper": 120.0}, "upper"),
        ({"left_lung_area": 100.0, "upper": 60.0, "lower": 60.0}, "upper + lower"),
        ({"left_lung_area": 100.0, "upper": 60.0, "lower": 40.0}, None),
        ({"heart_area": 1.0, "left_lung_area": 100.0, "upper": 60.0, "lower": 60.0}, "upper + lower"),
    ],
)
def test_a_part_that_is_larger_than_the_whole_is_refused(
    study: Study, values: dict[str, float], field: str | None
) -> None:
    names = list(study.variables)
    asked, after = torch.full((len(names),), torch.nan), torch.full((len(names),), 50.0)
    for name, value in values.items():
        asked[names.index(name)] = after[names.index(name)] = value
    if field is None:
        check_parts(Measurements.of(study), names, asked, after)
    else:
        with refused(InterventionError, Code.CONFLICT, field):
            check_parts(Measurements.of(study), names, asked, after)


def test_what_only_follows_from_an_intervention_is_not_its_fault(study: Study) -> None:
    names = list(study.variables)
    asked, after = torch.full((len(names),), torch.nan), torch.full((len(names),), 50.0)
    after[names.index("upper")] = 90.0  # as a judge may misread it, and a mechanism predict it
    asked[names.index("heart_area")] = after[names.index("heart_area")] = 70.0
    check_parts(Measurements.of(study), names, asked, after)


@pytest.mark.parametrize(
    "change",
    [
        {"zone": {"axis": "y", "begin": 0.5, "end": 0.5}},
        {"zone": {"axis": "z"}},
        {"zone": {"axis": "y", "end": 1.5}},
        {"zone": {"axis": "y"}, "of": []},
    ],
)
def test_zones_that_are_none_are_refused(change: dict[str, Any]) -> None:
    raw = with_zones()
    raw["structures"]["left_lung_upper"] |= change
    with refused(StudyError, Code.INVALID):
        parse_study(raw)


# --- masks that are no variable as a whole ---


def with_parts() -> dict[str, Any]:
    """The halves of the left lung, whose area follows: only its mask is left."""
    raw = with_zones()
    del raw["structures"]["left_lung"]
    raw["masks"] = {"left_lung": {}}
    raw["variables"]["left_lung_area"] = {"kind": "continuous", "formula": "upper + lower", "solve_for": "lower"}
    return raw


def test_the_whole_may_follow_from_its_parts(study: Study, tmp_path: Path) -> None:
    parts = parse_study(with_parts())
    assert list(parts.masked) == ["right_lung", "heart", "left_lung"]  # structures first
    assert "left_lung_area" not in parts.measured
    assert parse_study(parts.model_dump(mode="json")) == parts
    store = import_simulated(parts, tmp_path / "parts", people=6, split="train")
    whole = import_simulated(study, tmp_path / "whole", people=6, split="train")
    np.testing.assert_array_equal(store.masks, np.asarray(whole.masks)[:, [1, 2, 0]])
    for name in ("upper", "lower", "left_lung_area"):
        np.testing.assert_allclose(store.table[name], whole.table[name], rtol=1e-5)
    store.require(parts)
    with refused(DataError, Code.OTHER, "structures"):
        store.require(study)


@pytest.mark.parametrize(
    ("masks", "field"),
    [
        ({"left_lung": {}, "spine": {}}, "study: masks.spine"),  # of which nothing is
        ({"left_lung": {}, "heart": {}}, "study: masks.heart"),  # a structure with a mask of its own
        ({"left_lung": {"bit": 3}}, "study: masks.left_lung"),
        ({"left_lung": {"variable": "upper"}}, "study: masks.left_lung.variable"),
    ],
)
def test_masks_that_are_none_are_refused(masks: dict[str, Any], field: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(with_parts() | {"masks": masks})
    assert str(caught.value).startswith(field)


def test_the_truth_of_a_whole_that_follows(study: Study, tmp_path: Path) -> None:
    """Its parts have none where the simulator would hold the whole, and it is held where its parts are."""
    parts = parse_study(with_parts())
    truth, whole = (
        Truth(one, import_simulated(one, tmp_path / one.name / str(len(one.masks)), people=6, split="test"))
        for one in (parts, study)
    )
    rows, upper = torch.arange(2), torch.tensor([50.0, 50.0])
    assert whole.counterfactuals(rows, {"upper": upper}) is not None
    assert truth.counterfactuals(rows, {"upper": upper}) is None


def test_another_way_to_read_a_mask_is_another_import(tmp_path: Path) -> None:
    raw = with_parts() | {"data": {"source": "folder"}}
    for k, name in enumerate(("right_lung", "heart")):
        raw["structures"][name]["bit"] = 1 << k
    keys = set()
    for masks in ({"left_lung": {"bit": 4}}, {"left_lung": {"bit": 8}}, {"left_lung": {"label": 4}}):
        keys.add(_source(parse_study(raw | {"masks": masks}), None)["study"])
    assert len(keys) == 3


def test_a_mask_that_no_simulator_draws_is_refused(tmp_path: Path) -> None:
    raw = with_parts() | {"masks": {"spleen": {}}}
    for name in ("upper", "lower"):
        raw["structures"][f"left_lung_{name}"]["of"] = ["spleen"]
    with refused(DataError, Code.UNKNOWN, "masks.spleen"):
        import_simulated(parse_study(raw), tmp_path / "store", people=2, split="train")


def test_views_that_move_a_zone_are_refused() -> None:
    raw = with_zones()
    raw["finetune"]["view"] = {"rotate": 5}
    with refused(StudyError, Code.CONFLICT, "finetune.view"):
        Measurements.of(parse_study(raw))


def test_a_mask_that_is_no_variable_goes_through_every_stage(tmp_path: Path) -> None:
    raw = with_parts()
    for section in ("segmentor", "judge", "regressor", "scm", "hvae", "finetune"):
        raw[section] |= {"steps": 2}
    run = Run(tmp_path / "run", parse_study(raw))
    Pipeline(run, make_fabric("cpu")).run_all()
    rows = json.loads((run.evaluation / "table.json").read_text())
    read = {row["structure"] for row in rows if row["metric"] == "dice"}
    assert read == {"right_lung", "heart"}  # columns are of structures
    publish(run, tmp_path / "model")
    model, store = segcft.load(tmp_path / "model"), run.store()
    answer = model.counterfactual(store.images[0, 0], {"sex": "F", "age": 50}, do={"left_lung_area": "+10%"}, draws=0)
    assert {"upper", "lower"} <= answer.areas.keys()
    after = {name: one["after"] for name, one in answer.record["variables"].items()}
    assert after["left_lung_area"] == pytest.approx(after["upper"] + after["lower"], rel=1e-4)
    page = render_report(run, torch.device("cpu"))
    assert "left lung" in page
