"""What the images of a folder are: pictures or volumes, how many channels, how large, and of which grey values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segcft.drafting.layout import Layout
from segcft.errors import Code, DataError
from segcft.io.dicomcolour import is_coloured
from segcft.io.dicomfile import open_dicom
from segcft.io.imagefile import is_dicom, read_image
from segcft.io.nifti import is_nifti
from segcft.io.reject import Rejected, reading
from segcft.io.scan import read_array
from segcft.io.volumefile import opened_nifti

MULTIPLE = 8
"""Of which the sides of a grid of volumes are: networks halve them three times."""
MOST_VOXELS = 96**3
"""Of a grid: 2 CPU cores take seconds for a step of fine-tuning at that (docs/volumes.md)."""
USED = 0.5
"""Share of the range of a file's type that values use, below which black and white are to be where they are."""


class Facts(NamedTuple):
    """What the images are."""

    volumes: bool
    channels: int
    sizes: tuple[tuple[int, ...], ...]
    """Of those that were looked at: (H, W) or (D, H, W)."""
    spacings: tuple[tuple[float, ...], ...]
    """Of volumes, mm along each axis."""
    window: bool
    """Whether files use little of their types' ranges, or not alike, so that percentiles are to be black and white."""
    unread: tuple[str, ...]
    """Why images were not read."""

    @property
    def words(self) -> str:
        """Their kind and sizes."""
        sizes = Counter(self.sizes)
        usual = " x ".join(map(str, sizes.most_common(1)[0][0]))
        kind = "volumes" if self.volumes else "images"
        colour = f" of {self.channels} channels" if self.channels > 1 else ""
        many = "" if len(sizes) == 1 else f" and {len(sizes) - 1} other sizes"
        return f"{kind}{colour}, {usual} {'voxels' if self.volumes else 'pixels'}{many}"

    @property
    def grid(self) -> dict[str, Any]:
        """The keys of a study's ``image`` that no plan gives: of volumes a grid that holds the largest of them."""
        if not self.volumes:
            return {"channels": self.channels} if self.channels > 1 else {}
        spacing = np.median(self.spacings, axis=0)
        extents = np.max(np.array(self.sizes) * np.array(self.spacings), axis=0)
        edge = float(np.min(spacing))
        if np.prod(extents) / edge**3 > MOST_VOXELS:
            edge = float(np.prod(extents) / MOST_VOXELS) ** (1 / 3)
        edge = math.ceil(edge * 100) / 100
        size = [MULTIPLE * math.ceil(round(float(extent) / edge, 6) / MULTIPLE) for extent in extents]
        grid = {"size": size, "field_of_view": [round(count * edge, 2) for count in size], "length_unit": "mm"}
        return grid | {"fit": "physical"} | ({"channels": self.channels} if self.channels > 1 else {})


class _Look(NamedTuple):
    """What is seen of one image."""

    size: tuple[int, ...]
    channels: int
    spacing: tuple[float, ...] = ()
    narrow: bool = False
    """A picture whose values use little of its type's range."""
    whole: bool = False
    """A volume of bytes, whose range is black and white where percentiles are of other types."""


def look_at(data: Path, layout: Layout, ids: Sequence[str]) -> Facts:
    """Look at the images of some samples.

    Raises:
        DataError: none can be read.
    """
    looks, unread = list[_Look](), list[str]()
    volumes = "" in layout.images.suffixes or _is_volume(layout.images.path(data, ids[0]))
    for id in ids:
        path = layout.images.path(data, id)
        if path.exists():  # a few may have another suffix
            try:
                looks.append(_volume(path) if volumes else _picture(path))
            except Rejected as reason:
                unread.append(str(reason))
    if not looks:
        raise DataError(Code.UNREADABLE, data / layout.images.folder, unread[0] if unread else "no image can be read")
    channels = Counter(look.channels for look in looks).most_common(1)[0][0]
    mixed = len({look.whole for look in looks}) > 1
    sizes, spacings = tuple(look.size for look in looks), tuple(look.spacing for look in looks)
    return Facts(volumes, channels, sizes, spacings, mixed or any(look.narrow for look in looks), tuple(unread))


def _volume(path: Path) -> _Look:
    channels = _channels(path)
    values, lie, _ = read_array(path, channels)
    return _Look(values.shape[:3], channels, lie.spacing, whole=values.dtype == np.uint8)


def _picture(path: Path) -> _Look:
    grey = read_image(path, 3).grey
    dicom = is_dicom(path)
    coloured = dicom and is_coloured(open_dicom(path, pixels=False))
    channels = 3 if coloured or (grey != grey[:1]).any() else 1
    says = not coloured and (dicom or is_nifti(path))  # what is black and white, or else percentiles are
    return _Look(grey.shape[1:], channels, narrow=not says and float(grey.max()) < USED)


def _is_volume(path: Path) -> bool:
    """Whether a file is of a volume: three axes longer than 1."""
    return is_nifti(path) and sum(length > 1 for length in _shape(path)[:3]) == 3


def _channels(path: Path) -> int:
    """The fourth axis of a volume."""
    shape = _shape(path) if is_nifti(path) else ()
    return shape[3] if len(shape) > 3 else 1


def _shape(path: Path) -> tuple[int, ...]:
    with reading(path, "NIfTI file"), opened_nifti(path) as image:
        return tuple(map(int, image.shape))
