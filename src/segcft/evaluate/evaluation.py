"""The evaluation, whole: every method on the same people, the same interventions and the same judge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segcft.artefact import write_text
from segcft.counterfactual import CounterfactualModel, image_counterfactual
from segcft.data.batches import sequential
from segcft.data.store import Store
from segcft.errors import DataError
from segcft.evaluate import names
from segcft.evaluate.axioms import GREY_LEVELS, grey_difference, null_intervention, reconstruction, undo
from segcft.evaluate.effectiveness import area_error, from_marginal, overlap, saved
from segcft.evaluate.locality import changed_region, dilate, mean_inside, radius, share_inside
from segcft.evaluate.scores import Row, Scores
from segcft.evaluate.table import render_table
from segcft.evaluate.truth import Drawn, Truth
from segcft.guides.segmentor import Segmentor
from segcft.images.likelihood import to_unit
from segcft.progress import Progress
from segcft.study import Study


def evaluate(
    study: Study,
    store: Store,
    indices: np.ndarray,
    models: Mapping[str, CounterfactualModel],
    judge: Segmentor,
    folder: Path,
    *,
    device: torch.device,
    training_values: Tensor | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Judge the counterfactuals of every model; write ``table.json``, ``table.md`` and ``figures/``.

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
        progress: is told how far the work is.

    Returns:
        The rows of the table: method, intervention, structure, intervened, metric, value, ci_low, ci_high, n.

    Raises:
        DataError: there is nobody to evaluate on.
    """
    from segcft.evaluate.figures import write_figures  # late: matplotlib is slow to import

    progress = progress or Progress()
    cohort = Cohort.choose(study, store, indices, device)
    models = {method: model.to(device).eval() for method, model in models.items()}
    rows = judge_models(cohort, models, judge.to(device).eval(), progress)
    write_text(folder / "table.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    write_text(folder / "table.md", render_table(rows, study))
    write_figures(cohort, models, judge, folder / "figures", training_values, progress)
    return rows


@dataclass(frozen=True)
class Cohort:
    """The people that methods are compared on: ``rows`` of the store, ascending, and where to compute."""

    study: Study
    store: Store
    rows: np.ndarray
    device: torch.device

    @classmethod
    def choose(cls, study: Study, store: Store, indices: np.ndarray, device: torch.device) -> Cohort:
        """All of ``indices``, or ``study.evaluation.people`` of them at random."""
        spec = study.evaluation
        if len(indices) == 0:
            raise DataError(f"{store.folder}: no complete sample to evaluate on")
        rows = np.random.default_rng(spec.seed).permutation(indices)[: spec.people]
        return cls(study, store, np.sort(rows), device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def values(self) -> Tensor:
        """Everybody's values, (N, V)."""
        return torch.from_numpy(self.store.values()[self.rows]).to(self.device)

    def batches(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        """Everybody once, in order: place among the people, image (B, C, H, W) in [-1, 1], masks (B, S, H, W)
        in 0..1, values (B, V) and row of the store (B,)."""
        start = 0
        for batch in sequential(self.store, self.rows, self.study.evaluation.batch_size):
            batch = {field: value.to(self.device) for field, value in batch.items()}
            stop = start + len(batch["index"])
            image, mask = to_unit(batch["image"]), batch["mask"].float() / 255
            yield slice(start, stop), image, mask, batch["values"], batch["index"]
            start = stop


@torch.no_grad()
def judge_models(
    cohort: Cohort, models: Mapping[str, CounterfactualModel], judge: Segmentor, progress: Progress
) -> list[Row]:
    """The rows of the table; see :func:`evaluate`."""
    study, scores, values = cohort.study, Scores(), cohort.values
    spec, variables = study.evaluation, list(study.variables)
    interventions = spec.interventions or study.areas
    truth = Truth.of(study, cohort.store)
    scm = next(iter(models.values())).scm
    # Categorical noise is abducted by sampling; the generator makes it the same every time.
    generator = torch.Generator(cohort.device).manual_seed(spec.seed)
    with progress.task("Judging counterfactuals", len(cohort) * (1 + len(interventions))) as task:
        for _, image, mask, before, _ in cohort.batches():
            _score_factual(scores, study, models, judge, image, mask, before)
            task.advance(len(image))
        for variable in interventions:
            wanted = from_marginal(values, spec.seed, variables.index(variable))
            for place, image, mask, before, index in cohort.batches():
                do = scm.intervention(len(before), **{variable: wanted[place]})
                after = scm.counterfactual(before, do, generator)
                drawn = truth.counterfactuals(index, variable, wanted[place]) if truth else None
                question = Question(study, variable, image, mask, before, after, drawn)
                question.score(scores, models, judge)
                task.advance(len(image))
    patients = cohort.store.table["patient"].iloc[cohort.rows].astype(str).tolist()
    return scores.rows(patients, spec.bootstrap, spec.seed)


def _score_factual(
    scores: Scores,
    study: Study,
    models: Mapping[str, CounterfactualModel],
    judge: Segmentor,
    image: Tensor,
    mask: Tensor,
    values: Tensor,
) -> None:
    """What needs no intervention: the judge's reading error, and whether the image stays as it is."""
    true = values[:, _area_columns(study)]
    error = area_error(judge.areas(image), true, study.evaluation.metric)
    dice = overlap(judge, image, mask)
    for s, structure in enumerate(study.structures):
        scores.add(names.JUDGE, study.evaluation.metric, error[:, s], structure=structure)
        scores.add(names.JUDGE, names.DICE, dice[:, s], structure=structure)
    for method, model in models.items():
        null = null_intervention(model, image, values)
        largest = (null - image).abs().amax(dim=(1, 2, 3)) * GREY_LEVELS
        rebuilt = reconstruction(model, image, values)
        scores.add(method, names.COMPOSITION, grey_difference(null, image))
        scores.add(method, names.COMPOSITION_MAX, largest)
        scores.add(method, names.RECONSTRUCTION, grey_difference(rebuilt, image))


@dataclass(frozen=True)
class Question:
    """One intervention on a batch of B people, to be answered by every method.

    ``variable`` is intervened on; values go from ``before`` to ``after``, (B, V). ``drawn`` is the truth.
    """

    study: Study
    variable: str
    image: Tensor
    mask: Tensor
    before: Tensor
    after: Tensor
    drawn: Drawn | None

    def score(self, scores: Scores, models: Mapping[str, CounterfactualModel], judge: Segmentor) -> None:
        """Add every method's results, and those of the references."""
        self._score_image(scores, names.NO_CHANGE, self.image, judge)
        for method, model in models.items():
            changed = image_counterfactual(model.hvae, self.image, self.before, self.after, sample=False)
            self._score_image(scores, method, saved(changed), judge)
            back = undo(model, changed, self.after, self.before)
            error = grey_difference(back, self.image)
            scores.add(method, names.REVERSIBILITY, error, intervention=self.variable)
        if self.drawn:
            self._score_image(scores, names.TRUTH, self.drawn.image, judge)

    def _score_image(self, scores: Scores, method: str, changed: Tensor, judge: Segmentor) -> None:
        """Results of one answer, the image ``changed`` (B, C, H, W), as it would be saved."""
        masks = judge.masks(changed)
        read = masks.sum(dim=(2, 3)) * judge.pixel_area
        metric = self.study.evaluation.metric
        error = area_error(read, self.after[:, _area_columns(self.study)], metric)
        for s, (structure, target) in enumerate(zip(self.study.structures, self.study.areas, strict=True)):
            scores.add(
                method,
                metric,
                error[:, s],
                intervention=self.variable,
                structure=structure,
                intervened=target == self.variable,
            )
        if method != names.NO_CHANGE and self.variable in self.study.areas:
            inside = self._locality(changed, masks)
            scores.add(method, names.LOCALITY, inside, intervention=self.variable)
        if method != names.TRUTH and self.drawn:
            miss = (changed - self.drawn.image) * GREY_LEVELS
            region = changed_region(self.mask > 0.5, self.drawn.mask > 0.5, self._radius)
            near, whole = mean_inside(miss, region), miss.abs().mean(dim=(1, 2, 3))
            scores.add(method, names.TRUE_ERROR, near, intervention=self.variable)
            scores.add(method, names.TRUE_ERROR_WHOLE, whole, intervention=self.variable)

    def _locality(self, changed: Tensor, masks: Tensor) -> Tensor:
        """Share of the change within the target, where it was or is now, and its surroundings, (B,)."""
        target = self.study.areas.index(self.variable)
        now = self.drawn.mask if self.drawn else masks
        region = (self.mask[:, target] > 0.5) | (now[:, target] > 0.5)
        return share_inside(changed - self.image, dilate(region, self._radius))

    @property
    def _radius(self) -> int:
        return radius(self.study.evaluation.dilation, self.study.image.size)


def _area_columns(study: Study) -> list[int]:
    """Columns of the values that are areas, in the order of the structures."""
    return [list(study.variables).index(variable) for variable in study.areas]
