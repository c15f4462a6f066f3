"""What a run gives away of its training people: figures that are known beforehand, and where they end up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refused import refused
from segcft.cli import main
from segcft.errors import Code, DataError, RunError
from segcft.evaluate.privacy import (
    AUC,
    COPIES,
    KNOWN,
    NEAREST,
    Scored,
    distances,
    figures,
    known_share,
    leaks,
    training_scores_higher,
)
from segcft.pipeline.privacy import judge_privacy, privacy_in_words
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress

numbers = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(-5, 5, width=16))


@given(numbers, numbers)
def test_auc_turns_with_who_trained(first: np.ndarray, second: np.ndarray) -> None:
    turned = training_scores_higher(Scored(second, first))
    assert training_scores_higher(Scored(first, second)) == pytest.approx(1 - turned)
    assert training_scores_higher(Scored(first, first)) == pytest.approx(0.5)
    assert training_scores_higher(Scored(first + 100, second)) == 1


def test_known_for_certain_are_those_above_all_but_a_hundredth() -> None:
    held_out = np.arange(200.0)
    assert known_share(Scored(np.array([0.0, 197, 198.5, 300]), held_out)) == 0.5
    assert known_share(Scored(held_out, held_out)) <= 0.01


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 100, (count, 1, 16, 16), dtype=np.uint8))


def test_a_model_that_copies_is_found_out() -> None:
    """What is drawn are training images with a little noise: all of it, or every fifth."""
    train, held_out, fresh = (pictures(40, seed) for seed in range(3))
    copies = train + pictures(40, 3) // 50
    some = torch.where((torch.arange(40) % 5 == 0)[:, None, None, None], copies, fresh)
    rows = {by: figures({by: distances(drawn, train, held_out)}, {}) for by, drawn in (("all", copies), ("some", some))}
    for by, share in (("all", 1), ("some", 0.2)):
        row = {row["metric"]: row for row in rows[by]}[COPIES]
        assert row["value"] == pytest.approx(share)
        assert row in leaks(rows[by])
    everybody = {row["metric"]: row for row in rows["all"]}[NEAREST]
    assert everybody["value"] == 1
    assert everybody in leaks(rows["all"])


def test_who_did_not_train_is_not_told() -> None:
    """Over many models that have seen nobody, no more are suspected than chance allows."""
    told = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        scored = {name: Scored(random.normal(size=15), random.normal(size=15)) for name in ("a", "b", "c")}
        told += bool(leaks(figures({}, scored, seed)))
    assert told <= 2


def test_distances_are_in_grey_levels() -> None:
    dark, bright = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.full((1, 1, 8, 8), 30, dtype=torch.uint8)
    found = distances(dark, bright, dark)
    assert found.train[0, 0] == pytest.approx(30)
    assert found.held_out[0, 0] == 0


def test_who_was_learnt_by_heart_is_told_by_every_figure() -> None:
    random = np.random.default_rng(1)
    rows = figures({}, {"likelihood": Scored(random.normal(10, 1, 60), random.normal(0, 1, 60))})
    assert [row["value"] for row in rows] == [1, 1]
    assert leaks(rows) == rows
    assert all(row["high"] < row["value"] for row in rows)


@pytest.fixture
def run(small_run: Run, tmp_path: Path) -> Run:
    shutil.copytree(small_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def test_a_card_has_what_was_found(run: Run, tmp_path: Path) -> None:
    assert main(["privacy", str(run.folder), "--people", "16"]) == 0
    said = json.loads((run.folder / "privacy" / "privacy.json").read_text())
    assert {row["metric"] for row in said["rows"]} == {NEAREST, COPIES, AUC, KNOWN}
    assert all(row["low"] <= row["high"] and 0 < row["p"] <= 1 for row in said["rows"])
    publish(run, tmp_path / "model", card="Simulated.")
    assert "## Privacy" in (tmp_path / "model" / "README.md").read_text()
    # Of other weights it says nothing.
    said["keys"] = dict.fromkeys(said["keys"], "other")
    (run.folder / "privacy" / "privacy.json").write_text(json.dumps(said))
    with refused(RunError, Code.OTHER, "privacy.json"):
        publish(run, tmp_path / "model", card="Simulated.")


def test_where_nothing_was_looked_at_nothing_is_said(run: Run) -> None:
    assert privacy_in_words(run, ["cft-segmentor"]) == ""


def test_too_few_people_are_refused(run: Run, tmp_path: Path) -> None:
    with refused(DataError, Code.EMPTY, run.folder / "store"):
        judge_privacy(run, tmp_path / "out", torch.device("cpu"), Progress(), people=5)
