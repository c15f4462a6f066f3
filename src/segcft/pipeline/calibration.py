"""What a run learns of its answers from its validation samples, kept in ``calibration.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from segcft.counterfactual.band import Band
from segcft.counterfactual.evidence import Believed
from segcft.counterfactual.intervals import Intervals
from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.repairs import gained_by_turning, limits
from segcft.errors import Code, RunError
from segcft.evaluate.banding import banded
from segcft.evaluate.calibration import calibrated
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.temperature import fitted_temperature
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.run import Run
from segcft.readers.reader import MaskReader
from segcft.training import artefact
from segcft.utils.atomic import write_text
from segcft.utils.progress import Progress

BEFORE = "intervals.json"
"""The file of runs from before categories were told, which this one replaces."""


class Calibration(BaseModel):
    """Of one method.

    Attributes:
        intervals: how far its answers may be off; None where there was too little to learn it from.
        band: the same of their pixels; None where there was too little, or no truth.
        categories: how far the likelihood of images can be believed where it tells categories; None where it is not
            to be asked.
        turned: what images as they should be gain at most by being turned, see
            :func:`segcft.counterfactual.repairs.limits`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intervals: Intervals | None = None
    band: Band | None = None
    categories: Believed | None = None
    turned: dict[str, NonNegativeFloat] = {}


def calibrate(
    run: Run, models: Mapping[str, CounterfactualModel], judge: MaskReader, device: torch.device, progress: Progress
) -> None:
    """Learn from the validation samples of a run how far its ``models`` can be believed, and keep it.

    Raises:
        RunError: the samples are not those that the parts were trained on.
    """
    store, study = run.samples_of([*run.asked, *map(run.mechanism, models)]), run.study
    # Before anybody has what is likely: that says nothing of what images tell.
    rows = store.indices("validation", masked=True)
    believed = {m: fitted_temperature(study, model, store, rows, progress) for m, model in models.items()}
    fill_likely(run, store, "validation")
    intervals: Mapping[str, Intervals] = {}
    bands: Mapping[str, Band] = {}
    turned: dict[str, dict[str, float]] = {}
    rows = store.indices("validation", complete=True)
    if models and len(rows) > 1:
        values = torch.from_numpy(store.values()[store.indices("train", complete=True)])
        categories = torch.tensor([bool(variable.categories) for variable in study.variables.values()])
        # What is derived has no value where its formula has none.
        mean = values.nanmean(dim=0)
        spread = torch.where(categories, 1.0, (values - mean).square().nanmean(dim=0).sqrt()).to(device)
        cohort = Cohort.choose(study, store, rows, device)
        bands = banded(cohort, models, judge, spread, progress)
        if study.measured:
            intervals = calibrated(cohort, models, judge, spread, progress)
            turned = {method: limits(gains(cohort, model, judge)) for method, model in models.items()}
    found = {
        method: Calibration(
            intervals=intervals.get(method),
            band=bands.get(method),
            categories=believed[method],
            turned=turned.get(method, {}),
        )
        for method in models
    }
    write_calibration(run, found)


def gains(cohort: Cohort, model: CounterfactualModel, judge: MaskReader) -> dict[str, list[float]]:
    """What the images of a cohort gain by being turned, see :func:`segcft.counterfactual.repairs.gained_by_turning`."""
    found: dict[str, list[float]] = {}
    for samples in cohort.batches():
        each = gained_by_turning(model, judge, samples.image, samples.values, cohort.measured_columns)
        for name, some in each.items():
            found.setdefault(name, []).extend(some.tolist())
    return found


def write_calibration(run: Run, found: Mapping[str, Calibration]) -> None:
    """Keep what was learnt of each method, and of which trained parts it is."""
    (run.folder / BEFORE).unlink(missing_ok=True)
    content = {
        method: {"of": _keys(run, [*run.asked, run.mechanism(method)])} | one.model_dump(mode="json")
        for method, one in found.items()
    }
    write_text(_file(run), json.dumps(content) + "\n")


def read_calibration(run: Run) -> dict[str, Calibration]:
    """Method -> what was learnt of it; of those alone whose parts have not been trained again since.

    Raises:
        RunError: the file is damaged.
    """
    if not _file(run).is_file():
        return {}
    try:
        said = {method: dict(one) for method, one in dict(json.loads(_file(run).read_text(encoding="utf-8"))).items()}
        keys = {method: dict(one.pop("of")) for method, one in said.items()}
        return {
            method: Calibration.model_validate(one)
            for method, one in said.items()
            if all(run.path(part).is_file() for part in keys[method]) and _keys(run, keys[method]) == keys[method]
        }
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        raise RunError(Code.DAMAGED, _file(run), "not the calibration that this file should hold") from None


def _file(run: Run) -> Path:
    return run.folder / "calibration.json"


def _keys(run: Run, parts: Iterable[str]) -> dict[str, str]:
    return {part: artefact.read_meta(run.path(part))["key"] for part in parts}
