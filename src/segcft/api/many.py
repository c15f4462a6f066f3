"""Answers to many questions, side by side; the same call goes on where an earlier one was ended.

The answers are a folder::

    images/ID.png   the counterfactuals, each of which says that it is synthetic, of what and why
    dicom/ID.dcm    the same in DICOM, where asked for
    volumes/ID.nii.gz, dicom/ID/NUMBER.dcm   of volumes, whose images have three planes
    manifest.csv    a row an answer: image, interventions, model; each variable before, after and as obtained; warnings
    rejected.csv    id, image and reason of every question that could not be answered
    passed-over.csv files in the folder, or columns and cells of the table, that were passed over, and why
    journal.jsonl   what is done already: the same command goes on from there
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segcft.api.answer import Answer
from segcft.api.answering import BATCH
from segcft.api.model import Model
from segcft.api.question import Question
from segcft.api.questions import Item, PassedOver
from segcft.api.saving import slices_of, volume_bytes
from segcft.config.study import Study
from segcft.errors import Code, DataError, InterventionError, RunError, SegcftError
from segcft.io.imagefile import check_id
from segcft.io.provenance import dicom_bytes
from segcft.io.reject import Rejected
from segcft.pipeline.pool import threads_of
from segcft.pipeline.run import Run
from segcft.training import artefact
from segcft.utils.atomic import write_bytes
from segcft.utils.journal import Journal, Table
from segcft.utils.progress import Progress
from segcft.utils.workers import Workers

PASSED = "passed-over.csv"
"""The list of what was not asked about, in the folder of answers."""

OBTAINED = ("obtained", "obtained_sd", "interval_low", "interval_high")
"""What a record says of a measure in an answer; of what is derived only the first."""


class Done(NamedTuple):
    """How many questions were answered now, how many had been, how many were rejected, and how many of the answers come
    with warnings."""

    answered: int
    before: int
    rejected: int
    warned: int


class _Outcome(NamedTuple):
    item: Item
    record: dict[str, Any] | None
    reason: str = ""


Answering = Callable[[list[Item]], list[_Outcome]]


def answer_all(
    run: Run,
    items: Sequence[Item],
    out: Path,
    device: torch.device,
    method: str | None = None,
    draws: int = 0,
    dicom: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
    passed: Sequence[PassedOver] = (),
    exact: bool = False,
) -> Done:
    """Answer every question into the folder ``out``, or those that are not answered there yet.

    Args:
        run: a run or published model.
        items: questions.
        out: new, empty, or begun with the same model and settings.
        device: where to compute.
        method: see :meth:`segcft.api.model.Model.counterfactual`.
        draws: see there; the areas' standard deviations over them are in the manifest.
        dicom: write DICOM files, too.
        jobs: processes, each with its share of the cores. With more than one, a script needs
            ``if __name__ == "__main__":``.
        progress: shows how far it is.
        passed: what is not asked about, to be listed.
        exact: see :meth:`segcft.api.model.Model.counterfactual`.

    Raises:
        DataError: ``out`` holds something else, or DICOM files are asked for of volumes of several channels.
        RunError: the model lacks a part.
    """
    progress = progress or Progress()
    if dicom and run.study.image.is_volume and run.study.image.channels != 1:
        raise DataError(Code.UNSUPPORTED, "--dicom", "a volume of several channels is no DICOM series; leave it out")
    began_with = _settings(run, method, draws, dicom) | ({"exact": True} if exact else {})
    outcomes: list[_Outcome] = []
    with Journal(out, began_with, lambda entry: _cells(run.study, entry["row"]["record"])) as journal:
        stamps = {item.id: item.stamp() for item in items}
        size = run.study.image.size
        more = [*(["volumes/{id}.nii.gz"] if len(size) == 3 else []), *(_dicom_of("{id}", size) if dicom else [])]
        waiting = [item for item in items if not journal.has(item.id, stamps[item.id], more)]
        chunks = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)]
        jobs = min(jobs, len(chunks))
        work = _Settings(run.folder, device, method, draws, dicom, out, exact)
        with (
            progress.task("Counterfactuals", len(items), len(items) - len(waiting)) as task,
            Workers[list[Item], list[_Outcome]](jobs, _begin, (work, threads_of(max(1, jobs))), progress) as workers,
        ):
            answered = map(_Answerer(work).answer, chunks) if jobs <= 1 else workers.map((c[0].id, c) for c in chunks)
            for found in answered:
                for outcome in found:
                    outcomes.append(outcome)
                    if outcome.record is not None:
                        row = {"id": outcome.item.id, "record": outcome.record}
                        journal.add({"row": row, "mask": False, "stamp": stamps[outcome.item.id]})
                    task.advance()
        # The last one counts where a question was asked again.
        records = {row["id"]: row["record"] for row in journal.rows()}
        reasons = {one.item.id: one.reason for one in outcomes if one.record is None}
        _write_tables(out, run.study, items, records, reasons)
        with Table(out / PASSED, PassedOver._fields) as table:
            for one in passed:
                table.write(one)
    rejected = sum(outcome.record is None for outcome in outcomes)
    warned = sum(bool(records[item.id]["warnings"]) for item in items if item.id in records and item.id not in reasons)
    return Done(len(outcomes) - rejected, len(items) - len(waiting), rejected, warned)


def _settings(run: Run, method: str | None, draws: int, dicom: bool) -> dict[str, Any]:
    parts = (*run.asked, *run.methods().values())
    model = {part: artefact.read_meta(run.path(part))["key"] for part in parts}
    return {"batch": "counterfactuals", "model": model, "method": method, "draws": draws, "dicom": dicom}


class _Settings(NamedTuple):
    folder: Path
    device: torch.device
    method: str | None
    draws: int
    dicom: bool
    out: Path
    exact: bool


def _begin(number: int, progress: Progress, settings: _Settings, threads: int) -> Answering:
    """Of a process: what answers questions, with a model that is opened once."""
    torch.set_num_threads(threads)
    return _Answerer(settings).answer


class _Answerer:
    """Answers questions and writes the images."""

    def __init__(self, settings: _Settings) -> None:
        self.settings, self.model = settings, Model(settings.folder, settings.device)

    def answer(self, chunk: list[Item]) -> list[_Outcome]:
        asked: list[tuple[Item, Question]] = []
        rejected: list[_Outcome] = []
        for item in chunk:
            try:
                check_id(item.id)
                if not item.do:
                    raise InterventionError(Code.MISSING, "do", "nothing is asked for")
                asked.append((item, self.model.question(item.image, item.known, item.do)))
            except RunError:
                raise
            except (SegcftError, Rejected) as error:
                rejected.append(_Outcome(item, None, str(error)))
        try:
            return [*rejected, *self._answered(asked)]
        except InterventionError:  # one that does not fit its image: the others are answered without it
            for one in asked:
                try:
                    rejected += self._answered([one])
                except InterventionError as error:
                    rejected.append(_Outcome(one[0], None, str(error)))
            return rejected

    def _answered(self, asked: Sequence[tuple[Item, Question]]) -> list[_Outcome]:
        if not asked:
            return []
        settings = self.settings
        questions = [question for _, question in asked]
        answers = self.model.answer(questions, settings.method, settings.draws, settings.exact)
        return [self._write(item, answer) for (item, _), answer in zip(asked, answers, strict=True)]

    def _write(self, item: Item, answer: Answer) -> _Outcome:
        out = self.settings.out
        write_bytes(out / "images" / f"{item.id}.png", answer.png(answer.image))
        if answer.is_volume:
            write_bytes(out / "volumes" / f"{item.id}.nii.gz", volume_bytes(answer, answer.image))
        if self.settings.dicom:
            own = [dicom_bytes(answer.image, answer.provenance, answer.spacing)] if not answer.is_volume else ()
            for name, content in zip(_dicom_of(item.id, answer.image.shape[1:]), own or slices_of(answer), strict=True):
                write_bytes(out / name, content)
        return _Outcome(item, answer.record)


def _dicom_of(id: str, size: tuple[int, ...]) -> list[str]:
    """The DICOM files of an answer of this ``size``, of a volume one a slice."""
    if len(size) == 2:
        return [f"dicom/{id}.dcm"]
    return [f"dicom/{id}/{number:04}.dcm" for number in range(1, size[0] + 1)]


def _write_tables(
    out: Path, study: Study, items: Sequence[Item], records: Mapping[str, Any], reasons: Mapping[str, str]
) -> None:
    names = (f"{name}_{field}" for name, field in _fields(study))
    with Table(out / "manifest.csv", ("id", "image", "file", "do", "method", "model", *names, "warnings")) as table:
        for item in items:
            if (record := records.get(item.id)) is not None and item.id not in reasons:
                file = f"volumes/{item.id}.nii.gz" if study.image.is_volume else f"images/{item.id}.png"
                table.write([item.id, str(item.image), file, *_cells(study, record)])
    with Table(out / "rejected.csv", ("id", "image", "reason")) as table:
        for item in items:
            if item.id in reasons:
                table.write([item.id, str(item.image), reasons[item.id]])


def _fields(study: Study) -> Iterator[tuple[str, str]]:
    """The manifest's columns: variable and field."""
    for name in study.variables:
        read = OBTAINED if name in study.measured else OBTAINED[:1] if name in study.derived else ()
        for field in ("before", "after", *read):
            yield name, field


def _cells(study: Study, record: Mapping[str, Any]) -> list[Any]:
    """A record's cells in the manifest, from ``do`` on."""
    values = (record["variables"][name].get(field, "") for name, field in _fields(study))
    cells = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
    return ["; ".join(record["do"]), record["method"], record["model"], *cells, "; ".join(record["warnings"])]
