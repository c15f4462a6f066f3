"""Confounded variables: what is no variable causes two of them, so that their noises are correlated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from segcft.causal.dependence import correlations

LEAST = 1e-2
"""The least eigenvalue of a matrix of correlations: no noise is all but told by the others."""


class GaussianCopula(nn.Module):
    r"""Standard normal noises :math:`u \sim N(0, R)` of V variables, of which some pairs are correlated.

    .. math:: \log c(u) = -\tfrac12 \log |R| - \tfrac12 u^\top (R^{-1} - I) u

    is added to the log density of independent noises. The mechanisms are learnt as if the noises were independent,
    which stays true of each by itself, and then the correlations from their noises (inference functions for margins,
    Joe 2005).

    Args:
        size: how many variables V there are.
        pairs: the variables, by number, whose noises may be correlated; all other correlations are 0.
    """

    correlation: Tensor

    def __init__(self, size: int, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.members = sorted({k for pair in self.pairs for k in pair})
        """The variables that are in any pair."""
        self.register_buffer("correlation", torch.eye(size))

    @torch.no_grad()
    def fit(self, scores: Tensor) -> None:
        """Learn the correlations from noises (N, V); NaN is not known.

        Pairs may contradict each other where some are left at 0: all are then shrunk until they can be together.
        """
        found = correlations(scores.detach().cpu().double().numpy())
        allowed = np.zeros_like(found)
        for a, b in self.pairs:
            allowed[a, b] = allowed[b, a] = found[a, b]
        lowest = 1 + float(np.linalg.eigvalsh(allowed)[0])
        shrunk = allowed * min(1.0, (1 - LEAST) / (1 - lowest)) if lowest < LEAST else allowed
        self.correlation.copy_(torch.from_numpy(shrunk + np.eye(len(shrunk))))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Noises (n, V)."""
        device = generator.device if generator else self.correlation.device
        normal = torch.randn(n, len(self.correlation), generator=generator, device=device).to(self.correlation)
        return normal @ torch.linalg.cholesky(self.correlation).mT

    def log_density(self, scores: Tensor, columns: Sequence[int] | None = None) -> Tensor:
        """:math:`\\log c` of noises (B, V), (B,): of some ``columns`` alone (default: of all that are in pairs).
        Noises that are not known, NaN, make it NaN."""
        chosen = [k for k in self.members if columns is None or k in columns]
        if not chosen:
            return scores.new_zeros(len(scores))
        correlation = self.correlation[chosen][:, chosen].to(scores)
        root = torch.linalg.cholesky(correlation)
        u = scores[:, chosen]
        whitened = torch.linalg.solve_triangular(root, u.mT, upper=False)
        return -root.diagonal().log().sum() - 0.5 * (whitened.square().sum(dim=0) - u.square().sum(dim=1))
