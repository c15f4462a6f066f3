"""Reading the masks of one sample: bit flags, label maps, or a file a structure.

A mask's numbers are what they stand for, not how bright they look. So their rules are not those of images: values are
taken as they are stored, what is transparent is outside, and numbers that can only come from smoothing are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.config.structure import Mask
from segcft.io.imagefile import ImageFile, find_mask
from segcft.io.lie import Lie, check_lie
from segcft.io.nifti import PICTURE, Axes, Placed, is_nifti, read_nifti
from segcft.io.picture import Pixels, largest, read_picture
from segcft.io.reject import Rejected, Remark, about
from segcft.io.scan import read_array
from segcft.io.source import Source

WHOLE = 0.05
"""How far a label may be from a whole number: files store numbers scaled, which rounds them."""

BLENDED = 0.1
"""Share of a label map's borders that are ramps, above which it was smoothed. In masks of lungs, hearts and hippocampi
as experts drew them it is at most 0.06; after interpolation, or as a JPEG file, 0.15 to 0.75."""

MOST_EXACT = 2**53
"""Whole numbers from here on are not all real numbers of the computer's."""

FEWEST_BORDERS = 100
"""Pixels of a border below which nothing is said of it."""


class MaskFile(NamedTuple):
    """The numbers of one mask file."""

    values: NDArray[Any]
    """(H, W), of a volume (D, H, W), as they are stored; whole numbers that are so but for rounding are whole."""
    alpha: NDArray[np.float64] | None
    """Opacity (H, W) in [0, 1], at most 1 somewhere; None where everything is as opaque."""
    full: float | None
    """The largest number that the file's type has; 1 for real numbers in [0, 1]; None where it has none."""
    inverted: bool
    """The file says that 0 is white."""
    placed: Placed
    remarks: tuple[Remark, ...] = ()
    """Remarks on the file."""


class Masks(NamedTuple):
    """The masks of one sample."""

    coverage: NDArray[np.float64]
    """Of each structure, (S, *size) in [0, 1], at the resolution of the files."""
    remarks: tuple[Remark, ...]
    """Remarks on the files."""


def read_masks(
    folder: Path,
    id: str,
    structures: Mapping[str, Mask],
    image: ImageFile,
    axes: Axes | None = None,
    thin: bool = False,
) -> Masks:
    """How much of each pixel is inside each structure.

    Structures with a ``bit`` or a ``label`` share one file a sample. Those with nothing but a ``file`` have their own:
    of at most two values (0 is outside), or of grey coverage up to the type's full value.

    Args:
        folder: of the masks.
        id: of the sample.
        structures: by name.
        image: of the sample, as it is seen. Masks are of its stored pixels and turned as it was; one in NIfTI may say
            itself how it lies, see :meth:`segcft.io.nifti.Placed.turns`. Those of a volume say it as it does.
        axes: of arrays in NIfTI, see :func:`segcft.io.nifti.read_nifti`.
        thin: structures may be a pixel wide, so that borders do not tell whether a label map was smoothed.

    Raises:
        Rejected: a file is missing, cannot be read, is not of the image's size, lies nobody knows how on its image, or
            holds numbers that are no labels.
    """
    files: dict[Path, MaskFile] = {}
    labels: dict[Path, NDArray[np.integer[Any]]] = {}
    masks = []
    for name, structure in structures.items():
        path = find_mask(folder, id, name, structure)
        with about(path):
            if path not in files:
                files[path] = _read(path, image, axes) if image.lie is None else _read_scan(path, image.size, image.lie)
            if structure.has_own_file:
                masks.append(_coverage(name, files[path]))
                continue
            if path not in labels:  # many structures share a file, which is looked at once
                labels[path] = _labels(files[path], thin)
        if structure.bit is not None:
            masks.append(labels[path].astype(np.int64) & structure.bit != 0)
        else:
            masks.append(labels[path] == structure.label)
    remarks = (remark for file in files.values() for remark in file.remarks)
    return Masks(np.array(masks, dtype=np.float64).reshape(len(masks), *image.size), tuple(remarks))


def read_labels(path: Source, thin: bool = False) -> NDArray[np.integer[Any]]:
    """The values (H, W) of a mask file: labels or bit flags.

    Args:
        path: of the file.
        thin: see :func:`read_masks`.

    Raises:
        Rejected: the file cannot be read, is in colour, or holds numbers that are no labels.
    """
    with about(path):
        return _labels(_open(path, None), thin)


def _read(path: Path, image: ImageFile, axes: Axes | None) -> MaskFile:
    file = _open(path, axes)
    if not is_nifti(path) or image.placed.turns(file.placed, axes):
        alpha = None if file.alpha is None else image.turn(file.alpha)
        file = file._replace(values=image.turn(file.values), alpha=alpha)
    if axes is None and not image.placed.fits(file.placed):
        raise Rejected(
            "of this mask and its image only one says in its header how it lies in the patient, so how they "
            "fit is not known. Set data.nifti_axes: xy (arrays lie as in MONAI and ITK, the first axis across the "
            "picture), yx (as in NumPy and Pillow, the first axis down) or header (as headers say)"
        )
    if file.values.shape != image.size:
        found, wanted = (f"{width}x{height}" for height, width in (file.values.shape, image.size))
        raise Rejected(f"the mask has {found} pixels, its image {wanted}")
    return file


def _read_scan(path: Path, size: tuple[int, ...], lie: Lie) -> MaskFile:
    """The mask of a volume (D, H, W) that lies so."""
    stored, own, remarks = read_array(path)
    values = stored[..., 0]
    if values.shape != size:
        found, wanted = (" x ".join(map(str, shape)) for shape in (values.shape, size))
        raise Rejected(f"the mask has {found} voxels (depth x height x width), its image {wanted}")
    check_lie(own, lie, size)
    full = largest(values)
    if values.dtype.kind == "f":
        values, full = _whole(values)
    return MaskFile(values, None, full, False, PICTURE, remarks)


def _open(path: Source, axes: Axes | None) -> MaskFile:
    if is_nifti(path):
        image = read_nifti(path, axes)
        pixels, placed = Pixels(image.values, largest(image.values)), image.placed
    else:
        pixels, placed = read_picture(path, labels=True), PICTURE
    values, full, alpha = pixels.values, pixels.full, pixels.alpha
    if values.ndim == 3:
        shown = values if alpha is None else values[alpha > 0]
        if (shown != shown[..., :1]).any():
            raise Rejected("a mask has one value a pixel, this is a colour image")
        values = values[..., 0]
    if values.dtype.kind == "f":
        values, full = _whole(values)
    alpha = None if alpha is None else alpha / alpha.max()
    return MaskFile(values, alpha, full, pixels.inverted, placed, pixels.remarks)


def _whole(values: NDArray[np.floating[Any]]) -> tuple[NDArray[Any], float | None]:
    """Real numbers as whole ones if they are so but for rounding, else as they are; and their largest value."""
    if not np.isfinite(values).all():
        raise Rejected("holds values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    whole = np.rint(values)
    if max(-low, high) < MOST_EXACT and np.abs(values - whole).max() <= WHOLE:
        return whole.astype(np.int64), largest(whole.astype(np.int64))
    return values, 1.0 if low >= 0 and high <= 1 + WHOLE else None


def whole_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Labels as whole numbers, where they are but for rounding.

    Raises:
        Rejected: they are not.
    """
    found = _whole(values)[0] if values.dtype.kind == "f" else values
    if found.dtype.kind == "f":
        raise Rejected("labels are whole numbers, and this holds others")
    return found


def _labels(file: MaskFile, thin: bool = False) -> NDArray[np.integer[Any]]:
    """The numbers of a file of labels or bit flags; what is transparent is 0.

    Raises:
        Rejected: they are none, or its shapes are in the transparency alone.
    """
    if file.values.dtype.kind == "f":
        odd = file.values.flat[np.abs(file.values - np.rint(file.values)).argmax()]
        raise Rejected(
            f"labels are whole numbers below 2^53, this holds {odd:.4g}; if it was resized or smoothed, do so "
            "by nearest neighbour"
        )
    labels = file.values.astype(np.uint8) if file.values.dtype == bool else file.values
    if file.alpha is not None:
        opaque = file.alpha >= 0.5
        if not labels[opaque].any():
            raise Rejected("its shape is in its transparency, and its pixels are all 0, which is no label")
        labels = labels * opaque
    share = 0.0 if thin else blended(labels)
    if share > BLENDED:
        raise Rejected(
            f"{share:.0%} of its borders have a value between the labels: it was resized or turned with "
            "interpolation, or saved as JPEG. Make label maps by nearest neighbour and keep them in PNG; if structures "
            "are a pixel wide, set data.thin_structures"
        )
    return labels


def blended(labels: NDArray[np.integer[Any]]) -> float:
    """Share of a label map's borders that are ramps: a pixel strictly between its two neighbours; 0 to 1.

    A border of two labels is a step, and one that was interpolated a ramp. Where a narrow structure lies between two
    others it may look like a ramp, too, but not along most of all borders.

    Args:
        labels: (H, W) or (D, H, W).
    """
    steps, ramps = 0.0, 0
    for values in (np.moveaxis(labels, axis, -1) for axis in range(labels.ndim)):
        before, here, after = values[..., :-2], values[..., 1:-1], values[..., 2:]
        border = before != after
        ramp = ((before < here) & (here < after)) | ((before > here) & (here > after))
        # A step is seen from both of its sides.
        steps += int((border & ~ramp).sum()) / 2
        ramps += int(ramp.sum())
    return ramps / (steps + ramps) if steps + ramps >= FEWEST_BORDERS else 0.0


def _coverage(name: str, file: MaskFile) -> NDArray[np.float64]:
    """How much of each pixel is inside a structure that has a file of its own."""
    if file.inverted:
        raise Rejected(
            f"the file says that 0 is white (TIFF's WhiteIsZero), so which side is {name} is not clear; "
            "save it with 0 as black"
        )
    values, alpha = file.values, file.alpha
    shown = values if alpha is None else values[alpha > 0]
    levels = np.unique(shown)
    if alpha is not None and not levels.any():  # drawn in black on nothing
        return alpha
    if len(levels) <= 2:
        if alpha is None and len(levels) == 2 and levels[0] != 0:
            raise Rejected(f"holds {levels[0]:g} and {levels[1]:g}; outside of {name} a mask is 0")
        coverage = (values != 0).astype(np.float64)
    elif file.full is None or levels[-1] < file.full / 2 or levels[0] < 0:
        expected = "grey coverage" if file.full is None else f"grey coverage up to {file.full:g}"
        raise Rejected(
            f"{len(levels)} values from {levels[0]:g} to {levels[-1]:g}; a mask of {name} alone has two "
            f"values, 0 outside, or {expected}"
        )
    else:
        coverage = np.clip(values / file.full, 0, 1)
    return coverage if alpha is None else coverage * alpha
