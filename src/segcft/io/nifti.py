"""Reading one file of NIfTI-1 or NIfTI-2 that holds a single image: its pixels as they are seen, and how they lie."""

from __future__ import annotations

import gzip
import io
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.io.extent import extent_of
from segcft.io.reject import Rejected, reading
from segcft.io.source import Source, check_size
from segcft.io.turn import AS_STORED
from segcft.utils.extra import extra

NIFTI = (".nii", ".nii.gz")

Axes = Literal["header", "xy", "yx"]
"""How the axes of an array are to be understood: see :func:`read_nifti`."""

# Units of a header in mm. Where it names none, they are mm by custom.
_MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}

MOST_BYTES = 1 << 28
"""Of an uncompressed file that holds one image; a compressed one that is longer is not read on."""


def is_nifti(path: Source) -> bool:
    """Whether a file is called like NIfTI."""
    return path.name.lower().endswith(NIFTI)


class Placed(NamedTuple):
    """What a file says of how its image lies in the patient."""

    said: bool | None
    """Whether it says so; None for a picture (PNG, ...) and DICOM, which are seen as they are stored or meant."""
    straight: bool = True
    """The picture's columns are the stored first axis and its rows the second, as in what ITK makes of a picture."""
    measured: bool = False
    """A DICOM file's Image Orientation (Patient) says how it lies, which ITK heeds; Patient Orientation it does not."""

    def fits(self, mask: Placed) -> bool:
        """Whether it is certain how a ``mask`` lies on this image.

        It is if both files say how they lie, or neither does. A picture has axes for ITK, to the left and to the back
        or feet: it fits a mask in NIfTI that says how it lies, and it is a mask of an image in NIfTI that lies so.
        """
        if self.said == mask.said:
            return True
        return {self.said, mask.said} == {None, True} and (self.said is None or self.straight)

    def turns(self, mask: Placed, axes: Axes | None) -> bool:
        """Whether a ``mask`` in NIfTI is of the stored pixels of this image, and to be turned as these are.

        It is if ``axes`` are said, which are those of an array of the pixels; or if it lies as ITK lays a picture, and
        ITK does not know how the image lies. Else the mask's header has turned it already.
        """
        return axes in ("xy", "yx") or (mask.straight and not self.measured)


PICTURE = Placed(None)


class NiftiImage(NamedTuple):
    """One image in NIfTI."""

    values: NDArray[Any]
    """(H, W), in the file's units."""
    aspect: float
    """Height of a pixel divided by its width."""
    placed: Placed
    extent: tuple[float, float] | None
    """Height and width of the whole image in mm; None where the file does not say."""


def read_nifti(path: Source, axes: Axes | None = None) -> NiftiImage:
    """The image of a file, and what it says beside.

    By its header the array is turned as radiologists look at it: up is the patient's head (in an axial image: front),
    the patient's left is on the right of the picture; in a sagittal image the front is on the left. A header says
    nothing if both of its codes are 0, and is taken to say nothing if its affine is what programs write that know
    nothing: axes to the right, front and head from an origin of exactly 0.

    Args:
        path: the file.
        axes: how the array lies, if not as the header says: ``xy``, the first axis goes to the right of the picture and
            the second down, or ``yx``, the first goes down.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: the file cannot be read, or holds more than one image.
    """
    nibabel = extra("nibabel", path, "nifti")
    with reading(path, "NIfTI file"):
        content = _content(path)
        kind = nibabel.Nifti2Image if content[4:8] == b"n+2\0" else nibabel.Nifti1Image
        image = kind.from_bytes(content)
        shape, affine = tuple(image.shape), np.asarray(image.affine, dtype=np.float64)
        volume = (*shape, 1, 1)[:3]
        if 0 in shape or any(length != 1 for length in shape[3:]) or 1 not in volume:
            raise Rejected(f"holds {'x'.join(map(str, shape))} values, expected one image")
        check_size(shape)
        if image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize > len(content):
            raise Rejected(f"cut off: {len(content)} bytes do not hold the {math.prod(shape)} values of its header")
        values = np.asanyarray(image.dataobj).reshape(volume)
        if values.dtype.kind not in "biuf":
            raise Rejected(f"holds values of type {values.dtype}, expected grey values")
        coded = bool(image.header["qform_code"] or image.header["sform_code"])
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if axes in ("xy", "yx"):
            picture, steps, straight = _as_stored(values, spacing, axes)
        else:
            picture, steps, straight = _as_seen(values, affine, spacing)
        unit = _MILLIMETRES.get(image.header.get_xyzt_units()[0])
    said = axes is not None or (coded and not _is_blank(affine))
    extent = None
    if not all(math.isfinite(step) and step > 0 for step in steps):
        steps = (1.0, 1.0)
    elif coded and unit is not None:
        extent = extent_of((picture.shape[0], picture.shape[1]), steps, unit)
    return NiftiImage(np.ascontiguousarray(picture), steps[0] / steps[1], Placed(said, straight), extent)


def _content(path: Source) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if raw[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(raw)) as file:
            raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise Rejected(f"more than {MOST_BYTES >> 20} MiB, which is no single image")
    return raw


def _is_blank(affine: NDArray[np.float64]) -> bool:
    """Whether an affine is what a program writes that was told nothing: ``eye(4)``, perhaps with spacings."""
    axes = affine[:3, :3]
    return bool(np.array_equal(axes, np.diag(np.diag(axes))) and (np.diag(axes) > 0).all() and not affine[:3, 3].any())


def _as_stored(
    values: NDArray[Any], spacing: NDArray[np.float64], axes: Axes
) -> tuple[NDArray[Any], tuple[float, float], bool]:
    """The picture, height and width of its pixels, and whether it is the array with its axes exchanged."""
    first, second = _plane(values)
    picture = values.reshape(values.shape[first], values.shape[second])
    if axes == "xy":
        return picture.T, (float(spacing[second]), float(spacing[first])), True
    return picture, (float(spacing[first]), float(spacing[second])), False


def _as_seen(
    values: NDArray[Any], affine: NDArray[np.float64], spacing: NDArray[np.float64]
) -> tuple[NDArray[Any], tuple[float, float], bool]:
    """As :func:`_as_stored`, by an ``affine`` that leads from indices (I, J, K), one of these lengths being 1, to RAS
    coordinates in mm. Rows and columns are named as those of DICOM are, so that both agree about an oblique plane."""
    from nibabel.orientations import apply_orientation, io_orientation

    from segcft.io.orientation import letters_of, turn_of

    first, second = _plane(values)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            to_left_back_head = affine[:3, [first, second]] / spacing[[first, second]] * [[-1], [-1], [1]]
        turn = turn_of(*letters_of(to_left_back_head.T.ravel().tolist()))
    except ValueError:
        pass  # sheared, or the header does not say
    else:
        picture = turn(values.reshape(values.shape[first], values.shape[second]).T)
        down, across = (first, second) if turn.exchanged else (second, first)
        return picture, (float(spacing[down]), float(spacing[across])), turn == AS_STORED
    orientation = io_orientation(affine)
    if np.isnan(orientation).any():  # a header that does not say: as stored
        orientation = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    turned = apply_orientation(values, orientation)  # indices now rise to the right, to the front and to the head
    spacing = spacing[np.argsort(orientation[:, 0])]
    across, down = _plane(turned)
    picture = turned.reshape(turned.shape[across], turned.shape[down]).T[::-1, ::-1]
    straight = [*orientation[first], *orientation[second]] == [across, -1, down, -1]
    return picture, (float(spacing[down]), float(spacing[across])), straight


def _plane(values: NDArray[Any]) -> tuple[int, int]:
    """The two axes of ``values`` (I, J, K) in which the image lies; a third one has a length of 1."""
    through = max(axis for axis, length in enumerate(values.shape) if length == 1)
    first, second = (axis for axis in range(3) if axis != through)
    return first, second
