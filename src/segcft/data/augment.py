"""Random deformation of an image and its masks together, then of the image's grey values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.config.section import Augment
from segcft.data.deform import LocalDeformer
from segcft.data.draw import Draw
from segcft.data.film import FilmChanger

DARKEST = 1e-6
"""Of pixels that are not black, in 0..1: darker ones count as this in a change of gamma."""


class Augmenter:
    """Draws one deformation and one change of grey values for each sample of a batch.

    Masks are coverage, and stay coverage, so what is measured of them is that of the deformed structures. What comes
    into view at the border repeats the image's edge and belongs to no structure, nor does what a collimator
    covers.

    Args:
        spec: how much of what; see :class:`segcft.config.section.Augment`.
    """

    def __init__(self, spec: Augment) -> None:
        self.spec = spec
        self.deform = LocalDeformer(spec.deform) if spec.deform.share else None
        self.film = FilmChanger(spec.film) if spec.film.share else None

    def __call__(
        self, image: Tensor, mask: Tensor, generator: torch.Generator | None = None, images: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch on its device.

        Args:
            image: float (B, C, *size) in [-1, 1].
            mask: float (B, S, *size) in [0, 1]; of one structure at least where one alone is deformed.
            generator: source of randomness. Draws are made on its device, so one on the CPU gives the same
                deformation on every device.
            images: of one subject that the channels are of, one after the other: noise is the same in all of them.

        Returns:
            image and mask of the same shapes, types and ranges; the inputs themselves where ``spec`` is
            all zeros.
        """
        draw = Draw(image, generator)
        if self.deform is not None:
            image, mask, _ = self.deform(image, mask, generator)
        if self.spec.warps:
            grid = self._grid(image, draw)
            image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
            mask = F.grid_sample(mask, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.film is not None:
            image, mask = self.film(image, mask, draw)
        return self._hidden(self._change_greys(image, draw, images), draw), mask

    def _grid(self, image: Tensor, draw: Draw) -> Tensor:
        """Where in the input each output pixel comes from: (B, *size, axes), (x, y) or (x, y, z) in [-1, 1]."""
        spec, lengths = self.spec, image.shape[:1:-1]  # across, down, and in volumes through
        axes = len(lengths)
        turned = self._turned_back(axes, draw)
        scale = 1 + draw.uniform(spec.scale)
        scales = [scale * (1 + draw.uniform(spec.stretch)) for _ in range(axes - 1)] + [scale]
        shift = draw.uniform(2 * spec.shift, axes)  # the image is 2 units along each axis

        # The inverse map, output to input: undo the shift, turn back, undo the scale. A turn is rigid only where axes
        # have one unit, hence the ratios of lengths.
        rows = [
            torch.stack([_in_units(turned[:, i, j] / scales[i], lengths, i, j) for j in range(axes)], dim=-1)
            for i in range(axes)
        ]
        linear = torch.stack(rows, dim=-2)
        affine = torch.cat([linear, -linear @ shift.reshape(-1, axes, 1)], dim=-1)
        grid = F.affine_grid(affine, list(image.shape), align_corners=False)

        if spec.elastic:
            nodes = draw.normal(axes, *(spec.elastic_nodes,) * axes) * (2 * spec.elastic)
            smooth = {2: "bicubic", 3: "trilinear"}[axes]
            bend = F.interpolate(nodes, size=image.shape[2:], mode=smooth, align_corners=True)
            grid = grid + bend.movedim(1, -1)
        return grid

    def _turned_back(self, axes: int, draw: Draw) -> Tensor:
        """Inverse rotations (B, axes, axes), in volumes about each of the three axes; pixels are taken for squares and
        voxels for cubes."""
        turns = []
        for i, j in itertools.combinations(range(axes), 2):
            angle = draw.uniform(torch.pi / 180 * self.spec.rotate)
            turn = torch.diag_embed(angle.new_ones(len(angle), axes))
            turn[:, i, i] = turn[:, j, j] = torch.cos(angle)
            turn[:, i, j] = torch.sin(angle)
            turn[:, j, i] = -turn[:, i, j]
            turns.append(turn)
        return reduce(torch.matmul, turns)

    def _change_greys(self, image: Tensor, draw: Draw, images: int) -> Tensor:
        spec = self.spec
        if not (spec.gamma or spec.contrast or spec.brightness or spec.noise):
            return image
        if spec.gamma:
            exponent = (1 + draw.uniform(spec.gamma)).clamp(min=0.05)
            share = (image + 1) / 2
            # The slope of a power at 0 is infinite, and images may have gradients.
            image = torch.where(share > 0, share.clamp(min=DARKEST).pow(_per_sample(exponent, image)), 0) * 2 - 1
        if spec.contrast:
            mean = image.mean(dim=tuple(range(1, image.dim())), keepdim=True)
            image = (image - mean) * _per_sample(1 + draw.uniform(spec.contrast), image) + mean
        if spec.brightness:
            image = image + _per_sample(draw.uniform(spec.brightness), image)
        if spec.noise:
            noise = draw.normal(image.shape[1] // images, *image.shape[2:]) * spec.noise
            image = image + noise.repeat(1, images, *(1,) * (image.dim() - 2))
        return image.clamp(-1, 1)

    def _hidden(self, image: Tensor, draw: Draw) -> Tensor:
        """With a rectangle of each sample, the same in all its channels, at their mean."""
        if not self.spec.hide:
            return image
        hidden = torch.ones_like(image[:, :1], dtype=torch.bool)
        for axis in range(2, image.dim()):
            length, middle = (self.spec.hide * draw.unit(), draw.unit())
            begin = middle * (1 - length)  # all of it is in the image
            place = (torch.arange(image.shape[axis], device=image.device) + 0.5) / image.shape[axis]
            inside = (place > begin[:, None]) & (place < (begin + length)[:, None])
            hidden &= inside.reshape(len(image), *(-1 if one == axis else 1 for one in range(1, image.dim())))
        return torch.where(hidden, image.mean(dim=tuple(range(2, image.dim())), keepdim=True), image)


def _in_units(share: Tensor, lengths: Sequence[int], i: int, j: int) -> Tensor:
    """What axis ``i`` gets of a step along axis ``j``, where each is 2 units long, whatever its pixels."""
    # One and the same number, rounded as it always was: a seed gives what it gave.
    return share / (lengths[i] / lengths[j]) if i < j else share * (lengths[j] / lengths[i])


def _per_sample(values: Tensor, image: Tensor) -> Tensor:
    """Numbers (B,) with an axis of length 1 for every other one of ``image`` (B, C, *size)."""
    return values.reshape(-1, *(1,) * (image.dim() - 1))
