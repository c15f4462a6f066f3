"""One abduction, many questions: what an image's noise is does not depend on what is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.images.hvae import HVAE


class Abduction:
    """The exogenous noise of images (B, C, H, W), values (B, V): posterior mean of the latents, pixel noise.

    Its counterfactuals are those of :func:`segcft.counterfactual.image_counterfactual`, at less than half the
    cost where there are several.
    """

    @torch.no_grad()
    def __init__(self, hvae: HVAE, image: Tensor, values: Tensor) -> None:
        self.hvae = hvae
        self.noise = hvae.abduct(image, values, sample=False)
        factual = hvae.decode(self.noise, values)
        self.residual = factual.residual(image)
        self.reconstruction = factual.loc.clamp(-1, 1)
        """The image as the latents alone give it: how much of it the model explains."""

    @torch.no_grad()
    def counterfactual(self, values: Tensor) -> Tensor:
        """The images (B, C, H, W) under the parents ``values`` (B, V)."""
        return self.hvae.decode(self.noise, values).with_residual(self.residual)
