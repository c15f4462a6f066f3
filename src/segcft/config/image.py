"""The pixel grid of a study, and how images come to it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from segcft.config.section import Section


class Image(Section):
    """Pixel grid of the study and its physical extent.

    ``fit`` says how an image of another shape comes to the grid: it is filled up (``pad``), cut (``crop``), stretched
    (``stretch``), or shown as large as it is (``physical``): then every pixel of every image has one size in mm.

    ``size`` is (height, width) in pixels, or (depth, height, width) in voxels. With ``field_of_view`` (each axis, in
    ``length_unit``) areas are in the square of ``length_unit`` and volumes in its cube, whatever the grid; without it
    they count elements of the grid.
    """

    LATER = frozenset({"fit"})

    size: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
    channels: PositiveInt = 1
    field_of_view: tuple[PositiveFloat, ...] | None = None
    length_unit: str = "px"
    fit: Literal["pad", "crop", "stretch", "physical"] = "pad"

    @model_validator(mode="after")
    def _same_axes(self) -> Image:
        if self.fit == "physical" and self.spacing is None:
            raise ValueError("fit: images are as large as they are in a 'field_of_view' in mm ('length_unit')")
        if self.field_of_view is not None and len(self.field_of_view) != len(self.size):
            raise ValueError(f"'field_of_view' has {len(self.field_of_view)} axes, and 'size' {len(self.size)}")
        return self

    @property
    def is_volume(self) -> bool:
        """Whether it has three axes."""
        return len(self.size) == 3

    @property
    def words(self) -> str:
        """Its size in words: ``128 x 128 pixels``, ``40 x 56 x 32 voxels``."""
        return f"{' x '.join(map(str, self.size))} {'voxels' if self.is_volume else 'pixels'}"

    @property
    def cell_size(self) -> float:
        """Area of one pixel, or volume of one voxel, in :attr:`cell_unit`."""
        if self.field_of_view is None:
            return 1.0
        return math.prod(self.field_of_view) / math.prod(self.size)

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Size of an element along each axis in mm, if the length unit is that."""
        if self.field_of_view is None or self.length_unit != "mm":
            return None
        return tuple(extent / count for extent, count in zip(self.field_of_view, self.size, strict=True))

    @property
    def cell_unit(self) -> str:
        """Elements of the grid, or the square or cube of ``length_unit``."""
        power = {2: "\N{SUPERSCRIPT TWO}", 3: "\N{SUPERSCRIPT THREE}"}[len(self.size)]
        return "px" if self.field_of_view is None else f"{self.length_unit}{power}"
