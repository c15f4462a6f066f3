"""Where an image is read from: a file on disk, or one that is in memory, as a web page receives it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

from segcft.io.reject import Rejected

MOST_PIXELS = 32_000_000
"""Of an image that is read; the largest mammograms have 28 million. A small file can say that it has any number."""


@dataclass(frozen=True)
class MemoryFile:
    """A file that is not on disk. It is opened, and called in messages, as a :class:`~pathlib.Path` is.

    Args:
        name: what it is called; its suffix says of which kind it is.
        content: its bytes.
        title: what messages call it, where its name says nothing to who reads them.
    """

    name: str
    content: bytes
    title: str = ""

    @property
    def suffix(self) -> str:
        return PurePath(self.name).suffix

    def open(self, mode: str = "rb") -> IO[Any]:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.title or self.name

    def __repr__(self) -> str:
        return f"MemoryFile({self.name!r}, {len(self.content)} bytes)"


Source = Path | MemoryFile


def check_size(shape: Iterable[int]) -> None:
    """Check how large an image will be before it is unpacked.

    Raises:
        Rejected: it has more than :data:`MOST_PIXELS`.
    """
    lengths = tuple(shape)
    if math.prod(max(length, 1) for length in lengths) > MOST_PIXELS:
        found = " x ".join(map(str, lengths))
        raise Rejected(f"has more than the {MOST_PIXELS // 10**6} million pixels that are read ({found})")
