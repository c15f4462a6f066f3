"""A study in folds: every subject is judged once, by parts that have not seen it. For small sets.

The study of all folds says how many there are (``splits.folds``), and that of each fold which one it is
(``splits.fold``). The run's folder holds the samples, which all folds share, a run a fold, which is like any other, and
the evaluation of all samples together, see :mod:`segcft.evaluate.folded`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from segcft.config.loader import load_study, parse_study
from segcft.config.study import Study
from segcft.errors import Code, RunError, SegcftError, StudyError
from segcft.evaluate.answers import FigureQueries
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import draw, write_outcome
from segcft.evaluate.folded import Fold, all_rows, all_scores, render_spread
from segcft.evaluate.groups import groups_of
from segcft.evaluate.scores import Row
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.importing import (
    check_data,
    duplicates,
    import_record,
    import_samples,
    parts_in_words,
    take_fold,
)
from segcft.pipeline.judging import warnings_of
from segcft.pipeline.pool import Failures, fabric_of, run_all, threads_of
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.utils.atomic import read_json, write_text
from segcft.utils.digest import key_of
from segcft.utils.lock import Lock
from segcft.utils.progress import Named, Progress, Task
from segcft.utils.workers import Workers

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def in_folds(study: Study, folds: int) -> Study:
    """The study of so many folds.

    Raises:
        StudyError: there must be two at least; or the study is one of a fold, or its table gives the split.
    """
    if study.splits.fold is not None:
        raise StudyError(
            Code.CONFLICT, "splits.fold", f"the study is fold {study.splits.fold} of a run in folds already"
        )
    raw = study.model_dump(mode="json")
    return parse_study(raw | {"splits": raw["splits"] | {"folds": folds}}, f"{study.name} in {folds} folds")


def runs_of(run: Run) -> list[Run]:
    """The runs of all folds of a run in folds; of another run, the run itself."""
    study = run.study
    if not study.splits.in_folds:
        return [run]
    assert study.splits.folds is not None
    return [Run(run.fold(number), _fold_of(study, number)) for number in range(1, study.splits.folds + 1)]


def _fold_of(study: Study, number: int) -> Study:
    splits = study.splits.model_copy(update={"fold": number})
    return study.model_copy(update={"name": f"{study.name}-fold-{number}", "splits": splits})


def require_folder(run: Run) -> None:
    """Check that a run's folder holds no run in other folds than its study's, or in folds where the study has none.

    Raises:
        RunError: it does.
    """
    try:
        there = load_study(run.folder / "study.yaml").splits
    except StudyError:  # there is none, or what is damaged is written anew
        return
    asked = run.study.splits
    if (there.in_folds and there.folds) != (asked.in_folds and asked.folds):
        held = f"a run in {there.folds} folds" if there.in_folds else "a run without folds"
        raise RunError(Code.EXISTS, run.folder, f"it holds {held}; choose another folder (--out)")


def run_folds(
    run: Run,
    fabric: Fabric,
    *,
    data: Path | None = None,
    progress: Progress,
    jobs: int = 1,
    compile: bool = False,
    again: Sequence[str] = (),
) -> list[Row]:
    """Bring all folds up to date, and the table and figures of all of them: ``evaluation`` in the run's folder.

    Where one fails, the others go on. With more than one job a script that calls it needs
    ``if __name__ == "__main__":``, since processes import it.

    Args:
        run: its study is in folds, see :func:`in_folds`.
        fabric: the hardware.
        data: folder of images, masks and table, for studies that read one.
        progress: what the user sees.
        jobs: folds at a time, each in a process of its own; of those that are left over, trainings at a time.
        compile: have PyTorch compile the image mechanism for its trainings.
        again: stages to make again though they are up to date, and what depends on them.

    Returns:
        the rows of the table of all samples.

    Raises:
        RunError: the folder holds another run.
        DataError: the samples cannot be imported, or there are too few patients.
        SegcftError: folds failed, after all have been tried.
    """
    folds, failures = runs_of(run), Failures(progress)
    with Lock(run.folder):
        require_folder(run)
        _bring_samples(run, folds, data, again, progress)
        _forget(folds, fabric, again, progress)
        # Folds that are left over would leave cores idle, so of these the stages run side by side.
        together = len(folds) - len(folds) % jobs if jobs > 1 else 0
        with progress.task("Folds", len(folds)) as task:
            work = _Work(fabric, jobs, compile, progress, failures, task)
            work.side_by_side(folds[:together])
            work.one_by_one(folds[together:])
        failures.check(
            run.folder, f"of {len(folds)} folds failed, so there is no table of all; the same command goes on"
        )
        return _evaluate(run, folds, fabric.device, progress)


def _bring_samples(run: Run, folds: Sequence[Run], data: Path | None, again: Iterable[str], progress: Progress) -> None:
    """Import the samples of all and have each fold share them."""
    if "import" in again:
        check_data(run.study, data)
        import_record(run).unlink(missing_ok=True)
    if not import_samples(run, data, progress):
        run.store(verify=True)
    for fold in progress(folds, len(folds), "Sharing the samples"):
        store = take_fold(fold, run)
        if store is not None:
            progress.note(f"  {fold.folder.name}: {parts_in_words(store)}{duplicates(store)}")


def _forget(folds: Sequence[Run], fabric: Fabric, again: Iterable[str], progress: Progress) -> None:
    stages = [stage for stage in again if stage != "import"]
    for fold in folds if stages else ():
        Pipeline(fold, fabric, progress=Named(progress, fold.folder.name)).forget(stages)


@dataclass(frozen=True)
class _Work:
    """How folds are brought up to date: fields as of :func:`run_folds`, what failed, and the bar of all folds."""

    fabric: Fabric
    jobs: int
    compile: bool
    progress: Progress
    failures: Failures
    task: Task

    def one_by_one(self, folds: Sequence[Run]) -> None:
        """Each fold after the other, its trainings side by side."""
        for fold in folds:
            self._done(fold.folder.name, _bring(fold, self.fabric, self.compile, self.progress, self.jobs))

    def side_by_side(self, folds: Sequence[Run]) -> None:
        """Each fold by a worker; what kills one does not end the others."""
        if not folds:
            return
        waiting = list(folds)
        arguments = (self.compile, self.fabric.device.type, threads_of(self.jobs))
        with Workers[Run, str](self.jobs, _begin, arguments, self.progress) as workers:
            while waiting or workers.busy:
                while waiting and workers.busy < self.jobs:
                    workers.give(waiting[0].folder.name, waiting.pop(0))
                try:
                    done = workers.done()
                except SegcftError as died:  # a fold's own errors are results
                    done = [(died.field, died.text)]
                for name, error in done:
                    self._done(name, error)

    def _done(self, name: str, error: str) -> None:
        self.task.advance()
        if error:
            self.failures.add(name, error)


def _begin(number: int, progress: Progress, compile: bool, device: str, threads: int) -> Callable[[Run], str]:
    """Of a worker: what brings a fold up to date."""
    fabric = fabric_of(number, device, threads)
    return lambda fold: _bring(fold, fabric, compile, progress)


def _bring(fold: Run, fabric: Fabric, compile: bool, progress: Progress, jobs: int = 1) -> str:
    """Bring a fold up to date, whose samples are there; returns its error, "" if all went well."""
    try:
        run_all(Pipeline(fold, fabric, progress=Named(progress, fold.folder.name), compile=compile), jobs)
    except SegcftError as error:
        return str(error)
    return ""


def _evaluate(run: Run, folds: Sequence[Run], device: torch.device, progress: Progress) -> list[Row]:
    """The evaluation of all samples, written unless it is up to date; returns its rows."""
    folder, record = run.evaluation, _record(run)
    if is_evaluated(run):
        progress.note("evaluate: up to date")
        rows: list[Row] = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        return rows
    notes = [
        f"{len(folds)} folds: each person is judged once, by the parts of a fold that has not seen them. The values "
        "that are asked for are those of the people of all folds."
    ]
    notes += [f"{fold.folder.name}: {warning}" for fold in folds for warning in warnings_of(fold)]
    read = [read_outcome(fold) for fold in folds]
    rows = all_rows(read, run.study)
    with Lock(folder):
        record.unlink(missing_ok=True)  # it is of what is now replaced, file by file
        scores, store, end = all_scores(read), run.store(), render_spread(read, run.study)
        groups = groups_of(run.study, store, np.flatnonzero(store.table["id"].isin(scores["id"])))
        write_outcome(run.study, scores, rows, folder, groups=groups, notes=notes, end=end, progress=progress)
        draw(run.study, [partial(_queries, fold, device) for fold in folds], folder, progress)
        write_text(record, json.dumps({"key": _key(folds), "data": run.store().fingerprint}))
    progress.note("evaluate: done")
    return rows


def is_evaluated(run: Run) -> bool:
    """Whether the evaluation of a run in folds is made of those of its folds as they are."""
    return read_json(_record(run)).get("key") == _key(runs_of(run))


def _key(folds: Iterable[Run]) -> str:
    """Of all that the evaluation of the folds together depends on."""
    return key_of("folds", [read_json(_record(fold)).get("key") for fold in folds])


def _record(run: Run) -> Path:
    """The file that says of what an evaluation was made."""
    return run.evaluation / "evaluation.json"


def read_outcome(run: Run) -> Fold:
    """What the evaluation of a fold, or of another run that is one of several, has found."""
    rows = json.loads((run.evaluation / "table.json").read_text(encoding="utf-8"))
    return Fold(run.folder.name, pd.read_parquet(run.evaluation / "scores.parquet"), rows)


def _queries(fold: Run, device: torch.device) -> FigureQueries:
    """What figures ask the models of a fold about its own test samples."""
    store, methods = fold.store(), fold.methods()
    fill_likely(fold, store, "test")
    cohort = Cohort.choose(fold.study, store, store.indices("test", complete=True), device)
    models = {method: fold.model(method, device) for method in methods}
    known = torch.from_numpy(fold.training_values(["scm", *fold.judges, *methods.values()]))
    return FigureQueries(cohort, models, fold.judge(device), known, store)
