"""Stages that do not need each other, at the same time, each in a process of its own.

A second core makes the training of a small network hardly faster, but can train a second one; and a machine with
several GPUs can train on each. The order does not matter: an outcome is a function of the study and of the number of
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segcft.errors import Code, SegcftError
from segcft.pipeline.importing import check_values
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress
from segcft.utils.workers import Workers

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Order = tuple[str, dict[str, str]]
"""A stage to train, and the keys of those before it."""


def default_jobs(device: torch.device) -> int:
    """Two on a CPU that has the cores, else one."""
    return 2 if device.type == "cpu" and torch.get_num_threads() > 1 else 1


def threads_of(jobs: int) -> int:
    """Threads of each of ``jobs`` processes that share the cores."""
    return max(1, torch.get_num_threads() // jobs)


def fabric_of(number: int, device: str, threads: int) -> Fabric:
    """The hardware of a worker: so many threads, or the next of the machine's GPUs."""
    torch.set_num_threads(threads)
    return make_fabric(device, [number % torch.cuda.device_count()] if device == "cuda" else 1)


class Failures:
    """What failed of several runs, of which the others went on."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.told = progress, dict[str, str]()

    def add(self, name: str, error: object) -> None:
        """The run ``name`` failed: it is told at once."""
        self.told[name] = f"{name}: {error}"
        self.progress.note(f"error: {self.told[name]}")

    def check(self, folder: Path, head: str) -> None:
        """See that nothing failed.

        Raises:
            SegcftError: something did; ``head`` says what follows from that.
        """
        if self.told:
            raise SegcftError(Code.FAILED, folder, "\n".join([f"{len(self.told)} {head}:", *self.told.values()]))


def run_all(pipeline: Pipeline, jobs: int) -> None:
    """Every stage that is not up to date; up to ``jobs`` trainings at once share the cores, and take the GPUs in turn.

    One job needs no process of its own. With more, a script that calls it needs ``if __name__ == "__main__":``, since
    the processes import it.

    Raises:
        SegcftError: what a stage raised, after the others were stopped, or its process died.
    """
    if jobs == 1:
        pipeline.run_all()
        return
    run, device = pipeline.run, pipeline.fabric.device.type
    arguments = (run, pipeline.data, pipeline.compile, device, threads_of(jobs))
    with pipeline.lock, Workers[Order, str](jobs, _begin, arguments, pipeline.progress) as workers:
        pipeline.run_stage("import")
        check_values(pipeline.study, pipeline.store)
        _run_side_by_side(pipeline, workers)


def _run_side_by_side(pipeline: Pipeline, workers: Workers[Order, str]) -> None:
    """All stages after the import: trainings in the workers, others here, when no training takes the cores."""
    waiting = [stage for stage in pipeline.stages if stage != "import"]
    # What most of the others wait for goes first.
    waiting.sort(key=lambda stage: -len(pipeline.dependants(stage)))

    def ready() -> list[str]:
        return [stage for stage in waiting if pipeline.keys.keys() >= set(pipeline.needs(stage))]

    while waiting or workers.busy:
        here = [stage for stage in ready() if pipeline.is_current(stage)]
        if not here and not workers.busy:
            here = [stage for stage in ready() if stage not in pipeline.run.parts][:1]
            if here:
                workers.end()  # they would hold memory
        for stage in here:
            waiting.remove(stage)
            pipeline.run_next(stage)
        if here:
            continue
        for stage in [stage for stage in ready() if stage in pipeline.run.parts][: workers.count - workers.busy]:
            waiting.remove(stage)
            workers.give(stage, (stage, pipeline.keys))
        for stage, key in workers.done():
            pipeline.keys[stage] = key


def _begin(
    number: int, progress: Progress, run: Run, data: Path | None, compile: bool, device: str, threads: int
) -> Callable[[Order], str]:
    """Of a worker: what trains a stage and returns its key."""
    fabric = fabric_of(number, device, threads)
    # The lock is that of the run, which is held for all its workers.
    pipeline = Pipeline(run, fabric, data, progress, compile, lock=nullcontext())

    def train(order: Order) -> str:
        stage, keys = order
        pipeline.keys |= keys
        pipeline.run_stage(stage)
        return pipeline.keys[stage]

    return train
