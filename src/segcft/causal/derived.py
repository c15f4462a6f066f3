"""Derived variables: what follows from others without noise."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from segcft.causal.mechanisms import Mechanism


class Derived(Mechanism):
    """A variable without noise: its formula says what it is, and it has no density of its own."""

    noise_features = 0

    def log_prob(self, value: Tensor, context: Tensor) -> Tensor:
        return torch.zeros_like(value)

    def abduct(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        return value.new_empty(len(value), 0)

    def predict(self, noise: Tensor, context: Tensor) -> Tensor:
        raise NotImplementedError("what it is follows from values, and not from features of them")

    def sample_noise(self, n: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        return like.new_empty(n, 0)

    def normal_score(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.full_like(value, math.nan)
