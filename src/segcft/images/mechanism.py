"""What every image mechanism can do: abduct, sample and decode, whatever its network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segcft.causal.mechanisms import ParentEncoder
from segcft.images.likelihood import DiscretisedGaussian
from segcft.images.spec import MechanismSpec
from segcft.study import Image, Variable


class Exogenous(NamedTuple):
    """The image's exogenous noise, abducted or sampled.

    ``features``: what the latents say to the decoder's blocks, smallest resolution first.
    ``kl``: KL(q || p) of every stochastic block in nats, (B, z) each; empty for a sample from the prior.
    ``image``: the end of the image stream under the parents of the abduction, from mechanisms whose posterior
    needs that stream anyway.
    """

    features: list[Tensor]
    kl: list[Tensor]
    image: Tensor | None = None

    def repeat(self, times: int) -> Exogenous:
        """The same noise ``times`` times along the batch, to draw it under several sets of parents at once."""
        return Exogenous([f.repeat(times, 1, 1, 1) for f in self.features], self.kl)


class ELBO(NamedTuple):
    """Evidence lower bound in nats per pixel and channel, (B,) each: ``negative = distortion + beta * rate``."""

    distortion: Tensor
    rate: Tensor
    objective: Tensor
    """What is minimised: with beta and free bits."""


class ImageMechanism(nn.Module, ABC):
    """An image as a function of its exogenous noise and its causal parents, with an evidence lower bound.

    Args:
        image: pixel grid of the study.
        variables: all variables of the graph; every one of them is a parent of the image.
    """

    spec: MechanismSpec

    def __init__(self, image: Image, variables: Mapping[str, Variable]) -> None:
        super().__init__()
        self.pixels = image.channels * math.prod(image.size)
        self.parents = ParentEncoder(variables)

    @abstractmethod
    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> Exogenous:
        """q(z | x, pa): the exogenous noise of images ``x`` (B, C, H, W) in [-1, 1] with parents (B, V).

        ``sample`` draws from the posterior with torch's global generator; otherwise its mean is taken.
        """

    @abstractmethod
    def sample(self, batch: int, temperature: float = 1.0) -> Exogenous:
        """p(z): exogenous noise of ``batch`` images that do not exist yet."""

    @abstractmethod
    def decode(self, noise: Exogenous, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V)."""

    def factual(self, noise: Exogenous, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V) with which ``noise`` was abducted."""
        return self.decode(noise, values)

    def factual_and_changed(
        self, noise: Exogenous, values: Tensor, after: Tensor
    ) -> tuple[DiscretisedGaussian, DiscretisedGaussian]:
        """:meth:`factual`, and the same noise under the parents ``after`` (B, V)."""
        factual, changed = self.decode(noise.repeat(2), torch.cat([values, after])).chunk(2)
        return factual, changed

    def elbo(self, x: Tensor, noise: Exogenous, likelihood: DiscretisedGaussian, beta: float) -> ELBO:
        """The bound of images (B, C, H, W) whose noise was abducted and drawn again with the same parents."""
        distortion = -likelihood.log_prob(x).sum(dim=(1, 2, 3)) / self.pixels
        rate = sum((kl.sum(dim=1) for kl in noise.kl), torch.zeros_like(distortion)) / self.pixels
        paid = rate
        if self.spec.free_bits:
            # The floor is on the batch's mean: what one latent channel carries on average (Kingma et al. 2016).
            floors = [kl.mean(dim=0).clamp(min=self.spec.free_bits).sum() for kl in noise.kl]
            paid = (torch.stack(floors).sum() / self.pixels).expand_as(rate)
        return ELBO(distortion, rate, distortion + beta * paid)

    def forward(self, x: Tensor, values: Tensor, beta: float | None = None) -> ELBO:
        """The bound of images ``x`` (B, C, H, W) in [-1, 1] with parents (B, V)."""
        noise = self.abduct(x, values)
        return self.elbo(x, noise, self.factual(noise, values), self.spec.beta if beta is None else beta)
