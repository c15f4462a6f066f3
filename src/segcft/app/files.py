"""An answer as a file to download, made in memory."""

from __future__ import annotations

import json
from collections.abc import Callable

from segcft.api.answer import Answer
from segcft.api.question import ImageLike
from segcft.api.saving import full_volume, volume_bytes
from segcft.app.refused import RefusedError
from segcft.io.provenance import dicom_bytes

MEDIA = {
    "png": "image/png",
    "dcm": "application/dicom",
    "nii.gz": "application/octet-stream",
    "json": "application/json",
}
"""Suffix of a file -> its media type."""
FORMATS = {2: ("png", "dcm", "json"), 3: ("png", "nii.gz", "json")}
"""Suffixes of the files of an image, and of a volume, by the number of axes."""
WHOLE = {"png": 2, "dcm": 2, "nii.gz": 3}
"""Suffix of a file in the pixels of the user's own -> of images, or of volumes, by the number of axes."""


def as_file(answer: Answer, format: str) -> bytes:
    """The counterfactual, marked as synthetic, or its record. Of a volume a picture has three planes.

    Raises:
        RefusedError: there is no such file of it.
    """
    formats = FORMATS[answer.image.ndim - 1]
    if format not in formats:
        raise RefusedError(422, "format", f"expected {', '.join(formats)}, not {format!r}")
    write: dict[str, Callable[[], bytes]] = {
        "png": lambda: answer.png(answer.image),
        "nii.gz": lambda: volume_bytes(answer, answer.image),
        "dcm": lambda: dicom_bytes(answer.image, answer.provenance, answer.spacing),
        "json": lambda: json.dumps(answer.provenance, indent=1, allow_nan=False, ensure_ascii=False).encode(),
    }
    return write[format]()


def as_full(answer: Answer, image: ImageLike, format: str) -> bytes:
    """The counterfactual in the pixels of its own ``image``, marked as synthetic; of a volume in its file's units.

    Raises:
        RefusedError: there is no such file of it.
        DataError: see :meth:`segcft.api.answer.Answer.full_resolution`.
    """
    axes = answer.image.ndim - 1
    if WHOLE[format] != axes:
        expected = ", ".join(suffix for suffix, of in WHOLE.items() if of == axes)
        raise RefusedError(422, "format", f"expected {expected}, not {format!r}")
    if answer.is_volume:
        return full_volume(answer, image)
    pixels, spacing = answer.full(image)
    return answer.png(pixels) if format == "png" else dicom_bytes(pixels, answer.provenance, spacing)
