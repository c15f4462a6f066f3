"""The people whose images a classifier is tried on: a folder of images, a table, or the samples of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.api.question import ImageLike, Values
from segcft.api.questions import Item, PassedOver, columns_of, folder_items, table_items, table_rows
from segcft.api.record import value_of
from segcft.config.study import Study
from segcft.data.attributes import MISSING, Row
from segcft.data.columns import find_columns
from segcft.data.store import Store
from segcft.errors import Code, DataError

TABLE, IMAGES, PATIENT = "metadata.csv", "images", "patient"


@dataclass(frozen=True)
class Person:
    """An image of somebody.

    Attributes:
        id: of the image.
        patient: who it is of.
        image: see :data:`segcft.api.question.ImageLike`.
        known: what is known of the subject.
        labels: further groups that the subject is in: a column -> its cell, "" where nothing is in it.
    """

    id: str
    patient: str
    image: ImageLike
    known: Values = ()
    labels: dict[str, str] = field(default_factory=dict)


def read_people(data: Path, study: Study, groups: Sequence[str] = ()) -> tuple[list[Person], list[PassedOver]]:
    """The people of ``data``, and what in it was passed over.

    Args:
        data: a CSV table with a column ``image`` (a path, from the table's folder); or a folder with ``images`` and
            ``metadata.csv``, whose column ``id`` names each image; or a folder of images. Tables may have the names of
            variables for what is known, and ``patient``, who each image is of. A column of another name that seems to
            be of patients stands in for it (:func:`segcft.data.columns.find_columns`). Without one each image is of
            another patient.
        study: has the variables.
        groups: columns of the table that are no variables, to group subjects by.

    Raises:
        DataError: there is no image, the table cannot be read, or lacks a column.
    """
    if data.is_dir() and not (data / TABLE).is_file():
        if missing := [name for name in groups if name not in study.variables]:
            raise DataError(Code.MISSING, data, f"without a table ({TABLE}) nobody knows {', '.join(missing)} (groups)")
        items, passed = folder_items(data, (), (), study.image.is_volume)
        return [_person(item) for item in items], passed
    table, images = (data / TABLE, data / IMAGES) if data.is_dir() else (data, None)
    items, passed = table_items(table, study, (), (), images)
    rows = table_rows(table, study, images)
    further = [name for name in groups if name not in study.variables]
    if missing := [name for name in further if name not in rows[0].cells]:
        why = f"no such column (groups); the table has {', '.join(rows[0].cells)}"
        raise DataError(Code.MISSING, f"{table}: {missing[0]}", why)
    patient = _patient_column(rows, {*columns_of(study), *groups})
    used = {*further, patient}
    people = []
    for item, row in zip(items, rows, strict=True):
        cells = {name: "" if text.lower() in MISSING else text for name, text in row.cells.items()}
        people.append(_person(item, cells.get(patient, ""), {name: cells[name] for name in further}))
    return people, [one for one in passed if one.name not in used]


def people_of_store(store: Store, rows: NDArray[np.int64], study: Study) -> list[Person]:
    """The people in some ``rows`` of a store, of whom is known what the table says and no mask."""
    table, values, people = store.table, store.values(), []
    asked = [
        k for k, (name, one) in enumerate(study.variables.items()) if name not in study.measured and not one.derived
    ]
    variables = list(study.variables.items())
    for row in rows.tolist():
        pixels = store.images[row]
        if len(pixels) == 1:
            pixels = pixels[0]
        elif not study.image.is_volume:  # of an array in colour channels come last, of a volume first
            pixels = np.moveaxis(pixels, 0, -1)
        known = {variables[k][0]: value_of(variables[k][1], torch.tensor(values[row, k])) for k in asked}
        people.append(Person(str(table["id"].iloc[row]), str(table["patient"].iloc[row]), pixels, known))
    return people


def chosen(people: Sequence[Person], most: int | None, seed: int) -> list[Person]:
    """All ``people``, or the images of so many at random, in their order.

    Raises:
        DataError: there is nobody.
    """
    if not people:
        raise DataError(Code.EMPTY, "--data", "nobody is in it")
    if most is None or len(people) <= most:
        return list(people)
    rows = np.sort(np.random.default_rng(seed).permutation(len(people))[:most])
    return [people[row] for row in rows]


def _patient_column(rows: Sequence[Row], named: set[str]) -> str:
    """The column that says who each image is of; "" where there is none."""
    if PATIENT in rows[0].cells:
        return PATIENT
    return find_columns(rows, named, "id" if "id" in rows[0].cells else "image").patient or ""


def _person(item: Item, patient: str = "", labels: dict[str, str] | None = None) -> Person:
    return Person(item.id, patient or item.id, item.image, item.known, labels or {})
