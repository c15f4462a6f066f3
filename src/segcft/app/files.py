"""An answer as a file to download, made in memory."""

from __future__ import annotations

import json
from collections.abc import Callable

from segcft.api.answer import Answer
from segcft.io.provenance import dicom_bytes, png_bytes

FORMATS = {"png": "image/png", "dcm": "application/dicom", "json": "application/json"}
"""Suffix of a file -> its media type."""


def as_file(answer: Answer, format: str) -> bytes:
    """The counterfactual, marked as synthetic, or its record."""
    write: dict[str, Callable[[], bytes]] = {
        "png": lambda: png_bytes(answer.image, answer.provenance),
        "dcm": lambda: dicom_bytes(answer.image, answer.provenance, answer.spacing),
        "json": lambda: json.dumps(answer.provenance, indent=1, allow_nan=False, ensure_ascii=False).encode(),
    }
    return write[format]()
