"""Variables that follow from others by a formula: from the study to an answer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

import segcft
from refused import refused
from segcft.causal.intervention import parse_intervention, resolve
from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.cli import main
from segcft.config.formula import Formula
from segcft.config.loader import parse_study
from segcft.config.stages import SCMSpec
from segcft.config.variable import Variable
from segcft.errors import Code, InterventionError, StudyError
from segcft.pipeline.run import Run
from tests.conftest import changed, small_mapping

RATIO = Variable(kind="continuous", formula="heart / thorax", solve_for="heart")
SUM = Variable(kind="continuous", formula="heart + thorax + 1", solve_for="thorax")


# --- formulas -----------------------------------------------------------------------------------------------


@st.composite
def formulas(draw: st.DrawFn) -> str:
    """With x once and any others."""
    text = "x"
    for _ in range(draw(st.integers(0, 4))):
        other = draw(st.sampled_from(["a", "b", "2.5", "(a + 1)"]))
        operator = draw(st.sampled_from("+-*/"))
        text = draw(st.sampled_from([f"({text} {operator} {other})", f"({other} {operator} {text})", f"-{text}"]))
    return text


@given(formulas(), st.floats(0.5, 3), st.floats(0.5, 3), st.floats(0.5, 3))
def test_what_solves_a_formula_gives_what_was_wanted(text: str, x: float, a: float, b: float) -> None:
    formula, values = Formula(text), {"x": x, "a": a, "b": b}
    try:
        wanted = formula.value(values)
        assume(1e-3 < abs(wanted) < 1e3)
        found = formula.solve("x", wanted, values)
    except ZeroDivisionError:
        assume(False)
    assert found == pytest.approx(x, rel=1e-6)


def test_formulas_are_of_arrays_and_tensors_too() -> None:
    formula = Formula("a / (b + 1) - -2")
    assert formula.names == ("a", "b")
    for kind in (np.array, torch.tensor):
        assert formula.value({"a": kind([2.0, 4.0]), "b": kind([1.0, 3.0])}).tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    "text",
    ["", "1 + 2", "a b", "a ** 2", "f(a)", "a.b", "a[0]", "a if b else c", "a; b", "'a' + b", "True + a", "a" * 2000],
)
def test_anything_else_is_no_formula(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the study names the key
        Formula(text)


# --- in the causal model ------------------------------------------------------------------------------------


def scm_of(**derived: Variable) -> StructuralCausalModel:
    """thorax -> heart, both known to the digit, and what follows from them."""
    torch.manual_seed(0)
    variables = {
        "thorax": Variable(kind="continuous"),
        "heart": Variable(kind="continuous", parents=("thorax",)),
        **derived,
    }
    scm = StructuralCausalModel(variables, SCMSpec(steps=1))
    for parameter in scm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    base = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([2.0, 1.0]) + torch.tensor(
        [20.0, 10.0]
    )
    scm.set_statistics(scm.derive(torch.cat([base, torch.zeros(200, len(derived))], dim=1)))
    return scm.eval()


def test_an_intervention_on_what_follows_moves_the_part_that_it_is_solved_for() -> None:
    scm = scm_of(ratio=RATIO, total=SUM)
    values = scm.derive(torch.tensor([[20.0, 10.0, 0.0, 0.0], [24.0, 9.0, 0.0, 0.0]]))
    assert values[:, 2].tolist() == [0.5, 0.375]
    after = scm.counterfactual(values, scm.intervention(2, ratio=0.6))
    assert after[:, 0].tolist() == [20.0, 24.0]
    torch.testing.assert_close(after[:, 1], torch.tensor([12.0, 14.4]))
    torch.testing.assert_close(after[:, 3], torch.tensor([33.0, 39.4]))
    # Where the thorax is set too, the heart is solved with it; what one asks of another holds to the digit.
    both = scm.intervention(2, ratio=torch.tensor([0.6, math.nan]), thorax=30.0)
    after = scm.counterfactual(values, both)
    assert after[0, 2] == torch.tensor(0.6)
    assert float(after[0, 1]) == pytest.approx(18.0)
    assert float(after[1, 1]) != pytest.approx(9.0)  # it follows the thorax


def test_several_are_solved_one_after_the_other() -> None:
    scm = scm_of(ratio=RATIO, whole=Variable(kind="continuous", formula="2 * thorax", solve_for="thorax"))
    values = scm.derive(torch.tensor([[20.0, 10.0, 0.0, 0.0]]))
    after = scm.counterfactual(values, scm.intervention(1, ratio=0.6, whole=60.0))
    torch.testing.assert_close(after, torch.tensor([[30.0, 18.0, 0.6, 60.0]]))


def test_samples_follow_and_can_be_asked_for() -> None:
    scm = scm_of(ratio=RATIO)
    generator = torch.Generator().manual_seed(0)
    drawn = scm.sample(50, generator)
    torch.testing.assert_close(drawn[:, 2], drawn[:, 1] / drawn[:, 0])
    asked = scm.sample(50, generator, scm.intervention(50, ratio=0.5))
    torch.testing.assert_close(asked[:, 1], asked[:, 0] / 2)
    assert (scm.log_prob(drawn)[:, 2] == 0).all()
    assert scm.normal_scores(drawn)[:, 2].isnan().all()


def test_it_adds_nothing_to_what_others_are_told() -> None:
    with_it, without = scm_of(ratio=RATIO), scm_of()
    assert with_it.encoder.features == without.encoder.features
    values = torch.tensor([[20.0, 10.0]])
    expected = without.encoder(values)
    assert torch.equal(
        with_it.encoder(with_it.derive(torch.cat([values, torch.zeros(1, 1)], dim=1)))[:, 0], expected[:, 0]
    )


def test_what_is_missing_is_missing_as_its_parts_are() -> None:
    scm, generator = scm_of(ratio=RATIO), torch.Generator().manual_seed(0)
    filled, certainty = MissingValues(scm, torch.tensor([[20.0, math.nan, math.nan]]), generator).likely()
    assert set(certainty) == {"heart"}
    assert float(filled[0, 2]) == pytest.approx(float(filled[0, 1]) / 20)
    whole = MissingValues(scm, torch.tensor([[20.0, 10.0, math.nan]]), generator)
    assert whole.likely()[0].tolist() == [[20.0, 10.0, 0.5]]
    assert whole.draw(3, generator).tolist() == [[20.0, 10.0, 0.5]] * 3


@pytest.mark.parametrize("asked", [["ratio=0.6", "heart=12"], ["ratio=0.6", "share=60"], ["ratio=0.6", "total=40"]])
def test_what_contradicts_itself_is_refused(asked: list[str]) -> None:
    share = Variable(kind="continuous", formula="100 * heart / thorax", solve_for="heart")
    scm = scm_of(ratio=RATIO, share=share, total=SUM)
    values = scm.derive(torch.tensor([[20.0, 10.0, 0.0, 0.0, 0.0]]))
    with refused(InterventionError, Code.CONFLICT):
        resolve([parse_intervention(one, scm.definitions) for one in asked], values, scm)


# --- in a study ---------------------------------------------------------------------------------------------


def mapping() -> dict[str, Any]:
    raw = small_mapping()
    raw["variables"] |= {
        "heart_width": {"kind": "continuous", "parents": ["sex", "age"]},
        "thorax_width": {"kind": "continuous", "parents": ["sex"]},
        "ratio": {"kind": "continuous", "formula": "heart_width / thorax_width", "solve_for": "heart_width"},
    }
    raw["structures"] |= {
        "heart_across": {"variable": "heart_width", "of": ["heart"], "measure": "width"},
        "thorax": {"variable": "thorax_width", "of": ["left_lung", "right_lung"], "measure": "width"},
    }
    raw["evaluation"] |= {"interventions": ["heart_area", "ratio"]}
    return raw


@pytest.mark.parametrize(
    "change",
    [
        {"ratio": {"formula": "heart_width / nobody"}},
        {"ratio": {"formula": "heart_width / sex"}},
        {"ratio": {"solve_for": "age"}},
        {"ratio": {"formula": "heart_width + heart_width * thorax_width"}},
        {"ratio": {"scale": "log"}},
        {"thorax_width": {"parents": ["heart_width"]}},  # then nothing says how far to move the heart
        {"heart_area": {"parents": ["ratio"]}},
        {"thorax_width": {"solve_for": "age"}},
    ],
)
def test_formulas_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    raw = mapping()
    for name, keys in change.items():
        raw["variables"][name] |= keys
    with refused(StudyError, Code.INVALID):
        parse_study(raw)


def test_a_ratio_and_the_part_that_it_sets_do_not_rise_together() -> None:
    raw = mapping()
    part = raw["variables"]["ratio"]["solve_for"]
    with pytest.raises(StudyError):
        parse_study(changed(raw, {"evaluation.progression": ["ratio", part]}))
    assert parse_study(changed(raw, {"evaluation.progression": ["ratio"]})).evaluation.progression == ("ratio",)


def test_a_study_is_read_as_it_is_written() -> None:
    study = parse_study(mapping())
    assert study.variables["ratio"].parents == ("heart_width", "thorax_width")
    assert parse_study(study.model_dump(mode="json")) == study
    assert "formula" not in study.model_dump()["variables"]["age"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("derived")
    (folder / "study.yaml").write_text(json.dumps(mapping()), encoding="utf-8")
    assert main(["run", str(folder / "study.yaml"), "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return Run(folder / "run")


@pytest.mark.slow
def test_a_run_measures_asks_and_judges_it(run: Run) -> None:
    table = run.store().table
    np.testing.assert_allclose(table["ratio"], table["heart_width"] / table["thorax_width"], rtol=1e-5)
    rows = json.loads((run.evaluation / "table.json").read_text())
    asked = {row["method"] for row in rows if (row["metric"], row["intervention"]) == ("derived slope", "ratio")}
    assert {"none", "regressor", "segmentor"} <= asked
    assert all(row["intervention"] == "ratio" for row in rows if row["metric"] == "derived error")


def images_of(run: Run, folder: Path) -> list[str]:
    """The words of a command that asks about two images in files."""
    (folder / "images").mkdir()
    for number in range(2):
        Image.fromarray(run.store().images[number][0]).save(folder / "images" / f"{number}.png")
    return [str(folder / "images"), "--out", str(folder / "answers")]


@pytest.mark.slow
def test_an_answer_says_what_was_asked_what_moved_and_what_is_obtained(run: Run, tmp_path: Path) -> None:
    model, image = segcft.load(run.folder), run.store().images[0][0]
    answer = model.counterfactual(image, do={"ratio": "+10%"}, draws=0)
    ratio, heart, thorax = (answer.record["variables"][name] for name in ("ratio", "heart_width", "thorax_width"))
    assert ratio["after"] == pytest.approx(1.1 * ratio["before"])
    assert ratio["intervened"]
    assert heart["intervened"]
    assert not thorax["intervened"]
    assert heart["after"] == pytest.approx(1.1 * heart["before"], rel=1e-4)
    assert thorax["after"] == thorax["before"]
    assert ratio["obtained"] == pytest.approx(heart["obtained"] / thorax["obtained"], rel=1e-4)
    assert {"heart_width", "thorax_width"} <= set(answer.intervals)  # the ratio was asked about when they were learnt
    with refused(InterventionError, Code.CONFLICT, "ratio"):
        model.counterfactual(image, do={"ratio": 0.5, "heart_width": "+10%"})
    with refused(InterventionError, Code.INVALID, "ratio"):
        model.counterfactual(image, {"ratio": 0.5}, {"heart_area": "+10%"})
    with refused(InterventionError, Code.OUT_OF_RANGE):
        model.counterfactual(image, do={"ratio": 50})
    assert main(["counterfactual", str(run.folder), *images_of(run, tmp_path), "--do", "ratio=+10%"]) == 0
    row = pd.read_csv(tmp_path / "answers" / "manifest.csv").iloc[0]
    assert row["ratio_obtained"] == pytest.approx(row["heart_width_obtained"] / row["thorax_width_obtained"], rel=1e-4)
    assert len(model.trajectory(image, "ratio", 3).answers) == 3
    assert len(model.sample(3, {"ratio": 0.5}).images) == 3
