"""The table of a folder data set: rows of text in, typed attributes out."""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segcft.config.variable import OLDEST, Variable
from segcft.errors import Code, DataError
from segcft.io.reject import Rejected

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "#n/a", "<na>", "."})
"""Texts of a missing value, in small letters; ``#N/A`` is a spreadsheet's, a point that of SAS and Stata."""

SEPARATORS = ",;\t|"
"""Between the cells of a table; the first one counts where the header does not tell."""

MOST_HEADER = 1 << 20
"""Characters of the line that names the columns."""

YEARS = frozenset({"years", "year", "yrs", "yr", "y", "a"})
"""Units of an age."""


_SAID = re.compile(r"sep=([,;\t|])\s*", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"([+-]?\d+),(\d+)((?:[eE][+-]?\d+)?)", re.ASCII)


@dataclass(frozen=True)
class Row:
    """A line of the table: its number in the file, from 1, and its cells by column.

    ``comma`` says that numbers may be written with a decimal comma, as where cells are parted by semicolons.
    """

    line: int
    cells: dict[str, str]
    comma: bool = False


def read_table(
    path: Path, required: dict[str, str], optional: Sequence[str] = ()
) -> tuple[list[Row], list[tuple[int, str]]]:
    """Read a table of text (UTF-8), cells without surrounding blanks. Lines of nothing but empty cells are no rows.

    Cells are parted by tabs in a file called ``.tsv``, and else by that one of :data:`SEPARATORS` with which the header
    has the most of the columns that are read. Spreadsheets of countries with a decimal comma write semicolons. A line
    ``sep=;`` before the header, for Excel, says it.

    Args:
        path: the file.
        required: column that must be there -> what it is for, as errors say it.
        optional: columns that are read, too, if they are there.

    Returns:
        rows in order, and (line, reason) of the lines that have too few or too many cells.

    Raises:
        DataError: the file cannot be read, has no rows, lacks a required column, or has one that is read twice.
    """
    rows: list[Row] = []
    ragged: list[tuple[int, str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(MOST_HEADER)
            said = _SAID.fullmatch(first)
            if not said:
                file.seek(0)
            separator = said[1] if said else _separator(path, first, {*required, *optional})
            reader = csv.reader(file, delimiter=separator, strict=True)
            before = 1 if said else 0
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(path, header, required, optional)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    ragged.append((reader.line_num + before, f"{len(cells)} cells in a table of {len(header)} columns"))
                    continue
                texts = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                rows.append(Row(reader.line_num + before, texts, separator == ";"))
    except FileNotFoundError:
        raise DataError(Code.MISSING, path, "no such table") from None
    except UnicodeDecodeError:
        why = "cannot read this table: it is not in UTF-8; in a spreadsheet, save it as 'CSV UTF-8'"
        raise DataError(Code.UNREADABLE, path, why) from None
    except (OSError, csv.Error) as error:
        raise DataError(Code.UNREADABLE, path, f"cannot read this table ({error})") from None
    if not rows:
        why = f"; line {ragged[0][0]}: {ragged[0][1]}" if ragged else ""
        raise DataError(Code.EMPTY, path, f"no usable row{why}")
    return rows, ragged


def _separator(path: Path, header: str, wanted: set[str]) -> str:
    """What parts the cells of a table that begins with the line ``header`` and has the columns ``wanted``."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    found = {mark: {cell.strip().strip('"') for cell in header.split(mark)} & wanted for mark in SEPARATORS}
    return max(SEPARATORS, key=lambda mark: len(found[mark]))


def parse(text: str, name: str, column: str, variable: Variable, comma: bool = False) -> float | str | None:
    """The value of ``variable`` that a cell spells; None where the cell is empty or says that it is missing.

    A number has the digits 0 to 9, at most one point and an exponent, and nothing else: ``45``, ``-4.5``, ``1e3``. With
    ``comma`` it may have a comma for the point. Whether a number can be believed says :func:`believed`.

    Raises:
        Rejected: it is not a number or category that the variable can be.
    """
    where = f"column {column!r}" if column == name else f"column {column!r} ({name})"
    if text in variable.categories:
        return text
    if text.lower() in MISSING:
        return None
    number = _number(text, comma, where)
    if variable.kind == "categorical":
        # Tables that once held missing values often spell the category 1 as 1.0.
        same = [c for c in variable.categories if number is not None and _number(c) == number]
        if same:
            return same[0]
        raise Rejected(f"{where}: unknown category {text!r}; the study has {', '.join(variable.categories)}")
    if number is None or not math.isfinite(number):
        raise Rejected(f"{where}: {text!r} is not a number; expected digits and a point, as in 45.5, without a unit")
    if not variable.allows(number):
        needs = "not be negative" if variable.zero_inflated else "be positive"
        raise Rejected(f"{where}: {text} must {needs}, the variable is on a log scale")
    return number


def is_age(name: str, variable: Variable) -> bool:
    """Whether a variable is an age in years: its unit says so, or it has none and is called so, as ``age_at_scan``."""
    if variable.kind != "continuous":
        return False
    return variable.unit.lower() in YEARS or (not variable.unit and "age" in re.split(r"[^a-z]+", name.lower()))


def believed_range(name: str, variable: Variable) -> tuple[float, float]:
    """The least and the largest number that a value can be: the variable's ``range``, which is 0 to
    :data:`OLDEST` of an age unless the study says another one. 999 and -1 are ways to say that an age is not known."""
    return variable.range or ((0, OLDEST) if is_age(name, variable) else (-math.inf, math.inf))


def believed(number: float, name: str, variable: Variable) -> bool:
    """Whether a number is in the :func:`believed_range`."""
    low, high = believed_range(name, variable)
    return low <= number <= high


def disbelief(number: float, name: str, variable: Variable) -> str:
    """Why a table's number counts as missing: it is not :func:`believed`; "" where it is."""
    if believed(number, name, variable):
        return ""
    low, high = believed_range(name, variable)
    return (
        f"{number:g} is not within {low:g} to {high:g} and counts as missing; if it is right, set "
        f"variables.{name}.range in the study"
    )


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """``; did you mean ...?`` for a misspelt name, or nothing; ``alike``: how much, from 0 to 1."""
    known = list(known)
    lower = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=alike)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""


def _check_header(path: Path, header: list[str], required: dict[str, str], optional: Sequence[str]) -> None:
    if not any(header):
        raise DataError(Code.EMPTY, path, "the table is empty")
    for column in (*required, *optional):
        if header.count(column) > 1:
            raise DataError(Code.DUPLICATE, f"{path}: column {column!r}", f"is there {header.count(column)} times")
    for column, purpose in required.items():
        if column not in header:
            why = f"no such column ({purpose}); the table has {', '.join(header)}{nearest(column, header)}"
            raise DataError(Code.MISSING, f"{path}: column {column!r}", why)


def _number(text: str, comma: bool = False, where: str = "") -> float | None:
    if comma and (match := _COMMA.fullmatch(text)):
        whole, decimals, exponent = match.groups()
        if len(decimals) == 3 and int(whole) and not exponent and len(whole.lstrip("+-")) <= 3:
            raise Rejected(f"{where}: {text!r} may be {whole}{decimals} or {whole}.{decimals}; write it with a point")
        text = f"{whole}.{decimals}{exponent}"
    return float(text) if _NUMBER.fullmatch(text) else None
