"""Reading one image or mask file; whatever is wrong with it is a :class:`~segcft.data.reject.Rejected`."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segcft.data.near import near_file
from segcft.data.nifti import NIFTI, is_nifti, read_nifti
from segcft.data.reject import Rejected, Remark
from segcft.data.source import MOST_PIXELS, Source, check_size
from segcft.study import Structure

LOSSLESS = (".png", ".tif", ".tiff", ".bmp", *NIFTI)
DICOM = (".dcm", ".dicom")
SUFFIXES = (*LOSSLESS, ".jpg", ".jpeg", *DICOM)

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601: red, green, blue

PICTURES = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
"""Pillow's kinds of files that are read. It knows others, some of which run programs."""

# Pillow's modes whose pixels are used as they are; the others are converted to grey or colour first.
_NATIVE = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "F", "RGB"})


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
        near = near_file(folder / id)
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


class Seen(NamedTuple):
    """What an image file shows and says, read once."""

    grey: NDArray[np.float64]
    """(C, H, W) in [0, 1]."""
    aspect: float
    """Height of a pixel divided by its width: as a DICOM or NIfTI header says, else 1."""
    person: Mapping[str, float | str | None]
    """Of a DICOM file: see :func:`segcft.data.dicom.person`."""
    remarks: tuple[Remark, ...] = ()
    """What is to be told of the file though it is read."""


def see_image(
    path: Source,
    channels: int,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> Seen:
    """Grey values of an image file, and what its header says.

    Args:
        path: PNG, TIFF, JPEG or BMP; grey, palette or RGB, 8 or 16 bit; transparency is dropped. Or DICOM, see
            :func:`segcft.data.dicom.shown`. Or NIfTI, see :func:`segcft.data.nifti.read_nifti`; of other types than
            8 or 16 bits without a sign, percentiles become 0 and 1, as in DICOM files that do not say.
        channels: 1 (colour becomes luma) or 3 (grey is repeated).
        grey_range: values in the file that become 0 and 1; default: the whole range of the file's type, or what a
            DICOM file says itself.
        window: percentiles of the image that become 0 and 1, instead of fixed values.

    Raises:
        Rejected: the file is not there, cannot be read, has no range of its own, or shows one single value.
    """
    if isinstance(path, Path) and not path.exists():
        raise Rejected(f"{path}: there is no such file")
    if is_dicom(path):
        from segcft.data import dicom

        dataset = dicom.open_dicom(path)
        grey = dicom.shown(path, dataset, grey_range, window)[None].astype(np.float64)
        return Seen(np.repeat(grey, channels, axis=0), dicom.aspect(dataset), dicom.person(dataset))
    pixels, aspect = read_nifti(path) if is_nifti(path) else (read_pixels(path), 1.0)
    if is_nifti(path) and grey_range is None and pixels.dtype not in (np.uint8, np.uint16):
        from segcft.data.convert import PERCENTILES

        window = window or PERCENTILES
    return Seen(grey_values(pixels, str(path), channels, grey_range, window), aspect, {})


def read_image(
    path: Source,
    channels: int,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """The grey values of :func:`see_image` alone, (C, H, W) in [0, 1]."""
    return see_image(path, channels, grey_range, window).grey


def grey_values(
    pixels: NDArray[Any],
    name: str,
    channels: int,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Pixels (H, W) or (H, W, 3) of any number type as float (channels, H, W) in [0, 1]; ``name`` is for errors.

    See :func:`see_image` for the rest.
    """
    values = np.moveaxis(np.atleast_3d(pixels).astype(np.float64), -1, 0)
    if not np.isfinite(values).all():
        raise Rejected(f"{name}: holds values that are not finite numbers")
    if values.min() == values.max():
        raise Rejected(f"{name}: constant image (every pixel is {values.flat[0]:g})")
    if channels == 1 and len(values) == 3:
        values = np.tensordot(LUMA, values, axes=1)[None]
    elif channels == 3 and len(values) == 1:
        values = np.repeat(values, 3, axis=0)
    if window is not None:
        low, high = (float(limit) for limit in np.percentile(values, window))
    else:
        low, high = grey_range or (0.0, _full_value(name, pixels))
    shown = np.clip((values - low) / (high - low), 0, 1) if low < high else np.zeros_like(values)
    if shown.min() == shown.max():
        raise Rejected(f"{name}: constant image between the grey values {low:g} and {high:g} that are shown")
    return shown


def is_dicom(path: Source) -> bool:
    """Whether a file is to be read as DICOM: it is called so, or begins so, whatever it is called."""
    if path.suffix.lower() in DICOM:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):  # ValueError: no path can be called so
        return False  # who reads it will say why


def read_masks(
    folder: Path, id: str, structures: Mapping[str, Structure], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Coverage in [0, 1] of each structure at the resolution of its file: (S, H, W).

    Structures with a ``bit`` or a ``label`` share one file a sample. Those with a ``file`` have their own: of
    at most two values (0 is outside), or of grey coverage up to the type's full value.

    Raises:
        Rejected: a file is missing, cannot be read, or is not of ``size`` (H, W), that of the image.
    """
    files: dict[Path, NDArray[Any]] = {}
    masks = []
    for name, structure in structures.items():
        path = find_mask(folder, id, name, structure)
        if path not in files:
            files[path] = _read_mask(path, size)
        pixels = files[path]
        if structure.bit is not None:
            masks.append(pixels.astype(np.int64) & structure.bit != 0)
        elif structure.label is not None:
            masks.append(pixels == structure.label)
        else:
            masks.append(_coverage(path, name, pixels))
    return np.stack(masks).astype(np.float64)


def find_mask(folder: Path, id: str, name: str, structure: Structure) -> Path:
    """The file in ``folder`` that shows the structure ``name`` of the sample ``id``.

    Raises:
        Rejected: it is missing, there are several, or ``id`` leads out of the folder.
    """
    if structure.file is None:
        return find_file(folder, id, LOSSLESS)
    check_id(id)
    path = folder / structure.file.replace("{id}", strip_suffix(id))
    if not path.is_file():
        raise Rejected(f"{path}: file missing (mask of {name}){near_file(path)}")
    return path


def read_pixels(path: Source, labels: bool = False) -> NDArray[Any]:
    """Pixels of an image file as they are: (H, W), or (H, W, 3) in colour.

    Args:
        path: the file.
        labels: keep a palette's indices, not its colours.

    Raises:
        Rejected: the file cannot be read or holds several images.
    """
    if is_nifti(path):
        return read_nifti(path)[0]
    try:
        with path.open("rb") as opened, open_picture(path, opened) as file:
            frames = getattr(file, "n_frames", 1)
            if frames > 1:
                raise Rejected(f"{path}: holds {frames} images, not one")
            if labels and file.mode in ("P", "PA"):
                pixels = np.asarray(file.getchannel(0) if file.mode == "PA" else file)
            else:
                pixels = native(file)
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise Rejected(
            f"{path}: cannot read this image: damaged, or none of {', '.join(PICTURES)}, DICOM, NIfTI"
        ) from None
    except Exception as error:  # Pillow's readers raise almost anything over a broken file
        raise Rejected(f"{path}: cannot read this image ({error})") from None
    return pixels


def native(picture: Image.Image) -> NDArray[Any]:
    """Pixels of a Pillow image: (H, W), or (H, W, 3) in colour; a palette becomes colours, transparency is dropped."""
    if picture.mode in _NATIVE:
        return np.asarray(picture)
    return np.asarray(picture.convert("L" if picture.mode in ("LA", "La") else "RGB"))


def open_picture(path: Source, opened: IO[bytes]) -> Image.Image:
    """The file ``opened`` as Pillow opens it, without its pixels.

    Args:
        path: of the file, for messages.
        opened: the file.

    Raises:
        Rejected: it has too many pixels. Whatever else is wrong, Pillow says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is a stricter one
        try:
            file = Image.open(opened, formats=PICTURES)
        except Image.DecompressionBombError:
            raise Rejected(f"{path}: has more than the {MOST_PIXELS // 10**6} million pixels that are read") from None
    check_size(path, file.size)
    return file


def _full_value(name: str, pixels: NDArray[Any]) -> float:
    """The largest value of the type that ``pixels`` had in their file."""
    if pixels.dtype == bool:
        return 1
    if pixels.dtype == np.uint8:
        return 255
    # Pillow reads some 16-bit files as int32.
    if np.issubdtype(pixels.dtype, np.integer) and pixels.min() >= 0 and pixels.max() <= 65535:
        return 65535
    raise Rejected(f"{name}: {pixels.dtype} values have no range of their own; set data.grey_range or data.window")


def read_labels(path: Source) -> NDArray[Any]:
    """The values (H, W) of a mask file: labels or bit flags.

    Raises:
        Rejected: the file cannot be read, or is in colour.
    """
    pixels = read_pixels(path, labels=True)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise Rejected(f"{path}: a mask has one value a pixel, this is a colour image")
        pixels = pixels[..., 0]
    return pixels


def _read_mask(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    pixels = read_labels(path)
    if pixels.shape != size:
        found, wanted = (f"{width}x{height}" for height, width in (pixels.shape, size))
        raise Rejected(f"{path}: the mask has {found} pixels, its image {wanted}")
    return pixels


def _coverage(path: Path, name: str, pixels: NDArray[Any]) -> NDArray[np.float64]:
    levels = np.unique(pixels)
    if len(levels) <= 2:
        return (pixels != 0).astype(np.float64)
    full = _full_value(str(path), pixels)
    if levels[-1] < full / 2:
        raise Rejected(
            f"{path}: {len(levels)} values up to {levels[-1]}; a mask of {name} alone has two values, "
            f"or grey coverage up to {full:g}"
        )
    return pixels.astype(np.float64) / full
