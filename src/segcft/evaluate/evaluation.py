"""The evaluation, whole: every method on the same people, the same interventions and the same judge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segcft.causal.scm import StructuralCausalModel
from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.counterfactual.model import Abduction, CounterfactualModel
from segcft.data.store import Store
from segcft.evaluate import names
from segcft.evaluate.axioms import GREY_LEVELS, grey_difference, null_intervention, undo
from segcft.evaluate.cohort import Cohort, People
from segcft.evaluate.effectiveness import area_error, from_marginal, overlap, saved, slope
from segcft.evaluate.locality import changed_region, mean_inside, radius, share_near
from segcft.evaluate.scores import Row, Scores
from segcft.evaluate.table import few_people, render_table
from segcft.evaluate.truth import Drawn, Truth
from segcft.readers.reader import MaskReader
from segcft.utils.atomic import write_text, written
from segcft.utils.progress import Progress


def evaluate(
    study: Study,
    store: Store,
    indices: np.ndarray,
    models: Mapping[str, CounterfactualModel],
    judge: MaskReader,
    folder: Path,
    *,
    device: torch.device,
    training_values: Tensor | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Row]:
    """Judge the counterfactuals of every model; write ``table.json``, ``table.md``, ``figures/`` and
    ``scores.parquet``, which has the result of every sample behind each row of the table.

    The answer is a function of its arguments: latents are posterior means and every draw is seeded by
    ``study.evaluation.seed``.

    Args:
        study: its ``evaluation`` says how.
        store: where the people are.
        indices: rows of the store that miss no value; at most ``study.evaluation.people`` of them are used.
        models: method ("none", "regressor", "segmentor") -> the model, all with the same SCM.
        judge: reads masks and areas; trained independently of the models' guides.
        folder: where to write.
        device: where to compute; models and judge are moved there.
        training_values: (N, V). Figures ask only for areas within their range (default: that of the people).
        notes: what a reader of the table must know of the models.
        progress: is told how far the work is.

    Returns:
        The rows of the table, each with method, intervention, structure, intervened, metric, value, ci_low, ci_high, n.

    Raises:
        DataError: there is nobody to evaluate on.
    """
    from segcft.evaluate.figures import write_figures  # late: matplotlib is slow to import

    progress = progress or Progress()
    cohort = Cohort.choose(study, store, indices, device)
    models = {method: model.to(device).eval() for method, model in models.items()}
    scores = judge_models(cohort, models, judge.to(device).eval(), progress)
    patients = cohort.named("patient")
    rows = scores.rows(patients, study.evaluation.bootstrap, study.evaluation.seed)
    people = len(set(patients))
    few = few_people(people)
    for note in few:
        progress.note(f"warning: {note}")
    with written(folder / "scores.parquet") as partial:
        scores.by_sample(cohort.named("id"), patients).to_parquet(partial, index=False)
    write_text(folder / "table.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    write_text(folder / "table.md", render_table(rows, study, [*few, *notes], people))
    write_figures(cohort, models, judge, folder / "figures", training_values, progress)
    return rows


@torch.no_grad()
def judge_models(
    cohort: Cohort, models: Mapping[str, CounterfactualModel], judge: MaskReader, progress: Progress
) -> Scores:
    """What is in the table, sample by sample; see :func:`evaluate`."""
    scores, spec = Scores(), cohort.study.evaluation
    interventions = spec.interventions or cohort.study.measured
    truth = Truth.of(cohort.study, cohort.store)
    scm = next(iter(models.values())).scm
    with progress.task("Judging counterfactuals", len(cohort)) as task:
        for people, asked in zip(cohort.batches(), asked_values(cohort, scm), strict=True):
            # One abduction serves all interventions.
            abductions = {m: model.abduct(people.image, people.values) for m, model in models.items()}
            score_factual(scores, cohort, people, models, abductions, judge)
            unchanged = judge.read(people.image)
            for variable, after in asked.items():
                known = truth is not None and variable in interventions
                do = {variable: after[:, cohort.column(variable)]}
                drawn = truth.counterfactuals(people.rows, do) if truth and known else None
                question = Question(cohort, people, variable, after, drawn, unchanged)
                if variable in interventions:
                    question.score(scores, models, abductions, judge)
                else:
                    question.score_slopes(scores, abductions, judge)
            task.advance(len(people.image))
    scores.add_difference(names.SEG_LESS_REG, "segmentor", "regressor", spec.metric)
    return scores


def asked_values(cohort: Cohort, scm: StructuralCausalModel) -> Iterator[dict[str, Tensor]]:
    """All that is asked, batch by batch of the cohort: variable -> what intervening on it makes the values, (B, V).

    Each person's variable is set to another person's value. Causes of areas are asked about as well: do the areas
    follow as the attributes' mechanisms say?
    """
    study = cohort.study
    interventions = study.evaluation.interventions or study.measured
    asked_of = [*interventions, *(v for v in causes_of_areas(study) if v not in interventions)]
    seed, size = study.evaluation.seed, study.evaluation.batch_size
    wanted = {v: from_marginal(cohort.values, seed, cohort.column(v)).split(size) for v in asked_of}
    # Categorical noise is abducted by sampling; the generator makes it the same every time.
    generator = torch.Generator(cohort.device).manual_seed(seed)
    for batch, values in enumerate(cohort.values.split(size)):
        do = {v: scm.intervention(len(values), **{v: parts[batch]}) for v, parts in wanted.items()}
        yield {v: scm.counterfactual(values, change, generator) for v, change in do.items()}


def causes_of_areas(study: Study) -> list[str]:
    """The variables that are no area themselves and move one when they are set."""
    graph = Graph({name: variable.parents for name, variable in study.variables.items()})
    return [v for v in study.variables if v not in study.measured and graph.descendants([v]) & set(study.measured)]


def score_factual(
    scores: Scores,
    cohort: Cohort,
    people: People,
    models: Mapping[str, CounterfactualModel],
    abductions: Mapping[str, Abduction],
    judge: MaskReader,
) -> None:
    """What needs no intervention: the judge's reading error, and whether the image stays as it is."""
    metric = cohort.study.evaluation.metric
    error = area_error(judge.read(people.image), people.values[:, cohort.measured_columns], metric)
    dice = overlap(judge, people.image, people.mask)
    for s, structure in enumerate(cohort.study.structures):
        scores.add(names.JUDGE, metric, error[:, s], structure=structure)
        scores.add(names.JUDGE, names.DICE, dice[:, s], structure=structure)
    for method, model in models.items():
        null = null_intervention(model, people.image, people.values)
        largest = (null - people.image).abs().amax(dim=(1, 2, 3)) * GREY_LEVELS
        scores.add(method, names.COMPOSITION, grey_difference(null, people.image))
        scores.add(method, names.COMPOSITION_MAX, largest)
        rebuilt = model.mechanism.reconstruction(abductions[method].noise)
        if rebuilt is not None:
            scores.add(method, names.RECONSTRUCTION, grey_difference(rebuilt, people.image))


@dataclass(frozen=True)
class Question:
    """One intervention on a batch of B people, to be answered by every method.

    ``variable`` is intervened on, which makes the people's values ``after`` (B, V). ``drawn`` is the truth and
    ``unchanged`` (B, S) are the areas that the judge reads from the images as they are.
    """

    cohort: Cohort
    people: People
    variable: str
    after: Tensor
    drawn: Drawn | None
    unchanged: Tensor

    def score(
        self,
        scores: Scores,
        models: Mapping[str, CounterfactualModel],
        abductions: Mapping[str, Abduction],
        judge: MaskReader,
    ) -> None:
        """Add every method's results, and those of the references."""
        image, before = self.people.image, self.people.values
        self._score_image(scores, names.NO_CHANGE, image, judge)
        for method, model in models.items():
            changed = abductions[method].predict(self.after)
            self._score_image(scores, method, saved(changed), judge)
            error = grey_difference(undo(model, changed, self.after, before), image)
            scores.add(method, names.REVERSIBILITY, error, intervention=self.variable)
        if self.drawn:
            self._score_image(scores, names.TRUTH, self.drawn.image, judge)

    def score_slopes(self, scores: Scores, abductions: Mapping[str, Abduction], judge: MaskReader) -> None:
        """Add how far every method moves the areas that follow ``variable``."""
        for method, abduction in abductions.items():
            read = judge.read(saved(abduction.predict(self.after)))
            for s in range(read.shape[1]):
                self._score_slope(scores, method, read, s)

    def _score_slope(self, scores: Scores, method: str, read: Tensor, s: int) -> None:
        """Of structure ``s``: the change of its area, read (B, S) from the answer, on the change asked for."""
        column = self.cohort.measured_columns[s]
        values, weights = slope(
            read[:, s] - self.unchanged[:, s], self.after[:, column] - self.people.values[:, column]
        )
        structure = list(self.cohort.study.structures)[s]
        scores.add(
            method,
            names.SLOPE,
            values,
            intervention=self.variable,
            structure=structure,
            intervened=self.cohort.study.measured[s] == self.variable,
            weights=weights,
        )

    def _score_image(self, scores: Scores, method: str, changed: Tensor, judge: MaskReader) -> None:
        """Results of one answer, the image ``changed`` (B, C, H, W), as it would be saved."""
        study = self.cohort.study
        masks = judge.masks(changed)
        read = judge.measurements.read(masks)
        error = area_error(read, self.after[:, self.cohort.measured_columns], study.evaluation.metric)
        for s, (structure, target) in enumerate(zip(study.structures, study.measured, strict=True)):
            scores.add(
                method,
                study.evaluation.metric,
                error[:, s],
                intervention=self.variable,
                structure=structure,
                intervened=target == self.variable,
            )
            if method != names.NO_CHANGE and (target == self.variable or self.variable not in study.measured):
                self._score_slope(scores, method, read, s)
        if method != names.NO_CHANGE and self.variable in study.measured:
            inside = self._locality(changed, masks)
            scores.add(method, names.LOCALITY, inside, intervention=self.variable)
        if method != names.TRUTH and self.drawn:
            miss = (changed - self.drawn.image) * GREY_LEVELS
            region = changed_region(self.people.mask > 0.5, self.drawn.mask > 0.5, self._radius)
            near, whole = mean_inside(miss, region), miss.abs().mean(dim=(1, 2, 3))
            scores.add(method, names.TRUE_ERROR, near, intervention=self.variable)
            scores.add(method, names.TRUE_ERROR_WHOLE, whole, intervention=self.variable)

    def _locality(self, changed: Tensor, masks: Tensor) -> Tensor:
        """Share of the change within the target, where it was or is now, and its surroundings, (B,)."""
        target = self.cohort.study.measured.index(self.variable)
        now = self.drawn.mask if self.drawn else masks
        before, after = self.people.mask[:, target] > 0.5, now[:, target] > 0.5
        return share_near(changed - self.people.image, before, after, self._radius)

    @property
    def _radius(self) -> int:
        return radius(self.cohort.study.evaluation.dilation, self.cohort.study.image.size)
