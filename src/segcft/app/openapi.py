"""The server's interface as a document that programs read: OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1.html.

It is made from the code: questions by the models that read them, formats, limits, and examples that the server answers.
``tests/test_openapi.py`` holds it to the routes, to what is answered and to what is refused.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import segcft
from segcft.app.catalogue import Catalogue
from segcft.app.files import MEDIA, WHOLE
from segcft.app.limits import BURST, MOST_UPLOADED, MOST_UPLOADS, MOST_WAITING, RATE, SECONDS_TO_SEND, most_asked
from segcft.app.payload import Asked, AskedOfFile, encode
from segcft.app.shapes import SCHEMAS, Schema
from segcft.io.volumeout import grid_file

PLACE = "/api/openapi.json"
"""Where the server has it."""

GUARD = f"""\
Questions to a model of `segcft app`. **For research only, not for clinical use.** Every image that is
answered is synthetic.

The server listens on its own machine unless it was told otherwise, and asks for no password. Who may ask:

- a request names the server (`Host`) by an address, by `localhost` or by the name that `--host` gave;
- a program sends no `Origin` header. A page of another site, whose browser sends it, is refused: 403;
- bodies have the content type that is written here: others are refused, as forms of other sites can send these.

Nothing of a request is kept, written or logged. At most {MOST_WAITING} computations wait, {RATE:g} a second are taken
after the first {BURST:g}, and {MOST_UPLOADS} files are received or read at a time; beyond it is 429 or 503, and the
same request may be sent again in a moment. A body must arrive within {SECONDS_TO_SEND:g} s."""

ERRORS = {
    400: "The image cannot be read, a variable or a value is wrong, or the model is damaged.",
    403: "The request names another server, or comes from another site's page.",
    404: "There is no such model or format.",
    408: f"The body did not arrive within {SECONDS_TO_SEND:g} s.",
    413: "The body is too large.",
    415: "The body is of another content type.",
    422: "The body is no question, or the answer has no such file.",
    429: "Too many requests a second.",
    499: "The client left before its turn.",
    500: "An error of segcft itself.",
    503: "Too many computations or uploads at once.",
}
"""The statuses of what is not answered."""

_ALWAYS, _COMPUTES, _SENDS = (403, 500), (429, 499, 503), (408, 413, 415)


@dataclass(frozen=True)
class Example:
    """Of what the server answers: a model's name, the same question with the pixels of its grid and with a file, and
    the edges of a pixel in mm."""

    model: str
    asked: dict[str, Any]
    asked_of_file: dict[str, Any]
    edges: tuple[float, ...]


def example_of(catalogue: Catalogue) -> Example:
    """A question that the smallest model answers, about a picture that shows a ramp of grey.

    Raises:
        RunError: a part of the model is missing or damaged.
    """
    name = min(catalogue.runs, key=lambda one: math.prod(catalogue.runs[one].study.image.size))
    model = catalogue[name]
    image, variables = model.study.image, model.study.variables
    k, variable = next((k, one) for k, one in enumerate(variables) if not variables[one].derived)
    categories = variables[variable].categories
    value: float | str = categories[0] if categories else float(np.nanmedian(model.people[:, k].cpu().numpy()))
    shape = (image.channels, *image.size)
    pixels = (np.arange(math.prod(shape)) % 256).astype(np.uint8).reshape(shape)
    asked = {"model": name, "do": {variable: value}}
    file: dict[str, Any] = {"file": base64.b64encode(grid_file(pixels, image.spacing, None).content).decode()}
    if image.spacing is not None:
        file |= {"millimetres": list(image.spacing)}
    edges = image.spacing or (1.0,) * len(image.size)
    return Example(name, asked | {"pixels": encode(pixels)}, asked | file, edges)


def document(largest: int, example: Example) -> dict[str, Any]:
    """The document.

    Args:
        largest: bytes of a question about an image on a grid, at most.
        example: which it shows.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "segcft",
            "version": segcft.__version__,
            "summary": "Counterfactual medical images",
            "description": GUARD,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(largest, example),
        "components": {
            "schemas": SCHEMAS | {kind.__name__: kind.model_json_schema() for kind in (Asked, AskedOfFile)},
            "responses": {
                f"Error{status}": {"description": text, "content": _json(_ref("Error"))}
                for status, text in ERRORS.items()
            },
        },
    }


def _paths(largest: int, example: Example) -> Schema:
    model = _parameter("name", "path", "Of a model.", {"type": "string"}, example.model)
    question = _body("Asked", largest, example.asked)
    of_file = _body("AskedOfFile", most_asked(MOST_UPLOADED), example.asked_of_file)
    upload = {
        "description": f"A file's bytes: PNG, TIFF, JPEG, BMP, DICOM, NIfTI. At most {MOST_UPLOADED} bytes.",
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    of_model = _parameter("model", "query", "The model's name.", {"type": "string"}, example.model)
    size = "Height and width of a pixel (of a voxel depth, too) with commas between, where the file lacks them."
    edges = ",".join(map(str, example.edges))
    lengths = _parameter("millimetres", "query", size, {"type": "string"}, edges) | {"required": False}
    asked = [400, 404, 422, *_COMPUTES, *_SENDS]
    return {
        "/api/models": {"get": _operation("models", "Names and descriptions", _json(_all("Title")))},
        "/api/models/{name}": {
            "get": _operation(
                "model",
                "What can be asked of a model: variables with ranges, structures, examples",
                _json(_ref("Model")),
                [400, 404, *_COMPUTES],
                [model],
            )
        },
        "/api/upload": {
            "post": _operation(
                "upload",
                "A file's pixels on the model's grid, and what its header says of the person",
                _json(_ref("Uploaded")),
                asked,
                [of_model, lengths],
                upload,
            )
        },
        "/api/question": {
            "post": _operation(
                "question", "The answer on the model's grid", _json(_ref("Answer")), asked, body=question
            )
        },
        "/api/file/{format}": {
            "post": _operation(
                "file",
                "The answer on the model's grid as a file, which says that it is synthetic",
                _files(MEDIA),
                asked,
                [_format(MEDIA, "json")],
                question,
            )
        },
        "/api/full": {
            "post": _operation(
                "full",
                "The answer about a file in the file's own pixels",
                _json(_ref("WholeAnswer")),
                asked,
                body=of_file,
            )
        },
        "/api/full/{format}": {
            "post": _operation(
                "fullFile",
                "The same as a file: of a volume on its own grid, with its header and in its units (nii.gz)",
                _files(WHOLE),
                asked,
                [_format(WHOLE, next(suffix for suffix in WHOLE))],
                of_file,
            )
        },
        PLACE: {"get": _operation("openapi", "This document", _json({"type": "object"}), [400, *_COMPUTES])},
    }


def _operation(
    name: str,
    summary: str,
    content: Schema,
    errors: Iterable[int] = (),
    parameters: Iterable[Schema] = (),
    body: Schema | None = None,
) -> Schema:
    statuses = sorted({*errors, *_ALWAYS})
    responses: Schema = {"200": {"description": summary, "content": content}}
    responses |= {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in statuses}
    described = {"operationId": name, "summary": summary, "parameters": list(parameters), "responses": responses}
    return described if body is None else described | {"requestBody": body}


def _parameter(name: str, place: str, description: str, schema: Schema, example: str) -> Schema:
    described = {"name": name, "in": place, "description": description, "required": True}
    return described | {"schema": schema, "example": example}


def _format(formats: Iterable[str], example: str) -> Schema:
    text = "Of the file: of an image png or dcm, of a volume nii.gz; what a model has is told by its `formats`."
    return _parameter("format", "path", text, {"type": "string", "enum": list(formats)}, example)


def _body(schema: str, most: int, example: dict[str, Any]) -> Schema:
    content = {"application/json": {"schema": _ref(schema), "example": example}}
    return {"description": f"At most {most} bytes.", "required": True, "content": content}


def _files(formats: Iterable[str]) -> Schema:
    media = sorted({MEDIA[format] for format in formats})
    return {one: {"schema": {"type": "string", "format": "binary"}} for one in media}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _all(schema: str) -> Schema:
    return {"type": "array", "items": _ref(schema)}


def _ref(schema: str) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"}
