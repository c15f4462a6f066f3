"""In which coordinates a file has its points, and how these become millimetres in LPS, those of DICOM."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.io.reject import Rejected

FLIP = np.array([-1.0, -1.0, 1.0])
"""From RAS coordinates (right, anterior, superior) to LPS (left, posterior, superior), and back."""

SPACES = {"LPS": np.ones(3), "RAS": FLIP}
"""Of patients; what the coordinates are multiplied by to be LPS."""

UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
"""In mm."""

_SAID = re.compile(r"\b(?:SPACE|CoordinateSystem)\s*=\s*(\w+)", re.IGNORECASE)


class Frame(NamedTuple):
    """In which coordinates a file has its points."""

    space: str = ""
    """One of :data:`SPACES`; "": as the file says."""
    unit: str = "mm"
    """One of :data:`UNITS`."""

    def __str__(self) -> str:
        return " ".join(filter(None, self))

    @property
    def vector(self) -> NDArray[np.float64]:
        """(3,), what coordinates are multiplied by to be mm in LPS."""
        return SPACES[self.space] * UNITS[self.unit]

    def of_file(self, said: str, ras: bool) -> Frame:
        """The frame of a file that says of itself what ``said`` is, or nothing; ``ras``: it is RAS in that case.

        What the user says comes first, since programs that change coordinates may leave the header as it was.

        Raises:
            Rejected: only the file says it, and says something unknown.
        """
        space = self.space or said.upper() or ("RAS" if ras else "LPS")
        if space not in SPACES:
            raise Rejected(f"it says SPACE={said}, expected {' or '.join(SPACES)}; say in the table what is meant")
        return self._replace(space=space)


AS_SAID = Frame()
"""As the file says, in mm."""

FRAMES = tuple(Frame(space, unit) for unit in UNITS for space in SPACES)
"""All there are."""


def parse_frame(text: str) -> Frame:
    """Coordinates as a user writes them: ``RAS``, ``cm``, ``RAS cm``; nothing: as the file says, in mm.

    Raises:
        ValueError: it is none of these.
    """
    words = text.split()
    space = words.pop(0).upper() if words and words[0].upper() in SPACES else ""
    unit = words.pop(0).lower() if words and words[0].lower() in UNITS else "mm"
    if words:
        raise ValueError(f"{text!r}, expected {' or '.join(SPACES)}, {', '.join(UNITS)}, or both, e.g. 'RAS cm'")
    return Frame(space, unit)


def said_in(text: str) -> str:
    """The space that a header or comment names as 3D Slicer does, ``SPACE=RAS``; "" of one that does not."""
    found = _SAID.search(text)
    return found[1] if found else ""
