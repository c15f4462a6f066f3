r"""Average effects: what an attribute does to images on average, with the measures and all other variables held.

A predictor is pleased once it is sure of an attribute, and one sign of it may do where people show several. What
people show on average has all of them. With features :math:`e(a)` of all values
(:class:`~segcft.causal.mechanisms.ParentEncoder`) and coarse images :math:`y` (means of cells), least squares over
training people gives

.. math:: y \approx B e(a) + c,

and the same fit of what counterfactuals change, through the origin,

.. math:: \tilde y - y \approx K (e(\tilde a) - e(a)),

is to have the same coefficients. What is known of B is limited. With its standard error s each cell is shrunk to
:math:`\kappa B`, :math:`\kappa = (1 - z^2 s^2 / B^2)_+`, with the z of each attribute at which Stein's unbiased
estimate of the error is least,

.. math:: \sum_{|B| > z s} \left(s^2 + \frac{z^2 (z^2 + 2) s^4}{B^2}\right) + \sum_{|B| \le z s} (B^2 - s^2).

Fine-tuning minimises :math:`\sum \kappa (K - \kappa B)^2 / \sum B^2` of each attribute: where nothing is known,
nothing is asked. K is an average over more samples than a batch has, so it is a moving one, of the steps before,

.. math:: \hat K_t = (1 - \eta) \hat K_{t - 1} + \eta K_t, \qquad
          \nabla = 2 \sum \kappa (\hat K_{t - 1} - \kappa B) \nabla K_t,

with :math:`K_t` that of the batch alone. The batch itself is left out of the average that its gradient is taken at.
Were it part of it, the loss would ask for a small variance of batches, too: large changes of single images would be
punished, whatever their average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from segcft.causal.mechanisms import ParentEncoder
from segcft.config.variable import Variable
from segcft.data.batches import Batch
from segcft.grey import to_unit
from segcft.grid import Grid

CELLS = 32
"""Cells a side, at most: people's organs lie in different places, so an average has no finer detail."""

NEW = 0.1
"""What the newest step counts in the average of what counterfactuals change. A longer memory lags behind, and the
answers swing about what they should be."""

STRICTNESS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
"""The z that are tried."""

LEAST = 1e-12
"""Of squared grey levels; below it there is nothing."""

SINGULAR = 1e-9
"""Features of categories add up to a constant: what has so small a share of the largest singular value is none."""


def kept(found: Tensor, noise: Tensor) -> Tensor:
    """The share of coefficients ``found`` (K, P) that is kept, whose squared standard errors are ``noise`` (K, P)."""
    size, risks = found.square().clamp(min=LEAST), []
    for strict in STRICTNESS:
        bound = strict**2 * noise
        above = noise + bound * noise * (strict**2 + 2) / size
        risks.append(float(torch.where(size > bound, above, size - noise).sum()))
    return (1 - STRICTNESS[int(np.argmin(risks))] ** 2 * noise / size).clamp(min=0)


class AverageEffects(nn.Module):
    """How far counterfactuals are from the average effects of attributes.

    Args:
        variables: the V variables, in the order of the columns of values.
        attributes: those whose effects count.
        channels: of the images.
        size: of the images, in pixels a side.
    """

    effect: Tensor
    known: Tensor
    norm: Tensor
    weigh: Tensor
    obtained: Tensor

    def __init__(
        self, variables: Mapping[str, Variable], attributes: Sequence[str], channels: int, size: Sequence[int]
    ) -> None:
        super().__init__()
        self.encoder = ParentEncoder(variables)
        self.cells = tuple(min(side, CELLS) for side in size)
        self.columns = [self.encoder.columns([name]) for name in attributes]
        self.categorical = [bool(variables[name].categories) for name in attributes]
        shape = (sum(map(len, self.columns)), channels, *self.cells)
        for name in ("effect", "known", "obtained"):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("norm", torch.ones(len(attributes)))
        self.register_buffer("weigh", torch.zeros(self.encoder.features, shape[0]))
        self._step, self._seen = -1, list[Tensor]()

    def coarse(self, image: Tensor) -> Tensor:
        """Means of an image's cells: (B, C, *size) to (B, C, *cells)."""
        return Grid.like(image).pool(image, self.cells)

    @torch.no_grad()
    def fit(self, people: Iterable[Batch], values: Tensor, images: Tensor) -> None:
        """Learn the effects from the images of ``people``.

        Args:
            people: all samples, in batches.
            values: those of all samples, (N, V).
            images: of each sample, how many its subject has, (N,). Images of one subject are alike in more than their
                values, so all of them together count as one.
        """
        self.encoder.set_statistics(values)
        # On the CPU: some devices have no double precision.
        weights = 1 / images.cpu().double()
        subjects = float(weights.sum())
        features, cells = self.encoder.features, self.effect[0].numel()
        mean = (weights[:, None] * self.encoder(values.to(self.effect.device)).cpu().double()).sum(dim=0) / subjects
        products, mixed = torch.zeros(features, features).double(), torch.zeros(features, cells).double()
        total, square, done = torch.zeros(cells).double(), torch.zeros(cells).double(), 0
        for batch in people:
            seen = self.coarse(to_unit(batch["image"])).flatten(1).cpu().double()
            known = self.encoder(batch["values"]).cpu().double() - mean
            weight = weights[done : done + len(seen), None]
            products, mixed = products + known.T @ (weight * known), mixed + known.T @ (weight * seen)
            total, square = total + (weight * seen).sum(dim=0), square + (weight * seen.square()).sum(dim=0)
            done += len(seen)
        inverse = torch.linalg.pinv(products, rtol=SINGULAR, hermitian=True)
        found = inverse @ mixed
        left = (square - total.square() / subjects - (found * mixed).sum(dim=0)).clamp(min=0)
        # Of what is not explained, as many degrees of freedom are gone as there are coefficients.
        noise = inverse.diagonal()[:, None] * left / max(1.0, subjects - 1 - features)
        shares = [kept(found[one], noise[one]) for one in self.columns]
        parts = [share * found[one] for share, one in zip(shares, self.columns, strict=True)]
        # Effects of categories add up to 0, as what counterfactuals change does.
        parts = [part - part.mean(dim=0) if sums else part for part, sums in zip(parts, self.categorical, strict=True)]
        self.effect.copy_(torch.cat(parts).reshape_as(self.effect))
        self.known.copy_(torch.cat(shares).reshape_as(self.known))
        self.norm.copy_(torch.stack([found[one].square().sum().clamp(min=LEAST) for one in self.columns]))

    @torch.no_grad()
    def fit_draws(self, before: Tensor, after: Tensor) -> None:
        """Learn from values (N, V) ``before`` and ``after`` drawn interventions how their changes go together."""
        changes = self.change(before, after).cpu().double()
        inverse = torch.linalg.pinv(changes.T @ changes / len(changes), rtol=SINGULAR, hermitian=True)
        self.weigh.copy_(inverse[:, [column for columns in self.columns for column in columns]])

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """By how much the features (B, E) of values (B, V) change."""
        return self.encoder(after) - self.encoder(before)

    def forward(self, difference: Tensor, before: Tensor, after: Tensor, step: int = 0) -> Tensor:
        """Of each attribute, how much of what is known of its average effect is missed, (A,): as a share of the whole
        effect, so little where little is known.

        Args:
            difference: what counterfactuals change, (B, C, *size).
            before: the samples' values (B, V).
            after: the counterfactuals'.
            step: of the training; what is seen in it counts once it is accepted (:meth:`accept`).
        """
        with torch.autocast(difference.device.type, enabled=False):
            weights = self.change(before, after).float() @ self.weigh
            batch = torch.einsum("bj,b...->j...", weights, self.coarse(difference.float())) / len(difference)
            missed = self.obtained - self.effect
            if self.training:
                self._seen = [*(self._seen if step == self._step else []), batch.detach()]
                self._step = step
            # The value is the average's, the gradient the batch's.
            along = (self.known * missed * (batch - batch.detach())).flatten(1).sum(dim=1)
            size = (self.known * missed.square()).flatten(1).sum(dim=1) + 2 * along
            return torch.stack([part.sum() for part in size.split([len(one) for one in self.columns])]) / self.norm

    @torch.no_grad()
    def accept(self) -> None:
        """The step was taken: what was seen in it is part of the average. A step that is refused leaves no trace."""
        if self._seen:
            self.obtained.lerp_(torch.stack(self._seen).mean(dim=0), NEW)
            self._seen = []
