"""Conditional independence, what a graph implies, and which graphs data suggest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refused import refused
from segcft.causal.discover import discover
from segcft.causal.falsify import falsify, implied
from segcft.causal.independence import IndependenceTest
from segcft.config.variable import Variable
from segcft.errors import Code, StudyError
from segcft.pipeline.graph import check_graph, render_check, write_check
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress

NUMBER, SEX = Variable(kind="continuous"), Variable(kind="categorical", categories=("F", "M"))
NAMES, KINDS = ["sex", "age", "a", "b", "c"], [SEX, NUMBER, NUMBER, NUMBER, NUMBER]
PARENTS = {"sex": (), "age": (), "a": ("sex", "age"), "b": ("sex", "age"), "c": ("a", "b")}


def people(n: int, seed: int = 0, tie: float = 0.0) -> np.ndarray:
    """Samples of :data:`PARENTS`, whose a and b have an unknown cause in common with ``tie``."""
    rng = np.random.default_rng(seed)
    sex, age = (rng.random(n) < 0.5).astype(float), rng.normal(size=n)
    deep = tie * rng.normal(size=n)
    a = sex + np.tanh(age) + deep + 0.5 * rng.normal(size=n)
    b = -sex + 0.5 * age * age + deep + 0.5 * rng.normal(size=n) * (1 + sex)
    return np.stack([sex, age, a, b, a + b + rng.normal(size=n)], axis=1)


# --- the test -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [60, 400])
def test_what_is_independent_is_seldom_called_dependent(n: int) -> None:
    false = np.zeros(3)
    for seed in range(200):
        test = IndependenceTest(people(n, seed), KINDS)
        false += [test.p(0, 1) < 0.05, test.p(2, 3, [0, 1]) < 0.05, test.p(0, 4, [2, 3]) < 0.05]
    # 10 are expected; 26 have a probability below 1e-5. Of few samples not every bend is fitted.
    assert (false <= 26).all()


def test_what_is_dependent_is_seen_and_no_order_matters() -> None:
    test = IndependenceTest(people(1000), KINDS)
    for a, b, others in ((0, 2, ()), (1, 3, (0,)), (2, 3, (0, 1, 4)), (2, 4, (3,))):
        assert test.p(a, b, others) < 1e-3
        assert test.p(b, a, others[::-1]) == test.p(a, b, others)


def test_missing_values_and_what_does_not_vary_are_no_evidence() -> None:
    values = people(300)
    whole = IndependenceTest(values, KINDS).p(2, 3, [0])
    more = np.concatenate([values, np.where(np.arange(5) == 3, np.nan, values[:100])])
    assert IndependenceTest(more, KINDS).p(2, 3, [0]) == pytest.approx(whole)
    assert IndependenceTest(np.where(np.arange(5) == 3, 1.0, values), KINDS).p(2, 3) == 1
    assert IndependenceTest(values[:3], KINDS).p(2, 3, [0]) == 1


# --- what a graph implies -----------------------------------------------------------------------------------


def test_what_known_graphs_imply() -> None:
    chain = {"x": (), "y": ("x",), "z": ("y",)}
    assert implied(chain) == [("x", "z", ("y",))]
    collider = {"x": (), "y": (), "z": ("x", "y")}
    assert implied(collider) == [("x", "y", ())]
    assert implied(collider, [("x", "y")]) == []
    assert implied(chain, [("x", "z")]) == []
    assert set(implied(PARENTS)) == {
        ("sex", "age", ()),
        ("a", "b", ("sex", "age")),
        ("sex", "c", ("a", "b")),
        ("age", "c", ("a", "b")),
    }


@given(st.integers(2, 5), st.data())
@settings(max_examples=30, deadline=None)
def test_a_whole_graph_implies_nothing_and_an_empty_one_that_all_are_apart(size: int, data: st.DataObject) -> None:
    names = data.draw(st.permutations([f"v{k}" for k in range(size)]))
    whole = {name: tuple(names[:k]) for k, name in enumerate(names)}
    assert implied({name: whole[name] for name in data.draw(st.permutations(names))}) == []
    assert len(implied(dict.fromkeys(names, ()))) == size * (size - 1) // 2


def test_the_right_graph_is_not_falsified_and_a_wrong_one_is() -> None:
    test = IndependenceTest(people(2000), KINDS)
    right = falsify(PARENTS, (), test)
    assert not right.violated
    assert right.as_good == 0
    assert right.compared + right.equivalent == 119
    wrong = falsify({"c": (), "b": (), "a": ("c", "b"), "age": ("c", "b"), "sex": ("a", "age")}, (), _turned(test))
    assert wrong.violated


@pytest.mark.parametrize(
    "parents", [{"a": (), "b": ("a",), "c": (), "d": ("c",)}, {"a": (), "b": ("a",), "c": ()}, {"a": (), "b": ("a",)}]
)
def test_graphs_that_no_data_tell_apart_are_no_rivals(parents: dict[str, tuple[str, ...]]) -> None:
    rng, values = np.random.default_rng(0), dict[str, np.ndarray]()
    for name, causes in parents.items():
        values[name] = rng.normal(size=3000) + sum((values[cause] for cause in causes), np.zeros(3000))
    test = IndependenceTest(np.stack(list(values.values()), axis=1), [NUMBER] * len(parents))
    found = falsify(parents, (), test)
    assert found.as_good == 0
    assert found.equivalent > 0


def _turned(test: IndependenceTest) -> IndependenceTest:
    order = [4, 3, 2, 1, 0]
    return IndependenceTest(test.values[:, order], [test.variables[k] for k in order])


def test_an_unknown_common_cause_falsifies_until_it_is_said() -> None:
    test = IndependenceTest(people(2000, tie=1.0), KINDS)
    assert [(one.first, one.second) for one in falsify(PARENTS, (), test).violated] == [("a", "b")]
    assert not falsify(PARENTS, [("a", "b")], test).violated


# --- discovery ----------------------------------------------------------------------------------------------


def test_a_known_graph_is_found_again() -> None:
    pytest.importorskip("causallearn", reason="the extra 'graph' is not installed")
    values = people(1500)
    owners = [str(k) for k in range(len(values))]
    edges = discover(values, owners, NAMES, KINDS, [["sex", "age"], ["a", "b", "c"]], parts=8)
    found = {(edge.first, edge.second): edge for edge in edges}
    assert len(found) == 10
    true = [(cause, name) for name, causes in PARENTS.items() for cause in causes]
    for pair, edge in found.items():
        assert edge.found > 0.9 if pair in true else edge.found < 0.5, edge
    for pair in true[:4]:  # of another tier
        assert found[pair].forward > 0.9
    assert all(0 <= edge.open <= 1 for edge in edges)


# --- the command --------------------------------------------------------------------------------------------


def test_a_run_is_checked_and_written_down(small_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("causallearn", reason="the extra 'graph' is not installed")
    study, store = small_run.study, small_run.store()
    check = check_graph(study, store, 3, None, 0, Progress())
    write_check(check, tmp_path)
    record: dict[str, Any] = json.loads((tmp_path / "graph.json").read_text())
    assert record["samples"] == len(store.indices("train", complete=True))
    assert len(record["edges"]) == len(study.variables) * (len(study.variables) - 1) // 2
    assert (tmp_path / "graph.md").read_text() == render_check(check)
    with Image.open(tmp_path / "graph.png") as picture:
        assert min(picture.size) > 100
    for edge in check.edges:
        assert (check.in_graph(edge) == "->") == (edge.first in study.variables[edge.second].parents)
    again = check_graph(study, store, 0, None, 0, Progress())
    assert again.edges == ()
    assert again.falsification == check.falsification


def test_tiers_have_every_variable_once(small_run: Run) -> None:
    with refused(StudyError, Code.INVALID, "--tiers"):
        check_graph(small_run.study, small_run.store(), 0, [["sex"], ["age"]], 0, Progress())
