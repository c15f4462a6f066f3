"""Files that several samples need: each is read once, by the first thread that asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from segcft.io.reject import Rejected, bare

Key = TypeVar("Key")
Value = TypeVar("Value")


class Shared(Generic[Key, Value]):
    """``read``, whose latest ``keep`` results are kept; who asks for one that is being read waits for it.

    An exception of ``read`` is kept too, and raised for everybody.
    """

    def __init__(self, read: Callable[[Key], Value], keep: int) -> None:
        self._read, self._keep = read, keep
        self._lock = threading.Lock()
        self._kept: dict[Key, Future[Value]] = {}  # the latest asked for comes last

    def __call__(self, key: Key) -> Value:
        with self._lock:
            known = self._kept.pop(key, None)
            result = self._kept[key] = known or Future()
            for old in list(self._kept)[: -self._keep]:
                del self._kept[old]
        if known is None:
            try:
                result.set_result(self._read(key))
            except BaseException as error:
                result.set_exception(bare(error) if isinstance(error, Rejected) else error)
        return result.result()
