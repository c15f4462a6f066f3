"""One computation at a time, in a thread of its own, so that the page goes on answering."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from segcft.app.refused import RefusedError

T = TypeVar("T")


class Worker:
    """A queue of at most ``most`` computations, the one that runs included."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._inside = 0
        self._turn = anyio.Lock()

    async def run(self, compute: Callable[[], T], gone: Callable[[], Awaitable[bool]]) -> T:
        """``compute()`` in its turn, unless the client is ``gone`` by then.

        Raises:
            RefusedError: too many are waiting, or the client has left.
        """
        if self._inside >= self.most:
            raise RefusedError(503, "", "too many questions at once; try again in a moment")
        self._inside += 1
        try:
            async with self._turn:
                if await gone():
                    raise RefusedError(499, "", "the question was taken back")
                return await anyio.to_thread.run_sync(compute)
        finally:
            self._inside -= 1
