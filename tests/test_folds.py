"""Folds: who is in which, that everybody is judged once by parts that have not seen them, and the table of all."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import segcft
from refused import refused
from segcft.cli import main
from segcft.config.sources import Splits
from segcft.config.study import Study
from segcft.data.resplit import resplit
from segcft.data.splits import PARTS, parts_of
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError, SegcftError, StudyError
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import lent
from segcft.evaluate.folded import Fold, all_rows, all_scores, render_spread
from segcft.evaluate.scores import Row, Scores
from segcft.importers.simulated import import_simulated
from segcft.pipeline.folds import in_folds, require_folder, run_folds, runs_of
from segcft.pipeline.importing import import_samples
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.report.page import render_report
from segcft.report.results import Result, render_results
from segcft.training.loop import make_fabric
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress
from tests.conftest import MakeStudy, changed, small_mapping
from tests.test_pipeline import Notes, times
from tests.test_training import Begun, same, tensors_of, wait_for

CPU = torch.device("cpu")
SHORT = {
    "data.people": 24,
    "splits": {"train": 0.7, "validation": 0.1, "test": 0.2},
    **{f"{part}.steps": 4 for part in ("segmentor", "judge", "regressor", "scm", "hvae")},
    "hvae.checkpoint_steps": 2,
    "finetune.steps": 2,
    "evaluation.figure_people": 3,
}
"""The small study, shorter still: what it learns does not matter here."""


# --- who is in which fold ---

patients = st.sets(st.text("abc012", min_size=1, max_size=4), min_size=6, max_size=60)


@given(patients, st.integers(2, 6), st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.25]), st.randoms())
def test_everybody_is_tested_once_and_folds_are_as_even_as_people_allow(
    people: set[str], folds: int, seed: int, validation: float, random: Any
) -> None:
    drawn = []
    for fold in range(1, folds + 1):
        splits = Splits(train=0.8 - validation, validation=validation, test=0.2, seed=seed, folds=folds, fold=fold)
        parts = parts_of(people, splits)
        assert parts.keys() == people
        order = list(people)
        random.shuffle(order)
        assert parts_of([*order, *order], splits) == parts  # several images of one patient, in any order
        counts = {part: list(parts.values()).count(part) for part in PARTS}
        rest = len(people) - counts["test"]
        assert counts["validation"] == (max(1, round(validation / 0.8 * rest)) if validation else 0)
        assert counts["train"] >= 1
        drawn.append({patient for patient, part in parts.items() if part == "test"})
    assert set().union(*drawn) == people
    assert sum(map(len, drawn)) == len(people)  # so no patient is in two folds' tests
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1


def test_another_seed_draws_other_folds() -> None:
    people = [f"p{k}" for k in range(40)]
    one, other = (parts_of(people, Splits(folds=5, fold=1, seed=seed)) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize(("people", "folds"), [(1, 2), (4, 5), (2, 2)])
def test_too_few_patients_are_refused(people: int, folds: int) -> None:
    with refused(DataError, Code.OUT_OF_RANGE, "splits.folds"):
        parts_of([f"p{k}" for k in range(people)], Splits(folds=folds, fold=1))


@pytest.mark.parametrize("splits", [{"folds": 1}, {"fold": 1}, {"folds": 3, "fold": 4}, {"folds": 3, "fold": 0}])
def test_wrong_folds_are_refused_in_a_study(splits: dict[str, int], make_small_study: MakeStudy) -> None:
    with pytest.raises(StudyError) as told:
        make_small_study({"splits": splits})
    assert "splits" in told.value.field


def test_a_split_that_the_table_gives_leaves_no_folds(make_small_study: MakeStudy) -> None:
    masks = {f"structures.{name}.label": k for k, name in enumerate(("left_lung", "right_lung", "heart"), start=1)}
    study = make_small_study({"data": {"source": "folder", "split": "part"}} | masks)
    with refused(StudyError, Code.INVALID, "data.split"):
        in_folds(study, 5)


def test_a_fold_has_no_folds_and_a_study_without_any_is_written_as_before(small_study: Study, tmp_path: Path) -> None:
    assert not {"folds", "fold"} & small_study.model_dump()["splits"].keys()
    whole = in_folds(small_study, 3)
    runs = runs_of(Run(tmp_path, whole))
    assert [(run.study.name, run.study.splits.fold) for run in runs] == [(f"small-fold-{k}", k) for k in (1, 2, 3)]
    assert runs_of(runs[0]) == [runs[0]]
    with refused(StudyError, Code.CONFLICT, "splits.fold"):
        in_folds(runs[0].study, 3)


# --- the samples ---


@pytest.fixture(scope="module")
def samples(make_small_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of a dozen people, all of them to be tested."""
    study = in_folds(make_small_study({"data.people": 12}), 3)
    return import_simulated(study, tmp_path_factory.mktemp("samples") / "store")


def test_the_same_samples_in_other_parts(samples: Store, small_study: Study, tmp_path: Path) -> None:
    assert set(samples.table["split"]) == {"test"}
    parts = parts_of(samples.table["patient"], Splits(folds=3, fold=2))
    store = resplit(samples, parts, tmp_path / "store")
    assert dict(zip(store.table["patient"], store.table["split"], strict=True)) == parts
    store.verify()
    store.require(small_study)
    assert store.fingerprint == store.fingerprint_with(store.table) != samples.fingerprint
    for name in ("images.u8", "masks.u8", "rejected.csv", "warnings.csv"):
        assert (store.folder / name).stat().st_ino == (samples.folder / name).stat().st_ino
    again = resplit(store, dict.fromkeys(parts, "test"), store.folder)  # in its place
    assert again.fingerprint == samples.fingerprint
    again.verify()
    pd.testing.assert_frame_equal(again.table, samples.table)


def test_a_study_of_one_fold_imports_its_samples_itself(make_small_study: MakeStudy, tmp_path: Path) -> None:
    study = make_small_study({"data.people": 12, "splits": {"folds": 3, "fold": 2}})
    run = Run(tmp_path, study)
    assert import_samples(run, None, Progress())
    table = run.store(verify=True).table
    assert dict(zip(table["patient"], table["split"], strict=True)) == parts_of(table["patient"], study.splits)
    assert not import_samples(run, None, Progress())


def test_folds_ask_together_what_one_evaluation_asks(
    samples: Store, make_small_study: MakeStudy, tmp_path: Path
) -> None:
    study = in_folds(make_small_study({"data.people": 12}), 3)
    rows = samples.indices("test", complete=True)
    whole = Cohort.choose(study, samples, rows, CPU)
    asked = dict(zip(whole.named("id"), lent(whole, "heart_area").tolist(), strict=True))
    found: dict[str, float] = {}
    for run in runs_of(Run(tmp_path, study)):
        store = resplit(samples, parts_of(samples.table["patient"], run.study.splits), run.folder / "store")
        cohort = Cohort.choose(run.study, store, store.indices("test", complete=True), CPU)
        found |= zip(cohort.named("id"), lent(cohort, "heart_area").tolist(), strict=True)
    assert found == asked
    assert sorted(asked.values()) == sorted(samples.table["heart_area"].astype(np.float32).tolist())


# --- the table of all ---


def scores_of(values: dict[str, float], slopes: dict[str, float]) -> Scores:
    """Errors and weighted slopes of one structure under an intervention on it, by sample."""
    scores = Scores()
    about: dict[str, Any] = {"intervention": "heart_area", "structure": "heart", "intervened": True}
    scores.add("segmentor", "mape", torch.tensor(list(values.values())), **about)
    weights = torch.arange(1.0, 1 + len(slopes))
    scores.add("segmentor", "slope", torch.tensor(list(slopes.values())), weights=weights, **about)
    return scores


def fold_of(name: str, values: dict[str, float], slopes: dict[str, float], *more: Row) -> Fold:
    scores, people = scores_of(values, slopes), [id.partition("-")[0] for id in values]
    rows = scores.rows(people, draws=40, seed=0)
    return Fold(name, scores.by_sample(list(values), people), [*rows, *more])


def test_rows_of_all_are_those_of_their_samples(make_small_study: MakeStudy) -> None:
    study = make_small_study({"evaluation.bootstrap": 40})
    correlation = {"method": "judge", "metric": "kin", "intervention": "", "structure": "heart", "intervened": False}
    correlation |= {"value": 0.2, "ci_low": 0.1, "ci_high": 0.3, "n": 3}
    nothing = float("nan")
    folds = [
        fold_of("fold-1", {"a-1": 1.0, "a-2": 2.0, "b-1": 6.0}, {"a-1": 0.5, "a-2": 0.7, "b-1": 1.0}, correlation),
        fold_of("fold-2", {"c-1": 5.0}, {"c-1": nothing}, correlation | {"value": 0.6, "n": 1}),
    ]
    rows = {(row["metric"]): row for row in all_rows(folds, study)}
    assert set(rows) == {"mape", "slope", "kin"}
    assert (rows["mape"]["value"], rows["mape"]["n"]) == (pytest.approx(3.5), 4)
    assert rows["slope"]["value"] == pytest.approx((0.5 + 2 * 0.7 + 3 * 1.0) / 6, rel=1e-6)
    assert rows["slope"]["n"] == 3
    assert rows["mape"]["ci_low"] <= 3.5 <= rows["mape"]["ci_high"]
    assert (rows["kin"]["value"], rows["kin"]["n"]) == (pytest.approx(0.3), 4)
    assert rows["kin"]["ci_low"] is rows["kin"]["ci_high"] is None
    assert all(set(row) == set(correlation) for row in rows.values())
    json.dumps(list(rows.values()), allow_nan=False)
    table = all_scores(folds)
    names = dict(zip(table["id"], table["fold"], strict=True))
    assert names == {"a-1": "fold-1", "a-2": "fold-1", "b-1": "fold-1", "c-1": "fold-2"}
    (line,) = [line for line in render_spread(folds, study).splitlines() if "Seg-CFT" in line]
    assert [cell.strip() for cell in line.split("|")[3:5]] == ["3.0 to 5.0", "0.82 to 0.82"]


def test_a_result_that_one_fold_lacks_does_not_count_there(make_small_study: MakeStudy) -> None:
    study = make_small_study({"evaluation.bootstrap": 40})
    one, other = fold_of("fold-1", {"a": 1.0}, {"a": 1.0}), fold_of("fold-2", {"b": 3.0}, {"b": 0.5})
    lacking = other._replace(scores=other.scores[other.scores["metric"] == "mape"])
    rows = {row["metric"]: row for row in all_rows([one, lacking], study)}
    assert (rows["mape"]["n"], rows["slope"]["n"]) == (2, 1)
    assert rows["slope"]["value"] == pytest.approx(1.0)


# --- what a run in folds is not ---


def test_what_needs_one_fold_says_so(small_study: Study, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", in_folds(small_study, 2))
    for needs in (run.methods, lambda: run.load("scm"), lambda: Pipeline(run, make_fabric("cpu"))):
        with refused(RunError, Code.UNSUPPORTED, run.folder):
            needs()


def test_a_folder_keeps_its_folds(small_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, in_folds(small_study, 3))
    require_folder(run)
    run.write_study()
    require_folder(Run(tmp_path))
    for study in (small_study, in_folds(small_study, 2)):
        with refused(RunError, Code.EXISTS, tmp_path):
            require_folder(Run(tmp_path, study))
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_mapping(), sort_keys=False), encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert main(["run", str(path), "--folds", "2", "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert main(["run", str(path), "--folds", "3", "--devices", "2", "--out", str(tmp_path)]) == 1
    assert main(["run", str(path), "--folds", "3", "--again", "hvea", "--out", str(tmp_path), "--device", "cpu"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [f"{tmp_path}: it holds a run in 3 folds" in line for line in told] == [True, True, False, False]
    assert "--folds: " in told[2]
    assert "hvea" in told[3]


# --- whole runs ---


def run(folder: Path, study: Study, jobs: int = 1, again: tuple[str, ...] = ()) -> Notes:
    notes = Notes()
    run_folds(Run(folder, study), make_fabric("cpu"), progress=notes, jobs=jobs, again=again)
    return notes


@pytest.fixture(scope="module")
def study(make_small_study: MakeStudy) -> Study:
    return in_folds(make_small_study(SHORT), 2)


@pytest.fixture(scope="module")
def folded(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run in two folds, one after the other; only to be read."""
    folder = tmp_path_factory.mktemp("folds") / "run"
    run(folder, study)
    return Run(folder)


@pytest.mark.slow
def test_every_subject_is_judged_once_by_parts_that_have_not_seen_it(folded: Run) -> None:
    scores = pd.read_parquet(folded.evaluation / "scores.parquet")
    assert scores.groupby("id")["fold"].nunique().eq(1).all()
    assert set(scores["id"]) == set(folded.store().table["id"])
    for fold in runs_of(folded):
        table = fold.store(verify=True).table
        judged = scores.loc[scores["fold"] == fold.folder.name]
        assert set(judged["id"]) == set(table.loc[table["split"] == "test", "id"])
        assert set(table["split"]) == {"train", "validation", "test"}
        own = pd.read_parquet(fold.evaluation / "scores.parquet")
        pd.testing.assert_frame_equal(judged.drop(columns="fold").reset_index(drop=True), own)
        for name in ("images.u8", "masks.u8"):
            assert (fold.folder / "store" / name).samefile(folded.folder / "store" / name)
        for part in fold.parts:  # of these samples, in these parts
            fold.samples_of([part])


@pytest.mark.slow
def test_the_table_of_all_is_of_all_samples(folded: Run) -> None:
    rows: list[Row] = json.loads((folded.evaluation / "table.json").read_text())
    own = json.loads((folded.folder / "fold-1" / "evaluation" / "table.json").read_text())
    assert [set(row) for row in rows] == [set(own[0])] * len(own)
    scores = pd.read_parquet(folded.evaluation / "scores.parquet")
    for row in rows:
        about = (scores[name] == row[name] for name in ("method", "metric", "intervention", "structure"))
        found = scores[np.logical_and.reduce(list(about))].dropna(subset="value")
        found = found[found["weight"] > 0]
        if found.empty:  # of no single samples
            continue
        assert row["n"] == len(found)
        if row["metric"] in ("mape", "slope", "dice", "composition"):
            assert row["value"] == pytest.approx(np.average(found["value"], weights=found["weight"]))
    text = (folded.evaluation / "table.md").read_text()
    assert text.startswith("# small: counterfactuals of 24 ")
    assert "2 folds" in text
    pictures = {path.name for path in (folded.evaluation / "figures").iterdir()}
    assert pictures == {path.name for path in (folded.folder / "fold-1" / "evaluation" / "figures").iterdir()}


@pytest.mark.slow
def test_a_second_time_nothing_is_made_whatever_names_the_run(folded: Run, study: Study) -> None:
    before = times(folded.folder)
    for asked in (study, Run(folded.folder).study):
        assert run(folded.folder, asked).made == []
    assert times(folded.folder) == before
    assert main(["run", str(folded.folder), "--device", "cpu"]) == 0
    assert times(folded.folder) == before


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_fold_is_a_run_like_any_other(folded: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fold = folded.fold(2)
    assert main(["run", str(fold), "--device", "cpu"]) == 0
    assert segcft.load(fold).methods.keys() == {"none", "regressor", "segmentor"}
    shutil.copytree(fold, tmp_path / "fold")
    rows = json.loads((fold / "evaluation" / "table.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "fold"), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert main(["evaluate", str(folded.folder), "--device", "cpu"]) == 1
    assert f"e.g. {folded.fold(1)}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_and_the_results_of_all(folded: Run, tmp_path: Path) -> None:
    page = render_report(folded, CPU)
    assert "fold-2: The judge is not the guide" in page
    assert "does not hold" not in page
    assert "segcft report RUN/fold-1" in page
    assert Result.read(folded.folder).samples["test"] == 24
    assert "each of them in one of 2 folds" in render_results([folded.folder])
    shutil.copytree(folded.folder, tmp_path / "run")
    (tmp_path / "run" / "fold-1" / "evaluation" / "evaluation.json").unlink()  # as `--again evaluate` does first
    with refused(RunError, Code.OTHER, "evaluation"):
        render_report(Run(tmp_path / "run"), CPU)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_fold_that_fails_is_told_and_the_others_go_on(folded: Run, study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folded.folder, folder)
    for fold in (1, 2):
        (folder / f"fold-{fold}" / "cft-segmentor.safetensors").unlink()
    with Lock(folder / "fold-1"), pytest.raises(SegcftError) as told:  # another process works there
        run(folder, study)
    assert (told.value.code, told.value.field) == (Code.FAILED, str(folder))
    assert "\nfold-1: " in told.value.text
    made = [(folder / f"fold-{fold}" / "cft-segmentor.safetensors").is_file() for fold in (1, 2)]
    assert made == [False, True]
    assert "fold-2" not in "".join(run(folder, study).made)
    rows = [json.loads((one / "evaluation" / "table.json").read_text()) for one in (folder, folded.folder)]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_stage_is_made_again_in_all_folds(folded: Run, study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folded.folder, folder)
    notes = run(folder, study, again=("cft-segmentor", "import"))
    made = [line for line in notes.lines if "cft-segmentor: done in" in line]
    assert [line.partition(":")[0] for line in made] == ["fold-1", "fold-2"]
    assert not any("hvae: done in" in line for line in notes.lines)


@pytest.mark.slow
def test_folds_side_by_side_that_were_killed_end_like_those_that_were_not(folded: Run, tmp_path: Path) -> None:
    raw = changed(small_mapping(), SHORT)
    path, folder = tmp_path / "small.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    command = ("run", path, "--folds", 2, "--jobs", 2, "--out", folder)
    begun = Begun(*command)
    wait_for(folder / "fold-1" / "judge.safetensors", begun)
    begun.strike(signal.SIGKILL)
    begun.end()
    assert not (folder / "evaluation").exists()
    assert main([*map(str, command), "--device", "cpu"]) == 0
    for ours, theirs in zip(runs_of(Run(folder)), runs_of(folded), strict=True):
        for part in ours.parts:
            assert same(tensors_of(ours.path(part)), tensors_of(theirs.path(part))), (ours.folder, part)
    for name in ("table.json", "table.md"):
        assert (folder / "evaluation" / name).read_text() == (folded.evaluation / name).read_text()


@pytest.mark.slow
def test_a_fold_that_is_left_over_ends_like_the_others(make_small_study: MakeStudy, tmp_path: Path) -> None:
    """Of three folds on two cores the last one's trainings run side by side."""
    study = in_folds(make_small_study(SHORT), 3)
    notes = run(tmp_path / "two", study, jobs=2)
    assert sum("evaluate: done" in line for line in notes.lines) == 4
    run(tmp_path / "one", study)
    for ours, theirs in zip(runs_of(Run(tmp_path / "two")), runs_of(Run(tmp_path / "one")), strict=True):
        for part in ours.parts:
            assert same(tensors_of(ours.path(part)), tensors_of(theirs.path(part))), (ours.folder, part)
