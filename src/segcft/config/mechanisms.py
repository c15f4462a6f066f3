"""The image mechanism of a study, its section ``hvae``: which one, how it is trained, and the sizes of its network.

A mechanism has a class of settings here (:data:`SPECS`) and a network of the same name
(:data:`segcft.image_models.mechanism.MECHANISMS`).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from segcft.config.architecture import by_architecture
from segcft.config.section import Fraction, LocalDeformation, Section, Training
from segcft.utils.registry import Registry, subclass_of

DEFAULT = "two-stream"
"""The architecture of a study that names none."""

AXES = ("depth", "height", "width")


class MechanismSpec(Training):
    """Likelihood training of an image mechanism; ``architecture`` is its name in :data:`SPECS`.

    It also learns from counterfactuals of its samples that are known: the noise of a sample has to give them under
    their values. Of a share ``pairs`` of the samples that have one it is their own other image, as
    ``evaluation.pairs`` says; of the rest, with ``deform``, a local deformation, whose new measures are known.

    Samples some of whose attributes are ``missing`` are left out, or drawn: they are learnt from under attributes that
    the attributes' mechanisms draw, given what is known of them.
    """

    LATER = frozenset({"deform", "pairs", "missing"})

    architecture: str
    deform: LocalDeformation = LocalDeformation()
    pairs: Fraction = 0.0
    missing: Literal["leave out", "draw"] = "leave out"

    @property
    def settles(self) -> int:
        """Steps after which what is minimised changes no more."""
        return 0

    def check_image(self, size: tuple[int, ...], channels: int) -> None:
        """Whether the mechanism fits images of this size (H, W) or (D, H, W).

        Raises:
            ValueError: it does not; the message names the key.
        """


SPECS: Registry[type[MechanismSpec]] = Registry(
    "image mechanism", "segcft.image_models", check=subclass_of(MechanismSpec)
)
"""Architecture -> the class of its settings."""


ImageSpec = Annotated[SerializeAsAny[MechanismSpec], PlainValidator(by_architecture(SPECS, MechanismSpec, DEFAULT))]
"""The section ``hvae``, read by the class of settings that its ``architecture`` names."""


class VAESpec(MechanismSpec):
    """Likelihood training of a hierarchical VAE.

    ``beta`` weighs the KL and rises linearly from ``beta_start`` over ``beta_warmup_steps``; ``free_bits`` is in
    nats for each latent channel. ``lowest_log_scale`` bounds the pixel likelihood's scale (image in [-1, 1]).
    ``recompute`` keeps of each block only what enters it and works the rest out again in the backward pass: the
    same results with less memory, for the time of another forward pass. ``noise_growth`` is how a counterfactual's
    pixel noise grows where the likelihood's scale does: 1 as much, 0 not at all, in between that power of it.
    """

    LATER = MechanismSpec.LATER | {"noise_growth"}

    beta: NonNegativeFloat = 1.0
    beta_start: NonNegativeFloat = 0.0
    beta_warmup_steps: NonNegativeInt = 0
    free_bits: NonNegativeFloat = 0.0
    lowest_log_scale: float = -6.0
    recompute: bool = False
    noise_growth: Fraction = 1.0

    @property
    def settles(self) -> int:
        return self.beta_warmup_steps

    def beta_at(self, step: int) -> float:
        """The weight of the KL at a step of the training."""
        share = min(1.0, (step + 1) / self.beta_warmup_steps) if self.beta_warmup_steps else 1.0
        return self.beta_start + share * (self.beta - self.beta_start)


class Level(Section):
    """One resolution of the HVAE.

    ``encoder`` and ``decoder`` count its blocks; ``z`` is the number of latent channels of each decoder block
    (0: deterministic); ``down`` is the factor to the next, smaller level, one for all axes or one for each.
    """

    width: PositiveInt
    encoder: NonNegativeInt = 1
    decoder: PositiveInt = 1
    z: NonNegativeInt = 16
    down: PositiveInt | tuple[PositiveInt, ...] = 2

    def factor(self, axes: int) -> tuple[int, ...]:
        """``down`` for each axis.

        Raises:
            ValueError: it is for another number of axes.
        """
        factor = (self.down,) * axes if isinstance(self.down, int) else self.down
        if len(factor) != axes:
            raise ValueError(f"hvae.levels: 'down' has {len(factor)} factors, where image.size has {axes} axes")
        return factor


class HVAESpec(VAESpec):
    """The hierarchical VAE of the image, ``levels`` from the largest resolution to the smallest.

    ``patch`` > 1 works on patches of that many pixels a side (the stem strides, the head unshuffles); with ``overlap``
    the head fades each into its neighbours, so that no chequers or stripes repeat with the patches.
    ``bottleneck`` divides the width inside a block, ``context`` is the width of the parents' embedding. Levels of
    up to ``position_size`` pixels a side have a learnt map of the place in the frame. ``warp`` > 0 lets the decoder
    move outlines by a smooth displacement with a node every so many pixels, of at most ``warp_reach`` of the frame;
    ``diffeomorphic`` ones cannot fold, know their inverse, and what they move keeps its noise; they squeeze what lies
    beside a border that moves by up to exp(``steepest``). Their noise moves ``everywhere``, or only ``where it
    changes``: where other parents change what is expected of the image. With ``grain`` (the standard deviation of a
    Gaussian in pixels) only what is left of noise once it is blurred moves, and the rest stays.
    """

    LATER = VAESpec.LATER | {"overlap", "diffeomorphic", "steepest", "noise_moves", "grain"}

    architecture: Literal["two-stream"] = "two-stream"
    levels: tuple[Level, ...] = Field(min_length=1)
    patch: PositiveInt = 1
    overlap: bool = False
    bottleneck: PositiveInt = 2
    context: PositiveInt = 64
    position_size: NonNegativeInt = 64
    warp: NonNegativeInt = 0
    warp_reach: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    diffeomorphic: bool = False
    steepest: Annotated[float, Field(gt=0.05, le=0.9)] = 0.5
    noise_moves: Literal["everywhere", "where it changes"] = "everywhere"
    grain: Annotated[float, Field(ge=0, le=8)] = 0

    @model_validator(mode="after")
    def _there_is_what_moves(self) -> Self:
        for field in ("noise_moves", "grain"):
            is_set = getattr(self, field) != type(self).model_fields[field].default
            if is_set and not (self.warp and self.diffeomorphic):
                raise ValueError(f"{field}: no noise moves without 'warp' and 'diffeomorphic: true'; leave {field} out")
        return self

    def check_image(self, size: tuple[int, ...], channels: int) -> None:
        if self.levels[-1].z == 0:
            raise ValueError("hvae.levels: the last, smallest level needs a latent ('z' of at least 1)")
        factors = [level.factor(len(size)) for level in self.levels][:-1]  # the last has none below it, and is checked
        for axis, (name, pixels) in enumerate(zip(AXES[-len(size) :], size, strict=True)):
            factor = self.patch * math.prod(down[axis] for down in factors)
            if pixels % factor:
                raise ValueError(
                    f"hvae.levels: patch and 'down' factors shrink the {name} {factor} times, "
                    f"which does not divide image.size ({pixels})"
                )


SPECS.add(DEFAULT, HVAESpec)
