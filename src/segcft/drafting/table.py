"""What the table of a folder says: which column names the images, and what the others are."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segcft.config.variable import Variable
from segcft.data.attributes import MISSING, SEPARATORS, YEARS, Row, is_age, parse, read_table
from segcft.data.columns import PATIENT, find_columns
from segcft.drafting.structures import Seen, slug
from segcft.errors import Code, DataError
from segcft.io.imagefile import strip_suffix
from segcft.io.reject import Rejected

MOST_CATEGORIES = 12
"""Values of a column of texts, above which they are notes or names."""
LARGEST_WHOLE = 2.0**53
"""Up to which a float holds every whole number."""
FEWEST_NUMBERS = 7
"""Different whole numbers, below which a column has categories that are numbered."""
KNOWN = 0.5
"""Share of the rows that must have a value."""
NAMED = 0.5
"""Share of the rows that must name an image, in the column that names them."""
MEASURED = 0.98
"""Correlation of a column with a structure's area, from which on it says the same."""
FEWEST_MEASURED = 8
"""Masks of which that is to be seen."""
MEASURE = re.compile(r"_?(?:area|volume|size|px|mm|mm2|mm3|ml|cm2|pixels|voxels)$")
"""Ends of the names of such columns."""
UNITS = re.compile(r"[_ (\[]+(mm|cm|m|kg|g|years|y|mmhg|ml|bpm|hu|ms|s)[)\]]?$")
"""Units at the end of the name of a column."""
DATE = re.compile(r"(?:^|_)(?:date|time|datetime|timestamp|day|born|birth|dob)(?:_|$)")
"""Words in the names of columns of dates, as :func:`slug` has them."""
DAY = re.compile(r"(?:19|20)\d\d[-/.]?(?:0[1-9]|1[0-2])[-/.]?(?:0[1-9]|[12]\d|3[01])")
"""A date, as of DICOM or of a spreadsheet."""
FEWEST_DIFFERENT = 30
"""Whole numbers, all different, from which on they are names."""
MOSTLY = 0.95
"""Share of the texts that are numbers, from which on the others are mistakes or ways to say that it is not known."""
PIXEL = re.compile(r"pixel|spacing")
"""Columns of the size of a pixel, in small letters."""


@dataclass(frozen=True)
class Attribute:
    """A column that may be a variable.

    Attributes:
        name: as the study has it.
        column: as the table has it.
        keys: of the variable: kind, categories, unit.
        words: what is seen of it.
    """

    name: str
    column: str
    keys: dict[str, Any]
    words: str


@dataclass(frozen=True)
class Facts:
    """What a table says.

    Attributes:
        path: of the table.
        rows: of it that name an image, and of all.
        id, patient, split: columns; None where there is none.
        spacing: columns of the height and width of a pixel in mm.
        attributes: columns that may be variables.
        left: column -> why it is none.
        named: place of a structure -> its name, from columns of its area.
    """

    path: Path
    rows: tuple[int, int]
    id: str
    patient: str | None
    split: str | None
    spacing: tuple[str, str] | None
    attributes: tuple[Attribute, ...]
    left: Mapping[str, str]
    named: Mapping[int, str] = field(default_factory=dict)


class Tables(NamedTuple):
    """What tables say, and why others are not the one."""

    facts: Facts | None
    others: tuple[str, ...]


def read_tables(tables: Sequence[Path], ids: Collection[str], structures: Sequence[Seen]) -> Tables:
    """The table whose rows name the most images.

    Args:
        tables: files that may be it.
        ids: of the images.
        structures: whose areas may be in a column.
    """
    facts = _facts(tables, ids, structures)
    others = (path for path in tables if facts is None or path != facts.path)
    return Tables(facts, tuple(f"{path.name}: {_why(path, ids)}" for path in others))


def _why(path: Path, ids: Collection[str]) -> str:
    """Why a table is not the one of the images."""
    try:
        rows = _rows(path)
    except DataError as error:
        return error.text
    bare = {id.lstrip("0") for id in ids}
    for column in rows[0].cells if rows else ():
        if sum(row.cells[column].lstrip("0") in bare for row in rows) >= NAMED * min(len(ids), len(rows)):
            return f"column {column!r} has other zeros before numbers than the names of images have"
    return "no column of it names most images"


def _facts(tables: Sequence[Path], ids: Collection[str], structures: Sequence[Seen]) -> Facts | None:
    read = [(path, rows, column) for path in tables for rows in [_readable(path)] if rows for column in rows[0].cells]
    counts = [sum(strip_suffix(row.cells[column]) in ids for row in rows) for _, rows, column in read]
    if not read or max(counts) < NAMED * min(len(ids), len(read[int(np.argmax(counts))][1])):
        return None
    path, rows, id = read[int(np.argmax(counts))]
    ours = [row for row in rows if strip_suffix(row.cells[id]) in ids]
    found = find_columns(ours, (), id)
    spacing = _spacing(ours)
    left = dict.fromkeys(filter(None, (id, found.patient, found.split, *(spacing or ()))), "")
    attributes, named = list[Attribute](), dict[int, str]()
    for column in ours[0].cells:
        if column in left:
            continue
        measured = _measured(ours, id, column, structures)
        if measured is not None:
            left[column] = "measured from the masks"
            words = MEASURE.sub("", slug(column))
            if words != slug(column):
                named.setdefault(measured, words)
            continue
        one = _attribute(ours, column)
        if isinstance(one, str):
            left[column] = one
        else:
            taken = [other.name for other in attributes]
            again = next(k for k in itertools.count(1) if (one.name if k == 1 else f"{one.name}_{k}") not in taken)
            attributes.append(one if again == 1 else replace(one, name=f"{one.name}_{again}"))
    counted = (len(ours), len(rows))
    why = {column: text for column, text in left.items() if text}
    return Facts(path, counted, id, found.patient, found.split, spacing, tuple(attributes), why, named)


def _readable(path: Path) -> list[Row]:
    try:
        return _rows(path)
    except DataError:
        return []  # which is told of


def _rows(path: Path) -> list[Row]:
    """Rows of a table with all columns that have a name of their own.

    Raises:
        DataError: it cannot be read as a table.
    """
    said = header = ""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            if header.lower().startswith("sep="):
                said, header = header[4:5], file.readline()
    except UnicodeDecodeError:
        pass  # which is told of when it is read
    except OSError as error:
        raise DataError(Code.UNREADABLE, path, f"cannot be read ({error})") from None
    marks = said or ("\t" if path.suffix.lower() == ".tsv" else SEPARATORS)
    cells = max((next(csv.reader([header], delimiter=mark), []) for mark in marks), key=len)
    names = [cell.strip() for cell in cells]
    return read_table(path, {name: "" for name in names if name and names.count(name) == 1})[0]


def _spacing(rows: Sequence[Row]) -> tuple[str, str] | None:
    """The columns of the height and width of a pixel."""
    named = {slug(column): column for column in rows[0].cells if PIXEL.search(column.lower())}
    named = {name: column for name, column in named.items() if "mm" in name or "spacing" in name}
    height = [column for name, column in named.items() if re.search(r"(?:^|_)(?:y|height|row)s?(?:_|$)", name)]
    width = [column for name, column in named.items() if re.search(r"(?:^|_)(?:x|width|col|column)s?(?:_|$)", name)]
    return (height[0], width[0]) if len(height) == len(width) == 1 else None


def _measured(rows: Sequence[Row], id: str, column: str, structures: Sequence[Seen]) -> int | None:
    """The structure of which a column has the area, by its place among all."""
    values = {strip_suffix(row.cells[id]): _number(row, column) for row in rows}
    for place, structure in enumerate(structures):
        pairs = [(area, values[one]) for one, area in structure.areas.items() if values.get(one) is not None]
        both = np.array(pairs, dtype=np.float64)
        if len(pairs) < FEWEST_MEASURED or np.ptp(both, axis=0).min() == 0:
            continue
        if float(np.asarray(np.corrcoef(both.T))[0, 1]) >= MEASURED:
            return place
    return None


def _number(row: Row, column: str) -> float | None:
    try:
        value = parse(row.cells[column], column, column, Variable(kind="continuous"), row.comma)
    except Rejected:
        return None
    return value if isinstance(value, float) else None


def _attribute(rows: Sequence[Row], column: str) -> Attribute | str:
    """A column as a variable, or why it is none."""
    texts = [row.cells[column] for row in rows]
    known = [text for text in texts if text.lower() not in MISSING]
    values, name = Counter(known), slug(column) or "column"
    if len(known) < KNOWN * len(texts):
        return f"known of {len(known)} of {len(texts)}"
    if len(values) < 2:
        return "always the same"
    if PATIENT.fullmatch(re.sub(r"[^a-z0-9]", "", column.lower())):
        return "names people"
    if DATE.search(name) or all(DAY.match(text) for text in known):
        return "dates"
    numbers = [number for row in rows if (number := _number(row, column)) is not None]
    share = f", known of {len(known)} of {len(texts)}" if len(known) < len(texts) else ""
    if len(numbers) < MOSTLY * len(known):
        if len(values) > MOST_CATEGORIES:
            return f"{len(values)} different texts"
        categories = sorted(values)
        keys: dict[str, Any] = {"kind": "categorical", "categories": categories}
        return Attribute(name, column, keys, f"{', '.join(f'{one} {values[one]}' for one in categories)}{share}")
    whole = all(number.is_integer() for number in numbers)
    distinct = sorted(set(numbers))
    gapless = len(distinct) == len(numbers) and distinct[-1] - distinct[0] == len(distinct) - 1
    # A number that a float does not hold is a name, as that by which a simulator knows a subject.
    different = len(values) == len(numbers)
    named = different and (distinct[-1] > LARGEST_WHOLE or len(numbers) >= FEWEST_DIFFERENT)
    if whole and (gapless or named):
        return "another number in every row"
    if len(numbers) < len(known):
        share += f"; {len(known) - len(numbers)} are no numbers, and their rows are left out"
    if whole and len(distinct) < FEWEST_NUMBERS:
        categories = [f"{number:g}" for number in distinct]
        counted = Counter(f"{number:g}" for number in numbers)
        keys = {"kind": "categorical", "categories": categories}
        return Attribute(name, column, keys, f"{', '.join(f'{one} {counted[one]}' for one in categories)}{share}")
    keys = {"kind": "continuous"}
    unit = UNITS.search(column.lower())
    if is_age(name, Variable(kind="continuous")):
        keys["unit"] = "years"
    elif unit and unit[1] not in YEARS - {"years"}:
        keys["unit"] = unit[1]
    low, high = min(numbers), max(numbers)
    return Attribute(name, column, keys, f"{low:g} to {high:g}, mean {math.fsum(numbers) / len(numbers):.4g}{share}")
