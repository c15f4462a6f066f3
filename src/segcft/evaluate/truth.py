"""True counterfactuals: what no data set has and every simulator knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.grey import to_unit
from segcft.importers.simulated import make_simulator, mask_order


class Drawn(NamedTuple):
    """``image`` (B, C, H, W) in [-1, 1], ``mask`` (B, S, H, W) in 0..1, both NaN where none can be drawn."""

    image: Tensor
    mask: Tensor


class Truth:
    """Draws the samples of a simulated store again under interventions, by the simulator's causal model."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.simulator = make_simulator(study)
        self.order = mask_order(study, self.simulator)
        self.people = store.table["person"].to_numpy(dtype=np.int64)

    @classmethod
    def of(cls, study: Study, store: Store) -> Truth | None:
        """The truth about the samples of ``store``, if a simulator drew them."""
        simulated = isinstance(study.data, SimulatedData) and "person" in store.table
        return cls(study, store) if simulated else None

    def settable(self, do: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of ``do`` the simulator can set; the rest it draws, and it is then measured."""
        return {name: values for name, values in do.items() if name in self.simulator.variables}

    def counterfactuals(self, rows: Tensor, do: Mapping[str, Tensor]) -> Drawn | None:
        """The samples in ``rows`` (B,) of the store under ``do``: variables and their values (B,) in the study's terms.

        The simulator refuses what it cannot draw, e.g. a heart that would leave the thorax: NaN. None where it cannot
        set one of the variables, as it only draws what is then measured.
        """
        if self.settable(do).keys() != do.keys():
            return None
        size = self.study.image.size
        image = torch.full((len(rows), 1, *size), torch.nan)
        mask = torch.full((len(rows), len(self.order), *size), torch.nan)
        for i, row in enumerate(rows.tolist()):
            wanted = {variable: self._outside(variable, float(values[i])) for variable, values in do.items()}
            try:
                grey, cover = self._draw(int(self.people[row]), wanted)
            except ValueError:
                continue
            image[i, 0], mask[i] = to_unit(torch.from_numpy(grey)), torch.from_numpy(cover) / 255
        return Drawn(image.to(rows.device), mask.to(rows.device))

    def _outside(self, variable: str, value: float) -> float | str:
        """A value as the simulator takes it: categories by name."""
        categories = self.study.variables[variable].categories
        return categories[int(value)] if categories else value

    def _draw(self, person: int, do: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        image, masks = self.simulator.render(person, self.simulator.attributes(person, do))
        return image, masks[self.order]
