"""Errors that a user can act on. The command line prints their message without a traceback.

Every error says of which kind it is (``code``), what it is about (``field``) and what is wrong. Code and field stay as
they are where the words get better, so programs and tests rely on them and not on the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Code(StrEnum):
    """The kinds of errors."""

    MISSING = "missing"
    """Something that is needed is not there: a file, a column, a key, a part, an argument."""
    UNKNOWN = "unknown"
    """A name that nothing has."""
    INVALID = "invalid"
    """A value is not of the kind or the form that is expected."""
    OUT_OF_RANGE = "out-of-range"
    """A value is of the right kind, and too small, too large or not finite."""
    CONFLICT = "conflict"
    """Two things that are given contradict each other, or do not go together."""
    DUPLICATE = "duplicate"
    """One thing is given twice, or two have one name."""
    DAMAGED = "damaged"
    """A file is cut off, or not what was written."""
    UNREADABLE = "unreadable"
    """A file cannot be opened or decoded."""
    UNSUPPORTED = "unsupported"
    """What is given is sound, and of a kind that segcft does not read or do."""
    TOO_LARGE = "too-large"
    """More than the bound that protects the machine."""
    EMPTY = "empty"
    """There is nothing to work on: no usable sample, no structure, a constant image."""
    EXISTS = "exists"
    """It would have to be overwritten."""
    BUSY = "busy"
    """Somebody else writes there, or asks too much at once."""
    NOT_INSTALLED = "not-installed"
    """A package or a device is not there."""
    OTHER = "other-study"
    """It was made from another study, other samples or another version."""
    LEAK = "leak"
    """What judges was used in training: its people, or its weights."""
    FAILED = "failed"
    """A computation or a process did not come to its end."""
    NOT_WRITABLE = "not-writable"
    """A file cannot be written."""


class SegcftError(Exception):
    """Base of every error that segcft raises about its input.

    Args:
        code: of which kind it is.
        field: the file, key, column, variable or argument that it is about; "" where there is none.
        text: what is wrong, and what was expected.
    """

    def __init__(self, code: Code, field: object, text: str) -> None:
        super().__init__(code, field, text)  # all, so that it survives pickling
        self.code, self.field, self.text = code, str(field), text

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" if self.field else self.text


class StudyError(SegcftError):
    """A study file is wrong; the field is the file and the first key that is.

    Args:
        problems: of all keys that are wrong, the key and what is wrong.
    """

    def __init__(self, code: Code, field: object, text: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(code, field, text)
        self.problems = tuple(problems)


class DataError(SegcftError):
    """Images, masks or tables are wrong; the field is the file and what in it."""


class RunError(SegcftError):
    """A run folder lacks an artefact, or holds one of another study or version."""


class InterventionError(SegcftError):
    """A do() names an unknown variable or a value that it cannot take."""


class WriteError(SegcftError):
    """A file cannot be written, e.g. for want of space; what was there before is untouched."""
