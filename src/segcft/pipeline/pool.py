"""Stages that do not need each other, at the same time, each in a process of its own.

Of small networks a second core makes one training hardly faster, but trains a second one as fast; and a machine
with several GPUs can train on each. The order changes nothing in the outcome: a stage is a function of the study, and
of the number of threads it has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch

from segcft.errors import SegcftError
from segcft.pipeline.importing import check_values
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress, Task
from segcft.utils.signals import orderly_end

PATIENCE = 30.0
"""Seconds that a process which is to stop has for its step and the checkpoint."""


def default_jobs(device: torch.device) -> int:
    """Two on a CPU that has the cores, else one."""
    return 2 if device.type == "cpu" and torch.get_num_threads() > 1 else 1


def run_all(pipeline: Pipeline, jobs: int) -> None:
    """Every stage that is not up to date, up to ``jobs`` at once: they share the cores, and take the GPUs in turn.

    One job needs no process of its own. With more, a script that calls it needs ``if __name__ == "__main__":``, since
    the processes import it.

    Raises:
        SegcftError: what a stage raised, after the others were stopped, or its process died.
    """
    if jobs == 1:
        pipeline.run_all()
        return
    with pipeline.lock:
        _run_all(pipeline, jobs)


def _run_all(pipeline: Pipeline, jobs: int) -> None:
    pipeline.run_stage("import")
    check_values(pipeline.study, pipeline.store)
    waiting = [stage for stage in pipeline.stages if stage not in ("import", "evaluate")]
    # What most of the others wait for goes first.
    waiting.sort(key=lambda stage: -len(_dependants(pipeline, stage)))

    def ready() -> list[str]:
        return [stage for stage in waiting if pipeline.keys.keys() >= set(pipeline.needs(stage))]

    with ExitStack() as stack:
        free: list[_Worker] = []
        busy: list[_Worker] = []
        while waiting or busy:
            while current := [stage for stage in ready() if pipeline.is_current(stage)]:
                for stage in current:
                    waiting.remove(stage)
                    pipeline.drop_checkpoint(stage)
                    pipeline.progress.note(f"{stage}: up to date")
            for stage in ready()[: jobs - len(busy)]:
                waiting.remove(stage)
                worker = free.pop() if free else stack.enter_context(_worker(pipeline, len(busy), jobs))
                worker.begin(stage, pipeline.keys)
                busy.append(worker)
            done = _first_done(busy, pipeline.progress)
            for worker in done:
                pipeline.keys[worker.stage] = worker.key
                busy.remove(worker)
            free += done
    pipeline.run_stage("evaluate")


def _first_done(busy: list[_Worker], progress: Progress) -> list[_Worker]:
    """Follow the workers until one of them has done its stage."""
    while busy:
        for connection in wait([worker.connection for worker in busy]):
            worker = next(worker for worker in busy if worker.connection is connection)
            worker.hear(progress)
        if done := [worker for worker in busy if worker.key]:
            return done
    return []


def _dependants(pipeline: Pipeline, stage: str) -> set[str]:
    """All stages that cannot begin before ``stage`` is done."""
    direct = {other for other in pipeline.stages if stage in pipeline.needs(other)}
    return direct.union(*(_dependants(pipeline, other) for other in direct))


class _Job(NamedTuple):
    """What a process needs to know of its run; ``gpu`` is its device where there are several."""

    run: Run
    data: Path | None
    compile: bool
    device: str
    gpu: int
    threads: int


class _Worker:
    """A process that runs one stage after another, seen from outside; ``key`` is "" until ``stage`` is done."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.stage, self.key = connection, "", ""
        self._tasks: list[tuple[AbstractContextManager[Task], Task]] = []

    def begin(self, stage: str, keys: dict[str, str]) -> None:
        self.stage, self.key = stage, ""
        try:
            self.connection.send((stage, keys))
        except OSError:
            raise self._died() from None

    def hear(self, progress: Progress) -> None:
        """Take one message; what it tells of the work is shown on ``progress``."""
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if kind == "done":
            self.key = content[0]
        elif kind == "error":
            raise SegcftError(content[0])
        elif kind == "failure":
            raise RuntimeError(f"{self.stage}:\n{content[0]}")
        elif kind == "note":
            progress.note(content[0])
        elif kind == "task":
            context = progress.task(*content)
            self._tasks.append((context, context.__enter__()))
        elif kind == "advance":
            self._tasks[-1][1].advance(*content)
        elif kind == "end":
            self._end_task()

    def _died(self) -> SegcftError:
        return SegcftError(
            f"{self.stage}: its process died, perhaps for want of memory; --jobs 1 trains one part at a time"
        )

    def close(self) -> None:
        self.connection.close()
        while self._tasks:
            self._end_task()

    def _end_task(self) -> None:
        self._tasks.pop()[0].__exit__(None, None, None)


@contextmanager
def _worker(pipeline: Pipeline, index: int, jobs: int) -> Iterator[_Worker]:
    # Not a fork: that would copy threads that hold locks, and a GPU's state.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    device = pipeline.fabric.device.type
    gpu = index % torch.cuda.device_count() if device == "cuda" else 0
    job = _Job(pipeline.run, pipeline.data, pipeline.compile, device, gpu, max(1, torch.get_num_threads() // jobs))
    process = context.Process(target=_work, args=(theirs, job), daemon=True)
    with _deaf_to_interrupts():
        process.start()
    theirs.close()  # so that the end of the process ends our waiting
    worker = _Worker(ours)
    try:
        yield worker
    finally:
        # Its training writes a checkpoint yet, if it can tell us of its step meanwhile.
        process.terminate()
        process.join(PATIENCE)
        worker.close()
        process.kill()
        process.join()


def _work(connection: Connection, job: _Job) -> None:
    """A worker's life. It ends in order on SIGTERM, and at once with the process that began it."""
    end_with_parent()
    with orderly_end():
        _run_stages(connection, job)


def _run_stages(connection: Connection, job: _Job) -> None:
    try:
        torch.set_num_threads(job.threads)
        fabric = make_fabric(job.device, [job.gpu] if job.device == "cuda" else 1)
        # The lock is that of the run, which is held for all its workers.
        pipeline = Pipeline(job.run, fabric, job.data, _Told(connection), job.compile, lock=nullcontext())
        while (order := _next_order(connection)) is not None:
            stage, keys = order
            pipeline.keys |= keys
            pipeline.run_stage(stage)
            connection.send(("done", pipeline.keys[stage]))
    except ConnectionError:
        pass  # Nobody is left to work for.
    except (SegcftError, OSError) as error:
        connection.send(("error", str(error)))
    except Exception:
        connection.send(("failure", traceback.format_exc()))


def _next_order(connection: Connection) -> tuple[str, dict[str, str]] | None:
    """A stage and the keys of those before it; None once nobody is left to give one."""
    try:
        order: tuple[str, dict[str, str]] = connection.recv()
    except (EOFError, OSError):
        return None
    return order


def end_with_parent() -> None:
    """Have this process, which ``multiprocessing`` began, end when the one that began it does, even by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal: those begun in here leave it to the first one, which ends them."""
    if threading.current_thread() is not threading.main_thread():  # the only one that may change signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Told(Progress):
    """Progress that is told to another process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        self.connection.send(("task", description, total, done))
        yield _ToldTask(self.connection)
        self.connection.send(("end",))

    def note(self, text: str) -> None:
        self.connection.send(("note", text))


class _ToldTask(Task):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.connection.send(("advance", amount, note))
