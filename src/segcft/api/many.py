"""Questions about many images: a folder or a table of them, answered in parallel, and gone on with when cut off.

The answers are a folder::

    images/ID.png   the counterfactuals, each of which says that it is synthetic, of what and why
    dicom/ID.dcm    the same in DICOM, where asked for
    manifest.csv    a row an answer: image, interventions, model; each variable before, after and as obtained; warnings
    rejected.csv    id, image and reason of every question that could not be answered
    passed-over.csv files in the folder, or columns and cells of the table, that were passed over, and why
    journal.jsonl   what is done already: the same command goes on from there
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch

from segcft.api.answer import Answer
from segcft.api.model import BATCH, Model
from segcft.api.question import MATCH, Question
from segcft.causal.intervention import Intervention
from segcft.config.study import Study
from segcft.data.attributes import MISSING, Row, disbelief, nearest, parse, read_table
from segcft.errors import DataError, InterventionError, RunError, SegcftError
from segcft.io.dicomhead import DICOMDIR
from segcft.io.imagefile import SUFFIXES, check_id, is_dicom, strip_suffix
from segcft.io.provenance import dicom_bytes, png_bytes
from segcft.io.reject import Rejected
from segcft.pipeline.pool import end_with_parent
from segcft.pipeline.run import Run
from segcft.training import artefact
from segcft.utils.atomic import reason, write_bytes
from segcft.utils.digest import key_of
from segcft.utils.journal import Journal, Table
from segcft.utils.progress import Progress

ALIKE = 0.8
"""How alike, from 0 to 1, the name of a further column may not be to that of one that is missing."""

PASSED = "passed-over.csv"
"""The list of what was not asked about, in the folder of answers."""


@dataclass(frozen=True)
class Item:
    """A question of a batch.

    Attributes:
        id: of its answer's files, which may be in a subfolder.
        image: the file.
        known: what is known of the person, ``VARIABLE=VALUE`` each.
        do: the interventions, ``VARIABLE=AMOUNT`` each.
    """

    id: str
    image: Path
    known: tuple[str, ...]
    do: tuple[str, ...]

    def stamp(self) -> str:
        """Changes with the question, with the image's file and with those that values are taken from."""
        others = (path for path in map(_matched, self.do) if path is not None)
        return key_of(str(self.image), self.known, self.do, *map(_state, (self.image, *others)))


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: no path can be called so
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


class Done(NamedTuple):
    """How many questions were answered now, how many had been, and how many were rejected."""

    answered: int
    before: int
    rejected: int


class Passed(NamedTuple):
    """What was not asked about, a file, or not read, a column or cell of a table; and why."""

    name: str
    reason: str


class Asked(NamedTuple):
    """The questions of a batch, and what was passed over."""

    items: list[Item]
    passed: list[Passed]


class _Outcome(NamedTuple):
    item: Item
    record: dict[str, Any] | None
    reason: str = ""


def folder_items(folder: Path, known: Sequence[str], do: Sequence[str]) -> Asked:
    """The same question about every image file in ``folder`` and below, in the order of their names.

    An image has the suffix of one (:data:`segcft.io.imagefile.SUFFIXES`), or is a DICOM file, whatever it is called:
    those of an archive have no suffix, or ``.IMA``. Files whose names begin with a dot are the system's.

    Raises:
        DataError: there is no image.
    """
    images, passed = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        if path.name.upper() == DICOMDIR:
            passed.append(Passed(name, "the contents of a DICOM medium, no image"))
        elif path.name.lower().endswith(SUFFIXES) or is_dicom(path):
            images.append((name, path))
        else:
            passed.append(Passed(name, f"no DICOM file, and its name ends in none of {', '.join(SUFFIXES)}"))
    if not images:
        others = f"; it has {len(passed)} other files, like {passed[0].name}" if passed else ""
        raise DataError(f"{folder}: has no image ({', '.join(SUFFIXES)}, or DICOM){others}")
    ids = _distinct([strip_suffix(name) for name, _ in images])
    return Asked(
        [Item(id, path, tuple(known), tuple(do)) for id, (_, path) in zip(ids, images, strict=True)],
        passed,
    )


def table_items(table: Path, study: Study, known: Sequence[str], do: Sequence[str]) -> Asked:
    """The questions of a table, a row each, which is read as a study's own is; see
    :func:`segcft.data.attributes.read_table`.

    Its columns are ``image`` (a path, from the table's folder), ``do`` (interventions, with ``;`` between them; paths
    of ``match:`` are from the table's folder, too) and the names of variables, for what is known; all but ``image`` may
    be left out, empty or NA. ``id`` names the answers (default: as the image). ``known`` and ``do`` hold where a row
    does not say. Further columns are passed over, unless they are called almost like one of these.

    Raises:
        DataError: it is no such table.
    """
    expected = ("id", "image", "do", *study.variables)
    rows, ragged = read_table(table, {"image": "file of the image"}, expected)
    if ragged:
        raise DataError(f"{table}: line {ragged[0][0]}: {ragged[0][1]}")
    further = [column for column in rows[0].cells if column not in expected]
    missing = [name for name in expected if name not in rows[0].cells]
    for column in further:
        if near := nearest(column, missing, ALIKE):
            raise DataError(f"{table}: column {column!r} is not read{near} Rename or remove it")
    said = {text.partition("=")[0].strip(): text for text in known}
    passed = [Passed(column, f"column of {table.name} that is no variable of the study") for column in further]
    items = []
    for row in rows:
        cells = row.cells
        if not cells["image"]:
            raise DataError(f"{table}: line {row.line}: 'image' is empty")
        facts = said | {name: text for name in study.variables if (text := _fact(row, name, study, passed)) is not None}
        told = cells.get("do", "")
        parts = (part.strip() for part in told.split(";") if part.strip() and told.lower() not in MISSING)
        asked = tuple(_below(table.parent, part) for part in parts) or tuple(do)
        id = cells.get("id") or strip_suffix(Path(cells["image"]).name)
        items.append(Item(id, table.parent / cells["image"], tuple(facts.values()), asked))
    ids = _distinct([item.id for item in items])
    return Asked([replace(item, id=id) for id, item in zip(ids, items, strict=True)], passed)


def _fact(row: Row, name: str, study: Study, passed: list[Passed]) -> str | None:
    """What a row of a table says of a variable, ``age=63``; None where it says nothing, or what nobody's is, which is
    ``passed`` over. What cannot be read stays as it is: the question is then rejected, and not the table."""
    variable = study.variables[name]
    try:
        value = parse(row.cells.get(name, ""), name, name, variable, row.comma)
    except Rejected:
        return f"{name}={row.cells[name]}"
    if isinstance(value, float) and (doubt := disbelief(value, name, variable)):
        passed.append(Passed(f"line {row.line}: {name}", doubt))
        return None
    return None if value is None else str(Intervention(name, value))


def _below(folder: Path, text: str) -> str:
    """An intervention of a table, whose paths are from the table's folder."""
    other = _matched(text)
    return text if other is None else f"{text.partition('=')[0]}={MATCH}{folder / other}"


def _matched(text: str) -> Path | None:
    """The image that an intervention takes its value from, if it does."""
    amount = text.partition("=")[2].strip()
    return Path(amount.removeprefix(MATCH).strip()) if amount.startswith(MATCH) else None


def _distinct(ids: Sequence[str]) -> Iterator[str]:
    """Each as it is, or with the first number that makes it another one: ``a``, ``a-2``, ``a-3``.

    ``./a`` and ``b//c`` are ``a`` and ``b/c``: they would name one file.
    """
    ids = [PurePosixPath(id).as_posix() for id in ids]
    taken = set(ids)
    seen: set[str] = set()
    for id in ids:
        name, number = id, 2
        while name in seen:
            candidate = f"{id}-{number}"
            name, number = (candidate, number) if candidate not in taken | seen else (name, number + 1)
        seen.add(name)
        yield name


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
    passed: Sequence[Passed] = (),
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

    Raises:
        DataError: ``out`` holds something else.
        RunError: the model lacks a part.
    """
    progress = progress or Progress()
    settings = _settings(run, method, draws, dicom)
    outcomes: list[_Outcome] = []
    with Journal(out, settings, lambda entry: _cells(run.study, entry["row"]["record"])) as journal:
        stamps = {item.id: item.stamp() for item in items}
        more = ("dicom/{id}.dcm",) if dicom else ()
        waiting = [item for item in items if not journal.has(item.id, stamps[item.id], more)]
        chunks = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)]
        work = _Work(run.folder, device, method, draws, dicom, out)
        with progress.task("Counterfactuals", len(items), len(items) - len(waiting)) as task:
            for done in _results(work, chunks, min(jobs, len(chunks))):
                for outcome in done:
                    outcomes.append(outcome)
                    if outcome.record is not None:
                        row = {"id": outcome.item.id, "record": outcome.record}
                        journal.add({"row": row, "mask": False, "stamp": stamps[outcome.item.id]})
                    task.advance()
        # The last one counts where a question was asked again.
        records = {row["id"]: row["record"] for row in journal.rows()}
        reasons = {one.item.id: one.reason for one in outcomes if one.record is None}
        _write_tables(out, run.study, items, records, reasons)
        with Table(out / PASSED, Passed._fields) as table:
            for one in passed:
                table.write(one)
    rejected = sum(outcome.record is None for outcome in outcomes)
    return Done(len(outcomes) - rejected, len(items) - len(waiting), rejected)


def _settings(run: Run, method: str | None, draws: int, dicom: bool) -> dict[str, Any]:
    parts = ("judge", "scm", *run.methods().values())
    model = {part: artefact.read_meta(run.path(part))["key"] for part in parts}
    return {"batch": "counterfactuals", "model": model, "method": method, "draws": draws, "dicom": dicom}


class _Work(NamedTuple):
    folder: Path
    device: torch.device
    method: str | None
    draws: int
    dicom: bool
    out: Path


def _results(work: _Work, chunks: Sequence[Sequence[Item]], jobs: int) -> Iterator[list[_Outcome]]:
    if jobs <= 1:
        yield from map(_Worker(work).answer, chunks)
        return
    context = multiprocessing.get_context("spawn")  # threads of PyTorch do not survive a fork
    threads = max(1, torch.get_num_threads() // jobs)
    try:
        pool = ProcessPoolExecutor(jobs, context, _begin, (threads,))
    except OSError as error:  # its queues have locks in shared memory
        raise SegcftError(
            f"/dev/shm: {jobs} processes cannot share their work ({reason(error)}); --jobs 1 needs no shared memory"
        ) from None
    with pool:
        pending = [pool.submit(_answer, work, chunk) for chunk in chunks]
        try:
            for future in as_completed(pending):
                yield future.result()
        except BrokenProcessPool:
            raise SegcftError(
                "a process died, perhaps for want of memory; --jobs 1 needs less, and goes on from here"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """Ctrl-C reaches every process of a terminal: those that answer leave it to the first one, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(threads)


def _answer(work: _Work, chunk: Sequence[Item]) -> list[_Outcome]:
    return _worker(work).answer(chunk)


@lru_cache(maxsize=1)
def _worker(work: _Work) -> _Worker:
    """One a process, which opens the model once."""
    return _Worker(work)


class _Worker:
    """A process that answers."""

    def __init__(self, work: _Work) -> None:
        self.work, self.model = work, Model(work.folder, work.device)

    def answer(self, chunk: Sequence[Item]) -> list[_Outcome]:
        asked: list[tuple[Item, Question]] = []
        rejected: list[_Outcome] = []
        for item in chunk:
            try:
                check_id(item.id)
                if not item.do:
                    raise InterventionError(f"{item.id}: nothing is asked for")
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
        answers = self.model.answer([question for _, question in asked], self.work.method, self.work.draws)
        return [self._write(item, answer) for (item, _), answer in zip(asked, answers, strict=True)]

    def _write(self, item: Item, answer: Answer) -> _Outcome:
        write_bytes(self.work.out / "images" / f"{item.id}.png", png_bytes(answer.image, answer.provenance))
        if self.work.dicom:
            content = dicom_bytes(answer.image, answer.provenance, answer.spacing)
            write_bytes(self.work.out / "dicom" / f"{item.id}.dcm", content)
        return _Outcome(item, answer.record)


def _write_tables(
    out: Path, study: Study, items: Sequence[Item], records: Mapping[str, Any], reasons: Mapping[str, str]
) -> None:
    names = (f"{name}_{field}" for name, field in _fields(study))
    with Table(out / "manifest.csv", ("id", "image", "file", "do", "method", "model", *names, "warnings")) as table:
        for item in items:
            if (record := records.get(item.id)) is not None and item.id not in reasons:
                table.write([item.id, str(item.image), f"images/{item.id}.png", *_cells(study, record)])
    with Table(out / "rejected.csv", ("id", "image", "reason")) as table:
        for item in items:
            if item.id in reasons:
                table.write([item.id, str(item.image), reasons[item.id]])


def _fields(study: Study) -> Iterator[tuple[str, str]]:
    """What the manifest tells of which variable."""
    for name in study.variables:
        for field in ("before", "after", *(("obtained", "obtained_sd") if name in study.measured else ())):
            yield name, field


def _cells(study: Study, record: Mapping[str, Any]) -> list[Any]:
    """A record's cells in the manifest, from ``do`` on."""
    values = (record["variables"][name].get(field, "") for name, field in _fields(study))
    cells = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
    return ["; ".join(record["do"]), record["method"], record["model"], *cells, "; ".join(record["warnings"])]
