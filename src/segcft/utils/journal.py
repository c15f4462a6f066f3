"""What work on many images writes beside them: a journal to go on with, and tables that are whole or not there."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

from segcft.errors import Code, DataError, WriteError
from segcft.utils.atomic import append, is_empty, partial_of, put, reason
from segcft.utils.lock import Lock

PICTURE = ".png"
"""Suffix of images and masks, where an entry does not name another."""


class Journal:
    """The rows of the samples that are done, a line each, after a first line with the settings.

    Args:
        out: folder that it is in.
        settings: what a journal that was begun before must have, too.
        use: called with every entry of a journal that was begun before; what it raises where an entry is not one of
            :meth:`add` (LookupError, TypeError, ValueError, AttributeError) is an error on entering.

    Raises:
        DataError: on entering, ``out`` is something else, the settings differ, or the journal is damaged.
        RunError: on entering, another process writes here.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], use: Callable[[dict[str, Any]], object]) -> None:
        self.out, self.path, self._use = out, out / "journal.jsonl", use
        self.settings = json.loads(json.dumps(settings))  # in the types that it has when it is read back
        self._file: FileIO | None = None
        self._lock = Lock(out)
        self._done: dict[str, bool] = {}  # id -> whether it has a mask
        self._files: dict[str, Sequence[str]] = {}  # id -> its further files, if it has any
        self._stamps: dict[str, str | None] = {}
        self._suffixes: dict[str, str] = {}

    def __enter__(self) -> Journal:
        if not self.path.is_file() and self.out.exists() and not (self.out.is_dir() and is_empty(self.out)):
            raise DataError(Code.EXISTS, self.out, "not begun by this command; choose another folder")
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            if self.path.is_file():
                self._resume()
            new = not self.path.is_file()
            self._file = stack.enter_context(self.path.open("ab", buffering=0))
            if new:
                self._append({"settings": self.settings})
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def has(self, id: str, stamp: str | None, more: Sequence[str] = ()) -> bool:
        """Whether ``id`` is done, of something with this stamp, and its files are there, whole as far as their size
        tells: of the image, of the mask if it has one, of its further ones, and of ``more``, e.g.
        ``"dicom/{id}.dcm"``."""
        if id not in self._done or self._stamps[id] != stamp:
            return False
        parts = ("images", *(["masks"] if self._done[id] else []))
        names = [*(f"{part}/{{id}}{self._suffixes[id]}" for part in parts), *self._files.get(id, ()), *more]
        files = [self.out / name.replace("{id}", id) for name in names]
        return all(file.is_file() and file.stat().st_size > 0 for file in files)

    def add(self, entry: dict[str, Any]) -> None:
        self._append(entry)
        self._note(entry)

    def entries(self) -> Iterator[dict[str, Any]]:
        """What :meth:`add` was given, in the order in which it was done."""
        with self.path.open("rb") as file:  # whose lines are those of _resume
            for line in itertools.islice(file, 1, None):
                yield json.loads(line)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of :meth:`entries`."""
        for entry in self.entries():
            yield entry["row"]

    def _note(self, entry: Mapping[str, Any]) -> None:
        id = entry["row"]["id"]
        self._done[id], self._stamps[id] = entry["mask"], entry.get("stamp")
        self._suffixes[id] = entry.get("suffix", PICTURE)
        self._files.pop(id, None)
        if files := entry.get("files"):
            self._files[id] = [str(name) for name in files]

    def _append(self, entry: Mapping[str, Any]) -> None:
        assert self._file is not None
        append(self._file, json.dumps(entry))

    def _resume(self) -> None:
        end = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):  # cut off while it was written
                        break
                    entry = json.loads(line.decode("utf-8"))  # not in what else JSON may be
                    if number == 0:
                        self._check(entry["settings"])
                    else:
                        self._note(entry)
                        self._use(entry)
                    end += len(line)
            os.truncate(self.path, end)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(Code.DAMAGED, self.path, f"damaged ({error}); remove {self.out} and begin again") from None
        if end == 0:
            self.path.unlink()

    def _check(self, settings: Mapping[str, Any]) -> None:
        changed = [
            f"{name} was {json.dumps(settings.get(name))} and is {json.dumps(self.settings.get(name))}"
            for name in {**settings, **self.settings}
            if settings.get(name) != self.settings.get(name)
        ]
        if changed:
            raise DataError(
                Code.OTHER,
                self.out,
                f"begun with other settings: {'; '.join(changed)}. Remove it, or choose another folder",
            )


class Table:
    """A CSV file that takes its place once it is complete. Used as a context manager."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns, self.partial = path, columns, partial_of(path)

    def __enter__(self) -> Table:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A file's name may be in another encoding than the system's, which text cannot hold.
        self._file = self.partial.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(self.columns)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None:
                put(self.partial, self.path)
        except OSError as error:
            if kind is None:
                raise WriteError(Code.NOT_WRITABLE, self.path, f"cannot be written ({reason(error)})") from None

    def write(self, cells: Sequence[Any]) -> None:
        self._writer.writerow(cells)
