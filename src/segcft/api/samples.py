"""Subjects and images that a model makes up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segcft.api import arguments
from segcft.io.provenance import png_bytes
from segcft.io.rendering import to_html
from segcft.utils.atomic import write_bytes, write_text
from segcft.utils.output import check

TABLE = "attributes.csv"
"""The file by which their folder is known."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Subjects drawn from a model, with their images."""

    images: NDArray[np.uint8]
    """(N, C, H, W)."""
    attributes: pd.DataFrame
    """A row a subject and a column a variable."""
    record: dict[str, Any]
    """The model that they are from, and how they were drawn."""

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Samples of {self.record['study']!r}\n{self.attributes}"

    def save(self, folder: str | Path) -> None:
        """Write ``1.png`` and so on, which say that they are synthetic, and ``attributes.csv``.

        Raises:
            DataError: the folder holds other things.
        """
        folder = arguments.place("folder", folder)
        check(folder, (), TABLE, "samples are written to a folder")
        names = [f"{number}.png" for number in range(1, len(self) + 1)]
        table = self.attributes.assign(image=names)
        # First: by it the folder is known again.
        write_text(folder / TABLE, table.to_csv(index=False, float_format="%.6g"))
        for name, pixels in zip(names, self.images, strict=True):
            write_bytes(folder / name, png_bytes(pixels, self.record))

    def sheet(self) -> NDArray[np.uint8]:
        """All of them in a sheet about as high as wide, uint8 (C, H, W)."""
        _, channels, height, width = self.images.shape
        columns = min(len(self), max(1, round(math.sqrt(len(self) * height / width))))
        rows = math.ceil(len(self) / columns)
        sheet = np.full((rows * columns, channels, height, width), 255, dtype=np.uint8)
        sheet[: len(self)] = self.images
        grid = sheet.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
        return grid.reshape(channels, rows * height, columns * width)

    def _repr_html_(self) -> str:
        """The sheet in a notebook."""
        table = self.attributes.round(1).astype(str)
        rows = [tuple(table.columns), *table.itertuples(index=False, name=None)]
        label = f"{len(self)} samples of {self.record['study']}"
        return to_html([(label, png_bytes(self.sheet(), self.record))], True, rows, [])
