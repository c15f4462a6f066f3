"""Finding the files of a sample and reading its image; whatever is wrong is a :class:`~segcft.io.reject.Rejected`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.config.structure import Mask
from segcft.io.dicomhead import is_dicom_file
from segcft.io.extent import extent_of
from segcft.io.greys import PERCENTILES, narrow_range, shades
from segcft.io.lie import Lie
from segcft.io.nifti import NIFTI, PICTURE, Axes, Placed, is_nifti, read_nifti
from segcft.io.picture import Pixels, largest, read_picture
from segcft.io.reject import Rejected, Remark, about
from segcft.io.similar import similar_file
from segcft.io.source import Source
from segcft.io.turn import AS_STORED, Turn

LOSSLESS = (".png", ".tif", ".tiff", ".bmp", *NIFTI)
DICOM = (".dcm", ".dicom")
SUFFIXES = (*LOSSLESS, ".jpg", ".jpeg", *DICOM)
"""Of the files that are read as images."""


def find_file(folder: Path, id: str, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """The file of the sample ``id`` in ``folder``: named ``id`` itself, or ``id`` and one of ``suffixes``.

    An ``id`` that ends in the suffix of an image may stand for a file with another of ``suffixes``. A DICOM file may be
    called ``id`` itself, with any suffix or none, if ``suffixes`` are also of DICOM files.

    Raises:
        Rejected: there is none or more than one, or ``id`` leads out of the folder.
    """
    check_id(id)
    if id.lower().endswith(suffixes) and (folder / id).is_file():
        return folder / id
    stem = strip_suffix(id)
    found: list[Path] = []
    # A DICOM file beside an image of another kind is what that was made from.
    for base, kinds in itertools.product((id, stem), (set(suffixes) - set(DICOM), set(suffixes) & set(DICOM))):
        names = [f"{base}{cased}" for suffix in suffixes if suffix in kinds for cased in (suffix, suffix.upper())]
        found = found or [folder / name for name in names if (folder / name).is_file()]
    if not found and set(suffixes) & set(DICOM) and (folder / id).is_file() and is_dicom(folder / id):
        return folder / id
    if not found:
        near = similar_file(folder / id)
        raise Rejected(f"{folder / stem}: file missing (looked for {', '.join(suffixes)}){near}")
    if not all(path.samefile(found[0]) for path in found):  # one file has two names where case is ignored
        raise Rejected(f"{folder / stem}: several files: {', '.join(path.name for path in found)}")
    return found[0]


def strip_suffix(id: str) -> str:
    """``id`` without the suffix of an image file, if it has one."""
    suffix = next((suffix for suffix in SUFFIXES if id.lower().endswith(suffix)), "")
    return id.removesuffix(id[len(id) - len(suffix) :])


def check_id(id: str) -> None:
    """Raise :class:`Rejected` unless ``id``, as a file name, stays below the folder it is looked for in."""
    windows = PureWindowsPath(id)
    if not id.isprintable() or windows.anchor or ".." in windows.parts or PurePosixPath(id).is_absolute():
        raise Rejected(f"id {id!r} is not a plain file name below the folder")


class ImageFile(NamedTuple):
    """What an image file shows and says."""

    grey: NDArray[np.float64]
    """(C, H, W) in [0, 1], of a volume (C, D, H, W)."""
    aspect: float
    """Height of a pixel divided by its width: as a DICOM or NIfTI header says, else 1."""
    person: Mapping[str, float | str | None]
    """Of a DICOM file: see :func:`segcft.io.dicom.person`."""
    remarks: tuple[Remark, ...] = ()
    """Remarks on the file."""
    placed: Placed = PICTURE
    """What the file says of how it lies, which its mask has to fit."""
    turn: Turn = AS_STORED
    """How the pixels of a DICOM file were turned to be looked at; a mask of the stored ones has to be turned alike."""
    extent: tuple[float, ...] | None = None
    """Height and width of the image, or depth, height and width of the volume, in mm, as a DICOM or NIfTI header
    says."""
    lie: Lie | None = None
    """How a volume lies in the patient."""

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels (H, W), or voxels (D, H, W)."""
        return self.grey.shape[1:]

    @property
    def millimetres(self) -> tuple[float, ...] | None:
        """Height and width of a pixel, or depth, height and width of a voxel, in mm, by :attr:`extent`."""
        return self.extent and tuple(length / count for length, count in zip(self.extent, self.size, strict=True))


def read_image(
    path: Source,
    channels: int,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
    axes: Axes | None = None,
) -> ImageFile:
    """Grey values of an image file, and what its header says.

    Args:
        path: PNG, TIFF, JPEG or BMP; grey, palette or RGB, 8 or 16 bit; transparency is dropped. Or DICOM, see
            :func:`segcft.io.dicom.shown`, and of 3 channels :func:`segcft.io.dicom.shown_in_colour`. Or NIfTI, see
            :func:`segcft.io.nifti.read_nifti`; of other types than 8 or 16 bits without a sign, percentiles become 0
            and 1, as in DICOM files that do not say.
        channels: 1 (colour becomes luma) or 3 (grey is repeated).
        grey_range: values in the file that become 0 and 1; default: the whole range of the file's type, or what a
            DICOM file says itself.
        window: percentiles of the image that become 0 and 1, instead of fixed values.
        axes: of arrays in NIfTI; default: as their headers say.

    Raises:
        Rejected: the file is not there, cannot be read, has no range of its own, or shows one single value.
    """
    if isinstance(path, Path) and not path.exists():
        raise Rejected(f"{path}: there is no such file")
    if is_dicom(path):
        from segcft.io import dicom, dicomcolour
        from segcft.io.dicomfile import open_dicom

        dataset = open_dicom(path)
        coloured = channels == 3 and dicomcolour.is_coloured(dataset)
        picture = (dicom.shown_in_colour if coloured else dicom.shown)(path, dataset, grey_range, window)
        grey = picture.grey.astype(np.float64)
        grey = grey if coloured else np.repeat(grey[None], channels, axis=0)
        said, spacing = dicom.person(dataset), dicom.spacing_of(dataset)
        extent = extent_of((dataset.Rows, dataset.Columns), spacing) if spacing else None
        extent = extent[::-1] if extent and picture.turn.exchanged else extent
        placed = Placed(None, measured=picture.measured)
        return ImageFile(grey, picture.aspect, said, picture.remarks, placed, picture.turn, extent)
    with about(path):
        if is_nifti(path):
            return _read_nifti(path, channels, grey_range, window, axes)
        pixels = read_picture(path)
        remarks = (*pixels.remarks, *(one.at(path) for one in narrow_range(pixels, grey_range, window)))
        return ImageFile(shades(pixels, channels, grey_range, window), 1.0, {}, remarks)


def _read_nifti(
    path: Source,
    channels: int,
    grey_range: tuple[float, float] | None,
    window: tuple[float, float] | None,
    axes: Axes | None,
) -> ImageFile:
    image = read_nifti(path, axes)
    if grey_range is None and image.values.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        window = window or PERCENTILES
    pixels = Pixels(image.values, largest(image.values))
    remarks = []
    if not image.placed.said:
        text = (
            f"{path}: its header does not say how it lies in the patient; it is taken as its axes are, which may be "
            "upside down or mirrored (data.nifti_axes: header, xy or yx)"
        )
        remarks.append(Remark("unknown orientation", text))
    grey = shades(pixels, channels, grey_range, window)
    return ImageFile(grey, image.aspect, {}, tuple(remarks), placed=image.placed, extent=image.extent)


def is_dicom(path: Source) -> bool:
    """Whether a file is to be read as DICOM: it is called so, or begins so, whatever it is called."""
    if path.suffix.lower() in DICOM:
        return True
    try:
        with path.open("rb") as file:
            return is_dicom_file(file)
    except (OSError, ValueError):  # ValueError: no path can be called so
        return False  # who reads it will say why


def find_mask(folder: Path, id: str, name: str, structure: Mask) -> Path:
    """The file in ``folder`` that shows the structure ``name`` of the sample ``id``.

    Raises:
        Rejected: it is missing, there are several, or ``id`` leads out of the folder.
    """
    if structure.file is None:
        return find_file(folder, id, LOSSLESS)
    return find_named(folder, id, structure.file, f" (mask of {name})")


def called(pattern: str) -> re.Pattern[str]:
    """What places match that are called as ``pattern`` says, by the group ``id``; in all of them it is the same."""
    first, *others = map(re.escape, pattern.split("{id}"))
    return re.compile("(?P<id>.+)".join([first, "(?P=id)".join(others)]))


def find_named(folder: Path, id: str, pattern: str, what: str = "") -> Path:
    """The file of the sample ``id`` in ``folder``, or the series of a volume, where all are called as ``pattern`` says.

    Raises:
        Rejected: it is missing, or ``id`` leads out of the folder.
    """
    check_id(id)
    path = folder / pattern.replace("{id}", strip_suffix(id))
    if not path.exists() and not pattern.lower().endswith(SUFFIXES):  # which is left open
        return find_file(folder, pattern.replace("{id}", strip_suffix(id)))
    if not path.exists():
        raise Rejected(f"{path}: file missing{what}{similar_file(path)}")
    return path
