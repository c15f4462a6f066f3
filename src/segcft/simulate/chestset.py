"""Simulated chest radiographs as a folder data set: natural, confounded by selection, or with a variable randomised.

``images/ID.png``, which say in their PNG text that they are synthetic, a mask of each structure,
``masks/ID_STRUCTURE.png``, whose grey is coverage, and ``metadata.csv`` with the attributes, areas among them, and the
number by which the simulator knows the person.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import segcft
from segcft.errors import Code, DataError
from segcft.io.provenance import png_bytes
from segcft.simulate.chest import Attributes, ChestSimulator
from segcft.simulate.people import person_id, person_number
from segcft.simulate.studylines import lines_of
from segcft.utils.atomic import whole_folder, write_rows
from segcft.utils.progress import Progress

CANDIDATES = 2000
"""How many natural people the median is of by which a selection goes."""


class Confounding(NamedTuple):
    """People whose ``variable`` does not go with their sex, men below and women above the median of all people, are
    kept with probability ``share`` only; all others are kept. So a hospital may see its people."""

    variable: str
    share: float


class Person(NamedTuple):
    """One simulated person: an id, the simulator's number and the attributes."""

    id: str
    number: int
    attributes: Attributes


def population(
    simulator: ChestSimulator,
    seed: int,
    confounding: Confounding | None = None,
    randomise: str | None = None,
) -> Iterator[Person]:
    """People without end, always the same of one ``seed``.

    Args:
        simulator: gives the areas their unit.
        seed: of the population, as in a study's ``data.seed``.
        confounding: how people are selected.
        randomise: a variable that is set, do(), to that of another, unselected person, so that it has the natural
            distribution and depends on nothing else, neither sex nor age.

    Raises:
        DataError: a variable is not one of the simulator's numbers.
    """
    numbers = [name for name in simulator.variables if name != "sex"]
    for name in (confounding.variable if confounding else None, randomise):
        if name is not None and name not in numbers:
            raise DataError(Code.INVALID, name, f"not a number of the chest simulator ({', '.join(numbers)})")
    return _draw(simulator, seed, confounding, randomise)


def _draw(
    simulator: ChestSimulator, seed: int, confounding: Confounding | None, randomise: str | None
) -> Iterator[Person]:
    random = np.random.default_rng(seed)
    median = 0.0
    if confounding:
        first = (simulator.attributes(person_number(seed, i)) for i in range(CANDIDATES))
        median = float(np.median([float(attributes[confounding.variable]) for attributes in first]))
    for index in itertools.count():
        number = person_number(seed, index)
        attributes = simulator.attributes(number)
        if confounding:
            concordant = (attributes["sex"] == "M") == (float(attributes[confounding.variable]) > median)
            if random.random() >= confounding.share and not concordant:
                continue
        if randomise:
            other = person_number(seed, int(random.integers(2**40, 2**41)))  # nobody that is drawn by itself
            attributes = simulator.attributes(number, {randomise: simulator.attributes(other)[randomise]})
        yield Person(person_id(seed, index), number, attributes)


def study_lines() -> str:
    """The lines of a study file, YAML, by which the files of :func:`write_chest` are read."""
    return lines_of(ChestSimulator.structures, "area", ".png")


def write_chest(
    out: Path,
    people: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    confounding: Confounding | None = None,
    randomise: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write people's radiographs, masks and attributes; returns the table ``out/metadata.csv``.

    Args:
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        people: how many, after the selection.
        size: (H, W) in pixels, which the areas in the table are counted in.
        seed, confounding, randomise: see :func:`population`.
        progress: wraps the loop over people.

    Raises:
        DataError: ``out`` holds something, or see :func:`population`.
    """
    with whole_folder(out) as partial:
        simulator = ChestSimulator(size)
        drawn = itertools.islice(population(simulator, seed, confounding, randomise), people)
        rows: list[dict[str, Any]] = []
        for folder in ("images", "masks"):
            (partial / folder).mkdir()
        for person in (progress or Progress())(drawn, people, "Simulating radiographs"):
            image, masks = simulator.render(person.number, person.attributes)
            record = {"segcft": segcft.__version__, "simulator": "chest-simulator", "person": person.number}
            content = png_bytes(image[None], record | person.attributes)
            (partial / "images" / f"{person.id}.png").write_bytes(content)
            for structure, mask in zip(simulator.structures, masks, strict=True):
                Image.fromarray(mask).save(partial / "masks" / f"{person.id}_{structure}.png")
            numbers = {k: v if isinstance(v, str) else f"{v:.6g}" for k, v in person.attributes.items()}
            rows.append({"id": person.id, "person": person.number, **numbers})
        write_rows(partial / "metadata.csv", rows)
    return out / "metadata.csv"
