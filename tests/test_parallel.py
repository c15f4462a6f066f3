"""Stages side by side: the same outcome as one after another, and every end of a process is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segcft.config.study import Study
from segcft.errors import SegcftError
from segcft.pipeline.pool import _Worker, run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from segcft.utils.progress import ConsoleProgress, Progress, Task
from tests.conftest import MakeStudy
from tests.test_training import same, tensors_of


class Watcher(Progress):
    """Keeps what it is told: notes, which tasks began, how far they came, and how many ran at once."""

    def __init__(self, at_first_step: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self.steps: dict[str, int] = {}
        self.running, self.most = 0, 0
        self.at_first_step = at_first_step

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        watcher = self

        class Counter(Task):
            def advance(self, amount: int = 1, note: str = "") -> None:
                watcher.steps[description] = watcher.steps.get(description, 0) + amount
                if description.startswith("training"):
                    first, watcher.at_first_step = watcher.at_first_step, lambda: None
                    first()

        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield Counter()
        finally:
            self.running -= 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def pipeline_of(study: Study, folder: Path, progress: Progress) -> Pipeline:
    return Pipeline(Run(folder, study), make_fabric("cpu"), progress=progress)


def test_stages_side_by_side_make_what_they_make_one_after_another(
    small_run: Run, small_study: Study, tmp_path: Path
) -> None:
    watcher = Watcher()
    pipeline = pipeline_of(small_study, tmp_path / "run", watcher)
    run_all(pipeline, jobs=2)
    trained = [stage for stage in pipeline.stages if stage not in ("import", "evaluate")]
    for stage in trained:
        assert same(tensors_of(pipeline.run.path(stage)), tensors_of(small_run.path(stage))), stage
        spec = small_study.finetune if stage.startswith("cft-") else getattr(small_study, stage)
        assert watcher.steps[f"training {stage}"] == spec.steps
    for table in ("table.md", "table.json"):  # of two folders and of other processes, bit for bit
        assert (pipeline.run.evaluation / table).read_bytes() == (small_run.evaluation / table).read_bytes()
    assert watcher.most == 2
    assert watcher.running == 0

    again = Watcher()
    run_all(pipeline_of(small_study, tmp_path / "run", again), jobs=2)
    assert sorted(again.notes) == sorted(f"{stage}: up to date" for stage in pipeline.stages)


def test_what_stops_a_stage_stops_the_others_and_is_told(make_small_study: MakeStudy, tmp_path: Path) -> None:
    study = make_small_study({"hvae.gradient_skip": 1e-9, "hvae.checkpoint_steps": 2})
    watcher = Watcher()
    with pytest.raises(SegcftError, match="hvae: 2 steps in a row"):
        run_all(pipeline_of(study, tmp_path / "run", watcher), jobs=2)
    assert watcher.running == 0
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_told(small_study: Study, tmp_path: Path) -> None:
    def kill_all() -> None:
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(SegcftError, match=r"its process died, perhaps for want of memory; --jobs 1"):
        run_all(pipeline_of(small_study, tmp_path / "run", Watcher(kill_all)), jobs=2)
    assert not multiprocessing.active_children()


def test_a_process_that_died_between_its_stages_is_told() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()  # what the end of a process does
    with pytest.raises(SegcftError, match="hvae: its process died"):
        _Worker(ours).begin("hvae", {})


def test_bars_may_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes what it writes to for a terminal
    progress = ConsoleProgress()
    assert progress.console.is_terminal
    with progress.console.capture() as shown:
        with progress.task("one", 2) as one, progress.task("two", 3) as two:
            one.advance(2)
            two.advance(3)
        with progress.task("three", 1) as three:
            three.advance()
    for bar in ("one", "2/2", "two", "3/3", "three", "1/1"):
        assert bar in shown.get()
