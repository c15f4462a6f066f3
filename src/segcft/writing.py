"""Files that are whole or not there: they take their place at once, when their bytes are on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from segcft.errors import WriteError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write into, which takes the place of ``path`` if all goes well, and is removed if not.

    Raises:
        WriteError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # for a full disk PyTorch has no kind of its own
        partial.unlink(missing_ok=True)
        raise WriteError(f"{path}: cannot be written ({reason(error)})") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def append(file: FileIO, line: str) -> None:
    """Add ``line`` to a log that was opened without a buffer: whoever is killed later has lost no line before.

    Raises:
        WriteError: it cannot be written, or not whole.
    """
    rest = line.encode() + b"\n"
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise WriteError(f"{file.name}: cannot be written ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """Why something cannot be written, in a line."""
    if isinstance(error.__context__, OSError):  # what PyTorch made an error of its own of
        error = error.__context__
    return getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
