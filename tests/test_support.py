"""The range of training people: what a few values far off do not widen, and what they do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segcft.api.model import Model
from segcft.app.catalogue import Catalogue
from segcft.config.variable import Variable
from segcft.counterfactual.support import all_limits, limits
from segcft.counterfactual.warnings import out_of_support
from segcft.pipeline.run import Run
from tests.conftest import MODELS

PEOPLE = sorted(path.parent for path in MODELS.glob("*/people.csv"))
NUMBER = Variable(kind="continuous")
LOG = Variable(kind="continuous", scale="log", zero_inflated=True)


@pytest.mark.parametrize("wrong", [[300], [300, 411, 999], [-999], [-999, 1e6], [300] * 5])
def test_a_few_values_far_off_make_none_between_an_ordinary_one(wrong: list[float]) -> None:
    ages = np.linspace(20, 90, 100)
    assert limits(NUMBER, np.array([*ages, *wrong, math.nan])) == (20, 90)


def test_many_people_far_off_are_people() -> None:
    values = np.concatenate([np.linspace(20, 90, 60), np.full(10, 300.0)])
    assert limits(NUMBER, values) == (20, 300)
    assert limits(NUMBER, np.array([1.0, 50.0])) == (1, 50)
    assert limits(NUMBER, np.array([1.0] * 50 + [7.0])) == (1, 7)  # no spread to compare a gap with


def test_zero_is_ordinary_on_a_logarithmic_scale() -> None:
    values = np.concatenate([np.zeros(30), np.geomspace(1, 100, 70), [1e9]])
    assert limits(LOG, values) == (0, 100)
    assert limits(LOG, np.zeros(4)) == (0, 0)
    assert limits(LOG, np.geomspace(1, 100, 70)) == (1, 100)


def test_those_who_have_none_do_not_make_the_others_rare() -> None:
    """Of most people the pack years are 0; those of the others are spread as ever."""
    smokers = np.array([2.0, 4, 5, 7, 10, 12, 15, 20, 25, 30, 40, 55])
    assert limits(NUMBER, np.concatenate([np.zeros(30), smokers])) == (0, 55)
    assert limits(NUMBER, np.concatenate([np.zeros(30), smokers, [999]])) == (0, 55)


def test_categories_are_all_there() -> None:
    kinds = Variable(kind="categorical", categories=("a", "b", "c"))
    assert limits(kinds, np.array([0.0] * 99 + [2.0])) == (0, 2)


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)), st.sampled_from([1, 3]))
def test_at_most_a_few_are_left_out(values: np.ndarray, copies: int) -> None:
    values = np.repeat(values, copies)
    low, high = limits(NUMBER, values)
    assert values.min() <= low <= high <= values.max()
    few = math.ceil(0.05 * len(values))
    assert (values < low).sum() <= few
    assert (values > high).sum() <= few


@pytest.mark.parametrize("folder", PEOPLE, ids=lambda path: path.name)
def test_no_false_alarm_on_the_people_of_the_models(folder: Path) -> None:
    run = Run(folder)
    people = run.training_values([])
    low, high = all_limits(run.study.variables, people)
    assert ((people >= low) & (people <= high)).all()
    for seed in range(50):  # nor on as many as few images have
        few = np.random.default_rng(seed).choice(people, 60, replace=False)
        low, high = all_limits(run.study.variables, few)
        assert ((few >= low) & (few <= high)).all()


def test_one_wrong_age_silences_no_warning_and_widens_no_slider() -> None:
    model = Model(MODELS / "chest-sim")
    study, people = model.study, model.people.clone()
    k = list(study.variables).index("age")
    people[7, k] = 300
    asked = torch.full_like(people[0], torch.nan)
    asked[k] = 150
    after = people[0].clone()
    after[k] = 150
    warnings = out_of_support(study, dict.fromkeys(study.variables, "given"), people[0], asked, after, people)
    assert any(text.startswith("age: 150 (asked for)") for text in warnings)
    catalogue = Catalogue([MODELS / "chest-sim"])
    before = next(one for one in catalogue.describe("chest-sim")["variables"] if one["name"] == "age")
    catalogue["chest-sim"].people[7, k] = 300
    now = next(one for one in catalogue.describe("chest-sim")["variables"] if one["name"] == "age")
    assert (now["low"], now["high"]) == (before["low"], before["high"])
