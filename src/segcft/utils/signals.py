"""An orderly end on SIGTERM and SIGUSR1, which batch systems send before they take a machine away.

Within :func:`orderly_end` a signal raises an exception, wherever the program is; a training holds it back until the
step is done and its checkpoint written.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""The signals that ask for an orderly end; not every system has both."""


class Terminated(SystemExit):
    """A signal asked the program to end; the exit status is 128 and the signal's number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextmanager
def orderly_end() -> Iterator[None]:
    """In here, :data:`ENDING` raise :class:`Terminated`. Of use in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Processes that are begun in here ignore Ctrl-C, which reaches every process of a terminal. It works in the main
    thread alone, the only one that may change signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class HeldBack:
    """Signals that wait for a good moment: :meth:`deliver`. A context manager.

    It holds back Ctrl-C and those of :data:`ENDING` that have a handler; the others end the program as
    ever. A second Ctrl-C does not wait.

    Attributes:
        pending: the number of a signal that waits; None if there is none.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> HeldBack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ENDING):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self.deliver()

    def deliver(self) -> None:
        """Have the handler of the signal that waits, if one does, do its work."""
        if self.pending is not None:
            number, self.pending = self.pending, None
            self._handlers[number](number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        impatient = number == self.pending == signal.SIGINT
        self.pending = number
        if impatient:
            self.deliver()
