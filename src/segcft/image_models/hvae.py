"""The two-stream image mechanism: a hierarchical VAE whose latents are the image's exogenous noise.

Two streams run from the smallest resolution to the largest. The *exogenous* stream ``e`` is built from the
latents alone and gives the prior p(z_l | z_<l), which so never sees the parents. The *image* stream ``h`` sees
``e`` and the parents in every block and ends in the pixel likelihood p(x | z, pa). The posterior
q(z_l | z_<l, x, pa) reads ``e``, the encoder's features of the image and the parents. Abduction therefore runs
only the first stream; the second is run once for each set of parents that one wants to see.

References: Child 2021 (very deep VAEs); De Sousa Ribeiro et al. 2023 (HVAE with an exogenous prior).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.image import Image
from segcft.config.mechanisms import HVAESpec, Level
from segcft.config.variable import Variable
from segcft.grid import Grid
from segcft.image_models.displacement import Diffeomorphism, Displacement, between, displaced, stretch
from segcft.image_models.likelihood import DiscretisedGaussian, PixelNoise
from segcft.image_models.mechanism import MECHANISMS
from segcft.image_models.vae import HierarchicalVAE, Latents, Recomputing, VAENoise

LOG_SCALE_RANGE = (-8.0, 2.0)
"""Of the posterior relative to the standard normal prior; wider only overflows."""

HIGHEST_LOG_SCALE = 3.0
"""Of the likelihood, images in [-1, 1]: all that is left of a pixel is then a coin toss between black and white."""


LARGEST_GAIN = 8.0
"""Of a modulation, which follows the mean of what it modulates: without a bound a block squares its input, and a few of
them in a row overflow within some steps of training. Trained models have gains of 1 to 4."""


class ResidualBlock(nn.Module):
    """Two convolutions through a bottleneck, modulated by the context (FiLM, Perez et al. 2018).

    The modulation also sees the mean of the block's input over the frame (as in squeeze-and-excitation, Hu et
    al. 2018): an area is a property of the whole frame, so to move an outline from the area that there is to the
    one that is asked for, a block must know both.
    """

    def __init__(self, grid: Grid, inputs: int, outputs: int, hidden: int, context: int = 0, scale: float = 1.0):
        super().__init__()
        self.grid, self.residual = grid, inputs == outputs
        kernel = 3 if min(grid.size) > 2 else 1  # on one or two pixels a larger one would mostly read its padding
        self.narrow = grid.conv(inputs, hidden, kernel)
        self.widen = grid.conv(hidden, outputs, kernel)
        self.modulate = nn.Linear(context + inputs, 2 * hidden) if context else None
        with torch.no_grad():
            self.widen.weight.mul_(scale)
            nn.init.zeros_(self.widen.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        active = F.silu(x)
        hidden = self.narrow(active)
        if self.modulate is not None and context is not None:
            seen = torch.cat([context, active.mean(dim=self.grid.axes)], dim=1)
            gain, bias = self.grid.over_space(self.modulate(seen)).chunk(2, dim=1)
            hidden = torch.addcmul(hidden + bias, hidden, gain.clamp(-LARGEST_GAIN, LARGEST_GAIN))
        out = self.widen(F.silu(hidden))
        return x + out if self.residual else out


class DecoderBlock(nn.Module):
    """One latent variable z_l: its prior, its posterior and its effect on both streams (z = 0: no latent).

    The latent is written as its exogenous noise, u ~ N(0, 1), which the prior p(z_l | z_<l) scales; its location
    is part of the feature that the prior adds. So KL(q || p) is that of two Gaussians of which one is standard.
    """

    def __init__(self, grid: Grid, level: Level, hidden: int, context: int, scale: float):
        super().__init__()
        self.grid, width, self.z = grid, level.width, level.z
        if self.z:
            self.prior = ResidualBlock(grid, width, self.z + width, hidden, scale=scale)
            self.posterior = ResidualBlock(grid, 2 * width, 2 * self.z, hidden, context, scale=scale)
            self.enter = grid.conv(self.z, width, 1)
            self.reveal = grid.conv(width, width, 1)
        self.draw = ResidualBlock(grid, width, width, hidden, context, scale=scale)

    def exogenous(
        self, e: Tensor, seen: Tensor | None, context: Tensor | None, sample: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The exogenous stream after this latent, what the image stream sees of it, and KL(q || p) over pixels (B, z).

        With ``seen`` (the encoder's features) u comes from the posterior, else from the prior.
        """
        gate, feature = self.prior(e).split([self.z, e.shape[1]], dim=1)
        kl = None
        if seen is None:
            u = torch.randn_like(gate)
        else:
            loc, log_scale = self.posterior(torch.cat([e, seen], dim=1), context).float().chunk(2, dim=1)
            log_scale = log_scale.clamp(*LOG_SCALE_RANGE)
            variance = torch.exp(2 * log_scale)
            kl = (0.5 * (variance + loc * loc - 1) - log_scale).sum(dim=self.grid.axes)
            u = loc + torch.exp(log_scale) * torch.randn_like(loc) if sample else loc
        e = e + feature + self.enter(torch.sigmoid(gate) * u.to(e.dtype))
        return e, self.reveal(e), kl

    def image(self, h: Tensor, revealed: Tensor | None, context: Tensor) -> Tensor:
        """The image stream after this block; of one batch ``revealed`` under one or more sets of parents."""
        if revealed is not None:
            h = (h.unflatten(0, (-1, len(revealed))) + revealed).flatten(0, 1)
        return self.draw(h, context)


class DecoderLevel(nn.Module):
    """All decoder blocks of one resolution, and the way up from the next smaller one."""

    def __init__(self, grid: Grid, level: Level, below: Level | None, spec: HVAESpec, scale: float):
        super().__init__()
        self.grid, hidden = grid, _hidden(level, spec)
        self.blocks = nn.ModuleList(
            DecoderBlock(grid, level, hidden, spec.context, scale) for _ in range(level.decoder)
        )
        if below is None:
            self.up_e = self.up_h = None
        else:
            self.up_e = grid.conv(below.width, level.width, 1)
            self.up_h = grid.conv(below.width, level.width, 1)
        # Anatomy has its place in the frame, which convolutions do not know.
        size = grid.size if max(grid.size) <= spec.position_size else (1,) * grid.dimensions
        self.place_e = nn.Parameter(0.02 * torch.randn(1, level.width, *size))
        self.place_h = nn.Parameter(0.02 * torch.randn(1, level.width, *size))

    def enter_exogenous(self, e: Tensor | None, batch: int) -> Tensor:
        return self._enter(e, self.up_e, self.place_e, batch)

    def enter_image(self, h: Tensor | None, batch: int) -> Tensor:
        return self._enter(h, self.up_h, self.place_h, batch)

    def _enter(self, stream: Tensor | None, up: nn.Module | None, place: Tensor, batch: int) -> Tensor:
        if stream is None or up is None:
            return place.expand(batch, -1, *self.grid.size)
        return self.grid.repeat(up(stream), self.grid.size) + place


class Encoder(Recomputing):
    """Features of the image at every resolution, the largest first."""

    def __init__(self, grids: list[Grid], spec: HVAESpec, channels: int, scale: float):
        super().__init__()
        self.spec = spec
        levels = spec.levels
        self.stem = grids[0].conv(channels, levels[0].width, 3 if spec.patch == 1 else spec.patch, spec.patch)
        self.stages = nn.ModuleList()
        self.downs = nn.ModuleList()
        for index, (level, grid) in enumerate(zip(levels, grids, strict=True)):
            blocks = [
                ResidualBlock(grid, level.width, level.width, _hidden(level, spec), scale=scale)
                for _ in range(level.encoder)
            ]
            self.stages.append(nn.Sequential(*blocks))
            if index + 1 < len(levels):
                factor = level.factor(grid.dimensions)
                self.downs.append(grid.conv(level.width, levels[index + 1].width, factor, factor))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            for block in cast(nn.Sequential, stage):
                x = self.run_block(block, x)
            features.append(x)
            if index < len(self.downs):
                x = self.downs[index](x)
        return features


class Unpatch(nn.Module):
    """Patches (B, C * patch ** dimensions, *any) to pixels (B, C, *size)."""

    def __init__(self, grid: Grid, patch: int):
        super().__init__()
        self.grid, self.patch = grid, patch

    def forward(self, patches: Tensor) -> Tensor:
        return self.grid.unpatch(patches, self.patch)


class Overlap(nn.Module):
    """Fades patches of maps (B, C, *size) into each other: a mean with weights that fall linearly over a patch.

    The triangle is a box of the patch's width taken twice, so its spectrum is 0 at every multiple of 1 / patch: what
    repeats with the patches becomes even.
    """

    def __init__(self, grid: Grid, patch: int):
        super().__init__()
        self.grid, self.patch = grid, patch

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.contiguous()  # with few channels pooling is slow where these come last
        for axis in range(self.grid.dimensions):
            maps = self.grid.extend(maps, axis, self.patch - 1)
        return self.grid.running_mean(self.grid.running_mean(maps, self.patch), self.patch)


class HVAE(HierarchicalVAE):
    """Hierarchical VAE of an image given its causal parents.

    Args:
        spec: sizes of the network.
        image: pixel grid of the study.
        variables: all variables of the graph; every one of them is a parent of the image.
    """

    spec: HVAESpec

    def __init__(self, spec: HVAESpec, image: Image, variables: Mapping[str, Variable]):
        super().__init__(spec, image, variables)
        self.embed = nn.Sequential(
            nn.Linear(self.parents.features, spec.context), nn.SiLU(), nn.Linear(spec.context, spec.context)
        )
        grids = level_grids(spec, self.grid)
        # An encoder may have no blocks at all: its strided convolutions alone lead down.
        depth = sum(level.encoder for level in spec.levels) or 1, sum(level.decoder for level in spec.levels)
        self.encoder = Encoder(grids, spec, image.channels, scale=depth[0] ** -0.5)
        pairs = list(zip(grids, spec.levels, strict=True))
        self.decoder = nn.ModuleList()
        for index in reversed(range(len(pairs))):
            below = spec.levels[index + 1] if index + 1 < len(pairs) else None
            self.decoder.append(DecoderLevel(*pairs[index], below, spec, scale=depth[1] ** -0.5))
        # Beyond the last latent nothing reads the exogenous stream: what leads there has nothing to learn.
        latent = [index for index, level in enumerate(reversed(spec.levels)) if level.z]
        for beyond in self.decoder[max(latent, default=-1) + 1 :]:
            assert isinstance(beyond, DecoderLevel)
            beyond.place_e.requires_grad_(False)
            if beyond.up_e is not None:
                beyond.up_e.requires_grad_(False)
        width = spec.levels[0].width
        self.head = nn.Sequential(
            nn.SiLU(),
            self.grid.conv(width, 2 * image.channels * spec.patch**self.grid.dimensions, 3),
            Unpatch(self.grid, spec.patch),
            *([Overlap(self.grid, spec.patch)] if spec.overlap else []),
        )
        self.warp: Displacement | None = None
        if spec.warp and spec.diffeomorphic:
            self.warp = Diffeomorphism(self.grid, width, spec.warp, spec.warp_reach, spec.steepest)
        elif spec.warp:
            self.warp = Displacement(self.grid, width, spec.warp, spec.warp_reach)

    def encode(self, x: Tensor, values: Tensor, sample: bool = True) -> Latents:
        return self._exogenous(len(x), self.encoder(x), self._context(values), sample)

    def draw(self, n: int) -> Latents:
        return self._exogenous(n, None, None, True)

    def decode(self, latents: Latents, values: Tensor) -> DiscretisedGaussian:
        """p(x | z, pa) for the parents ``values`` (B, V), or (k * B, V): the same latents under k sets of parents."""
        context = self._context(values)
        features = iter(latents.features)
        h: Tensor | None = None
        for level in self._levels():
            h = level.enter_image(h, len(values))
            for block in cast(list[DecoderBlock], list(level.blocks)):
                h = self.run_block(block.image, h, next(features) if block.z else None, context)
        with torch.autocast(values.device.type, enabled=False):  # grey levels are finer than bfloat16
            h = cast(Tensor, h).float()
            pixels, displacement = self.head(h), None
            if self.warp is not None:
                displacement = self.warp(h)
                pixels = displaced(pixels, displacement)
            loc, log_scale = pixels.chunk(2, dim=1)
        lowest = self.spec.lowest_log_scale
        # Of pixels that are black or white at random the likelihood rises for ever with the scale, up to infinity.
        scale = (lowest + F.softplus(log_scale - 2 - lowest)).clamp(max=HIGHEST_LOG_SCALE)
        return DiscretisedGaussian(loc, scale, displacement)

    def factual_and_changed(self, latents: Latents, values: Tensor, *after: Tensor) -> list[DiscretisedGaussian]:
        return self.decode(latents, torch.cat([values, *after])).chunk(1 + len(after))  # in one pass

    def least_stretch(self, noise: VAENoise, values: Tensor) -> Tensor | None:
        if self.warp is None:
            return None
        after = self.decode(noise.latents, values).displacement
        if noise.pixels is None or noise.pixels.displacement is None or after is None:
            return None
        return stretch(between(noise.pixels.displacement, after)).flatten(1).amin(dim=1)

    def _with_residual(self, likelihood: DiscretisedGaussian, residual: PixelNoise) -> Tensor:
        partly = self.spec.noise_moves == "where it changes"
        return likelihood.with_residual(residual, self.spec.noise_growth, self.spec.grain, partly)

    def _levels(self) -> list[DecoderLevel]:
        return cast(list[DecoderLevel], list(self.decoder))

    def _context(self, values: Tensor) -> Tensor:
        return self.embed(self.parents(values))

    def _exogenous(self, batch: int, seen: list[Tensor] | None, context: Tensor | None, sample: bool) -> Latents:
        features, kls = [], []
        e: Tensor | None = None
        for index, level in enumerate(self._levels()):
            e = level.enter_exogenous(e, batch)
            for block in cast(list[DecoderBlock], list(level.blocks)):
                if block.z:
                    here = None if seen is None else seen[len(self.decoder) - 1 - index]
                    e, revealed, kl = self.run_block(block.exogenous, e, here, context, sample)
                    features.append(revealed)
                    if kl is not None:
                        kls.append(kl)
        return Latents(features, kls)


def level_grids(spec: HVAESpec, grid: Grid) -> list[Grid]:
    """The grids of all levels' feature maps, the largest first, for images on ``grid``."""
    sizes = [tuple(pixels // spec.patch for pixels in grid.size)]
    for level in spec.levels[:-1]:
        sizes.append(tuple(n // down for n, down in zip(sizes[-1], level.factor(grid.dimensions), strict=True)))
    return [Grid(size) for size in sizes]


def _hidden(level: Level, spec: HVAESpec) -> int:
    return max(1, level.width // spec.bottleneck)


MECHANISMS.add("two-stream", HVAE)
