"""What to raise where one sample is unusable while the rest of the data set is fine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

WARNINGS = "warnings.csv"
"""The list of remarks, in a store and in a converted data set."""


class Rejected(Exception):  # noqa: N818 - an outcome of reading a sample, not a failure of the import
    """One sample cannot be used; the message names the file or field and says why."""


class Remark(NamedTuple):
    """A sample is used, and its files may not be what the user means."""

    kind: str
    """What remarks are counted by, e.g. ``"no pixel spacing"``."""
    text: str
    """One sentence or two: the file, what was found, and what to do."""

    def of(self, path: object, name: str = "") -> Remark:
        """The same without the ``path`` of the file, which may hold names of patients: it is called ``name``."""
        text = self.text if name else self.text.removeprefix(f"{path}: ")
        return self._replace(text=text.replace(str(path), name or "the file"))

    def at(self, path: object) -> Remark:
        """The same, beginning with the ``path`` of the file."""
        return self._replace(text=f"{path}: {self.text}")


REMARK_COLUMNS = ("id", *Remark._fields)
"""Of :data:`WARNINGS`; the id is "" where the remark is on the data set as a whole."""


def summarise(remarks: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines of warnings: of each kind how many samples have it and its first text.

    Args:
        remarks: rows of :data:`REMARK_COLUMNS`.
    """
    counts: Counter[tuple[bool, str]] = Counter()
    first: dict[tuple[bool, str], str] = {}
    for id, kind, text in remarks:
        counts[bool(id), kind] += 1
        first.setdefault((bool(id), kind), text)
    lines = []
    for (of_sample, kind), count in counts.items():
        samples = f"{count} sample{'s' if count > 1 else ''} ({kind}; see {WARNINGS}): " if of_sample else ""
        lines.append(f"warning: {samples}{first[of_sample, kind]}")
    return lines


def bare(reason: Rejected) -> Rejected:
    """``reason`` without its history, whose frames keep alive what they have read, be it whole volumes."""
    reason.__context__ = None
    return reason.with_traceback(None)


class Excluded(Rejected):
    """A sample is left out for a reason that is counted under ``kind``, e.g. ``"not a PA projection"``.

    Any other :class:`Rejected` counts as :data:`UNREADABLE`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)  # both, so that it survives pickling
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return self.reason


class Unreadable(Excluded):
    """The file is at fault, not what it shows: of two copies the other one may be fine."""


@contextmanager
def about(path: object, kind: str = "") -> Iterator[None]:
    """Name ``path`` in what is refused, unless it is named there, and the ``kind`` of a reason that has none."""
    try:
        yield
    except Rejected as reason:
        text = str(reason)
        named = text.startswith((f"{path}: ", f"{path}{os.sep}"))  # itself, or a file in it
        text = text if named else f"{path}: {text}"
        if isinstance(reason, Excluded):
            raise type(reason)(reason.kind, text) from None
        raise (Excluded(kind, text) if kind else Rejected(text)) from None


@contextmanager
def reading(path: object, what: str) -> Iterator[None]:
    """:func:`about`, where whatever else a library raises over a broken file is a :class:`Rejected` as well.

    Args:
        path: of the file.
        what: it is, e.g. "NIfTI file".
    """
    with about(path):
        try:
            yield
        except Rejected:
            raise
        except Exception as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise Rejected(f"cannot read this {what} ({line})") from None
