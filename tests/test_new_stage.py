"""Stages from outside of the package: that of docs/how-to-add/stage.md, and one that trains.

tests/test_how_to_add.py follows the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refused import refused
from segcft.config.study import Study
from segcft.errors import Code, SegcftError
from segcft.pipeline.pool import run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES
from segcft.pipeline.stages.readers import RegressorStage
from segcft.report.facts import read_parts
from segcft.training import artefact
from segcft.training.loop import make_fabric
from tests import howto
from tests.test_pipeline import Notes
from tests.test_training import copy_of


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
def new_stages(tmp_path: Path) -> Iterator[None]:
    howto.write_files("stage", tmp_path)
    howto.load(tmp_path / "means.py")
    STAGES.add("second-opinion", SecondOpinionStage())
    yield
    for name in ("means", "second-opinion"):
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
def test_a_stage_that_needs_one_that_is_not_there_is_told(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(Run("nowhere", small_study), make_fabric("cpu"))
    monkeypatch.setattr(STAGES["means"], "needs", lambda study: ("modes",))
    with refused(SegcftError, Code.MISSING, "means"):
        _ = pipeline.stages
    monkeypatch.setattr(STAGES["means"], "needs", lambda study: ("second-opinion",))
    with refused(SegcftError, Code.CONFLICT):
        _ = pipeline.stages
