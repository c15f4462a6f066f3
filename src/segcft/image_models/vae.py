"""Hierarchical VAEs as image mechanisms: latents are abducted from a posterior, the noise of pixels exactly.

The decoder gives the likelihood p(x | z, pa), a Gaussian at every pixel. So the noise of an image is z, and beside it
u = (x - loc) / scale, what the latents have not explained (De Sousa Ribeiro et al. 2023).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeVar, TypeVarTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segcft.config.mechanisms import VAESpec
from segcft.image_models.likelihood import DiscretisedGaussian, PixelNoise
from segcft.image_models.mechanism import ImageMechanism, Known

Inputs = TypeVarTuple("Inputs")
Output = TypeVar("Output")


class Latents(NamedTuple):
    """The latents of images, from the posterior or the prior.

    ``features``: what they say to the decoder's blocks, smallest resolution first.
    ``kl``: KL(q || p) of every stochastic block in nats, (B, z) each; empty for a sample from the prior.
    ``image``: the end of the image stream under the parents of the abduction, from networks whose posterior needs
    that stream anyway.
    """

    features: list[Tensor]
    kl: list[Tensor]
    image: Tensor | None = None


class VAENoise(NamedTuple):
    """Latents, and the noise of pixels (None: none, images are at the likelihood's location). Of an abducted noise
    also the images and their likelihood."""

    latents: Latents
    pixels: PixelNoise | None
    image: Tensor | None = None
    likelihood: DiscretisedGaussian | None = None


class ELBO(NamedTuple):
    """Evidence lower bound in nats per pixel and channel, (B,) each."""

    distortion: Tensor
    rate: Tensor
    objective: Tensor
    """What is minimised: ``distortion + beta * rate``, with free bits."""

    @property
    def negative(self) -> Tensor:
        """The negative of the bound itself."""
        return self.distortion + self.rate


class Recomputing(nn.Module):
    """A module whose blocks the backward pass may compute again, see :class:`VAESpec`."""

    spec: VAESpec

    def run_block(self, block: Callable[[*Inputs], Output], *inputs: *Inputs) -> Output:
        """``block(*inputs)``. Random draws are the same when it is computed again."""
        # A block is the unit: only the streams between blocks stay in memory, and beside them what one block needs.
        # Parts of a block would each keep an input of their own; several blocks would need more at once.
        if self.spec.recompute and self.training and torch.is_grad_enabled():
            output: Output = checkpoint(block, *inputs, use_reentrant=False)
            return output
        return block(*inputs)


class HierarchicalVAE(Recomputing, ImageMechanism):
    """An image mechanism with latents, a likelihood of pixels and an evidence lower bound."""

    spec: VAESpec
    passes = ("encode", "decode")

    @abstractmethod
    def encode(self, x: Tensor, values: Tensor, sample: bool = True) -> Latents:
        """q(z | x, pa): the latents of images ``x`` (B, C, *size) with parents (B, V); else of a sample its mean."""

    @abstractmethod
    def draw(self, n: int) -> Latents:
        """p(z): the latents of ``n`` images."""

    @abstractmethod
    def decode(self, latents: Latents, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V)."""

    def factual(self, latents: Latents, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V) with which ``latents`` were encoded."""
        return self.decode(latents, values)

    def factual_and_changed(self, latents: Latents, values: Tensor, *after: Tensor) -> list[DiscretisedGaussian]:
        """:meth:`factual`, and the same latents under each of the parents ``after``, (B, V) each."""
        return [self.factual(latents, values), *(self.decode(latents, one) for one in after)]

    def elbo(self, x: Tensor, latents: Latents, likelihood: DiscretisedGaussian, beta: float) -> ELBO:
        """The bound of images (B, C, *size) from their latents and their likelihood."""
        distortion = -self.run_block(likelihood.log_prob, x).sum(dim=(1, *self.grid.axes)) / self.pixels
        rate = sum((kl.sum(dim=1) for kl in latents.kl), torch.zeros_like(distortion)) / self.pixels
        paid = rate
        if self.spec.free_bits:
            # The floor is on the batch's mean: what one latent channel carries on average (Kingma et al. 2016).
            floors = [kl.mean(dim=0).clamp(min=self.spec.free_bits).sum() for kl in latents.kl]
            paid = (torch.stack(floors).sum() / self.pixels).expand_as(rate)
        return ELBO(distortion, rate, distortion + beta * paid)

    def forward(self, x: Tensor, values: Tensor, beta: float | None = None, sample: bool = True) -> ELBO:
        """The bound of images ``x`` with parents (B, V); ``beta`` is the spec's unless given."""
        latents = self.encode(x, values, sample)
        return self.elbo(x, latents, self.factual(latents, values), self.spec.beta if beta is None else beta)

    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> VAENoise:
        latents = self.encode(x, values, sample)
        likelihood = self.factual(latents, values)
        return VAENoise(latents, likelihood.residual(x), x, likelihood)

    def predict(self, noise: VAENoise, values: Tensor) -> Tensor:
        likelihood = self.decode(noise.latents, values)
        return likelihood.location if noise.pixels is None else self._with_residual(likelihood, noise.pixels)

    def sample(self, n: int, pixel_noise: bool = True) -> VAENoise:
        latents = self.draw(n)
        if not pixel_noise:
            return VAENoise(latents, None)
        like = latents.features[0]
        noise = torch.randn(n, self.channels, *self.grid.size, dtype=torch.float32, device=like.device)
        return VAENoise(latents, PixelNoise(noise))

    def loss(self, x: Tensor, values: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        bound = self(x, values, self.spec.beta_at(step))
        return bound.objective.mean(), {"distortion": bound.distortion.mean(), "rate": bound.rate.mean()}

    def loss_of_pairs(self, x: Tensor, values: Tensor, known: Known, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        r""":math:`-E_{q(z|x, pa)} \log p(x'|z, pa') + \beta KL`: whatever z is drawn from, this bounds
        :math:`-\log p(x'|pa')`; drawn from the posterior of x, it is what abduction and prediction do."""
        latents = self.encode(x, values)
        bound = self.elbo(known.image, latents, self.decode(latents, known.values), self.spec.beta_at(step))
        return bound.objective.mean(), {"distortion": bound.distortion.mean(), "rate": bound.rate.mean()}

    def constraint(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        bound: ELBO = self(x, values, sample=sample)
        return bound.objective

    def constraint_of_pairs(self, x: Tensor, values: Tensor, known: Known | None, sample: bool = True) -> Tensor:
        if known is None:
            return self.constraint(x, values, sample)
        latents = self.encode(x, values, sample)
        return self.elbo(known.image, latents, self.decode(latents, known.values), self.spec.beta).objective

    def counterfactual_and_constraint(
        self, x: Tensor, values: Tensor, after: Tensor, sample: bool = True, known: Known | None = None
    ) -> tuple[Tensor, Tensor]:
        latents = self.encode(x, values, sample)
        if known is None:
            factual, changed = self.factual_and_changed(latents, values, after)
            bound = self.elbo(x, latents, factual, self.spec.beta)
        else:
            factual, changed, also = self.factual_and_changed(latents, values, after, known.values)
            bound = self.elbo(known.image, latents, also, self.spec.beta)
        return self._with_residual(changed, factual.residual(x)), bound.objective

    def _with_residual(self, likelihood: DiscretisedGaussian, residual: PixelNoise) -> Tensor:
        return likelihood.with_residual(residual, self.spec.noise_growth)

    def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        return -self(x, values, 1.0, sample).negative

    def reconstruction(self, noise: VAENoise) -> Tensor | None:
        return None if noise.likelihood is None else noise.likelihood.location

    def lengths(self, noise: VAENoise) -> dict[str, Tensor]:
        if noise.image is None or noise.likelihood is None:
            return {}
        bound = self.elbo(noise.image, noise.latents, noise.likelihood, 1.0)
        return {"image": bound.negative / math.log(2), "latents": bound.rate / math.log(2)}
