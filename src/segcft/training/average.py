"""The moving average of a network's weights, which is what is kept of a training."""

from __future__ import annotations

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network's weights; it starts fast so that early weights are forgotten."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = network, decay, 0
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    def apply(self) -> None:
        """Give the network its averaged weights."""
        self.network.load_state_dict(self.weights)
