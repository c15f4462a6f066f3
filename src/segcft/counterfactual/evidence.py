r"""What an image says of categories that nobody has given: the image mechanism knows how likely it is under each.

Of a subject with the image x, known values v and unknown categories c,

.. math:: p(c \mid v, x) \propto p(c \mid v) \; p(x \mid c, v)^{1 / T}.

The image's likelihood is that of the mechanism, or its lower bound. It sums over thousands of pixels that err together,
so it is far too sure of itself. The temperature T, which is learnt from people whose categories are known
(:mod:`segcft.evaluate.temperature`), makes it as sure as it is right (Guo et al., ICML 2017). Of an image unlike theirs
nobody knows what its likelihood is worth: it is not asked.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveFloat
from torch import Tensor

from segcft.causal.scm import StructuralCausalModel
from segcft.counterfactual.model import CounterfactualModel

MOST_COMBINATIONS = 64
"""Combinations of categories that an image is looked at under, the commonest ones; others are as likely as the least
likely of these."""
BATCH = 16


class Believed(BaseModel):
    """How far the likelihood of images can be believed where it tells categories.

    Attributes:
        temperature: what its logarithm is divided by.
        usual: between which lengths, in bits a pixel and channel under the likeliest categories, images are to which
            this applies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: PositiveFloat
    usual: tuple[FiniteFloat, FiniteFloat]


class Combinations:
    """The combinations of categories that candidates (n, V) for one subject have.

    Attributes:
        values: each, with its numbers at the means of its candidates, (K, V).
        which: of each candidate, which it is, (n,).
        counts: how many candidates have each, (K,).
    """

    def __init__(self, scm: StructuralCausalModel, candidates: Tensor) -> None:
        columns = [k for k, variable in enumerate(scm.definitions.values()) if variable.categories]
        if columns:
            _, self.which = candidates[:, columns].unique(dim=0, return_inverse=True)
        else:
            self.which = torch.zeros(len(candidates), dtype=torch.long, device=candidates.device)
        self.counts = self.which.bincount()
        total = candidates.new_zeros(len(self.counts), candidates.shape[1]).index_add(0, self.which, candidates)
        self.values = scm.derive(total / self.counts[:, None])

    def __len__(self) -> int:
        return len(self.counts)


@torch.no_grad()
def log_likelihoods(model: CounterfactualModel, image: Tensor, combinations: Combinations) -> Tensor | None:
    """How likely ``image`` (1, C, *size) in [-1, 1] is under each combination, in nats, (K,); None where the image
    mechanism has no likelihood."""
    commonest = combinations.counts.argsort(descending=True, stable=True)[:MOST_COMBINATIONS]
    parts = []
    for values in combinations.values[commonest].split(BATCH):
        density = model.mechanism.log_density(image.expand(len(values), *image.shape[1:]), values, sample=False)
        if density is None:
            return None
        parts.append(density * model.mechanism.pixels)
    found = torch.cat(parts)
    return torch.full((len(combinations),), float(found.min()), device=found.device).index_copy(0, commonest, found)


def length_of(nats: Tensor, pixels: int) -> float:
    """The length of an image under the likeliest of combinations, of log likelihoods (K,), in bits a pixel."""
    return -float(nats.max()) / (pixels * math.log(2))


class LikelihoodEvidence:
    """How likely an image is under candidates (n, V) for its subject, (n,): in nats, up to a constant, over the
    temperature; 0 of all where the image is an unusual one. Where all have the same categories nothing is computed.

    Args:
        model: whose image mechanism has a likelihood.
        image: (1, C, *size) in [-1, 1].
        believed: how far.
    """

    def __init__(self, model: CounterfactualModel, image: Tensor, believed: Believed) -> None:
        self.model, self.image, self.believed = model, image, believed

    def __call__(self, candidates: Tensor) -> Tensor:
        combinations = Combinations(self.model.scm, candidates)
        found = log_likelihoods(self.model, self.image, combinations) if len(combinations) > 1 else None
        low, high = self.believed.usual
        if found is None or not low <= length_of(found, self.model.mechanism.pixels) <= high:  # nor is NaN
            return candidates.new_zeros(len(candidates))
        return found[combinations.which] / self.believed.temperature
