"""segcft's two image mechanisms as contenders: the published network, and ours of as many parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.work import Work, fresh, study_of
from segcft.config.section import Training
from segcft.counterfactual.finetune import CounterfactualObjective
from segcft.counterfactual.model import CounterfactualModel
from segcft.grey import to_unit
from segcft.grid import channels_last
from segcft.image_models.mechanism import ImageMechanism
from segcft.image_models.objective import LikelihoodObjective
from segcft.training.loop import Objective, freeze


def build(configuration: dict[str, Any], architecture: str, recompute: bool = False) -> ImageMechanism:
    """The image mechanism of a configuration in ``published.yaml``."""
    network: ImageMechanism = fresh(study_of(configuration, architecture, recompute), "hvae")
    return network


class Ours(Work):
    """One of the tasks in :class:`Work`, as segcft does it: its objectives, its answers.

    Args:
        architecture: ``two-stream`` or ``causal-gen``.
        recompute: see :class:`segcft.config.mechanisms.MechanismSpec`.
        compile: the backend with which PyTorch compiles the network; "" compiles nothing.
    """

    network: ImageMechanism

    def __init__(self, architecture: str, recompute: bool = False, compile: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        study = study_of(self.configuration, architecture, recompute)
        self.network, scm = fresh(study, "hvae"), freeze(fresh(study, "scm"))
        self.model = CounterfactualModel(scm, self.network)
        self.objective: Objective = LikelihoodObjective(self.network, study)
        self.spec: Training = study.hvae
        if self.task.startswith("cft-"):
            self.spec = study.finetune
            self.objective = CounterfactualObjective(
                self.network, scm, self.guide(), study.finetune, study, self.marginal, bound=0.0
            )
        for module in (self.model, self.objective):
            channels_last(module.to(self.device))
        if compile:
            self.network.compile_passes(compile)
        self.prepare()
        # One variable is set, those below it follow.
        self.do = torch.full_like(self.after, torch.nan)
        self.do[:, 0] = self.after[:, 0]

    def make_optimizer(self) -> torch.optim.Optimizer:
        groups = self.objective.parameter_groups(self.spec)
        return torch.optim.AdamW(groups, weight_decay=self.spec.weight_decay, betas=self.spec.betas, fused=True)

    def loss(self) -> Tensor:
        return self.objective(self.batch, 0)[0]

    def counterfactual(self) -> Tensor:
        return self.model.counterfactual(to_unit(self.batch["image"]), self.batch["values"], self.do).image


def published(**arguments: Any) -> Callable[[], None]:
    """The published network; see :func:`benchmarks.measure.compare`."""
    return Ours("causal-gen", **arguments)


def two_stream(**arguments: Any) -> Callable[[], None]:
    """Our own network; see :func:`benchmarks.measure.compare`."""
    return Ours("two-stream", **arguments)
