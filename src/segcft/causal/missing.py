"""Missing values of a sample, inferred from those that are known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from segcft.causal.scm import StructuralCausalModel
from segcft.errors import Code, InterventionError

LogLikelihood = Callable[[Tensor], Tensor]
"""Of candidates (n, V): how likely something that was seen is under each, in nats up to a constant, (n,)."""

CANDIDATES = 4000
"""Samples of the SCM of which the likely ones are taken."""


class MissingValues:
    """The missing values (NaN) of one sample (1, V), given the others: likelihood weighting (Fung and Chang 1990).

    Candidates are drawn from the SCM with the known variables set to their values, and weighed by how likely these are
    given their parents. So causes tell of their effects by the draw, and effects of their causes by the weight. Of
    confounded variables the one tells of the other by the weight, too.

    Args:
        scm: of all variables.
        values: (1, V).
        generator: draws the candidates.
        candidates: how many.
        seen: what more is known of the sample, such as what its image shows.

    Raises:
        InterventionError: the other values have no likelihood.
    """

    def __init__(
        self,
        scm: StructuralCausalModel,
        values: Tensor,
        generator: Generator,
        candidates: int = CANDIDATES,
        seen: LogLikelihood | None = None,
    ) -> None:
        self.derived = torch.tensor([variable.derived is not None for variable in scm.definitions.values()])
        self.scm, self.values = scm, scm.derive(values)
        # What follows from the others is missing only as they are, and is no evidence.
        self.missing = values[0].isnan() & ~self.derived.to(values.device)
        if not self.missing.any():
            return
        with torch.no_grad():
            given = torch.where(self.derived.to(values.device), torch.nan, values)
            self.candidates = scm.sample(candidates, generator, given.expand(candidates, -1))
            likelihood = scm.log_prob(self.candidates)[:, ~self.missing].sum(dim=1)
            # The draw knows how the missing are tied to each other, and the weight how they are to the known.
            drawn = scm.confounding(self.candidates, self.missing.nonzero()[:, 0].tolist())
            likelihood = likelihood + scm.confounding(self.candidates) - drawn
            if seen is not None:
                likelihood = likelihood + seen(self.candidates)
            self.weights = torch.softmax(likelihood, dim=0)
        if not self.weights.isfinite().all():
            known = ", ".join(
                f"{name}={float(values[0, k]):g}"
                for k, name in enumerate(scm.variables)
                if not self.missing[k] and not scm.definitions[name].categories
            )
            raise InterventionError(
                Code.OUT_OF_RANGE, known, "so unlikely together that the missing values cannot be inferred"
            )

    def likely(self) -> tuple[Tensor, dict[str, float]]:
        """The sample completed (1, V), and by variable how certain that is.

        A continuous variable becomes the weighted mean, with its standard deviation; a categorical one the likeliest
        category, with its probability.
        """
        filled, certainty = self.values.clone(), {}
        for k in self.missing.nonzero()[:, 0].tolist():
            name = self.scm.variables[k]
            candidates = self.candidates[:, k]
            if self.scm.definitions[name].kind == "continuous":
                filled[0, k] = (self.weights * candidates).sum()
                certainty[name] = float((self.weights * (candidates - filled[0, k]).square()).sum().sqrt())
            else:
                shares = torch.bincount(candidates.long(), self.weights)
                filled[0, k] = shares.argmax()
                certainty[name] = min(float(shares.max()), 1.0)  # a sum of rounded weights
        return self.scm.derive(filled), certainty

    def draw(self, n: int, generator: Generator) -> Tensor:
        """The sample completed ``n`` times by draws from the posterior, (n, V)."""
        if not self.missing.any():
            return self.values.expand(n, -1).clone()
        return self.candidates[torch.multinomial(self.weights, n, replacement=True, generator=generator)]
