"""Loops that work ahead of whoever consumes what they make."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1, depth: int = 1
) -> Generator[Result, None, None]:
    """``map(function, items)``, in order, with up to ``depth`` results computed ahead by ``workers`` threads.

    The threads end with the iterator: when it is exhausted, closed or collected. An exception in ``function``
    comes out in its item's turn.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="segcft-ahead")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
