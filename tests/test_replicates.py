"""A study trained several times: what differs, what is shared, and intervals over people and trainings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from refused import refused
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.errors import Code, RunError, SegcftError
from segcft.evaluate.folded import Fold
from segcft.evaluate.replicated import LEVEL, mean_of_trainings, render_signs, replicated_rows
from segcft.evaluate.scores import Key, Row
from segcft.pipeline.folds import in_folds
from segcft.pipeline.replicates import SEEDED, replicate, run_replicates
from segcft.pipeline.run import Run
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress
from tests.conftest import changed, small_mapping
from tests.test_folds import SHORT
from tests.test_pipeline import Notes, times

# --- the interval ---


def test_of_trainings_that_agree_the_interval_is_that_of_people() -> None:
    random = np.random.default_rng(0)
    values = random.normal(3, 2, 400)
    found = mean_of_trainings(np.stack([values] * 4), np.ones((4, 400)))
    assert found.value == pytest.approx(values.mean())
    half = t.ppf((1 + LEVEL) / 2, 399) * values.std(ddof=1) / 20
    assert found.high - found.value == pytest.approx(half, rel=1e-3)
    assert found.value - found.low == pytest.approx(half, rel=1e-3)


def test_of_people_who_are_alike_it_is_that_of_trainings() -> None:
    means = np.array([1.0, 2.0, 4.0])
    found = mean_of_trainings(np.repeat(means[:, None], 50, axis=1), np.ones((3, 50)))
    assert found.value == pytest.approx(7 / 3)
    half = t.ppf((1 + LEVEL) / 2, 2) * means.std(ddof=1) / 3**0.5
    assert found.high - found.value == pytest.approx(half)


def test_it_holds_for_new_people_and_new_trainings() -> None:
    """Of 600 experiments with effects of both, about 95 % of the intervals hold the true mean."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(600):
        people, trainings = random.normal(0, 1, 40), random.normal(0, 0.3, 5)
        values = 10 + people + trainings[:, None] + random.normal(0, 0.5, (5, 40))
        found = mean_of_trainings(values, np.ones_like(values))
        held += found.low <= 10 <= found.high
    assert 0.92 < held / 600 < 0.985  # 95 % +- 3.5 standard errors, and it is a little wide


def test_weights_count_and_who_has_none_does_not() -> None:
    values, weights = np.array([[1.0, 5.0, 99.0], [2.0, 8.0, 99.0]]), np.array([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    found = mean_of_trainings(values * weights, weights)
    assert found.value == pytest.approx((2.0 + 5.0) / 2)
    alone = mean_of_trainings((values * weights)[:1], weights[:1])
    assert alone.value == pytest.approx(2.0)
    assert np.isnan(alone.low)
    assert np.isnan(mean_of_trainings(values * 0, weights * 0).value)


def training(name: str, value: float, correlation: float) -> Fold:
    """Two people's errors, and a row that is of no single samples."""
    key = Key("segmentor - regressor", "heart_area", "heart", "mape", True)
    scores = pd.DataFrame([{**key._asdict(), "id": i, "patient": i, "weight": 1.0} for i in "ab"])
    scores["value"] = [value - 1, value + 1]
    rows: list[Row] = [{**key._asdict(), "value": value, "ci_low": 0.0, "ci_high": 0.0, "n": 2}]
    other = Key("guide: segmentor", "", "heart", "error correlation", False)
    rows.append({**other._asdict(), "value": correlation, "ci_low": 0.0, "ci_high": 0.0, "n": 2})
    return Fold(name, scores, rows)


def test_rows_are_means_of_trainings_and_signs_are_counted(small_study: Study) -> None:
    trainings = [training("seed-1", -2.0, 0.5), training("seed-2", -3.0, 0.7), training("seed-3", 1.0, 0.6)]
    error, correlation = replicated_rows(trainings)
    assert error["value"] == pytest.approx(-4 / 3)
    assert error["ci_low"] < -3 < 1 < error["ci_high"]  # three trainings that differ so much tell little
    assert correlation["value"] == pytest.approx(0.6)
    assert correlation["ci_low"] is None
    lines = render_signs(trainings, [error, correlation], small_study).splitlines()
    (cells,) = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "MAPE" in line or "error" in line)
    assert cells[1:] == ["", "", "2", ""]


# --- what is trained ---


def seeds(study: Study) -> dict[str, int]:
    return {name: getattr(study, name).seed for name in SEEDED if getattr(study, name, None) is not None}


def test_the_first_is_the_study_and_the_others_differ_in_their_seeds_alone(small_study: Study) -> None:
    first, second = replicate(small_study, 1), replicate(small_study, 2)
    assert first.model_copy(update={"name": small_study.name}) == small_study
    assert not set(seeds(first).items()) & set(seeds(second).items())
    back = {name: getattr(second, name).model_copy(update={"seed": seed}) for name, seed in seeds(first).items()}
    back["evaluation"] = first.evaluation  # whose people stay
    assert second.evaluation.people_seed == first.evaluation.seed
    assert second.model_copy(update=back | {"name": first.name}) == first
    assert second.judge == first.judge


def test_seeds_of_no_training_are_those_of_the_judge(small_study: Study) -> None:
    far = small_study.judge.model_copy(update={"seed": small_study.segmentor.seed + 1000})
    study = small_study.model_copy(update={"judge": far})
    for number in (2, 3):
        assert replicate(study, number).judge.seed not in seeds(replicate(study, number)).values()


def test_a_study_is_trained_several_times_and_judged_as_one(tmp_path: Path, undrawn: None) -> None:
    study, notes = parse_study(changed(small_mapping(), SHORT | {"data.people": 60, "evaluation.people": 6})), Notes()
    rows = run_replicates(study, 2, tmp_path / "runs", make_fabric("cpu"), progress=notes)
    runs = [Run(tmp_path / "runs" / f"seed-{k}") for k in (1, 2)]
    judges = [run.path("judge").stat().st_ino for run in runs]
    assert judges[0] == judges[1]  # one file: it is trained once
    stores = [(run.folder / "store" / "images.u8").stat().st_ino for run in runs]
    assert stores[0] == stores[1]
    judged = [set(pd.read_parquet(run.evaluation / "scores.parquet")["id"]) for run in runs]
    assert len(judged[0]) == 6 < len(runs[0].store().indices("test"))
    assert judged[0] == judged[1]
    table = {tuple(row[field] for field in Key._fields): row for row in rows}
    each = [json.loads((run.evaluation / "table.json").read_text()) for run in runs]
    own = [{tuple(row[field] for field in Key._fields): row["value"] for row in one} for one in each]
    compared = 0
    for key, row in table.items():
        known = [one[key] for one in own]
        if None not in known and row["value"] is not None:
            assert row["value"] == pytest.approx(np.mean(known), rel=1e-6, abs=1e-9)
            compared += 1
    assert compared > 100
    folder = tmp_path / "runs" / "evaluation"
    assert json.loads((folder / "table.json").read_text()) == rows
    assert "2 trainings" in (folder / "table.md").read_text()
    assert set(pd.read_parquet(folder / "scores.parquet")["training"]) == {"seed-1", "seed-2"}
    before = times(runs[1].folder)
    notes = Notes()
    assert run_replicates(study, 2, tmp_path / "runs", make_fabric("cpu"), progress=notes) == rows
    assert notes.made == []
    assert times(runs[1].folder) == before


def test_what_the_studys_own_run_has_made_is_not_made_again(small_run: Run, tmp_path: Path, undrawn: None) -> None:
    shutil.copytree(small_run.folder, tmp_path / "own")
    failing = small_run.study.model_copy(
        update={"finetune": small_run.study.finetune.model_copy(update={"gradient_skip": 1e-9, "checkpoint_steps": 2})}
    )
    notes = Notes()
    with refused(SegcftError, Code.FAILED, "runs"):
        run_replicates(failing, 2, tmp_path / "runs", make_fabric("cpu"), progress=notes, own=Run(tmp_path / "own"))
    first = Run(tmp_path / "runs" / "seed-1")
    for part in ("segmentor", "judge", "regressor", "scm", "hvae"):
        assert first.path(part).stat().st_ino == Run(tmp_path / "own").path(part).stat().st_ino
    assert not (tmp_path / "runs" / "evaluation").exists()


def test_a_run_is_not_overwritten(small_run: Run, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "own")
    before = times(tmp_path / "own")
    with refused(RunError, Code.EXISTS, "own"):
        run_replicates(small_run.study, 2, tmp_path / "own", make_fabric("cpu"), progress=Progress())
    assert times(tmp_path / "own") == before


@pytest.mark.parametrize(("change", "field"), [({"seeds": 1}, "--seeds"), ({"folds": 3}, "splits.folds")])
def test_what_makes_no_sense_is_refused(small_study: Study, tmp_path: Path, change: dict[str, Any], field: str) -> None:
    study = in_folds(small_study, change["folds"]) if "folds" in change else small_study
    with pytest.raises(RunError) as told:
        run_replicates(study, change.get("seeds", 2), tmp_path / "runs", make_fabric("cpu"), progress=Progress())
    assert told.value.field == field
    assert not (tmp_path / "runs").exists()


def test_the_command_line_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replicate", str(tmp_path / "none.yaml"), "--seeds", "2"]) == 1
    assert "none.yaml" in capsys.readouterr().err
