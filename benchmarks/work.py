"""What is timed: a training step, a fine-tuning step or counterfactuals, of whichever network."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

Task = Literal["train", "cft-segmentor", "cft-regressor", "counterfactual"]


class Work:
    """One call does ``task`` once, on the same batch every time; a subclass brings the network.

    Args:
        configuration: of ``published.yaml``.
        task: ``train``: a step on the negative ELBO. ``cft-<guide>``: a step on the guide's loss of
            counterfactuals and the ELBO. ``counterfactual``: the images, without gradients.
        batch: images in a step.
        device, precision: where, and ``32`` or ``bf16`` (autocast).
    """

    network: nn.Module

    def __init__(
        self, configuration: dict[str, Any], task: Task, batch: int, device: str = "cpu", precision: str = "32"
    ) -> None:
        self.configuration, self.task = configuration, task
        self.device = torch.device(device)
        self.autocast = precision == "bf16"
        size, parents = configuration["size"], configuration["parents"]
        generator = torch.Generator().manual_seed(0)
        levels = torch.randint(256, (batch, 1, size, size), generator=generator)
        self.image = (levels.float() / 127.5 - 1).to(self.device)
        self.values = torch.rand(batch, parents, generator=generator).to(self.device)
        self.after = torch.rand(batch, parents, generator=generator).to(self.device)

    def prepare(self) -> None:
        """Once the network is there: the optimiser, and the guide."""
        torch.manual_seed(0)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.facts = {"parameters": sum(p.numel() for p in self.parameters)}
        self.optimizer = self.make_optimizer()
        self.guide = self._make_guide() if self.task.startswith("cft-") else None
        self.network.train(self.task != "counterfactual")

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.9))

    def bound(self) -> Tensor:
        """The negative ELBO in nats per pixel."""
        raise NotImplementedError

    def counterfactual(self) -> Tensor:
        """Counterfactual images, residual noise included."""
        raise NotImplementedError

    def bound_and_counterfactual(self) -> tuple[Tensor, Tensor]:
        """Both, as a fine-tuning step needs them."""
        raise NotImplementedError

    def __call__(self) -> None:
        if self.task == "counterfactual":
            with torch.no_grad(), self._precision():
                self.counterfactual()
        else:
            with self._precision():
                loss = self._loss()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 350.0)
            self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _loss(self) -> Tensor:
        if self.guide is None:
            return self.bound()
        bound, changed = self.bound_and_counterfactual()
        return bound + self.guide.read(changed).square().mean()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _make_guide(self) -> Any:
        """The same guide on both sides: ours, with random weights, frozen."""
        from segcft.config.stages import RegressorSpec, SegmentorSpec
        from segcft.grid import Grid
        from segcft.measures.area import Area
        from segcft.measures.measurements import Measurement, Measurements
        from segcft.readers.regressor import Regressor
        from segcft.readers.segmentor import Segmentor
        from segcft.training.loop import freeze

        size = self.configuration["size"]
        areas = tuple(Measurement(f"area {n}", f"structure {n}", Area(), False) for n in range(3))
        measurements = Measurements(Grid((size, size)), areas)
        if self.task == "cft-segmentor":
            return freeze(Segmentor(SegmentorSpec(steps=1), 1, measurements)).to(self.device)
        return freeze(Regressor(RegressorSpec(steps=1), 1, measurements)).to(self.device)
