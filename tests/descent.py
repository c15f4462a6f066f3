"""Whether a gradient is that of its loss: what every training rests on, and what holds on every machine.

The outcome of a training does not: it is chaotic in the last digits, which processors and threads round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

SHARE = 1e-3
"""The share of its loss by which a step lowers it: well above what float32 rounds, well below where a loss bends."""


def assert_gradient_leads_down(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> None:
    """A short step against the gradient lowers the loss by what the gradient says.

    Args:
        loss: computes the loss anew, with the same random numbers each time.
        parameters: what the step is taken in; they are changed.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    before = loss()
    gradients = torch.autograd.grad(before, parameters, materialize_grads=True)
    slope = sum(float(gradient.square().sum()) for gradient in gradients)
    assert slope > 0
    step = SHARE * abs(float(before.detach())) / slope
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= step * gradient
        after = loss()
    assert float(before.detach() - after) == pytest.approx(step * slope, rel=0.1)
