"""What is timed: a training step, a fine-tuning step or counterfactuals, of whichever network."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.pipeline.run import Run
from segcft.training.loop import freeze

Task = Literal["train", "cft-segmentor", "cft-regressor", "counterfactual"]
Precision = Literal["32", "tf32", "bf16"]
COPIED = ("enc_arch", "dec_arch", "widths", "block")
MARGINAL = 256
"""People from whom fine-tuning draws its interventions."""


def use_precision(precision: Precision, device: torch.device) -> None:
    """Set, for this process, how a GPU multiplies float32 numbers.

    ``32``: in float32. ``tf32``: products and convolutions in TF32 (of PyTorch's defaults the convolutions alone
    are). ``bf16``: as ``tf32``, in what autocast leaves in float32.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "32"


def study_of(configuration: dict[str, Any], architecture: str = "two-stream", recompute: bool = False) -> Study:
    """A study of the size of a configuration in ``published.yaml``: attributes, and three areas that follow them."""
    network = configuration["two_stream"] if architecture == "two-stream" else {k: configuration[k] for k in COPIED}
    attributes = {f"attribute {n}": {"kind": "continuous"} for n in range(configuration["parents"] - 3)}
    areas = {f"area {n}": {"kind": "continuous", "parents": list(attributes)} for n in range(3)}
    step = {"steps": 1, "weight_decay": 0.1, "betas": [0.9, 0.9]}
    hvae = {"architecture": architecture, "recompute": recompute, **network}
    return parse_study(
        {
            "name": "benchmark",
            "image": {"size": [configuration["size"]] * 2},
            "variables": attributes | areas,
            "structures": {f"structure {n}": {"variable": f"area {n}", "bit": 2**n} for n in range(3)},
            "data": {"source": "folder"},
            "segmentor": {"steps": 1, "seed": 1},
            "judge": {"steps": 1, "seed": 2},
            "regressor": {"steps": 1},
            "scm": {"steps": 1},
            "hvae": step | hvae,
            "finetune": step,
        }
    )


def fresh(study: Study, part: str) -> Any:
    """A part of a study, e.g. ``hvae`` or ``segmentor``, with fresh weights."""
    return Run(Path(), study).build(part)


class Work:
    """One call does ``task`` once, on the same batch every time; a subclass brings the network.

    Args:
        configuration: of ``published.yaml``.
        task: ``train``: a step on the negative ELBO. ``cft-<guide>``: a step on the guide's loss of
            counterfactuals and the ELBO. ``counterfactual``: the images, without gradients.
        batch: images in a step.
        device, precision: where, and how (see :func:`use_precision`).
    """

    network: nn.Module

    def __init__(
        self, configuration: dict[str, Any], task: Task, batch: int, device: str = "cpu", precision: Precision = "tf32"
    ) -> None:
        self.configuration, self.task = configuration, task
        self.device = torch.device(device)
        self.autocast = precision == "bf16"
        use_precision(precision, self.device)
        size, parents = configuration["size"], configuration["parents"]
        generator = torch.Generator().manual_seed(0)
        drawn = {
            "image": torch.randint(256, (batch, 1, size, size), dtype=torch.uint8, generator=generator),
            "mask": torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=generator),
            "values": torch.rand(batch, parents, generator=generator),
            "index": torch.arange(batch),
        }
        self.batch = {field: value.to(self.device) for field, value in drawn.items()}
        self.marginal = torch.rand(MARGINAL, parents, generator=generator).to(self.device)
        self.after = self.marginal[torch.arange(batch) % MARGINAL]

    def prepare(self) -> None:
        """Once the network is there: the optimiser."""
        torch.manual_seed(0)
        self.optimizer = self.make_optimizer()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.facts = {"parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad)}
        if self.task == "counterfactual":
            freeze(self.network)
        else:
            self.network.train()

    def make_optimizer(self) -> torch.optim.Optimizer:
        raise NotImplementedError

    def loss(self) -> Tensor:
        """What a step of the task minimises; of ``train`` it is the negative ELBO in nats per pixel."""
        raise NotImplementedError

    def counterfactual(self) -> Tensor:
        """Counterfactual images, residual noise included."""
        raise NotImplementedError

    def guide(self) -> Any:
        """The same guide on both sides: ours, with random weights, frozen."""
        return freeze(fresh(study_of(self.configuration), self.task.removeprefix("cft-"))).to(self.device)

    def __call__(self) -> None:
        if self.task == "counterfactual":
            with torch.no_grad(), self._precision():
                self.counterfactual()
        else:
            with self._precision():
                loss = self.loss()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 350.0)
            self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
