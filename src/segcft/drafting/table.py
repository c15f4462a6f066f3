"""What the table of a folder says: which column names the images, and what the others are."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segcft.config.variable import Variable
from segcft.data.attributes import MISSING, SEPARATORS, YEARS, Row, is_age, parse, read_table
from segcft.data.columns import find_columns
from segcft.drafting.structures import Seen, slug
from segcft.errors import DataError
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


def read_facts(tables: Sequence[Path], ids: Collection[str], structures: Sequence[Seen]) -> Facts | None:
    """What the table says whose rows name the most images; None where none does.

    Args:
        tables: files that may be it.
        ids: of the images.
        structures: whose areas may be in a column.
    """
    read = [(path, rows, column) for path in tables if (rows := _rows(path)) for column in rows[0].cells]
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
            attributes.append(one)
    counted = (len(ours), len(rows))
    why = {column: text for column, text in left.items() if text}
    return Facts(path, counted, id, found.patient, found.split, spacing, tuple(attributes), why, named)


def _rows(path: Path) -> list[Row]:
    """Rows of a table with all its columns; none where it cannot be read as one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
        marks = "\t" if path.suffix.lower() == ".tsv" else SEPARATORS
        cells = max((next(csv.reader([header], delimiter=mark), []) for mark in marks), key=len)
        columns = [cell.strip() for cell in cells]
        if not all(columns) or len(set(columns)) < len(columns):
            columns = [column for column in columns if column and columns.count(column) == 1]
        return read_table(path, dict.fromkeys(columns, ""))[0] if columns else []
    except (DataError, OSError, UnicodeDecodeError, csv.Error):
        return []  # it may be of anything


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
    values = Counter(known)
    if len(known) < KNOWN * len(texts):
        return f"known of {len(known)} of {len(texts)}"
    if len(values) < 2:
        return "always the same"
    numbers = [number for row in rows if (number := _number(row, column)) is not None]
    share = f", known of {len(known)} of {len(texts)}" if len(known) < len(texts) else ""
    name = slug(column) or "column"
    if len(numbers) < len(known):
        if len(values) > MOST_CATEGORIES:
            return f"{len(values)} different texts"
        categories = sorted(values)
        keys: dict[str, Any] = {"kind": "categorical", "categories": categories}
        return Attribute(name, column, keys, f"{', '.join(f'{one} {values[one]}' for one in categories)}{share}")
    whole = all(number.is_integer() for number in numbers)
    distinct = sorted(set(numbers))
    gapless = len(distinct) == len(numbers) and distinct[-1] - distinct[0] == len(distinct) - 1
    # A number that a float does not hold is a name, as that by which a simulator knows a subject.
    named = len(values) == len(numbers) and distinct[-1] > LARGEST_WHOLE
    if whole and (gapless or named):
        return "numbers the rows"
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
