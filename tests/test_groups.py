"""Figures of groups of subjects: who is in which, and that a group is judged as all are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from refused import refused
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.errors import Code, StudyError
from segcft.evaluate.evaluation import write_outcome
from segcft.evaluate.groups import FEWEST, groups_of, write_groups
from segcft.evaluate.names import JUDGE
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress
from tests.conftest import changed, small_mapping


def grouped(*names: str) -> Study:
    return parse_study(changed(small_mapping(), {"evaluation.groups": list(names)}))


def test_everybody_is_in_the_group_of_each_value(small_run: Run) -> None:
    store, study = small_run.store(), grouped("sex", "age")
    rows = store.indices("test")
    found = groups_of(study, store, rows)
    table = store.table.iloc[rows].set_index("id")
    assert list(found) == ["sex", "age"]
    for sex, ids in found["sex"].items():
        assert set(ids) == set(table.index[table["sex"] == sex])
    low, high = (table.loc[list(ids), "age"] for ids in found["age"].values())
    if low.mean() > high.mean():
        low, high = high, low
    assert low.max() <= high.min()
    assert len(low) + len(high) == len(rows)


def test_too_few_patients_are_no_group(small_run: Run) -> None:
    store, study = small_run.store(), grouped("sex")
    assert groups_of(study, store, store.indices("test")[: FEWEST - 1]) == {"sex": {}}
    assert groups_of(small_run.study, store, store.indices("test")) == {}


def test_a_group_of_all_has_the_rows_of_all(small_run: Run, tmp_path: Path) -> None:
    scores = pd.read_parquet(small_run.evaluation / "scores.parquet")
    ids = scores["id"].unique()
    half = ids[: len(ids) // 2]
    text = write_groups(scores, {"who": {"all": ids, "some": half}}, small_run.study, tmp_path)
    assert "who: all" in text
    rows = json.loads((tmp_path / "groups.json").read_text())
    table = json.loads((small_run.evaluation / "table.json").read_text())
    key = ("method", "intervention", "structure", "metric")
    whole = {tuple(row[name] for name in key): row for row in table}
    of_all = [row for row in rows if row["of"] == "all"]
    assert len(of_all) > 1
    for row in of_all:
        assert row["value"] == pytest.approx(whole[tuple(row[name] for name in key)]["value"])
        assert row["intervened"] or row["method"] == JUDGE
    errors = {row["of"]: row["value"] for row in rows if row["method"] == JUDGE and row["structure"] == "heart"}
    judged = scores[(scores["method"] == JUDGE) & (scores["structure"] == "heart") & (scores["metric"] == "mape")]
    assert errors["some"] == pytest.approx(judged[judged["id"].isin(half)]["value"].mean())


def test_without_groups_nothing_is_written(small_run: Run, tmp_path: Path) -> None:
    scores = pd.read_parquet(small_run.evaluation / "scores.parquet")
    assert write_groups(scores, {}, small_run.study, tmp_path) == ""
    assert not list(tmp_path.iterdir())
    assert "groups" not in small_run.study.evaluation.model_dump()


def test_a_group_must_be_of_something_that_is_known() -> None:
    with refused(StudyError, Code.INVALID):
        grouped("weight")


def test_an_evaluation_has_the_tables_of_its_groups(small_run: Run, tmp_path: Path) -> None:
    scores = pd.read_parquet(small_run.evaluation / "scores.parquet")
    rows = json.loads((small_run.evaluation / "table.json").read_text())
    study, store = grouped("sex"), small_run.store()
    groups = groups_of(study, store, np.flatnonzero(store.table["id"].isin(scores["id"])))
    write_outcome(study, scores, rows, tmp_path, groups=groups, progress=Progress())
    text = (tmp_path / "table.md").read_text()
    for sex in groups["sex"]:
        assert f"sex: {sex}" in text
