"""The counterfactuals that figures show: of a few samples, under changes of one structure's measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.support import all_limits
from segcft.data.store import Store
from segcft.evaluate import names
from segcft.evaluate.cohort import Cohort, SampleBatch
from segcft.evaluate.truth import Truth
from segcft.grey import rounded
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader

RANGE = (0.05, 0.95)
"""Quantiles of training values between which a place or an angle ranges."""


@dataclass(frozen=True)
class Answers:
    """Counterfactuals of K samples under M interventions each, by every method in turn.

    ``samples`` are as they are; ``measured`` (K, M, S) of all structures is what is asked for; ``images[method]``
    (K, M, C, *size) are in [-1, 1]. A true counterfactual that cannot be drawn is NaN. The judge's masks in 0..1 are
    ``before`` (K, S, *size) in the samples and ``after[method]`` (K, M, S, *size) in the answers.
    """

    samples: SampleBatch
    measured: Tensor
    images: dict[str, Tensor]
    before: Tensor
    after: dict[str, Tensor]

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """The same questions about the samples of all ``parts``, of which there is one at least."""
        return cls(
            SampleBatch(*(torch.cat(fields) for fields in zip(*(part.samples for part in parts), strict=True))),
            torch.cat([part.measured for part in parts]),
            {method: torch.cat([part.images[method] for part in parts]) for method in parts[0].images},
            torch.cat([part.before for part in parts]),
            {method: torch.cat([part.after[method] for part in parts]) for method in parts[0].after},
        )


class FigureQueries:
    """Asks every model for relative changes of a structure's measure, or for a progression of several variables.

    Args:
        cohort: the samples that may be asked about.
        models: method -> model.
        judge: reads measures.
        training_values: (N, V); no measure beyond their range is asked for where it can be avoided (default: those of
            the cohort).
        training: the samples that were trained on, if they are known.
    """

    def __init__(
        self,
        cohort: Cohort,
        models: Mapping[str, CounterfactualModel],
        judge: MaskReader,
        training_values: Tensor | None = None,
        training: Store | None = None,
    ) -> None:
        self.cohort, self.models, self.judge, self.training = cohort, models, judge, training
        self.known = (cohort.values if training_values is None else training_values).cpu().numpy()
        self.low, self.high = all_limits(cohort.study.variables, self.known)
        self.truth = Truth.of(cohort.study, cohort.store)
        # At random: the store may be sorted.
        order = np.random.default_rng(cohort.study.evaluation.seed).permutation(len(cohort))
        self.order = torch.from_numpy(order).to(cohort.device)

    def answers(self, structure: str, samples: int, changes: Sequence[float]) -> Answers:
        """Every method's answers about as many samples, preferably such that all changes are within range.

        Those that lack the structure come last: a share of nothing is nothing.
        """
        within = self._within(self.cohort.values[self.order], structure, changes)
        best = torch.argsort(within.sum(dim=1), descending=True, stable=True)[:samples]
        chosen = self.cohort.samples(self.order[best])
        return self._answers(chosen, {self._variable(structure): self._asked(chosen.values, structure, changes)})

    def obtained(self, structure: str, samples: int, changes: Sequence[float]) -> dict[str, Tensor]:
        """Method -> relative change of every structure's measure, (samples, changes, S), NaN beyond the range and where
        the structure is absent.

        What the judge reads of the answer less what it reads of the image, so that its bias does not count, over the
        known measure, as it may read next to nothing of a small structure; of a place over the range of places.
        """
        has_it = self._whole_of(structure, self.cohort.values[self.order]) > 0
        has_it_first = torch.argsort(has_it.long(), descending=True, stable=True)
        chosen = self.cohort.samples(self.order[has_it_first[:samples]])
        whole = self._whole(chosen.values)[:, None]
        within = self._within(chosen.values, structure, changes)[..., None] & (whole > 0)
        unchanged = self._read(chosen.image)[:, None]
        do = {self._variable(structure): self._asked(chosen.values, structure, changes)}
        obtained = {}
        for method in self.models:
            images = rounded(self._ask(method, chosen, do)[0])
            read = self._read(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            obtained[method] = torch.where(within, (read - unchanged) / whole, torch.nan).cpu()
        return obtained

    def progression(self, variables: Sequence[str], samples: int, quantiles: Sequence[float]) -> Answers:
        """Every method's answers about as many samples, when ``variables`` rise together through ``quantiles``."""
        chosen = self.cohort.samples(self.order[:samples])
        shape = (len(chosen.values), len(quantiles))
        levels = {v: np.nanquantile(self.known[:, self.cohort.column(v)], quantiles) for v in variables}
        do = {v: torch.from_numpy(level).to(chosen.values).expand(shape) for v, level in levels.items()}
        return self._answers(chosen, do)

    def levels(self, variable: str, samples: int, quantiles: Sequence[float]) -> Answers:
        """Every method's answers about as many samples when ``variable`` is each of its categories, or each of the
        ``quantiles`` of training values."""
        categories = self.cohort.study.variables[variable].categories
        if not categories:
            return self.progression((variable,), samples, quantiles)
        chosen = self.cohort.samples(self.order[:samples])
        every = torch.arange(len(categories), dtype=chosen.values.dtype, device=chosen.values.device)
        return self._answers(chosen, {variable: every.expand(len(chosen.values), -1)})

    def _answers(self, samples: SampleBatch, do: Mapping[str, Tensor]) -> Answers:
        """Every method's answers, and the truth, about K samples under interventions: variables and values (K, M)."""
        images = {}
        for method in self.models:
            answers, values = self._ask(method, samples, do)
            images[method] = rounded(answers)
        if self.truth:
            rows = samples.rows.repeat_interleave(values.shape[1])
            drawn = self.truth.counterfactuals(rows, {variable: wanted.flatten() for variable, wanted in do.items()})
            if drawn is not None:
                images[names.TRUTH] = drawn.image.unflatten(0, values.shape[:2])
        after = {
            method: self._masks(answers.flatten(0, 1)).unflatten(0, values.shape[:2])
            for method, answers in images.items()
        }
        measured = values[..., self.cohort.measured_columns]
        return Answers(samples, measured, images, self._masks(samples.image), after)

    @torch.no_grad()
    def _ask(self, method: str, samples: SampleBatch, do: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The images (K, M, C, *size) and values (K, M, V) of the samples under interventions, as above."""
        model = self.models[method]
        abduction = model.abduct(samples.image, samples.values)
        generator = torch.Generator(self.cohort.device).manual_seed(self.cohort.study.evaluation.seed)
        images, values = [], []
        for m in range(next(iter(do.values())).shape[1]):
            asked = model.scm.intervention(len(samples.values), **{name: wanted[:, m] for name, wanted in do.items()})
            answer = abduction.counterfactual(asked, generator)
            images.append(answer.image)
            values.append(answer.values)
        return torch.stack(images, dim=1), torch.stack(values, dim=1)

    def _asked(self, values: Tensor, structure: str, changes: Sequence[float]) -> Tensor:
        """The measures asked for, (K, M)."""
        known = values[:, self.cohort.column(self._variable(structure))]
        return known[:, None] + self._whole_of(structure, values)[:, None] * torch.tensor(changes, device=known.device)

    def _whole(self, values: Tensor) -> Tensor:
        """What changes are shares of, (K, M): the measure itself; of a place or an angle, whose 0 is not nothing, the
        range of the training values between :data:`RANGE`."""
        study = self.cohort.study
        known = values[:, study.measured_columns].clone()
        for place, one in enumerate(Measurements.of(study).all):
            if not one.measure.ratio:
                low, high = np.nanquantile(self.known[:, self.cohort.column(one.variable)], RANGE)
                known[:, place] = float(high - low)
        return known

    def _whole_of(self, structure: str, values: Tensor) -> Tensor:
        """:meth:`_whole` of one structure, (K,)."""
        return self._whole(values)[:, list(self.cohort.study.structures).index(structure)]

    def _within(self, values: Tensor, structure: str, changes: Sequence[float]) -> Tensor:
        """Whether the measures asked for are in the training range, and not the share of nothing, (K, M)."""
        k, asked = self.cohort.column(self._variable(structure)), self._asked(values, structure, changes)
        has_it = self._whole_of(structure, values)[:, None] > 0
        return (asked >= float(self.low[k])) & (asked <= float(self.high[k])) & has_it

    def _variable(self, structure: str) -> str:
        return self.cohort.study.structures[structure].variable

    @torch.no_grad()
    def _masks(self, images: Tensor) -> Tensor:
        parts = images.split(self.cohort.study.evaluation.batch_size)
        return torch.cat([self.judge.masks(part) for part in parts])

    def _read(self, images: Tensor) -> Tensor:
        return self.judge.measurements.read(self._masks(images), images)
