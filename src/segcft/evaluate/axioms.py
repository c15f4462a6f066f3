"""What every counterfactual must obey, measured in grey levels (0 to 255).

Composition: without an intervention the image stays as it is. Reversibility: undoing an intervention gives
the image back. Reference: Monteiro et al. 2023, "Measuring axiomatic soundness of counterfactual image
models".
"""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.counterfactual.model import CounterfactualModel

GREY_LEVELS = 255 / 2
"""Grey levels per unit of an image in [-1, 1]."""


def grey_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of images (B, C, H, W) in [-1, 1], in grey levels, (B,)."""
    return (a - b).abs().mean(dim=(1, 2, 3)) * GREY_LEVELS


def null_intervention(model: CounterfactualModel, image: Tensor, values: Tensor) -> Tensor:
    """The counterfactual of images (B, C, H, W), values (B, V), under no intervention at all."""
    return model.counterfactual(image, values, torch.full_like(values, torch.nan)).image


def undo(model: CounterfactualModel, changed: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """From the counterfactual image and values ``after`` back to the values ``before``, all abducted anew."""
    return model.abduct(changed, after).predict(before)
