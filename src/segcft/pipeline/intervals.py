"""The intervals of a run's answers: calibrated on its validation samples, kept in ``intervals.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from segcft.counterfactual.intervals import Intervals
from segcft.counterfactual.model import CounterfactualModel
from segcft.errors import Code, RunError
from segcft.evaluate.calibration import calibrated
from segcft.evaluate.cohort import Cohort
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.run import Run
from segcft.readers.reader import MaskReader
from segcft.training import artefact
from segcft.utils.atomic import write_text
from segcft.utils.progress import Progress


def calibrate(
    run: Run, models: Mapping[str, CounterfactualModel], judge: MaskReader, device: torch.device, progress: Progress
) -> None:
    """Learn from the validation samples of a run how far the answers of its ``models`` may be off, and keep it.

    Raises:
        RunError: the samples are not those that the parts were trained on.
    """
    store, study = run.samples_of([*run.asked, *map(run.mechanism, models)]), run.study
    fill_likely(run, store, "validation")
    rows = store.indices("validation", complete=True)
    if not study.measured or not models or len(rows) < 2:
        write_intervals(run, {})
        return
    values = torch.from_numpy(store.values()[store.indices("train", complete=True)])
    categories = torch.tensor([bool(variable.categories) for variable in study.variables.values()])
    # What is derived has no value where its formula has none.
    mean = values.nanmean(dim=0)
    spread = torch.where(categories, 1.0, (values - mean).square().nanmean(dim=0).sqrt()).to(device)
    cohort = Cohort.choose(study, store, rows, device)
    write_intervals(run, calibrated(cohort, models, judge, spread, progress))


def write_intervals(run: Run, found: Mapping[str, Intervals]) -> None:
    """Keep the intervals of each method, and of which trained parts they are."""
    content = {
        method: {"of": _keys(run, [*run.asked, run.mechanism(method)]), "intervals": one.model_dump(mode="json")}
        for method, one in found.items()
    }
    write_text(_file(run), json.dumps(content) + "\n")


def read_intervals(run: Run) -> dict[str, Intervals]:
    """Method -> how far its answers may be off; of those alone whose parts have not been trained again since.

    Raises:
        RunError: the file is damaged.
    """
    if not _file(run).is_file():
        return {}
    try:
        said = json.loads(_file(run).read_text(encoding="utf-8"))
        kept = {method: (dict(one["of"]), one["intervals"]) for method, one in dict(said).items()}
        return {
            method: Intervals.model_validate(one)
            for method, (keys, one) in kept.items()
            if all(run.path(part).is_file() for part in keys) and _keys(run, keys) == keys
        }
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        raise RunError(Code.DAMAGED, _file(run), "not the intervals that this file should hold") from None


def _file(run: Run) -> Path:
    return run.folder / "intervals.json"


def _keys(run: Run, parts: Iterable[str]) -> dict[str, str]:
    return {part: artefact.read_meta(run.path(part))["key"] for part in parts}
