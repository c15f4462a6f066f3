"""Another method's place in the table: the questions of an evaluation as files, and the answers that come back.

A folder of questions::

    images/ID.png    the samples as they are, on the study's grid
    questions.csv    a row a question: id, image, do; each variable as it is, and as VARIABLE_after what it is to be

Whoever answers makes an image of the same size for each question, and a table with the columns ``id`` and ``do`` of the
question, and ``file``, from the table's folder. ``questions.csv`` is a table that ``segcft counterfactual`` takes, and
its ``manifest.csv`` is such a table of answers.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from segcft.causal.intervention import Intervention, parse_intervention
from segcft.data.attributes import read_table
from segcft.errors import Code, DataError, InterventionError, SegcftError
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


_NAME = re.compile(r"[\w.+()-]+( [\w.+()-]+)*")


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
    for id in ids:
        _check_id(cohort, id)
    shutil.rmtree(folder / "images", ignore_errors=True)
    table, values = folder / "questions.csv", cohort.values
    columns = ("id", "image", "do", *study.variables, *(name + AFTER for name in study.variables))
    # The table comes first: by it a folder is known in which this was interrupted.
    with Table(table, columns) as rows:
        done = 0
        for answers in asked:
            for variable, after in answers.items():
                for k, id in enumerate(ids[done : done + len(after)]):
                    known, wanted = _said(cohort, values[done + k]), _said(cohort, after[k])
                    do, cells = Intervention(variable, wanted[variable]), (*known.values(), *wanted.values())
                    rows.write([question(variable, id), f"images/{id}.png", str(do), *map(_cell, cells)])
            done += len(next(iter(answers.values())))
    with (progress or Progress()).task("Writing images", len(cohort)) as task:
        for samples in cohort.batches():
            for place, pixels in zip(samples.places.tolist(), to_grey_levels(samples.image).cpu().numpy(), strict=True):
                write_bytes(folder / "images" / f"{ids[place]}.png", png_bytes(pixels))
            task.advance(len(samples.image))
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
            table: see above.
            cohort: the samples that were asked about.
            asked: variable -> the value that each sample's was set to, (N,).

        Raises:
            DataError: the table cannot be read, a question has no answer or two, one is of another question, or a file
                is not there.
        """
        rows, ragged = read_table(table, {"id": "question", "file": "image file", "do": "intervention"})
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
            if not _is_asked(cohort, row.cells["do"], *wanted[id]):
                raise DataError(Code.OTHER, f"{line}: do", f"{row.cells['do']!r} is not what this sample is asked")
            files[id] = table.parent / row.cells["file"]
            if not row.cells["file"] or not files[id].is_file():
                raise DataError(Code.MISSING, f"{line}: file", f"there is no file {files[id]}")
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
                raise DataError(Code.UNREADABLE, path, str(error).removeprefix(f"{path}: ")) from None
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
    taken = {name.casefold() for name in (*names.METHODS, *names.METHODS.values())}
    for method in methods:
        if not _NAME.fullmatch(method) or {"-", "less"} & set(method.casefold().split()):
            why = "expected a name of letters, digits and . + ( ) _ -, words parted by one blank, none of them 'less'"
            raise SegcftError(Code.INVALID, "--answers", f"{method!r}: {why}")
        if method.casefold() in taken:
            raise SegcftError(Code.DUPLICATE, "--answers", f"{method!r}: something else in the table is called so")
        taken.add(method.casefold())


def _said(cohort: Cohort, values: Tensor) -> dict[str, float | str]:
    """Variable -> its value among those of a sample (V,), categories by name."""
    pairs = zip(cohort.study.variables.items(), values.tolist(), strict=True)
    return {name: one.categories[int(value)] if one.categories else value for (name, one), value in pairs}


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


def _is_asked(cohort: Cohort, do: str, variable: str, value: float) -> bool:
    """Whether the text ``do`` sets ``variable`` to ``value``."""
    try:
        one = parse_intervention(do, cohort.study.variables)
    except InterventionError:
        return False
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
