"""Import of simulated subjects: the data set whose causal model and true counterfactuals are known."""

from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.data.shards import Shard
from segcft.data.splits import assign, expected_parts
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError
from segcft.grid import Grid
from segcft.simulate.people import person_id, person_number
from segcft.simulate.shortcut import Shortcut
from segcft.simulate.simulator import Simulator
from segcft.utils.progress import Progress

# What a study file calls a simulator -> its class, made with (size, pixel_area). Named, not imported, so that
# opening a data set does not load every simulator.
SIMULATORS = {
    "chest-simulator": "segcft.simulate.chest:ChestSimulator",
    "coronary-simulator": "segcft.simulate.coronary:CoronarySimulator",
    "pendulum-simulator": "segcft.simulate.pendulum:PendulumSimulator",
    "retina-simulator": "segcft.simulate.retina:RetinaSimulator",
    "volume-simulator": "segcft.simulate.volume:VolumeSimulator",
}


CONFOUNDED = "confounded"
"""Column of a store's table: whether the study's confounding holds of the subject, 1 or 0."""
CONFOUNDED_PARTS = ("train", "validation")
"""Whose subjects they are: all but those who judge and are judged."""


def make_simulator(study: Study, confounded: bool = False) -> Simulator:
    """The simulator of ``study.data``, on the study's grid; if ``confounded``, of people of whom its ``confounding``
    holds.

    Raises:
        DataError: it does not draw on such a grid, or cannot confound what it should.
    """
    assert isinstance(study.data, SimulatedData)
    module, _, name = SIMULATORS[study.data.source].partition(":")
    make = getattr(importlib.import_module(module), name)
    grid, takes = Grid.of(study.image), inspect.signature(make).parameters
    if "spacing" not in takes and not math.isclose(max(grid.pitch), min(grid.pitch), rel_tol=1e-6):
        pixel = f"{' x '.join(f'{edge:g}' for edge in grid.pitch)} {grid.length_unit}"
        why = f"{study.data.source} draws square pixels, not {pixel}"
        raise DataError(Code.UNSUPPORTED, "image.field_of_view", why)
    try:
        simulator: Simulator = make(
            grid.size, grid.cell_size, **({"spacing": grid.pitch} if "spacing" in takes else {})
        )
    except ValueError as error:
        raise DataError(Code.UNSUPPORTED, "image", f"{study.data.source}: {error}") from None
    if study.data.confounding is None or not confounded:
        return simulator
    if "shortcut" not in takes:
        raise DataError(Code.UNSUPPORTED, "data.confounding", f"{study.data.source} confounds nothing; leave it out")
    try:
        simulator = make(
            study.image.size, study.image.cell_size, shortcut=Shortcut(**study.data.confounding.model_dump())
        )
    except ValueError as error:
        raise DataError(Code.UNKNOWN, "data.confounding.variable", f"{study.data.source}: {error}") from None
    return simulator


def import_simulated(
    study: Study,
    out: str | Path,
    *,
    people: int | None = None,
    seed: int | None = None,
    split: str | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> Store:
    """Draw subjects from the simulator that ``study.data`` names and write them to the store ``out``.

    The subject with a given index is the same however many are drawn. The extra column ``person`` of the
    store's table is the number that the simulator knows the subject by, for the true counterfactual; of a study with
    ``confounding`` another one, :data:`CONFOUNDED`, says of whom it holds.

    Args:
        study: whose ``data`` is of a simulator.
        out: the store's folder; an older store there is replaced once the new one is complete.
        people, seed: in place of those in the study, e.g. another seed for subjects that no stage has seen.
        split: put every subject in this part.
        shard: draw this share of the subjects only; see :func:`segcft.data.shards.join`.
        progress: wraps the loop over subjects: ``progress(iterable, total, description) -> iterable``.

    Raises:
        DataError: the study has a variable or structure that the simulator does not, or a part is empty.
    """
    assert isinstance(study.data, SimulatedData)
    people = study.data.people if people is None else people
    seed = study.data.seed if seed is None else seed
    simulator, confounded = make_simulator(study), make_simulator(study, confounded=True)
    order, size = mask_order(study, simulator), (simulator.channels, *study.image.size)
    indices = range(people) if shard is None else shard.of(range(people))
    with StoreWriter(out, study, partial=shard is not None) as writer:
        for index in (progress or Progress())(indices, len(indices), "Simulating subjects"):
            id = person_id(seed, index)
            person = person_number(seed, index)
            attributes = simulator.attributes(person)
            part = split or assign(id, study.splits)
            extra: dict[str, int | float | str] = {"person": person}
            if study.data.confounding is not None:
                extra[CONFOUNDED] = int(part in CONFOUNDED_PARTS)
            try:
                image, masks = (confounded if extra.get(CONFOUNDED) else simulator).render(person, attributes)
            except ValueError as error:  # it would leave the frame
                raise DataError(Code.OUT_OF_RANGE, "image", f"{study.data.source}: subject {id}: {error}") from None
            try:
                writer.append(id, id, part, image.reshape(size), masks[order], attributes, extra)
            except ValueError as error:  # a variable of another kind, or with other categories
                raise DataError(Code.CONFLICT, "variables", f"{study.data.source}: {error}") from None
        parts = expected_parts(study.splits) if split is None else (split,)
        writer.check_parts(parts, study.data.source, "simulate more subjects, or change the seed or shares in 'splits'")
    return Store(out)


def mask_order(study: Study, simulator: Simulator) -> list[int]:
    """For each mask of the study, its place among the simulator's.

    Other structures (``of``) are measured from these, whatever of them is measured.

    Raises:
        DataError: the study has a variable, a structure or a measure that the simulator has not.
    """
    source = study.data.source
    if study.image.channels != simulator.channels:
        why = f"{source} draws images of channels: {simulator.channels}, not {study.image.channels}"
        raise DataError(Code.UNSUPPORTED, "image.channels", why)
    read = {structure.variable for structure in study.structures.values() if structure.of}
    for name, variable in study.variables.items():
        if name not in simulator.variables and name not in read and not variable.derived:
            raise DataError(Code.UNKNOWN, f"variables.{name}", f"{source} has only {', '.join(simulator.variables)}")
    areas = [f"{structure}_{simulator.quantity}" for structure in simulator.structures]
    for name, structure in study.own.items():
        if structure.variable not in areas:
            known = ", ".join(areas) or "none"
            raise DataError(Code.UNKNOWN, f"structures.{name}.variable", f"those of {source} are {known}")
        if structure.measure != "area":  # what is set is drawn as an area
            raise DataError(Code.UNSUPPORTED, f"structures.{name}.measure", f"{source} knows areas only")
    for name in study.masks:
        if name not in simulator.structures:
            raise DataError(Code.UNKNOWN, f"masks.{name}", f"{source} draws {', '.join(simulator.structures)}")
    drawn = list(simulator.structures)
    return [areas.index(study.own[name].variable) if name in study.own else drawn.index(name) for name in study.masked]
