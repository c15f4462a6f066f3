"""Stages side by side: the same outcome as one after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from segcft.pipeline.pool import run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from tests.test_training import copy_of, same, tensors_of
from tests.test_workers import Watcher


@pytest.mark.slow
def test_stages_side_by_side_make_what_they_make_one_after_another(small_run: Run, tmp_path: Path) -> None:
    """The quickest of them: one that two wait for, and these two."""
    run = copy_of(small_run, tmp_path)
    made = ("scm", "cft-regressor", "cft-segmentor")
    for part in made:
        run.path(part).unlink()
    watcher = Watcher()
    pipeline = Pipeline(run, make_fabric("cpu"), progress=watcher)
    run_all(pipeline, jobs=2)
    for part in run.parts:
        assert same(tensors_of(run.path(part)), tensors_of(small_run.path(part))), part
    for part in made:
        spec = run.study.scm if part == "scm" else run.study.finetune
        assert watcher.steps[f"training {part}"] == spec.steps
    done = [note.partition(":")[0] for note in watcher.notes if ": done in" in note]
    assert (done[0], {*done[1:]}) == ("scm", {"cft-regressor", "cft-segmentor"})
    assert watcher.running == 0

    again = Watcher()
    run_all(Pipeline(run, make_fabric("cpu"), progress=again), jobs=2)
    assert sorted(again.notes) == sorted(f"{stage}: up to date" for stage in pipeline.stages)
