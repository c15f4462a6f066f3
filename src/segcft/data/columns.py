"""What a table says of who is who and of its split, in columns that the study does not name.

Images of one subject in training and in test make every figure too good, and nothing in the images tells. Tables often
have a column of patients, or of the parts of a split; a study that does not name it would split the images by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from segcft.data.attributes import MISSING, Row
from segcft.data.splits import PARTS
from segcft.io.reject import Remark

_NUMBERED = r"(?:ids?|nr|no|num|number|nummer|key|code|name|uid|hash|identifier|index)"
PATIENT = re.compile(
    r"(?:id|pseudo|anon|src|u|study|deid|deidentified)?"
    r"(?:(?:patient|patienten|subject|subj|person|participant|individual|donor|case|mrn|medrecno|pid|ptid|n?f?eid)s?"
    rf"{_NUMBERED}?"
    rf"|(?:pat|empi){_NUMBERED}|sub(?:id|nr|no)|empianon|record(?:id|no)|rid)"
)
"""Names of columns of patients, in small letters and digits alone: ``Patient ID`` is ``patientid``, and CDISC's
``USUBJID`` is ``usubjid``."""

SPLIT = frozenset({"split", "splits", "set", "subset", "fold", "partition", "part", "dataset", "phase", "datasplit"})
"""Names of columns of the parts of a split."""

SPELLINGS = {**{part: part for part in PARTS}, "val": "validation", "valid": "validation", "training": "train"}
SPELLINGS |= {"testing": "test"}
"""How a table may spell a part, in small letters."""

FEWEST_PATIENTS = 3
"""Values of a column of patients; one of two, like yes and no, says something else."""

FEWEST_NAMES = 10
"""Values of one without any digit; a ``case`` that is mild, severe or none is no subject, and a ``subject`` may be a
part of the body."""

SHARING = 0.5
"""The share of ids that must share their beginning with another one to look like several images of a subject."""

_SEPARATOR = re.compile(r"(?<=.)[_\-./ ](?=.)")


class Columns(NamedTuple):
    """What is found in a table."""

    patient: str | None
    """A column of patients of whom there are several images."""
    split: str | None
    """A column of the parts of a split."""


def find_columns(rows: Sequence[Row], named: Collection[str], id: str) -> Columns:
    """The columns of ``rows`` that seem to say who is who, and who is in which part, beside those that are ``named``.

    Args:
        rows: of the table.
        named: columns that the study names.
        id: the column of ids.
    """
    patient = split = None
    for column in rows[0].cells if rows else ():
        if column in named or column == id:
            continue
        name = re.sub(r"[^a-z0-9]", "", column.lower())
        if patient is None and PATIENT.fullmatch(name) and _repeats(rows, column, id):
            patient = column
        if split is None and name in SPLIT and _are_parts(rows, column):
            split = column
    return Columns(patient, split)


def _repeats(rows: Sequence[Row], column: str, id: str) -> bool:
    """Whether some values of a column are of several ids, and they are many enough to be subjects."""
    pairs = {(row.cells[column], row.cells[id]) for row in rows if row.cells[column].lower() not in MISSING}
    images = Counter(patient for patient, _ in pairs)
    numbered = any(character.isdigit() for patient in images for character in patient)
    return len(images) >= (FEWEST_PATIENTS if numbered else FEWEST_NAMES) and max(images.values()) > 1


def _are_parts(rows: Sequence[Row], column: str) -> bool:
    """Whether a column names parts of a split, at least two, and nothing else."""
    texts = {row.cells[column].lower() for row in rows} - MISSING
    return texts <= SPELLINGS.keys() and len({SPELLINGS[text] for text in texts}) > 1


def other_split(rows: Sequence[Row], column: str, part: Callable[[Row], str | None]) -> list[Remark]:
    """The remark on a column of parts that the study does not name: how many it puts elsewhere than the
    study's own ``part`` of a row does. A split that this program drew itself, and would draw again, is none."""
    moved = 0
    for row in rows:
        text, own = row.cells[column].lower(), part(row)
        moved += text in SPELLINGS and own is not None and SPELLINGS[text] != own
    if not moved:
        return []
    return [
        Remark(
            "split not used",
            f"column {column!r} names parts of a split, and the study draws its own, in which {moved} of {len(rows)} "
            f"rows are in another part; if the column is the split, add 'split: {column}' to the study's data section",
        )
    ]


def alike_ids(ids: Sequence[str]) -> list[Remark]:
    """The remark where ids like ``p001_a`` and ``p001_b`` seem to be several images of a subject.

    Most ids share their beginning, up to one of their separators, with another id, and there are more beginnings than
    endings: in ``site_0001``, ``site_0002`` it is the other way round. Subjects may have several sessions, as in
    ``sub-01_ses-1_T1w`` and ``patient01/study1/view1``.
    """
    for depth in range(1, 1 + max((len(_SEPARATOR.findall(id)) for id in ids), default=0)):
        parts = [part for id in ids if (part := _parted(id, depth)) is not None]
        beginnings = Counter(beginning for beginning, _ in parts)
        shared = sum(count for count in beginnings.values() if count > 1)
        if shared >= SHARING * len(ids) and len(beginnings) > len({ending for _, ending in parts}):
            return [
                Remark(
                    "ids alike",
                    f"{shared} of {len(ids)} ids share their beginning with another, like {_alike(ids, depth)}; if "
                    "those are images of one subject, add a column of patients to the table and 'patient: COLUMN' to "
                    "the study's data section ('patient: ID', with the name of the column of ids, says that they are "
                    "not)",
                )
            ]
    return []


def _parted(id: str, depth: int) -> tuple[str, str] | None:
    """What is before and after one separator of an id, counted from its end; None where there are fewer."""
    places = list(_SEPARATOR.finditer(id))
    if len(places) < depth:
        return None
    place = places[-depth]
    return id[: place.start()], id[place.end() :]


def _alike(ids: Sequence[str], depth: int) -> str:
    """Two ids that begin alike."""
    known: dict[str, str] = {}
    for id in ids:
        part = _parted(id, depth)
        if part is not None and known.setdefault(part[0], id) != id:
            return f"{known[part[0]]!r} and {id!r}"
    return ""
