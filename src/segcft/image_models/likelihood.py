"""The pixel likelihood: a Gaussian with learnt location and scale, discretised to the 256 grey levels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from segcft.image_models.displacement import between, displaced
from segcft.image_models.noise import moved_noise, share_that_moves, texture_and_grain

HALF_LEVEL = 1 / 255
"""Half the distance of two neighbouring grey levels when 0..255 is mapped to [-1, 1]."""

END_LEVEL = 0.999
"""Beyond this a pixel is in the first or last grey level, in the published likelihood."""

LEAST_MASS = 1e-12
"""A probability below this counts as this, in the published likelihood."""


class PixelNoise(NamedTuple):
    """Pixel noise u (B, C, *size); of abducted noise also the displacement of its frame, if any, and the log of the
    scale and the image without noise that it was abducted with."""

    noise: Tensor
    displacement: Tensor | None = None
    log_scale: Tensor | None = None
    location: Tensor | None = None


class DiscretisedGaussian(NamedTuple):
    """p(x) of images in [-1, 1]: a Gaussian integrated over each grey level, the end levels taking the tails.

    ``loc`` and ``log_scale`` have the shape of the image, (B, C, *size). Reference: Salimans et al. 2017
    (PixelCNN++) for the discretisation, De Sousa Ribeiro et al. 2023 for its use as an invertible mechanism.

    With a ``displacement`` (B, axes or 2 * axes, *size) of the frame the noise belongs to places of the anatomy and not
    of the frame: x(p) = loc(p) + scale(p) u(p + d(p)). Noise that is white in one frame is white in the other, so p(x)
    is the same; but under other parents what the latents have not explained moves with the outlines. (With ``grain``
    only its texture does, and ``partly`` only where what is expected of the image changes: then noise is not quite
    white in the other frame, see :func:`~segcft.image_models.noise.texture_and_grain`.)
    """

    loc: Tensor
    log_scale: Tensor
    displacement: Tensor | None = None

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability of each pixel's grey level, in nats; same shape as ``x``."""
        inverse_scale = torch.exp(-self.log_scale)
        centred = (x - self.loc) * inverse_scale
        half = HALF_LEVEL * inverse_scale
        # By symmetry every level is treated in the left tail, where the difference of two cdf does not cancel.
        near = -centred.abs()
        mass = torch.special.ndtr(near + half) - torch.special.ndtr(near - half)
        lowest, highest = x < -1 + HALF_LEVEL, x > 1 - HALF_LEVEL
        tail = torch.where(lowest, centred + half, half - centred)
        density = -0.5 * (centred * centred + math.log(2 * math.pi)) + torch.log(2 * half)
        # Below float32's resolution the mass is the density times the width; the cdf would give log(0).
        inner = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-5)), density)
        return torch.where(lowest | highest, _log_ndtr(tail), inner)

    @property
    def location(self) -> Tensor:
        """The image without pixel noise: clamp(loc) to [-1, 1]."""
        return self.loc.clamp(-1, 1)

    def residual(self, x: Tensor) -> PixelNoise:
        """Abduction of the pixel noise: u = (x - loc) / scale."""
        return PixelNoise((x - self.loc) * torch.exp(-self.log_scale), self.displacement, self.log_scale, self.location)

    def with_residual(
        self, residual: PixelNoise, growth: float = 1.0, grain: float = 0, partly: bool = False
    ) -> Tensor:
        r"""Prediction from pixel noise: clamp(loc + scale * u) to [-1, 1].

        Where the scale is larger than the one that u was abducted with, only the power ``growth`` in 0..1 of what it
        grew by counts:

        .. math:: x = loc + s_0 (s / s_0)^{growth} u \quad \text{where } s > s_0, \qquad loc + s u \text{ elsewhere.}

        A mechanism that knows of a plaque but not where has a large scale in all places where it may be. There u is
        fine texture, and made as large as a plaque it is specks. A scale that shrinks counts whole: the noise of what
        is gone goes with it. Of noise that moves with a displacement ``grain`` is the width of the Gaussian that tells
        texture, which moves, from grain, which stays; ``partly``, texture moves only where what is expected of the
        image changes (:func:`~segcft.image_models.noise.texture_and_grain`).
        """
        noise, own = residual.noise, residual.log_scale if growth < 1 else None
        if self.displacement is None or residual.displacement is None:
            return self._drawn(self._grown(own, growth) * noise)
        moved = between(residual.displacement, self.displacement)
        there = displaced(own, moved) if own is not None else None
        # Of displacements without an inverse noise is as version 0.1.0 moved it.
        keeps = residual.displacement.shape[1] > moved.shape[1]
        if not keeps or not (grain or partly):
            noise = moved_noise(noise, moved) if keeps else displaced(noise, moved)
            return self._drawn(self._grown(there, growth) * noise)
        share = None
        if partly and residual.location is not None and residual.log_scale is not None:
            smaller = torch.minimum(residual.log_scale, self.log_scale)  # the same on the way back
            share = share_that_moves(residual.location, self.location, smaller)
        moves, stays = texture_and_grain(noise, moved, grain, share)
        return self._drawn(self._grown(there, growth) * moves + self._grown(own, growth) * stays)

    def _grown(self, own: Tensor | None, growth: float) -> Tensor:
        """The scale of pixel noise that was abducted with the logarithm ``own`` of its scale; None: it counts whole."""
        if own is None:
            return torch.exp(self.log_scale)
        return torch.exp(self.log_scale - (1 - growth) * (self.log_scale - own).clamp(min=0))

    def _drawn(self, noise: Tensor) -> Tensor:
        """The image with pixel noise (B, C, *size) in its grey values."""
        return (self.loc + noise).clamp(-1, 1)

    def chunk(self, parts: int) -> list[DiscretisedGaussian]:
        """Split along the batch, e.g. into factual and counterfactual."""
        chunks = [[None] * parts if field is None else field.chunk(parts) for field in self]
        return [type(self)(*fields) for fields in zip(*chunks, strict=True)]


class TanhDiscretisedGaussian(DiscretisedGaussian):
    """The same with the normal cdf approximated by a tanh, as published (De Sousa Ribeiro et al. 2023).

    It is off by up to 2e-4 in probability; weights that were trained with it are judged by it.
    """

    __slots__ = ()

    def log_prob(self, x: Tensor) -> Tensor:
        inverse_scale = torch.exp(-self.log_scale)
        centred = x - self.loc
        upper = _tanh_ndtr(inverse_scale * (centred + HALF_LEVEL))
        lower = _tanh_ndtr(inverse_scale * (centred - HALF_LEVEL))
        mass = torch.where(x < -END_LEVEL, upper, torch.where(x > END_LEVEL, 1 - lower, upper - lower))
        return torch.log(mass.clamp(min=LEAST_MASS))


def _tanh_ndtr(x: Tensor) -> Tensor:
    """The normal cdf, approximately (Page 1977; the constants are those of the tanh form of GELU)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _log_ndtr(x: Tensor) -> Tensor:
    """log of the standard normal cdf. Far out, where the slope of torch's own is noise, by its asymptote."""
    far = x.clamp(max=-30)
    asymptote = -0.5 * (far * far + math.log(2 * math.pi)) - torch.log(-far)
    return torch.where(x < -30, asymptote, torch.special.log_ndtr(x.clamp(min=-30)))
