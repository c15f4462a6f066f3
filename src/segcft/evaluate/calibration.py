"""Asks the methods about people on whom no step was trained, to know how far their answers are from what was asked."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from segcft.counterfactual.intervals import HalfWidths, Intervals, half_widths, size_of
from segcft.counterfactual.model import CounterfactualModel
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import asked_values
from segcft.grey import rounded
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.utils.progress import Progress

ROUNDS = 4
"""Questions to each person: each variable is set to so many other people's values."""


@torch.no_grad()
def calibrated(
    cohort: Cohort, models: Mapping[str, CounterfactualModel], judge: MaskReader, spread: Tensor, progress: Progress
) -> dict[str, Intervals]:
    """The intervals of every method.

    Args:
        cohort: whom to ask about, none of whom was trained on.
        models: by method; they and the judge are where the cohort is.
        judge: reads the answers.
        spread: standard deviation of every variable among training people, 1 of categories, (V,); where it is 0 or NaN
            nothing is learnt of changes of the variable.
        progress: is told how far the work is.
    """
    study, patients = cohort.study, np.array(cohort.named("patient"))
    scm = next(iter(models.values())).scm
    relative = [one.measure.ratio and not one.may_be_absent for one in Measurements.of(study).all]
    share = torch.tensor(relative, device=cohort.device)
    rounds = [_asked_again(cohort, number) for number in range(ROUNDS)]
    asked = zip(cohort.batches(), *(asked_values(one, scm) for one in rounds), strict=True)
    errors: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    changes: dict[str, list[np.ndarray]] = defaultdict(list)
    whose: list[np.ndarray] = []
    with progress.task("Calibrating intervals", len(cohort)) as task:
        for samples, *several in asked:
            abductions = {method: model.abduct(samples.image, samples.values) for method, model in models.items()}
            for after_each in several:
                whose.append(patients[samples.places.cpu().numpy()])
                for variable, after in after_each.items():
                    column = cohort.column(variable)
                    size = size_of(study.variables[variable], samples.values[:, column], after[:, column])
                    size = size / spread[column]
                    changes[variable].append(size.cpu().numpy())
                    wanted = after[:, study.measured_columns]
                    for method, abduction in abductions.items():
                        read = judge.read(rounded(abduction.predict(after)))
                        error = (read - wanted).abs() / torch.where(share, read.abs(), 1)
                        errors[method, variable].append(error.cpu().numpy())
            task.advance(len(samples.image))
    people = np.concatenate(whose)
    known = varying(cohort, spread, changes)
    found = {}
    for method in models:
        widths: dict[str, dict[str, HalfWidths]] = {}
        for variable in known:
            every = np.concatenate(errors[method, variable])
            each = {
                name: half_widths(every[:, k], np.concatenate(changes[variable]), people, relative[k])
                for k, name in enumerate(study.measured)
            }
            widths[variable] = {name: one for name, one in each.items() if one is not None}
        found[method] = Intervals(spread=known, widths=widths)
    return found


def varying(cohort: Cohort, spread: Tensor, variables: Iterable[str]) -> dict[str, float]:
    """Those of the ``variables`` that vary, with their standard deviation; ``spread`` (V,) is that of all."""
    known = {name: float(spread[cohort.column(name)]) for name in variables}
    return {name: one for name, one in known.items() if one > 0}  # NaN is not


def _asked_again(cohort: Cohort, number: int) -> Cohort:
    """The same people, who are asked for other people's values."""
    spec = cohort.study.evaluation
    other = spec.model_copy(update={"seed": spec.seed + number})
    return dataclasses.replace(cohort, study=cohort.study.model_copy(update={"evaluation": other}))
