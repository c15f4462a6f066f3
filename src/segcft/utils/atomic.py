"""Files and folders that are whole or not there: they take their place at once, files when they are on the disk."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from segcft.errors import DataError, WriteError


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
        _remove(partial)
        raise WriteError(f"{path}: cannot be written ({reason(error)})") from None
    except BaseException:
        _remove(partial)
        raise


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which becomes ``out`` if all goes well, and is removed if not.

    Raises:
        DataError: ``out`` is there and not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already, and not an empty folder; nothing in it is overwritten")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a call that was killed has left
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file of rows that all have the names of the first, of which there is one at least."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


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
    """Wait until a file, or a folder's list of names, is on the disk; of a folder, if its file system can say so."""
    if path.is_dir():
        with suppress(OSError):  # Windows opens no folders, and some network file systems wait for none
            _wait(path, os.O_RDONLY)
    else:
        _wait(path, os.O_RDWR)  # Windows waits for files alone that are open to write


def _wait(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(partial: Path) -> None:
    """Remove what was not finished, if it is there; why it could not be written says more than why it stays."""
    with suppress(OSError):
        partial.unlink()


def link(source: str | Path, path: str | Path) -> None:
    """Have ``path`` hold what the file ``source`` does, once on the disk where its file system can do that."""
    partial = Path(f"{path}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copy2(source, partial)
    os.replace(partial, path)
    partial.unlink(missing_ok=True)  # which stays where both are one file already


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole, or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    with written(path) as partial:
        partial.write_bytes(content)


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but hidden files: a lock, or what macOS leaves there (``.DS_Store``)."""
    return all(path.name.startswith(".") for path in folder.iterdir())
