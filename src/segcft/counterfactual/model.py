"""Counterfactuals of attributes and image together: abduction, action, prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from segcft.causal.scm import StructuralCausalModel
from segcft.image_models.mechanism import ImageMechanism


class Counterfactual(NamedTuple):
    """``image`` (B, C, *size) in [-1, 1] and ``values`` (B, V), each variable in its unit."""

    image: Tensor
    values: Tensor


class CounterfactualModel(nn.Module):
    """The deep structural causal model, whole: the SCM of the attributes and the mechanism of the image."""

    def __init__(self, scm: StructuralCausalModel, mechanism: ImageMechanism) -> None:
        super().__init__()
        self.scm = scm
        self.mechanism = mechanism

    def abduct(self, image: Tensor, values: Tensor, sample: bool = False) -> Abduction:
        """Abduction: the exogenous noise of images (B, C, *size) in [-1, 1] of samples with ``values`` (B, V).

        ``sample`` draws the image's noise from its posterior; by default its mean is taken, so that answers are the
        same every time.
        """
        return Abduction(self, image, values, sample)

    def counterfactual(
        self,
        image: Tensor,
        values: Tensor,
        do: Tensor,
        generator: Generator | None = None,
        sample: bool = False,
    ) -> Counterfactual:
        """All three steps at once; see :meth:`abduct` and :meth:`Abduction.counterfactual`."""
        return self.abduct(image, values, sample).counterfactual(do, generator)


class Abduction:
    """Images whose noise was abducted once, to be drawn under any parents. Under their own they are themselves."""

    @torch.no_grad()
    def __init__(self, model: CounterfactualModel, image: Tensor, values: Tensor, sample: bool = False) -> None:
        self.model, self.values = model, values
        self.noise = model.mechanism.abduct(image, values, sample)

    @torch.no_grad()
    def counterfactual(self, do: Tensor, generator: Generator | None = None) -> Counterfactual:
        """Action and prediction under ``do`` (B, V), which is NaN where a variable is left alone.

        ``generator`` draws the attributes' noise where it is not known exactly.
        """
        after = self.model.scm.counterfactual(self.values, do, generator)
        return Counterfactual(self.predict(after), after)

    @torch.no_grad()
    def predict(self, values: Tensor) -> Tensor:
        """Prediction alone: the images (B, C, *size) under the parents ``values`` (B, V)."""
        return self.model.mechanism.predict(self.noise, values)

    @torch.no_grad()
    def least_stretch(self, values: Tensor) -> Tensor | None:
        """See :meth:`segcft.image_models.mechanism.ImageMechanism.least_stretch`."""
        return self.model.mechanism.least_stretch(self.noise, values)
