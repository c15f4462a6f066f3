"""What is seen of an image or a volume in a picture: the image itself, or three planes through the volume."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from segcft.grid import Grid


class Planes:
    """Of a volume the planes across its axes, through one voxel, as on a radiologist's screen: that across height at
    the upper left (coronal, of a patient), beside it that across width (sagittal), the head up in both, and below it
    that across depth (axial). So what is seen in two of them lies on one line. Elements are as large as they are. Of an
    image it is the image.

    Args:
        grid: of the images or volumes.
        masks: (S, *size); the voxel is the middle of what any of them covers, else of the frame.
    """

    def __init__(self, grid: Grid, masks: Tensor | None = None) -> None:
        self.grid = grid
        self.place: tuple[int, ...] = tuple(n // 2 for n in grid.size)
        if masks is not None and bool((covered := (masks > 0.5).any(dim=0)).any()):
            self.place = tuple(covered.nonzero().float().mean(dim=0).round().int().tolist())
        finest = min(grid.pitch)
        self.shown = tuple(round(n * pitch / finest) for n, pitch in zip(grid.size, grid.pitch, strict=True))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        if self.grid.dimensions == 2:
            return self.grid.size[0], self.grid.size[1]
        depth, height, width = self.shown
        return depth + height, width + height

    def __call__(self, maps: Tensor, corner: float = 0.0) -> Tensor:
        """(..., *size) to pictures (..., height, width); ``corner`` is where no plane is."""
        if self.grid.dimensions == 2:
            return maps
        (z, y, x), (depth, height, width) = self.place, self.shown
        picture = maps.new_full((*maps.shape[:-3], *self.size), corner)
        picture[..., :depth, :width] = _resized(maps[..., :, y, :].flip(-2), (depth, width))
        picture[..., :depth, width:] = _resized(maps[..., :, :, x].flip(-2), (depth, height))
        picture[..., depth:, :width] = _resized(maps[..., z, :, :], (height, width))
        return picture


def _resized(plane: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(plane.shape[-2:]) == size:
        return plane
    flat = plane.reshape(-1, 1, *plane.shape[-2:])
    return F.interpolate(flat, size=size, mode="bilinear").reshape(*plane.shape[:-2], *size)
