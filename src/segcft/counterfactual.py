"""Counterfactuals of attributes and image together: abduction, action, prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from segcft.causal.scm import StructuralCausalModel
from segcft.images.hvae import HVAE


class Counterfactual(NamedTuple):
    """``image`` (B, C, H, W) in [-1, 1] and ``values`` (B, V), each variable in its unit."""

    image: Tensor
    values: Tensor


class CounterfactualModel(nn.Module):
    """The deep structural causal model, whole: the SCM of the attributes and the mechanism of the image."""

    def __init__(self, scm: StructuralCausalModel, hvae: HVAE) -> None:
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
        return Counterfactual(image_counterfactual(self.hvae, image, values, after, sample), after)


def image_counterfactual(hvae: HVAE, image: Tensor, before: Tensor, after: Tensor, sample: bool) -> Tensor:
    """The image (B, C, H, W) under the parents ``after`` instead of ``before``, (B, V) both.

    Latents and pixel noise are abducted, then the image is drawn with the new parents. Where the parents
    stayed the same, so does the image.
    """
    noise = hvae.abduct(image, before, sample)
    both = hvae.decode(noise.repeat(2), torch.cat([before, after]))
    factual, changed = both.chunk(2)
    return changed.with_residual(factual.residual(image))
