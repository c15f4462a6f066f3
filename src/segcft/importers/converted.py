"""A sample as an importer makes it of an item, in the form that studies read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.data.splits import PARTS
from segcft.io.reject import Rejected, Remark

Value = float | int | str | None

COLUMNS = ("id", "patient", "split")
"""Of every converted table; attributes follow."""


@dataclass(frozen=True)
class Converted:
    """A sample in the form that studies read.

    Attributes:
        id: its file name without suffix, unique in the data set; may name a subfolder.
        patient: who it is of; all images of a patient are in one part.
        image: grey values, uint8 (H, W), or red, green and blue, uint8 (H, W, 3); or a volume, as the content of a
            compressed NIfTI file.
        mask: bit flags, uint8 (H, W) as the image; of a volume such a file, of labels or flags; or None.
        attributes: further columns of the table, none of them called as one of :data:`COLUMNS`; None is an empty cell.
        split: its part where the data set says so, one of :data:`~segcft.data.splits.PARTS`; None: drawn from the
            patient's id.
        large: the image at the size in which a segmenter reads it, uint8 (H', W'); not written.
        remarks: what the user should know of its file.
        files: further files that are written, by their path in the folder, in which ``{id}`` stands for the id.
    """

    id: str
    patient: str
    image: NDArray[np.uint8] | bytes
    mask: NDArray[np.uint8] | bytes | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)
    split: str | None = None
    large: NDArray[np.uint8] | None = None
    remarks: tuple[Remark, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def check(sample: object, id: str) -> None:
    """Check what was made of the item ``id``: a whole sample that can be written, or the reason why there is none.

    Raises:
        TypeError: it is neither, or of other types than those of :class:`Converted`.
        ValueError: it is another item's, or a value in it cannot be.
    """
    if isinstance(sample, Rejected):
        return
    if not isinstance(sample, Converted):
        raise TypeError(f"item {id!r} became {sample!r}; expected Converted, or Rejected with a reason")
    if sample.id != id:
        raise ValueError(f"item {id!r} became sample {sample.id!r}")
    if not isinstance(sample.patient, str):
        raise TypeError(f"{id}: patient is {sample.patient!r}; expected text")
    if sample.split and sample.split not in PARTS:
        raise ValueError(f"{id}: split is {sample.split!r}; expected one of {', '.join(PARTS)}, or None")
    if not (isinstance(sample.image, bytes) and isinstance(sample.mask, bytes | None)):
        shape = _check_pixels(f"{id}: image", sample.image, colour=True)
        own = shape if sample.mask is None else _check_pixels(f"{id}: mask", sample.mask)
        if own != shape:
            raise ValueError(f"{id}: mask is {own}; expected {shape}, as its image")
    for name, value in sample.attributes.items():
        if name in COLUMNS:
            raise ValueError(f"{id}: an attribute is called {name!r}, as a column that every table has")
        if not isinstance(plain(value), Value):
            raise TypeError(f"{id}: attribute {name!r} is {value!r}; expected a number, text or None")
    for remark in sample.remarks:
        if not isinstance(remark, Remark):
            raise TypeError(f"{id}: a remark is {remark!r}; expected a tuple of Remark")
    for name in sample.files:
        if "{id}" not in name:
            raise ValueError(f"{id}: a file is called {name!r}, without {{id}}, as that of any other sample")


def _check_pixels(field: str, pixels: object, colour: bool = False) -> tuple[int, ...]:
    """Height and width of an array of grey values, or where there may be ``colour``, of three channels."""
    expected = "uint8 (H, W)" + (" or (H, W, 3)" if colour else "")
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"{field} is {type(pixels).__name__}; expected an array, {expected}")
    if pixels.dtype != np.uint8 or (pixels.ndim != 2 and not (colour and pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"{field} is {pixels.dtype} {pixels.shape}; expected {expected}")
    return pixels.shape[:2]


def plain(value: Any) -> Any:
    """A number of NumPy as one of Python, for JSON."""
    return value.item() if isinstance(value, np.generic) else value
