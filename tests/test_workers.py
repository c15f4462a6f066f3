"""Processes side by side: what they do, what they tell, and every way in which they end."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refused import refused
from segcft.errors import Code, RunError, SegcftError
from segcft.utils.progress import ConsoleProgress, Progress, Task
from segcft.utils.workers import Workers


class Watcher(Progress):
    """Keeps what it is told: notes, how far tasks came, and how many run."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: dict[str, int] = {}
        self.running = 0

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        watcher = self

        class Counter(Task):
            def advance(self, amount: int = 1, note: str = "") -> None:
                watcher.steps[description] = watcher.steps.get(description, 0) + amount

        self.running += 1
        try:
            yield Counter()
        finally:
            self.running -= 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def begin(number: int, progress: Progress, folder: Path) -> Callable[[str], str]:
    """A worker that does what a task says."""

    def do(task: str) -> str:
        if task == "refuse":
            raise RunError(Code.INVALID, folder, "refused")
        if task == "fail":
            raise KeyError("no such key")
        if task == "die":
            os._exit(1)
        if task == "wait":
            time.sleep(600)
        if task.startswith("meet"):
            (folder / task).touch()
            while len(list(folder.glob("meet*"))) < 2:
                time.sleep(0.01)
        progress.note(f"note of {task}")
        with progress.task(task, 3, 1) as shown:
            shown.advance(2, "loss 1")
        return f"{task} by {number}"

    return do


def workers(folder: Path, progress: Progress | None = None, count: int = 2) -> Workers[str, str]:
    return Workers(count, begin, (folder,), progress or Progress())


def test_two_work_at_once_and_tell_how_far_they_are(tmp_path: Path) -> None:
    watcher = Watcher()
    with workers(tmp_path, watcher) as pool:
        found = list(pool.map((name, name) for name in ("meet one", "meet two", "a", "b")))
    # The first two waited for each other, so they were not done by one.
    assert {"meet one by 0", "meet two by 1"} <= set(found)
    assert len(found) == 4
    assert sorted(watcher.notes) == ["note of a", "note of b", "note of meet one", "note of meet two"]
    assert watcher.steps == dict.fromkeys(("meet one", "meet two", "a", "b"), 2)
    assert watcher.running == 0
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("task", "error", "text"),
    [
        ("refuse", RunError, "refused"),
        ("fail", RuntimeError, r"(?s)the name:.*no such key"),
        ("die", SegcftError, "the name: its process died"),
    ],
)
def test_what_ends_one_is_raised_and_ends_the_others(
    tmp_path: Path, task: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text), workers(tmp_path) as pool:
        list(pool.map([("another", "wait"), ("the name", task)]))
    assert not multiprocessing.active_children()


def test_one_that_died_between_its_tasks_is_told_and_others_are_begun_after_an_end(tmp_path: Path) -> None:
    with workers(tmp_path, count=1) as pool:
        assert list(pool.map([("a", "a")])) == ["a by 0"]
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        with refused(SegcftError, Code.FAILED, "b"):
            list(pool.map([("b", "b")]))
        pool.end()
        assert list(pool.map([("c", "c")])) == ["c by 0"]


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


def test_what_fails_or_dies_does_not_end_the_others_if_its_error_is_caught(tmp_path: Path) -> None:
    found, told = [], []
    waiting = ["refuse", "meet one", "die", "meet two", "a"]
    with workers(tmp_path) as pool:
        while waiting or pool.busy:
            while waiting and pool.busy < pool.count:
                pool.give(waiting[0], waiting.pop(0))
            try:
                found += [name for name, _ in pool.done()]
            except SegcftError as error:
                told.append((error.code, error.field))
    assert sorted(found) == ["a", "meet one", "meet two"]
    assert sorted(told) == [(Code.FAILED, "die"), (Code.INVALID, str(tmp_path))]
