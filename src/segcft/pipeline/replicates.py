"""A study trained several times: what hangs on the seeds of its trainings.

Each training is a run like any other, in ``seed-1``, ``seed-2``, ... of the folder. Guides, mechanisms and fine-tuning
have other seeds, and the evaluation asks for other values; samples and judge are the same. The first is the study as it
is. ``evaluation`` in the folder is of all of them, see :mod:`segcft.evaluate.replicated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.errors import Code, RunError, SegcftError
from segcft.evaluate.evaluation import write_outcome
from segcft.evaluate.folded import all_scores, render_spread
from segcft.evaluate.replicated import INTERVAL, render_signs, replicated_rows
from segcft.evaluate.scores import Row
from segcft.pipeline.folds import read_outcome
from segcft.pipeline.judging import warnings_of
from segcft.pipeline.pool import Failures, run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.sharing import share
from segcft.utils.lock import Lock
from segcft.utils.progress import Named, Progress

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SEEDED = ("segmentor", "regressor", "predictor", "scm", "hvae", "finetune", "evaluation")
"""Sections of a study whose seed is another one in each training: all but those of the judges and of the samples."""


def replicate(study: Study, number: int) -> Study:
    """The study of one of its trainings, from 1, which is the study as it is. All judge the same people."""
    raw = study.model_dump(mode="json")
    # Seeds of one training are none of another one's, nor those of the judges.
    apart = 1 + max(section["seed"] for section in raw.values() if isinstance(section, dict) and "seed" in section)
    for section in SEEDED if number > 1 else ():
        if raw.get(section) is not None:
            raw[section] = raw[section] | {"seed": raw[section]["seed"] + apart * (number - 1)}
    if number > 1 and study.evaluation.people_seed is None:
        raw["evaluation"]["people_seed"] = study.evaluation.seed
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
        own: the study's own run, if there is one: its samples and trained parts are not made again.

    Returns:
        the rows of the table.

    Raises:
        RunError: there are too few trainings, the study is in folds, or the folder holds a run.
        SegcftError: trainings failed, after all have been tried.
    """
    if trainings < 2:
        raise RunError(Code.OUT_OF_RANGE, "--seeds", "expected two trainings at least")
    if study.splits.in_folds or study.splits.fold is not None:
        raise RunError(Code.CONFLICT, "splits.folds", "a study in folds is trained several times already; leave it out")
    if (folder / "study.yaml").exists():
        raise RunError(Code.EXISTS, folder, "it holds a run; trainings go to a folder of their own (--out)")
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
    trainings = [read_outcome(run) for run in runs.values()]
    rows = replicated_rows(trainings)
    notes = [f"{len(runs)} trainings of other seeds, each asked for other values, on the same people."]
    notes += [f"{name}: {warning}" for name, run in runs.items() for warning in warnings_of(run)]
    end = render_signs(trainings, rows, study) + render_spread(trainings, study, "trainings")
    scores = all_scores(trainings, "training")
    with Lock(folder):
        write_outcome(
            study, scores, rows, folder, groups={}, notes=notes, end=end, interval=INTERVAL, progress=progress
        )
    progress.note("evaluate: done")
    return rows
