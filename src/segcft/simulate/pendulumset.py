"""Simulated pendulums as a folder data set.

``images/ID.png``, which say in their PNG text that they are synthetic, and ``metadata.csv`` with the variables and the
number by which the simulator knows the sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segcft
from segcft.io.provenance import png_bytes
from segcft.simulate.pendulum import PendulumSimulator
from segcft.simulate.people import person_id, person_number
from segcft.simulate.studylines import lines_of
from segcft.utils.atomic import whole_folder, write_rows
from segcft.utils.progress import Progress


def study_lines() -> str:
    """The lines of a study file, YAML, by which the files of :func:`write_pendulums` are read."""
    return lines_of(PendulumSimulator.structures, PendulumSimulator.quantity, ".png")


def write_pendulums(
    out: Path, samples: int, *, seed: int = 0, size: tuple[int, int] = (96, 96), progress: Progress | None = None
) -> Path:
    """Write samples' images and variables; returns the table ``out/metadata.csv``.

    Args:
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        samples: how many.
        seed: of the population, as in a study's ``data.seed``.
        size: (H, W) in pixels.
        progress: wraps the loop over samples.

    Raises:
        DataError: ``out`` holds something.
        ValueError: the grid is too small.
    """
    simulator = PendulumSimulator(size)
    with whole_folder(out) as partial:
        rows: list[dict[str, Any]] = []
        (partial / "images").mkdir()
        for index in (progress or Progress())(range(samples), samples, "Simulating pendulums"):
            number, id = person_number(seed, index), person_id(seed, index)
            attributes = simulator.attributes(number)
            image, _ = simulator.render(number, attributes)
            record = {"segcft": segcft.__version__, "simulator": "pendulum-simulator", "person": number} | attributes
            (partial / "images" / f"{id}.png").write_bytes(png_bytes(image[None], record))
            rows.append({"id": id, "person": number, **{k: f"{float(v):.6g}" for k, v in attributes.items()}})
        write_rows(partial / "metadata.csv", rows)
    return out / "metadata.csv"
