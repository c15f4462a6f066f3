"""What goes between page and server: questions as JSON, images as the bytes of their pixels in base64.

Pixels go as they are, not as PNG: a 128 x 128 image is 22 KB either way, there is no decoder to trust, and the page
computes differences from exactly what the model gave.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segcft.api.answer import Answer
from segcft.api.model import Model
from segcft.api.question import ImageLike, Sized
from segcft.app.limits import MOST_DRAWS
from segcft.app.refused import RefusedError
from segcft.app.upload import received
from segcft.causal.intervention import Intervention, parse_intervention
from segcft.config.study import Study
from segcft.io.outline import outlines
from segcft.io.source import MemoryFile

_MOST_NAMES = 1000

Values = Annotated[dict[str, float | str], Field(max_length=_MOST_NAMES)]


class About(BaseModel):
    """What is asked of an image, whatever is sent of it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(description="The name of a model.")
    known: Values = Field({}, description="What is known of the person: a value of a variable.")
    do: Values = Field({}, description="What variables are set to; empty: nothing.")
    method: str | None = Field(None, description="One of the model's methods; by default its last one.")
    draws: int = Field(0, ge=0, le=MOST_DRAWS, description="How many further answers to draw.")


class Asked(About):
    """A question about an image on the model's grid, as the page sends it."""

    pixels: str = Field(description="Its pixels in base64, as an upload gives them.")


class AskedOfFile(About):
    """A question about an image file, which is answered in its own pixels."""

    file: str = Field(description="The bytes of a file in base64: of all kinds that can be uploaded.")
    millimetres: list[float] | None = Field(
        None,
        description="Height and width of a pixel (of a voxel depth, too), where the file lacks them or is wrong.",
    )


T = TypeVar("T", bound=About)


def parse_question(data: bytes, kind: type[T]) -> T:
    """The question in a request's body, of a ``kind``.

    Raises:
        RefusedError: the body is not a question.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RefusedError(422, ".".join(map(str, first["loc"])) or "the question", first["msg"]) from None


def encode(pixels: NDArray[np.uint8]) -> str:
    """Pixels uint8 (C, H, W) as base64 of (H, W, C); of a volume (C, D, H, W) of (D, H, W, C)."""
    return _base64(np.moveaxis(pixels, 0, -1))


def decode(text: str, study: Study) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3) on the study's grid, voxels (D, H, W) or (C, D, H, W), from :func:`encode`.

    Raises:
        RefusedError: these are not the pixels of such an image.
    """
    size, channels = study.image.size, study.image.channels
    data = _bytes(text, "pixels")
    if len(data) != math.prod(size) * channels:
        expected = " x ".join(map(str, (*size, channels)))
        raise RefusedError(422, "pixels", f"expected {expected} bytes, not {len(data)}")
    pixels = np.frombuffer(data, np.uint8).reshape(*size, channels)
    if channels == 1:
        return pixels[..., 0]
    return pixels if len(size) == 2 else np.moveaxis(pixels, -1, 0)


def parse_lengths(text: str) -> list[float] | None:
    """The lengths of a pixel in mm from ``"0.7,0.7"``; None of nothing.

    Raises:
        RefusedError: it has something else than numbers.
    """
    try:
        return [float(length) for length in text.split(",")] if text else None
    except ValueError:
        raise RefusedError(422, "millimetres", f"expected numbers with commas between, not {text!r}") from None


def sized(file: MemoryFile, lengths: Sequence[float] | None) -> ImageLike:
    """A file, of which ``lengths`` of a pixel in mm may be said.

    Raises:
        DataError: they are no two or three lengths.
    """
    return file if lengths is None else Sized(file, tuple(lengths))


def ask(model: Model, asked: Asked) -> Answer:
    """The answer to a question.

    Raises:
        RefusedError: its pixels are not on the model's grid, or the model has no such method.
        SegcftError: its variables or values are wrong.
    """
    pixels, grid = decode(asked.pixels, model.study), model.study.image
    # They lie on the study's grid, so its pixels are theirs.
    return _answer(model, asked, Sized(pixels, grid.spacing) if grid.fit == "physical" and grid.spacing else pixels)


def ask_of_file(model: Model, asked: AskedOfFile) -> tuple[Answer, ImageLike]:
    """The answer to a question about a file, and the file, in which it is to be shown.

    Raises:
        RefusedError: the file is not base64, or the model has no such method.
        SegcftError: it cannot be read, or variables or values are wrong.
    """
    image = sized(received(_bytes(asked.file, "file")), asked.millimetres)
    return _answer(model, asked, image), image


def _answer(model: Model, asked: About, image: ImageLike) -> Answer:
    if asked.method not in (None, *model.methods):  # the model's own message names its folder
        raise RefusedError(422, "method", f"expected {' or '.join(model.methods)}, not {asked.method!r}")
    # In text of Python's and the command line's, "match:PATH" reads a file: the page has no business with those here.
    known, do = (_interventions(values, model.study) for values in (asked.known, asked.do))
    (answer,) = model.answer([model.question(image, known, do)], asked.method, asked.draws)
    return answer


def _interventions(values: dict[str, float | str], study: Study) -> list[Intervention]:
    """Values as the page sends them, ``{"age": 63, "sex": "F"}``."""
    return [
        parse_intervention(
            f"{name}={value}" if isinstance(value, str) else str(Intervention(name, value)), study.variables
        )
        for name, value in values.items()
    ]


def encode_answer(answer: Answer, study: Study) -> dict[str, Any]:
    """An answer as the page shows it."""
    show, shown = (_packed, "masks") if answer.is_volume else (_lines, "outlines")
    return {
        "image": encode(answer.image),
        shown: {
            name: {"before": show(before), "after": show(after)}
            for name, before, after in zip(study.masked, answer.masks_before, answer.masks_after, strict=True)
        },
        "draws": [encode(draw) for draw in answer.draws],
        "spread": _largest(answer.spread),
        "band": _largest(answer.band),
        "record": answer.record,
    }


def encode_full(answer: Answer, image: ImageLike) -> dict[str, Any]:
    """An answer in the pixels of its own ``image``, which the page's server was sent; of nothing asked no pixels.

    Raises:
        DataError: see :meth:`segcft.api.answer.Answer.full_resolution`.
    """
    full = answer.full_resolution(image) if answer.record["do"] else None
    return {
        "size": None if full is None else list(full.shape[1:]),
        "image": None if full is None else encode(full),
        "record": answer.record,
    }


def _lines(mask: NDArray[np.bool_]) -> list[list[float]]:
    """The outlines of a mask (H, W), each x0, y0, x1, y1, ..."""
    return [np.round(line, 2).ravel().tolist() for line in outlines(mask)]


def _bytes(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(422, field, "not base64") from None


def _packed(mask: NDArray[np.bool_]) -> str:
    """A mask (D, H, W), eight voxels in a byte, the first one the highest bit."""
    return _base64(np.packbits(mask))


def _largest(levels: NDArray[np.float32] | None) -> str | None:
    """The largest over channels of (C, H, W), or of a volume (C, D, H, W), float32, least significant byte first."""
    return None if levels is None else _base64(levels.max(axis=0).astype("<f4"))


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
