"""Answers beside true counterfactuals of real subjects: another image of the same thing, under another condition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.pairs import Direction, Pairs, Place
from segcft.data.store import Store
from segcft.evaluate import names
from segcft.evaluate.answered import FactualBatch, PairedAnswer, PairedBatch
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.metric import Result, metrics_of, results_of
from segcft.evaluate.scores import Scores
from segcft.evaluate.truth import Drawn
from segcft.grey import GREY_LEVELS, rounded, to_unit
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.utils.progress import Progress


class MeanChange:
    """What changes on average in training subjects, pixel by pixel: what can be said without a look at the subject.

    Args:
        pairs: among samples that were trained on.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._sums: dict[tuple[Direction, Place | None], Tensor] = {}
        self._counts: dict[tuple[Direction, Place | None], int] = defaultdict(int)
        rows, images = pairs.store.indices("train"), pairs.store.images
        for direction in pairs.directions:
            others = pairs.others(rows, direction)
            for row, other in zip(rows[others >= 0], others[others >= 0], strict=True):
                grey = images[other].astype(np.float32) - images[row]
                change = torch.from_numpy(grey) / GREY_LEVELS
                for place in (pairs.places[row], None):
                    self._sums[direction, place] = self._sums.get((direction, place), 0) + change
                    self._counts[direction, place] += 1

    def answer(self, images: Tensor, places: Sequence[Place], direction: Direction) -> Tensor:
        """Images (B, C, *size) and the mean change at their ``places`` (B), or at all where training subjects have no
        such place; NaN where they have no pair in this direction."""
        return images + torch.stack([self._mean(place, direction, images[0]) for place in places])

    def _mean(self, place: Place, direction: Direction, like: Tensor) -> Tensor:
        for key in ((direction, place), (direction, None)):
            if key in self._counts:
                return (self._sums[key] / self._counts[key]).to(like)
        return torch.full_like(like, torch.nan)


class PairQueries:
    """Asks every method for the other image of samples that have one.

    Args:
        cohort: the samples that may be asked about.
        models: method -> model.
        judge: reads masks.
        training: samples that were trained on, for the mean change; None: there is no such reference.
    """

    def __init__(
        self,
        cohort: Cohort,
        models: Mapping[str, CounterfactualModel],
        judge: MaskReader,
        training: Store | None = None,
    ) -> None:
        self.cohort, self.models, self.judge = cohort, models, judge
        self.pairs = Pairs(cohort.study, cohort.store)
        self.mean = None if training is None else MeanChange(Pairs(cohort.study, training))
        self._values = torch.from_numpy(cohort.store.values())

    def places(self, direction: Direction) -> NDArray[np.int64]:
        """Where the samples are in the cohort that have another image in this direction, ascending."""
        return np.flatnonzero(self.pairs.others(self.cohort.rows, direction) >= 0)

    @torch.no_grad()
    def answers(self, places: NDArray[np.int64], direction: Direction) -> Iterator[PairedAnswer]:
        """Every method's answer to every question, and those of the references, about samples of :meth:`places`."""
        cohort = self.cohort
        samples = cohort.samples(torch.from_numpy(places).to(cohort.device))
        factual, image = FactualBatch(cohort, samples, self.judge), samples.image
        rows = cohort.rows[places]
        others = self.pairs.others(rows, direction)
        truth = _drawn(cohort.store, others, cohort.device)
        abductions = {method: model.abduct(image, samples.values) for method, model in self.models.items()}
        for question, after in self._questions(samples.values, others, direction):
            asked = PairedBatch(factual, question, after, truth)
            yield PairedAnswer(asked, names.NO_CHANGE, image, None, image)
            if self.mean is not None:
                changed = self.mean.answer(image, [self.pairs.places[row] for row in rows.tolist()], direction)
                yield PairedAnswer(asked, names.MEAN_CHANGE, _as_shown(changed), None, changed)
            for method, model in self.models.items():
                changed = abductions[method].predict(after)
                yield PairedAnswer(asked, method, rounded(changed), model, changed)
            yield PairedAnswer(asked, names.TRUTH, truth.image, None, truth.image)

    def _questions(
        self, values: Tensor, others: NDArray[np.int64], direction: Direction
    ) -> Iterator[tuple[str, Tensor]]:
        """What is asked of samples with ``values`` (B, V), and what that makes their values: all measures are those of
        the ``others``, rows of the store; or the condition is, and what follows from it follows."""
        study = self.cohort.study
        scm = next(iter(self.models.values())).scm
        theirs = self._values[others].to(values)
        measures, condition = questions(study)
        for name, variables in ((measures, study.measured), (condition, (condition,))):
            do = {variable: theirs[:, self.cohort.column(variable)] for variable in variables}
            # Categorical noise is abducted by sampling; the generator makes it the same every time.
            generator = torch.Generator(values.device).manual_seed(study.evaluation.seed)
            yield f"{name}: {direction}", scm.counterfactual(values, scm.intervention(len(values), **do), generator)


def _drawn(store: Store, rows: NDArray[np.int64], device: torch.device) -> Drawn:
    """Images and masks of ``rows`` (B,) of a store."""
    images, masks = (torch.from_numpy(pixels[rows]).to(device) for pixels in (store.images, store.masks))
    return Drawn(to_unit(images), masks.float() / 255)


def questions(study: Study) -> tuple[str, str]:
    """What is asked about pairs: all measures are those of the other image, or the condition is."""
    assert study.evaluation.pairs is not None
    return f"{Measurements.of(study).word}s", study.evaluation.pairs.condition


class _About(NamedTuple):
    """What results are about; fields as of :class:`~segcft.evaluate.scores.Key`."""

    method: str
    metric: str
    intervention: str
    structure: str


def judge_pairs(queries: PairQueries, scores: Scores, progress: Progress) -> None:
    """Add to ``scores`` what metrics find in answers about pairs; samples without another image do not count."""
    size, samples = queries.cohort.study.evaluation.batch_size, len(queries.cohort)
    asked = {direction: queries.places(direction) for direction in queries.pairs.directions}
    with progress.task("Judging pairs", sum(map(len, asked.values()))) as task:
        for direction, places in asked.items():
            values: dict[_About, Tensor] = {}
            weights: dict[_About, Tensor] = {}
            for first in range(0, len(places), size):
                here = places[first : first + size]
                for about, result in _results(queries, here, direction):
                    kept = values.setdefault(about, torch.full((samples,), torch.nan, dtype=torch.float64))
                    kept[here] = result.values.cpu().double()
                    counts = weights.setdefault(about, torch.ones(samples, dtype=torch.float64))
                    if result.weights is not None:
                        counts[here] = result.weights.cpu().double()
                task.advance(len(here))
            for about, found in values.items():
                method, metric, question, structure = about
                scores.add(method, metric, found, intervention=question, structure=structure, weights=weights[about])


def _results(queries: PairQueries, places: NDArray[np.int64], direction: Direction) -> Iterator[tuple[_About, Result]]:
    """What metrics find in all answers about samples at ``places`` of the cohort."""
    study = queries.cohort.study
    metrics = metrics_of(study)
    for answer in queries.answers(places, direction):
        for metric in metrics:
            for result in results_of(metric, metric.of_pair(answer), study, len(places)):
                yield _About(answer.method, metric.name, answer.asked.variable, result.structure), result


def _as_shown(image: Tensor) -> Tensor:
    """The image at the nearest grey levels; NaN where there is none."""
    return torch.where(image.isnan(), torch.nan, rounded(image.nan_to_num()))
