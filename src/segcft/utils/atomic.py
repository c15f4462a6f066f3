"""Files and folders that are whole or not there: they are brought to the disk (fsync), and take their place at once."""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from segcft.errors import Code, DataError, WriteError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write into, which takes the place of ``path`` if all goes well, and is removed if not.

    Raises:
        WriteError: it cannot be written.
    """
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        put(partial, path)
    except (OSError, RuntimeError) as error:  # for a full disk PyTorch has no kind of its own
        with suppress(OSError):  # why it could not be written says more than why this stays
            partial.unlink()
        raise WriteError(Code.NOT_WRITABLE, path, f"cannot be written ({reason(error)})") from None
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def partial_of(path: Path) -> Path:
    """Where a file is while it is written."""
    return path.with_name(path.name + ".partial")


def put(partial: Path, path: Path) -> None:
    """Have the file ``partial`` take the place of ``path``, once it is on the disk."""
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which takes the place of ``out`` if all goes well, and is removed if not.

    The old folder is moved aside, and removed when the new one is in its place. A kill between leaves it there, whole:
    :func:`recover`, which is called here first, moves it back. What writers on this machine that were killed have left
    is removed.
    """
    out = Path(os.path.abspath(out))
    recover(out)
    with _folder_beside(out) as partial:
        yield partial
        _sync_all(partial)
        try:
            if out.exists():
                os.rename(out, _aside(out))
            os.rename(partial, out)
        except BaseException:  # also Ctrl-C, which may come between the two
            recover(out)
            raise
        sync(out.parent)
        _remove(_aside(out))


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, which is removed if it is still there at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.partial-{socket.gethostname()}-"
    _remove_abandoned(out.parent, prefix)
    partial = out.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def recover(out: Path) -> None:
    """Put the folder ``out`` back where a :func:`replaced_folder` was killed before the new one was in its place.

    Only the one writer of ``out`` may call it; see :class:`segcft.utils.lock.Lock`.
    """
    old = _aside(out)
    if old.exists() and not out.exists():
        os.rename(old, out)
        sync(out.parent)
    _remove(old)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """:func:`replaced_folder` of a folder that is not there yet, or empty.

    Raises:
        DataError: ``out`` is there and not an empty folder, be it that somebody else has filled it meanwhile.
    """
    out = Path(os.path.abspath(out))
    recover(out)
    _require_empty(out)
    with _folder_beside(out) as partial:
        yield partial
        _sync_all(partial)
        try:
            if out.exists():
                (out.unlink if out.is_symlink() else out.rmdir)()
            os.rename(partial, out)  # to which the system gives no place that is taken, either
        except OSError:
            _require_empty(out)
            raise
        sync(out.parent)


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(Code.EXISTS, out, "not an empty folder, and nothing in it is overwritten")


def _aside(out: Path) -> Path:
    """Where an old folder is until the new one is in its place."""
    return out.with_name(f".{out.name}.replaced")


def _remove(folder: Path) -> None:
    """Remove a folder, or a link to one, as far as that is possible."""
    with suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove what writers on this machine left behind that were killed before they could."""
    if os.name != "posix":
        return
    for folder in parent.glob(f"{prefix}*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 asks and does nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # not ours to ask about, or no process number
        return True
    return True


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
        raise WriteError(Code.NOT_WRITABLE, file.name, f"cannot be written ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """Why something cannot be written, in a line."""
    if isinstance(error.__context__, OSError):  # what PyTorch made an error of its own of
        error = error.__context__
    return getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]


def _sync_all(folder: Path) -> None:
    """:func:`sync` of a folder and all that is in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; of a folder, if its file system can say so."""
    if path.is_dir():
        with suppress(OSError):  # Windows opens no folders, and some network file systems wait for none
            _wait(path, os.O_RDONLY)
    else:
        _wait(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # Windows waits for what is open to write alone


def _wait(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: str | Path, path: str | Path) -> None:
    """Make ``path`` a hard link to the file ``source``, or a copy of it where the file system has no links."""
    path = Path(path)
    partial = partial_of(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copy2(source, partial)
    put(partial, path)
    partial.unlink(missing_ok=True)  # which stays where both are one file already


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole, or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    with written(path) as partial:
        partial.write_bytes(content)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; {} where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but hidden files: a lock, or what macOS leaves there (``.DS_Store``)."""
    return all(path.name.startswith(".") for path in folder.iterdir())
