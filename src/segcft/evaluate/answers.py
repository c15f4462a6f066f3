"""The counterfactuals that figures show: a few people, and changes of one structure's area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segcft.counterfactual import Abduction, CounterfactualModel
from segcft.evaluate import names
from segcft.evaluate.cohort import Cohort, People
from segcft.evaluate.effectiveness import Judge, saved
from segcft.evaluate.truth import Truth


@dataclass(frozen=True)
class Answers:
    """Counterfactuals of K people under M changes of one structure's area, by every method in turn.

    ``people`` are as they are; ``images[method]`` (K, M, C, H, W) are in [-1, 1]; ``asked`` (K, M) are the
    areas asked for. A true counterfactual that cannot be drawn is NaN.
    """

    structure: str
    people: People
    asked: Tensor
    images: dict[str, Tensor]


@dataclass(frozen=True)
class Progression:
    """Counterfactuals of K people through M stages in which variables rise together; the others are held.

    ``areas`` (K, M, S) are those asked for; the rest as in :class:`Answers`.
    """

    people: People
    areas: Tensor
    images: dict[str, Tensor]


class Inquiry:
    """Asks every model for relative changes of a structure's area.

    Args:
        cohort: who may be asked about.
        models: method -> model.
        judge: reads areas.
        training_values: (N, V); no area beyond their range is asked for where it can be avoided.
    """

    def __init__(
        self,
        cohort: Cohort,
        models: Mapping[str, CounterfactualModel],
        judge: Judge,
        training_values: Tensor,
    ) -> None:
        self.cohort, self.models, self.judge = cohort, models, judge
        # Missing values, NaN, are no limit.
        self.known = training_values.cpu().numpy()
        self.low, self.high = np.nanmin(self.known, axis=0), np.nanmax(self.known, axis=0)
        self.truth = Truth.of(cohort.study, cohort.store)
        # Random people: the store may be sorted.
        order = np.random.default_rng(cohort.study.evaluation.seed).permutation(len(cohort))
        self.order = torch.from_numpy(order).to(cohort.device)

    def answers(self, structure: str, people: int, changes: Sequence[float]) -> Answers:
        """Every method's answers about as many people, preferably such that all changes are within range."""
        within = self._within(self.cohort.values[self.order], structure, changes)
        best = torch.argsort(within.sum(dim=1), descending=True, stable=True)[:people]
        chosen = self.cohort.people(self.order[best])
        asked = self._asked(chosen.values, structure, changes)
        images = {m: saved(self._change(m, chosen, structure, changes)) for m in self.models}
        if self.truth:
            rows = chosen.rows.repeat_interleave(len(changes))
            drawn = self.truth.counterfactuals(rows, {self._variable(structure): asked.flatten()})
            images[names.TRUTH] = drawn.image.unflatten(0, tuple(asked.shape))
        return Answers(structure, chosen, asked, images)

    def obtained(self, structure: str, people: int, changes: Sequence[float]) -> dict[str, Tensor]:
        """Method -> relative change of every structure's area, (people, changes, S), NaN beyond the range.

        Relative to what the judge reads from the image as it is, so that its bias does not count.
        """
        chosen = self.cohort.people(self.order[:people])
        within = self._within(chosen.values, structure, changes)[..., None]
        unchanged = self._read(chosen.image)
        obtained = {}
        for method in self.models:
            images = saved(self._change(method, chosen, structure, changes))
            read = self._read(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            obtained[method] = torch.where(within, read / unchanged[:, None] - 1, torch.nan).cpu()
        return obtained

    def progression(self, variables: Sequence[str], people: int, quantiles: Sequence[float]) -> Progression:
        """Every method's answers about as many people, when ``variables`` rise together through ``quantiles``."""
        chosen = self.cohort.people(self.order[:people])
        levels = {v: np.nanquantile(self.known[:, self.cohort.column(v)], quantiles) for v in variables}
        do = chosen.values.new_full((len(chosen.values), len(quantiles), chosen.values.shape[1]), torch.nan)
        for variable, values in levels.items():
            do[..., self.cohort.column(variable)] = torch.from_numpy(values).to(do)
        after, images = chosen.values[:, None], {}
        for method in self.models:
            answers, after = self._ask(method, chosen, do)
            images[method] = saved(answers)
        if self.truth:
            rows = chosen.rows.repeat_interleave(len(quantiles))
            drawn = self.truth.counterfactuals(rows, {v: do[..., self.cohort.column(v)].flatten() for v in variables})
            images[names.TRUTH] = drawn.image.unflatten(0, do.shape[:2])
        return Progression(chosen, after[..., self.cohort.area_columns], images)

    def _change(self, method: str, people: People, structure: str, changes: Sequence[float]) -> Tensor:
        """The images (K, M, C, H, W) of the people under every change of the structure's area."""
        asked = self._asked(people.values, structure, changes)
        do = people.values.new_full((*asked.shape, people.values.shape[1]), torch.nan)
        do[..., self.cohort.column(self._variable(structure))] = asked
        return self._ask(method, people, do)[0]

    @torch.no_grad()
    def _ask(self, method: str, people: People, do: Tensor) -> tuple[Tensor, Tensor]:
        """The images (K, M, C, H, W) and values (K, M, V) of the people under interventions ``do`` (K, M, V)."""
        model = self.models[method]
        abduction = Abduction(model.hvae, people.image, people.values)
        generator = torch.Generator(self.cohort.device).manual_seed(self.cohort.study.evaluation.seed)
        after = [model.scm.counterfactual(people.values, one, generator) for one in do.unbind(1)]
        return torch.stack([abduction.counterfactual(one) for one in after], dim=1), torch.stack(after, dim=1)

    def _asked(self, values: Tensor, structure: str, changes: Sequence[float]) -> Tensor:
        """The areas asked for, (K, M)."""
        area = values[:, self.cohort.column(self._variable(structure))]
        return area[:, None] * (1 + torch.tensor(changes, device=area.device))

    def _within(self, values: Tensor, structure: str, changes: Sequence[float]) -> Tensor:
        """Whether the areas asked for are such as were seen in training, (K, M)."""
        k, asked = self.cohort.column(self._variable(structure)), self._asked(values, structure, changes)
        return (asked >= float(self.low[k])) & (asked <= float(self.high[k]))

    def _variable(self, structure: str) -> str:
        return self.cohort.study.structures[structure].variable

    @torch.no_grad()
    def _read(self, images: Tensor) -> Tensor:
        parts = images.split(self.cohort.study.evaluation.batch_size)
        return torch.cat([self.judge.areas(part) for part in parts])
