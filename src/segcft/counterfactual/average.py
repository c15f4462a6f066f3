r"""Average effects: what an attribute does to images, the measures and all other variables held, on average.

A predictor is pleased once it is sure, and an answer may please it by one of two breasts. What people show on average
has both. With features :math:`e(a)` of all values (:class:`~segcft.causal.mechanisms.ParentEncoder`) and coarse images
:math:`y` (averages of cells), least squares over training people gives

.. math:: y \approx B e(a) + c,

and the same fit of what counterfactuals change, through the origin,

.. math:: \tilde y - y \approx K (e(\tilde a) - e(a)),

is to have the same coefficients. Fine-tuning minimises :math:`|K_j - B_j|^2 / |B_j|^2` of the features j of each
attribute. K is an average that no single batch knows, so it is a moving one; the gradient is that of the batch's part.

A cell of B that is no more than its noise would be asked for in vain: with its standard error s each is shrunk to
:math:`B (1 - z^2 s^2 / B^2)_+`, with the z of each attribute at which Stein's unbiased estimate of the error is least,

.. math:: \sum_{|B| > z s} \left(s^2 + \frac{z^2 (z^2 + 2) s^4}{B^2}\right) + \sum_{|B| \le z s} (B^2 - s^2).

So little is asked for where people are few or an attribute hardly shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.causal.mechanisms import ParentEncoder
from segcft.config.variable import Variable
from segcft.data.batches import Batch
from segcft.grey import to_unit

CELLS = 32
"""Cells a side, at most: finer than these people's anatomy differs in place, and an average has nothing."""

MEMORY = 0.04
"""Share of the steps over which what counterfactuals change is averaged, as the price's."""

STRICTNESS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
"""The z that are tried."""

LEAST = 1e-12
"""Of squared grey levels; below it there is nothing."""


def shrunk(found: Tensor, noise: Tensor) -> Tensor:
    """Coefficients ``found`` (K, P) whose squared standard errors are ``noise``, shrunk to where their error is
    estimated to be least."""
    found = torch.where(found == 0, LEAST, found)
    risks = []
    for strict in STRICTNESS:
        bound = strict**2 * noise
        above = bound * noise * (strict**2 + 2) / found.square()
        risks.append(float(torch.where(found.square() > bound, noise + above, found.square() - noise).sum()))
    bound = STRICTNESS[int(np.argmin(risks))] ** 2 * noise
    return found * (1 - bound / found.square()).clamp(min=0)


class AverageEffects(nn.Module):
    """How far counterfactuals are from the average effects of attributes.

    Args:
        variables: the V variables, in the order of the columns of values.
        attributes: those whose effects count.
        channels: of the images.
        size: of the images, in pixels a side.
        steps: of the fine-tuning.
    """

    effect: Tensor
    norm: Tensor
    weigh: Tensor
    obtained: Tensor

    def __init__(
        self,
        variables: Mapping[str, Variable],
        attributes: Sequence[str],
        channels: int,
        size: Sequence[int],
        steps: int,
    ) -> None:
        super().__init__()
        self.encoder = ParentEncoder(variables)
        self.cells = [min(side, CELLS) for side in size]
        self.columns = [self.encoder.columns([name]) for name in attributes]
        self.new = 1 / max(1.0, MEMORY * steps)
        count = sum(map(len, self.columns))
        self.register_buffer("effect", torch.zeros(count, channels, *self.cells))
        self.register_buffer("obtained", torch.zeros(count, channels, *self.cells))
        self.register_buffer("norm", torch.ones(len(attributes)))
        self.register_buffer("weigh", torch.zeros(self.encoder.features, count))

    def coarse(self, image: Tensor) -> Tensor:
        """Averages of an image's cells: (B, C, *size) to (B, C, *cells)."""
        pool: Any = F.adaptive_avg_pool3d if len(self.cells) == 3 else F.adaptive_avg_pool2d
        coarse: Tensor = pool(image, self.cells)
        return coarse

    @torch.no_grad()
    def fit(self, people: Iterable[Batch], values: Tensor) -> None:
        """Learn the effects from the images of ``people``; ``values`` (N, V) are those of all of them."""
        self.encoder.set_statistics(values)
        mean = self.encoder(values.to(self.effect.device)).double().mean(dim=0).cpu()
        features, cells, count = len(mean), self.effect[0].numel(), 0
        products, mixed = torch.zeros(features, features).double(), torch.zeros(features, cells).double()
        total, square = torch.zeros(cells).double(), torch.zeros(cells).double()
        for batch in people:
            # On the CPU: some devices have no double precision.
            seen = self.coarse(to_unit(batch["image"])).flatten(1).cpu().double()
            known = self.encoder(batch["values"]).cpu().double() - mean
            products, mixed = products + known.T @ known, mixed + known.T @ seen
            total, square, count = total + seen.sum(dim=0), square + seen.square().sum(dim=0), count + len(seen)
        inverse = torch.linalg.pinv(products)
        found = inverse @ mixed
        # Of what is not explained, as many degrees of freedom are gone as there are coefficients.
        left = (square - total.square() / count - (found * mixed).sum(dim=0)).clamp(min=0) / max(
            1, count - 1 - features
        )
        noise = inverse.diagonal()[:, None] * left
        self.effect.copy_(torch.cat([shrunk(found[one], noise[one]) for one in self.columns]).reshape_as(self.effect))
        self.norm.copy_(torch.stack([found[one].square().sum().clamp(min=LEAST) for one in self.columns]))

    @torch.no_grad()
    def fit_draws(self, before: Tensor, after: Tensor) -> None:
        """Learn from values (N, V) ``before`` and ``after`` drawn interventions how their changes go together."""
        changes = self.change(before, after).cpu().double()
        self.weigh.copy_(torch.linalg.pinv(changes.T @ changes / len(changes))[:, self._all])

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """By how much the features (B, E) of values (B, V) change."""
        return self.encoder(after) - self.encoder(before)

    def forward(self, difference: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Of each attribute, the share of its average effect that is missed, (A,): 1 where nothing changes, 0 where all
        is as people show.

        Args:
            difference: what counterfactuals change, (B, C, *size).
            before: the samples' values (B, V).
            after: the counterfactuals'.
        """
        weights = self.change(before, after) @ self.weigh
        batch = torch.einsum("bj,b...->j...", weights, self.coarse(difference)) / len(difference)
        if self.training:
            self.obtained.lerp_(batch.detach(), self.new)
        missed = self.obtained - self.effect
        # The value is the average's, the gradient the batch's.
        along = (missed * (batch - batch.detach())).flatten(1).sum(dim=1)
        size = missed.square().flatten(1).sum(dim=1) + 2 * along
        return torch.stack([part.sum() for part in size.split([len(one) for one in self.columns])]) / self.norm

    @property
    def _all(self) -> list[int]:
        return [column for columns in self.columns for column in columns]
