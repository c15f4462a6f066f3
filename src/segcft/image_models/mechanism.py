"""What every image mechanism can do, whatever its network: the image as a function of its noise and its parents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segcft.causal.mechanisms import ParentEncoder
from segcft.config.image import Image
from segcft.config.mechanisms import MechanismSpec
from segcft.config.variable import Variable
from segcft.grid import Grid
from segcft.utils.registry import Registry

Noise = Any
"""Exogenous noise of a batch of images. Only the mechanism that made it knows what is in it."""


class Known(NamedTuple):
    """Counterfactuals that are known, of a batch of images: ``image`` (B, C, *size) under the parents ``values``."""

    image: Tensor
    values: Tensor


class ImageMechanism(nn.Module, ABC):
    r"""An image as a function of its exogenous noise and its causal parents, :math:`x = f(u; pa)`.

    Abduction finds the noise u of an image, prediction draws the image of a noise; under the parents of the abduction
    that is the image itself. Images (B, C, *size) are in [-1, 1], parents are values (B, V), each in its unit. Random
    numbers are torch's global ones.

    A subclass says how it is trained (:meth:`loss`) and what fine-tuning has to keep (:meth:`constraint`). The methods
    after these have defaults, for mechanisms that cannot do more, or not faster.

    References:
        | Deep Structural Causal Models for Tractable Counterfactual Inference (Pawlowski et al., 2020),
          https://arxiv.org/abs/2006.06485

    Args:
        spec: the study's section ``hvae``.
        image: pixel grid of the study.
        variables: all variables of the graph; every one of them is a parent of the image.
    """

    passes: tuple[str, ...] = ("abduct", "predict")
    """The methods that :meth:`compile_passes` compiles."""

    def __init__(self, spec: MechanismSpec, image: Image, variables: Mapping[str, Variable]) -> None:
        super().__init__()
        self.spec, self.grid, self.channels = spec, Grid.of(image), image.channels
        self.pixels = self.channels * self.grid.elements
        self.parents = ParentEncoder(variables)

    @abstractmethod
    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> Noise:
        """The noise of images ``x`` with parents ``values``: a ``sample`` of its posterior, or else its mean."""

    @abstractmethod
    def predict(self, noise: Noise, values: Tensor) -> Tensor:
        """The images (B, C, *size) of a noise under the parents ``values`` (B, V)."""

    @abstractmethod
    def sample(self, n: int, pixel_noise: bool = True) -> Noise:
        """The noise of ``n`` images that do not exist yet.

        Without ``pixel_noise`` what belongs to each pixel by itself is not drawn but at its mean, in mechanisms that
        know such a part.
        """

    @abstractmethod
    def loss(self, x: Tensor, values: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What likelihood training minimises at a ``step``, a mean over the batch, and figures to log."""

    def loss_of_pairs(self, x: Tensor, values: Tensor, known: Known, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`loss` of what is ``known`` to be the images ``x`` with parents ``values`` under others. By default
        they are samples like any other."""
        return self.loss(known.image, known.values, step)

    @abstractmethod
    def constraint(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        """What fine-tuning must not let rise, (B,): the negative log-likelihood, or the negative bound that training
        minimises, in nats per pixel and channel; ``sample`` as in :meth:`abduct`."""

    def constraint_of_pairs(self, x: Tensor, values: Tensor, known: Known | None, sample: bool = True) -> Tensor:
        """:meth:`constraint` of what is ``known`` to be the images ``x`` with parents ``values`` under others, (B,); of
        the images themselves where nothing is known. By default they are samples like any other."""
        return self.constraint(x, values, sample) if known is None else self.constraint(*known, sample)

    def counterfactual_and_constraint(
        self, x: Tensor, values: Tensor, after: Tensor, sample: bool = True, known: Known | None = None
    ) -> tuple[Tensor, Tensor]:
        """The images ``x`` under the parents ``after`` (B, V), and their :meth:`constraint`, or that of a ``known``
        counterfactual of theirs: a step of fine-tuning."""
        held = self.constraint_of_pairs(x, values, known, sample)
        return self.predict(self.abduct(x, values, sample), after), held

    def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor | None:
        """log p(x | pa) or a lower bound of it, in nats per pixel and channel, (B,); None where there is none."""
        return None

    def reconstruction(self, noise: Noise) -> Tensor | None:
        """Of an abducted noise: the images that the mechanism explains, without the noise of each pixel by itself; None
        of a mechanism without such noise."""
        return None

    def least_stretch(self, noise: Noise, values: Tensor) -> Tensor | None:
        """By how much the answer under ``values`` (B, V) stretches an element of the image's frame, where it squeezes
        it most, (B,): not above 0 where it folds. None of a mechanism that does not move the frame."""
        return None

    def lengths(self, noise: Noise) -> dict[str, Tensor]:
        """Of an abducted noise: what typicality is judged by, in bits per pixel and channel, (B,) each. ``image`` is
        the negative of :meth:`log_density`; others are shares of it."""
        return {}

    def compile_passes(self, backend: str = "inductor") -> None:
        """Have PyTorch (its ``backend``) compile :attr:`passes` in training; takes minutes at the first step.

        It fuses what is between the convolutions, so a GPU starts far fewer kernels; on a CPU it gains little.
        """
        for name in self.passes:
            setattr(self, name, self._compiled_in_training(getattr(self, name), backend))

    def _compiled_in_training(self, eager: Callable[..., Any], backend: str) -> Callable[..., Any]:
        compiled = torch.compile(eager, backend=backend, dynamic=False)

        def choose(*inputs: Any, **options: Any) -> Any:
            # What is done once, such as validation, is not worth a compilation.
            return (compiled if self.training and torch.is_grad_enabled() else eager)(*inputs, **options)

        return choose


MECHANISMS: Registry[Callable[[Any, Image, Mapping[str, Variable]], ImageMechanism]] = Registry(
    "image mechanism", "segcft.image_models", "hvae.architecture"
)
"""Architecture -> its network, made from its settings, the image and the variables."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from torch's global generator, as latents are, with this seed; afterwards it is where it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield
