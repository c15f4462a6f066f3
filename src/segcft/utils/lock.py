"""One writer a folder: a second process that would write the same results is refused, not mixed in."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from segcft.errors import Code, RunError, WriteError
from segcft.utils.atomic import reason


class Lock:
    """The right to write in ``folder``, which one process has at a time. A context manager; it may be nested.

    The system gives the right back when its process ends, however that happens, so that nothing is in the way after
    ``kill -9``.

    Args:
        folder: made if it is not there.
        name: of the lock's file, for several rights in one folder.

    Raises:
        RunError: on entering, another process has it; the message says which.
        WriteError: on entering, the folder cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path, name: str = ".lock") -> None:
        self.folder = folder
        self._lock = FileLock(folder / name)
        self._holder = folder / f"{name}.holder"
        self._depth = 0

    def __enter__(self) -> Lock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                Code.BUSY,
                self.folder,
                f"another segcft is working here ({self._who()}); wait for it or choose another --out",
            ) from None
        except (OSError, NotImplementedError) as error:  # the latter: no locks
            raise WriteError(Code.NOT_WRITABLE, self.folder, f"cannot write here ({reason(error)})") from None
        self._depth += 1
        if self._depth == 1:
            # Not in the lock's own file, which other systems do not let others read. Courtesy only: a full disk is
            # an error of what needs it.
            try:
                self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            except OSError:
                self._forget()
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._forget()
        self._lock.release()

    def _forget(self) -> None:
        with suppress(OSError):
            self._holder.unlink()

    def _who(self) -> str:
        try:
            return self._holder.read_text(encoding="utf-8", errors="replace") or "a process"
        except OSError:
            return "a process"
