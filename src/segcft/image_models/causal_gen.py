"""The published image mechanism: the hierarchical VAE with an exogenous prior of De Sousa Ribeiro et al. 2023.

It computes what their code (causal-gen) computes and loads what it trained, see
:mod:`segcft.image_models.causal_gen_checkpoint`.
One image stream ``h`` runs from a single pixel to the whole image; beside it runs a stream ``e`` of latents alone,
from which the prior p(z_l | z_<l) is read, so that it never sees the parents. The posterior q(z_l | z_<l, x, pa)
reads ``h``, the encoder's features of the image and the parents. Abduction therefore runs both streams, and what
it says of the factual image comes with it; another set of parents needs the image stream only.

The same sums are done with less work than by joining inputs along the channels and convolving them, see
:mod:`segcft.image_models.causal_gen_layers`.

References: De Sousa Ribeiro et al. 2023, https://arxiv.org/abs/2306.15764; Child 2021 (very deep VAEs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.causal_gen import BlockShape, CausalGenSpec, frame
from segcft.config.image import Image
from segcft.config.variable import Variable
from segcft.image_models.causal_gen_layers import (
    KINDS,
    BlockKind,
    Convolution,
    Convolutions,
    ParentsShare,
    ResidualBlock,
)
from segcft.image_models.likelihood import DiscretisedGaussian, TanhDiscretisedGaussian
from segcft.image_models.mechanism import MECHANISMS
from segcft.image_models.vae import HierarchicalVAE, Latents, Recomputing

STEM_KERNEL = 7
BLOCK_KERNEL = 3
LARGEST_POINTWISE = 2
"""Decoder blocks of at most this many pixels on the shorter side have 1x1 kernels; a larger one would mostly read
padding."""


class Posterior(nn.Module):
    """q(z_l | z_<l, x, pa): convolutions of the image stream, the parents and the encoder's features, joined.

    The first of them is linear, so it is the sum of its shares of the three, and nothing needs to be joined.
    """

    def __init__(
        self, width: int, parents: int, hidden: int, z: int, kernel: int, size: tuple[int, int], kind: BlockKind
    ):
        super().__init__()
        self.convolutions = Convolutions(width, hidden, 2 * z, kernel, kind)
        kernel = self.convolutions.first.kernel_size[0]
        self.features = Convolution(width, hidden, kernel, bias=False)
        self.parents = ParentsShare(parents, hidden, kernel, size)
        self.split(Convolution(2 * width + parents, hidden, kernel).weight)

    @torch.no_grad()
    def split(self, joined: Tensor) -> None:
        """Take the first convolution's weight for (image stream, parents, features) joined in this order."""
        parts = (self.convolutions.first.weight, self.parents.weight, self.features.weight)
        for part, weight in zip(parts, joined.split([p.shape[1] for p in parts], dim=1), strict=True):
            part.copy_(weight)

    def forward(self, h: Tensor, features: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log scale (B, z, H, W) from the image stream, and from the encoder's features (B, width, H,
        W) and the parents (B, C), both activated."""
        convolutions = self.convolutions
        hidden = convolutions.first(convolutions.activate(h)) + self.features(features) + self.parents(parents)
        loc, log_scale = convolutions.after_first(hidden).float().chunk(2, dim=1)
        return loc, log_scale


class DecoderBlock(nn.Module):
    """One latent variable z_l: its prior, its posterior and its effect on both streams.

    Above ``z_max_res`` the block has no latent: z_l is then what would be its prior's location. ``size`` is that of
    its images, in pixels.
    """

    def __init__(self, shape: BlockShape, size: tuple[int, int], parents: int, spec: CausalGenSpec, last: bool):
        super().__init__()
        width, self.z, self.resolution, self.size = shape.inputs, spec.z_dim, shape.resolution, size
        kind, hidden = KINDS[spec.block], width // spec.bottleneck
        kernel = BLOCK_KERNEL if shape.resolution > LARGEST_POINTWISE else 1
        self.stochastic = shape.resolution <= spec.z_max_res
        moments = 2 if self.stochastic else 1  # without a latent nothing reads the prior's scale
        self.prior = Convolutions(width, hidden, moments * self.z + width, kernel, kind)
        self.posterior = Posterior(width, parents, hidden, self.z, kernel, size, kind) if self.stochastic else None
        self.enter = Convolution(self.z, width, 1)
        self.enter_parents = nn.Linear(parents, width, bias=False)
        self.split_enter(Convolution(self.z + parents, width, 1).weight)
        self.draw = ResidualBlock(shape, hidden, kernel, kind)
        # After the last block nothing reads the stream of the latents.
        self.onward = None if last else Convolution(self.z + width, shape.outputs, 1)

    @torch.no_grad()
    def split_enter(self, joined: Tensor) -> None:
        """Take the weight of the pointwise convolution by which (latent, parents), joined, enter the image."""
        latent, parents = joined.split([self.z, joined.shape[1] - self.z], dim=1)
        self.enter.weight.copy_(latent)
        self.enter_parents.weight.copy_(parents[:, :, 0, 0])

    def exogenous(self, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Location and log scale (B, z, H, W) of p(z_l | z_<l), and the prior's features (B, width, H, W).

        Without a latent the log scale is empty.
        """
        loc, log_scale, feature = self.prior(e).split([self.z, self.z * self.stochastic, e.shape[1]], dim=1)
        return loc, log_scale, feature

    def image(self, h: Tensor, entering: Tensor, parents: Tensor) -> Tensor:
        """The image stream after this block; ``entering`` is what latent and prior add to it."""
        return self.draw(h + entering + self.enter_parents(parents)[:, :, None, None])


class Encoder(Recomputing):
    """Features of the image at every resolution."""

    def __init__(self, spec: CausalGenSpec, size: int, channels: int):
        super().__init__()
        self.spec = spec
        shapes = spec.encoder_blocks(size)
        self.stem = Convolution(channels, spec.widths[0], STEM_KERNEL)
        kind = KINDS[spec.block]
        self.blocks = nn.ModuleList(
            ResidualBlock(shape, shape.inputs // spec.bottleneck, BLOCK_KERNEL, kind) for shape in shapes
        )
        for block in self._blocks():
            _scale(block.convolutions.last, len(shapes) ** -0.5)

    def _blocks(self) -> list[ResidualBlock]:
        return cast(list[ResidualBlock], list(self.blocks))

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Pixels on the shorter side -> the last features of that size."""
        x = self.stem(x)
        features = {}
        for block in self._blocks():
            x = self.run_block(block, x)
            if min(x.shape[-2:]) % 2 and min(x.shape[-2:]) > 1:
                x = F.pad(x, (0, 1, 0, 1))
            features[min(x.shape[-2:])] = x
        return features


class CausalGenHVAE(HierarchicalVAE):
    """The published hierarchical VAE of an image given its causal parents.

    The parents enter as published: a continuous variable standardised, one of two categories as 0 or 1, one of
    more as its one-hot code; C features in all, in the order of the study's variables.

    Args:
        spec: sizes of the network.
        image: pixel grid of the study, grey; see :class:`~segcft.config.causal_gen.CausalGenSpec`.
        variables: all variables of the graph; every one of them is a parent of the image.
    """

    spec: CausalGenSpec
    read_features: Tensor

    def __init__(self, spec: CausalGenSpec, image: Image, variables: Mapping[str, Variable]):
        super().__init__(spec, image, variables)
        side = min(image.size)
        read = [column for name in variables for column in self.parent_features(name)]
        self.register_buffer("read_features", torch.tensor(read), persistent=False)
        self.encoder = Encoder(spec, side, image.channels)
        shapes = spec.decoder_blocks(side)
        last = len(shapes) - 1
        self.decoder = nn.ModuleList(
            DecoderBlock(shape, frame(shape.resolution, image.size), len(read), spec, index == last)
            for index, shape in enumerate(shapes)
        )
        for block in self._blocks():
            for part in (block.enter, block.enter_parents, block.draw.convolutions.last):
                _scale(part, len(shapes) ** -0.5)
            _scale(block.prior.last, 0.0)
        widths = {shape.resolution: shape.inputs for shape in shapes}
        self.places = nn.ParameterDict(
            {
                str(r): nn.Parameter(torch.zeros(1, w, *frame(r, image.size)))
                for r, w in widths.items()
                if r <= spec.bias_max_res
            }
        )
        """Learnt maps of the place in the frame, by pixels on the shorter side; the smallest starts both streams."""
        self.loc = Convolution(spec.widths[0], image.channels, 1)
        self.log_scale = Convolution(spec.widths[0], image.channels, 1)

    def parent_features(self, name: str) -> list[int]:
        """Which of the encoded features of the variable the network reads: of two categories only the second."""
        columns = self.parents.columns([name])
        return columns[1:] if len(self.parents.definitions[name].categories) == 2 else columns

    def encode(self, x: Tensor, values: Tensor, sample: bool = True) -> Latents:
        parents = self._read_parents(values)
        activate = KINDS[self.spec.block].activation
        # Every posterior of a resolution reads the same features and parents: they are activated once.
        seen = {size: activate(features) for size, features in self.encoder(x).items()}
        activated = activate(parents)
        features, kls = [], []
        h = e = self._start(len(x))
        for block in self._blocks():
            here = seen[block.resolution] if block.stochastic else None
            h, e, entering, kl = self.run_block(self._infer, block, h, e, here, parents, activated, sample)
            features.append(entering)
            if kl is not None:
                kls.append(kl)
        return Latents(features, kls, h)

    def draw(self, n: int) -> Latents:
        features = []
        e = self._start(n)
        for block in self._blocks():
            e = self._enlarge(e, block)
            z, log_scale, feature = block.exogenous(e)
            if block.stochastic:
                z = torch.addcmul(z, log_scale.exp(), _standard_normal(z))
            features.append(feature + block.enter(z))
            e = self._onward(block, z, feature)
        return Latents(features, [])

    def decode(self, latents: Latents, values: Tensor) -> DiscretisedGaussian:
        parents = self._read_parents(values)
        h = self._start(len(values))
        for block, entering in zip(self._blocks(), latents.features, strict=True):
            h = self.run_block(self._draw, block, h, entering, parents)
        return self._likelihood(h)

    def factual(self, latents: Latents, values: Tensor) -> DiscretisedGaussian:
        return self.decode(latents, values) if latents.image is None else self._likelihood(latents.image)

    def _infer(
        self,
        block: DecoderBlock,
        h: Tensor,
        e: Tensor,
        seen: Tensor | None,
        parents: Tensor,
        activated: Tensor,
        sample: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Both streams after ``block``, what latent and prior add to the image there, and KL(q || p), (B, z).

        Without a latent ``seen`` (the encoder's features, activated) and the KL are None.
        """
        h, e = self._enlarge(h, block), self._enlarge(e, block)
        loc, log_scale, feature = block.exogenous(e)
        z, kl = loc, None
        if block.posterior is not None and seen is not None:
            q_loc, q_log_scale = block.posterior(h, seen, activated)
            kl = _gaussian_kl(q_loc, q_log_scale, loc.float(), log_scale.float())
            z = q_loc
            if sample:
                z = torch.addcmul(q_loc, q_log_scale.exp(), _standard_normal(q_loc))
            z = z.to(loc.dtype)
        entering = feature + block.enter(z)
        return block.image(h, entering, parents), self._onward(block, z, feature), entering, kl

    def _draw(self, block: DecoderBlock, h: Tensor, entering: Tensor, parents: Tensor) -> Tensor:
        """The image stream after ``block``, from that before it."""
        return block.image(self._enlarge(h, block), entering, parents)

    def _blocks(self) -> list[DecoderBlock]:
        return cast(list[DecoderBlock], list(self.decoder))

    def _read_parents(self, values: Tensor) -> Tensor:
        """The parents' features that the network reads, (B, C)."""
        return self.parents(values)[:, self.read_features]

    def _start(self, batch: int) -> Tensor:
        return self.places["1"].expand(batch, -1, -1, -1)

    def _enlarge(self, stream: Tensor, block: DecoderBlock) -> Tensor:
        if stream.shape[-2:] == block.size:
            return stream
        stream, place = F.interpolate(stream, size=block.size), str(block.resolution)
        return stream + self.places[place] if place in self.places else stream

    def _onward(self, block: DecoderBlock, z: Tensor, feature: Tensor) -> Tensor:
        """The stream of the latents after ``block``; after the last one there is none to speak of."""
        return z if block.onward is None else block.onward(torch.cat([z, feature], dim=1))

    def _likelihood(self, h: Tensor) -> TanhDiscretisedGaussian:
        with torch.autocast(h.device.type, enabled=False):  # grey levels are finer than bfloat16
            h = h.float()
            return TanhDiscretisedGaussian(self.loc(h), self.log_scale(h).clamp(min=self.spec.lowest_log_scale))


def _standard_normal(like: Tensor) -> Tensor:
    """Noise of the shape of ``like``; torch draws it many times faster into memory without gaps or strides."""
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


@torch.no_grad()
def _scale(layer: nn.Conv2d | nn.Linear, factor: float) -> None:
    layer.weight.mul_(factor)


def _gaussian_kl(q_loc: Tensor, q_log_scale: Tensor, p_loc: Tensor, p_log_scale: Tensor) -> Tensor:
    """KL(q || p) of Gaussians in nats, (B, z, H, W) to its sum over the pixels, (B, z)."""
    log_ratio = q_log_scale - p_log_scale
    shift = (q_loc - p_loc) * torch.exp(-p_log_scale)
    return (0.5 * (torch.exp(2 * log_ratio) + shift * shift - 1) - log_ratio).sum(dim=(2, 3))


MECHANISMS.add("causal-gen", CausalGenHVAE)
