"""Counterfactuals of attributes and image together: abduction, action, prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from segcft.causal.scm import StructuralCausalModel
from segcft.image_models.mechanism import ELBO, ImageMechanism


class Counterfactual(NamedTuple):
    """``image`` (B, C, H, W) in [-1, 1] and ``values`` (B, V), each variable in its unit."""

    image: Tensor
    values: Tensor


class CounterfactualModel(nn.Module):
    """The deep structural causal model, whole: the SCM of the attributes and the mechanism of the image."""

    def __init__(self, scm: StructuralCausalModel, hvae: ImageMechanism) -> None:
        super().__init__()
        self.scm = scm
        self.hvae = hvae

    @torch.no_grad()
    def counterfactual(
        self,
        image: Tensor,
        values: Tensor,
        do: Tensor,
        generator: Generator | None = None,
        sample: bool = False,
    ) -> Counterfactual:
        """What ``image`` (B, C, H, W) in [-1, 1] of people with ``values`` (B, V) would have been under ``do``.

        ``do`` (B, V) is NaN where a variable is left alone. ``sample`` draws the image's latents from their
        posterior; by default its mean is taken, so that the answer is the same every time.
        """
        after = self.scm.counterfactual(values, do, generator)
        return Counterfactual(Abduction(self.hvae, image, values, sample).counterfactual(after), after)


class Abduction:
    """The exogenous noise of images (B, C, H, W) in [-1, 1] whose parents are ``values`` (B, V).

    Latents (``sample``: drawn from their posterior; else its mean) and pixel noise are abducted once; then the
    image can be drawn under any parents. Under its own parents it is the image itself.
    """

    @torch.no_grad()
    def __init__(self, hvae: ImageMechanism, image: Tensor, values: Tensor, sample: bool = False) -> None:
        self.hvae = hvae
        self.noise = hvae.abduct(image, values, sample)
        self._image = image
        self._factual = hvae.factual(self.noise, values)
        self.residual = self._factual.residual(image)
        self.reconstruction = self._factual.loc.clamp(-1, 1)
        """The image as the latents alone give it: how much of it the model explains."""

    @torch.no_grad()
    def bound(self) -> ELBO:
        """The evidence lower bound, (B,); where the latents are their posterior's mean, at that mean."""
        return self.hvae.elbo(self._image, self.noise, self._factual, beta=1.0)

    @torch.no_grad()
    def counterfactual(self, values: Tensor) -> Tensor:
        """The images (B, C, H, W) under the parents ``values`` (B, V)."""
        return self.hvae.decode(self.noise, values).with_residual(self.residual)
