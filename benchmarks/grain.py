"""What noise that stays in the frame is worth: ``python -m benchmarks.grain MODEL``, of a model of simulated images.

People whom nobody has seen are asked what they would look like with more and with less of each structure. Noise is told
into texture, which moves, and grain, which stays, by Gaussians of several widths (``hvae.grain``; with 0 all of it is
texture), and texture moves everywhere or where the expected image changes (``hvae.noise_moves``); nothing is trained
again. Printed is how far answers are from the simulator's truth, near the structures that
truly change and elsewhere, in grey levels and as a share of no change, and how far the structure is from the area that
was asked for, as the model's judge reads it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.api.model import Model
from segcft.config.mechanisms import HVAESpec
from segcft.config.sources import SimulatedData
from segcft.config.structure import Structure
from segcft.evaluate.locality import changed_region
from segcft.evaluate.table import grid
from segcft.grid import Grid
from segcft.importers.simulated import make_simulator
from segcft.simulate.noise import UndrawableError
from segcft.simulate.people import person_number
from segcft.utils.progress import ConsoleProgress

SEED = 2026
"""Of people whom no study has."""

FACTORS = (0.85, 1.15)
"""Of the area or volume that is set."""

AREA = Structure.model_fields["measure"].default
"""The measure whose variables are set; of volumes it is the volume."""

GRAINS = (0.0, 0.5, 0.7, 1.0)

MOVES: tuple[str, ...] = get_args(HVAESpec.model_fields["noise_moves"].annotation)


class Asked(NamedTuple):
    """The variable that is set, and the settings with which it is answered."""

    variable: str
    moves: str
    grain: float


class Question(NamedTuple):
    """A person's image (*size) or (C, *size), what is known of them, what is set, the true image, and where (*size) is
    near what truly changes."""

    image: NDArray[np.uint8]
    known: dict[str, float | str]
    variable: str
    value: float
    truth: NDArray[np.uint8]
    near: NDArray[np.bool_]


def questions(model: Model, people: int) -> Iterator[Question]:
    """Of so many people, each structure larger and smaller; what is absent or cannot be drawn, and areas of which the
    simulator has no variable, are left out."""
    study, simulator = model.study, make_simulator(model.study)
    radius = Grid.of(study.image).radius(study.evaluation.dilation)
    areas = [structure.variable for structure in study.structures.values() if structure.measure == AREA]
    for index in range(people):
        person = person_number(SEED, index)
        known = simulator.attributes(person)
        image, masks = simulator.render(person, known)
        for variable in [name for name in areas if float(known.get(name, 0)) > 0]:
            for factor in FACTORS:
                value = factor * float(known[variable])
                try:
                    truth, after = simulator.render(person, simulator.attributes(person, {variable: value}))
                except UndrawableError:
                    continue
                before, behind = (torch.from_numpy(one > 127)[None] for one in (masks, after))
                near = changed_region(before, behind, radius)[0].numpy()
                told = {name: given for name, given in known.items() if name in {*study.measured, *study.attributes}}
                yield Question(image, told, variable, value, truth, near)


def errors(model: Model, question: Question) -> list[float]:
    """Of an answer: the error near, that of no change there, the error elsewhere, and that of the area, in %."""
    do = {question.variable: question.value}
    # A tensor has its colours first, as the simulator's images have.
    answer = model.counterfactual(torch.from_numpy(question.image), question.known, do, draws=0)
    mine, none = (
        np.abs(image.reshape(question.truth.shape).astype(float) - question.truth)
        for image in (answer.image, question.image)
    )
    regions = ((mine, question.near), (none, question.near), (mine, ~question.near))
    grey = [float(miss[..., region].mean()) for miss, region in regions]
    return [*grey, 100 * abs(answer.areas[question.variable] / question.value - 1)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grain", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a published model of simulated images, or a run")
    parser.add_argument("--people", type=int, default=40, metavar="N")
    parser.add_argument("--grains", type=float, nargs="+", default=GRAINS, metavar="PX")
    options = parser.parse_args(arguments)
    print(render(measured(Model(options.model), options.people, options.grains)))


def measured(model: Model, people: int, grains: Sequence[float]) -> dict[Asked, NDArray[np.float64]]:
    """The errors of all questions, (questions, 4)."""
    mechanism = model.model_of(None)[1].mechanism
    own = mechanism.spec
    if not isinstance(own, HVAESpec) or not own.warp or not own.diffeomorphic:
        raise SystemExit("no noise moves in this model: hvae.grain is of displacements that cannot fold")
    if not isinstance(model.study.data, SimulatedData):
        raise SystemExit("the truth is known of simulated images alone")
    specs = {
        (moves, grain): HVAESpec.model_validate(own.model_dump() | {"noise_moves": moves, "grain": grain})
        for moves in MOVES
        for grain in grains
    }
    asked = list(questions(model, people))
    found: dict[Asked, list[list[float]]] = {}
    for question in ConsoleProgress()(asked, len(asked), "asking"):
        for settings, spec in specs.items():
            mechanism.spec = spec
            found.setdefault(Asked(question.variable, *settings), []).append(errors(model, question))
    mechanism.spec = own
    return {key: np.array(rows) for key, rows in found.items()}


def render(found: dict[Asked, NDArray[np.float64]]) -> str:
    """A table in Markdown."""
    body = []
    for asked, rows in sorted(found.items()):
        near, none, away, area = rows.mean(axis=0)
        numbers = [f"{near:.2f}", f"{near / none:.2f}", f"{away:.2f}", f"{area:.1f}", str(len(rows))]
        body.append([f"do({asked.variable})", asked.moves, f"{asked.grain:g}", *numbers])
    head = [
        "",
        "noise moves",
        "grain, px",
        "error near, grey levels",
        "of no change",
        "error elsewhere",
        "area missed, %",
        "answers",
    ]
    return grid(head, body, labels=2)


if __name__ == "__main__":
    main()
