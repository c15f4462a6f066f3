"""What simulators offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Simulator(Protocol):
    """What a simulator offers. All about a subject follows from one number.

    ``structures`` are in the order of the masks; the area of one is the variable ``<structure>_area``, or what its
    ``quantity`` says, "volume" in volumes. Images have ``channels``: 1, or 3 of colour.
    """

    variables: tuple[str, ...]
    structures: tuple[str, ...]
    quantity: str
    channels: int

    def attributes(self, person: int, do: Mapping[str, float | str] | None = None) -> dict[str, float | str]:
        """Every variable of the subject, with those in ``do`` set from outside."""

    def render(self, person: int, attributes: Mapping[str, float | str]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image, of the grid's size, in colour (3, *size), and each structure's coverage (S, *size): 255 where all
        of a pixel is in."""


@runtime_checkable
class Stretching(Simulator, Protocol):
    """A simulator that can draw structures taller or lower at the same area, so that other measures of them can be set
    too. Without being asked to, it draws them as follows from their areas."""

    stretches: tuple[str, ...]

    def render(
        self, person: int, attributes: Mapping[str, float | str], stretch: Mapping[str, float] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As of every simulator; structures of ``stretch`` are so many times as tall."""

    def cover(
        self, person: int, attributes: Mapping[str, float | str], structure: str, stretch: float
    ) -> NDArray[np.uint8]:
        """The coverage (H, W) of one structure alone."""


@runtime_checkable
class Zoned(Simulator, Protocol):
    """A simulator that can draw structures wider in a part of the image, so that their areas there can be set too."""

    zoned: tuple[str, ...]

    def render(
        self, person: int, attributes: Mapping[str, float | str], zones: Mapping[tuple[float, float], float] = ...
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As of every simulator; ``zones`` are areas from one share of the image's width to another."""
