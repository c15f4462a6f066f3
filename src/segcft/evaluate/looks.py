"""How images look, in numbers: features whose distributions can be compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segcft.readers.reader import MaskReader

FEWEST = 8
"""Pixels of a structure of which there is a texture."""


def deepest(reader: nn.Module, images: Tensor) -> Tensor:
    """Features (B, D) of images (B, C, *size) in [-1, 1]: what the convolutions of ``reader`` give where the fewest
    pixels are left, averaged over these. Of several such convolutions it is the last; of none there are no features."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not found or output[0, 0].numel() <= found[0][0, 0].numel():
            found[:] = [output]

    convolutions = [module for module in reader.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    hooks = [module.register_forward_hook(keep) for module in convolutions]
    try:
        reader(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0].flatten(2).mean(dim=2) if found else images.new_zeros(len(images), 0)


def radiomic(reader: MaskReader, images: Tensor) -> Tensor:
    """Features (B, 5 (1 + S)) of images (B, C, *size) in [-1, 1]: of the frame and of each structure, as ``reader``
    sees it, the mean, standard deviation and skewness of its grey levels, and how steep (gradient) and how rough
    (Laplacian) it is on average. Of a structure of fewer than :data:`FEWEST` pixels they are NaN."""
    grey = images.mean(dim=1)
    axes = tuple(range(1, grey.dim()))
    slopes = torch.gradient(grey, dim=axes)
    steep = torch.stack([one.square() for one in slopes]).sum(dim=0).sqrt()
    rough = (
        torch.stack([torch.gradient(one, dim=axis)[0] for one, axis in zip(slopes, axes, strict=True)]).sum(dim=0).abs()
    )
    parts = torch.cat([torch.ones_like(grey[:, None]), (reader.masks(images) > 0.5).to(grey)], dim=1)
    return torch.cat([_texture(grey, steep, rough, part) for part in parts.unbind(1)], dim=1)


def _texture(grey: Tensor, steep: Tensor, rough: Tensor, part: Tensor) -> Tensor:
    """The five features (B, 5) within a mask (B, *size)."""
    inside = part.flatten(1)
    size = inside.sum(dim=1)

    def mean(x: Tensor) -> Tensor:
        return (x.flatten(1) * inside).sum(dim=1) / size

    middle = mean(grey)
    apart = grey - middle.view(-1, *[1] * (grey.dim() - 1))
    spread = mean(apart.square()).sqrt()
    skew = mean(apart**3) / spread.clamp(min=1e-6) ** 3
    found = torch.stack([middle, spread, skew, mean(steep), mean(rough)], dim=1)
    return torch.where(size[:, None] >= FEWEST, found, torch.nan)
