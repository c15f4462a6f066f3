"""The price of changed pixels in fine-tuning: fixed, or a multiplier that can never make doing nothing the cheapest."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from segcft.config.stages import FinetuneSpec

MEMORY = 0.04
"""Share of the steps that the guide's error is averaged over. Single batches are too noisy to judge by, and the least
of a noisy average is one that cannot be met again: the price would never rise."""

GAIN = 4.0
"""How far the multiplier moves over the rest of the training, where the guide's error is at its floor throughout.
Studies that were tuned by hand have 1, and it is at its floor in about half of the steps. With a price of 2.5 on
simulated radiographs the guide still reads 0.98 of the change that was asked for, and another reader 0.9."""

READINGS = 7
"""Readings of guides up to which the gain is as above. Among more of them each counts less in the mean of the errors,
and a pixel must count less, too, or a small change of one measure is not worth its pixels. Seven is what the gain was
tried with, on simulated radiographs: with twice the gain true errors were a twentieth to a ninth less, but hearts
obtained 0.84 instead of 0.92 of a change."""


class Price(nn.Module, ABC):
    """What the share of changed pixels weighs beside the guide's error."""

    @abstractmethod
    def forward(self, error: Tensor, step: int) -> Tensor:
        """The weight at a ``step`` whose guide's error is ``error``; both are numbers, shape ()."""


class FixedPrice(Price):
    """The same at every step. Where it is more than the guide pays at first, nothing changes at all."""

    def __init__(self, spec: FinetuneSpec) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(spec.least_change)), persistent=False)

    value: Tensor

    def forward(self, error: Tensor, step: int) -> Tensor:
        return self.value


class FloorPrice(Price):
    r"""Change is minimised *subject to* the guide's error staying at its floor.

    With the moving average g of the guide's error, and the least that it has been, g*,

    .. math:: \min \text{change} \quad \text{subject to} \quad g \le (1 + \text{slack}) \, g^*.

    Pixels are free until ``spec.price_from`` of the steps are done: the mechanism follows the guide as far as it can.
    Then the multiplier rises from 0 while the bound holds and falls while it does not. No exchange rate between
    measures and pixels is needed, and a mechanism that has learnt to change anything cannot meet the bound by changing
    nothing.

    With more than :data:`READINGS` of the guides it rises as much less.

    Its state is in buffers: a checkpoint keeps them, and of several devices the first one's count.
    """

    average: Tensor
    least: Tensor
    value: Tensor

    def __init__(self, spec: FinetuneSpec, readings: int = READINGS) -> None:
        super().__init__()
        self.begin = round(spec.price_from * spec.steps)
        gain = GAIN * min(1.0, READINGS / readings)
        self.slack, self.rate = spec.price_slack, gain / max(1, spec.steps - self.begin)
        self.new = 1 / max(1.0, MEMORY * spec.steps)
        for name in ("average", "least"):
            self.register_buffer(name, torch.tensor(torch.inf))
        self.register_buffer("value", torch.tensor(0.0))

    @torch.no_grad()
    def forward(self, error: Tensor, step: int) -> Tensor:
        error = error.detach()
        known = self.average.isfinite()
        self.average.copy_(torch.where(known, torch.lerp(self.average, error, self.new), error))
        if step >= self.begin:
            self.least.copy_(torch.minimum(self.least, self.average))
            # In units of the slack: however little of the guide's error may be lost, the price of pixels gets there.
            room = (1 + self.slack - self.average / self.least) / self.slack
            self.value.add_(self.rate * room.clamp(-1, 1)).clamp_(min=0)
        return self.value.clone()


def price_of(spec: FinetuneSpec, readings: int) -> Price:
    """The price that the section ``finetune`` asks for, where guides have so many ``readings``, one at least."""
    return FloorPrice(spec, readings) if spec.price == "floor" else FixedPrice(spec)
