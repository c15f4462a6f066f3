"""What the page's server answers, as JSON Schema: for programs that ask it, by :mod:`segcft.app.openapi`.

Every object has its names written out and no others, so that a test sees it where an answer changes and this does not.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
NUMBERS: Schema = {"type": "array", "items": NUMBER}
COUNTS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 1}}
FLAG: Schema = {"type": "boolean"}
VALUES: Schema = {"type": "object", "additionalProperties": {"type": ["number", "string"]}}


def of(schema: Schema, description: str) -> Schema:
    """A schema with what it means."""
    return schema | {"description": description}


def maybe(schema: Schema) -> Schema:
    """What may be null."""
    return schema | {"type": [schema["type"], "null"]}


def every(schema: Schema) -> Schema:
    """A list of these."""
    return {"type": "array", "items": schema}


def named(schema: Schema) -> Schema:
    """Such a value of every name."""
    return {"type": "object", "additionalProperties": schema}


def has(properties: Schema, further: Schema | None = None) -> Schema:
    """An object with these ``properties``, and perhaps with ``further`` ones; and with no others."""
    return {
        "type": "object",
        "properties": properties | (further or {}),
        "required": list(properties),
        "additionalProperties": False,
    }


PIXELS = of(TEXT, "Base64 of bytes: rows, in them columns, in them channels; of a volume slices come first.")
LEVELS = of(TEXT, "Base64 of float32, least significant byte first, in grey levels, in the order of pixels.")
RECORD = of(
    {"type": "object", "required": ["do", "variables", "warnings"]},
    "What was asked, inferred and obtained: the content of `counterfactual.json`. Of every one of `variables` "
    "it has `before` and `after`, and of measured ones `obtained`, as the judge reads it from the answer.",
)

ERROR = has({"error": of(TEXT, "What is wrong, for a person to read. It names the part of the request.")})
TITLE = has({"name": TEXT, "description": TEXT})
VARIABLE = has(
    {
        "name": TEXT,
        "label": of(TEXT, "The name for people."),
        "parents": of(every(TEXT), "What it depends on."),
        "categories": of(every(TEXT), "Its values; of a number none."),
        "unit": TEXT,
        "isMeasured": of(FLAG, "It is read from the image."),
        "isRatio": FLAG,
        "isDerived": of(FLAG, "It follows from its parents by a formula."),
        "of": of(TEXT, "The variable beside whose slider its own is; empty of most."),
    },
    {
        "low": of(NUMBER, "The least value of training people; numbers alone have it, and what follows."),
        "high": of(NUMBER, "The largest one."),
        "central": of(NUMBERS, "Their 5th and 95th percentile."),
        "least": of(maybe(NUMBER), "Below it the variable cannot be; null: nothing is known."),
        "mayBeZero": FLAG,
    },
)
STRUCTURE = has(
    {"name": TEXT, "label": TEXT, "variable": of(TEXT, "Its own, empty where it has none."), "colour": TEXT}
)
EXAMPLE = has({"label": TEXT, "pixels": PIXELS, "known": VALUES})
MODEL = has(
    {
        "name": TEXT,
        "study": TEXT,
        "description": TEXT,
        "size": of(COUNTS, "Height and width of the picture: the grid, or three planes of it."),
        "volume": of(
            {"anyOf": [has({"size": COUNTS, "shown": COUNTS}), {"type": "null"}]},
            "Of a model of volumes the grid, depth, height and width. Arrays go from feet to head, from front to back "
            "and from the patient's right to the left.",
        ),
        "formats": of(every(TEXT), "Of files of answers on the grid."),
        "channels": {"type": "integer", "minimum": 1},
        "sized": of(FLAG, "Whether an image must say how large it is, or the question does."),
        "aspect": of(NUMBER, "Width by height of the picture."),
        "wide": FLAG,
        "methods": every(has({"name": TEXT, "label": TEXT})),
        "variables": every({"$ref": "#/components/schemas/Variable"}),
        "structures": of(every(STRUCTURE), "In the order of masks."),
        "graph": of({"type": "object"}, "Where the page draws boxes and arrows."),
        "examples": every(EXAMPLE),
    }
)
UPLOADED = has({"pixels": PIXELS, "known": of(VALUES, "What a DICOM header says of the person.")})
ANSWER = has(
    {
        "image": PIXELS,
        "draws": every(PIXELS),
        "spread": of(maybe(LEVELS), "Standard deviation of the draws."),
        "band": of(maybe(LEVELS), "Half-width of the band of 90 %."),
        "record": RECORD,
    },
    {
        "outlines": of(
            named(has({"before": every(NUMBERS), "after": every(NUMBERS)})),
            "Of an image: lines x0, y0, x1, y1, ... in pixels of the grid.",
        ),
        "masks": of(
            named(has({"before": TEXT, "after": TEXT})),
            "Of a volume: base64 of the grid's voxels, eight in a byte, the first one the highest bit.",
        ),
    },
)
WHOLE = has(
    {
        "size": of(
            maybe(COUNTS), "Height and width of the file's image, of a volume depth, too; null: nothing is asked."
        ),
        "image": of(
            maybe(PIXELS), "The counterfactual in the file's own pixels, as it is seen; null: nothing is asked."
        ),
        "record": RECORD,
    }
)

# By their names in the document.
SCHEMAS: dict[str, Schema] = {
    "Error": ERROR,
    "Title": TITLE,
    "Variable": VARIABLE,
    "Model": MODEL,
    "Uploaded": UPLOADED,
    "Answer": ANSWER,
    "WholeAnswer": WHOLE,
}
