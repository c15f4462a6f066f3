"""The sizes of the published image mechanism, in the words of its code, causal-gen (De Sousa Ribeiro et al. 2023)."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from pydantic import Field, PositiveInt, field_validator

from segcft.config.mechanisms import SPECS, VAESpec


class Stage(NamedTuple):
    """One part of an architecture string: ``blocks`` at ``resolution`` pixels, then a block that shrinks ``down``
    times (None: it does not)."""

    resolution: int
    blocks: int
    down: int | None


class BlockShape(NamedTuple):
    """A block from ``inputs`` to ``outputs`` channels. ``resolution`` is that of its input; an encoder's block may
    shrink it ``down`` times (None: it does not)."""

    resolution: int
    inputs: int
    outputs: int
    down: int | None = None


class CausalGenSpec(VAESpec):
    """The published hierarchical VAE (De Sousa Ribeiro et al. 2023), in the words of its code, causal-gen.

    ``enc_arch`` lists the encoder's stages from the largest resolution, ``64b3d2,32b31d2,16b15d2,8b7d2,4b3d4,1b2``:
    at 64 pixels 3 blocks and one that halves (``d2``), and so on. ``dec_arch`` lists the decoder's from one pixel,
    ``1b2,4b4,8b8,16b16,32b32,64b4``. ``widths`` are the channels of every resolution, the largest resolution
    first. An encoder pads an odd resolution by one pixel, so that its features at 7 pixels are at 8.

    Of images that are not square a resolution is that of the shorter side, and the longer side is so many times as
    long in every stage: 64 x 384 pixels begin at ``1b2`` with 1 x 6. The ratio is a whole number, and no resolution
    but 1 is odd. (The published code draws square images only.)

    ``z_dim`` latent channels are in every decoder block of up to ``z_max_res`` pixels a side, learnt maps of the
    place in the frame in those of up to ``bias_max_res``. ``block: light`` has two convolutions and ReLU
    (causal-gen's for ukbb), ``gelu`` four and GELU (all its others); ``bottleneck`` divides the width inside.
    ``lowest_log_scale`` is that of its code.
    """

    architecture: Literal["causal-gen"]
    enc_arch: str
    dec_arch: str
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    block: Literal["light", "gelu"]
    bottleneck: PositiveInt = 4
    z_dim: PositiveInt = 16
    z_max_res: PositiveInt = 192
    bias_max_res: PositiveInt = 64
    lowest_log_scale: float = -9.0

    @field_validator("enc_arch", "dec_arch")
    @classmethod
    def _can_be_parsed(cls, text: str) -> str:
        parse_arch(text)
        return text

    def encoder_blocks(self, size: int) -> list[BlockShape]:
        """The encoder's blocks for images of ``size`` pixels a side, in order; see :func:`padded` for what an odd
        size becomes after each of them.

        Raises:
            ValueError: ``enc_arch`` does not fit the size or the ``widths``.
        """
        stages = parse_arch(self.enc_arch)
        if len(stages) != len(self.widths):
            raise ValueError(f"hvae.enc_arch: {len(stages)} stages, but hvae.widths has {len(self.widths)}")
        blocks: list[BlockShape] = []
        last = len(stages) - 1
        named = resolution = size  # before an odd one was padded, and after
        for index, (stage, width) in enumerate(zip(stages, self.widths, strict=True)):
            if stage.resolution not in (named, resolution):
                raise ValueError(
                    f"hvae.enc_arch: stage {stage.resolution} is at {resolution} pixels (image.size: {size})"
                )
            if (stage.down is None) != (index == last):
                raise ValueError("hvae.enc_arch: every stage but the last ends in 'd' and a factor, e.g. '32b3d2'")
            if index == 0 and stage.blocks == 0:
                raise ValueError("hvae.enc_arch: the first stage needs at least one block, e.g. '64b1d2'")
            for _ in range(stage.blocks):
                blocks.append(BlockShape(resolution, width, width))
                resolution = padded(resolution)
            if stage.down is not None:
                blocks.append(BlockShape(resolution, width, self.widths[index + 1], stage.down))
                named = resolution // stage.down
                resolution = padded(named)
                if resolution == 0:
                    raise ValueError(f"hvae.enc_arch: stage {stage.resolution} shrinks the image to nothing")
        return blocks

    def decoder_blocks(self, size: int) -> list[BlockShape]:
        """The decoder's blocks for images of ``size`` pixels a side, in order.

        Raises:
            ValueError: ``dec_arch`` does not fit the size or the ``widths``.
        """
        stages = parse_arch(self.dec_arch)
        resolutions = [stage.resolution for stage in stages]
        if len(stages) != len(self.widths):
            raise ValueError(f"hvae.dec_arch: {len(stages)} stages, but hvae.widths has {len(self.widths)}")
        if any(stage.down is not None or stage.blocks == 0 for stage in stages):
            raise ValueError("hvae.dec_arch: a stage is a resolution and at least one block, e.g. '32b4'")
        if resolutions != sorted(set(resolutions)) or resolutions[0] != 1 or resolutions[-1] != size:
            raise ValueError(f"hvae.dec_arch: resolutions must rise from 1 to image.size ({size}), not {resolutions}")
        wide = [(s.resolution, w) for s, w in zip(stages, reversed(self.widths), strict=True) for _ in range(s.blocks)]
        following = [*wide[1:], wide[-1]]
        return [BlockShape(r, width, after) for (r, width), (_, after) in zip(wide, following, strict=True)]

    def check_image(self, size: tuple[int, ...], channels: int) -> None:
        if len(size) != 2:
            raise ValueError(f"image.size: 'architecture: causal-gen' draws images of two axes, not {len(size)}")
        side = min(size)
        if max(size) % side:
            why = "needs images whose longer side is a whole number of times the shorter"
            raise ValueError(f"image.size: 'architecture: causal-gen' {why}, not {size[0]} x {size[1]}")
        if channels != 1:
            raise ValueError(f"image.channels: 'architecture: causal-gen' draws grey images, not {channels} channels")
        if self.bottleneck > min(self.widths):
            raise ValueError(f"hvae.bottleneck: {self.bottleneck} leaves nothing of a width of {min(self.widths)}")
        features = {padded(block.resolution // (block.down or 1)): block.outputs for block in self.encoder_blocks(side)}
        if max(size) > side:
            self._check_even(side)
        for block in self.decoder_blocks(side):
            if block.inputs < block.outputs:
                raise ValueError("hvae.widths: from the largest resolution to the smallest, widths must not fall")
            if block.resolution <= self.z_max_res and features.get(block.resolution) != block.inputs:
                found = ", ".join(f"{resolution} ({width} wide)" for resolution, width in features.items())
                raise ValueError(
                    f"hvae.dec_arch: latents at {block.resolution} pixels need the encoder's features there, "
                    f"{block.inputs} wide; it has them at {found}"
                )

    def _check_even(self, side: int) -> None:
        """Check that nothing is padded: of sides of two lengths the one might be and the other not."""
        for block in self.encoder_blocks(side):
            after = block.resolution // (block.down or 1)
            if padded(block.resolution) != block.resolution or padded(after) != after:
                raise ValueError(
                    f"hvae.enc_arch: an odd resolution ({after} of {block.resolution}) of images that are not square"
                )


def frame(resolution: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in pixels of a frame like that of images of ``size``, of so many pixels on the shorter side."""
    height, width = (resolution * side // min(size) for side in size)
    return height, width


def parse_arch(text: str) -> list[Stage]:
    """The stages of an architecture string, e.g. ``64b3d2,32b2d4,8b1``.

    Raises:
        ValueError: it is not one.
    """
    stages = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9][0-9]*)b([0-9]+)(?:d([2-9]))?", part.strip())
        if found is None:
            raise ValueError(
                f"{part!r} is not a stage: a resolution, 'b' and blocks, 'd' and a factor of 2 to 9: '32b3d2'"
            )
        resolution, blocks, down = found.groups()
        stages.append(Stage(int(resolution), int(blocks), int(down) if down else None))
    return stages


def padded(resolution: int) -> int:
    """The resolution after an odd one (other than a single pixel) is padded by one pixel."""
    return resolution + resolution % 2 if resolution > 1 else resolution


SPECS.add("causal-gen", CausalGenSpec)
