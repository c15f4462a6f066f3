r"""What an image says of categories that nobody has given: the image mechanism knows how likely it is under each.

Of a subject with the image x, known values v and unknown categories c,

.. math:: p(c \mid v, x) \propto p(c \mid v) \; p(x \mid c, v)^{1 / T}.

The image's likelihood is that of the mechanism, or its lower bound. It sums over thousands of pixels that err together,
so it is far too sure of itself. The temperature T, which is learnt from people whose categories are known
(:mod:`segcft.evaluate.temperature`), makes it as sure as it is right (Guo et al., ICML 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.causal.scm import StructuralCausalModel
from segcft.counterfactual.model import CounterfactualModel
from segcft.errors import Code, RunError

MOST = 64
"""Combinations of categories that an image is looked at under, the commonest ones; others are as likely as the least
likely of these."""
BATCH = 16


class Combinations:
    """The combinations of categories that candidates (n, V) for one subject have.

    Attributes:
        values: each, with its numbers at the means of its candidates, (K, V).
        which: of each candidate, which it is, (n,).
    """

    def __init__(self, scm: StructuralCausalModel, candidates: Tensor) -> None:
        columns = torch.tensor([bool(variable.categories) for variable in scm.definitions.values()])
        categories = candidates[:, columns.to(candidates.device)]
        _, self.which = categories.unique(dim=0, return_inverse=True)
        self.counts = self.which.bincount()
        total = candidates.new_zeros(len(self.counts), candidates.shape[1]).index_add(0, self.which, candidates)
        self.values = scm.derive(total / self.counts[:, None])

    def __len__(self) -> int:
        return len(self.counts)


@torch.no_grad()
def log_likelihoods(model: CounterfactualModel, image: Tensor, combinations: Combinations) -> Tensor:
    """How likely ``image`` (1, C, *size) in [-1, 1] is under each combination, in nats, (K,).

    Raises:
        RunError: the image mechanism has no likelihood.
    """
    commonest = combinations.counts.argsort(descending=True, stable=True)[:MOST]
    parts = []
    for values in combinations.values[commonest].split(BATCH):
        density = model.mechanism.log_density(image.expand(len(values), *image.shape[1:]), values, sample=False)
        if density is None:
            raise RunError(Code.UNSUPPORTED, "hvae.architecture", "has no likelihood, which tells of categories")
        parts.append(density * model.mechanism.pixels)
    found = torch.cat(parts)
    return torch.full((len(combinations),), float(found.min()), device=found.device).index_copy(0, commonest, found)


class LikelihoodEvidence:
    """How likely an image is under candidates (n, V) for its subject, (n,): in nats, up to a constant, over the
    temperature. Where their categories are all the same nothing is computed.

    Args:
        model: whose image mechanism has a likelihood.
        image: (1, C, *size) in [-1, 1].
        temperature: see above.
    """

    def __init__(self, model: CounterfactualModel, image: Tensor, temperature: float) -> None:
        self.model, self.image, self.temperature = model, image, temperature

    def __call__(self, candidates: Tensor) -> Tensor:
        combinations = Combinations(self.model.scm, candidates)
        if len(combinations) == 1:
            return candidates.new_zeros(len(candidates))
        return log_likelihoods(self.model, self.image, combinations)[combinations.which] / self.temperature
