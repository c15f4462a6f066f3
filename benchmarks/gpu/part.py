"""A part of ``make gpu``: a function that keeps rows, done in a process of its own that may be ended at any time.

The process is ``python -m benchmarks.gpu.part MODULE:FUNCTION ARGUMENTS ROWS``, ARGUMENTS being JSON. It writes every
row to the file ROWS, a line of JSON each, as soon as there is one, and imports nothing heavy of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

Row = dict[str, Any]
Keep = Callable[[Row], None]


class Part(NamedTuple):
    """``make`` ("module:function") is called with a :data:`Keep` and ``arguments``; it has ``limit`` seconds."""

    name: str
    make: str
    limit: float
    arguments: dict[str, Any]

    def run(self, left: float) -> Row:
        """Do the part, for ``left`` seconds if that is less than its limit.

        Returns:
            ``outcome``: ``done``; ``failed``, with the ``reason``; or ``stopped``, as time was up; ``rows``: all that
            it had kept until then.
        """
        limit = min(self.limit, left)
        with tempfile.TemporaryDirectory() as name:
            rows, log = Path(name) / "rows", Path(name) / "log"
            rows.touch()
            command = [sys.executable, "-m", __name__, self.make, json.dumps(self.arguments), str(rows)]
            began = time.monotonic()
            with log.open("wb") as output:
                # A group of its own: the compiler has processes too. The pipe closes when this process ends.
                process = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
                )
                try:
                    outcome = "failed" if process.wait(limit) else "done"
                except subprocess.TimeoutExpired:
                    outcome = "stopped"
                finally:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
            last = (log.read_text(errors="replace").strip() or f"exit status {process.returncode}").splitlines()[-1]
            why = {"done": "", "stopped": f"not done after {limit:.0f} s", "failed": last[-300:]}
            lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
            return self.result(outcome, why[outcome], time.monotonic() - began, [*map(json.loads, _whole(lines))])

    def result(self, outcome: str, reason: str, seconds: float = 0.0, rows: list[Row] | None = None) -> Row:
        """What is recorded of a part."""
        found = {"part": self.name, "kind": self.make.partition(":")[2], "outcome": outcome, "reason": reason}
        return found | {"seconds": round(seconds, 1), "limit": self.limit, "rows": rows or []}


def _whole(lines: list[str]) -> list[str]:
    return [line for line in lines if line.endswith("\n")]


def _end_with_parent() -> None:
    """End this process and all that it began when the one that began it has ended, even by a kill."""
    pipe = os.dup(0)

    def watch() -> None:
        os.read(pipe, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    make, arguments, path = sys.argv[1:]
    module, _, function = make.partition(":")
    with open(path, "a", buffering=1, encoding="utf-8") as file:
        getattr(importlib.import_module(module), function)(
            lambda row: print(json.dumps(row), file=file), **json.loads(arguments)
        )
