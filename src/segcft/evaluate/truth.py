"""True counterfactuals: what no data set has and every simulator knows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.grey import to_unit
from segcft.grid import Grid
from segcft.importers.simulated import CONFOUNDED, make_simulator, mask_order
from segcft.measures.area import Area
from segcft.measures.measure import ImageMeasure
from segcft.measures.measurements import Measurement, Measurements
from segcft.simulate.simulator import Simulator, Stretching, Zoned

TALLER, HEIGHTS = 0.5, 9
"""Structures are up to exp(0.5) times as tall as follows from their areas, and as much lower; at so many heights it is
looked whether they have the measure that is asked for."""
PRECISE = 1e-5
"""Of the logarithm of a height: less than a thousandth of a pixel."""
CLOSE = 1e-2
"""How far, of the change between two heights, the measure may be from what is wanted."""


class Drawn(NamedTuple):
    """``image`` (B, C, *size) in [-1, 1], ``mask`` (B, S, *size) in 0..1, both NaN where none can be drawn."""

    image: Tensor
    mask: Tensor


class Truth:
    """Draws the samples of a simulated store again under interventions, by the simulator's causal model."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.simulator, self.shortcut = make_simulator(study), make_simulator(study, confounded=True)
        self.order = mask_order(study, self.simulator)
        self.people = store.table["person"].to_numpy(dtype=np.int64)
        self.confounded = store.table[CONFOUNDED].to_numpy(dtype=bool) if CONFOUNDED in store.table else None

    @classmethod
    def of(cls, study: Study, store: Store) -> Truth | None:
        """The truth about the samples of ``store``, if a simulator drew them."""
        simulated = isinstance(study.data, SimulatedData) and "person" in store.table
        return cls(study, store) if simulated else None

    @cached_property
    def stretched(self) -> dict[str, tuple[str, Measurement]]:
        """Variables that no simulator has, and that are set by the height of one structure at the same area -> that
        structure, as the simulator calls it, and how the variable is measured."""
        if not isinstance(self.simulator, Stretching):
            return {}
        found = {}
        for one in Measurements.of(self.study).all:
            alone = len(one.channels) == 1 and not isinstance(one.measure, ImageMeasure)
            structure = self.simulator.structures[self.order[one.channels[0]]]
            # The height changes at the same area: of a whole that follows from its parts nobody says which area.
            held = self.study.variables.get(f"{structure}_{self.simulator.quantity}")
            if held is None or held.derived:
                continue
            if alone and one.variable not in self.simulator.variables and structure in self.simulator.stretches:
                found[one.variable] = (structure, one)
        return found

    @cached_property
    def zoned(self) -> dict[str, tuple[str, tuple[float, float]]]:
        """Variables that no simulator has, and that are the area of one structure in a part of the image along x ->
        that structure, as the simulator calls it, and the part."""
        if not isinstance(self.simulator, Zoned):
            return {}
        found = {}
        for one in Measurements.of(self.study).all:
            structure = self.simulator.structures[self.order[one.channels[0]]]
            zone, alone = one.zone, len(one.channels) == 1 and structure in self.simulator.zoned
            if alone and isinstance(one.measure, Area) and zone and (zone.axis, zone.of) == ("x", "frame"):
                found[one.variable] = (structure, (zone.begin, zone.end))
        return found

    def counterfactuals(self, rows: Tensor, do: Mapping[str, Tensor]) -> Drawn | None:
        """The samples in ``rows`` (B,) of the store under ``do``: variables and their values (B,) in the study's terms.

        The simulator refuses what it cannot draw, e.g. a heart that would leave the thorax: NaN. None where it cannot
        set one of the variables, as it only draws what is then measured.
        """
        if not do.keys() <= {*self.simulator.variables, *self.stretched, *self.zoned}:
            return None
        size = self.study.image.size
        image = torch.full((len(rows), self.simulator.channels, *size), torch.nan)
        mask = torch.full((len(rows), len(self.order), *size), torch.nan)
        for i, row in enumerate(rows.tolist()):
            wanted = {variable: self._outside(variable, float(values[i])) for variable, values in do.items()}
            try:
                pixels, cover = self._draw(row, wanted)
            except ValueError:
                continue
            image[i] = to_unit(torch.from_numpy(pixels)).reshape(image.shape[1:])
            mask[i] = torch.from_numpy(cover) / 255
        return Drawn(image.to(rows.device), mask.to(rows.device))

    def _outside(self, variable: str, value: float) -> float | str:
        """A value as the simulator takes it: categories by name."""
        categories = self.study.variables[variable].categories
        return categories[int(value)] if categories else value

    def _draw(self, row: int, do: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        person, simulator = int(self.people[row]), self._simulator(row)
        attributes = self.simulator.attributes(
            person, {name: value for name, value in do.items() if name in self.simulator.variables}
        )
        stretch: dict[str, float] = {}
        for name in do.keys() & self.stretched.keys():
            structure, one = self.stretched[name]
            if structure in stretch:
                raise ValueError(f"the height of {structure} cannot give several of its measures at once")
            stretch[structure] = self._stretch(person, attributes, structure, one, do[name])
        zones: dict[tuple[float, float], float] = {}
        for name in do.keys() & self.zoned.keys():
            structure, part = self.zoned[name]
            if f"{structure}_{simulator.quantity}" in do:
                raise ValueError(f"the area of {structure} follows from those of its parts")
            zones[part] = do[name]
        if stretch and isinstance(simulator, Stretching):
            image, masks = simulator.render(person, attributes, stretch)
        elif zones and isinstance(simulator, Zoned):
            image, masks = simulator.render(person, attributes, zones)
        else:
            image, masks = simulator.render(person, attributes)
        return image, masks[self.order]

    def _simulator(self, row: int) -> Simulator:
        """Who draws the sample in a row of the store: its shortcut is the person's, and stays."""
        confounded = self.confounded is not None and self.confounded[row]
        return self.shortcut if confounded else self.simulator

    def _stretch(
        self, person: int, attributes: Mapping[str, Any], structure: str, one: Measurement, wanted: float
    ) -> float:
        """How many times as tall a structure is whose measure is the one ``wanted``.

        Raises:
            ValueError: at no height that can be drawn.
        """
        assert isinstance(self.simulator, Stretching)
        simulator, grid = self.simulator, Grid.of(self.study.image)
        alone = Measurements(grid, (one._replace(channels=(0,)),), (structure,))

        def miss(log: float) -> float:
            cover = simulator.cover(person, attributes, structure, math.exp(log))
            return alone.exact(cover[None])[one.variable] - wanted

        known: list[tuple[float, float]] = []
        for log in np.linspace(-TALLER, TALLER, HEIGHTS):
            try:
                known.append((float(log), miss(float(log))))
            except ValueError:
                continue  # it would leave the frame
        found = [log for log, left in known if left == 0]
        for (low, first), (high, last) in itertools.pairwise(known):
            if first * last < 0:
                root = brentq(miss, low, high, xtol=PRECISE)
                # An angle jumps, and passes what is wanted without ever being it.
                found += [root] if abs(miss(root)) <= CLOSE * max(1.0, abs(last - first)) else []
        if not found:
            raise ValueError(f"{structure} has no height at which it is {wanted:g}")
        return math.exp(min(found, key=abs))  # the nearest to the height that it has
