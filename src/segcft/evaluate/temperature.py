"""How far an image's likelihood can be believed where it tells categories: learnt from people of whom they are known.

See :mod:`segcft.counterfactual.evidence`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from segcft.causal.missing import MissingValues
from segcft.config.study import Study
from segcft.counterfactual.evidence import Combinations, log_likelihoods
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.store import Store
from segcft.errors import InterventionError, RunError
from segcft.grey import to_unit
from segcft.utils.progress import Progress

SURE = 1e-12
"""What a probability is at least below 1."""
TEMPERATURES = torch.logspace(0, 5, 51, dtype=torch.float64)
CANDIDATES = 1000
"""Draws of the SCM of which the likely ones are taken, for each sample."""
MOST = 200
"""Samples: one number is learnt of them."""


class Told(NamedTuple):
    """What is known of the categories of a sample of which nobody has told more than its image."""

    categories: Tensor
    """Combinations of them, (K, V); other columns mean nothing."""
    prior: Tensor
    """log of the probability of each by the measures alone, (K,)."""
    seen: Tensor
    """How likely the image is under each, in nats, up to a constant, (K,)."""

    def log_posterior(self, temperature: Tensor) -> Tensor:
        """log of the probability of each by measures and image, at temperatures (T,); (T, K)."""
        return torch.log_softmax(self.prior + self.seen / temperature[:, None], dim=1)


def fitted_temperature(
    study: Study, model: CounterfactualModel, store: Store, rows: NDArray[np.int64], progress: Progress
) -> float | None:
    """The temperature at which the categories of ``rows`` of the store, inferred from their images and measures, have
    the highest likelihood, or the highest temperature at which that is not surely lower.

    Returns:
        None where the image does not surely say what the measures do not, or has no likelihood, or no category is
        known.
    """
    columns = categorical(study)
    values = torch.from_numpy(store.values()[rows])
    some = np.flatnonzero((~values[:, columns].isnan()).any(dim=1).numpy())
    rows = rows[np.sort(np.random.default_rng(study.evaluation.seed).permutation(some)[:MOST])]
    temperatures = torch.cat([TEMPERATURES, torch.tensor([torch.inf])])
    logs = []
    try:
        for row, found in told(study, model, store, rows, progress):
            own = torch.from_numpy(store.values()[row])
            known = [k for k in columns if not own[k].isnan()]
            right = (found.categories[:, known] == own[known]).all(dim=1)
            if right.any():  # else so unlikely that it was not drawn, which says nothing of the temperature
                logs.append(found.log_posterior(temperatures)[:, right].logsumexp(dim=1).clamp(max=-SURE))
    except RunError:  # there is no likelihood
        return None
    if not logs:
        return None
    chosen = _most_careful(_losses(torch.stack(logs)))
    return float(temperatures[chosen]) if chosen < len(TEMPERATURES) else None


def _losses(logs: Tensor) -> Tensor:
    """Losses (N, T) of log probabilities (N, T) of what is right, as if of one sample more the opposite were right
    (Laplace's rule of succession): N that are right do not show that the next one is."""
    n = len(logs)
    return -(n * logs + torch.log1p(-logs.exp())) / (n + 1)


def _most_careful(losses: Tensor) -> int:
    """Of settings in order of care, by losses (N, T) of samples: the last one that is no worse than the best one by
    more than the standard error of their difference (Breiman et al. 1984), as few samples overrate what fits them."""
    excess = losses - losses[:, losses.mean(dim=0).argmin(), None]
    error = excess.std(dim=0) / len(losses) ** 0.5 if len(losses) > 1 else torch.full_like(excess[0], torch.inf)
    return int((excess.mean(dim=0) <= error).nonzero().max())


@torch.no_grad()
def told(
    study: Study, model: CounterfactualModel, store: Store, rows: NDArray[np.int64], progress: Progress
) -> Iterator[tuple[int, Told]]:
    """What images and measures of ``rows`` of the store tell of their categories; who has no likelihood is left out.

    Raises:
        RunError: the image mechanism has no likelihood.
    """
    device = next(model.parameters()).device
    generator = Generator(device).manual_seed(study.evaluation.seed)
    for row in progress(rows.tolist(), len(rows), "Learning what images tell"):
        known = torch.full((1, len(study.variables)), torch.nan, device=device)
        known[0, study.measured_columns] = torch.from_numpy(store.values()[row]).to(device)[study.measured_columns]
        try:
            missing = MissingValues(model.scm, known, generator, CANDIDATES)
        except InterventionError:
            continue
        combinations = Combinations(model.scm, missing.candidates)
        image = to_unit(torch.from_numpy(np.array(store.images[row]))[None].to(device))
        seen = log_likelihoods(model, image, combinations).double()
        prior = torch.zeros_like(seen).index_add(0, combinations.which, missing.weights.double()).log()
        yield row, Told(combinations.values.cpu(), prior.cpu(), (seen - seen.max()).cpu())


def categorical(study: Study) -> list[int]:
    """Where categories are among the values."""
    return [k for k, variable in enumerate(study.variables.values()) if variable.categories]
