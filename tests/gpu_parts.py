"""Parts for tests/test_gpu_benchmark.py, which runs them in processes of their own: one is done, two are not."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.gpu.part import Keep

LONG = 300.0
"""Seconds, more than any test takes."""


def done(keep: Keep, number: int) -> None:
    keep({"precision": "32", "rows": number, "TFLOP/s": 0.5})


def failing(keep: Keep) -> None:
    done(keep, 2)
    raise ValueError("no such thing")


def endless(keep: Keep) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG})"])
    done(keep, child.pid)
    time.sleep(LONG)
