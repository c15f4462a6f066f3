"""A question about one image: its pixels on the study's grid, what is known of the subject, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture
from torch import Tensor

from segcft.causal.intervention import Intervention, parse_intervention, unknown_variable
from segcft.config.study import Study
from segcft.data.attributes import believed, is_age
from segcft.data.extent import contradiction
from segcft.data.resize import Pixel, fit_image, pixel_of, window_of
from segcft.errors import Code, DataError, InterventionError
from segcft.io.greys import check_varied, narrow_range, scaled, shades
from segcft.io.imagefile import ImageFile
from segcft.io.lie import Lie
from segcft.io.picture import Pixels, largest, pixels_of
from segcft.io.reject import Rejected, Remark, about
from segcft.io.scan import read_seen
from segcft.io.source import MemoryFile

EDGES = (1e-4, 100.0)
"""Edges of a pixel or voxel in mm that are believed: of a cell to those of a slice."""


@dataclass(frozen=True)
class Sized:
    """An image whose file does not say, or says wrongly, how large it is.

    Args:
        image: see :data:`ImageLike`.
        millimetres: height and width of a pixel; depth, height and width of a voxel.

    Raises:
        DataError: these are no two or three lengths.
    """

    image: Any
    millimetres: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            lengths = [float(length) for length in self.millimetres]
        except (TypeError, ValueError):
            lengths = []
        if len(lengths) not in (2, 3) or not all(EDGES[0] <= length <= EDGES[1] for length in lengths):
            why = f"expected height and width of a pixel (of a voxel depth, too), {EDGES[0]:g} to {EDGES[1]:g} mm"
            raise DataError(Code.OUT_OF_RANGE, "millimetres", f"{why}, not {self.millimetres!r}")


ImageLike = str | Path | MemoryFile | NDArray[Any] | Tensor | Picture | Sized
"""A file (PNG, TIFF, JPEG, BMP, DICOM, NIfTI), or pixels: (H, W) or (H, W, 3), of a tensor (H, W) or (C, H, W); of 8 or
16 bits, or floating point in [0, 1], bfloat16 too. A volume is a NIfTI file, a folder with a DICOM series, or voxels
(D, H, W), of several channels (C, D, H, W)."""

MATCH = "match:"


@dataclass(frozen=True)
class Match:
    """As an intervention: the value of the variable in another image, ``do={"heart_area": Match("other.png")}``.

    Areas are read from it by the judge; age and sex from the header, if it is a DICOM file. In text it is
    ``match:other.png``.
    """

    image: ImageLike

    def __str__(self) -> str:
        return f"{MATCH}{name_of(self.image)}"


Amount = float | str | Match | None
Values = Mapping[str, Amount | Intervention] | Sequence[str | Intervention]
"""``{"age": 63, "heart_area": "+20%"}``, or ``["age=63", "heart_area=+20%"]``; a text alone is one of these. None and
NaN, in what is known of a subject, mean that a value is not known."""


@dataclass(frozen=True)
class Question:
    """What is asked of one image; :meth:`segcft.api.model.Model.question` makes it.

    Attributes:
        name: of the image.
        pixels: the image on the study's grid, uint8 (C, *size).
        known: what the user says of the subject, then what a header does; each variable once.
        given: the variables of ``known`` that are the user's.
        do: interventions, those by another image with its values.
        asked: the interventions as they were asked for.
        remarks: what a reader of the answer must know of the image's file.
        file: the image as it was given, if that was a file: pixels would stay in memory as long as answers do.
        lie: how the study's grid lies in the patient, of a volume whose file says it.
    """

    name: str
    pixels: NDArray[np.uint8]
    known: tuple[Intervention, ...]
    given: frozenset[str]
    do: tuple[Intervention, ...]
    asked: tuple[str, ...]
    remarks: tuple[Remark, ...] = ()
    file: ImageLike | None = None
    lie: Lie | None = None


def parse_values(study: Study, values: Values, known: bool = False) -> dict[str, Intervention | Match]:
    """Interventions, by variable, as a user writes them.

    Args:
        study: has the variables.
        values: see :data:`Values`.
        known: they say what is known of a subject. Variables that are None or NaN, as a table's missing cells are in
            pandas, are left out; a variable cannot be set to that.

    Raises:
        InterventionError: one is not understood, or a variable has two.
    """
    parts: Iterable[tuple[str | None, Amount | Intervention]]
    values = [values] if isinstance(values, str) else values
    parts = values.items() if isinstance(values, Mapping) else ((None, value) for value in values)
    parsed: dict[str, Intervention | Match] = {}
    for name, value in parts:
        if value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value)):
            if name not in study.variables:
                raise unknown_variable(str(name), study.variables)
            if not known:
                raise InterventionError(Code.INVALID, name, f"cannot be set to {value}; leave it out")
            continue
        one = _parse(study, name, value)
        variable = one[0]
        if variable in parsed:
            raise InterventionError(Code.DUPLICATE, variable, "given twice; give one value")
        parsed[variable] = one[1]
    return parsed


def _parse(study: Study, name: str | None, value: Amount | Intervention) -> tuple[str, Intervention | Match]:
    if isinstance(value, Intervention):
        return value.variable, value
    if name is None:
        text = str(value)
        name, _, amount = (part.strip() for part in text.partition("="))
    else:
        if isinstance(value, int | float | np.number) and not isinstance(value, bool):
            text = str(Intervention(name, float(value)))
        else:
            text = f"{name}={value}"
        amount = str(value).strip()
    if isinstance(value, Match) or amount.startswith(MATCH):
        if name not in study.variables:
            raise unknown_variable(name, study.variables)
        return name, value if isinstance(value, Match) else Match(amount.removeprefix(MATCH).strip())
    parsed = parse_intervention(text, study.variables)
    return parsed.variable, parsed


def header_facts(study: Study, header: Mapping[str, float | str | None]) -> list[Intervention]:
    """What a DICOM ``header`` says of the study's ``age`` (in years) and ``sex``, as facts.

    Categories of ``sex`` may be F and M or Female and Male, in any case.
    """
    facts = []
    for name, variable in study.variables.items():
        value = header.get(name)
        if isinstance(value, str):
            spelt = {"F": ("f", "female"), "M": ("m", "male")}[value]
            facts += [Intervention(name, one) for one in variable.categories if one.lower() in spelt]
        elif value is not None and is_age(name, variable):
            fits = variable.allows(value) and believed(value, name, variable)
            facts += [Intervention(name, value)] if fits else []
    return facts


def name_of(image: ImageLike) -> str:
    """What an image is called in messages and records: its file, without the folder, or what kind of object it is."""
    image = bare(image)
    if isinstance(image, str | Path):
        return Path(image).name
    return image.name if isinstance(image, MemoryFile) else type(image).__name__


def read_pixels(study: Study, image: ImageLike) -> NDArray[np.uint8]:
    """An image on the study's grid, treated like the study's own: uint8 (C, H, W). See :data:`ImageLike`.

    Raises:
        DataError: it cannot be read, is no image, or shows nothing.
    """
    return prepare_image(study, image).pixels


class PreparedImage(NamedTuple):
    """An image that a question is about, as it was read."""

    pixels: NDArray[np.uint8]
    """On the study's grid, (C, H, W); see :func:`read_pixels`."""
    facts: list[Intervention]
    """:func:`header_facts`; none where it is no DICOM file."""
    remarks: tuple[Remark, ...]
    """What a reader of the answer must know of its file."""
    lie: Lie | None
    """How the study's grid lies in the patient, of a volume whose file says it."""


def prepare_image(study: Study, image: ImageLike) -> PreparedImage:
    """Read an image, whatever it is.

    Raises:
        DataError: see :func:`read_pixels`.
    """
    with _unreadable(image):
        seen, pixel = _seen(study, image)
        with about(_field(image)):
            pixels = fit_image(seen.grey, study.image, pixel)
        lie = seen.lie
        if lie is not None and pixel.millimetres is not None:
            lie = lie.sized(pixel.millimetres).within(*window_of(seen.size, study.image, pixel), study.image.size)
        return PreparedImage(pixels, header_facts(study, seen.person), seen.remarks, lie)


def own_pixels(study: Study, image: ImageLike) -> tuple[NDArray[np.float64], Pixel]:
    """An image in its own pixels, treated like the study's own: grey values (C, H, W) in [0, 1], and their size.

    Raises:
        DataError: see :func:`read_pixels`.
    """
    with _unreadable(image):
        seen, pixel = _seen(study, image)
        return seen.grey, pixel


def _seen(study: Study, image: ImageLike) -> tuple[ImageFile, Pixel]:
    """What an image shows and says, and its pixels. Remarks name no file, as answers and their pictures hold them."""
    stated = tuple(map(float, image.millimetres)) if isinstance(image, Sized) else None
    dimensions, channels = len(study.image.size), study.image.channels
    if stated is not None and len(stated) != dimensions:
        why = f"expected {dimensions} lengths, as the study's images have axes, not {len(stated)}"
        raise DataError(Code.INVALID, "millimetres", why)
    image = bare(image)
    if not isinstance(image, str | Path | MemoryFile):
        with about("image"):
            grey, remarks = _array(image, channels) if dimensions == 2 else (_voxels(image, channels), ())
        seen = ImageFile(grey, 1.0, {}, remarks)
        return seen, pixel_of(seen, stated)
    path = Path(image) if isinstance(image, str) else image
    source = study.data.common
    seen = read_seen(path, dimensions, channels, source.grey_range, source.window, source.nifti_axes)
    pixel, found = pixel_of(seen, stated or source.stated), list(seen.remarks)
    if not source.ignore_spacing:
        found += filter(None, [contradiction(seen.size, pixel, study.image, str(path))])
    # What is told of one file of a series names it, which may be a patient's name.
    named = [Remark(one.kind, one.kind) if isinstance(path, Path) and path.is_dir() else one.of(path) for one in found]
    return seen._replace(remarks=tuple(named)), pixel


@contextmanager
def _unreadable(image: ImageLike) -> Iterator[None]:
    """What is wrong with an image becomes an error that names it."""
    try:
        yield
    except (Rejected, OSError) as error:
        field = _field(image)
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{field}: ")
        raise DataError(Code.UNREADABLE, field, reason) from None


def is_file(image: ImageLike) -> bool:
    """Whether an image is the name of a file, which can be read again."""
    return isinstance(bare(image), str | Path)


def bare(image: ImageLike) -> Any:
    """An image without what is said of its size."""
    return image.image if isinstance(image, Sized) else image


def _field(image: ImageLike) -> str:
    """What errors call an image."""
    image = bare(image)
    return str(image) if isinstance(image, str | Path | MemoryFile) else "image"


def is_one(images: object, dimensions: int = 2) -> bool:
    """Whether an array or tensor of numbers is one image or volume, or none, and not several in its rows."""
    if isinstance(images, Sized):
        return True
    if dimensions == 3:
        return isinstance(images, Tensor | np.ndarray) and images.ndim < 4
    if isinstance(images, Tensor):
        return images.ndim < 3 or images.shape[-1] in (1, 3)
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "biufc":  # the others may be names of files
        return False
    return images.ndim < 3 or (images.ndim == 3 and images.shape[-1] in (1, 3))


def _array(image: Any, channels: int) -> tuple[NDArray[np.float64], tuple[Remark, ...]]:
    """Grey values (C, H, W) in [0, 1] of pixels in any form, see :data:`ImageLike`, and remarks on them."""
    try:
        stored = pixels_of(image) if isinstance(image, Picture) else None
        if stored is not None and stored.values.dtype.kind != "f":  # real numbers have a range as in arrays
            return shades(stored, channels), (*stored.remarks, *narrow_range(stored))
        array = _pixels(image) if stored is None else stored.values
    except Rejected:
        raise
    except Exception as error:  # of PyTorch, of Pillow, or of whatever says that it can be an array
        raise DataError(Code.INVALID, "image", f"{type(image).__name__} has no pixels ({_line(error)})") from None
    if array.dtype == object:
        raise DataError(
            Code.INVALID, "image", f"expected a file, an array, a tensor or a Pillow image, not {type(image).__name__}"
        )
    shape = array.shape
    array = np.moveaxis(array, 0, -1) if isinstance(image, Tensor) and array.ndim == 3 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)) or 0 in array.shape:
        expected = "(H, W) or (C, H, W) of 1 or 3 channels" if isinstance(image, Tensor) else "(H, W) or (H, W, 3)"
        hint = "; give one image of the batch, e.g. image[0]" if len(shape) == 4 else ""
        raise DataError(Code.INVALID, "image", f"expected {expected}, not an array of shape {shape}{hint}")
    _check_numbers(array)
    unit = np.issubdtype(array.dtype, np.floating)
    pixels = Pixels(array, 1.0 if unit else largest(array))
    return shades(pixels, channels), (*(stored.remarks if stored else ()), *narrow_range(pixels))


def _voxels(image: Any, channels: int) -> NDArray[np.float64]:
    """Grey values (C, D, H, W) in [0, 1] of voxels, (D, H, W) or (C, D, H, W), in any form, see :data:`ImageLike`."""
    try:
        array = _pixels(image)
    except Exception as error:  # of PyTorch, or of whatever says that it can be an array
        raise DataError(Code.INVALID, "image", f"{type(image).__name__} has no voxels ({_line(error)})") from None
    shape = array.shape
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or len(array) != channels or 0 in array.shape:
        expected = "(D, H, W)" if channels == 1 else f"({channels}, D, H, W)"
        raise DataError(Code.INVALID, "image", f"expected {expected}, not an array of shape {shape}")
    _check_numbers(array)
    full = 1.0 if np.issubdtype(array.dtype, np.floating) else largest(array)
    check_varied(array.astype(np.float64))
    return scaled(array.astype(np.float64), full)


def _check_numbers(array: NDArray[Any]) -> None:
    """Check that numbers have a white.

    Raises:
        DataError: they have none, or go beyond it.
    """
    unit = np.issubdtype(array.dtype, np.floating)
    # Other whole numbers have no white: those of 0 to 255 would be taken for nearly black ones of 16 bits.
    if not unit and array.dtype not in (bool, np.uint8, np.uint16):
        raise DataError(
            Code.INVALID, "image", f"expected numbers of type uint8 or uint16, or floating point, not {array.dtype}"
        )
    if unit and not (array.min() >= 0 and array.max() <= 1):
        raise DataError(Code.OUT_OF_RANGE, "image", "floating-point pixels must be in [0, 1]")


def _pixels(image: Any) -> NDArray[Any]:
    """An image as an array in this machine's order of bytes."""
    if isinstance(image, Tensor):
        if image.layout != torch.strided or image.is_quantized:
            found = "quantized" if image.is_quantized else str(image.layout)
            raise TypeError(f"it is {found}; make it dense floating point")
        tensor = image.detach().cpu().resolve_conj().resolve_neg()
        # NumPy lacks bfloat16 and the types of 8 bits, all of whose values single precision has.
        lacking = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
        return np.asarray((tensor.float() if lacking else tensor).numpy())
    if isinstance(image, pd.DataFrame | pd.Series):
        raise TypeError("a table is no image; if these are pixels, give `to_numpy()` of it")
    if np.ma.is_masked(image):
        raise TypeError("some pixels are masked; fill them")
    array = np.asarray(image)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _line(error: Exception) -> str:
    """An error's message in one line, or its type."""
    return " ".join(str(error).split()) or type(error).__name__
