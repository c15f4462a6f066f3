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
from segcft.counterfactual.evidence import Believed, Combinations, length_of, log_likelihoods
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.store import Store
from segcft.errors import InterventionError
from segcft.grey import to_unit
from segcft.image_models.typicality import FEWEST_IMAGES, prediction_interval
from segcft.utils.progress import Progress

TEMPERATURES = torch.logspace(0, 5, 51, dtype=torch.float64)
CANDIDATES = 1000
"""Draws of the SCM of which the likely ones are taken, for each sample."""
MOST_SAMPLES = 200
"""Samples: one number is learnt of them."""
SURE = 1e-12
"""What a probability is at least below 1."""


class Belief(NamedTuple):
    """What is inferred of the categories of a sample of which its image and measures alone are known."""

    categories: Tensor
    """Combinations of them, (K, V); other columns mean nothing."""
    prior: Tensor
    """log of the probability of each by the measures alone, (K,)."""
    seen: Tensor
    """How likely the image is under each, in nats, up to a constant, (K,)."""
    length: float
    """Of the image under the likeliest, in bits a pixel."""

    def log_posterior(self, temperatures: Tensor) -> Tensor:
        """log of the probability of each by measures and image, at temperatures (T,); (T, K)."""
        return torch.log_softmax(self.prior + self.seen / temperatures[:, None], dim=1)


def categorical(study: Study) -> list[int]:
    """Where categories are among the values."""
    return [k for k, variable in enumerate(study.variables.values()) if variable.categories]


def fitted_temperature(
    study: Study, model: CounterfactualModel, store: Store, rows: NDArray[np.int64], progress: Progress
) -> Believed | None:
    """The temperature at which the categories of ``rows`` of the store, inferred from their images and measures, have
    the highest likelihood, or the highest temperature at which that is not surely lower.

    Returns:
        None where the image does not surely say what the measures do not, or has no likelihood, or the categories of
        too few samples are known.
    """
    columns, values = categorical(study), torch.from_numpy(store.values()[rows])
    some = np.flatnonzero((~values[:, columns].isnan()).any(dim=1).numpy())
    some = np.sort(np.random.default_rng(study.evaluation.seed).permutation(some)[:MOST_SAMPLES])
    temperatures = torch.cat([TEMPERATURES, torch.tensor([torch.inf])])
    logs, lengths = [], []
    for place, belief in beliefs(study, model, store, rows[some], progress):
        own = values[some[place]]
        known = [k for k in columns if not own[k].isnan()]
        right = (belief.categories[:, known] == own[known]).all(dim=1)
        if right.any():  # else so unlikely that it was not drawn, which says nothing of the temperature
            logs.append(belief.log_posterior(temperatures)[:, right].logsumexp(dim=1))
            lengths.append(belief.length)
    if len(logs) < FEWEST_IMAGES:
        return None
    # What so many draws did not bring up may still be as likely as one of them.
    chosen = _most_careful(_losses(torch.stack(logs).clamp(float(np.log(1 / CANDIDATES)), -SURE)))
    if chosen == len(TEMPERATURES):
        return None
    return Believed(temperature=float(temperatures[chosen]), usual=prediction_interval(torch.tensor(lengths)))


def _losses(logs: Tensor) -> Tensor:
    """Losses (N, T) of log probabilities (N, T) of what is right, as if of one sample more the opposite were right
    (Laplace's rule of succession): N that are right do not show that the next one is."""
    n = len(logs)
    return -(n * logs + torch.log1p(-logs.exp())) / (n + 1)


def _most_careful(losses: Tensor) -> int:
    """Of settings in order of care, by losses (N, T) of samples: the last one that is no worse than the best one by
    more than the standard error of their difference (Breiman et al. 1984), as few samples overrate what fits them."""
    excess = losses - losses[:, losses.mean(dim=0).argmin(), None]
    error = excess.std(dim=0) / len(losses) ** 0.5
    return int((excess.mean(dim=0) <= error).nonzero().max())


@torch.no_grad()
def beliefs(
    study: Study, model: CounterfactualModel, store: Store, rows: NDArray[np.int64], progress: Progress
) -> Iterator[tuple[int, Belief]]:
    """What images and measures of ``rows`` of the store tell of their categories, with the place among the rows.

    Nothing where there are no categories or images have no likelihood; a sample whose measures have none, or whose
    image has no finite one, is left out.
    """
    if not categorical(study):
        return
    device, values = next(model.parameters()).device, torch.from_numpy(store.values()[rows])
    generator = Generator(device).manual_seed(study.evaluation.seed)
    for place, row in enumerate(progress(rows.tolist(), len(rows), "Learning what images tell")):
        known = torch.full((1, len(study.variables)), torch.nan, device=device)
        known[0, study.measured_columns] = values[place, study.measured_columns].to(device)
        try:
            missing = MissingValues(model.scm, known, generator, CANDIDATES)
        except InterventionError:
            continue
        combinations = Combinations(model.scm, missing.candidates)
        image = to_unit(torch.from_numpy(np.array(store.images[row]))[None].to(device))
        found = log_likelihoods(model, image, combinations)
        if found is None:
            return
        seen = found.cpu().double()  # of which some devices have none
        if not seen.isfinite().all():
            continue
        weights = missing.weights.cpu().double()
        prior = torch.zeros_like(seen).index_add(0, combinations.which.cpu(), weights).log()
        length = length_of(seen, model.mechanism.pixels)
        yield place, Belief(combinations.values.cpu(), prior, seen - seen.max(), length)
