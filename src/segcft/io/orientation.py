"""How a stored image is turned to be looked at: the patient's left on the right, head or front up.

Directions are named as in DICOM's Patient Orientation (PS3.3, section C.7.6.1.1.1): L and R to the patient's left
and right, A and P to the front (anterior) and back, H and F to head and feet.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from segcft.io.reject import Excluded, Remark
from segcft.io.turn import AS_STORED, Turn

SEEN = "LPF"
"""The directions to which pixels follow one another in an image that is seen as usual: columns from the patient's right
to the left, or from front to back beside the direction to the feet; rows to the feet, or from front to back."""

_OPPOSITE = dict(zip("LPFRAH", "RAHLPF", strict=True))
_AXES = {letter: axis for axis, letters in enumerate(("LR", "PA", "FH")) for letter in letters}
_VECTORS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}

_PLANES = {"PA": "LF", "AP": "LF", "LATERAL": "PF", "LL": "PF", "RL": "PF"}
"""Projection -> the directions of :data:`SEEN` that its image has."""

RIGHT_ANGLE = 0.02
"""How far the cosine of the angle between rows and columns may be from 0, and the length of a direction from 1."""

AGREES = 0.3
"""Least cosine between a direction and its first letter, since an oblique one may be named after its second axis."""


def turn_of(across: str, down: str) -> Turn:
    """What makes an image one that is seen as usual.

    Args:
        across: direction, one letter, to which the pixels of a row follow one another.
        down: that of a column, along another axis.
    """
    exchanged = _AXES[across] > _AXES[down]  # what leads to the feet, or else to the back, leads down
    across, down = (down, across) if exchanged else (across, down)
    return Turn(exchanged, down not in SEEN, across not in SEEN)


def letters_of(cosines: Sequence[float]) -> tuple[str, str]:
    """The directions of rows and of columns that six direction cosines are nearest to, in two axes.

    Args:
        cosines: as in Image Orientation (Patient), to the left, the back and the head: those of a row, and of a column.

    Raises:
        ValueError: they are not two unit vectors at a right angle.
    """
    vectors = np.asarray(cosines, dtype=np.float64).reshape(2, 3)
    if not np.allclose(vectors @ vectors.T, np.eye(2), atol=RIGHT_ANGLE):  # neither if they are not finite
        raise ValueError("no pair of unit vectors at a right angle")
    row, column = vectors
    one, two = max(itertools.permutations(range(3), 2), key=lambda pair: abs(row[pair[0]]) + abs(column[pair[1]]))
    return "LPH"[one] if row[one] > 0 else "RAF"[one], "LPH"[two] if column[two] > 0 else "RAF"[two]


def turn_to_see(header: Any, view: str | None, remarks: list[Remark]) -> Turn:
    """How the image of a DICOM file is turned, by its Patient Orientation and its Image Orientation (Patient).

    Args:
        header: its elements.
        view: its projection, see :func:`segcft.io.dicom.view`.
        remarks: gets remarks: that it is turned, or that a header is not understood and it is not.

    Returns:
        As stored where the header does not say, as most radiographs' does not, and of mammograms, which are looked at
        with the chest wall on the side that they are stored with: a craniocaudal one is not seen as an axial slice is.

    Raises:
        Excluded: both elements are there and contradict each other.
    """
    if header.get("Modality") == "MG":
        return AS_STORED
    named, measured = _named(header, remarks), _measured(header, remarks)
    if named and measured:
        _check_agreement(named, measured, header)
    directions = measured or named
    if directions is None:
        return AS_STORED
    said = _text(directions)
    plane = {letter if letter in SEEN else _OPPOSITE[letter] for letter in directions}
    if view in _PLANES and plane != set(_PLANES[view]):
        text = (
            f"its view is {view}, but rows and columns run to {said}, which is another plane: taken as "
            "stored; correct PatientOrientation or ViewPosition"
        )
        remarks.append(Remark("orientation does not fit the view", text))
        return AS_STORED
    turn = turn_of(*directions)
    if turn != AS_STORED:
        text = (
            f"rows and columns run to {said} by its header: {turn} to be seen as usual, and a mask of its "
            "stored pixels with it"
        )
        remarks.append(Remark("turned", text))
    return turn


def _named(header: Any, remarks: list[Remark]) -> tuple[str, str] | None:
    """First letters of Patient Orientation, None where there is none or it is not understood."""
    value = header.get("PatientOrientation")
    values = [value] if isinstance(value, str) or value is None else list(value)
    texts = [str(text or "").strip().upper() for text in values]
    if not any(texts):
        return None
    # At most one letter of each axis; those of animals (LE, CR, ...) have others. The first counts.
    plain = len(texts) == 2 and all(
        re.fullmatch("[LRAPHF]{1,3}", text) and len({_AXES[letter] for letter in text}) == len(text) for text in texts
    )
    if not plain or _AXES[texts[0][0]] == _AXES[texts[1][0]]:
        remarks.append(_not_understood("PatientOrientation", _text(texts), "two directions like L\\F"))
        return None
    return texts[0][0], texts[1][0]


def is_measured(header: Any) -> bool:
    """Whether Image Orientation (Patient) is there and understood."""
    return _measured(header, []) is not None


def _measured(header: Any, remarks: list[Remark]) -> tuple[str, str] | None:
    """:func:`letters_of` Image Orientation (Patient), None where there is none or it is not understood."""
    value = header.get("ImageOrientationPatient")
    if not value:
        return None
    try:
        return letters_of([float(number) for number in value])
    except (TypeError, ValueError):
        expected = "two unit vectors at a right angle"
        remarks.append(_not_understood("ImageOrientationPatient", str(value), expected))
        return None


def _text(directions: Sequence[str]) -> str:
    return "\\".join(directions)


def _not_understood(name: str, found: str, expected: str) -> Remark:
    kind = "orientation not understood"
    return Remark(kind, f"{name} is {found}, expected {expected}: it is not heeded; correct it")


def _check_agreement(named: tuple[str, str], measured: tuple[str, str], header: Any) -> None:
    """Raise unless both elements lead to the same picture, or name an oblique plane each in its way."""
    vectors = np.asarray(header.get("ImageOrientationPatient"), dtype=np.float64).reshape(2, 3)
    cosines = [float(np.dot(vector, _VECTORS[letter])) for vector, letter in zip(vectors, named, strict=True)]
    if turn_of(*named) != turn_of(*measured) and min(cosines) < AGREES:
        why = (
            f"PatientOrientation says that rows and columns run to {_text(named)}, ImageOrientationPatient "
            f"to {_text(measured)}: remove the one that is wrong"
        )
        raise Excluded("orientation contradicts itself", why)
