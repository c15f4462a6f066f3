"""Subjects and images that a model makes up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from segcft.api import arguments
from segcft.evaluate.planes import Planes
from segcft.grid import Grid
from segcft.io.provenance import png_bytes
from segcft.io.rendering import to_html
from segcft.io.volumeout import PICTURE, VOLUME, grid_file
from segcft.utils.atomic import write_bytes, write_text
from segcft.utils.output import check

TABLE = "attributes.csv"
"""The file by which their folder is known."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Subjects drawn from a model, with their images."""

    images: NDArray[np.uint8]
    """(N, C, *size)."""
    attributes: pd.DataFrame
    """A row a subject and a column a variable."""
    record: dict[str, Any]
    """The model that they are from, and how they were drawn."""
    spacing: tuple[float, ...] | None = None
    """Height and width of a pixel, or depth, height and width of a voxel, in mm, where the study says."""

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Samples of {self.record['study']!r}\n{self.attributes}"

    def save(self, folder: str | Path) -> None:
        """Write ``1.png`` and so on (volumes: ``1.nii.gz``), which say that they are synthetic, and ``attributes.csv``.

        Raises:
            DataError: the folder holds other things.
        """
        folder = arguments.place("folder", folder)
        check(folder, (), TABLE, "samples are written to a folder")
        suffix = VOLUME if self.images.ndim == 5 else PICTURE
        names = [f"{number}{suffix}" for number in range(1, len(self) + 1)]
        table = self.attributes.assign(image=names)
        # First: by it the folder is known again.
        write_text(folder / TABLE, table.to_csv(index=False, float_format="%.6g"))
        for name, pixels in zip(names, self.images, strict=True):
            write_bytes(folder / name, grid_file(pixels, self.spacing, self.record).content)

    def sheet(self) -> NDArray[np.uint8]:
        """All of them in a sheet about as high as wide, uint8 (C, H, W); of volumes three planes each."""
        images = self.images
        if images.ndim == 5:
            size = images.shape[2:]
            grid = Grid(size, pitch=tuple(self.spacing or (1.0,) * 3))
            planes = Planes(grid)
            first = torch.from_numpy(images[:, :1].astype(np.float32))  # the other channels are no colours
            images = planes(first).round().numpy().astype(np.uint8)
        _, channels, height, width = images.shape
        columns = min(len(self), max(1, round(math.sqrt(len(self) * height / width))))
        rows = math.ceil(len(self) / columns)
        sheet = np.full((rows * columns, channels, height, width), 255, dtype=np.uint8)
        sheet[: len(self)] = images
        laid = sheet.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
        return laid.reshape(channels, rows * height, columns * width)

    def _repr_html_(self) -> str:
        """The sheet in a notebook."""
        table = self.attributes.round(1).astype(str)
        rows = [tuple(table.columns), *table.itertuples(index=False, name=None)]
        label = f"{len(self)} samples of {self.record['study']}"
        return to_html([(label, png_bytes(self.sheet(), self.record))], True, rows, [])
