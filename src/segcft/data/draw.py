"""Random numbers for the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Draw:
    """Draws numbers for each sample of a batch, of its type and on its device.

    Args:
        batch: of B samples.
        generator: source of randomness, torch's global one by default. Draws are made on its device, so one on the CPU
            gives the same numbers whatever the batch's device.
    """

    def __init__(self, batch: Tensor, generator: torch.Generator | None) -> None:
        self._batch, self._generator = batch, generator
        self._device = batch.device if generator is None else generator.device

    def unit(self, *shape: int) -> Tensor:
        """Numbers in [0, 1): (B, *shape)."""
        full = (len(self._batch), *shape)
        draws = torch.rand(full, generator=self._generator, device=self._device, dtype=self._batch.dtype)
        return draws.to(self._batch.device)

    def uniform(self, half_width: float, *shape: int) -> Tensor:
        """Numbers in [-half_width, half_width): (B, *shape)."""
        return (2 * self.unit(*shape) - 1) * half_width

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers: (B, *shape)."""
        full = (len(self._batch), *shape)
        draws = torch.randn(full, generator=self._generator, device=self._device, dtype=self._batch.dtype)
        return draws.to(self._batch.device)
