"""Reading one DICOM file: its grey values as they are meant to be seen, and what the header says of the patient.

Of DICOM's objects those are read that are a single grey image, like a radiograph (CR, DX) or a slice. Whatever is
wrong with a file is an :class:`~segcft.io.reject.Excluded`, which names its kind.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset

from segcft.config.variable import OLDEST
from segcft.io.dicomcolour import decode_colours
from segcft.io.dicomfile import reading_dicom
from segcft.io.dicompixels import decode
from segcft.io.greys import PERCENTILES, shades
from segcft.io.orientation import is_measured, turn_to_see
from segcft.io.reject import Excluded, Remark, about
from segcft.io.source import Source
from segcft.io.turn import Turn
from segcft.io.voi import as_file_says, is_inverted, modality_values, remark_on_polarity

NO_BIRTH = ("19000101", "18991230", "18991231")
"""Dates of birth that stand for none: where the calendars of spreadsheets and databases begin."""

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_VIEWS = {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP", "LATERAL": "LATERAL", "LEFTLATERAL": "LL"}
_VIEWS |= {"RIGHTLATERAL": "RL"}

MOST_ASPECT = 10.0
"""Pixels of a radiograph are about square; of a shape beyond this the header is wrong."""


class Shown(NamedTuple):
    """What :func:`shown` answers."""

    grey: NDArray[np.float32]
    """(H, W) in [0, 1], air dark, turned to be looked at; (3, H, W) in colour."""
    aspect: float
    """Height of a pixel divided by its width, as it is turned."""
    turn: Turn
    """How the stored pixels were turned."""
    remarks: tuple[Remark, ...]
    """Remarks on the file."""
    measured: bool
    """Image Orientation (Patient) says how it lies, and not Patient Orientation alone."""


def shown(
    path: Source,
    dataset: FileDataset,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> Shown:
    """The image of ``dataset`` as it is meant to be seen.

    Stored values become the modality's (slope and intercept, or a table). Of these the first VOI table or window of
    the file says what is black and white, else :data:`PERCENTILES`. MONOCHROME1 and an inverse presentation are turned
    round. Padding is black and counts in no percentile. At last the patient's left comes to the right and the head up,
    see :func:`segcft.io.orientation.turn_to_see`.

    Args:
        path: of the file, for messages.
        dataset: from :func:`open_dicom`.
        grey_range: values of the modality that become black and white, instead of the file's own window.
        window: percentiles of the image that do.

    Raises:
        Excluded: it is not one grey image of 8 to 16 bits, cannot be decoded, is cut off, shows one single value, is of
            raw detector values, or contradicts itself in how it lies or in the shape of its pixels.
    """
    remarks: list[Remark] = []
    with reading_dicom(path):
        stored, padding = decode(dataset, remarks)
        turn = turn_to_see(dataset, view(dataset), remarks)
        inside = slice(None) if padding is None else ~padding
        values = modality_values(dataset, stored)
        seen = values[inside]
        if seen.size == 0 or seen.min() == seen.max():
            raise Excluded("constant image", "constant image")
        own = as_file_says(dataset, values, remarks) if grey_range is None and window is None else None
        if own is None:
            own = _linear(values, *(grey_range or np.percentile(seen, window or PERCENTILES)))
        grey = np.clip(1 - own if is_inverted(dataset, remarks) else own, 0, 1).astype(np.float32)
        if padding is not None:
            grey[padding] = 0
        if grey[inside].min() == grey[inside].max():
            raise Excluded("constant image", "constant image between the grey values that are shown")
        remark_on_polarity(dataset, stored[inside], grey[inside], remarks)
        named = tuple(remark.at(path) for remark in remarks)
        return Shown(np.ascontiguousarray(turn(grey)), turn.aspect(aspect(dataset)), turn, named, is_measured(dataset))


def shown_in_colour(
    path: Source,
    dataset: FileDataset,
    value_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> Shown:
    """The image of ``dataset``, which :func:`segcft.io.dicomcolour.is_coloured`. Arguments and what is raised are those
    of :func:`shown`; without a range or a window colours have that of the file's bits."""
    remarks: list[Remark] = []
    with reading_dicom(path):
        pixels = decode_colours(dataset, remarks)
        with about(path, "constant image"):
            colours = shades(pixels, 3, value_range, window).astype(np.float32)
        turn = turn_to_see(dataset, view(dataset), remarks)
        named = tuple(remark.at(path) for remark in remarks)
        return Shown(
            np.ascontiguousarray(turn(colours)), turn.aspect(aspect(dataset)), turn, named, is_measured(dataset)
        )


def aspect(dataset: Dataset) -> float:
    """Height of a pixel divided by its width; 1 where the header does not say.

    Raises:
        Excluded: it is more than :data:`MOST_ASPECT`, or less than 1 of that: such an image would be a line.
    """
    spacing = spacing_of(dataset) or dataset.get("PixelAspectRatio")
    try:
        height, width = (float(number) for number in spacing or ())
    except (TypeError, ValueError):
        return 1.0
    if not height > 0 or not width > 0:
        return 1.0
    if not 1 / MOST_ASPECT <= height / width <= MOST_ASPECT:
        raise Excluded("implausible pixel shape", f"pixels of {height:g} x {width:g} (height x width) cannot be")
    return height / width


def field_of_view(dataset: Dataset) -> tuple[float, float] | None:
    """Height and width of the image in mm, in the detector's plane where nothing better is known."""
    spacing = spacing_of(dataset)
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if spacing is None or not isinstance(rows, int) or not isinstance(columns, int):
        return None
    return rows * spacing[0], columns * spacing[1]


def person(dataset: Dataset) -> dict[str, float | str | None]:
    """Age in years and sex, F or M, where the header says them.

    The age is the Patient's Age, else the one between birth and study. An age of 0, as ``000Y``, is what many files say
    where nobody knows it, so it is believed of whom the dates say that they were less than a year old.
    """
    sex = str(dataset.get("PatientSex") or "").strip().upper()
    dates = (str(dataset.get(name) or "") for name in ("StudyDate", "SeriesDate", "AcquisitionDate"))
    day = next((text for text in dates if text), "")
    born = str(dataset.get("PatientBirthDate") or "")
    age = parse_age(str(dataset.get("PatientAge") or "")) or age_between(born, day)
    return {"age": age, "sex": sex if sex in ("F", "M") else None}


def view(dataset: Dataset) -> str | None:
    """Projection, e.g. ``PA`` or ``AP``, in capitals; spelt-out ones become their abbreviation."""
    codes = dataset.get("ViewCodeSequence") or [Dataset()]
    names = (view_name(str(text or "")) for text in (dataset.get("ViewPosition"), codes[0].get("CodeMeaning")))
    return next((name for name in names if name), None)


def view_name(text: str) -> str:
    """A projection as :func:`view` gives it, e.g. ``PA`` for ``Postero-anterior``; "" for nothing."""
    name = re.sub(r"[^A-Z0-9]", "", text.upper())
    return _VIEWS.get(name, name)


def parse_age(text: str) -> float | None:
    """Years that an Age String gives: ``063Y``, ``018M``, ``006W``, ``010D``; a bare number is years.

    None where it is something else or more than :data:`~segcft.config.variable.OLDEST`.
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY]?)\s*", text.upper(), re.ASCII)
    if match is None:
        return None
    age = int(match[1]) * _YEARS[match[2] or "Y"]
    return age if age <= OLDEST else None


def age_between(birth: str, day: str) -> float | None:
    """Completed years between two dates, ``19500321``; None where one is no date, the first stands for none
    (:data:`NO_BIRTH`), they are not in order, or are further apart than :data:`~segcft.config.variable.OLDEST`."""
    if birth.strip() in NO_BIRTH:
        return None
    try:
        born, seen = (date.fromisoformat(f"{t[:4]}-{t[4:6]}-{t[6:]}") for t in (birth.strip(), day.strip()))
    except ValueError:
        return None
    age = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return float(age) if 0 <= age <= OLDEST else None


def _linear(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.floating[Any]]:
    return (values - low) / (high - low) if low < high else np.zeros_like(values)


def spacing_of(dataset: Dataset) -> tuple[float, float] | None:
    """Distance in mm between rows and between columns."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            rows, columns = (float(number) for number in dataset.get(name) or ())
        except (TypeError, ValueError):
            continue
        if rows > 0 and columns > 0:
            return rows, columns
    return None
