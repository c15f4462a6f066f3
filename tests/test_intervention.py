"""What users type to intervene, and what it resolves to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refused import refused
from segcft.causal.intervention import Intervention, parse_intervention, resolve
from segcft.causal.scm import StructuralCausalModel
from segcft.config.stages import SCMSpec
from segcft.config.variable import Variable
from segcft.errors import Code, InterventionError

VARIABLES = {
    "sex": Variable(kind="categorical", categories=("F", "M", "not known")),
    "age": Variable(kind="continuous"),
    "heart_area": Variable(kind="continuous", parents=("sex", "age"), scale="log"),
    "left_lung_area": Variable(kind="continuous", parents=("sex", "age")),
}
VALUES = torch.tensor([[0.0, 40, 8000, 12000], [1, 60, 10000, 14000]])


@pytest.fixture(scope="module")
def scm() -> StructuralCausalModel:
    model = StructuralCausalModel(VARIABLES, SCMSpec(steps=1))
    model.set_statistics(VALUES)
    return model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left_lung_area=+20%", Intervention("left_lung_area", 20.0, "percent")),
        ("left_lung_area = -12.5 %", Intervention("left_lung_area", -12.5, "percent")),
        ("age=63", Intervention("age", 63.0)),
        ("  age =  6.3e1 ", Intervention("age", 63.0)),
        ("age=.5", Intervention("age", 0.5)),
        ("age=(-5)", Intervention("age", -5.0)),
        ("age=( +5 )", Intervention("age", 5.0)),
        ("heart_area=-1.5sd", Intervention("heart_area", -1.5, "sd")),
        ("heart_area=+2 sd", Intervention("heart_area", 2.0, "sd")),
        ("heart_area=+500", Intervention("heart_area", 500.0, "add")),
        ("heart_area=-500", Intervention("heart_area", -500.0, "add")),
        ("sex=F", Intervention("sex", "F")),
        ("sex=not known", Intervention("sex", "not known")),
    ],
)
def test_parse(text: str, expected: Intervention) -> None:
    assert parse_intervention(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected VARIABLE=AMOUNT"),
        ("age", "expected VARIABLE=AMOUNT"),
        ("age=", "expected VARIABLE=AMOUNT"),
        ("=3", "expected VARIABLE=AMOUNT"),
        ("left_lung=+20%", "left_lung: .* did you mean 'left_lung_area'"),
        ("xyz=1", r"xyz: .* \(sex, age, heart_area, left_lung_area\)"),
        ("sex=Female", "sex: .* F, M, not known"),
        ("sex=notknown", "sex: .* did you mean 'not known'"),
        ("sex=+20%", "sex: .* F, M"),
        ("sex=0", "sex: .* F, M"),
        ("age=20%", "needs its sign, \\+20% or -20%"),
        ("age=1.5sd", "needs its sign"),
        ("age=old", "is none of 63"),
        ("age=nan", "is none of 63"),
        ("age=inf", "is none of 63"),
        ("age=1,000", "is none of 63"),
        ("age=1_000", "is none of 63"),
        ("age=12000mm2", "is none of 63"),
        ("age=--5", "is none of 63"),
        ("age=(5", "is none of 63"),
        ("age=1e999", "must be a finite number"),
        ("age=+1e999%", "must be a finite number"),
    ],
)
def test_parse_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        parse_intervention(text, VARIABLES)


finite = st.floats(-3e38, 3e38)


@given(
    st.one_of(
        st.builds(Intervention, st.just("sex"), st.sampled_from(VARIABLES["sex"].categories)),
        st.builds(
            Intervention,
            st.sampled_from(["age", "heart_area"]),
            finite,
            st.sampled_from(["set", "add", "percent", "sd"]),
        ),
    )
)
def test_text_round_trip(intervention: Intervention) -> None:
    assert parse_intervention(str(intervention), VARIABLES) == intervention


@given(
    st.one_of(
        st.text(),
        st.text().map("age=".__add__),
        st.text(alphabet="+-0123456789.eE%sd() ").map("age=".__add__),
        st.text().map("sex=".__add__),
    )
)
def test_any_text_parses_or_is_an_intervention_error(text: str) -> None:
    try:
        intervention = parse_intervention(text, VARIABLES)
    except InterventionError:
        return
    assert isinstance(intervention.amount, str) or math.isfinite(intervention.amount)


def column(do: Tensor, name: str) -> list[float]:
    return do[:, list(VARIABLES).index(name)].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age=63", [63, 63]),
        ("age=+5", [45, 65]),
        ("left_lung_area=+20%", [14400, 16800]),
        ("left_lung_area=-100%", [0, 0]),
        (
            "heart_area=-1.5sd",
            [6500, 8500],
        ),  # the standard deviation is 1000, of the areas, not of their logs
        ("age=(-5)", [-5, -5]),
        ("sex=M", [1, 1]),
    ],
)
def test_resolve(scm: StructuralCausalModel, text: str, expected: list[float]) -> None:
    intervention = parse_intervention(text, VARIABLES)
    do = resolve([intervention], VALUES, scm)
    assert column(do, intervention.variable) == pytest.approx(expected)
    assert do.isnan().sum() == 2 * 3
    result = scm.counterfactual(VALUES, do)
    assert column(result, intervention.variable) == column(do, intervention.variable)


def test_resolve_several_and_none(scm: StructuralCausalModel) -> None:
    do = resolve([Intervention("age", 30.0), Intervention("sex", "F")], VALUES, scm)
    assert column(do, "age") == [30, 30]
    assert column(do, "sex") == [0, 0]
    assert resolve([], VALUES, scm).isnan().all()


@pytest.mark.parametrize(
    ("interventions", "code"),
    [
        ([Intervention("age", 1.0), Intervention("age", 2.0)], Code.DUPLICATE),
        ([Intervention("agee", 1.0)], Code.UNKNOWN),
        ([Intervention("sex", 20.0, "percent")], Code.INVALID),
        ([Intervention("sex", 1.0)], Code.INVALID),
        ([Intervention("sex", "X")], Code.UNKNOWN),
        ([Intervention("age", "old")], Code.INVALID),
        ([Intervention("age", math.nan)], Code.OUT_OF_RANGE),
        ([Intervention("age", 1e300)], Code.OUT_OF_RANGE),
        ([Intervention("age", 3e38, "sd")], Code.OUT_OF_RANGE),
        ([Intervention("heart_area", -100.0, "percent")], Code.OUT_OF_RANGE),
        ([Intervention("heart_area", -20.0, "sd")], Code.OUT_OF_RANGE),
    ],
)
def test_resolve_says_what_is_wrong(scm: StructuralCausalModel, interventions: list[Intervention], code: Code) -> None:
    with refused(InterventionError, code, interventions[0].variable):
        resolve(interventions, VALUES, scm)


def test_a_variable_that_may_be_zero_can_be_set_to_it_but_not_changed_by_a_share_of_it() -> None:
    variables = VARIABLES | {"heart_area": Variable(kind="continuous", scale="log", zero_inflated=True)}
    values = torch.cat([VALUES, VALUES[:1]])
    values[2, 2] = 0
    model = StructuralCausalModel(variables, SCMSpec(steps=1))
    model.set_statistics(values)
    for intervention, expected in (
        (Intervention("heart_area", 0.0), [0, 0, 0]),
        (Intervention("heart_area", 500.0, "add"), [8500, 10500, 500]),
    ):
        assert column(resolve([intervention], values, model), "heart_area") == expected
    assert column(resolve([Intervention("heart_area", -100.0, "percent")], VALUES, model), "heart_area") == [0, 0]
    for intervention, code in (
        (Intervention("heart_area", 20.0, "percent"), Code.CONFLICT),
        (Intervention("heart_area", -500.0, "add"), Code.OUT_OF_RANGE),
    ):
        with refused(InterventionError, code, "heart_area"):
            resolve([intervention], values, model)


def test_relative_change_of_a_missing_value(scm: StructuralCausalModel) -> None:
    values = VALUES.clone()
    values[0, 1] = math.nan
    with refused(InterventionError, Code.MISSING, "age"):
        resolve([Intervention("age", 5.0, "add")], values, scm)
    assert column(resolve([Intervention("age", 50.0)], values, scm), "age") == [50, 50]
