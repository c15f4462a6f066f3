"""Another method's place in the table: the questions of an evaluation as files, and the answers that come back.

A folder of questions::

    images/ID.png    the samples as they are, on the study's grid
    questions.csv    a row a question: id, image, do; each variable as it is, and as VARIABLE_after what it is to be

Whoever answers makes an image of the same size for each question, and a table with the columns ``id``, of the question,
and ``file``, from the table's folder. ``questions.csv`` is a table that ``segcft counterfactual`` takes, and its
``manifest.csv`` is such a table of answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from segcft.causal.intervention import Intervention, parse_intervention
from segcft.data.attributes import read_table
from segcft.errors import Code, DataError, SegcftError
from segcft.evaluate import names
from segcft.evaluate.cohort import Cohort
from segcft.grey import rounded, to_grey_levels
from segcft.io.imagefile import check_id, read_image
from segcft.io.provenance import png_bytes
from segcft.io.reject import Rejected
from segcft.utils.atomic import write_bytes
from segcft.utils.journal import Table
from segcft.utils.progress import Progress

AFTER = "_after"
"""At the end of the columns that say what variables are to be."""

SAME = 1e-4
"""Share by which a value in a table may differ from the one that was asked for: tables round."""


def question(variable: str, sample: str) -> str:
    """The id of the question what ``sample`` were under an intervention on ``variable``."""
    return f"{variable}/{sample}"


def write_questions(
    cohort: Cohort, asked: Iterable[Mapping[str, Tensor]], folder: Path, progress: Progress | None = None
) -> Path:
    """Write the questions of an evaluation to ``folder``; the table of them.

    Args:
        cohort: the samples that are asked about.
        asked: of each of its batches, variable -> what intervening on it makes the values, (B, V).
        folder: new, or of questions written before, which are replaced.
        progress: is told how far the work is.

    Raises:
        DataError: an id is no name of a file, or the study has volumes.
    """
    study, ids = cohort.study, cohort.named("id")
    if len(study.image.size) != 2:
        raise DataError(Code.INVALID, study.name, "questions are written as pictures, and its images are volumes")
    told = [name for name, variable in study.variables.items() if not variable.derived]
    table = folder / "questions.csv"
    columns = ("id", "image", "do", *told, *(name + AFTER for name in study.variables))
    with (progress or Progress()).task("Writing questions", len(cohort)) as task, Table(table, columns) as rows:
        for samples, answers in zip(cohort.batches(), asked, strict=True):
            here = [ids[place] for place in samples.places.tolist()]
            pixels = to_grey_levels(samples.image).cpu().numpy()
            for k, id in enumerate(here):
                _check_id(cohort, id)
                write_bytes(folder / "images" / f"{id}.png", png_bytes(pixels[k]))
            for variable, after in answers.items():
                for k, id in enumerate(here):
                    known, wanted = _said(cohort, samples.values[k]), _said(cohort, after[k])
                    do = Intervention(variable, wanted[variable])
                    cells = (*(known[name] for name in told), *wanted.values())
                    rows.write([question(variable, id), f"images/{id}.png", str(do), *map(_cell, cells)])
            task.advance(len(here))
    return table


@dataclass(frozen=True)
class GivenAnswers:
    """The answers that a ``method`` gave: ``files`` of images, by the id of the question."""

    method: str
    cohort: Cohort
    files: Mapping[str, Path]

    @classmethod
    def read(cls, method: str, table: Path, cohort: Cohort, asked: Mapping[str, Tensor]) -> GivenAnswers:
        """The answers in a ``table`` of files, which must be of all questions.

        Args:
            method: what it is called in tables.
            table: see above. Where it has a column ``do``, that must be what was asked for.
            cohort: the samples that were asked about.
            asked: variable -> the value that each sample's was set to, (N,).

        Raises:
            DataError: the table cannot be read, a question has no answer or two, or one is of another question.
        """
        rows, ragged = read_table(table, {"id": "question that is answered", "file": "image file"}, ("do",))
        if ragged:
            raise DataError(Code.INVALID, f"{table}: line {ragged[0][0]}", ragged[0][1])
        ids = cohort.named("id")
        wanted = {
            question(variable, id): (variable, float(value))
            for variable, values in asked.items()
            for id, value in zip(ids, values, strict=True)
        }
        files: dict[str, Path] = {}
        for row in rows:
            id, line = row.cells["id"], f"{table}: line {row.line}"
            if id not in wanted:
                raise DataError(Code.UNKNOWN, f"{line}: id", f"{id!r} is no question to these samples")
            if id in files:
                raise DataError(Code.DUPLICATE, f"{line}: id", f"{id!r} has two answers")
            if "do" in row.cells and not _is_asked(cohort, row.cells["do"], *wanted[id]):
                raise DataError(Code.OTHER, f"{line}: do", f"{row.cells['do']!r} is not what these samples are asked")
            files[id] = table.parent / row.cells["file"]
        missing = [id for id in wanted if id not in files]
        if missing:
            why = f"{len(missing)} of {len(wanted)} questions have no answer, the first is {missing[0]!r}"
            raise DataError(Code.MISSING, table, f"{why}; methods are compared on the same ones")
        return cls(method, cohort, files)

    def images(self, variable: str, places: Tensor) -> Tensor:
        """The answers of samples at ``places`` (B,) of the cohort under an intervention on ``variable``, (B, C, *size)
        in [-1, 1], at grey levels of 8 bits.

        Raises:
            DataError: an image cannot be read, or has another size.
        """
        ids, size = self.cohort.named("id"), self.cohort.study.image
        found = []
        for place in places.tolist():
            path = self.files[question(variable, ids[place])]
            try:
                grey = read_image(path, size.channels).grey
            except Rejected as error:
                raise DataError(Code.UNREADABLE, path, str(error)) from None
            if grey.shape[1:] != tuple(size.size):
                given, wanted = (" x ".join(map(str, shape)) for shape in (grey.shape[1:], size.size))
                raise DataError(Code.INVALID, path, f"{given} pixels, where the study has {wanted}")
            found.append(torch.from_numpy((2 * grey - 1).astype(np.float32)))
        return rounded(torch.stack(found)).to(places.device)


def check_methods(methods: Sequence[str]) -> None:
    """Check that other methods can be told from each other, and from all else in tables.

    Raises:
        SegcftError: they cannot.
    """
    taken = {*names.METHODS, *names.METHODS.values()}
    for method in methods:
        if not method.strip() or not method.isprintable() or names.is_difference(method) or names.guided_by(method):
            raise SegcftError(Code.INVALID, f"--answers {method}", "expected a name that is nothing else's in tables")
        if method in taken:
            raise SegcftError(Code.DUPLICATE, f"--answers {method}", "something else in the table is called so")
        taken.add(method)


def _said(cohort: Cohort, values: Tensor) -> dict[str, float | str]:
    """Variable -> its value among those of a sample (V,), categories by name."""
    pairs = zip(cohort.study.variables.items(), values.tolist(), strict=True)
    return {name: one.categories[int(value)] if one.categories else value for (name, one), value in pairs}


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


def _is_asked(cohort: Cohort, do: str, variable: str, value: float) -> bool:
    """Whether the text ``do`` sets ``variable`` to ``value``."""
    one = parse_intervention(do, cohort.study.variables)
    if one.variable != variable or one.kind != "set":
        return False
    if isinstance(one.amount, str):
        return cohort.study.variables[variable].categories[int(value)] == one.amount
    return math.isclose(one.amount, value, rel_tol=SAME, abs_tol=SAME)


def _check_id(cohort: Cohort, id: str) -> None:
    try:
        check_id(PurePosixPath(id).as_posix())
    except Rejected as error:
        raise DataError(Code.INVALID, cohort.store.folder, str(error)) from None
