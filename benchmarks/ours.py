"""segcft's two image mechanisms as contenders: the published network, and ours of as many parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.work import Work
from segcft.config.causal_gen import CausalGenSpec
from segcft.config.mechanisms import HVAESpec
from segcft.config.study import Image, Variable
from segcft.grid import channels_last
from segcft.image_models.causal_gen import CausalGenHVAE
from segcft.image_models.hvae import HVAE
from segcft.image_models.vae import HierarchicalVAE

COPIED = ("enc_arch", "dec_arch", "widths", "block")


def build(configuration: dict[str, Any], architecture: str, recompute: bool = False) -> HierarchicalVAE:
    """The image mechanism of a configuration in ``published.yaml``."""
    size = configuration["size"]
    image = Image(size=(size, size))
    variables = {f"parent{i}": Variable(kind="continuous") for i in range(configuration["parents"])}
    common: dict[str, Any] = {"steps": 1, "recompute": recompute}
    if architecture == "causal-gen":
        copied = {key: configuration[key] for key in COPIED}
        return CausalGenHVAE(CausalGenSpec(architecture="causal-gen", **common, **copied), image, variables)
    return HVAE(HVAESpec(**common, **configuration["two_stream"]), image, variables)


class Ours(Work):
    """One of the tasks in :class:`Work`, as segcft does it."""

    network: HierarchicalVAE

    def __init__(self, architecture: str, recompute: bool = False, compile: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.network = channels_last(build(self.configuration, architecture, recompute).to(self.device))
        if compile:
            self.network.compile_passes()
        self.prepare()

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.9), fused=True)

    def bound(self) -> Tensor:
        return self.network(self.image, self.values, beta=1.0).objective.mean()

    def counterfactual(self) -> Tensor:
        latents = self.network.encode(self.image, self.values)
        factual, changed = self.network.factual_and_changed(latents, self.values, self.after)
        return changed.with_residual(factual.residual(self.image))

    def bound_and_counterfactual(self) -> tuple[Tensor, Tensor]:
        changed, bound = self.network.counterfactual_and_constraint(self.image, self.values, self.after)
        return bound.mean(), changed


def published(**arguments: Any) -> Callable[[], None]:
    """The published network; see :func:`benchmarks.measure.compare`."""
    return Ours("causal-gen", **arguments)


def two_stream(**arguments: Any) -> Callable[[], None]:
    """Our own network; see :func:`benchmarks.measure.compare`."""
    return Ours("two-stream", **arguments)
