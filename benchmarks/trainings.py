"""Several trainings of variants of one study, side by side in one folder: what is alike is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.evaluate.scores import Row
from segcft.pipeline.pool import default_jobs, run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.sharing import share
from segcft.training.loop import make_fabric
from segcft.utils.lock import Lock
from segcft.utils.progress import ConsoleProgress, Named


def varied(study: Study, name: str, changes: Mapping[str, Mapping[str, Any]]) -> Study:
    """The study with some keys of its sections changed, under another name."""
    raw = study.model_dump(mode="json")
    for section, keys in changes.items():
        raw[section] = {**(raw[section] or {}), **keys}
    return parse_study(raw | {"name": name}, name)


def train_all(studies: Mapping[str, Study], folder: Path, data: Path | None = None) -> dict[str, Run]:
    """Bring a run of each study up to date, in ``folder/NAME``, with its table of test people.

    It goes on where it was interrupted. ``data`` is the folder of images, where studies read one.
    """
    fabric, progress = make_fabric("cpu"), ConsoleProgress()
    runs = {name: Run(folder / name, study) for name, study in studies.items()}
    with Lock(folder):
        for name, run in progress(runs.items(), len(runs), "Trainings"):
            pipeline = Pipeline(run, fabric, data, Named(progress, name))
            with pipeline.lock:
                share(pipeline, {other: one for other, one in runs.items() if other != name})
                run_all(pipeline, default_jobs(fabric.device))
    return runs


def figure_of(rows: Sequence[Row], method: str, metric: str, structure: str = "", variable: str = "") -> float:
    """One figure of a table, NaN where it has none."""
    wanted = {"method": method, "metric": metric, "structure": structure, "intervention": variable}
    found = [row["value"] for row in rows if all(row[key] == value for key, value in wanted.items())]
    return float("nan") if not found or found[0] is None else float(found[0])
