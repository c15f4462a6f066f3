"""Timing of several contenders side by side: each in a process of its own, taking turns.

Machines drift (heat, neighbours, clock), so two figures measured one after the other are not comparable. Here
every round times each contender once, a ratio is that of one round, and the median of the rounds is reported.
"""

from __future__ import annotations

import importlib
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

MiB = 1 << 20


class Contender(NamedTuple):
    """``make`` ("module:function") is called with ``arguments`` and returns what one call of is to be timed.

    What it returns may have an attribute ``facts`` (a dict), e.g. its number of parameters.
    """

    name: str
    make: str
    arguments: dict[str, Any]


class Timing(NamedTuple):
    """``seconds`` a call (median), ``ratio``: how many times the first contender's (median over rounds)."""

    name: str
    seconds: float
    ratio: float
    spread: tuple[float, float]
    """The lowest and highest ratio of a round."""
    peak: float
    """Largest memory in MiB: allocated on the GPU, or resident beyond what the process had after the imports."""
    facts: dict[str, Any]


def compare(contenders: Sequence[Contender], rounds: int, threads: int, at_least: float = 0.5) -> list[Timing]:
    """Time the contenders in turns.

    Args:
        contenders: the first one is the baseline of the ratios.
        rounds: how often each has its turn, after one turn to warm up.
        threads: of each contender; only one works at a time.
        at_least: seconds of a turn; a turn repeats the call until they have passed.

    Raises:
        RuntimeError: a contender failed; the message has its traceback.
    """
    seconds: list[list[float]] = [[] for _ in contenders]
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(contender, threads)) for contender in contenders]
        facts = [_ask(worker, 0.0) for worker in workers]  # set up and warm up
        for _ in range(rounds):
            for worker, found in zip(workers, seconds, strict=True):
                found.append(_ask(worker, at_least)["seconds"])
        peaks = [_ask(worker, None)["peak"] for worker in workers]
    timings = []
    for contender, found, peak, fact in zip(contenders, seconds, peaks, facts, strict=True):
        ratios = [base / mine for base, mine in zip(seconds[0], found, strict=True)]
        middle, spread = statistics.median(ratios), (min(ratios), max(ratios))
        timings.append(Timing(contender.name, statistics.median(found), middle, spread, peak, fact["facts"]))
    return timings


def time_call(call: Callable[[], Any], at_least: float) -> float:
    """Seconds a call, the mean over so many calls that ``at_least`` seconds pass, and one at least."""
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < at_least:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe_device(device: str, threads: int) -> str:
    """What did the work, in words."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{threads} threads of {platform.processor() or platform.machine()}"


@contextmanager
def _worker(contender: Contender, threads: int) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, contender, threads, list(sys.path)), daemon=True)
    process.start()
    theirs.close()  # so that a worker that is killed ends our waiting
    try:
        yield ours
    finally:
        ours.close()
        process.terminate()
        process.join()


def _ask(worker: Connection, seconds: float | None) -> dict[str, Any]:
    worker.send(seconds)
    try:
        answer: dict[str, Any] = worker.recv()
    except EOFError:
        raise RuntimeError("a contender's process died, perhaps for want of memory") from None
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def _serve(parent: Connection, contender: Contender, threads: int, path: list[str]) -> None:
    """A worker's life: answer each number of seconds with the mean time of a call; None: with the peak memory."""
    import traceback

    import torch

    try:
        sys.path[:] = path
        torch.set_num_threads(threads)
        module, _, function = contender.make.partition(":")
        make = getattr(importlib.import_module(module), function)
        importlib.import_module("benchmarks.ours")  # on every side, so that what is imported counts on none
        before = _resident()
        call: Callable[[], Any] = make(**contender.arguments)
        while True:
            seconds = parent.recv()
            if seconds is None:
                on_gpu = torch.cuda.is_initialized()
                peak = torch.cuda.max_memory_allocated() if on_gpu else _resident() - before
                parent.send({"peak": peak / MiB})
                continue
            parent.send({"seconds": time_call(call, seconds), "facts": getattr(call, "facts", {})})
    except EOFError:
        pass
    except Exception:
        parent.send({"error": f"{contender.name}:\n{traceback.format_exc()}"})


def _resident() -> float:
    """Largest resident memory of this process so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)
