"""Where an image is read from: a file on disk, or one that is in memory, as a web page receives it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any


@dataclass(frozen=True)
class MemoryFile:
    """A file that is not on disk. It is opened, and called in messages, as a :class:`~pathlib.Path` is.

    Args:
        name: what it is called; its suffix says of which kind it is.
        content: its bytes.
    """

    name: str
    content: bytes

    @property
    def suffix(self) -> str:
        return PurePath(self.name).suffix

    def open(self, mode: str = "rb") -> IO[Any]:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"MemoryFile({self.name!r}, {len(self.content)} bytes)"


Source = Path | MemoryFile
