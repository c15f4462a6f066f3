"""Progress of the stages: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Task:
    """One running piece of work; this base class shows nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """``amount`` more is done; ``note`` is shown behind the bar (a loss, say)."""


class Progress:
    """Silent progress, for use as a library."""

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        """A piece of work of ``total`` units of which ``done`` are done already."""
        yield Task()

    def note(self, text: str) -> None:
        """A line that stays."""

    def __call__(self, iterable: Iterable[T], total: int, description: str) -> Iterator[T]:
        """Follow an iteration."""
        with self.task(description, total) as task:
            for item in iterable:
                yield item
                task.advance()


class Named(Progress):
    """Shown on ``progress`` behind a ``name``: of one among several that do the same."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        with self.progress.task(f"{self.name}: {description}", total, done) as task:
            yield task

    def note(self, text: str) -> None:
        self.progress.note(f"{self.name}: {text}")


class _Bar(Task):
    def __init__(self, bars: Any, task: Any) -> None:
        self.bars, self.id = bars, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.bars.update(self.id, advance=amount, note=note)


class _Lines(Task):
    """A line every ``interval`` seconds: what a log file wants."""

    def __init__(self, console: Any, description: str, total: int, done: int, interval: float) -> None:
        self.console, self.description, self.total, self.done = console, description, total, done
        self.interval, self.start, self.last = interval, time.monotonic(), time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last >= self.interval or self.done >= self.total:
            self.last = now
            self.console.print(
                f"  {self.description}: {self.done}/{self.total}  {now - self.start:.0f} s  {note}",
                highlight=False,
            )


class ConsoleProgress(Progress):
    """Progress on a terminal or in a log, written to standard error so that results can be piped.

    Tasks may overlap; on a terminal each has a bar.
    """

    def __init__(self, interval: float = 20.0) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, soft_wrap=True)
        self.interval = interval
        self._bars: Any = None
        self._running = 0

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        if not self.console.is_terminal:
            yield _Lines(self.console, description, total, done, self.interval)
            return
        if not self._running:
            self._bars = self._make_bars()
            self._bars.start()
        self._running += 1
        try:
            yield _Bar(self._bars, self._bars.add_task(description, total=total, completed=done, note=""))
        finally:
            self._running -= 1
            if not self._running:
                self._bars.stop()

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def _make_bars(self) -> Any:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        return Bars(
            TextColumn("  {task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
