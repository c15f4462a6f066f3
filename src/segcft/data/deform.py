"""Local deformations: one structure of an image becomes larger or smaller, and what is far from it stays.

They are interventions whose outcome is known: the image is the same subject's, and its measures are read from the
deformed masks. An image mechanism that learns from them listens to its parents before any guide asks it to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segcft.config.section import LocalDeformation
from segcft.data.draw import Draw
from segcft.grid import Grid

SMALLEST = 4
"""A structure with less coverage than so many elements is left as it is: it has no shape to scale."""

REACH = (0.5, 1.2)
"""How far beyond a structure its surroundings move along, in its own semi-axes: the range that is drawn from."""

STEEPEST, FALL = 1.5, 0.6875
"""The weight falls by at most 3/2 / reach, the field of a strain s along an axis by less than s (11/16 + 3/2 / reach).
-11/16 is the least of 1 - 9 t^2 + 8 t^3 over the fall, at t = 3/4. With a reach of at least 3/2 s / (1 - 11/16 s) that
is less than 1, and nothing folds, whatever the strains along other axes."""

OWN_SHARE = 0.5
"""The share of the spread by which each axis is scaled by itself."""


class LocalDeformer:
    r"""Scales one structure of each sample, drawn at random, along its principal axes.

    A structure has the middle c and the semi-axes of the ellipsoid with its second moments. The pixel p is read at

    .. math:: p + w(\rho) \sum_i (1 / k_i - 1) \langle p - c, v_i \rangle v_i,

    where :math:`\rho` is the distance from c in semi-axes (of what grows, those after it), w falls smoothly from
    1 within the ellipsoid to 0 at ``1 + reach``, and :math:`k_i` is the factor along the axis :math:`v_i`.

    Args:
        spec: how many samples, and how much.
    """

    def __init__(self, spec: LocalDeformation) -> None:
        self.spec = spec

    @torch.no_grad()
    def __call__(
        self, image: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, *size), masks (B, S, *size) of coverage in 0..1 and whether each sample was deformed, (B,).

        Samples that were not are returned as they are. Random numbers are those of the ``generator``, which are drawn
        on its device, else torch's global ones.
        """
        grid, samples = Grid.like(image), len(image)
        draw = Draw(image, generator).unit
        which = (draw() * mask.shape[1]).long().clamp(max=mask.shape[1] - 1)
        chosen = mask[torch.arange(samples, device=mask.device), which]
        deformed = (draw() < self.spec.share) & (chosen.flatten(1).sum(1) >= SMALLEST)
        places = grid.places(image)
        pixel = 2 / max(grid.size)  # places are in halves of the frame
        field = self._field(chosen.flatten(1), places.flatten(2), pixel, draw).reshape(samples, *places.shape[1:])
        here = grid.over_space(deformed[:, None])
        moved = places + torch.where(here, field, 0)
        return (
            torch.where(here, grid.sample(image, moved), image),
            torch.where(here, grid.sample(mask, moved), mask),
            deformed,
        )

    def _field(self, coverage: Tensor, places: Tensor, pixel: float, draw: Callable[..., Tensor]) -> Tensor:
        """The displacements (B, axes, N) of ``places`` (1, axes, N) that scale structures of a ``coverage`` (B, N)."""
        axes = places.shape[1]
        weight = coverage / coverage.sum(dim=1, keepdim=True).clamp(min=SMALLEST)
        from_middle = places - torch.einsum("bn,zan->ba", weight, places)[..., None]
        moments = torch.einsum("bn,ban,bcn->bac", weight, from_middle, from_middle)
        thinnest = pixel**2 / 12 * torch.eye(axes, device=places.device)  # a line of pixels is one pixel thick
        variance, vectors = torch.linalg.eigh(moments + thinnest)
        semi_axes = ((axes + 2) * variance).sqrt()[..., None]
        along = torch.einsum("bac,ban->bcn", vectors, from_middle)
        strain = self._strain(axes, draw)
        reach = REACH[0] + (REACH[1] - REACH[0]) * draw(1, 1)
        largest = strain.amax(dim=1, keepdim=True).clamp(min=0)
        reach = torch.maximum(reach, STEEPEST * largest / (1 - FALL * largest))
        border = semi_axes * (1 / (1 + strain)).clamp(min=1)  # all that the structure is after a growth
        beyond = ((along / border).square().sum(dim=1, keepdim=True).sqrt() - 1) / reach
        fall = beyond.clamp(0, 1)
        fading = 1 - fall.square() * (3 - 2 * fall)
        return torch.einsum("bac,bcn->ban", vectors, strain * along) * fading

    def _strain(self, axes: int, draw: Callable[..., Tensor]) -> Tensor:
        """1 / k - 1 for factors k drawn for all axes together and for each by itself, (B, axes, 1)."""

        def spread(count: int) -> Tensor:
            return (2 * draw(count, 1) - 1) * self.spec.spread

        return torch.exp(-spread(1) - OWN_SHARE * spread(axes)) - 1
