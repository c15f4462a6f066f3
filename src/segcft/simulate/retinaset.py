"""Simulated photographs of retinas as a folder data set, as they are or as they would be under a do().

``images/ID.png`` in colour, which say in their PNG text that they are synthetic, a mask of disc and of cup,
``masks/ID_STRUCTURE.png``, whose grey is coverage, and ``metadata.csv`` with the variables and the number by which the
simulator knows the person.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

import segcft
from segcft.io.provenance import png_bytes
from segcft.simulate.people import person_id, person_number
from segcft.simulate.retina import RetinaSimulator
from segcft.simulate.studylines import lines_of
from segcft.utils.atomic import whole_folder, write_rows
from segcft.utils.progress import Progress

NOTHING: Mapping[str, float | str] = {}


def study_lines() -> str:
    """The lines of a study file, YAML, by which the files of :func:`write_retinas` are read."""
    return lines_of(RetinaSimulator.structures, RetinaSimulator.quantity, ".png")


def write_retinas(
    out: Path,
    people: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (96, 96),
    do: Mapping[str, float | str] = NOTHING,
    progress: Progress | None = None,
) -> Path:
    """Write people's photographs, masks and variables; returns the table ``out/metadata.csv``.

    Args:
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        people: how many.
        seed: of the population, as in a study's ``data.seed``.
        size: (H, W) in pixels, which the areas in the table are counted in.
        do: variables that are set, for true counterfactuals: file by file of the same people as without.
        progress: wraps the loop over people.

    Raises:
        DataError: ``out`` holds something.
        InterventionError: a variable is unknown, or a person cannot be drawn under ``do``.
        ValueError: the grid is too small.
    """
    simulator = RetinaSimulator(size)
    with whole_folder(out) as partial:
        rows: list[dict[str, Any]] = []
        for folder in ("images", "masks"):
            (partial / folder).mkdir()
        for index in (progress or Progress())(range(people), people, "Simulating retinas"):
            number, id = person_number(seed, index), person_id(seed, index)
            attributes, image, masks = simulator.counterfactual(number, do)
            record = {"segcft": segcft.__version__, "simulator": "retina-simulator", "person": number} | attributes
            (partial / "images" / f"{id}.png").write_bytes(png_bytes(image, record | ({"do": dict(do)} if do else {})))
            for structure, mask in zip(simulator.structures, masks, strict=True):
                Image.fromarray(mask).save(partial / "masks" / f"{id}_{structure}.png")
            numbers = {k: v if isinstance(v, str) else f"{v:.6g}" for k, v in attributes.items()}
            rows.append({"id": id, "person": number, **numbers})
        write_rows(partial / "metadata.csv", rows)
    return out / "metadata.csv"
