"""The table of a folder data set: rows of text in, typed attributes out."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segcft.data.reject import Rejected
from segcft.errors import DataError
from segcft.study import Variable

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True)
class Row:
    """A line of the table: its number in the file, from 1, and its cells by column."""

    line: int
    cells: dict[str, str]


def read_table(path: Path, required: dict[str, str]) -> tuple[list[Row], list[tuple[int, str]]]:
    """Read a CSV file (UTF-8, comma; ``.tsv``: tab), cells as text without surrounding blanks.

    Args:
        path: the file.
        required: column that must be there -> what it is for, as errors say it.

    Returns:
        rows in order, and (line, reason) of the lines that have too few or too many cells.

    Raises:
        DataError: the file cannot be read, has no rows, or lacks a required column or has it twice.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows: list[Row] = []
    ragged: list[tuple[int, str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(path, header, required)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    ragged.append((reader.line_num, f"{len(cells)} cells in a table of {len(header)} columns"))
                    continue
                texts = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                rows.append(Row(reader.line_num, texts))
    except FileNotFoundError:
        raise DataError(f"{path}: no such table (data.table)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot read this table ({error})") from None
    if not rows:
        raise DataError(f"{path}: no usable row" + (f"; line {ragged[0][0]}: {ragged[0][1]}" if ragged else ""))
    return rows, ragged


def parse(text: str, name: str, column: str, variable: Variable) -> float | str | None:
    """The value of ``variable`` that a cell spells; None where the cell is empty or says that it is missing.

    Raises:
        Rejected: it is not a number or category that the variable can be.
    """
    where = f"column {column!r}" if column == name else f"column {column!r} ({name})"
    if text in variable.categories:
        return text
    if text.lower() in MISSING:
        return None
    number = _number(text)
    if variable.kind == "categorical":
        # Tables that once held missing values often spell the category 1 as 1.0.
        same = [c for c in variable.categories if number is not None and _number(c) == number]
        if same:
            return same[0]
        raise Rejected(f"{where}: unknown category {text!r}; the study has {', '.join(variable.categories)}")
    if number is None or not math.isfinite(number):
        raise Rejected(f"{where}: {text!r} is not a number")
    if not variable.allows(number):
        needs = "not be negative" if variable.zero_inflated else "be positive"
        raise Rejected(f"{where}: {text} must {needs}, the variable is on a log scale")
    return number


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` for a misspelt name, or nothing."""
    known = list(known)
    lower = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""


def _check_header(path: Path, header: list[str], required: dict[str, str]) -> None:
    if not any(header):
        raise DataError(f"{path}: the table is empty")
    for column, purpose in required.items():
        if header.count(column) > 1:
            raise DataError(f"{path}: column {column!r} is there {header.count(column)} times")
        if column not in header:
            hint = nearest(column, header)
            if len(header) == 1 and (other := next((d for d in ";\t|" if d in header[0]), None)):
                hint = f"; cells seem to be separated by {other!r}, not by a comma"
            raise DataError(f"{path}: no column {column!r} ({purpose}); it has {', '.join(header)}{hint}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
