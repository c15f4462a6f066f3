"""Zones: what of a structure lies in a part of the frame, or of the structure itself."""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.config.structure import Zone
from segcft.grid import Grid
from segcft.measures.border import QUANTILE, position
from segcft.measures.measure import sharpened

AXES = {"x": -1, "y": -2, "z": -3}
"""The axes of the image, counted from the end."""

TRACE = 1e-12
"""Everywhere, of the mask whose ends are looked for: those of a mask that is empty are then those of the frame."""


def inside(masks: Tensor, grid: Grid, zone: Zone) -> Tensor:
    r"""Masks (..., *size) of which only a zone is left, (..., *size).

    Of element i along the axis the share :math:`[\min(i + 1, e) - \max(i, b)]_0^1` is kept, with b and e where the zone
    begins and ends, in elements: of an element on the edge a part. Edges of a structure's own zones lie between its
    borders (:data:`segcft.measures.border.QUANTILE`) and move with it; its first and last zone reach to the frame's
    edge, so that all zones together are the whole.
    """
    axis = AXES[zone.axis]
    count = grid.size[axis]
    places = torch.arange(count, device=masks.device, dtype=masks.dtype)
    begin, end = (torch.as_tensor(share * count, dtype=masks.dtype) for share in (zone.begin, zone.end))
    if zone.of == "structure":
        sharp = sharpened(masks) + TRACE
        first, last = (position(sharp, grid, axis, q)[..., None] / grid.pitch[axis] for q in (QUANTILE, 1 - QUANTILE))
        begin = first + zone.begin * (last - first) if zone.begin > 0 else begin
        end = first + zone.end * (last - first) if zone.end < 1 else end
    kept = (torch.minimum(places + 1, end) - torch.maximum(places, begin)).clamp(0, 1)  # (..., count)
    shape = [*kept.shape[:-1], *(count if other == axis else 1 for other in grid.axes)]
    return masks * kept.reshape(shape)
