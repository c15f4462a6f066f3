"""The page of a blinded study: one file that loads nothing, with all images, and a table of answers to save."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import segcft
from segcft.evaluate.blinded import LEVELS
from segcft.pipeline.blinded import Blinded
from segcft.report.pictures import data_uri


def render_blinded(blinded: Blinded) -> str:
    """The page of a study, in HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: only pages need them

    environment = Environment(
        loader=PackageLoader("segcft.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = environment.loader.get_source(environment, "blinded.js")[0] if environment.loader else ""
    return environment.get_template("blinded.html").render(
        study=blinded.study,
        version=segcft.__version__,
        pictures=[(code, data_uri(png)) for code, png in blinded.pictures.items()],
        count=len(blinded.pictures),
        simulated=blinded.simulated,
        levels=LEVELS,
        script=script,
        digest=b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
