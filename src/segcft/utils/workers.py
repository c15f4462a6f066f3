"""Processes that work side by side: each does one task after another, and reports its progress."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from segcft.errors import Code, SegcftError
from segcft.utils.progress import Progress, Task
from segcft.utils.signals import ignored_interrupts, orderly_end

T = TypeVar("T")
Result = TypeVar("Result")

PATIENCE = 30.0
"""Seconds that a process has to end in order, as a training does after its step."""


class Workers(Generic[T, Result]):
    """Up to ``count`` processes, which are begun when there is something to do. A context manager, which ends them.

    They end in order on SIGTERM, and at once with their parent, to which they leave Ctrl-C. No shared memory is
    needed. A script that uses them needs ``if __name__ == "__main__":``, since the processes import it.

    Args:
        count: processes, at most.
        begin: called once in every process, with its number from 0, its progress and ``arguments``; returns the
            function that does a task. All this, tasks and results can be pickled.
        arguments: of ``begin``.
        progress: shows that of the processes.
    """

    def __init__(
        self, count: int, begin: Callable[..., Callable[[T], Result]], arguments: tuple[Any, ...], progress: Progress
    ) -> None:
        self.count, self.begin, self.arguments, self.progress = count, begin, arguments, progress
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers[T, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End all processes; others are begun when there is something to do."""
        for worker in self._workers:
            worker.process.terminate()
        while self._workers:
            self._workers.pop().end()

    @property
    def busy(self) -> int:
        """How many tasks are being done."""
        return sum(worker.task is not None for worker in self._workers)

    def give(self, name: str, task: T) -> None:
        """Have a process that is free do a task; ``name`` is for errors.

        Raises:
            SegcftError: its process died.
        """
        free = next((worker for worker in self._workers if worker.task is None), None)
        if free is None:
            number = min(set(range(self.count)) - {worker.number for worker in self._workers})
            free = _Worker(self.begin, number, self.arguments)
            self._workers.append(free)
        free.give(name, task)

    def done(self) -> list[tuple[str, Result]]:
        """Wait until a task is done; names and results of those that are.

        Raises:
            Exception: what a task raised: a SegcftError or OSError as it is, others as a RuntimeError with their
                traceback. Its process is no more; others go on.
            SegcftError: a process died; the field is the name of its task.
        """
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                name = worker.task or ""
                try:
                    found = [(name, result) for result in worker.hear(self.progress)]
                except Exception:
                    self._workers.remove(worker)
                    worker.end()
                    raise
                if found:  # before another one raises, so that no result is lost
                    return found
        return []

    def map(self, tasks: Iterable[tuple[str, T]]) -> Iterator[Result]:
        """The results of named tasks, in the order in which they are done; raises what :meth:`done` does."""
        for name, task in tasks:
            if self.busy == self.count:
                yield from (result for _, result in self.done())
            self.give(name, task)
        while self.busy:
            yield from (result for _, result in self.done())


class _Worker:
    """A process, seen from outside; ``task`` is the name of what it does, None if that is nothing."""

    def __init__(self, begin: Callable[..., Any], number: int, arguments: tuple[Any, ...]) -> None:
        # Not a fork: that would copy threads that hold locks, and a GPU's state.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, begin, number, arguments), daemon=True)
        with ignored_interrupts():
            self.process.start()
        theirs.close()  # so that the end of the process ends our waiting
        self.number = number
        self.task: str | None = None
        self._shown: list[tuple[AbstractContextManager[Task], Task]] = []

    def give(self, name: str, task: Any) -> None:
        self.task = name
        try:
            self.connection.send(task)
        except OSError:
            raise self._died() from None

    def hear(self, progress: Progress) -> list[Any]:
        """Take one message; returns the result if it is one. Progress is shown on ``progress``."""
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if kind == "done":
            self.task = None
            return content
        if kind == "error":
            raise content[0]
        if kind == "failure":
            raise RuntimeError(f"{self.task}:\n{content[0]}")
        if kind == "note":
            progress.note(content[0])
        elif kind == "task":
            shown = progress.task(*content)
            self._shown.append((shown, shown.__enter__()))
        elif kind == "advance":
            self._shown[-1][1].advance(*content)
        elif kind == "end":
            self._end_shown()
        return []

    def _died(self) -> SegcftError:
        return SegcftError(
            Code.FAILED,
            self.task,
            "its process died, perhaps for want of memory; --jobs 1 does one thing at a time, and goes on from here",
        )

    def end(self) -> None:
        """Wait for the process, which was asked to end. It can still report its last step meanwhile."""
        self.process.join(PATIENCE)
        self.connection.close()
        while self._shown:
            self._end_shown()
        self.process.kill()
        self.process.join()

    def _end_shown(self) -> None:
        self._shown.pop()[0].__exit__(None, None, None)


def _work(connection: Connection, begin: Callable[..., Any], number: int, arguments: tuple[Any, ...]) -> None:
    """A worker's life."""
    _end_with_parent()
    with orderly_end():
        try:
            do = begin(number, _RemoteProgress(connection), *arguments)
            for task in _received(connection):
                connection.send(("done", do(task)))
        except ConnectionError:
            pass  # the parent has ended
        except (SegcftError, OSError) as error:
            connection.send(("error", error))
        except Exception:
            connection.send(("failure", traceback.format_exc()))


def _received(connection: Connection) -> Iterator[Any]:
    """The tasks that come, until the parent ends."""
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        yield task


def _end_with_parent() -> None:
    """Have this process, which ``multiprocessing`` began, end when the one that began it does, even by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _RemoteProgress(Progress):
    """Progress that is shown by another process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        self.connection.send(("task", description, total, done))
        yield _RemoteTask(self.connection)
        self.connection.send(("end",))

    def note(self, text: str) -> None:
        self.connection.send(("note", text))


class _RemoteTask(Task):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.connection.send(("advance", amount, note))
