"""A study trained several times: what hangs on the seeds of its trainings.

Each training is a run like any other, in ``seed-1``, ``seed-2``, ... of the folder. Guides, mechanisms and fine-tuning
have other seeds, and the evaluation asks for other values; samples and judge are the same. The first is the study as it
is. ``evaluation`` in the folder is of all of them, see :mod:`segcft.evaluate.replicated`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.errors import Code, RunError, SegcftError
from segcft.evaluate.folded import Fold, render_spread
from segcft.evaluate.replicated import LEVEL, all_trainings, render_signs, replicated_rows
from segcft.evaluate.scores import Row
from segcft.evaluate.table import few_subjects, render_table
from segcft.pipeline.judging import warnings_of
from segcft.pipeline.pool import Failures, run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.sharing import share
from segcft.utils.atomic import write_text, written
from segcft.utils.lock import Lock
from segcft.utils.progress import Named, Progress

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SEEDED = ("segmentor", "regressor", "predictor", "scm", "hvae", "finetune", "evaluation")
"""Sections of a study whose seed is another one in each training: all but those of the judges and of the samples."""

APART = 1000
"""By how much the seeds of one training differ from those of the next: a study's own differ by less."""


def replicate(study: Study, number: int) -> Study:
    """The study of one of its trainings, from 1."""
    raw = study.model_dump(mode="json")
    for section in SEEDED:
        if raw.get(section) is not None:
            raw[section] = raw[section] | {"seed": raw[section]["seed"] + APART * (number - 1)}
    name = f"{study.name}-seed-{number}"
    return parse_study(raw | {"name": name}, name)


def run_replicates(
    study: Study,
    trainings: int,
    folder: Path,
    fabric: Fabric,
    *,
    data: Path | None = None,
    progress: Progress,
    jobs: int = 1,
    compile: bool = False,
    own: Run | None = None,
) -> list[Row]:
    """Bring so many trainings of a study up to date, and the table of all of them: ``folder/evaluation``.

    Where one fails, the others go on; the same command goes on where it was interrupted.

    Args:
        study: not one in folds.
        trainings: two at least.
        folder: where the runs are.
        fabric: the hardware.
        data: folder of images, masks and table, for studies that read one.
        progress: what the user sees.
        jobs: parts that are trained at once.
        compile: have PyTorch compile the image mechanism for its trainings.
        own: the study's own run, if there is one: what it has made is not made again.

    Returns:
        the rows of the table.

    Raises:
        RunError: there are too few trainings, or the study is in folds.
        SegcftError: trainings failed, after all have been tried.
    """
    if trainings < 2:
        raise RunError(Code.OUT_OF_RANGE, "--seeds", "expected two trainings at least")
    if study.splits.in_folds or study.splits.fold is not None:
        raise RunError(Code.CONFLICT, "splits.folds", "a study in folds is trained several times already; leave it out")
    runs = {f"seed-{k}": Run(folder / f"seed-{k}", replicate(study, k)) for k in range(1, trainings + 1)}
    shared: Mapping[str, Run] = runs | ({"the study's own run": own} if own is not None else {})
    failures = Failures(progress)
    with Lock(folder):
        for name, run in progress(runs.items(), len(runs), "Trainings"):
            pipeline = Pipeline(run, fabric, data, Named(progress, name), compile)
            try:
                with pipeline.lock:
                    share(pipeline, {other: one for other, one in shared.items() if other != name})
                    run_all(pipeline, jobs)
            except SegcftError as error:
                failures.add(name, str(error))
        failures.check(
            folder, f"of {len(runs)} trainings failed, so there is no table of all; the same command goes on"
        )
        return _evaluate(study, runs, folder / "evaluation", progress)


def _evaluate(study: Study, runs: Mapping[str, Run], folder: Path, progress: Progress) -> list[Row]:
    trainings = [_read(name, run) for name, run in runs.items()]
    rows, subjects = replicated_rows(trainings), trainings[0].scores["patient"].nunique()
    notes = [
        f"{len(runs)} trainings of other seeds, each asked for other values, on the same people. Intervals of "
        f"{LEVEL:.0%} are over people and trainings."
    ]
    notes += [f"{name}: {warning}" for name, run in runs.items() for warning in warnings_of(run)]
    with Lock(folder):
        with written(folder / "scores.parquet") as partial:
            all_trainings(trainings).to_parquet(partial, index=False)
        table = render_table(rows, study, [*few_subjects(subjects), *notes], subjects)
        end = render_signs(trainings, rows, study) + render_spread(trainings, study, "trainings")
        write_text(folder / "table.md", table + end)
        write_text(folder / "table.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    progress.note("evaluate: done")
    return rows


def _read(name: str, run: Run) -> Fold:
    """What the evaluation of a training has found."""
    rows = json.loads((run.evaluation / "table.json").read_text(encoding="utf-8"))
    return Fold(name, pd.read_parquet(run.evaluation / "scores.parquet"), rows)
