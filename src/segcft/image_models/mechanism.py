"""What every image mechanism can do: abduct, sample and decode, whatever its network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segcft.causal.mechanisms import ParentEncoder
from segcft.config.mechanisms import MechanismSpec
from segcft.config.study import Image, Variable
from segcft.image_models.likelihood import DiscretisedGaussian

Inputs = TypeVarTuple("Inputs")
Output = TypeVar("Output")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from torch's global generator, as latents are, with this seed; afterwards it is where it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield


class Exogenous(NamedTuple):
    """The image's exogenous noise, abducted or sampled.

    ``features``: what the latents say to the decoder's blocks, smallest resolution first.
    ``kl``: KL(q || p) of every stochastic block in nats, (B, z) each; empty for a sample from the prior.
    ``image``: the end of the image stream under the parents of the abduction, from mechanisms whose posterior
    needs that stream anyway.
    """

    features: list[Tensor]
    kl: list[Tensor]
    image: Tensor | None = None


class ELBO(NamedTuple):
    """Evidence lower bound in nats per pixel and channel, (B,) each: ``negative = distortion + beta * rate``."""

    distortion: Tensor
    rate: Tensor
    objective: Tensor
    """What is minimised: with beta and free bits."""


class Recomputing(nn.Module):
    """A module whose blocks the backward pass may compute again, see :class:`MechanismSpec`."""

    spec: MechanismSpec

    def run_block(self, block: Callable[[*Inputs], Output], *inputs: *Inputs) -> Output:
        """``block(*inputs)``. Random draws are the same when it is computed again."""
        # A block is the unit: only the streams between blocks stay in memory, and beside them what one block needs.
        # Parts of a block would each keep an input of their own; several blocks would need more at once.
        if self.spec.recompute and self.training and torch.is_grad_enabled():
            output: Output = checkpoint(block, *inputs, use_reentrant=False)
            return output
        return block(*inputs)


class ImageMechanism(Recomputing, ABC):
    """An image as a function of its exogenous noise and its causal parents, with an evidence lower bound.

    Args:
        image: pixel grid of the study.
        variables: all variables of the graph; every one of them is a parent of the image.
    """

    def __init__(self, image: Image, variables: Mapping[str, Variable]) -> None:
        super().__init__()
        self.pixels = image.channels * math.prod(image.size)
        self.parents = ParentEncoder(variables)

    @abstractmethod
    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> Exogenous:
        """q(z | x, pa): the exogenous noise of images ``x`` (B, C, H, W) in [-1, 1] with parents (B, V).

        ``sample`` draws from the posterior with torch's global generator; otherwise its mean is taken.
        """

    @abstractmethod
    def sample(self, batch: int, temperature: float = 1.0) -> Exogenous:
        """p(z): exogenous noise of ``batch`` images that do not exist yet."""

    @abstractmethod
    def decode(self, noise: Exogenous, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V)."""

    def factual(self, noise: Exogenous, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V) with which ``noise`` was abducted."""
        return self.decode(noise, values)

    def factual_and_changed(
        self, noise: Exogenous, values: Tensor, after: Tensor
    ) -> tuple[DiscretisedGaussian, DiscretisedGaussian]:
        """:meth:`factual`, and the same noise under the parents ``after`` (B, V)."""
        return self.factual(noise, values), self.decode(noise, after)

    def compile_passes(self, backend: str = "inductor") -> None:
        """Have PyTorch (its ``backend``) compile abduction and decoding in training; takes minutes at the first step.

        It fuses what is between the convolutions, so a GPU starts far fewer kernels; on a CPU it gains little.
        """
        for name in ("abduct", "decode"):
            setattr(self, name, self._compiled_in_training(getattr(self, name), backend))

    def _compiled_in_training(self, eager: Callable[..., Any], backend: str) -> Callable[..., Any]:
        compiled = torch.compile(eager, backend=backend, dynamic=False)

        def choose(*inputs: Any, **options: Any) -> Any:
            # What is done once, such as validation, is not worth a compilation.
            return (compiled if self.training and torch.is_grad_enabled() else eager)(*inputs, **options)

        return choose

    def elbo(self, x: Tensor, noise: Exogenous, likelihood: DiscretisedGaussian, beta: float) -> ELBO:
        """The bound of images (B, C, H, W) whose noise was abducted and drawn again with the same parents."""
        distortion = -self.run_block(likelihood.log_prob, x).sum(dim=(1, 2, 3)) / self.pixels
        rate = sum((kl.sum(dim=1) for kl in noise.kl), torch.zeros_like(distortion)) / self.pixels
        paid = rate
        if self.spec.free_bits:
            # The floor is on the batch's mean: what one latent channel carries on average (Kingma et al. 2016).
            floors = [kl.mean(dim=0).clamp(min=self.spec.free_bits).sum() for kl in noise.kl]
            paid = (torch.stack(floors).sum() / self.pixels).expand_as(rate)
        return ELBO(distortion, rate, distortion + beta * paid)

    def forward(self, x: Tensor, values: Tensor, beta: float | None = None, sample: bool = True) -> ELBO:
        """The bound of images ``x`` (B, C, H, W) in [-1, 1] with parents (B, V), ``sample`` as in :meth:`abduct`."""
        noise = self.abduct(x, values, sample)
        return self.elbo(x, noise, self.factual(noise, values), self.spec.beta if beta is None else beta)
