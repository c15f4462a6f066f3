"""Asks the methods about people whose true counterfactuals are known, to know how far the pixels of answers are off."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from segcft.counterfactual import band
from segcft.counterfactual.band import Band
from segcft.counterfactual.intervals import size_of
from segcft.counterfactual.model import CounterfactualModel
from segcft.evaluate.answered import FactualBatch
from segcft.evaluate.calibration import varying
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import asked_values
from segcft.evaluate.known import known_change
from segcft.evaluate.truth import Truth
from segcft.grey import rounded
from segcft.readers.reader import MaskReader
from segcft.utils.progress import Progress

MOST = 200
"""Samples that are asked about, as a simulator takes its time to draw the truth."""


@torch.no_grad()
def banded(
    cohort: Cohort, models: Mapping[str, CounterfactualModel], judge: MaskReader, spread: Tensor, progress: Progress
) -> dict[str, Band]:
    """The band of every method; see :func:`segcft.evaluate.calibration.calibrated` for the arguments.

    Of simulated people the truth is the simulator's. Of real ones nobody knows it: there one structure is deformed, and
    methods are asked for what it then measures (:mod:`segcft.evaluate.known`). All measures of the structure change
    then, as they do where the first of them is set and the others follow; a border that is set by itself is another
    question, of which nothing is learnt.
    """
    study, truth = cohort.study, Truth.of(cohort.study, cohort.store)
    few = np.random.default_rng(study.evaluation.seed).permutation(cohort.rows)[:MOST]
    cohort = dataclasses.replace(cohort, rows=np.sort(few))
    patients, scm = np.array(cohort.named("patient")), next(iter(models.values())).scm
    found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    changes: dict[str, list[np.ndarray]] = defaultdict(list)
    whose: dict[str, list[np.ndarray]] = defaultdict(list)
    radius = 1
    with progress.task("Calibrating bands", len(cohort)) as task:
        for samples, asked in zip(cohort.batches(), asked_values(cohort, scm), strict=True):
            factual = FactualBatch(cohort, samples, judge)
            radius = factual.radius
            abductions = {method: model.abduct(samples.image, samples.values) for method, model in models.items()}
            for variable, after, image in _known(factual, asked, truth):
                column = cohort.column(variable)
                size = size_of(study.variables[variable], samples.values[:, column], after[:, column])
                changes[variable].append((size / spread[column]).cpu().numpy())
                whose[variable].append(patients[samples.places.cpu().numpy()])
                for method, abduction in abductions.items():
                    answer = rounded(abduction.predict(after))
                    found[method, variable] += band.misses(samples.image, answer, image, radius)
            task.advance(len(samples.image))
    known = varying(cohort, spread, changes)
    bands = {}
    for method in models:
        each = {
            name: band.factors(found[method, name], np.concatenate(changes[name]), np.concatenate(whose[name]))
            for name in known
        }
        factors = {name: one for name, one in each.items() if one is not None}
        if factors:
            bands[method] = Band(
                of="simulator" if truth else "deformations",
                radius=radius,
                spread={name: known[name] for name in factors},
                factors=factors,
            )
    return bands


def _known(
    factual: FactualBatch, asked: Mapping[str, Tensor], truth: Truth | None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of every variable whose true counterfactuals are known: the values (B, V) that it then has, and the images (B, C,
    *size), NaN where there is none."""
    study, samples = factual.study, factual.samples
    own = {structure.variable for structure in study.own.values()}
    for variable in study.asked:
        if truth is not None:
            after = asked[variable]
            caused = study.variables[variable].solve_for or variable  # of a derived variable, what it moves
            drawn = truth.counterfactuals(samples.rows, {caused: after[:, factual.cohort.column(caused)]})
            if drawn is not None:
                yield variable, after, drawn.image
        elif variable in own and (known := known_change(factual, variable)) is not None:
            yield variable, known.asked.after, known.image
