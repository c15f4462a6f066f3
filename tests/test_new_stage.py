"""Stages that are not the package's own: each is what this file has of it, and nothing else knows of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refused import refused
from segcft.cli import main
from segcft.config.study import Study
from segcft.errors import Code, SegcftError
from segcft.pipeline.pool import run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES, Stage
from segcft.pipeline.stages.readers import RegressorStage
from segcft.report.facts import read_parts
from segcft.training import artefact
from segcft.training.loop import make_fabric
from tests.test_pipeline import Notes
from tests.test_training import copy_of


class MeansStage(Stage):
    """Writes the training samples' mean values to ``RUN/means/means.json``."""

    name = "means"

    def make(self, pipeline: Pipeline) -> None:
        store = pipeline.store
        means = store.values()[store.indices("train", complete=True)].mean(axis=0)
        folder = pipeline.run.folder / "means"
        folder.mkdir(exist_ok=True)
        (folder / "means.json").write_text(json.dumps(dict(zip(pipeline.study.variables, means.tolist(), strict=True))))


class SecondOpinionStage(RegressorStage):
    """Trains a second regressor, from another seed."""

    def __init__(self) -> None:
        super().__init__("regressor")
        self.name = "second-opinion"

    def needs(self, study: Study) -> tuple[str, ...]:
        return ("import", "means")

    def spec(self, study: Study) -> Any:
        return study.regressor.model_copy(update={"seed": 5, "steps": 3}) if study.regressor else None


@pytest.fixture
def new_stages() -> Iterator[None]:
    added = {stage.name: stage for stage in (MeansStage(), SecondOpinionStage())}
    for name, stage in added.items():
        STAGES.add(name, stage)
    yield
    for name in added:
        del STAGES._things[name]


@pytest.mark.usefixtures("new_stages")
def test_new_stages_are_run_in_their_place(small_run: Run, tmp_path: Path) -> None:
    run = copy_of(small_run, tmp_path)
    pipeline = Pipeline(run, make_fabric("cpu"), progress=(notes := Notes()))
    stages = list(pipeline.stages)
    assert {*stages} == {"import", *small_run.parts, "means", "second-opinion", "evaluate"}
    assert stages.index("import") < stages.index("means") < stages.index("second-opinion")
    pipeline.run_stage("second-opinion")
    assert notes.made == ["means", "second-opinion"]
    assert json.loads((run.folder / "means" / "means.json").read_text()).keys() == run.study.variables.keys()
    meta = artefact.read_meta(run.path("second-opinion"))
    assert meta["made_from"].keys() == {"import", "means"}
    assert meta["metrics"].keys() >= {"validation_area_error_heart"}
    assert run.load("second-opinion").training is False
    assert "second-opinion" in {part.name for part in read_parts(run)}  # of the report
    (run.folder / "means.json").unlink()
    again = Notes()
    run_all(Pipeline(run, make_fabric("cpu"), progress=again), jobs=2)  # what trains nothing needs no process
    assert (again.made, {*again.skipped}) == (["means"], {*stages} - {"means"})


@pytest.mark.usefixtures("new_stages")
def test_the_command_line_runs_new_stages_and_makes_them_again(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(small_run, tmp_path)
    for again, made in (([], True), ([], False), (["--again", "means"], True)):
        assert main(["run", str(run.folder), "--device", "cpu", "--jobs", "1", *again]) == 0
        told = capsys.readouterr().err
        for stage in ("means", "second-opinion"):
            assert f"{stage}: {'done in' if made else 'up to date'}" in told
        assert "evaluate: up to date" in told


@pytest.mark.usefixtures("new_stages")
def test_a_stage_that_needs_one_that_is_not_there_is_told(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(Run("nowhere", small_study), make_fabric("cpu"))
    monkeypatch.setattr(MeansStage, "needs", lambda self, study: ("modes",))
    with refused(SegcftError, Code.MISSING, "means"):
        _ = pipeline.stages
    monkeypatch.setattr(MeansStage, "needs", lambda self, study: ("second-opinion",))
    with refused(SegcftError, Code.CONFLICT):
        _ = pipeline.stages
